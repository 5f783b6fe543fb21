"""The transfer function of sRGB (IEC 61966-2-1): between what is stored and linear light."""

import torch
from torch import Tensor


def to_linear(images: Tensor) -> Tensor:
    """Convert sRGB values in [0, 1] to linear light in [0, 1]; values below 0 stay on a line."""
    curve = ((images.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(images <= 0.04045, images / 12.92, curve)


def to_srgb(images: Tensor) -> Tensor:
    """Convert linear light in [0, 1] to sRGB values in [0, 1]; the inverse of `to_linear`."""
    curve = 1.055 * images.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(images <= 0.0031308, 12.92 * images, curve)
