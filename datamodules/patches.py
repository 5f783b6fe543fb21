"""Random patches of photos; each is a function of seed, epoch and position."""

import numpy as np
import torch

from datamodules.batches import PatchBatch, PatchPlaces
from datamodules.degradations import Degradation
from datamodules.sampling import BatchDataset, Draws, Use, below, random_stream
from datamodules.store import Image, Images
from images.pixels import to_array, to_tensor


class PatchDataset(BatchDataset):
    """Random patches with one of the eight flips and rotations; each a function of its position.

    Args:
        hr: the photos.
        lr: the LR photos by scale; a batch has one scale, drawn for each step.
        patch_size: side of the LR patch in pixels.
        seed: the run's seed.
        degradation: applied to each LR patch anew; None where the LR photos are degraded already.
        places: give places instead of pixels.

    Raises:
        ValueError: if every photo is smaller than a patch.
    """

    def __init__(
        self,
        hr: Images,
        lr: dict[int, Images],
        *,
        patch_size: int,
        seed: int,
        degradation: Degradation | None = None,
        places: bool = False,
    ) -> None:
        self.hr = hr
        self.lr = lr
        self.patch_size = patch_size
        self.seed = seed
        self.degradation = degradation
        self.places = places
        shortest = np.min([images.sizes.min(axis=1) for images in lr.values()], axis=0)
        least = patch_size if degradation is None else max(patch_size, degradation.margin + 1)
        self.items = np.flatnonzero(shortest >= least)
        self.skipped = hr.names[shortest < least].tolist()
        if len(hr) == 0:
            raise ValueError("data: there are no photos to train on")
        if len(self.items) == 0:
            raise ValueError(
                f"all {len(hr)} photos are smaller than a patch: data.patch_size={patch_size} LR "
                f"pixels, and the largest has {shortest.max(initial=0)} on its shorter side"
            )

    def __len__(self) -> int:
        return len(self.items)

    def scale_of(self, draws: Draws) -> int:
        """The scale of a step, the same on all ranks and in all micro-batches."""
        step = draws._replace(first=draws.step, items=draws.items[:1])
        word = step.words(self.seed, Use.SCALE)[0, 0]
        return list(self.lr)[below(word, len(self.lr))]

    def __getitems__(self, draws: Draws | list[int]) -> PatchBatch | PatchPlaces:
        """A batch of patches."""
        assert isinstance(draws, Draws)
        scale, size = self.scale_of(draws), self.patch_size
        lr, num = self.lr[scale], len(draws.items)
        item_B = self.items[draws.items]
        words = draws.words(self.seed, Use.PATCH)
        top_B, left_B = below(words[:, :2], lr.sizes[item_B] - size + 1).T
        code_B = torch.from_numpy((words[:, 2] & np.uint64(7)).astype(np.int64))
        if self.places:
            return PatchPlaces(
                scale,
                torch.from_numpy(item_B),
                torch.from_numpy(top_B),
                torch.from_numpy(left_B),
                code_B,
            )
        lr_BHWC = np.empty((num, size, size, 3), np.uint8)
        hr_BHWC = np.empty((num, size * scale, size * scale, 3), np.uint8)
        corners = zip(item_B.tolist(), top_B.tolist(), left_B.tolist(), strict=True)
        for k, (item, top, left) in enumerate(corners):
            if self.degradation is None:
                lr_BHWC[k] = lr[item][top : top + size, left : left + size]
            else:
                lr_BHWC[k] = self.degraded(lr[item], item, top, left, draws, k)
            top, left, side = top * scale, left * scale, size * scale
            hr_BHWC[k] = self.hr[item][top : top + side, left : left + side]
        return PatchBatch(torch.from_numpy(lr_BHWC), torch.from_numpy(hr_BHWC), code_B)

    def degraded(self, lr: Image, item: int, top: int, left: int, draws: Draws, k: int) -> Image:
        """The patch of the degraded image, made from the patch and a margin around it.

        The strengths are those of the image in this epoch, the noise is the patch's own.
        """
        assert self.degradation is not None
        strengths = random_stream(self.seed, epoch=draws.epoch, position=item, use=Use.STRENGTH)
        noise = random_stream(self.seed, epoch=draws.epoch, position=draws.first + k, use=Use.NOISE)
        margin, size = self.degradation.margin, self.patch_size
        first_row, first_column = max(0, top - margin), max(0, left - margin)
        around = lr[first_row : top + size + margin, first_column : left + size + margin]
        degraded = self.degradation.drawn(strengths).apply(to_tensor(around.copy()), noise)
        top, left = top - first_row, left - first_column
        return to_array(degraded[:, top : top + size, left : left + size])
