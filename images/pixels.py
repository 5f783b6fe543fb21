"""Image arrays and tensors: uint8 in files and loaders, float32 in [0, 1] at the networks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """H x W x 3 array to 3 x H x W tensor."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()


def to_array(image: Tensor) -> NDArray[np.uint8]:
    """3 x H x W tensor to H x W x 3 array."""
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def to_unit(image: Tensor) -> Tensor:
    """uint8 to float32 in [0, 1]."""
    assert image.dtype == torch.uint8
    return image.float().div_(255.0)  # in place: another 7 MB for each batch cost more than this


def to_bytes(image: Tensor) -> Tensor:
    """Float in [0, 1], clamped and rounded, to uint8."""
    return (image * 255.0).round().clamp(0, 255).to(torch.uint8)
