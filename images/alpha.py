"""Fill in colours under transparency, so that they do not bleed into visible pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

INVISIBLE = 1 / 32  # share of the largest alpha; colours below it may be arbitrary
REACH = 2  # pixels around an edge that bicubic upscaling of the alpha channel makes visible


def fill_hidden(pixels_CHW: Tensor, alpha_1HW: Tensor) -> Tensor:
    """Replace the colours of invisible pixels by those of visible pixels around them.

    Fully transparent pixels can have any colour, often black. A network would draw an edge there,
    which shows as a halo where the upscaled alpha channel is not quite transparent.

    Args:
        pixels_CHW: colours, integers.
        alpha_1HW: alpha channel, in the same range.

    Returns:
        Pixels of the same type; visible pixels are unchanged.
    """
    floor = float(alpha_1HW.max()) * INVISIBLE
    weight_11HW = torch.where(alpha_1HW > floor, alpha_1HW, 0).float()[None]
    if weight_11HW.min() > 0 or weight_11HW.max() == 0:
        return pixels_CHW
    visible_1HW = weight_11HW[0] > 0
    color_1CHW = pixels_CHW.float()[None]
    for _ in range(REACH):
        color_1CHW, weight_11HW = spread_colors(color_1CHW, weight_11HW)
    filled_CHW = fill_from_coarser(color_1CHW, weight_11HW)[0].round().to(pixels_CHW.dtype)
    return torch.where(visible_1HW, pixels_CHW, filled_CHW)


def spread_colors(color_1CHW: Tensor, weight_11HW: Tensor) -> tuple[Tensor, Tensor]:
    """Give pixels without weight the weighted mean of their neighbours, and their weight."""
    near_11HW = F.avg_pool2d(weight_11HW, 3, 1, 1)
    mean_1CHW = F.avg_pool2d(color_1CHW * weight_11HW, 3, 1, 1) / near_11HW.clamp(min=1e-6)
    empty_11HW = weight_11HW == 0
    color_1CHW = torch.where(empty_11HW, mean_1CHW, color_1CHW)
    return color_1CHW, torch.where(empty_11HW, near_11HW, weight_11HW)


def fill_from_coarser(color_1CHW: Tensor, weight_11HW: Tensor) -> Tensor:
    """Give pixels without weight the colour of a coarser image, recursively (push-pull)."""
    if weight_11HW.min() > 0:
        return color_1CHW
    height, width = weight_11HW.shape[2:]
    half_11HW = F.avg_pool2d(weight_11HW, 2, ceil_mode=True)
    half_1CHW = F.avg_pool2d(color_1CHW * weight_11HW, 2, ceil_mode=True)
    coarse_1CHW = fill_from_coarser(half_1CHW / half_11HW.clamp(min=1e-6), half_11HW)
    up_1CHW = F.interpolate(coarse_1CHW, scale_factor=2, mode="nearest")[..., :height, :width]
    return torch.where(weight_11HW > 0, color_1CHW, up_1CHW)
