"""Photos with the distributions of their ratings, for training scorers.

The data are a table of ratings, with any number K of possible ratings, and a folder of photos.
Photos are resized once, by the scorer's rule, into a binary store (`datamodules.store`).

Shape suffixes: B batch, C channels, H and W height and width, N images, K rating buckets.
"""

import hashlib
import itertools
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from datamodules.base import ShardedDataModule
from datamodules.distributions import check_scale
from datamodules.folders import store_folder
from datamodules.listing import join_some
from datamodules.packing import Order, Photo, pack
from datamodules.photo_sets import rated_photos
from datamodules.ratings_dataset import RatedBatch, RatedCrops, RatedDataset, RatedPhotos
from datamodules.ratings_table import Ratings, read_ratings
from datamodules.splitting import draw_share, match_list
from datamodules.store import NAME_ENCODING, Image, PackedImages, Source
from images.file_names import printable_name
from images.finding import as_list, base_folder, numbers
from images.pixels import to_array, to_bytes, to_unit
from networks.nima import check_view, resize_images
from networks.views import ResizeFilter, ResizeRule
from system.places import expanded

log = logging.getLogger(__name__)

PER_SHARD = 1024  # photos per file of the store; 200 MB at 256 x 256


class RatedDataModule(ShardedDataModule):
    """Base of the data modules for scorers. Subclasses set `train` and `val` in `setup`.

    `batch_size`, `num_workers`, `seed` and `limit` are those of `ShardedDataModule`.

    Args:
        num_buckets: K, the number of possible ratings.
        resize_rule: how photos are resized: `squash`, `short_side` or `native` (see `NIMA`).
        resize_filter: `bilinear` or `nearest`.
        resize: target side in pixels.
        crop: side in pixels of the crop that the scorer sees.
        train_crop: side of the random crops that it is trained on, if smaller: a step costs less,
            while validation and `score` see more of a photo. None is `crop`.
    """

    kind = "rated"
    official = False  # whether val_list is AVA's official test list, which has ids without ratings
    scale: tuple[float, float] | None = None  # lowest and highest rating; None is 1 to K
    train: RatedPhotos
    val: RatedPhotos

    def __init__(
        self,
        *,
        num_buckets: int = 10,
        resize_rule: ResizeRule = "squash",
        resize_filter: ResizeFilter = "bilinear",
        resize: int = 256,
        crop: int = 192,
        train_crop: int | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed, limit=limit)
        check_view(resize_rule, resize_filter, resize, crop)
        self.num_buckets = num_buckets
        self.resize_filter: ResizeFilter = resize_filter
        self.resize_rule: ResizeRule = resize_rule
        self.resize = resize
        self.crop = crop
        self.train_crop = crop if train_crop is None else train_crop
        if not 32 <= self.train_crop <= crop:
            raise ValueError(f"data.train_crop={train_crop}: 32 to the scorer's crop={crop}")

    def train_dataloader(self) -> DataLoader[object]:
        """Return a loader of random crops: in an epoch, one of each image, in full batches."""
        train = self.dataset("train")
        return self.train_loader(train, num_steps=max(1, len(train) // self.batch_size))

    def val_dataloader(self) -> DataLoader[object]:
        """Return a loader of centre crops."""
        return self.val_loader(self.dataset("val"), batch_size=self.batch_size)

    def on_after_batch_transfer(self, batch: RatedCrops, dataloader_idx: int) -> RatedBatch:
        """Flip and convert to float on the device, so that only bytes are transferred."""
        return batch.to_unit()


@dataclass(frozen=True)
class Resize:
    """Resizes a photo by a scorer's rule, with the same arithmetic as `NIMA.prepare`.

    Its name and its fields are part of the recipe of stores.

    Args:
        rule: `squash`, `short_side` or `native`.
        resize_filter: `bilinear` or `nearest`.
        side: target side: `resize`, or `crop` for `native`, which only enlarges.
    """

    rule: ResizeRule
    resize_filter: ResizeFilter
    side: int

    def __call__(self, photo: Photo) -> Image:
        """Resize the photo.

        Raises:
            ValueError: if the photo cannot be read or is too narrow; the message names it.
        """
        image_BCHW = to_unit(photo.pixels)[None]
        try:
            resized_BCHW = resize_images(
                image_BCHW, self.rule, self.resize_filter, self.side, self.side
            )
        except ValueError as error:
            raise ValueError(f"{printable_name(photo.path)}: {error}") from error
        return to_array(to_bytes(resized_BCHW[0]))


class Split(NamedTuple):
    """Indices of images for training, for validation and for neither, which are the test set."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]


class OpenedRatings(RatedDataModule, ABC):
    """Base of the data modules that read tables and photos in `open`.

    Attributes:
        digest: SHA-256 of the photos' content, their ratings and the splits; None before `open`.
    """

    digest: str | None = None

    @abstractmethod
    def open(self) -> None:
        """Read and pack what is missing, then set `train`, `val` and `digest`; once."""

    def prepare_data(self) -> None:
        """Pack the photos; Lightning calls this on one rank per machine."""
        self.open()

    def setup(self, stage: str | None = None) -> None:
        """Open both splits, because the constant predictor is the mean of the training ratings."""
        self.open()

    def fingerprint(self, split: str | None = None) -> str:
        """Return the SHA-256 of the photos' content, their ratings and the splits."""
        self.open()
        assert self.digest is not None
        return self.digest


class StoredRatings(OpenedRatings, ABC):
    """Base of the data modules that read a table and a folder through a binary store.

    Args:
        images: the photos: a folder with its subfolders, a file, a glob, or a list of these.
        val_list: file with one image per line (name, with or without suffix): they validate. None
            holds out `val_share` of all images, chosen by `split_seed` and the images' names.
        train_list: file with the images that train; all others if None.
        test_list: file with images that neither train nor validate: a test set, for evaluate.
        val_share: share of the others that is held out where there is no `val_list`.
        split_seed: chooses it; apart from the run's seed, so that runs can be compared.
        max_missing: how many rated images may lack a file.
        native_share: share of the training crops that are cut from the photos at full resolution,
            which are packed too: a scorer in the loss of an enhancer sees such patches.
        store: folder of the binary store; `packed` beside the photos if None.
        rated: arguments of `RatedDataModule`.
    """

    train: RatedDataset
    val: RatedDataset

    def __init__(
        self,
        images: str | list[str],
        *,
        val_list: str | None = None,
        train_list: str | None = None,
        test_list: str | None = None,
        val_share: float = 0.2,
        split_seed: int = 0,
        max_missing: int = 0,
        native_share: float = 0.0,
        store: str | None = None,
        **rated: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**rated)
        if not 0 < val_share < 1:
            raise ValueError(f"data.val_share={val_share}: more than 0 and less than 1")
        if train_list is not None and val_list is None:
            raise ValueError("data.train_list needs data.val_list, the validation images")
        if not 0 <= native_share <= 1:
            raise ValueError(f"data.native_share={native_share}: 0 to 1")
        self.images = as_list(images)
        self.where = ", ".join(self.images)
        self.val_list = val_list
        self.train_list = train_list
        self.test_list = test_list
        self.native_share = native_share
        self.val_share = val_share
        self.split_seed = split_seed
        self.max_missing = max_missing
        self.store = None if store is None else expanded(store)

    @abstractmethod
    def ratings(self) -> Ratings:
        """Read the table of ratings."""

    @cached_property
    def plan(self) -> tuple[Ratings, Split]:
        """Read the table, find its photos and split them, without decoding any.

        Raises:
            ValueError: describing what is wrong with the table or the lists.
        """
        ratings = self.ratings()
        notes = list(ratings.notes)
        photos, _ = self.found
        there = np.isin(ratings.names, list(photos))
        missing = ratings.names[~there].tolist()
        if len(missing) > self.max_missing and self.limit is None:
            raise ValueError(
                f"{len(missing)} of {len(there)} rated images are not in {self.where}: "
                f"{join_some(missing)}; data.max_missing={len(missing)} continues without them"
            )
        if missing:
            notes.append(f"{len(missing)} without a file ({join_some(missing)})")
        ratings = ratings.rows(there)
        if not len(ratings.names):
            raise ValueError(f"{self.where}: none of the rated images is there")
        split, unlisted = self.split(ratings.names)
        split = Split(split.train[: self.limit], split.val[: self.limit], split.test)
        for use, items in (("train", split.train), ("validate", split.val)):
            if len(items) == 0:
                raise ValueError(
                    f"of {len(ratings.names)} rated images in {self.where}, none is left to {use} "
                    "on"
                )
        if unlisted:
            notes.append(f"{len(unlisted)} of the test list, which have no ratings")
        if notes:
            log.info("%d rated photos; left out: %s", len(ratings.names), "; ".join(notes))
        return ratings, split

    def open(self) -> None:
        """Open the store of the photos that train and validate, after packing what is missing.

        Raises:
            ValueError: describing what is wrong with the table, the lists or the photos.
        """
        if self.digest is not None:
            return
        ratings, (train, val, _) = self.plan
        if self.limit is not None:
            used = np.union1d(train, val)
            train, val = np.searchsorted(used, train), np.searchsorted(used, val)
            ratings = ratings.rows(used)
        images, *more = self.pack_photos(ratings.names)
        native = more[0] if more else None

        def select(items: NDArray[np.int64], crop: int) -> RatedDataset:
            part = ratings.rows(items)
            return RatedDataset(
                images,
                torch.from_numpy(part.p_NK),
                items,
                crop=crop,
                seed=self.seed,
                num_votes_N=part.num_votes_N,
                native=native,
                native_share=self.native_share,
            )

        self.train, self.val = select(train, self.train_crop), select(val, self.crop)
        total = hashlib.sha256(images.fingerprint.encode())
        if native is not None:
            total.update(native.fingerprint.encode())
        for dataset in (self.train, self.val):
            total.update(dataset.items.tobytes() + dataset.p_NK.numpy().tobytes())
            if dataset.num_votes_N is not None:
                total.update(dataset.num_votes_N.tobytes())
        self.digest = total.hexdigest()

    def pack_photos(self, names: NDArray[np.str_]) -> list[PackedImages]:
        """Open the store of these photos, and that of native crops, packing what is missing."""
        side = self.crop if self.resize_rule == "native" else self.resize
        forms: list[tuple[ResizeRule, int]] = [(self.resize_rule, side)]
        if self.native_share:
            forms.append(("native", self.train_crop))
        folder = min(map(base_folder, self.images))
        suffix = "" if self.resize_filter == "bilinear" else "_nearest"
        photos, _ = self.found
        sources = [Source(name, photos[name]) for name in names.tolist()]
        # Each choice of photos has its own store, so that a small one does not replace 50 GB.
        key = hashlib.sha256("\0".join(names).encode(*NAME_ENCODING)).hexdigest()
        orders = [
            Order(
                f"{rule}{side}{suffix}",
                sources,
                Resize(rule, self.resize_filter, side),
                "rated photos",
                key,
            )
            for rule, side in forms
        ]
        where = store_folder(folder, self.store)
        return pack(where, orders, per_shard=PER_SHARD, reread=self.reread)

    @cached_property
    def found(self) -> tuple[dict[str, str], Counter[str]]:
        """Find the photos: paths by name, and the number of other files by kind."""
        return rated_photos(self.images, "data.images")

    def others(self, rated: Iterable[str]) -> list[str]:
        """Count the photos without ratings and the files that are no photos."""
        photos, left_out = self.found
        num = len(photos.keys() - set(rated))
        counts = [f"{num} photo{'' if num == 1 else 's'} without ratings"] if num else []
        return counts + numbers(left_out)

    def split(self, names: NDArray[np.str_]) -> tuple[Split, list[str]]:
        """Split images into training, validation and test.

        Returns:
            The split, and the names on lists that have no ratings (for AVA's official test list
            only).

        Raises:
            ValueError: if lists overlap or name unrated images.
        """
        unlisted: list[str] = []

        def listed(file: str) -> NDArray[np.int64]:
            found, unknown = match_list(file, names)
            unlisted.extend(unknown)
            return found

        test = np.empty(0, np.int64) if self.test_list is None else listed(self.test_list)
        test = np.union1d(test, self.reserved(names))
        others = np.setdiff1d(np.arange(len(names)), test)
        val = self.draw_val(names, others) if self.val_list is None else listed(self.val_list)
        train = np.setdiff1d(others, val) if self.train_list is None else listed(self.train_list)
        lists = ((train, self.train_list), (val, self.val_list), (test, self.test_list))
        for (one, a), (other, b) in itertools.combinations(lists, 2):
            both = names[np.intersect1d(one, other)].tolist()
            if both:
                raise ValueError(f"{a} and {b} overlap in {len(both)} images: {join_some(both)}")
        if unlisted and not self.official:
            raise ValueError(
                f"{len(unlisted)} images of the lists are not rated photos of {self.where}: "
                f"{join_some(unlisted)}"
            )
        return Split(train, val, test), unlisted

    def reserved(self, names: NDArray[np.str_]) -> NDArray[np.int64]:
        """Return the images that a published split keeps out of training and validation."""
        return np.empty(0, np.int64)

    def draw_val(self, names: NDArray[np.str_], others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Draw the images that validate where no list names them, among those of no test list."""
        return others[draw_share(names[others], self.val_share, self.split_seed)]


class RatedFolder(StoredRatings):
    """A table of ratings and the photos that it names.

    The table is a CSV file (see `read_ratings`) with the columns `image,votes_1,...,votes_K`,
    `image,mean` or `image,mean,std`. From means, and standard deviations if given, distributions
    are computed by maximum entropy. The table can also be the output of `python run.py score`, to
    distil one scorer into another.

    Args:
        ratings: the table.
        images: the photos: a folder with its subfolders, a file, a glob, or a list of these. The
            table names each by its path below that folder, or by as much of the end of it as is
            unambiguous.
        scale: lowest and highest possible score, such as [0, 100], or first and last rating of the
            votes; mapped to 1..K (see `datamodules.distributions`). None means 1..K itself.
        more: arguments of `StoredRatings`.
    """

    def __init__(
        self,
        ratings: str,
        images: str | list[str],
        *,
        scale: list[float] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(images, **more)
        self.table = expanded(ratings)
        self.scale = None if scale is None else check_scale(scale, "data.scale")
        self.description = f"rated photos of {self.where}"

    def ratings(self) -> Ratings:
        """Read the table."""
        photos, _ = self.found
        ratings = read_ratings(self.table, self.num_buckets, photos, self.scale)
        return ratings._replace(notes=self.others(ratings.names.tolist()))
