"""Pairs of low- and high-resolution photos for training enhancers.

Shape suffixes: B batch, C channels, H and W height and width (HR is `scale` times larger than LR).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.images import to_unit
from datamodules.sampling import Draw, SizedDataset, random_stream


class Pair(NamedTuple):
    """One photo: 3 x H x W uint8 images and its name."""

    lr: Tensor
    hr: Tensor
    name: str


class PairBatch(NamedTuple):
    """Photos or patches of one size. uint8 from the loader, float32 in [0, 1] at the network."""

    lr_BCHW: Tensor
    hr_BCHW: Tensor
    names: list[str]

    def to_unit(self) -> "PairBatch":
        """The same as float32 in [0, 1]."""
        return PairBatch(to_unit(self.lr_BCHW), to_unit(self.hr_BCHW), self.names)


class PatchDataset(SizedDataset):
    """Random patch pairs with one of the eight flips and rotations; each a function of its `Draw`.

    Args:
        pairs: the photos.
        scale: HR pixels per LR pixel.
        patch_size: side of the LR patch in pixels.
        seed: the run's seed.

    Raises:
        ValueError: if a photo is smaller than a patch; the message names it.
    """

    def __init__(self, pairs: Sequence[Pair], *, scale: int, patch_size: int, seed: int) -> None:
        for pair in pairs:
            height, width = pair.lr.shape[-2:]
            if min(height, width) < patch_size:
                raise ValueError(
                    f"{pair.name}: {width}x{height} LR pixels are too few for "
                    f"data.patch_size={patch_size}"
                )
        self.pairs = pairs
        self.scale = scale
        self.patch_size = patch_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, draw: Draw) -> Pair:
        pair = self.pairs[draw.item]
        stream = random_stream(self.seed, epoch=draw.epoch, position=draw.position)
        size, scale = self.patch_size, self.scale
        top = int(stream.integers(pair.lr.shape[-2] - size + 1))
        left = int(stream.integers(pair.lr.shape[-1] - size + 1))
        code = int(stream.integers(8))
        lr = pair.lr[:, top : top + size, left : left + size]
        top, left, size = top * scale, left * scale, size * scale
        hr = pair.hr[:, top : top + size, left : left + size]
        return Pair(dihedral(lr, code), dihedral(hr, code), pair.name)


class PhotoDataset(SizedDataset):
    """Whole photos in their order, for validation."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> Pair:
        return self.pairs[item]


def dihedral(image: Tensor, code: int) -> Tensor:
    """One of the eight flips and rotations of a square: bits are transpose, flip rows, columns.

    Args:
        image: `... x H x W`.
        code: 0 (unchanged) to 7.
    """
    if code & 1:
        image = image.flip(-1)
    if code & 2:
        image = image.flip(-2)
    if code & 4:
        image = image.transpose(-2, -1)
    return image.contiguous()


def collate_pairs(pairs: list[Pair]) -> PairBatch:
    """Stacks pairs of one size."""
    return PairBatch(
        torch.stack([pair.lr for pair in pairs]),
        torch.stack([pair.hr for pair in pairs]),
        [pair.name for pair in pairs],
    )
