"""Random patches of photos, determined by seed, epoch and position."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batches import PatchBatch, PatchLocations, UndegradedBatch
from datamodules.degradations import Degradation
from datamodules.drawn import DegradationDraws, DrawnDegradation
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
    degradation: Degradation | DrawnDegradation | None = None  # drawn anew for each LR patch
    locations: bool = False  # return the locations of patches instead of their pixels

    def __post_init__(self) -> None:
        shortest = np.min([sizes.min(axis=1) for sizes in map(self.lr_sizes, self.lr)], axis=0)
        least = self.cut
        if isinstance(self.degradation, Degradation):
            least = max(least, self.degradation.margin + 1)
        self.items = np.flatnonzero(shortest >= least)
        self.skipped = self.hr.names[shortest < least].tolist()
        if len(self.hr) == 0:
            raise ValueError("data: there are no photos to train on")
        if len(self.items) == 0:
            raise ValueError(
                f"all {len(self.hr)} photos are smaller than a patch: "
                f"data.patch_size={self.patch_size} LR pixels"
                f"{f' with {self.margin} around it' if self.margin else ''}, and the largest has "
                f"{shortest.max(initial=0)} on its shorter side"
            )

    @property
    def margin(self) -> int:
        """LR pixels that are cut around each patch and degraded with it."""
        if isinstance(self.degradation, DrawnDegradation):
            return self.degradation.margin
        return 0

    @property
    def cut(self) -> int:
        """Side of what is cut out of an LR photo, in pixels."""
        return self.patch_size + 2 * self.margin

    def lr_sizes(self, scale: int) -> NDArray[np.int64]:
        """Return the sizes of the LR photos, whether they exist or not; N x 2: height, width."""
        if isinstance(self.degradation, DrawnDegradation):
            return self.hr.sizes // scale
        return self.lr[scale].sizes

    def __len__(self) -> int:
        return len(self.items)

    def scale_of(self, draws: Draws) -> int:
        """Draw the scale of a step, which is the same on all ranks and in all micro-batches."""
        if len(self.lr) == 1:
            return next(iter(self.lr))
        step = draws._replace(first=draws.step, items=draws.items[:1])
        word = step.words(self.seed, Purpose.SCALE)[0, 0]
        return list(self.lr)[integers_below(word, len(self.lr))]

    def __getitems__(
        self, draws: Draws | list[int]
    ) -> PatchBatch | UndegradedBatch | PatchLocations:
        """Return a batch of patches."""
        assert isinstance(draws, Draws)
        scale, size = self.scale_of(draws), self.cut
        item_B = self.items[draws.items]
        words = draws.words(self.seed, Purpose.PATCH)
        top_B, left_B = integers_below(words[:, :2], self.lr_sizes(scale)[item_B] - size + 1).T
        code_B = torch.from_numpy((words[:, 2] & np.uint64(7)).astype(np.int64))
        drawn = self.degradation_draws(draws, scale)
        if self.locations:
            item, top, left = map(torch.from_numpy, (item_B, top_B, left_B))
            return PatchLocations(scale, item, top, left, code_B, drawn)
        side = size * scale
        hr_BHWC = np.empty((len(item_B), side, side, 3), np.uint8)
        lr_BHWC = np.empty((len(item_B), size, size, 3), np.uint8)
        corners = zip(item_B.tolist(), top_B.tolist(), left_B.tolist(), strict=True)
        for k, (item, top, left) in enumerate(corners):
            if isinstance(self.degradation, Degradation):
                lr_BHWC[k] = self.degraded(self.lr[scale][item], item, top, left, draws, k)
            elif drawn is None:
                lr_BHWC[k] = self.lr[scale][item][top : top + size, left : left + size]
            top, left = top * scale, left * scale
            hr_BHWC[k] = self.hr[item][top : top + side, left : left + side]
        hr = torch.from_numpy(hr_BHWC)
        if drawn is not None:
            return UndegradedBatch(hr, code_B, drawn, self.patch_size, scale)
        return PatchBatch(torch.from_numpy(lr_BHWC), hr, code_B)

    def degradation_draws(self, draws: Draws, scale: int) -> DegradationDraws | None:
        """Draw how to degrade the patches of a batch on the device; None if they are not."""
        if not isinstance(self.degradation, DrawnDegradation):
            return None
        streams = [
            random_stream(
                self.seed,
                epoch=draws.epoch,
                position=draws.first + k,
                purpose=Purpose.REALISTIC,
            )
            for k in range(len(draws.items))
        ]
        size = self.cut * scale
        return self.degradation.draw(streams, (size, size), scale, spare=2 * self.margin)

    def degraded(self, lr: Image, item: int, top: int, left: int, draws: Draws, k: int) -> Image:
        """Crop a patch from the degraded image, degrading only the patch and a margin around it.

        The strengths are the same for all patches of an image in an epoch; the noise is not.
        """
        assert isinstance(self.degradation, Degradation)
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
