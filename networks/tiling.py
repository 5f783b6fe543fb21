"""Enhance whole photos in tiles, which bounds memory, and by self-ensemble.

Shape suffixes: B batch, C channels, H and W height and width of the input.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from networks.scales import scale_of

# Largest side of a tile, in SR pixels, for networks of 64 channels. For EDSR baseline at x2 it is
# 512 LR pixels, which takes half a gigabyte and a fifth more work than without tiles.
TILE_SR = 1024
GPU_TILES = 4  # in a batch, to launch fewer kernels; the memory of four tiles is 2 GB
MIN_TILE = 128  # LR pixels a side; in smaller tiles, the margins are most of the work


class SelfEnsemble(nn.Module):
    """Averages a network's results for all eight flips and rotations (EDSR+, section 3.4 of EDSR).

    Args:
        net: a single-scale enhancer; not copied.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.scale = scale_of(net)
        self.margin: int | None = getattr(net, "margin", None)

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32."""
        total_BCHW = torch.zeros((), device=lr_BCHW.device)
        for turns in range(4):
            for flip in ([], [3]):
                oriented_BCHW = torch.rot90(lr_BCHW, turns, (2, 3)).flip(flip)
                sr_BCHW = self.net(oriented_BCHW).float().flip(flip)
                total_BCHW = total_BCHW + torch.rot90(sr_BCHW, -turns, (2, 3))
        return total_BCHW / 8


class Span(NamedTuple):
    """A tile along one side: pixels `start` to `stop`, read with margins from `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int


Tile = tuple[Span, Span]  # rows and columns


def spans(length: int, tile: int, margin: int) -> Iterator[Span]:
    """Divide a side into equal parts of at most `tile` pixels, each with margins."""
    num = -(-length // tile)
    for k in range(num):
        start, stop = length * k // num, length * (k + 1) // num
        yield Span(start, stop, max(0, start - margin), min(length, stop + margin))


def auto_tile(net: nn.Module) -> int:
    """Choose the side of a tile, in LR pixels, that bounds memory for the network's size."""
    channels = [p.shape[1] for p in net.parameters() if p.ndim == 4]
    wide = max([64, *channels]) / 64
    return max(MIN_TILE, int(TILE_SR / scale_of(net) / wide**0.5))


def tile_side(net: nn.Module, tile: int | Literal["auto"] | None) -> int | None:
    """Resolve `auto`: None, that is no tiles, if the network's margin is not known."""
    if tile == "auto":
        return auto_tile(net) if getattr(net, "margin", None) is not None else None
    return tile


def num_tiles(net: nn.Module, height: int, width: int, tile: int | Literal["auto"] | None) -> int:
    """Return the number of tiles that `restore` uses for a photo of this size."""
    side = tile_side(net, tile)
    return 1 if side is None else -(-height // side) * -(-width // side)


def tiles_of(
    net: nn.Module, height: int, width: int, tile: int | Literal["auto"] | None
) -> list[Tile]:
    """Divide a photo into tiles with margins; see `restore` for the arguments and errors."""
    side = tile_side(net, tile)
    if side is not None and side < 1:
        raise ValueError(f"tile={tile}: 1 or more, or null to process the photo in one piece")
    side = side or max(height, width)
    margin = getattr(net, "margin", None)
    if margin is None and side < max(height, width):
        raise ValueError(
            f"{type(net).__name__} has no `margin` (how far its pixels see); "
            "tile=null enhances the photo in one piece"
        )
    return list(product(spans(height, side, margin or 0), spans(width, side, margin or 0)))


def of_same_size(tiles: Sequence[Tile], at_once: int) -> Iterator[Sequence[Tile]]:
    """Divide tiles into groups of at most `at_once` that are read in the same height and width."""
    groups: dict[tuple[int, ...], list[Tile]] = {}
    for tile in tiles:
        groups.setdefault(tuple(span.last - span.first for span in tile), []).append(tile)
    for group in groups.values():
        for k in range(0, len(group), at_once):
            yield group[k : k + at_once]


def restore_tiles(
    net: nn.Module,
    lr_CHW: Tensor,
    tiles: Sequence[Tile],
    *,
    device: torch.device,
    precision: torch.dtype,
    levels: int,
) -> Iterator[Tensor]:
    """Enhance tiles of one size in a batch; see `restore` for the arguments.

    Yields:
        C x scale*h x scale*w on the CPU, without the margins, in the range and type of `lr_CHW`.
    """
    part_BCHW = torch.stack([lr_CHW[:, y.first : y.last, x.first : x.last] for y, x in tiles])
    part_BCHW = part_BCHW.to(device).float() / levels
    part_BCHW = part_BCHW.contiguous(memory_format=torch.channels_last)
    mixed = precision != torch.float32
    autocast = torch.autocast(device.type, precision) if mixed else nullcontext()
    with torch.inference_mode(), autocast:
        sr_BCHW: Tensor = net(part_BCHW).float()
    scale = scale_of(net)
    for sr_CHW, (rows, columns) in zip(sr_BCHW, tiles, strict=True):
        top, left = (rows.start - rows.first) * scale, (columns.start - columns.first) * scale
        height, width = (rows.stop - rows.start) * scale, (columns.stop - columns.start) * scale
        kept_CHW = sr_CHW[:, top : top + height, left : left + width]
        yield (kept_CHW * levels).round().clamp(0, levels).to(lr_CHW.dtype).cpu()


def restore(
    net: nn.Module,
    lr_CHW: Tensor,
    *,
    device: torch.device,
    tile: int | Literal["auto"] | None = "auto",
    precision: torch.dtype = torch.float32,
    levels: int = 255,
    at_once: int | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Enhance one photo.

    Tiles overlap by the network's margin on each side, so the result is the same as without tiles:
    on a CPU in float32, not one value differs. With CAN, whose dilated convolutions sum in another
    order at some widths, a few values in 100,000 differ by one level.

    Args:
        net: a single-scale enhancer on `device`. It is converted to channels-last, where PyTorch's
            CPU convolutions sum in the same order for every tile size.
        lr_CHW: C x H x W integers from 0 to `levels`, on the CPU.
        device: where the network is.
        tile: side of a tile in LR pixels; `auto` chooses one, None enhances the photo in one piece.
        precision: float32, or the data type for autocast.
        levels: the largest possible value, 255 or 65535.
        at_once: number of tiles in a batch, each of which takes memory; by default 4 on a GPU and 1
            on a CPU, where a batch takes as long as its tiles one by one.
        on_tile: called after each tile with the numbers of finished and of all tiles; exceptions
            that it raises stop the work.

    Returns:
        C x scale*H x scale*W on the CPU, in the same range and type.

    Raises:
        ValueError: if several tiles are needed and the network has no `margin`, or `tile` is below
            1.
    """
    scale, (height, width) = scale_of(net), lr_CHW.shape[1:]
    tiles = tiles_of(net, height, width, tile)
    net.to(memory_format=torch.channels_last)
    sr_CHW = torch.empty(len(lr_CHW), height * scale, width * scale, dtype=lr_CHW.dtype)
    done = 0
    for group in of_same_size(tiles, at_once or (GPU_TILES if device.type == "cuda" else 1)):
        parts = restore_tiles(net, lr_CHW, group, device=device, precision=precision, levels=levels)
        for spans_of_tile, part_CHW in zip(group, parts, strict=True):
            down, across = (slice(span.start * scale, span.stop * scale) for span in spans_of_tile)
            sr_CHW[:, down, across] = part_CHW
            done += 1
            if on_tile is not None:
                on_tile(done, len(tiles))
    return sr_CHW
