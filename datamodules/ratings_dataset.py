"""Data sets of rated photos, with random crops and flips: of one table, and of several."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.sampling import (
    BatchDataset,
    Draws,
    Purpose,
    draw_tables,
    epoch_order,
    integers_below,
)
from datamodules.store import Images
from images.pixels import to_unit


class RatedBatch(NamedTuple):
    """Crops for the scorer in float32 in [0, 1], rating distributions, and indices of photos."""

    images_BCHW: Tensor
    p_BK: Tensor
    item_B: Tensor


class RatedCrops(NamedTuple):
    """Crops in uint8, rating distributions, indices of photos, and whether to flip (0 or 1)."""

    images_BHWC: Tensor
    p_BK: Tensor
    item_B: Tensor
    flip_B: Tensor

    def to_unit(self) -> RatedBatch:
        """Flip and convert to float32 in [0, 1].

        Done on the training device, because transferring bytes is faster than transferring floats.
        """
        images_BCHW = self.images_BHWC.permute(0, 3, 1, 2).contiguous()
        flip_B111 = (self.flip_B == 1)[:, None, None, None]
        flipped_BCHW = torch.where(flip_B111, images_BCHW.flip(-1), images_BCHW)
        return RatedBatch(to_unit(flipped_BCHW), self.p_BK, self.item_B)


class RatedPhotos(BatchDataset):
    """Base of the data sets of rated photos.

    Attributes:
        p_NK: rating distributions; rows sum to 1.
        num_votes_N: numbers of votes; None if they are not known for all photos.
        seed: the run's seed.
    """

    p_NK: Tensor
    num_votes_N: NDArray[np.int64] | None
    seed: int

    def __len__(self) -> int:
        return len(self.p_NK)

    def __getitems__(self, batch: Draws | list[int]) -> RatedCrops:
        """Return a training batch for `Draws`, or a validation batch for a list of indices."""
        if isinstance(batch, Draws):
            return self.crops(batch.items, batch.words(self.seed, Purpose.CROP))
        return self.crops(np.array(batch), None)

    @abstractmethod
    def crops(
        self, numbers_B: NDArray[np.int64], words_B4: NDArray[np.uint64] | None
    ) -> RatedCrops:
        """Cut crops of photos: where four random words for each say, or central ones for None."""

    @property
    @abstractmethod
    def names(self) -> NDArray[np.str_]:
        """Return the names of the photos."""

    @property
    def tables(self) -> Mapping[str, "RatedPhotos"]:
        """Return the data sets of the tables by name, in order; none where there is one table."""
        return {}

    def picture(self, number: int) -> Tensor:
        """Return the crop of a photo used in validation, 3 x H x W uint8."""
        crops: RatedCrops = self.__getitems__([number])
        return crops.images_BHWC[0].permute(2, 0, 1)


@dataclass(eq=False)
class RatedDataset(RatedPhotos):
    """Crops of resized photos: random with random flips in training, central in validation."""

    images: Images  # of all splits, resized by the scorer's rule
    p_NK: Tensor  # rating distributions of the photos in this split; rows sum to 1
    items: NDArray[np.int64]  # indices of these photos
    _: KW_ONLY
    crop: int  # side in pixels
    seed: int
    num_votes_N: NDArray[np.int64] | None = None  # of these photos, if known
    native: Images | None = None  # all photos at full resolution
    native_share: float = 0.0  # probability that a training crop is taken from `native`

    @property
    def names(self) -> NDArray[np.str_]:
        """Return the names of the photos."""
        return self.images.names[self.items]

    def crops(
        self, numbers_B: NDArray[np.int64], words_B4: NDArray[np.uint64] | None
    ) -> RatedCrops:
        """Cut crops of photos: where four random words for each say, or central ones for None."""
        item_B, num = self.items[numbers_B], len(numbers_B)
        size_B2 = self.images.sizes[item_B]
        native_B = np.zeros(num, np.bool_)
        corner_B2, flip_B = (size_B2 - self.crop) // 2, np.zeros(num, np.int64)
        if words_B4 is not None:
            if self.native is not None:
                native_B = integers_below(words_B4[:, 3], 2**20) < self.native_share * 2**20
                size_B2 = np.where(native_B[:, None], self.native.sizes[item_B], size_B2)

            corner_B2 = integers_below(words_B4[:, :2], size_B2 - self.crop + 1)
            flip_B = (words_B4[:, 2] & np.uint64(1)).astype(np.int64)
        images_BHWC = np.empty((num, self.crop, self.crop, 3), np.uint8)
        for k, (top, left) in enumerate(corner_B2.tolist()):
            source = self.native if self.native is not None and native_B[k] else self.images
            image = source[int(item_B[k])]
            images_BHWC[k] = image[top : top + self.crop, left : left + self.crop]
        number_B = torch.from_numpy(numbers_B)
        return RatedCrops(
            torch.from_numpy(images_BHWC), self.p_NK[number_B], number_B, torch.from_numpy(flip_B)
        )


class JointRatings(RatedPhotos):
    """Photos of several tables: those of the first, then those of the second, and so on.

    Args:
        parts: the data sets by name of their table; of equal K and crop.
        weights: each table's share of the training batches, up to a common factor.
        seed: the run's seed.
    """

    def __init__(
        self, parts: Mapping[str, RatedDataset], weights: Mapping[str, float], *, seed: int
    ) -> None:
        self.parts = dict(parts)
        self.weights = [weights[name] for name in self.parts]
        self.seed = seed
        self.starts = np.cumsum([0, *map(len, self.parts.values())])
        self.p_NK = torch.cat([part.p_NK for part in self.parts.values()])
        votes = [part.num_votes_N for part in self.parts.values()]
        known = [num_N for num_N in votes if num_N is not None]
        self.num_votes_N = np.concatenate(known) if len(known) == len(votes) else None

    @property
    def tables(self) -> Mapping[str, RatedDataset]:
        """Return the data sets of the tables by name, in order."""
        return self.parts

    @property
    def names(self) -> NDArray[np.str_]:
        """Return the names of the photos, each after the name of its table."""
        names = [
            [f"{table}/{name}" for name in part.names.tolist()]
            for table, part in self.parts.items()
        ]
        return np.concatenate(names)

    def crops(
        self, numbers_B: NDArray[np.int64], words_B4: NDArray[np.uint64] | None
    ) -> RatedCrops:
        """Cut crops of photos, each as its table's own data set would with the same words."""
        table_B = np.searchsorted(self.starts, numbers_B, side="right") - 1
        places, cut = [], []
        for k, part in enumerate(self.parts.values()):
            place = np.flatnonzero(table_B == k)
            if len(place):
                words = None if words_B4 is None else words_B4[place]
                places.append(place)
                cut.append(part.crops(numbers_B[place] - self.starts[k], words))
        back_B = torch.from_numpy(np.argsort(np.concatenate(places)))
        images, p, _, flip = (torch.cat(values)[back_B] for values in zip(*cut, strict=True))
        return RatedCrops(images, p, torch.from_numpy(numbers_B), flip)

    def epoch_order(
        self, length: int, *, batch_size: int, seed: int, epoch: int
    ) -> NDArray[np.int64]:
        """Draw the photos of an epoch: each batch has every table's share of photos.

        The photos of a table come in rounds, as those of a single table do.
        """
        table_N = draw_tables(self.weights, length, batch_size=batch_size, seed=seed, epoch=epoch)
        order = np.empty(length, np.int64)
        for k, part in enumerate(self.parts.values()):
            place = np.flatnonzero(table_N == k)
            drawn = epoch_order(len(part), len(place), seed=seed, epoch=epoch, table=k)
            order[place] = self.starts[k] + drawn
        return order
