"""Whole photos through an enhancer: in tiles, so that memory is bounded, and in eight orientations.

Shape suffixes: B batch, C channels, H and W height and width of the input.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

# What a tile may have at its largest, at 64 channels: half a gigabyte for EDSR baseline, where it
# is 512 LR pixels a side at x2 and a fifth more work than untiled.
TILE_SR = 1024  # SR pixels a side
MIN_TILE = 128  # LR pixels a side: with smaller ones the margins are most of the work


class SelfEnsemble(nn.Module):
    """The mean of what a network makes of the eight flips and rotations (EDSR, section 3.4: EDSR+).

    Args:
        net: an enhancer of one scale; not copied.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.scale = int(net.scale)  # type: ignore[arg-type]
        self.margin: int | None = getattr(net, "margin", None)

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Maps B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32."""
        total_BCHW = torch.zeros((), device=lr_BCHW.device)
        for turns in range(4):
            for flip in ([], [3]):
                seen_BCHW = torch.rot90(lr_BCHW, turns, (2, 3)).flip(flip)
                made_BCHW = self.net(seen_BCHW).float().flip(flip)
                total_BCHW = total_BCHW + torch.rot90(made_BCHW, -turns, (2, 3))
        return total_BCHW / 8


class Span(NamedTuple):
    """A part of one side: the pixels that are kept, and those around them that are read."""

    start: int
    stop: int
    first: int
    last: int


def spans(length: int, tile: int, margin: int) -> Iterator[Span]:
    """Divides a side into equal parts of at most `tile` pixels, each with a margin."""
    num = -(-length // tile)
    for k in range(num):
        start, stop = length * k // num, length * (k + 1) // num
        yield Span(start, stop, max(0, start - margin), min(length, stop + margin))


def auto_tile(net: nn.Module) -> int:
    """LR pixels a side of a tile that bounds the memory, whatever the scale and the width."""
    channels = [p.shape[1] for p in net.parameters() if p.ndim == 4]
    wide = max([64, *channels]) / 64
    return max(MIN_TILE, int(TILE_SR / int(net.scale) / wide**0.5))  # type: ignore[arg-type]


def num_tiles(net: nn.Module, height: int, width: int, tile: int | Literal["auto"] | None) -> int:
    """How many tiles `restore` takes for a photo."""
    if tile == "auto":
        tile = auto_tile(net) if getattr(net, "margin", None) is not None else None
    return 1 if tile is None else -(-height // tile) * -(-width // tile)


def restore(
    net: nn.Module,
    lr_CHW: Tensor,
    *,
    device: torch.device,
    tile: int | Literal["auto"] | None = "auto",
    precision: torch.dtype = torch.float32,
    levels: int = 255,
    on_tile: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Enhances one photo.

    Tiles overlap by the network's margin on each side, so that they fit together as if the photo
    had been enhanced in one piece: on a CPU in float32 not one value differs (of CAN, whose dilated
    convolutions add up in another order at some widths, some in 100,000 by one level).

    Args:
        net: an enhancer of one scale, on the device; it is put into channels-last, where PyTorch's
            convolutions on a CPU add up in the same order whatever the size of a tile.
        lr_CHW: C x H x W whole numbers from 0 to `levels`, on the CPU, where the result goes too.
        device: where the network is.
        tile: LR pixels a side that are enhanced at once, `auto` is `auto_tile`'s; None takes the
            photo in one piece.
        precision: float32, or what is computed in under autocast.
        levels: the largest value, 255 or 65535.
        on_tile: is called after each tile with how many are done and how many there are; what it
            raises ends the work.

    Returns:
        C x scale*H x scale*W, of the same range and type.

    Raises:
        ValueError: if there are to be tiles and the network has no `margin`, or `tile` is below 1.
    """
    if tile == "auto":
        tile = auto_tile(net) if getattr(net, "margin", None) is not None else None
    if tile is not None and tile < 1:
        raise ValueError(f"tile={tile}: 1 or more, or null for the photo in one piece")
    net.to(memory_format=torch.channels_last)
    scale = int(net.scale)  # type: ignore[arg-type]
    height, width = lr_CHW.shape[1:]
    side = tile or max(height, width)
    margin = getattr(net, "margin", None)
    if margin is None:
        if side < max(height, width):
            raise ValueError(
                f"{type(net).__name__} does not say by its `margin` how far its pixels see; "
                "tile=null enhances the photo in one piece"
            )
        margin = 0
    sr_CHW = torch.empty(len(lr_CHW), height * scale, width * scale, dtype=lr_CHW.dtype)
    mixed = precision != torch.float32
    tiles = list(product(spans(height, side, margin), spans(width, side, margin)))
    for done, (rows, columns) in enumerate(tiles, 1):
        part_CHW = lr_CHW[:, rows.first : rows.last, columns.first : columns.last]
        part_BCHW = part_CHW[None].to(device).float() / levels
        part_BCHW = part_BCHW.contiguous(memory_format=torch.channels_last)
        autocast = torch.autocast(device.type, precision) if mixed else nullcontext()
        with torch.inference_mode(), autocast:
            made_CHW = net(part_BCHW)[0].float()
        top, left = (rows.start - rows.first) * scale, (columns.start - columns.first) * scale
        tall, wide = (rows.stop - rows.start) * scale, (columns.stop - columns.start) * scale
        kept_CHW = made_CHW[:, top : top + tall, left : left + wide]
        whole_CHW = (kept_CHW * levels).round().clamp(0, levels).to(lr_CHW.dtype).cpu()
        down, across = (slice(side.start * scale, side.stop * scale) for side in (rows, columns))
        sr_CHW[:, down, across] = whole_CHW
        if on_tile is not None:
            on_tile(done, len(tiles))
    return sr_CHW
