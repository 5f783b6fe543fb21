"""Sets of photos as users give them: a folder, a file, a glob or a list of these.

`images.finding` finds the files. Here each gets a name of its own, photos that validate are
kept out of training, and LR photos are found by the names of HR photos.
"""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.listing import listing
from datamodules.store import Source
from images.file_names import printable_name
from images.finding import FoundPhoto, SearchResult, base_folder, search

log = logging.getLogger(__name__)


def names_of(found: SearchResult, given: Sequence[str], key: str) -> dict[str, FoundPhoto]:
    """The photos by name: the path below the folder that was given, without suffix.

    Where several were given, it is the path below the folder that holds all of them, so photos of
    one name in two folders are told apart, and the order of the list does not matter.

    Args:
        found: what was found.
        given: what was searched for.
        key: of the configuration, for messages.

    Raises:
        ValueError: if two photos have one name.
    """
    folders = [Path(os.path.abspath(base_folder(text))) for text in given]
    common = os.path.commonpath(folders)
    above = [folder.relative_to(common) for folder in folders]
    photos: dict[str, FoundPhoto] = {}
    for photo in sorted(found.photos, key=lambda photo: above[photo.entry] / photo.below):
        name = (above[photo.entry] / photo.name).as_posix()
        other = photos.setdefault(name, photo)
        if other is not photo:
            raise ValueError(
                f"{key}: {printable_name(other.path)} and {printable_name(photo.path.name)} share "
                "the name by which LR photos and results are found"
            )
    return photos


def is_one_folder(given: Sequence[str]) -> bool:
    """Whether a single folder was given."""
    return len(given) == 1 and Path(given[0]).expanduser().is_dir()


def store_key(given: Sequence[str]) -> str:
    """What tells the store of this choice of photos from others beside the same folder."""
    if is_one_folder(given):
        return ""
    return "\0".join(sorted(os.path.abspath(Path(text).expanduser()) for text in given))


def real_paths(found: SearchResult, entry: int | None = None) -> set[str]:
    """The files that were found, or those of one of the list that was given."""
    return {os.path.realpath(p.path) for p in found.photos if entry in (None, p.entry)}


def less(found: SearchResult, others: set[str], what: str) -> SearchResult:
    """What was found, less some files that are counted by what they are."""
    kept = [photo for photo in found.photos if os.path.realpath(photo.path) not in others]
    num = len(found.photos) - len(kept)
    return SearchResult(kept, found.left_out + Counter({what: num}))


def apart(train: SearchResult, val: SearchResult) -> tuple[SearchResult, SearchResult]:
    """Photos that train and photos that validate, those of both in the narrower choice alone.

    Two choices of the very same photos stay as they are.
    """
    one, two = real_paths(train), real_paths(val)
    both = one & two
    if one == two:
        log.warning("the same %d photos train and validate", len(one))
    if not both or one == two:
        return train, val
    if one < two:
        return train, less(val, both, "photos that train")
    return less(train, both, "photos that validate"), val


def without_lr(hr: SearchResult, lr: SearchResult, num_entries: int) -> SearchResult:
    """HR photos without the LR photos that lie among them."""
    for entry in range(num_entries):
        within = real_paths(lr, entry)
        if within and within < real_paths(hr):
            hr = less(hr, within, "LR photos")
    return hr


class Place(NamedTuple):
    """Photos of a folder or a glob by name; `alike` by their composed names (NFC)."""

    folder: Path
    photos: dict[str, FoundPhoto]
    alike: dict[str, FoundPhoto]

    def get(self, name: str) -> FoundPhoto | None:
        """The photo of this name."""
        return self.photos.get(name) or self.alike.get(unicodedata.normalize("NFC", name))


def lr_places(given: Sequence[str], scale: int, key: str) -> list[Place]:
    """The LR photos of a scale: those in `X2/` of a folder if that exists, else in itself.

    Raises:
        ValueError: listing what was given that stands for no photo.
    """
    places, problems = [], []
    for text in given:
        inner = Path(text).expanduser() / f"X{scale}"
        where = str(inner) if inner.is_dir() else text
        try:
            photos = names_of(search(where, key=key), [where], key)
        except ValueError as error:
            problems += str(error).splitlines()
            continue
        # macOS stores accents apart from their letters (NFD), others do not (NFC).
        alike = {unicodedata.normalize("NFC", name): photo for name, photo in photos.items()}
        places.append(Place(base_folder(where), photos, alike))
    if problems:
        raise ValueError(at_once(problems))
    return places


def find_lr(
    given: Sequence[str], scale: int, hr: Mapping[str, FoundPhoto], *, num_hr: int = 1, key: str
) -> list[Source]:
    """The LR photo of each HR photo, found by its name, with or without `x2` at its end.

    As many as were given for HR go together in this order; otherwise all are searched.

    Args:
        given: folders, files and globs of LR photos.
        scale: HR pixels per LR pixel.
        hr: the HR photos by name.
        num_hr: how many folders, files and globs they were given by.
        key: of the configuration, for messages.

    Raises:
        ValueError: naming LR photos that are missing, or that could belong to several.
    """
    places = lr_places(given, scale, key)
    taken: dict[Path, Path] = {}  # HR by LR
    sources, missing = [], []
    for name, photo in hr.items():
        paired = len(places) == num_hr
        here = [places[photo.entry]] if paired else places
        options: dict[Path, str] = {}
        for stem in [photo.name] if paired else dict.fromkeys([name, photo.name]):
            for place in here:
                for wanted in (stem, f"{stem}x{scale}"):
                    if (lr := place.get(wanted)) is not None:
                        options[lr.path] = printable_name(wanted if len(places) == 1 else lr.path)
            if options:
                break
        if len(options) > 1:
            could = " or ".join(options.values())
            raise ValueError(f"{key}: LR of {printable_name(photo.path.name)} could be {could}")
        if not options:
            wanted = " or ".join(f"{place.folder / photo.name}x{scale}.png" for place in here)
            missing.append(printable_name(f"{wanted} (of {photo.path.name})"))
            continue
        (path,) = options
        other = taken.setdefault(path, photo.path)
        if other != photo.path:
            of = f"{printable_name(other)} or {printable_name(photo.path)}"
            raise ValueError(f"{key}: {printable_name(path)} could be LR of {of}")
        sources.append(Source(name, str(path)))
    if missing:
        raise ValueError(listing("LR photos are missing", missing))
    return sources


def at_once(problems: Sequence[str]) -> str:
    """All problems of what was given: one as it is, several as lines below a title."""
    title = f"{len(problems)} mistakes in what was given as photos:"
    return problems[0] if len(problems) == 1 else "\n  ".join([title, *problems])
