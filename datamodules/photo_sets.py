"""Sets of photos given by folders, files, globs or lists of these.

`images.finding` finds the files. This module gives each photo a unique name, excludes validation
photos from training, and finds LR photos by the names of HR photos.
"""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.listing import list_problems
from datamodules.store import Source
from images.file_names import printable_name
from images.finding import (
    FoundPhoto,
    SearchResult,
    base_folder,
    is_one_folder,
    photos_by_name,
    search,
)
from system.places import expanded

log = logging.getLogger(__name__)


def name_photos(found: SearchResult, given: Sequence[str], key: str) -> dict[str, FoundPhoto]:
    """Name each photo by its path relative to the folder given, without suffix.

    If there are several entries, paths are relative to their common parent folder, so that photos
    of the same name in two folders are distinguished and the order of entries does not matter.

    Raises:
        ValueError: if two photos have the same name.
    """
    above = below_common(given)
    photos: dict[str, FoundPhoto] = {}
    for photo in sorted(found.photos, key=lambda photo: above[photo.entry] / photo.relative_path):
        name = (above[photo.entry] / photo.name).as_posix()
        other = photos.setdefault(name, photo)
        if other is not photo:
            raise ValueError(
                f"{key}: {printable_name(other.path)} and {printable_name(photo.path.name)} share "
                "the name by which LR photos and results are found"
            )
    return photos


def below_common(given: Sequence[str]) -> list[Path]:
    """Return the folder of each entry, relative to the folder that holds all of them."""
    folders = [Path(os.path.abspath(base_folder(text))) for text in given]
    common = os.path.commonpath(folders)
    return [folder.relative_to(common) for folder in folders]


def rated_photos(given: Sequence[str], key: str) -> tuple[dict[str, str], Counter[str]]:
    """Find photos for a table of ratings: paths by name, and the other files by kind.

    The name is the path below the folder that was given, with suffix; where several were given, the
    path below the folder that holds all of them.

    Raises:
        ValueError: with a line for each entry that stands for no photo.
    """
    if is_one_folder(given):
        return photos_by_name(expanded(given[0]))
    found = search(given, key=key)
    above = below_common(given)
    photos = {
        (above[one.entry] / one.relative_path).as_posix(): str(one.path) for one in found.photos
    }
    return dict(sorted(photos.items())), found.left_out


def store_key(given: Sequence[str]) -> str:
    """Return a key that distinguishes the store of these photos from others for the same folder."""
    if is_one_folder(given):
        return ""
    return "\0".join(sorted(os.path.abspath(expanded(text)) for text in given))


def real_paths(found: SearchResult, entry: int | None = None) -> set[str]:
    """Return the real paths of all photos found, or of those found by one entry."""
    return {os.path.realpath(p.path) for p in found.photos if entry in (None, p.entry)}


def exclude(found: SearchResult, others: set[str], what: str) -> SearchResult:
    """Exclude files, given by their real paths, and count them as left out under `what`."""
    kept = [photo for photo in found.photos if os.path.realpath(photo.path) not in others]
    num = len(found.photos) - len(kept)
    return SearchResult(kept, found.left_out + Counter({what: num}))


def separate_splits(train: SearchResult, val: SearchResult) -> tuple[SearchResult, SearchResult]:
    """Assign photos found for both training and validation to only one of them.

    They stay in validation, unless all training photos are among them: then they stay in training.
    If both sets are identical, they stay so.
    """
    train_paths, val_paths = real_paths(train), real_paths(val)
    both = train_paths & val_paths
    if train_paths == val_paths:
        log.warning("the same %d photos are used for training and validation", len(train_paths))
    if not both or train_paths == val_paths:
        return train, val
    if train_paths < val_paths:
        return train, exclude(val, both, "training photos")
    return exclude(train, both, "validation photos"), val


def exclude_lr(hr: SearchResult, lr: SearchResult, num_entries: int) -> SearchResult:
    """Exclude LR photos that were also found as HR photos."""
    for entry in range(num_entries):
        within = real_paths(lr, entry)
        if within and within < real_paths(hr):
            hr = exclude(hr, within, "LR photos")
    return hr


class LRPhotos(NamedTuple):
    """LR photos of a folder or a glob by name, and by the composed form (NFC) of their names."""

    folder: Path
    by_name: dict[str, FoundPhoto]
    by_nfc: dict[str, FoundPhoto]

    def get(self, name: str) -> FoundPhoto | None:
        """Return the photo of this name, or None."""
        return self.by_name.get(name) or self.by_nfc.get(unicodedata.normalize("NFC", name))


def search_lr(given: Sequence[str], scale: int, key: str) -> list[LRPhotos]:
    """Find the LR photos of a scale: in the subfolder `X2/` of a folder if it exists, else in it.

    Raises:
        ValueError: listing the entries that match no photo.
    """
    found, problems = [], []
    for text in given:
        inner = expanded(text) / f"X{scale}"
        where = str(inner) if inner.is_dir() else text
        try:
            photos = name_photos(search(where, key=key), [where], key)
        except ValueError as error:
            problems += str(error).splitlines()
            continue
        # macOS decomposes accented letters in file names (NFD), other systems do not (NFC).
        by_nfc = {unicodedata.normalize("NFC", name): photo for name, photo in photos.items()}
        found.append(LRPhotos(base_folder(where), photos, by_nfc))
    if problems:
        raise ValueError(join_problems(problems))
    return found


def find_lr(
    given: Sequence[str], scale: int, hr: Mapping[str, FoundPhoto], *, num_hr: int = 1, key: str
) -> list[Source]:
    """Find the LR photo of each HR photo by its name, with or without `x2` at the end.

    If there are as many entries for LR as for HR photos, they correspond in this order; otherwise
    each LR photo may be in any of them.

    Args:
        given: folders, files and globs of LR photos.
        scale: HR pixels per LR pixel.
        hr: HR photos by name.
        num_hr: number of entries by which the HR photos were given.
        key: configuration key, for messages.

    Raises:
        ValueError: naming LR photos that are missing or ambiguous.
    """
    lr_photos = search_lr(given, scale, key)
    taken: dict[Path, Path] = {}  # HR photo by LR photo
    sources, missing = [], []
    for name, photo in hr.items():
        paired = len(lr_photos) == num_hr
        candidates = [lr_photos[photo.entry]] if paired else lr_photos
        options: dict[Path, str] = {}
        for stem in [photo.name] if paired else dict.fromkeys([name, photo.name]):
            for candidate in candidates:
                for wanted in (stem, f"{stem}x{scale}"):
                    if (lr := candidate.get(wanted)) is not None:
                        alone = len(lr_photos) == 1
                        options[lr.path] = printable_name(wanted if alone else lr.path)
            if options:
                break
        if len(options) > 1:
            could = " or ".join(options.values())
            raise ValueError(f"{key}: LR of {printable_name(photo.path.name)} could be {could}")
        if not options:
            wanted = " or ".join(f"{c.folder / photo.name}x{scale}.png" for c in candidates)
            missing.append(printable_name(f"{wanted} (of {photo.path.name})"))
            continue
        (path,) = options
        other = taken.setdefault(path, photo.path)
        if other != photo.path:
            of = f"{printable_name(other)} or {printable_name(photo.path)}"
            raise ValueError(f"{key}: {printable_name(path)} could be LR of {of}")
        sources.append(Source(name, str(path)))
    if missing:
        raise ValueError(list_problems("LR photos are missing", missing))
    return sources


def join_problems(problems: Sequence[str]) -> str:
    """Join problems into one message: a single one unchanged, several below a title."""
    title = "problems with the given photos"
    return problems[0] if len(problems) == 1 else list_problems(title, problems, len(problems))
