"""Random patches of photos, determined by seed, epoch and position."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch

from datamodules.batches import PatchBatch, PatchLocations
from datamodules.degradations import Degradation
from datamodules.sampling import BatchDataset, Draws, Purpose, integers_below, random_stream
from datamodules.store import Image, Images
from images.pixels import to_array, to_tensor


@dataclass(eq=False)
class PatchDataset(BatchDataset):
    """Random patches, each with one of the eight flips and rotations.

    Raises:
        ValueError: if every photo is smaller than a patch.
    """

    hr: Images
    lr: dict[int, Images]  # by scale; the scale of a batch is drawn for each step
    _: KW_ONLY
    patch_size: int  # side of an LR patch in pixels
    seed: int
    degradation: Degradation | None = None  # drawn anew for each LR patch
    locations: bool = False  # return the locations of patches instead of their pixels

    def __post_init__(self) -> None:
        shortest = np.min([images.sizes.min(axis=1) for images in self.lr.values()], axis=0)
        least = self.patch_size
        if self.degradation is not None:
            least = max(least, self.degradation.margin + 1)
        self.items = np.flatnonzero(shortest >= least)
        self.skipped = self.hr.names[shortest < least].tolist()
        if len(self.hr) == 0:
            raise ValueError("data: there are no photos to train on")
        if len(self.items) == 0:
            raise ValueError(
                f"all {len(self.hr)} photos are smaller than a patch: "
                f"data.patch_size={self.patch_size} LR pixels, and the largest has "
                f"{shortest.max(initial=0)} on its shorter side"
            )

    def __len__(self) -> int:
        return len(self.items)

    def scale_of(self, draws: Draws) -> int:
        """Draw the scale of a step, which is the same on all ranks and in all micro-batches."""
        if len(self.lr) == 1:
            return next(iter(self.lr))
        step = draws._replace(first=draws.step, items=draws.items[:1])
        word = step.words(self.seed, Purpose.SCALE)[0, 0]
        return list(self.lr)[integers_below(word, len(self.lr))]

    def __getitems__(self, draws: Draws | list[int]) -> PatchBatch | PatchLocations:
        """Return a batch of patches."""
        assert isinstance(draws, Draws)
        scale, size = self.scale_of(draws), self.patch_size
        lr, num = self.lr[scale], len(draws.items)
        item_B = self.items[draws.items]
        words = draws.words(self.seed, Purpose.PATCH)
        top_B, left_B = integers_below(words[:, :2], lr.sizes[item_B] - size + 1).T
        code_B = torch.from_numpy((words[:, 2] & np.uint64(7)).astype(np.int64))
        if self.locations:
            return PatchLocations(
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
        """Crop a patch from the degraded image, degrading only the patch and a margin around it.

        The strengths are the same for all patches of an image in an epoch; the noise is not.
        """
        assert self.degradation is not None
        strengths = random_stream(
            self.seed, epoch=draws.epoch, position=item, purpose=Purpose.STRENGTH
        )
        noise = random_stream(
            self.seed, epoch=draws.epoch, position=draws.first + k, purpose=Purpose.NOISE
        )
        margin, size = self.degradation.margin, self.patch_size
        first_row, first_column = max(0, top - margin), max(0, left - margin)
        around = lr[first_row : top + size + margin, first_column : left + size + margin]
        degraded = self.degradation.draw(strengths).apply(to_tensor(around.copy()), noise)
        top, left = top - first_row, left - first_column
        return to_array(degraded[:, top : top + size, left : left + size])
