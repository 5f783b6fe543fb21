"""LR/HR pairs of photos in folders, packed into a binary store.

Decoding a 2040 x 1356 PNG takes a thousand times as long as reading a patch from the store
(`datamodules.store`), which is written when it is first needed.
"""

import hashlib
import itertools
import logging
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.degradations import Degradation, shrink_to
from datamodules.listing import list_problems
from datamodules.packing import Order, Photo, pack
from datamodules.pairs import AnyDegradation, PairsDataModule, Photos
from datamodules.photo_sets import (
    exclude_lr,
    find_lr,
    join_problems,
    name_photos,
    separate_splits,
    store_key,
)
from datamodules.store import Image, Source
from images.file_names import printable_name
from images.finding import (
    FoundPhoto,
    SearchResult,
    as_list,
    base_folder,
    is_one_folder,
    is_system,
    search,
)
from images.pixels import to_array
from system.places import expanded

log = logging.getLogger(__name__)

HR = 0  # instead of a scale
PER_SHARD = 64  # photos per file of the store; half a gigabyte for DIV2K


@dataclass(frozen=True)
class Decode:
    """Decodes a photo without changing it. Its name is part of the recipe of stores."""

    def __call__(self, photo: Photo) -> Image:
        """Return the pixels."""
        return to_array(photo.pixels)


@dataclass(frozen=True)
class MakeLR:
    """Makes an LR photo; by MATLAB's bicubic, unless the degradation does otherwise.

    Its name and its fields are part of the recipe of stores.

    Args:
        factor: HR pixels per LR pixel; 1 for files that are LR already.
        degradation: how the LR photo is made worse.
    """

    factor: int
    degradation: AnyDegradation

    def __call__(self, photo: Photo) -> Image:
        """Make the LR photo."""
        try:
            return to_array(self.degradation.make_lr(photo.pixels, self.factor, photo.name))
        except ValueError as error:
            raise ValueError(f"{printable_name(photo.path)}: {error}") from error


@dataclass(frozen=True)
class Shrunk:
    """Shrinks a photo before an image is made from it; its fields are part of the recipe of stores.

    Args:
        side: shorter side in pixels; smaller photos keep their size.
        make: makes the image.
    """

    side: int
    make: Decode | MakeLR

    def __call__(self, photo: Photo) -> Image:
        """Shrink the photo and make the image."""
        small = Photo(Source(photo.name, photo.path))
        small.pixels = shrink_to(photo.pixels, self.side)
        return self.make(small)


class FolderPairs(PairsDataModule):
    """Base of the data modules that read folders through a binary store.

    Args:
        store: folder for binary stores; `packed` beside the HR folder if None.
        pairs: arguments of `PairsDataModule`.
    """

    def __init__(self, *, store: str | None = None, **pairs: Any) -> None:  # noqa: ANN401
        super().__init__(**pairs)
        self.store = None if store is None else expanded(store)

    @abstractmethod
    def hr_folder(self, split: str) -> Path:
        """Return the folder of the HR photos."""

    def store_keys(self, split: str) -> tuple[str, str]:
        """Return keys that distinguish the HR and the LR store from others for `hr_folder`."""
        return "", ""

    @abstractmethod
    def hr_sources(self, split: str) -> list[Source]:
        """List the HR photos."""

    @abstractmethod
    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """List the LR photo of each HR photo; None if LR photos have to be made."""

    def photos(self, split: str, degradation: AnyDegradation | None) -> Photos:
        """Open the stores of a split, after packing what is missing.

        Raises:
            ValueError: naming the files that are missing, unreadable or of the wrong size.
        """
        folder = self.hr_folder(split)
        sources = self.hr_sources(split)
        where = store_folder(folder, self.store)
        hr_key, lr_key = self.store_keys(split)
        hr_what = f"HR photos ({split})"
        side = self.shrink_to if split == "train" else None
        orders: dict[int, Order] = {HR: Order("HR", sources, Decode(), hr_what, hr_key)}
        for scale in self.scales:
            found = None
            if not self.starts_from_hr and side is None:
                found = self.lr_sources(split, scale, sources[: self.limit])
            if degradation is None or (scale == 1 and not found and degradation == Degradation()):
                continue  # LR photos are the HR photos
            key = hr_key
            if found:
                key += lr_key + os.path.relpath(Path(found[0].path).parent, folder)
            orders[scale] = Order(
                "-".join(filter(None, [f"X{scale}", degradation.label()])),
                found or sources,
                MakeLR(1 if found else scale, degradation),
                f"LR photos x{scale} ({split})",
                key,
            )
        if side is not None:
            orders = {scale: shrunk(order, side) for scale, order in orders.items()}
        options: dict[str, Any] = {"limit": self.limit, "reread": self.reread}
        stores = pack(where, list(orders.values()), per_shard=PER_SHARD, **options)
        packed = dict(zip(orders, stores, strict=True))
        hr = packed.pop(HR)
        for scale, lr in packed.items():
            check_sizes(hr.sizes, lr.sizes, orders[scale].sources, scale)
        return Photos(hr, {scale: packed.get(scale, hr) for scale in self.scales})


def shrunk(order: Order, side: int) -> Order:
    """Return the order of the same images of photos whose shorter side is shrunk to `side`."""
    assert isinstance(order.make, Decode | MakeLR)
    return replace(order, label=f"{order.label}-{side}", make=Shrunk(side, order.make))


def store_folder(photos: Path, store: Path | None) -> Path:
    """Return where to store a folder's photos: beside it, or in `store`, named by its full path."""
    if store is None:
        return photos.parent / "packed" / photos.name
    full = str(photos.resolve())
    return store / f"{photos.name}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def to_sources(photos: dict[str, FoundPhoto]) -> list[Source]:
    """Convert found photos to sources of a store."""
    return [Source(name, str(photo.path)) for name, photo in photos.items()]


def check_sizes(
    hr: NDArray[np.int64], lr: NDArray[np.int64], sources: Sequence[Source], scale: int
) -> None:
    """Check that the sizes of LR and HR photos match; each is N x 2: height, width.

    Raises:
        ValueError: naming the first ten LR photos of unexpected size.
    """
    wrong = np.flatnonzero((lr != hr // scale).any(axis=1)).tolist()
    problems = [
        f"{printable_name(sources[k].path)} is {lr[k, 1]}x{lr[k, 0]}, expected "
        f"{hr[k, 1] // scale}x{hr[k, 0] // scale}, as HR is {hr[k, 1]}x{hr[k, 0]}"
        for k in wrong
    ]
    if problems:
        raise ValueError(list_problems(f"LR photos of the wrong size for x{scale}", problems))


class PhotoFolders(FolderPairs):
    """Photos of any kind, given by folders, files, globs such as `photos/*.png`, or lists of these.

    Folders include their subfolders. In LR folders, the LR photo of `name` is `X2/namex2.png`,
    `X2/name.png`, `namex2.png` or `name.png` (with any suffix). Without LR folders, LR photos are
    made by MATLAB's bicubic. If there are as many LR folders as HR folders, they correspond in
    this order.

    Args:
        train_hr: photos for training; None for evaluation only.
        val_hr: photos for validation, which are excluded from training.
        train_lr: LR photos for training; made if None.
        val_lr: LR photos for validation; made if None.
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
        self.given = {name: as_list(where) for name, where in given.items() if where is not None}
        self.hr_photos: dict[str, dict[str, FoundPhoto]] = {}  # by split and name
        reason = {name: self.lr_reason(name) for name in ("train_lr", "val_lr")}
        for name in filter(reason.get, self.given):
            raise ValueError(
                f"data.{name}={','.join(self.given[name])}: is not read, because {reason[name]} "
                "makes LR photos from HR; leave it out"
            )
        is_made = not (train_lr and val_lr) and not self.starts_from_hr
        made = "; LR made by bicubic shrinking" if is_made else ""
        train, val = (", ".join(self.given.get(name, [])) for name in ("train_hr", "val_hr"))
        photos = f"photos of {train}, validated on" if self.trains else "photos of"
        self.description = f"{photos} {val}{made}{self.lr_note}"

    def lr_reason(self, key: str) -> str | None:
        """Return the setting because of which given LR photos cannot be used; None if they can."""
        if self.starts_from_hr:
            return f"data.degradation={self.degradation.label()}"
        if self.shrink_to is not None and key == "train_lr":
            return f"data.shrink_to={self.shrink_to}"
        return None

    def hr_given(self, split: str) -> list[str]:
        """Return the entries given for the HR photos."""
        if f"{split}_hr" not in self.given:
            raise ValueError("data.train_hr=null: there are no photos to train on")
        return self.given[f"{split}_hr"]

    def hr_folder(self, split: str) -> Path:
        """Return the folder of the HR photos, or the first one."""
        return min(map(base_folder, self.hr_given(split)), default=Path())

    def store_keys(self, split: str) -> tuple[str, str]:
        """Return keys that distinguish the HR and the LR store from others for `hr_folder`."""
        return store_key(self.hr_given(split)), store_key(self.given.get(f"{split}_lr", [""]))

    def hr_sources(self, split: str) -> list[Source]:
        """List the HR photos, without those of the other keys and results of `enhance`.

        Raises:
            ValueError: listing all entries that match no photo.
        """
        if split not in self.hr_photos:
            found = self.search_all(split)
            for name in (n for n in found if n.endswith("_hr")):
                self.hr_photos[name[:-3]] = name_photos(
                    found[name], self.given[name], f"data.{name}"
                )
        return to_sources(self.hr_photos[split])

    def search_all(self, split: str) -> dict[str, SearchResult]:
        """Find the photos of all keys, excluding from each those that belong to another.

        Validation photos are excluded from training, and LR photos from HR photos.

        Args:
            split: for `val`, photos for training may be missing.

        Raises:
            ValueError: listing all entries that match no photo.
        """
        self.hr_given(split)
        folders = [expanded(text) for given in self.given.values() for text in given]
        found: dict[str, SearchResult] = {}
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
            raise ValueError(join_problems(problems))
        if not all(map(is_one_folder, self.given.values())):  # else they share no photos
            for one, other in itertools.product(("train_hr", "val_hr"), ("train_lr", "val_lr")):
                if one in found and other in found:
                    found[one] = exclude_lr(found[one], found[other], len(self.given[other]))
            if "train_hr" in found:
                found["train_hr"], found["val_hr"] = separate_splits(
                    found["train_hr"], found["val_hr"]
                )
        for name, photos in found.items():
            if photos.left_out and name.endswith("_hr"):
                log.info("data.%s=%s: %s", name, ",".join(self.given[name]), photos.summary())
        return found

    def lr_sources(self, split: str, scale: int, hr: Sequence[Source]) -> list[Source] | None:
        """List the LR photo of each HR photo, found by its name; None if there are no folders."""
        given = self.given.get(f"{split}_lr")
        if given is None:
            return None
        photos = {source.name: self.hr_photos[split][source.name] for source in hr}
        num_hr = len(self.given[f"{split}_hr"])
        return find_lr(given, scale, photos, num_hr=num_hr, key=f"data.{split}_lr")


def check_names(folder: Path, expected: Sequence[str], *, complete: bool) -> None:
    """Check that a folder contains the expected files, and no others if they are complete.

    Raises:
        ValueError: naming missing and superfluous files.
    """
    found = {path.name for path in folder.iterdir() if not is_system(path.name)}
    problems = [f"{printable_name(name)} is missing" for name in expected if name not in found]
    if complete:
        problems += [
            f"{printable_name(name)} does not belong here" for name in sorted(found - set(expected))
        ]
    if problems:
        title = f"problems in {folder}, which should hold {expected[0]} to {expected[-1]}"
        raise ValueError(list_problems(title, problems))
