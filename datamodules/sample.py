"""Tiny built-in data sets: photos from the scikit-image package.

Six photos are for training; chelsea (a cat) and coffee are for validation. The rated sample is
synthetic: crops of these photos with blur, noise and JPEG, whose ratings are computed from the
strength of the degradation. No people rated anything; a scorer trained on it can tell sharp from
blurred, not beautiful from ugly.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.degradations import gaussian_blur, gaussian_noise, jpeg
from datamodules.pairs import AnyDegradation, PairsDataModule, Photos
from datamodules.rated import RatedDataModule
from datamodules.ratings_dataset import RatedDataset
from datamodules.sampling import Purpose, random_stream
from datamodules.store import MemoryImages
from images.pixels import to_array, to_bytes, to_unit
from images.reading import read_image
from networks.nima import resize_images

TRAIN_PHOTOS = (
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
VAL_PHOTOS = ("chelsea.png", "coffee.png")
CROP = 256  # side of a rated crop in pixels; chelsea is 300 high


@lru_cache(maxsize=len(TRAIN_PHOTOS + VAL_PHOTOS))
def photo(name: str) -> Tensor:
    """Return a built-in photo, 3 x H x W uint8. It is cached: do not modify it."""
    return read_image(Path(skimage.data.__file__).parent / name)


class SamplePairs(PairsDataModule):
    """LR/HR pairs of the built-in photos, with LR made by MATLAB's bicubic."""

    description = "built-in photos: six for training; chelsea and coffee held out"

    def photos(self, split: str, degradation: AnyDegradation | None) -> Photos:
        """Read the photos of a split and make the LR photos."""
        files = (TRAIN_PHOTOS if split == "train" else VAL_PHOTOS)[: self.limit]
        names = [Path(file).stem for file in files]
        return self.in_memory([photo(file) for file in files], names, degradation, split)


class SampleRated(RatedDataModule):
    """Synthetic rated sample (see the top of this file), independent of the seed.

    Args:
        num_train: number of training crops, from the six training photos.
        num_val: number of validation crops, from chelsea and coffee.
        rated: arguments of `RatedDataModule`.
    """

    description = "SYNTHETIC ratings of degraded crops of built-in photos, not people's"
    train: RatedDataset
    val: RatedDataset

    def __init__(self, *, num_train: int = 960, num_val: int = 96, **rated: Any) -> None:  # noqa: ANN401
        super().__init__(**rated)
        self.num_train = num_train
        self.num_val = num_val

    def setup(self, stage: str | None = None) -> None:
        """Make both splits, because the constant predictor is the mean of the training ratings."""
        self.train = self.rated(TRAIN_PHOTOS, self.num_train, self.train_crop)
        self.val = self.rated(VAL_PHOTOS, self.num_val, self.crop)

    def rated(self, photos: tuple[str, ...], num: int, crop: int) -> RatedDataset:
        """Make `num` degraded photos of the photos in turn, or `limit` if that is less."""
        num = min(num, self.limit or num)
        rated, severities, names = zip(*(degraded_crop(photos, k) for k in range(num)), strict=True)
        resized = [
            resize_images(
                to_unit(photo)[None], self.resize_rule, self.resize_filter, self.resize, self.crop
            )[0]
            for photo in rated
        ]
        return RatedDataset(
            MemoryImages([to_array(to_bytes(image)) for image in resized], names),
            torch.stack([rating(severity, self.num_buckets) for severity in severities]),
            np.arange(num),
            crop=crop,
            seed=self.seed,
        )


def degraded_crop(photos: tuple[str, ...], k: int) -> tuple[Tensor, float, str]:
    """Make the `k`-th crop of the rated sample.

    Half of the crops are blurred, compressed and noisy; the others have one of these degradations.
    Noise is added last because JPEG would remove it.

    Returns:
        The crop, its severity from 0 (unchanged) to 1, and a name that describes the degradation.
    """
    # The epoch distinguishes the splits, which would otherwise have the same degradations.
    stream = random_stream(0, epoch=int(photos == VAL_PHOTOS), position=k, purpose=Purpose.SAMPLE)
    name = photos[k % len(photos)]
    image = photo(name)
    top, left = (int(stream.integers(side - CROP + 1)) for side in image.shape[-2:])
    image = image[:, top : top + CROP, left : left + CROP]
    severity = float(stream.uniform())
    kind = str(stream.choice(["blur", "jpeg", "noise", "all", "all", "all"]))
    part = severity if kind != "all" else 0.7 * severity  # combined degradations mask each other
    if kind in ("blur", "all"):
        image = gaussian_blur(image, 4.0 * part)  # sigma up to 4 pixels makes text unreadable
    if kind in ("jpeg", "all"):
        image = jpeg(image, 3 + round(60 * (1 - part)))  # quality 63 down to 3
    if kind in ("noise", "all"):
        image = gaussian_noise(image, 50.0 * part, stream)  # up to 50 of 255 grey levels
    return image, severity, f"{Path(name).stem}-{k}-{kind}-{severity:.2f}"


def rating(severity: float, num_buckets: int) -> Tensor:
    """Compute a synthetic rating distribution: a normal distribution divided into K buckets.

    Its mean falls with severity from 0.8 K (unchanged) to 0.2 K; its standard deviation is 0.14 K,
    the mean over AVA for K = 10.
    """
    edges = np.arange(num_buckets + 1) + 0.5
    mean, std = num_buckets * (0.8 - 0.6 * severity), 0.14 * num_buckets
    cdf: NDArray[np.float64] = torch.special.ndtr(torch.from_numpy((edges - mean) / std)).numpy()
    shares = np.diff(cdf)
    return torch.from_numpy(shares / shares.sum()).float()
