"""LR/HR pairs of photos in folders, packed into a store."""

import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.degradations import Degradation, shrink
from datamodules.listing import listing
from datamodules.packing import pack
from datamodules.pairs import PairsDataModule, Photos
from datamodules.photo_sets import (
    apart,
    at_once,
    find_lr,
    is_one_folder,
    names_of,
    store_key,
    without_lr,
)
from datamodules.store import Image, Images, Source
from images.file_names import printable_name
from images.finding import FoundPhoto, SearchResult, as_list, base_folder, is_system, search
from images.pixels import to_array
from images.reading import read_image

log = logging.getLogger(__name__)


PER_SHARD = 64  # photos per file of the store: half a gigabyte of DIV2K


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
            raise ValueError(f"{printable_name(source.path)}: {error}") from error


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


def sources_of(photos: dict[str, FoundPhoto]) -> list[Source]:
    """The files of photos by name."""
    return [Source(name, str(photo.path)) for name, photo in photos.items()]


def check_sizes(
    hr: NDArray[np.int64], lr: NDArray[np.int64], sources: Sequence[Source], scale: int
) -> None:
    """Compares the sizes of LR and HR photos, N x 2 each: height, width.

    Raises:
        ValueError: naming the first ten LR photos of another size than expected.
    """
    wrong = np.flatnonzero((lr != hr // scale).any(axis=1)).tolist()
    problems = [
        f"{printable_name(sources[k].path)} is {lr[k, 1]}x{lr[k, 0]}, expected "
        f"{hr[k, 1] // scale}x{hr[k, 0] // scale}, as HR is {hr[k, 1]}x{hr[k, 0]}"
        for k in wrong
    ]
    if problems:
        raise ValueError(listing(f"LR photos of the wrong size for x{scale}", problems))


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
        self.given = {name: as_list(where) for name, where in given.items() if where is not None}
        self.chosen: dict[str, dict[str, FoundPhoto]] = {}
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
        return min(map(base_folder, self.hr_given(split)), default=Path())

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

    def searched(self, split: str) -> dict[str, SearchResult]:
        """What each key stands for. Photos that validate do not train, LR photos are no HR photos.

        Args:
            split: `val` does without photos that train, which may be elsewhere.

        Raises:
            ValueError: listing all that was given and stands for no photo.
        """
        self.hr_given(split)
        folders = [Path(text).expanduser() for given in self.given.values() for text in given]
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
    problems = [f"{printable_name(name)} is missing" for name in expected if name not in found]
    if complete:
        problems += [
            f"{printable_name(name)} does not belong here" for name in sorted(found - set(expected))
        ]
    if problems:
        title = f"problems in {folder}, which should hold {expected[0]} to {expected[-1]}"
        raise ValueError(listing(title, problems))
