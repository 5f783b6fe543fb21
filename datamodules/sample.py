"""The built-in tiny data: photos that scikit-image ships inside its wheel.

Six photos train; chelsea (a cat) and coffee are held out. The rated sample is synthetic: crops of
these photos under blur, noise and JPEG, with ratings computed from the strength of the degradation.
No person rated anything; a scorer trained on it knows sharp from blurred, not good from bad.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.degradations import bicubic_pair, gaussian_blur, gaussian_noise, jpeg
from datamodules.div2k import Pair, PairBatch, PatchDataset, PhotoDataset, collate_pairs
from datamodules.images import read_image
from datamodules.rated import RatedBatch, RatedDataset, collate_rated
from datamodules.sampling import ShardedDataModule, random_stream

TRAIN_PHOTOS = (
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
VAL_PHOTOS = ("chelsea.png", "coffee.png")
CROP = 256  # pixels a side of a rated image; chelsea is 300 high


@lru_cache(maxsize=len(TRAIN_PHOTOS + VAL_PHOTOS))
def photo(name: str) -> Tensor:
    """One built-in photo, 3 x H x W uint8. Do not write into it."""
    return read_image(Path(skimage.data.__file__).parent / name)


class SamplePairs(ShardedDataModule):
    """LR and HR pairs of the built-in photos; LR as MATLAB's bicubic shrinks HR.

    Args:
        scale: HR pixels per LR pixel: 1, 2, 3 or 4.
        batch_size: training patches per step over all ranks.
        patch_size: side of the LR patch in pixels.
        num_steps: steps per epoch.
        num_workers: loader processes per rank.
        seed: the run's seed.
        limit: use the first `limit` photos of each split (all if None).
    """

    kind = "pairs"
    description = "built-in photos: six for training; chelsea and coffee held out"

    def __init__(
        self,
        scale: int = 2,
        *,
        batch_size: int = 16,
        patch_size: int = 24,
        num_steps: int = 100,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed, limit=limit)
        if patch_size < 1 or num_steps < 1:
            raise ValueError(
                f"data.patch_size={patch_size}, data.num_steps={num_steps}: 1 or more each"
            )
        self.scale = scale
        self.patch_size = patch_size
        self.num_steps = num_steps

    def setup(self, stage: str | None = None) -> None:
        """Reads the photos and makes the LR images."""
        if stage in (None, "fit"):
            pairs = self.pairs(TRAIN_PHOTOS)
            self.train = PatchDataset(
                pairs, scale=self.scale, patch_size=self.patch_size, seed=self.seed
            )
        self.val = PhotoDataset(self.pairs(VAL_PHOTOS))

    def pairs(self, names: tuple[str, ...]) -> list[Pair]:
        """LR and HR of the named photos, up to `limit`."""
        return [
            Pair(*bicubic_pair(photo(name), self.scale), Path(name).stem)
            for name in names[: self.limit]
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of patches."""
        return self.train_loader(self.train, collate_pairs, num_steps=self.num_steps)

    def val_dataloader(self) -> DataLoader[Any]:
        """Whole photos, one at a time."""
        return self.val_loader(self.val, collate_pairs)

    def on_after_batch_transfer(self, batch: PairBatch, dataloader_idx: int) -> PairBatch:
        """Converts to float on the device: a quarter of the bytes travel."""
        return batch.to_unit()


class SampleRated(ShardedDataModule):
    """The synthetic rated sample (see the top of this file).

    Args:
        num_buckets: K, the number of ratings.
        resize: side that images are squashed to, in pixels.
        crop: side of the crop that the scorer sees, in pixels.
        num_train: training crops, of the six training photos.
        num_val: validation crops, of chelsea and coffee.
        batch_size: training images per step over all ranks.
        num_workers: loader processes per rank.
        seed: the run's seed. It does not change the sample, only the order and the crops.
        limit: use the first `limit` images of each split (all if None).
    """

    kind = "rated"
    description = "SYNTHETIC ratings of degraded crops of built-in photos, not people's"

    def __init__(
        self,
        *,
        num_buckets: int = 10,
        resize: int = 256,
        crop: int = 192,
        num_train: int = 960,
        num_val: int = 96,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed, limit=limit)
        self.num_buckets = num_buckets
        self.resize = resize
        self.crop = crop
        self.num_train = num_train
        self.num_val = num_val

    def setup(self, stage: str | None = None) -> None:
        """Makes the crops; the training ones too, whose mean is the constant predictor."""
        self.train = self.rated(TRAIN_PHOTOS, self.num_train)
        self.val = self.rated(VAL_PHOTOS, self.num_val)

    def rated(self, photos: tuple[str, ...], num: int) -> RatedDataset:
        """`num` degraded crops of the photos in turn, up to `limit`."""
        num = min(num, self.limit or num)
        crops, severities, names = zip(*(degraded_crop(photos, k) for k in range(num)), strict=True)
        return RatedDataset(
            crops,
            torch.stack([rating(severity, self.num_buckets) for severity in severities]),
            names,
            resize=self.resize,
            crop=self.crop,
            seed=self.seed,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of random crops; an epoch shows every image once, up to the last full batch."""
        num_steps = max(1, len(self.train) // self.batch_size)
        return self.train_loader(self.train, collate_rated, num_steps=num_steps)

    def val_dataloader(self) -> DataLoader[Any]:
        """Centre crops."""
        return self.val_loader(self.val, collate_rated, batch_size=self.batch_size)

    def on_after_batch_transfer(self, batch: RatedBatch, dataloader_idx: int) -> RatedBatch:
        """Converts to float on the device: a quarter of the bytes travel."""
        return batch.to_unit()


def degraded_crop(photos: tuple[str, ...], k: int) -> tuple[Tensor, float, str]:
    """The `k`-th crop of the rated sample: half of them blurred, compressed and noisy at once.

    The others have one of the three. The noise comes last, or JPEG would remove it.

    Returns:
        The crop, its severity within 0 (untouched) to 1, and a name that tells what was done.
    """
    # Epochs tell the splits apart, or both would have the same degradations in the same order.
    stream = random_stream(0, epoch=int(photos == VAL_PHOTOS), position=k, use=2)
    name = photos[k % len(photos)]
    image = photo(name)
    top, left = (int(stream.integers(side - CROP + 1)) for side in image.shape[-2:])
    image = image[:, top : top + CROP, left : left + CROP]
    severity = float(stream.uniform())
    kind = str(stream.choice(["blur", "jpeg", "noise", "all", "all", "all"]))
    part = severity if kind != "all" else 0.7 * severity  # three at once hide each other
    if kind in ("blur", "all"):
        image = gaussian_blur(image, 4.0 * part)  # sigma up to 4 pixels: text becomes unreadable
    if kind in ("jpeg", "all"):
        image = jpeg(image, 3 + round(60 * (1 - part)))  # quality 63 to 3: blocks
    if kind in ("noise", "all"):
        image = gaussian_noise(image, 50.0 * part, stream)  # up to 50 of 255 grey levels
    return image, severity, f"{Path(name).stem}-{k}-{kind}-{severity:.2f}"


def rating(severity: float, num_buckets: int) -> Tensor:
    """Synthetic distribution: a normal one cut into K buckets, its mean falling with severity.

    From 0.8 K (untouched) to 0.2 K; sd 0.14 K, which is AVA's mean sd for K = 10.
    """
    edges = np.arange(num_buckets + 1) + 0.5
    mean, std = num_buckets * (0.8 - 0.6 * severity), 0.14 * num_buckets
    cdf: NDArray[np.float64] = torch.special.ndtr(torch.from_numpy((edges - mean) / std)).numpy()
    shares = np.diff(cdf)
    return torch.from_numpy(shares / shares.sum()).float()
