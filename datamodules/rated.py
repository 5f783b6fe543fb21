"""Photos with the distribution of their ratings, for training scorers.

A table of ratings and a folder of photos, for any number K of ratings that people could choose
from. Photos are resized once, by the scorer's own rule, into a binary store (`datamodules.packed`).

Shape suffixes: B batch, C channels, H and W height and width, N images, K rating buckets.
"""

import csv
import hashlib
import itertools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.div2k import some, store_of
from datamodules.images import image_names, read_image, to_array, to_bytes, to_unit
from datamodules.packed import NAMES, Image, Images, PackedImages, Source, pack
from datamodules.sampling import BatchDataset, Draws, ShardedDataModule, Use, below
from networks.nima import ResizeFilter, ResizeRule, check_view, resize_images

log = logging.getLogger(__name__)

MANY_VOTES = 1e9  # more, or parts of votes, are shares of votes whose number is not known
PER_SHARD = 1024  # photos per file of the store: 200 MB at 256 x 256


class RatedBatch(NamedTuple):
    """Photos as the scorer sees them, float32 in [0, 1], the shares of their ratings, positions."""

    images_BCHW: Tensor
    p_BK: Tensor
    item_B: Tensor


class RatedCrops(NamedTuple):
    """Crops as they are cut out, uint8; whether each is to be flipped (0 or 1); their positions."""

    images_BHWC: Tensor
    p_BK: Tensor
    item_B: Tensor
    flip_B: Tensor

    def to_unit(self) -> RatedBatch:
        """Flipped and float32 in [0, 1]: on the training device, so that bytes travel."""
        images_BCHW = self.images_BHWC.permute(0, 3, 1, 2).contiguous()
        flip_B111 = (self.flip_B == 1)[:, None, None, None]
        flipped_BCHW = torch.where(flip_B111, images_BCHW.flip(-1), images_BCHW)
        return RatedBatch(to_unit(flipped_BCHW), self.p_BK, self.item_B)


class RatedDataset(BatchDataset):
    """Crops of resized photos: random and flipped in training, the centre in validation.

    Args:
        images: photos, resized by the scorer's rule.
        p_NK: the rating distributions of all of them; rows sum to 1.
        items: which of them belong to this split.
        crop: side of the crop, in pixels.
        seed: the run's seed.
        num_votes_N: votes that each photo of all has; None where they are not known.
        native: all photos at their full resolution.
        native_share: probability that a training crop is cut from there.
    """

    def __init__(
        self,
        images: Images,
        p_NK: Tensor,
        items: NDArray[np.int64],
        *,
        crop: int,
        seed: int,
        num_votes_N: NDArray[np.int64] | None = None,
        native: Images | None = None,
        native_share: float = 0.0,
    ) -> None:
        assert len(images) == len(p_NK)
        assert native is None or len(native) == len(images)
        self.images = images
        self.items = items
        self.p_NK = p_NK[torch.from_numpy(items)]
        self.num_votes_N = None if num_votes_N is None else num_votes_N[items]
        self.crop = crop
        self.seed = seed
        self.native = native
        self.native_share = native_share

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> NDArray[np.str_]:
        """The photos' names."""
        return self.images.names[self.items]

    def __getitems__(self, batch: Draws | list[int]) -> RatedCrops:
        """A training batch for `Draws`, a validation batch for plain numbers."""
        numbers_B = batch.items if isinstance(batch, Draws) else np.array(batch)
        item_B, num = self.items[numbers_B], len(numbers_B)
        size_B2 = self.images.sizes[item_B]
        native_B = np.zeros(num, np.bool_)
        corner_B2, flip_B = (size_B2 - self.crop) // 2, np.zeros(num, np.int64)
        if isinstance(batch, Draws):
            words = batch.words(self.seed, Use.CROP)
            if self.native is not None:
                native_B = below(words[:, 3], 2**20) < self.native_share * 2**20
                size_B2 = np.where(native_B[:, None], self.native.sizes[item_B], size_B2)

            corner_B2 = below(words[:, :2], size_B2 - self.crop + 1)
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
        """A photo as validation sees it, 3 x H x W uint8."""
        crops: RatedCrops = self.__getitems__([number])
        return crops.images_BHWC[0].permute(2, 0, 1)


class RatedDataModule(ShardedDataModule):
    """Base of the data modules for scorers. A subclass fills `train` and `val` in `setup`.

    Args:
        num_buckets: K, the number of ratings.
        resize_rule: how photos are made small: `squash`, `short_side` or `native` (see `NIMA`).
        resize_filter: `bilinear` or `nearest`.
        resize: side that the rule aims at, in pixels.
        crop: side of the crop that the scorer sees, in pixels.
        batch_size: training images per step over all ranks.
        num_workers: loader processes per rank.
        seed: the run's seed.
        limit: use the first `limit` images of each split (all if None).
    """

    kind = "rated"
    official = False  # whether the list is the official one, which has ids that are not rated
    train: RatedDataset
    val: RatedDataset

    def __init__(
        self,
        *,
        num_buckets: int = 10,
        resize_rule: ResizeRule = "squash",
        resize_filter: ResizeFilter = "bilinear",
        resize: int = 256,
        crop: int = 192,
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

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of random crops; an epoch shows every image once, up to the last full batch."""
        num_steps = max(1, len(self.train) // self.batch_size)
        return self.train_loader(self.train, num_steps=num_steps)

    def val_dataloader(self) -> DataLoader[Any]:
        """Centre crops."""
        return self.val_loader(self.val, batch_size=self.batch_size)

    def on_after_batch_transfer(self, batch: RatedCrops, dataloader_idx: int) -> RatedBatch:
        """Flips and converts to float on the device: a quarter of the bytes travel."""
        return batch.to_unit()


class Ratings(NamedTuple):
    """Rated images, and what was left out of the table and why."""

    names: NDArray[np.str_]  # of the files, N
    p_NK: NDArray[np.float32]
    num_votes_N: NDArray[np.int64] | None  # None where the table does not say
    notes: list[str]


@dataclass(frozen=True)
class Resize:
    """Resizes a photo by a scorer's rule: the same arithmetic as `NIMA.prepare`.

    Args:
        rule: `squash`, `short_side` or `native`.
        resize_filter: `bilinear` or `nearest`.
        side: what the rule aims at: `resize`, or for `native`, which only enlarges, `crop`.
    """

    rule: ResizeRule
    resize_filter: ResizeFilter
    side: int

    def __call__(self, source: Source) -> Image:
        """Reads the file and resizes the photo."""
        image_BCHW = to_unit(read_image(source.path))[None]
        resized_BCHW = resize_images(
            image_BCHW, self.rule, self.resize_filter, self.side, self.side
        )
        return to_array(to_bytes(resized_BCHW[0]))


class StoredRatings(RatedDataModule):
    """Base of the data modules that read a table and a folder, through a binary store.

    Args:
        images: folder of the photos.
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

    def __init__(
        self,
        images: str,
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
            raise ValueError("data.train_list needs data.val_list: which images validate?")
        if not 0 <= native_share <= 1:
            raise ValueError(f"data.native_share={native_share}: 0 to 1")
        self.folder = Path(images).expanduser()
        self.val_list = val_list
        self.train_list = train_list
        self.test_list = test_list
        self.native_share = native_share
        self.val_share = val_share
        self.split_seed = split_seed
        self.max_missing = max_missing
        self.store = None if store is None else Path(store).expanduser()
        self.digest: str | None = None

    def ratings(self) -> Ratings:
        """Reads the table."""
        raise NotImplementedError

    def prepare_data(self) -> None:
        """Packs; Lightning calls this on one rank per machine."""
        self.open()

    def setup(self, stage: str | None = None) -> None:
        """Opens the photos; both splits, as the constant predictor is the mean of the training."""
        self.open()

    def fingerprint(self, split: str | None = None) -> str:
        """SHA-256 of the photos' content, their ratings and the splits."""
        self.open()
        assert self.digest is not None
        return self.digest

    def open(self) -> None:
        """Reads the table, splits it, and opens the store after packing what is missing.

        Raises:
            ValueError: naming what is wrong with the table, the lists or the photos.
        """
        if self.digest is not None:
            return
        ratings = self.ratings()
        notes = list(ratings.notes)
        there = np.isin(ratings.names, self.files())
        missing = ratings.names[~there].tolist()
        if len(missing) > self.max_missing and self.limit is None:
            raise ValueError(
                f"{len(missing)} of {len(there)} rated images are not in {self.folder}: "
                f"{some(missing)}; data.max_missing={len(missing)} goes on without them"
            )
        if missing:
            notes.append(f"{len(missing)} without a file ({some(missing)})")
        names, p_NK = ratings.names[there], ratings.p_NK[there]
        num_votes_N = None if ratings.num_votes_N is None else ratings.num_votes_N[there]
        if not len(names):
            raise ValueError(f"{self.folder}: none of the rated images is there")
        train, val, unlisted = self.split(names)
        if unlisted:
            notes.append(f"{len(unlisted)} of the test list, which have no ratings")
        if notes:
            log.info("%d rated photos; left out: %s", len(names), "; ".join(notes))
        used = np.arange(len(names))
        if self.limit is not None:
            used = np.union1d(train, val)
            train, val = np.searchsorted(used, train), np.searchsorted(used, val)
            names, p_NK = names[used], p_NK[used]
            num_votes_N = None if num_votes_N is None else num_votes_N[used]
        side = self.crop if self.resize_rule == "native" else self.resize
        images = self.packed(names, self.resize_rule, side)
        native = self.packed(names, "native", self.crop) if self.native_share else None

        p, crop, seed = torch.from_numpy(p_NK), self.crop, self.seed
        self.train = RatedDataset(
            images,
            p,
            train,
            crop=crop,
            seed=seed,
            num_votes_N=num_votes_N,
            native=native,
            native_share=self.native_share,
        )
        self.val = RatedDataset(images, p, val, crop=crop, seed=seed, num_votes_N=num_votes_N)
        total = hashlib.sha256(images.fingerprint.encode())
        if native is not None:
            total.update(native.fingerprint.encode())
        for dataset in (self.train, self.val):
            total.update(dataset.items.tobytes() + dataset.p_NK.numpy().tobytes())
            if dataset.num_votes_N is not None:
                total.update(dataset.num_votes_N.tobytes())
        self.digest = total.hexdigest()

    def packed(self, names: NDArray[np.str_], rule: ResizeRule, side: int) -> PackedImages:
        """The store of these photos, resized; makes what is missing of it."""
        folder, suffix = str(self.folder), "" if self.resize_filter == "bilinear" else "_nearest"
        return pack(
            store_of(self.folder, self.store),
            f"{rule}{side}{suffix}",
            [Source(name, f"{folder}/{name}") for name in names.tolist()],
            Resize(rule, self.resize_filter, side),
            per_shard=PER_SHARD,
            what="rated photos",
            # Another choice of photos is another store: rewriting 50 GB for a few would be worse.
            key=hashlib.sha256("\0".join(names).encode(*NAMES)).hexdigest(),
        )

    def files(self) -> list[str]:
        """Names of the image files."""
        return image_names(self.folder)

    def split(
        self, names: NDArray[np.str_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
        """Positions that train and that validate, and what the test list of AVA has too much.

        Raises:
            ValueError: if lists overlap or name what is not rated, or a split is empty.
        """
        unlisted: list[str] = []
        test = np.empty(0, np.int64)
        if self.test_list is not None:
            test, unlisted = listed(self.test_list, names)
        others = np.setdiff1d(np.arange(len(names)), test)
        if self.val_list is None:
            val = others[chosen(names[others], self.val_share, self.split_seed)]
        else:
            val, more = listed(self.val_list, names)
            unlisted += more
        train = np.setdiff1d(others, val)
        if self.train_list is not None:
            train, more = listed(self.train_list, names)
            unlisted += more
        lists = ((train, self.train_list), (val, self.val_list), (test, self.test_list))
        for (one, a), (other, b) in itertools.combinations(lists, 2):
            both = names[np.intersect1d(one, other)].tolist()
            if both:
                raise ValueError(f"{a} and {b} overlap in {len(both)} images: {some(both)}")
        if unlisted and not self.official:
            raise ValueError(
                f"{len(unlisted)} images of the lists are not rated photos of {self.folder}: "
                f"{some(unlisted)}"
            )
        train, val = train[: self.limit], val[: self.limit]
        for split, items in (("train", train), ("validate", val)):
            if len(items) == 0:
                raise ValueError(f"of {len(names)} rated images in {self.folder}, none {split}s")
        return train, val, unlisted


def chosen(names: NDArray[np.str_], share: float, seed: int) -> NDArray[np.int64]:
    """Positions of a share of the images, at least one, by a hash of seed and name.

    So an image that is added or lost moves no other from one split to the other, but for the one at
    the border.
    """
    keys = (f"{seed}/{name}".encode(*NAMES) for name in names.tolist())
    hashes = b"".join(hashlib.sha256(key).digest()[:8] for key in keys)
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    return np.sort(order[: max(1, round(share * len(names)))])


def listed(file: str, names: NDArray[np.str_]) -> tuple[NDArray[np.int64], list[str]]:
    """Positions of the images that a list names, one per line, and the names that are none of them.

    Raises:
        ValueError: if the list cannot be read, or a name without suffix could mean two images.
    """
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read as a list of images ({error})") from error
    by_name = {name: k for k, name in enumerate(names.tolist())}
    by_stem: dict[str, list[int]] = {}
    for name, k in by_name.items():
        by_stem.setdefault(name.rpartition(".")[0], []).append(k)
    found, unknown = set(), []
    for line in filter(None, map(str.strip, lines)):
        meant = [by_name[line]] if line in by_name else by_stem.get(line, [])
        if len(meant) > 1:
            raise ValueError(f"{file}: {line} could be {' or '.join(names[meant].tolist())}")
        if meant:
            found.add(meant[0])
        else:
            unknown.append(line)
    return np.array(sorted(found), np.int64), unknown


class RatedFolder(StoredRatings):
    """A table of ratings and a folder of photos.

    The table is a CSV file with the columns `image,votes_1,...,votes_K`, or `image,mean` or
    `image,mean,std`: then each photo's distribution is the one of maximum entropy that has this
    mean (and standard deviation). What `python run.py score` writes is a table, too: a scorer that
    is trained on it learns from the one that rated.

    Args:
        ratings: the table.
        images: folder of the photos.
        more: arguments of `StoredRatings`.
    """

    def __init__(self, ratings: str, images: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(images, **more)
        self.table = Path(ratings).expanduser()
        self.description = f"rated photos of {images}"

    def ratings(self) -> Ratings:
        """Reads the table."""
        return read_ratings(self.table, self.num_buckets)


def read_ratings(path: Path, num_buckets: int) -> Ratings:
    """Reads a table of ratings (see `RatedFolder`).

    Raises:
        ValueError: naming the table and the line.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header, *rows = [(reader.line_num, row) for row in reader if row] or [(1, [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a table of ratings ({error})") from error
    columns = [name.strip() for name in header[1]]
    if columns[1:3] == ["mean", "std"] and columns[3:4] == ["p1"]:  # what `score` has written
        columns = ["image", *(f"votes_{name.removeprefix('p')}" for name in columns[3:])]
        rows = [(line, [Path(row[0]).name, *row[3:]]) for line, row in rows]
    votes = [f"votes_{k}" for k in range(1, len(columns))]
    if columns not in (["image", *votes], ["image", "mean"], ["image", "mean", "std"]) or not votes:
        raise ValueError(
            f"{path}: the columns are {','.join(columns)}; needed are image,votes_1,...,votes_K or "
            "image,mean or image,mean,std, or the table that score writes"
        )
    by_votes = columns[1] == "votes_1"
    if by_votes and len(votes) != num_buckets:
        raise ValueError(
            f"{path}: has votes for {len(votes)} ratings, the scorer is for {num_buckets}; "
            f"train one with scorer.num_buckets={len(votes)}"
        )
    names: dict[str, int] = {}
    values = np.empty((len(rows), len(columns) - 1))
    for k, (line, row) in enumerate(rows):
        where = f"{path}, {row[0]!r} in line {line}"
        try:
            if len(row) != len(columns) or not row[0].strip():
                raise ValueError("a column too few or too many")
            values[k] = [float(word) for word in row[1:]]
        except ValueError as error:
            needed = f"a name and {len(votes)} numbers are needed"
            raise ValueError(f"{where}: {needed}") from error
        if not np.isfinite(values[k]).all() or (by_votes and values[k].min() < 0):
            raise ValueError(f"{where}: the numbers have to be finite, and votes 0 or more")
        if by_votes and not values[k].any():
            raise ValueError(f"{where}: has no votes")
        wrong = None if by_votes else impossible(*values[k], num_buckets=num_buckets)
        if wrong is not None:
            raise ValueError(f"{where}: {wrong}")
        if names.setdefault(row[0].strip(), k) != k:
            raise ValueError(f"{where}: is there twice")
    if not rows:
        raise ValueError(f"{path}: has no row")
    if by_votes:
        table = values
        values = values / values.max(axis=1, keepdims=True)  # the sum of huge ones is infinite
        p_NK = values / values.sum(axis=1, keepdims=True)
    else:
        p_NK = maximum_entropy(*values.T, num_buckets=num_buckets)
    num_votes_N = None
    if by_votes and (table == table.round()).all() and table.max() < MANY_VOTES:
        num_votes_N = table.sum(axis=1).astype(np.int64)
    return Ratings(np.array(list(names)), p_NK.astype(np.float32), num_votes_N, [])


def narrowest(mean: float) -> float:
    """The least standard deviation of ratings with this mean: only the two nearest are used."""
    return math.sqrt((mean - math.floor(mean)) * (math.floor(mean) + 1 - mean))


def widest(mean: float, num_buckets: int) -> float:
    """The largest one: only 1 and K are used."""
    return math.sqrt((mean - 1) * (num_buckets - mean))


def impossible(mean: float, std: float | None = None, *, num_buckets: int) -> str | None:
    """Why no distribution over 1..K has this mean and standard deviation; None if one has."""
    if not 1 <= mean <= num_buckets:
        return f"a mean of {mean:g} is not within 1 to {num_buckets}"
    low, high = narrowest(mean), widest(mean, num_buckets)
    if std is not None and not low - 1e-6 <= std <= high + 1e-6:
        return (
            f"ratings of 1 to {num_buckets} with a mean of {mean:g} have a standard deviation of "
            f"{low:.4g} to {high:.4g}, not {std:g}"
        )
    return None


def maximum_entropy(
    mean_N: NDArray[np.float64], std_N: NDArray[np.float64] | None = None, *, num_buckets: int
) -> NDArray[np.float64]:
    """Distributions over 1..K of maximum entropy with these means (and standard deviations).

    They are p_k ~ exp(a k), or exp(a k + b k^2) with a standard deviation (Jaynes, Physical Review
    1957); a and b come from Newton's method on the dual, which is convex.

    Args:
        mean_N: means, within 1..K.
        std_N: standard deviations that are possible (see `impossible`); no condition if None.
        num_buckets: K.

    Returns:
        N x K, rows sum to 1.
    """
    k_K = np.arange(1, num_buckets + 1, dtype=np.float64)
    if std_N is not None:
        # At the ends only one distribution is left, which the dual reaches at infinity.
        low_N = np.array([narrowest(mean) for mean in mean_N])
        high_N = np.array([widest(mean, num_buckets) for mean in mean_N])
        gap_N = 1e-4 * (high_N - low_N)
        std_N = np.clip(std_N, low_N + gap_N, high_N - gap_N)
    x_K = (2 * k_K - num_buckets - 1) / (num_buckets - 1)  # within -1..1
    unit = 2 / (num_buckets - 1)
    aim_N = np.clip((mean_N - (num_buckets + 1) / 2) * unit, -1 + 1e-6, 1 - 1e-6)
    features = [x_K] if std_N is None else [x_K, x_K**2]
    aims = [aim_N] if std_N is None else [aim_N, (std_N * unit) ** 2 + aim_N**2]
    f_FK, aim_NF = np.array(features), np.stack(aims, axis=1)
    weight_NF = np.zeros_like(aim_NF)

    def dual(weight_NF: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        logits_NK = weight_NF @ f_FK
        top_N1 = logits_NK.max(axis=1, keepdims=True)
        p_NK = np.exp(logits_NK - top_N1)
        total_N1 = p_NK.sum(axis=1, keepdims=True)
        value_N = (np.log(total_N1) + top_N1)[:, 0] - (weight_NF * aim_NF).sum(axis=1)
        return p_NK / total_N1, value_N

    p_NK, value_N = dual(weight_NF)
    for _ in range(200):
        slope_NF = p_NK @ f_FK.T - aim_NF
        if np.abs(slope_NF).max() < 1e-9:
            break
        mean_NF = p_NK @ f_FK.T
        moments_NFF = np.einsum("nk,fk,gk->nfg", p_NK, f_FK, f_FK)
        curvature_NFF = moments_NFF - mean_NF[:, :, None] * mean_NF[:, None, :]
        curvature_NFF += 1e-12 * np.eye(len(f_FK))
        step_NF = np.linalg.solve(curvature_NFF, slope_NF[..., None])[..., 0]
        size_N = np.ones(len(step_NF))
        for _ in range(40):  # halve the steps that overshoot
            _, new_N = dual(weight_NF - size_N[:, None] * step_NF)
            worse_N = new_N > value_N + 1e-15
            if not worse_N.any():
                break
            size_N[worse_N] /= 2
        size_N[worse_N] = 0
        weight_NF = weight_NF - size_N[:, None] * step_NF
        p_NK, value_N = dual(weight_NF)
    for mean, bucket in ((1, 0), (num_buckets, -1)):  # one bucket is all that is left
        p_NK[mean_N == mean] = np.eye(num_buckets)[bucket]
    return p_NK
