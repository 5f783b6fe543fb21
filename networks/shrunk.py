"""Networks that look at the shrunk photo first, and then change each pixel by what they found.

Such a network has a `shrunk_side` and two steps: `analyse` reads the photo, shrunk to a square of
that side, and `adjust` changes pixels, given their places in the photo. `networks.tiling` analyses
a photo once and adjusts it tile by tile, which gives the same result as in one piece.

Shape suffixes: B batch, C channels, H and W height and width.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LooksFirst(Protocol):
    """A network that looks at the shrunk photo first.

    Attributes:
        shrunk_side: side in pixels of the shrunk photo.
        analyse: maps B x 3 x `shrunk_side` x `shrunk_side` images in [0, 1] to what `adjust` needs.
        adjust: changes pixels, B x 3 x H x W in [0, 1], by that and by their places, see `places`.
    """

    shrunk_side: int
    analyse: Callable[[Tensor], Any]
    adjust: Callable[[Tensor, Any, Tensor], Tensor]


def looks_first(net: nn.Module) -> LooksFirst | None:
    """Return the network if it looks at the shrunk photo first, else None."""
    return None if getattr(net, "shrunk_side", None) is None else cast(LooksFirst, net)


def shrink(image_BCHW: Tensor, side: int) -> Tensor:
    """Resize images to `side` x `side`, bilinearly with anti-aliasing, in float32.

    Channel by channel, so that only a part of a large photo in integers is in float32 at a time.
    """
    with torch.autocast(image_BCHW.device.type, enabled=False):
        shrunk = [
            F.interpolate(channel.float(), (side, side), mode="bilinear", antialias=True)
            for channel in torch.split(image_BCHW, 1, dim=1)
        ]
    return torch.cat(shrunk, dim=1)


def places(corner: tuple[int, int], size: Sequence[int], photo: Sequence[int]) -> Tensor:
    """Return the vertical and horizontal place of pixels in their photo, each within 0..1.

    Args:
        corner: row and column of the first pixel.
        size: height and width of the tile.
        photo: height and width of the photo.

    Returns:
        2 x H x W; equal for a pixel in whatever tile it lies.
    """
    y_H, x_W = (
        (torch.arange(side) + first + 0.5) / length
        for first, side, length in zip(corner, size, photo, strict=True)
    )
    return torch.stack([y_H[:, None].expand(-1, x_W.shape[0]), x_W[None].expand(y_H.shape[0], -1)])


def turned(place_B2HW: Tensor, turns: int, *, flip: bool) -> Tensor:
    """Return the places after `torch.rot90` by so many turns and then perhaps a horizontal flip."""
    y_BHW, x_BHW = place_B2HW.unbind(1)
    for _ in range(turns):
        y_BHW, x_BHW = 1 - x_BHW, y_BHW
    return torch.stack([y_BHW, 1 - x_BHW if flip else x_BHW], dim=1)
