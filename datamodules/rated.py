"""Photos with the distribution of their ratings, for training scorers.

Shape suffixes: B batch, C channels, H and W height and width, N images, K rating buckets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.images import to_bytes, to_unit
from datamodules.sampling import Draw, SizedDataset, random_stream
from networks.nima import squash


class Rated(NamedTuple):
    """One photo as the scorer sees it (3 x crop x crop uint8), its K shares, and its name."""

    image: Tensor
    p_K: Tensor
    name: str


class RatedBatch(NamedTuple):
    """Photos of one size. uint8 from the loader, float32 in [0, 1] at the network."""

    images_BCHW: Tensor
    p_BK: Tensor
    names: list[str]

    def to_unit(self) -> "RatedBatch":
        """The same as float32 in [0, 1]."""
        return RatedBatch(to_unit(self.images_BCHW), self.p_BK, self.names)


class RatedDataset(SizedDataset):
    """The paper's preprocessing: squash to `resize`, then crop: random and flipped, or the centre.

    Args:
        images: 3 x H x W uint8 photos.
        p_NK: their rating distributions; rows sum to 1.
        names: their names.
        resize: side that photos are squashed to, in pixels.
        crop: side of the crop, in pixels.
        seed: the run's seed.
    """

    def __init__(
        self,
        images: Sequence[Tensor],
        p_NK: Tensor,
        names: Sequence[str],
        *,
        resize: int,
        crop: int,
        seed: int,
    ) -> None:
        if not len(images) == len(p_NK) == len(names):
            raise ValueError(
                f"{len(images)} images, {len(p_NK)} ratings and {len(names)} names do not match"
            )
        self.images = images
        self.p_NK = p_NK
        self.names = names
        self.resize = resize
        self.crop = crop
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw | int) -> Rated:
        """A training sample for a `Draw`, a validation sample for a plain number."""
        item = draw.item if isinstance(draw, Draw) else draw
        # The same arithmetic as NIMA.prepare, which whole images go through later.
        image = to_bytes(squash(to_unit(self.images[item])[None], self.resize)[0])
        slack = self.resize - self.crop
        top, left, flip = slack // 2, slack // 2, False
        if isinstance(draw, Draw):
            stream = random_stream(self.seed, epoch=draw.epoch, position=draw.position)
            top, left = int(stream.integers(slack + 1)), int(stream.integers(slack + 1))
            flip = bool(stream.integers(2))
        image = image[:, top : top + self.crop, left : left + self.crop]
        return Rated(image.flip(-1) if flip else image, self.p_NK[item], self.names[item])


def collate_rated(items: list[Rated]) -> RatedBatch:
    """Stacks photos of one size."""
    return RatedBatch(
        torch.stack([item.image for item in items]),
        torch.stack([item.p_K for item in items]),
        [item.name for item in items],
    )
