"""Pairs of low- and high-resolution photos for training enhancers: DIV2K and folders of photos.

Photos are read from a binary store (`datamodules.packed`), which is written when it is first
needed: decoding a 2040 x 1356 PNG for every patch would cost a thousand times the patch.

DIV2K: Agustsson and Timofte, "NTIRE 2017 challenge on single image super-resolution: dataset and
study", CVPR workshops 2017. 800 photos train and 100 validate; HR of the 100 test photos was never
published.

Shape suffixes: B batch, C channels, H and W height and width (HR is `scale` times larger than LR).
"""

import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.degradations import Degradation, shrink
from datamodules.file_names import shown
from datamodules.finding import Found, Search, entries, folder_of, is_system, search
from datamodules.images import read_image, to_array, to_tensor, to_unit
from datamodules.packed import Image, Images, MemoryImages, Source, pack
from datamodules.photo_sets import (
    apart,
    at_once,
    find_lr,
    is_one_folder,
    listing,
    names_of,
    store_key,
    without_lr,
)
from datamodules.sampling import (
    BatchDataset,
    Draws,
    ShardedDataModule,
    Use,
    below,
    orient,
    random_stream,
)
from networks.scales import SCALES

log = logging.getLogger(__name__)

PER_SHARD = 64  # photos per file of the store: half a gigabyte of DIV2K


class Pair(NamedTuple):
    """One photo: 3 x H x W uint8 images and its name."""

    lr: Tensor
    hr: Tensor
    name: str

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        return self.hr.shape[-1] // self.lr.shape[-1]


class PairBatch(NamedTuple):
    """Photos or patches of one size. uint8 from the loader, float32 in [0, 1] at the network."""

    lr_BCHW: Tensor
    hr_BCHW: Tensor

    @property
    def scale(self) -> int:
        """HR pixels per LR pixel."""
        return self.hr_BCHW.shape[-1] // self.lr_BCHW.shape[-1]

    def to_unit(self) -> "PairBatch":
        """The same as float32 in [0, 1]."""
        return PairBatch(to_unit(self.lr_BCHW), to_unit(self.hr_BCHW))


class PatchBatch(NamedTuple):
    """Patches as they are cut out; how each is to be flipped or rotated (0 to 7)."""

    lr_BHWC: Tensor
    hr_BHWC: Tensor
    code_B: Tensor

    def to_unit(self) -> PairBatch:
        """Flipped, rotated, and float32 in [0, 1]: on the training device, so that bytes travel."""
        lr_BCHW, hr_BCHW = (orient(x, self.code_B) for x in (self.lr_BHWC, self.hr_BHWC))
        return PairBatch(to_unit(lr_BCHW), to_unit(hr_BCHW))


class PatchPlaces(NamedTuple):
    """Where patches lie in a store that is on the training device (see `Resident`)."""

    scale: int
    item_B: Tensor
    top_B: Tensor  # in the LR image
    left_B: Tensor
    code_B: Tensor

    def to_unit(self) -> PairBatch:
        """Always fail: in a plain loop the data module has to cut these patches out.

        Raises:
            ValueError: saying how.
        """
        raise ValueError(
            "data.on_device=true leaves the cutting of patches to the data module: "
            "use data.on_after_batch_transfer(batch.to(device), 0)"
        )


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


class Resident:
    """A whole store on the training device; gathers patches there, without any loader.

    Args:
        hr: the photos.
        lr: the LR photos by scale.
        patch_size: side of the LR patch in pixels.
        device: where the pixels go.
    """

    def __init__(
        self, hr: Images, lr: dict[int, Images], patch_size: int, device: torch.device
    ) -> None:
        self.patch_size = patch_size
        self.device = device
        self.hr = self.put(hr)
        self.lr = {s: self.hr if images is hr else self.put(images) for s, images in lr.items()}

    def put(self, images: Images) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, and where each image begins and how many values a row of it has."""
        pixels, starts = images.flat(self.device)
        rows = torch.from_numpy(images.sizes[:, 1] * 3)
        return pixels, torch.from_numpy(starts).to(self.device), rows.to(self.device)

    def patches(self, places: PatchPlaces) -> PatchBatch:
        """The same patches, bit for bit, as the loader would have cut out."""
        size, scale = self.patch_size, places.scale
        top_B, left_B = places.top_B, places.left_B
        lr_BHWC = self.gather(self.lr[scale], places.item_B, top_B, left_B, size)
        top_B, left_B, size = top_B * scale, left_B * scale, size * scale
        hr_BHWC = self.gather(self.hr, places.item_B, top_B, left_B, size)
        return PatchBatch(lr_BHWC, hr_BHWC, places.code_B)

    def gather(
        self,
        images: tuple[Tensor, Tensor, Tensor],
        item_B: Tensor,
        top_B: Tensor,
        left_B: Tensor,
        size: int,
    ) -> Tensor:
        """Patches of one size, B x size x size x 3."""
        pixels, starts_N, rows_N = images
        start_B, row_B = starts_N[item_B], rows_N[item_B]
        corner_B = start_B + top_B * row_B + left_B * 3
        row_BH = torch.arange(size, device=self.device) * row_B[:, None]
        index_BHW = (corner_B[:, None] + row_BH)[..., None] + torch.arange(
            size * 3, device=self.device
        )
        return pixels[index_BHW].view(len(item_B), size, size, 3)


class PhotoDataset(BatchDataset):
    """Whole photos in their order, for validation; with several scales, a photo at each of them.

    Args:
        hr: the photos.
        lr: the LR photos by scale.
    """

    def __init__(self, hr: Images, lr: dict[int, Images]) -> None:
        self.hr = hr
        self.lr = lr

    def __len__(self) -> int:
        return len(self.hr) * len(self.lr)

    def __getitem__(self, item: int) -> Pair:
        """One photo, HR cropped to a multiple of its scale."""
        photo, scale = divmod(item, len(self.lr))
        return self.pair(photo, list(self.lr)[scale])

    def pair(self, item: int, scale: int) -> Pair:
        """A photo at a scale."""
        lr, hr = self.lr[scale].whole(item), self.hr.whole(item)
        height, width = lr.shape[0] * scale, lr.shape[1] * scale
        return Pair(to_tensor(lr), to_tensor(hr[:height, :width]), str(self.hr.names[item]))

    def __getitems__(self, batch: Draws | list[int]) -> PairBatch:
        """One photo as a batch; photos differ in size."""
        assert isinstance(batch, list)
        (pair,) = (self[item] for item in batch)
        return PairBatch(pair.lr[None], pair.hr[None])


class Photos(NamedTuple):
    """HR photos and their LR photos by scale."""

    hr: Images
    lr: dict[int, Images]


class PairsDataModule(ShardedDataModule):
    """Base of the data modules for enhancers. A subclass says where the photos come from.

    Args:
        scale: HR pixels per LR pixel; a list trains one of them in each step (MDSR).
        degradation: what is done to the LR photos after shrinking; nothing if None.
        batch_size: training patches per step over all ranks.
        patch_size: side of the LR patch in pixels.
        num_steps: steps per epoch; photos are repeated as often as that takes.
        num_workers: loader processes per rank.
        seed: the run's seed.
        limit: use the first `limit` photos of each split (all if None).
        on_device: keep all photos on the training device and cut the patches there.
    """

    kind = "pairs"

    def __init__(
        self,
        scale: int | list[int] = 2,
        *,
        degradation: Degradation | None = None,
        batch_size: int = 16,
        patch_size: int = 24,
        num_steps: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
        limit: int | None = None,
        on_device: bool = False,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed, limit=limit)
        if patch_size < 1 or num_steps < 1:
            raise ValueError(
                f"data.patch_size={patch_size}, data.num_steps={num_steps}: 1 or more each"
            )
        self.scales = list(scale) if isinstance(scale, list) else [scale]
        wrong = [s for s in self.scales if s not in SCALES]
        if wrong or len(set(self.scales)) != len(self.scales) or not self.scales:
            raise ValueError(f"data.scale={scale}: one or several of {', '.join(map(str, SCALES))}")
        self.degradation = degradation or Degradation()
        if on_device and (self.degradation.every_epoch or num_workers):
            raise ValueError(
                "data.on_device=true cuts patches on the training device: it goes with "
                "data.num_workers=0 and data.degradation.every_epoch=false"
            )
        self.patch_size = patch_size
        self.num_steps = num_steps
        self.on_device = on_device
        self.opened: dict[str, Photos] = {}
        self.resident: Resident | None = None

    def photos(self, split: str, degradation: Degradation) -> Photos:
        """HR and LR photos of `train` or `val`; LR degraded as always for the image's name."""
        raise NotImplementedError

    def in_memory(
        self, hr: Sequence[Tensor], names: Sequence[str], degradation: Degradation
    ) -> Photos:
        """Photos (3 x H x W uint8) that stay in memory, with LR made from them."""
        lr: dict[int, Images] = {}
        for scale in self.scales:
            small = [
                degradation.fixed(shrink(image, scale), name)
                for image, name in zip(hr, names, strict=True)
            ]
            lr[scale] = MemoryImages([to_array(image) for image in small], names)
        return Photos(MemoryImages([to_array(image) for image in hr], names), lr)

    def split(self, split: str) -> Photos:
        """Photos of a split, opened once."""
        if split not in self.opened:
            drawn_later = split == "train" and self.degradation.every_epoch
            fixed = replace(self.degradation, every_epoch=False)
            photos = self.photos(split, Degradation() if drawn_later else fixed)
            if split == "val":
                check_measurable(photos)
            self.opened[split] = photos
        return self.opened[split]

    def prepare_data(self) -> None:
        """Makes the store where there is one; Lightning calls this on one rank per machine."""
        self.fingerprint()

    def fingerprint(self, split: str | None = None) -> str:
        """SHA-256 of the content of the photos of a split, or of both."""
        splits = ["train", "val"] if self.trains else ["val"]
        total = hashlib.sha256()
        for photos in map(self.split, splits if split is None else [split]):
            for images in (photos.hr, *photos.lr.values()):
                total.update(images.fingerprint.encode())
        return total.hexdigest()

    def setup(self, stage: str | None = None) -> None:
        """Opens the photos."""
        if stage in (None, "fit"):
            self.train = PatchDataset(
                *self.split("train"),
                patch_size=self.patch_size,
                seed=self.seed,
                degradation=self.degradation if self.degradation.every_epoch else None,
                places=self.on_device,
            )
            if self.train.skipped:
                log.info(
                    "%d of %d photos are smaller than a patch and do not train: %s",
                    len(self.train.skipped),
                    len(self.train.hr),
                    some(self.train.skipped, 100),
                )
        self.val = PhotoDataset(*self.split("val"))

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of patches."""
        return self.train_loader(self.dataset("train"), num_steps=self.num_steps)

    def val_dataloader(self) -> DataLoader[Any]:
        """Whole photos, one at a time."""
        return self.val_loader(self.dataset("val"))

    def on_after_batch_transfer(
        self, batch: PatchBatch | PatchPlaces | PairBatch, dataloader_idx: int
    ) -> PairBatch:
        """Cuts out, flips, rotates and converts on the device what the loader has left to do."""
        if isinstance(batch, PatchPlaces):
            device = batch.code_B.device
            if self.resident is None or self.resident.device != device:
                self.resident = Resident(self.train.hr, self.train.lr, self.patch_size, device)
            batch = self.resident.patches(batch)
        return batch.to_unit()


@dataclass(frozen=True)
class Decode:
    """Keeps a photo as it is."""

    def __call__(self, source: Source) -> Image:
        """Reads the file."""
        return to_array(read_image(source.path))


@dataclass(frozen=True)
class MakeLR:
    """Shrinks a photo by MATLAB's bicubic, if it is not LR already, and degrades it.

    Args:
        factor: HR pixels per LR pixel; 1 for files that are LR.
        degradation: what comes after.
    """

    factor: int
    degradation: Degradation

    def __call__(self, source: Source) -> Image:
        """Reads the file and makes the LR photo."""
        image = shrink(read_image(source.path), self.factor)
        try:
            return to_array(self.degradation.fixed(image, source.name))
        except ValueError as error:
            raise ValueError(f"{shown(source.path)}: {error}") from error


class FolderPairs(PairsDataModule):
    """Base of the data modules that read folders, through a binary store.

    Args:
        store: folder of the binary store; `packed` beside the HR folder if None.
        pairs: arguments of `PairsDataModule`.
    """

    def __init__(self, *, store: str | None = None, **pairs: Any) -> None:  # noqa: ANN401
        super().__init__(**pairs)
        self.store = None if store is None else Path(store).expanduser()

    def hr_folder(self, split: str) -> Path:
        """Where the HR photos are."""
        raise NotImplementedError

    def store_keys(self, split: str) -> tuple[str, str]:
        """What tells the stores of HR and LR photos from others beside `hr_folder`."""
        return "", ""

    def hr_sources(self, split: str) -> list[Source]:
        """The HR photos."""
        raise NotImplementedError

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """The LR photo of each HR photo; None where LR has to be made."""
        raise NotImplementedError

    def photos(self, split: str, degradation: Degradation) -> Photos:
        """Opens the store, after packing what is missing.

        Raises:
            ValueError: naming the files that are missing, unreadable or of the wrong size.
        """
        folder = self.hr_folder(split)
        sources = self.hr_sources(split)
        where = store_of(folder, self.store)
        hr_key, lr_key = self.store_keys(split)
        options: dict[str, Any] = {
            "per_shard": PER_SHARD,
            "limit": self.limit,
            "reread": self.reread,
        }
        what = f"HR photos ({split})"
        hr = pack(where, "HR", sources, Decode(), what=what, key=hr_key, **options)
        lr: dict[int, Images] = {}
        for scale in self.scales:
            found = self.lr_sources(split, scale, sources[: self.limit])
            if scale == 1 and found is None and degradation.is_none:
                lr[1] = hr
                continue
            packed = pack(
                where,
                "-".join(filter(None, [f"X{scale}", degradation.label()])),
                found or sources,
                MakeLR(1 if found else scale, degradation),
                what=f"LR photos x{scale} ({split})",
                key=hr_key + (lr_key + parent_of(found, folder) if found else ""),
                **options,
            )
            check_sizes(hr.sizes, packed.sizes, found or sources, scale)
            lr[scale] = packed
        return Photos(hr, lr)


def store_of(photos: Path, store: Path | None) -> Path:
    """Where the stores of a folder of photos are: beside it, or by its full name in `store`."""
    if store is None:
        return photos.parent / "packed" / photos.name
    full = str(photos.resolve())
    return store / f"{photos.name}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def parent_of(photos: Sequence[Source], folder: Path) -> str:
    """Where photos are, seen from a folder."""
    return os.path.relpath(Path(photos[0].path).parent, folder)


def sources_of(photos: dict[str, Found]) -> list[Source]:
    """The files of photos by name."""
    return [Source(name, str(photo.path)) for name, photo in photos.items()]


def check_measurable(photos: Photos) -> None:
    """Refuses photos of which the borders that metrics ignore leave nothing.

    Raises:
        ValueError: naming the first ten.
    """
    scale = max(photos.lr)
    least = max(2 * (scale + 6) + 1, 2 * scale + 11)  # borders of PSNR; of SSIM, and its window
    problems = [
        f"{shown(photos.hr.names[k])} is {photos.hr.sizes[k, 1]}x{photos.hr.sizes[k, 0]}"
        for k in np.flatnonzero(photos.hr.sizes.min(axis=1) < least).tolist()
    ]
    if problems:
        title = f"validation photos are too small to measure: {least} pixels a side are needed"
        raise ValueError(listing(title, problems))


def check_sizes(
    hr: NDArray[np.int64], lr: NDArray[np.int64], sources: Sequence[Source], scale: int
) -> None:
    """Compares the sizes of LR and HR photos, N x 2 each: height, width.

    Raises:
        ValueError: naming the first ten LR photos of another size than expected.
    """
    wrong = np.flatnonzero((lr != hr // scale).any(axis=1)).tolist()
    problems = [
        f"{shown(sources[k].path)} is {lr[k, 1]}x{lr[k, 0]}, expected "
        f"{hr[k, 1] // scale}x{hr[k, 0] // scale}, as HR is {hr[k, 1]}x{hr[k, 0]}"
        for k in wrong
    ]
    if problems:
        raise ValueError(listing(f"LR photos of the wrong size for x{scale}", problems))


def some(names: Sequence[str], most: int = 20) -> str:
    """The first few of many names."""
    return ", ".join(map(shown, names[:most])) + (", ..." if len(names) > most else "")


class PhotoFolders(FolderPairs):
    """Any photos: folders with all below them, files, globs such as `photos/*.png`, lists of these.

    LR photos are looked for as `X2/name x2.png`, `X2/name.png`, `namex2.png` or `name.png` (any
    suffix) in the LR folder; without one they are made by MATLAB's bicubic. As many LR folders as
    HR folders go together in this order.

    Args:
        train_hr: the photos that train; None for evaluation only.
        val_hr: the photos that validate, which do not train.
        train_lr: their LR photos; made if None.
        val_lr: their LR photos; made if None.
        more: arguments of `FolderPairs`.
    """

    def __init__(
        self,
        train_hr: str | list[str] | None,
        val_hr: str | list[str],
        *,
        train_lr: str | list[str] | None = None,
        val_lr: str | list[str] | None = None,
        **more: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(**more)
        self.trains = train_hr is not None
        given = {"train_hr": train_hr, "val_hr": val_hr, "train_lr": train_lr, "val_lr": val_lr}
        self.given = {name: entries(where) for name, where in given.items() if where is not None}
        self.chosen: dict[str, dict[str, Found]] = {}
        made = "" if train_lr and val_lr else "; LR made by bicubic shrinking"
        label = self.degradation.label()
        train, val = (", ".join(self.given.get(name, [])) for name in ("train_hr", "val_hr"))
        photos = f"photos of {train}, validated on" if self.trains else "photos of"
        self.description = f"{photos} {val}{made}" + (f"; LR with {label}" if label else "")

    def hr_given(self, split: str) -> list[str]:
        """What was given for the HR photos."""
        if f"{split}_hr" not in self.given:
            raise ValueError("data.train_hr=null: there are no photos to train on")
        return self.given[f"{split}_hr"]

    def hr_folder(self, split: str) -> Path:
        """Where the HR photos are, or the first of their folders."""
        return min(map(folder_of, self.hr_given(split)), default=Path())

    def store_keys(self, split: str) -> tuple[str, str]:
        """What tells the stores of HR and LR photos from others beside `hr_folder`."""
        return store_key(self.hr_given(split)), store_key(self.given.get(f"{split}_lr", [""]))

    def hr_sources(self, split: str) -> list[Source]:
        """The HR photos, less those of the other keys and what `enhance` has written.

        Raises:
            ValueError: listing all that was given and stands for no photo.
        """
        if split not in self.chosen:
            found = self.searched(split)
            for name in (n for n in found if n.endswith("_hr")):
                self.chosen[name[:-3]] = names_of(found[name], self.given[name], f"data.{name}")
        return sources_of(self.chosen[split])

    def searched(self, split: str) -> dict[str, Search]:
        """What each key stands for. Photos that validate do not train, LR photos are no HR photos.

        Args:
            split: `val` does without photos that train, which may be elsewhere.

        Raises:
            ValueError: listing all that was given and stands for no photo.
        """
        self.hr_given(split)
        folders = [Path(text).expanduser() for given in self.given.values() for text in given]
        found: dict[str, Search] = {}
        problems = []
        for name, given in self.given.items():
            hr = name.endswith("_hr")
            try:
                found[name] = search(
                    given, key=f"data.{name}", exclude=folders if hr else (), results=not hr
                )
            except ValueError as error:
                if split == "train" or name.startswith("val"):
                    problems += str(error).splitlines()
        if problems:
            raise ValueError(at_once(problems))
        if not all(map(is_one_folder, self.given.values())):  # which hold nothing of the others
            for one, other in itertools.product(("train_hr", "val_hr"), ("train_lr", "val_lr")):
                if one in found and other in found:
                    found[one] = without_lr(found[one], found[other], len(self.given[other]))
            if "train_hr" in found:
                found["train_hr"], found["val_hr"] = apart(found["train_hr"], found["val_hr"])
        for name, photos in found.items():
            if photos.left_out and name.endswith("_hr"):
                log.info("data.%s=%s: %s", name, ",".join(self.given[name]), photos.summary())
        return found

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """The LR photo of each HR photo, found by its name."""
        given = self.given.get(f"{split}_lr")
        if given is None:
            return None
        photos = {source.name: self.chosen[split][source.name] for source in hr}
        num_hr = len(self.given[f"{split}_hr"])
        return find_lr(given, scale, photos, num_hr=num_hr, key=f"data.{split}_lr")


class DIV2K(FolderPairs):
    """DIV2K in the layout of its archives.

    `DIV2K_train_HR/0001.png`, `DIV2K_valid_HR/0801.png`, `DIV2K_train_LR_bicubic/X2/0001x2.png` and
    so on. A scale whose LR folder is absent is made by MATLAB's bicubic.

    Args:
        root: folder that holds these.
        more: arguments of `FolderPairs`.
    """

    def __init__(self, root: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self.root = Path(root).expanduser()
        label = self.degradation.label()
        self.description = "DIV2K: 800 photos for training, 100 for validation" + (
            f"; LR with {label}" if label else ""
        )
        if self.limit is not None:
            self.description += f"; the first {self.limit} of each"

    def hr_folder(self, split: str) -> Path:
        """Where the HR photos are."""
        return self.root / f"DIV2K_{'train' if split == 'train' else 'valid'}_HR"

    def numbers(self, split: str) -> range:
        """The official photo numbers of a split."""
        numbers = range(1, 801) if split == "train" else range(801, 901)
        return numbers[: self.limit]

    def hr_sources(self, split: str) -> list[Source]:
        """The HR photos.

        Raises:
            ValueError: naming files that are missing, or that the data set does not have.
        """
        folder = self.hr_folder(split)
        if not folder.is_dir():
            raise ValueError(
                f"{folder}: no such folder; python run.py prepare dataset=div2k root={self.root} "
                "downloads DIV2K, data.root=FOLDER is where it lies"
            )
        names = [f"{number:04}.png" for number in self.numbers(split)]
        check_names(folder, names, complete=self.limit is None)
        return [Source(name[:-4], str(folder / name)) for name in names]

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """The published LR photos; None where the folder of this scale is absent."""
        if scale == 1:
            return None
        parent = self.hr_folder(split).name.replace("_HR", "_LR_bicubic")
        folder = self.root / parent / f"X{scale}"
        if not folder.is_dir():
            log.info("%s is not there: LR photos are made by bicubic shrinking", folder)
            return None
        names = [f"{source.name}x{scale}.png" for source in hr]
        check_names(folder, names, complete=self.limit is None)
        return [Source(s.name, str(folder / name)) for s, name in zip(hr, names, strict=True)]


def check_names(folder: Path, expected: Sequence[str], *, complete: bool) -> None:
    """Compares a folder's files with what it should hold.

    Args:
        folder: the folder.
        expected: file names.
        complete: whether it should hold nothing else.

    Raises:
        ValueError: naming what is missing and what is too much.
    """
    found = {path.name for path in folder.iterdir() if not is_system(path.name)}
    problems = [f"{shown(name)} is missing" for name in expected if name not in found]
    if complete:
        problems += [
            f"{shown(name)} does not belong here" for name in sorted(found - set(expected))
        ]
    if problems:
        title = f"problems in {folder}, which should hold {expected[0]} to {expected[-1]}"
        raise ValueError(listing(title, problems))


class Benchmark(FolderPairs):
    """A benchmark such as Set5: `HR/` and, where published, `LR_bicubic/X2/`; for evaluation only.

    Args:
        root: folder that holds these.
        more: arguments of `FolderPairs`.
    """

    trains = False

    def __init__(self, root: str, **more: Any) -> None:  # noqa: ANN401
        super().__init__(**more)
        self.root = Path(root).expanduser()
        self.description = f"benchmark {self.root.resolve().name}"

    def hr_folder(self, split: str) -> Path:
        """Where the HR photos are."""
        if split == "train":
            raise ValueError(f"{self.description} is for evaluation: it has no training photos")
        return self.root / "HR"

    def photos_of(self, split: str) -> dict[str, Found]:
        """The HR photos by name."""
        folder = str(self.hr_folder(split))
        found = search(folder, key="data.root", results=False)
        if found.left_out:
            log.info("%s: %s", folder, found.summary())
        return names_of(found, [folder], "data.root")

    def hr_sources(self, split: str) -> list[Source]:
        """The HR photos, less what `enhance` has written."""
        return sources_of(self.photos_of(split))

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """The published LR photos; None where there are none."""
        folder = self.root / "LR_bicubic" / f"X{scale}"
        if not folder.is_dir():
            return None
        photos = self.photos_of(split)
        names = {source.name: photos[source.name] for source in hr}
        return find_lr([str(folder)], scale, names, key="data.root")
