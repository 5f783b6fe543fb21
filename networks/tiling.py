"""Enhance whole photos in tiles, which bounds memory, and by self-ensemble.

Shape suffixes: B batch, C channels, H and W height and width of the input.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from networks.reach import Reach, reach_of
from networks.scales import scale_of
from networks.shrunk import looks_first, places, shrink, turned
from networks.weights import name_of

log = logging.getLogger(__name__)

# Largest side of a tile, in SR pixels, for networks of 64 channels. For EDSR baseline at x2 it is
# 512 LR pixels, which takes half a gigabyte and a fifth more work than without tiles.
TILE_SR = 1024
GPU_TILES = 4  # in a batch, to launch fewer kernels; the memory of four tiles is 2 GB
MIN_TILE = 128  # LR pixels a side; in smaller tiles, the margins are most of the work
TILE_ALONE = 256  # LR pixels a side of tiles without margins; they fit into caches
ORIENTATIONS = tuple(product(range(4), (False, True)))  # turns by 90 degrees, then a flip


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
        self.step = int(getattr(net, "step", 1))
        self.shrunk_side: int | None = getattr(net, "shrunk_side", None)

    def forward(self, lr_BCHW: Tensor) -> Tensor:
        """Map B x 3 x H x W in [0, 1] to B x 3 x scale*H x scale*W, float32."""
        total_BCHW = torch.zeros((), device=lr_BCHW.device)
        for turns, flip in ORIENTATIONS:
            sr_BCHW = self.net(oriented(lr_BCHW, turns, flip=flip)).float()
            sr_BCHW = sr_BCHW.flip(3) if flip else sr_BCHW
            total_BCHW = total_BCHW + torch.rot90(sr_BCHW, -turns, (2, 3))
        return total_BCHW / 8

    def analyse(self, small_BCHW: Tensor) -> list[Any]:
        """Analyse the shrunk photo in all orientations, if the network looks at it first."""
        net = looks_first(self.net)
        assert net is not None
        return [net.analyse(oriented(small_BCHW, turns, flip=flip)) for turns, flip in ORIENTATIONS]

    def adjust(self, tile_BCHW: Tensor, found: list[Any], place_B2HW: Tensor) -> Tensor:
        """Average what the network makes of pixels that lie as in each of the oriented photos."""
        net = looks_first(self.net)
        assert net is not None
        total_BCHW = torch.zeros((), device=tile_BCHW.device)
        for part, (turns, flip) in zip(found, ORIENTATIONS, strict=True):
            place = turned(place_B2HW, turns, flip=flip)
            total_BCHW = total_BCHW + net.adjust(tile_BCHW, part, place).float()
        return total_BCHW / 8


def oriented(image_BCHW: Tensor, turns: int, *, flip: bool) -> Tensor:
    """Turn images by 90 degrees so many times, then perhaps flip them horizontally."""
    turned_BCHW = torch.rot90(image_BCHW, turns, (2, 3))
    return turned_BCHW.flip(3) if flip else turned_BCHW


class Span(NamedTuple):
    """A tile along one side: pixels `start` to `stop`, read with margins from `first` to `last`."""

    start: int
    stop: int
    first: int
    last: int


Tile = tuple[Span, Span]  # rows and columns
OnTiles = Callable[[Tensor, Sequence[Tile]], Tensor]  # enhances tiles, given their pixels


def spans(length: int, tile: int, margin: int, step: int = 1) -> Iterator[Span]:
    """Divide a side into equal parts of at most `tile` pixels, each with margins.

    They are read from multiples of `step`, so that windows of attention lie as in the whole photo.
    """
    num = -(-length // tile)
    for k in range(num):
        start, stop = length * k // num, length * (k + 1) // num
        first = max(0, start - margin) // step * step
        yield Span(start, stop, first, min(length, stop + margin))


def auto_tile(net: nn.Module) -> int:
    """Choose the side of a tile, in LR pixels, that bounds memory for the network's size.

    Networks that do not declare a margin may hold attention, which takes several times the memory.
    """
    if looks_first(net) is not None:
        return TILE_ALONE
    channels = [p.shape[1] for p in net.parameters() if p.ndim == 4]
    wide = max([64, *channels]) / 64
    side = TILE_SR if getattr(net, "margin", None) is not None else TILE_SR / 2
    return max(MIN_TILE, int(side / scale_of(net) / wide**0.5))


def tile_side(net: nn.Module, tile: int | Literal["auto"] | None) -> int | None:
    """Resolve `auto`."""
    return auto_tile(net) if tile == "auto" else tile


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
    margin = reach_of(net).margin if side < max(height, width) else 0
    step = int(getattr(net, "step", 1))
    return list(product(spans(height, side, margin, step), spans(width, side, margin, step)))


def of_same_size(tiles: Sequence[Tile], at_once: int) -> Iterator[Sequence[Tile]]:
    """Divide tiles into groups of at most `at_once` that are read in the same height and width."""
    groups: dict[tuple[int, ...], list[Tile]] = {}
    for tile in tiles:
        groups.setdefault(tuple(span.last - span.first for span in tile), []).append(tile)
    for group in groups.values():
        for k in range(0, len(group), at_once):
            yield group[k : k + at_once]


def mixed(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """Return the context in which networks compute in a precision."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def function_of(
    net: nn.Module, lr_CHW: Tensor, *, device: torch.device, precision: torch.dtype, levels: int
) -> OnTiles:
    """Return the function that enhances tiles of a photo; see `restore` for the arguments.

    It is the network, or, if that looks at the shrunk photo first, what it does after that.
    """
    first = looks_first(net)
    if first is None:
        return lambda part_BCHW, _: net(part_BCHW)
    small_BCHW = shrink(lr_CHW[None], first.shrunk_side).to(device) / levels
    with torch.inference_mode(), mixed(device, precision):
        found = first.analyse(small_BCHW)

    def adjust(part_BCHW: Tensor, tiles: Sequence[Tile]) -> Tensor:
        size = part_BCHW.shape[2:]
        corners = [(rows.first, columns.first) for rows, columns in tiles]
        place_B2HW = torch.stack([places(corner, size, lr_CHW.shape[1:]) for corner in corners])
        return first.adjust(part_BCHW, found, place_B2HW.to(device))

    return adjust


def restore_tiles(
    function: OnTiles,
    lr_CHW: Tensor,
    tiles: Sequence[Tile],
    *,
    device: torch.device,
    precision: torch.dtype,
    levels: int,
) -> Iterator[Tensor]:
    """Enhance tiles of one size in a batch by `function`; see `restore` for the other arguments.

    Yields:
        C x scale*h x scale*w in 0..`levels`, with the margins, not rounded.
    """
    part_BCHW = torch.stack([lr_CHW[:, y.first : y.last, x.first : x.last] for y, x in tiles])
    part_BCHW = part_BCHW.to(device).float() / levels
    part_BCHW = part_BCHW.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), mixed(device, precision):
        sr_BCHW = function(part_BCHW, tiles).float()
    yield from sr_BCHW * levels


def cut(sr_CHW: Tensor, tile: Tile, rows: slice, columns: slice, scale: int) -> Tensor:
    """Cut rows and columns, in LR pixels of the photo, out of a tile with its margins."""
    top, left = (span.first for span in tile)
    down = slice((rows.start - top) * scale, (rows.stop - top) * scale)
    across = slice((columns.start - left) * scale, (columns.stop - left) * scale)
    return sr_CHW[:, down, across]


class Seam:
    """Measures how much the first two tiles differ at their boundary, a pixel on each side."""

    def __init__(self, tiles: Sequence[Tile], reach: Reach, scale: int, levels: int) -> None:
        self.reach = reach
        self.scale = scale
        self.levels = levels
        self.strips: list[Tensor] = []
        self.pair = tiles[:2] if len(tiles) > 1 and not reach.exact and not reach.told else []

    def add(self, tile: Tile, sr_CHW: Tensor) -> bool:
        """Look at a tile; return whether both have been seen."""
        if tile not in self.pair:
            return False
        (rows, columns), (_, other_columns) = self.pair
        down, across = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
        if columns == other_columns:  # the second tile is below the first
            down = slice(rows.stop - 1, rows.stop + 1)
        else:
            across = slice(columns.stop - 1, columns.stop + 1)
        self.strips.append(cut(sr_CHW, tile, down, across, self.scale))
        return len(self.strips) == 2

    def tell(self, net: nn.Module) -> None:
        """Say how large the difference is, once for a network."""
        difference = (self.strips[0] - self.strips[1]).abs() * (255 / self.levels)
        self.reach.told = True
        log.info(
            "tiles are not exact: %s sees farther than their overlap of %d pixels; at the first "
            "boundary they differ by %.2g of 255 levels on average, at most %.2g (tile=null: none)",
            name_of(net),
            self.reach.margin,
            difference.mean().item(),
            difference.max().item(),
        )


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
    order at some widths, a few values in 100,000 differ by one level. The margin of a network that
    does not declare one is measured (`networks.reach`); if it sees the whole image, tiles overlap
    by some pixels only, and a line in the log says how much they differ.

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
        ValueError: if `tile` is below 1.
    """
    scale, (height, width) = scale_of(net), lr_CHW.shape[1:]
    tiles = tiles_of(net, height, width, tile)
    net.to(memory_format=torch.channels_last)
    sr_CHW = torch.empty(len(lr_CHW), height * scale, width * scale, dtype=lr_CHW.dtype)
    function = function_of(net, lr_CHW, device=device, precision=precision, levels=levels)
    done = 0
    seam = Seam(tiles, reach_of(net) if len(tiles) > 1 else Reach(0), scale, levels)
    for group in of_same_size(tiles, at_once or (GPU_TILES if device.type == "cuda" else 1)):
        parts = restore_tiles(
            function, lr_CHW, group, device=device, precision=precision, levels=levels
        )
        for tile_of_part, part_CHW in zip(group, parts, strict=True):
            rows, columns = (slice(span.start, span.stop) for span in tile_of_part)
            kept_CHW = cut(part_CHW, tile_of_part, rows, columns, scale)
            down, across = (slice(span.start * scale, span.stop * scale) for span in tile_of_part)
            sr_CHW[:, down, across] = kept_CHW.round().clamp(0, levels).to(lr_CHW.dtype)
            if seam.add(tile_of_part, part_CHW):
                seam.tell(net)
            done += 1
            if on_tile is not None:
                on_tile(done, len(tiles))
    return sr_CHW
