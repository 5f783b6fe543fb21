"""Bicubic interpolation that reproduces MATLAB's `imresize`, also as a network.

The kernel is Keys' cubic convolution with a = -0.5 ("Cubic Convolution Interpolation for Digital
Image Processing", IEEE TASSP 1981), widened when shrinking (anti-aliasing), with mirrored borders.
MATLAB resizes the height first and rounds an 8-bit image to 8 bits between the two passes; without
that rounding, one pixel in eight of the published low-resolution images differs.

Shape suffixes: C channels, H and W height and width, O output length, T taps of the kernel.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from networks.scales import check_scale


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate Keys' kernel with a = -0.5; it is zero outside [-2, 2]."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


BLOCK = 1 << 18  # values resized at a time: 2 MB in float64, which caches hold
REACH = 2  # source pixels on each side that an upscaled pixel depends on


@lru_cache(maxsize=64)
def contributions(
    length: int, out_length: int, factor: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Compute the weights and source positions for all output pixels along one dimension.

    Args:
        length: size of the source in pixels.
        out_length: size of the output in pixels.
        factor: output pixels per source pixel; below 1 the kernel is widened by its inverse.

    Returns:
        `weight_OT` (float64, rows sum to 1) and `index_OT` (int64, mirrored at the borders).
    """
    stretch = min(factor, 1.0)
    width = 4.0 / stretch
    center_O = (np.arange(out_length) + 1) / factor + 0.5 * (1 - 1 / factor)  # 1-based, as MATLAB
    left_O = np.floor(center_O - width / 2)
    index_OT = left_O[:, None] + np.arange(int(np.ceil(width)) + 2)
    weight_OT = stretch * cubic(stretch * (center_O[:, None] - index_OT))
    weight_OT /= weight_OT.sum(axis=1, keepdims=True)
    mirror = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    index_OT = mirror[(index_OT.astype(np.int64) - 1) % (2 * length)]
    used_T = np.any(weight_OT != 0, axis=0)
    # Cached as arrays: tensors made in inference mode could not be used in training later.
    return weight_OT[:, used_T], index_OT[:, used_T]


def resize_rows(x_HN: Tensor, out_length: int, factor: float) -> Tensor:
    """Resize the first dimension of an H x N uint8 tensor, rounding to 8 bits."""
    weight_OT, index_OT = contributions(len(x_HN), out_length, factor)
    weight_TO1 = torch.tensor(weight_OT.T[..., None], device=x_HN.device)
    index_TO = torch.tensor(index_OT.T, device=x_HN.device)
    parts = []
    for part in torch.split(x_HN, max(1, BLOCK // len(x_HN)), dim=1):
        exact = part.double()
        # The order of the sum decides the last bit, and that decides halves.
        out = torch.zeros(out_length, exact.shape[1], dtype=exact.dtype, device=exact.device)
        for weight_O1, index_O in zip(weight_TO1, index_TO, strict=True):
            out += exact.index_select(0, index_O).mul_(weight_O1)
        # MATLAB rounds halves away from zero; negative values become 0 anyway.
        parts.append(out.add_(0.5).clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts, dim=1)


def imresize(image: Tensor, factor: float) -> Tensor:
    """Resize 8-bit images, bit-identical to MATLAB's `imresize(image, factor, "bicubic")`.

    Args:
        image: uint8, `... x H x W`.
        factor: output pixels per input pixel.

    Returns:
        uint8, `... x ceil(factor*H) x ceil(factor*W)`.
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"imresize takes 8-bit images, not {image.dtype}")
    out = image
    for _ in ("height", "width"):
        rows = out.movedim(-2, 0)
        # The epsilon keeps 1/3 * 300 = 100.00000000000001 from becoming 101 pixels.
        out_length = int(np.ceil(len(rows) * factor - 1e-9))
        resized = resize_rows(rows.flatten(1), out_length, factor)
        out = resized.view(out_length, *rows.shape[1:]).movedim(0, -1)
    return out.contiguous()


@lru_cache
def phase_filters(scale: int) -> NDArray[np.float64]:
    """Compute one filter over 5 LR pixels for each of the `scale` pixels made from an LR pixel."""
    weight_OT, index_OT = contributions(9, 9 * scale, scale)
    filters = np.zeros((scale, 2 * REACH + 1))
    for phase in range(scale):
        o = 4 * scale + phase  # from the middle pixel, far from the borders
        np.add.at(filters[phase], index_OT[o] - 4 + REACH, weight_OT[o])
    return filters


def upscale(image_BCHW: Tensor, scale: int) -> Tensor:
    """Upscale images like `imresize`, but differentiably, in float32 and without rounding.

    A single convolution computes the `scale` x `scale` pixels of each LR pixel as channels. It is
    the same at every position and size, so that it can be tiled, compiled and exported.

    Args:
        image_BCHW: floating point, any range; the memory format is kept.
        scale: integer factor; 1 returns the image unchanged.
    """
    if scale == 1:
        return image_BCHW
    channels = image_BCHW.shape[1]
    filters = torch.tensor(np.einsum("ak,bl->abkl", phase_filters(scale), phase_filters(scale)))
    weight = filters.flatten(0, 1)[:, None].repeat(channels, 1, 1, 1).to(image_BCHW.device).float()
    with torch.autocast(image_BCHW.device.type, enabled=False):
        x = image_BCHW.float()
        for dim in (2, 3):  # mirror the borders, including the outermost pixel
            if x.shape[dim] == 1:  # there is no second pixel to mirror
                x = x.repeat_interleave(2 * REACH + 1, dim)
                continue
            first, last = x.narrow(dim, 0, REACH), x.narrow(dim, x.shape[dim] - REACH, REACH)
            x = torch.cat([first.flip(dim), x, last.flip(dim)], dim)
        out = F.pixel_shuffle(F.conv2d(x, weight, groups=channels), scale)
    channels_last = image_BCHW.is_contiguous(memory_format=torch.channels_last)
    return out.contiguous(memory_format=torch.channels_last) if channels_last else out


class Upscale(nn.Module):
    """`upscale` as a network; `margin` is how many LR pixels an output pixel sees on each side."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.margin = REACH

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Map B x C x H x W to B x C x scale*H x scale*W."""
        return upscale(image_BCHW, self.scale)


class Bicubic(nn.Module):
    """MATLAB's bicubic upscaling as a network without parameters: the usual baseline.

    Works in 8 bits, as the published baselines do, and is therefore not differentiable.

    Args:
        scale: 1, 2, 3 or 4; 1 returns the image unchanged.

    Attributes:
        margin: LR pixels on each side that an output pixel depends on.
    """

    def __init__(self, scale: int = 2) -> None:
        super().__init__()
        check_scale(self, scale)
        self.scale = scale
        self.margin = REACH if scale > 1 else 0

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, in steps of 1/255."""
        lr_u8 = (lr_BCHW * 255.0).round().clamp(0, 255).to(torch.uint8)
        return imresize(lr_u8, self.scale).float() / 255.0
