"""Base of the data modules for enhancers, which load LR/HR pairs."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ShardedDataModule
from datamodules.batches import Pair, PairBatch, PatchBatch, PatchLocations, UndegradedBatch
from datamodules.degradations import Degradation, shrink_to
from datamodules.drawn import DrawnDegradation
from datamodules.listing import join_some, list_problems
from datamodules.patches import PatchDataset
from datamodules.resident import Resident
from datamodules.sampling import BatchDataset, Draws
from datamodules.store import Images, MemoryImages
from images.file_names import printable_name
from images.pixels import to_array, to_tensor
from networks.scales import SCALES

log = logging.getLogger(__name__)

AnyDegradation = Degradation | DrawnDegradation


@dataclass(eq=False)
class PhotoDataset(BatchDataset):
    """Whole photos in order, for validation; each appears once per scale."""

    hr: Images
    lr: dict[int, Images]

    def __len__(self) -> int:
        return len(self.hr) * len(self.lr)

    def __getitem__(self, item: int) -> Pair:
        """Return an item: photo `item // num_scales` at one of the scales."""
        photo, scale = divmod(item, len(self.lr))
        return self.pair(photo, list(self.lr)[scale])

    def pair(self, item: int, scale: int) -> Pair:
        """Return a photo at a scale, with HR cropped to a multiple of the scale."""
        lr, hr = self.lr[scale].read(item), self.hr.read(item)
        height, width = lr.shape[0] * scale, lr.shape[1] * scale
        return Pair(to_tensor(lr), to_tensor(hr[:height, :width]), str(self.hr.names[item]))

    def __getitems__(self, batch: Draws | list[int]) -> PairBatch:
        """Return a batch of one photo, because photos differ in size."""
        assert isinstance(batch, list)
        (pair,) = (self[item] for item in batch)
        return PairBatch(pair.lr[None], pair.hr[None])


class Photos(NamedTuple):
    """HR photos, and LR photos by scale."""

    hr: Images
    lr: dict[int, Images]


class PairsDataModule(ShardedDataModule, ABC):
    """Base of the data modules for enhancers. Subclasses provide the photos.

    `num_workers`, `seed` and `limit` are those of `ShardedDataModule`.

    Args:
        scale: HR pixels per LR pixel; given a list, each step trains one of the scales (MDSR).
        degradation: how LR photos are made worse than by downscaling alone; not at all if None.
        batch_size: training patches per step over all ranks.
        patch_size: side of an LR patch in pixels.
        num_steps: steps per epoch; photos are repeated as necessary.
        on_device: keep all photos on the training device and crop the patches there.
        shrink_to: shorter side that larger photos are shrunk to for training; not at all if None.
    """

    kind = "pairs"

    def __init__(
        self,
        scale: int | list[int] = 2,
        *,
        degradation: AnyDegradation | None = None,
        batch_size: int = 16,
        patch_size: int = 24,
        num_steps: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
        on_device: bool = False,
        shrink_to: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed, limit=limit)
        if patch_size < 1 or num_steps < 1:
            raise ValueError(
                f"data.patch_size={patch_size}, data.num_steps={num_steps}: 1 or more each"
            )
        if shrink_to is not None and shrink_to < patch_size:
            raise ValueError(
                f"data.shrink_to={shrink_to}: not below data.patch_size={patch_size}; null for the "
                "photos' own size"
            )
        self.scales = list(scale) if isinstance(scale, list) else [scale]
        wrong = [s for s in self.scales if s not in SCALES]
        if wrong or len(set(self.scales)) != len(self.scales) or not self.scales:
            raise ValueError(f"data.scale={scale}: one or several of {', '.join(map(str, SCALES))}")
        self.degradation = degradation or Degradation()
        if isinstance(self.degradation, DrawnDegradation):
            self.degradation.check_scales(self.scales)
        if on_device and (num_workers or (self.draws_patches and not self.starts_from_hr)):
            raise ValueError(
                "data.on_device=true cuts patches on the training device: it goes with "
                "data.num_workers=0 and data.degradation.every_epoch=false"
            )
        self.patch_size = patch_size
        self.num_steps = num_steps
        self.on_device = on_device
        self.shrink_to = shrink_to
        self.opened: dict[str, Photos] = {}
        self.resident: Resident | None = None

    @property
    def starts_from_hr(self) -> bool:
        """Return whether LR is always made from HR, by a realistic or tone degradation."""
        return isinstance(self.degradation, DrawnDegradation)

    @property
    def lr_note(self) -> str:
        """Return how LR photos differ from HR photos besides their size, for descriptions."""
        label = self.degradation.label()
        if self.starts_from_hr:
            return f"; LR by {label.replace('_', ' and ')} degradation"
        return f"; LR with {label}" if label else ""

    @property
    def draws_patches(self) -> bool:
        """Return whether each training patch is degraded anew, rather than each photo once."""
        return isinstance(self.degradation, DrawnDegradation) or self.degradation.every_epoch

    @abstractmethod
    def photos(self, split: str, degradation: AnyDegradation | None) -> Photos:
        """Load the photos of `train` or `val`, with LR made by `degradation.make_lr`.

        If the degradation is None, LR photos are not needed: HR photos stand in for them.
        """

    def in_memory(
        self,
        hr: Sequence[Tensor],
        names: Sequence[str],
        degradation: AnyDegradation | None,
        split: str = "val",
    ) -> Photos:
        """Make LR photos from HR photos (3 x H x W uint8) and keep both in memory.

        Those of the split `train` are first shrunk to `shrink_to`.
        """
        if split == "train" and self.shrink_to is not None:
            hr = [shrink_to(image, self.shrink_to) for image in hr]
        large = MemoryImages([to_array(image) for image in hr], names)
        if degradation is None:
            return Photos(large, dict.fromkeys(self.scales, large))
        lr: dict[int, Images] = {}
        for scale in self.scales:
            small = [
                degradation.make_lr(image, scale, name)
                for image, name in zip(hr, names, strict=True)
            ]
            lr[scale] = MemoryImages([to_array(image) for image in small], names)
        return Photos(large, lr)

    def degradation_of(self, split: str) -> AnyDegradation | None:
        """Return how the LR photos of a split are made; None if they are not needed."""
        if isinstance(self.degradation, DrawnDegradation):
            return None if split == "train" else self.degradation
        drawn_later = split == "train" and self.degradation.every_epoch
        return Degradation() if drawn_later else replace(self.degradation, every_epoch=False)

    def split(self, split: str) -> Photos:
        """Return the photos of a split, loading them the first time."""
        if split not in self.opened:
            photos = self.photos(split, self.degradation_of(split))
            if split == "val":
                check_measurable(photos)
            self.opened[split] = photos
        return self.opened[split]

    def prepare_data(self) -> None:
        """Pack the store if there is one; Lightning calls this on one rank per machine."""
        self.fingerprint()

    def fingerprint(self, split: str | None = None) -> str:
        """Return the SHA-256 of the content of a split's photos, or of both splits'."""
        splits = ["train", "val"] if self.trains else ["val"]
        total = hashlib.sha256()
        for photos in map(self.split, splits if split is None else [split]):
            for images in (photos.hr, *photos.lr.values()):
                total.update(images.fingerprint.encode())
        return total.hexdigest()

    def setup(self, stage: str | None = None) -> None:
        """Load the photos."""
        if stage in (None, "fit"):
            self.train = PatchDataset(
                *self.split("train"),
                patch_size=self.patch_size,
                seed=self.seed,
                degradation=self.degradation if self.draws_patches else None,
                locations=self.on_device,
            )
            if self.train.skipped:
                log.info(
                    "%d of %d photos are smaller than a patch and are not used: %s",
                    len(self.train.skipped),
                    len(self.train.hr),
                    join_some(self.train.skipped, 100),
                )
        self.val = PhotoDataset(*self.split("val"))

    def train_dataloader(self) -> DataLoader[object]:
        """Return a loader of batches of patches."""
        return self.train_loader(self.dataset("train"), num_steps=self.num_steps)

    def val_dataloader(self) -> DataLoader[object]:
        """Return a loader of whole photos, one at a time."""
        return self.val_loader(self.dataset("val"))

    def on_after_batch_transfer(
        self,
        batch: PatchBatch | UndegradedBatch | PatchLocations | PairBatch,
        dataloader_idx: int,
    ) -> PairBatch:
        """Finish a batch on the device: crop, flip, rotate, convert to float, degrade."""
        if isinstance(batch, PatchLocations):
            device = batch.code_B.device
            if self.resident is None or self.resident.device != device:
                self.resident = Resident(
                    self.train.hr, self.train.lr, self.patch_size, self.train.margin, device
                )
            batch = self.resident.patches(batch)
        return batch.to_unit()


def check_measurable(photos: Photos) -> None:
    """Check that photos are larger than the borders that metrics ignore.

    Raises:
        ValueError: naming the first ten photos that are too small.
    """
    scale = max(photos.lr)
    # The borders of PSNR, and those of SSIM plus its window.
    least = max(2 * (scale + 6) + 1, 2 * scale + 11)
    problems = [
        f"{printable_name(photos.hr.names[k])} is {photos.hr.sizes[k, 1]}x{photos.hr.sizes[k, 0]}"
        for k in np.flatnonzero(photos.hr.sizes.min(axis=1) < least).tolist()
    ]
    if problems:
        title = f"validation photos are too small to measure: {least} pixels a side are needed"
        raise ValueError(list_problems(title, problems))
