"""Data set of rated photos, with random crops and flips."""

from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.sampling import BatchDataset, Draws, Purpose, integers_below
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


@dataclass(eq=False)
class RatedDataset(BatchDataset):
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

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> NDArray[np.str_]:
        """Return the names of the photos."""
        return self.images.names[self.items]

    def __getitems__(self, batch: Draws | list[int]) -> RatedCrops:
        """Return a training batch for `Draws`, or a validation batch for a list of indices."""
        numbers_B = batch.items if isinstance(batch, Draws) else np.array(batch)
        item_B, num = self.items[numbers_B], len(numbers_B)
        size_B2 = self.images.sizes[item_B]
        native_B = np.zeros(num, np.bool_)
        corner_B2, flip_B = (size_B2 - self.crop) // 2, np.zeros(num, np.int64)
        if isinstance(batch, Draws):
            words = batch.words(self.seed, Purpose.CROP)
            if self.native is not None:
                native_B = integers_below(words[:, 3], 2**20) < self.native_share * 2**20
                size_B2 = np.where(native_B[:, None], self.native.sizes[item_B], size_B2)

            corner_B2 = integers_below(words[:, :2], size_B2 - self.crop + 1)
            flip_B = (words[:, 2] & np.uint64(1)).astype(np.int64)
        images_BHWC = np.empty((num, self.crop, self.crop, 3), np.uint8)
        for k, (top, left) in enumerate(corner_B2.tolist()):
            source = self.native if self.native is not None and native_B[k] else self.images
            image = source[int(item_B[k])]
            images_BHWC[k] = image[top : top + self.crop, left : left + self.crop]
        number_B = torch.from_numpy(numbers_B)
        return RatedCrops(
            torch.from_numpy(images_BHWC), self.p_NK[number_B], number_B, torch.from_numpy(flip_B)
        )

    def picture(self, number: int) -> Tensor:
        """Return the crop of a photo used in validation, 3 x H x W uint8."""
        crops: RatedCrops = self.__getitems__([number])
        return crops.images_BHWC[0].permute(2, 0, 1)
