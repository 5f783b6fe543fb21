"""Convert images: uint8 arrays in files and loaders, float32 tensors in [0, 1] at the networks."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """Convert an H x W x 3 array to a 3 x H x W tensor."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()


def to_array(image: Tensor) -> NDArray[np.uint8]:
    """Convert a 3 x H x W tensor to an H x W x 3 array."""
    return np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy())


def to_unit(image: Tensor) -> Tensor:
    """Convert uint8 to float32 in [0, 1]."""
    assert image.dtype == torch.uint8
    return image.float().div_(255.0)  # in place: allocating 7 MB per batch takes longer


def to_bytes(image: Tensor) -> Tensor:
    """Convert float in [0, 1] to uint8, rounded and clamped."""
    return (image * 255.0).round().clamp(0, 255).to(torch.uint8)
