"""Colour under transparency: what nobody sees must not bleed into what is seen when enlarged."""

import torch
import torch.nn.functional as F
from torch import Tensor

INVISIBLE = 1 / 32  # of the largest alpha: editors leave such colours as they happen to be
REACH = 2  # pixels that bicubic enlarging of the alpha channel makes visible around an edge


def fill_hidden(pixels_CHW: Tensor, alpha_1HW: Tensor) -> Tensor:
    """Replace the colours of invisible pixels by those of the visible ones around them.

    An editor leaves any colour under full transparency, often black; a network that sees it draws
    an edge, which shows as a halo where the enlarged alpha channel is not quite transparent.

    Args:
        pixels_CHW: whole numbers.
        alpha_1HW: of the same range.

    Returns:
        Pixels of the same type; the visible ones are unchanged.
    """
    floor = float(alpha_1HW.max()) * INVISIBLE
    weight_11HW = torch.where(alpha_1HW > floor, alpha_1HW, 0).float()[None]
    if weight_11HW.min() > 0 or weight_11HW.max() == 0:
        return pixels_CHW
    visible_1HW = weight_11HW[0] > 0
    color_1CHW = pixels_CHW.float()[None]
    for _ in range(REACH):
        color_1CHW, weight_11HW = spread(color_1CHW, weight_11HW)
    filled_CHW = pulled(color_1CHW, weight_11HW)[0].round().to(pixels_CHW.dtype)
    return torch.where(visible_1HW, pixels_CHW, filled_CHW)


def spread(color_1CHW: Tensor, weight_11HW: Tensor) -> tuple[Tensor, Tensor]:
    """Give pixels without weight the mean of their neighbours."""
    near_11HW = F.avg_pool2d(weight_11HW, 3, 1, 1)
    mean_1CHW = F.avg_pool2d(color_1CHW * weight_11HW, 3, 1, 1) / near_11HW.clamp(min=1e-6)
    empty_11HW = weight_11HW == 0
    color_1CHW = torch.where(empty_11HW, mean_1CHW, color_1CHW)
    return color_1CHW, torch.where(empty_11HW, near_11HW, weight_11HW)


def pulled(color_1CHW: Tensor, weight_11HW: Tensor) -> Tensor:
    """Give pixels without weight the colour of a coarser image, recursively (push-pull)."""
    if weight_11HW.min() > 0:
        return color_1CHW
    height, width = weight_11HW.shape[2:]
    half_11HW = F.avg_pool2d(weight_11HW, 2, ceil_mode=True)
    half_1CHW = F.avg_pool2d(color_1CHW * weight_11HW, 2, ceil_mode=True)
    coarse_1CHW = pulled(half_1CHW / half_11HW.clamp(min=1e-6), half_11HW)
    up_1CHW = F.interpolate(coarse_1CHW, scale_factor=2, mode="nearest")[..., :height, :width]
    return torch.where(weight_11HW > 0, color_1CHW, up_1CHW)
