"""AVA: 255,510 photos with people's votes from 1 to 10.

Murray, Marchesotti, Perronnin: "AVA: a large-scale database for aesthetic visual analysis", CVPR
2012. `AVA.txt` has 255,530 lines of 15 numbers: index, image id, number of votes for each of 1 to
10, two semantic tags (0: none) and challenge.
"""

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.listing import join_some
from datamodules.rated import StoredRatings
from datamodules.ratings_table import MAX_VOTES, FileNames, Ratings, read_text
from system.places import expanded, program

log = logging.getLogger(__name__)

COLUMNS = 15
# Ids of images in the archive that are corrupt.
CORRUPT = (179118, 230701, 277832, 371434, 440774, 729377)
NUM_ABSENT = 20  # lines of AVA.txt whose image is not in the archive
NUM_LINES = 255_530  # lines of AVA.txt
TEST_LIST = "generic_test.jpgl"  # 20,000 ids
NUM_UNLISTED = 70  # ids of the test list that are not in AVA.txt


class Index(NamedTuple):
    """Content of AVA.txt, one entry per photo."""

    ids: NDArray[np.int64]
    votes: NDArray[np.int64]  # N x 10
    tags: NDArray[np.int64]  # N x 2; 0 is none
    challenges: NDArray[np.int64]


class AVA(StoredRatings):
    """AVA in the layout of its archives: `AVA.txt`, `images/<id>.jpg`, optionally `tags.txt`.

    Args:
        root: folder that holds these.
        images: the photos: a folder with its subfolders, a glob or a list of these; `images` in
            `root` if None.
        split: `official` (the 19,930 usable images of `generic_test.jpgl` validate, all others
            train), `random` (the paper's 80/20, by `split_seed`) or `lists` (`val_list`,
            `train_list`).
        tags: only photos with one of these semantic tags: numbers, or names of `tags.txt`.
        challenges: only photos of these challenges.
        more: arguments of `StoredRatings`.
    """

    def __init__(
        self,
        root: str,
        *,
        images: str | list[str] | None = None,
        split: Literal["official", "random", "lists"] = "official",
        tags: list[int | str] | None = None,
        challenges: list[int] | None = None,
        val_list: str | None = None,
        max_missing: int = NUM_ABSENT,
        **more: Any,  # noqa: ANN401
    ) -> None:
        self.root = expanded(root)
        if (split == "lists") != (val_list is not None):
            raise ValueError(
                f"data.split={split}, data.val_list={val_list}: split=lists needs val_list, and "
                "other splits take none"
            )
        where = str(self.root / "images") if images is None else images
        super().__init__(where, val_list=val_list, max_missing=max_missing, **more)
        if self.num_buckets != 10:
            raise ValueError(
                f"scorer.num_buckets={self.num_buckets}: people rated AVA from 1 to 10"
            )
        self.official = split == "official"  # whose list has 70 ids that are not in AVA.txt
        self.tags = tags
        self.challenges = challenges
        self.description = f"AVA, {split} split"
        for name, wanted in (("tags", tags), ("challenges", challenges)):
            if wanted is not None:
                self.description += f", {name} {', '.join(map(str, wanted))}"

    def ratings(self) -> Ratings:
        """Read AVA.txt without the corrupt files, and find the official test list if needed."""
        if self.official:
            self.val_list = str(self.find_test_list())
        index = read_index(self.root / "AVA.txt")
        if self.official:
            self.check_test_list(index)
        used = ~np.isin(index.ids, CORRUPT)
        corrupt = [str(i) for i in index.ids[~used]]
        notes = [f"{len(corrupt)} whose files are known to be corrupt ({join_some(corrupt)})"]
        if self.tags is not None:
            numbers = tag_numbers(self.tags, self.root / "tags.txt")
            used &= np.isin(index.tags, numbers).any(axis=1)
        if self.challenges is not None:
            used &= np.isin(index.challenges, self.challenges)
        if not used.any():
            raise ValueError(f"data.tags={self.tags}, data.challenges={self.challenges}: no photo")
        votes = index.votes[used]
        p_NK = (votes / votes.sum(axis=1, keepdims=True)).astype(np.float32)
        names = np.array(self.files_of(index))
        notes = [*(notes if corrupt else []), *self.others(names.tolist())]
        return Ratings(names[used], p_NK, votes.sum(axis=1), notes)

    def files_of(self, index: Index) -> list[str]:
        """Find the file of each image, `<id>.jpg`, which may be in a subfolder.

        Raises:
            ValueError: naming two files that could be the same image.
        """
        photos, _ = self.found
        known = FileNames(photos)
        names = [f"{number}.jpg" for number in index.ids.tolist()]
        try:
            return [known.resolve(name) for name in names]
        except ValueError as error:
            raise ValueError(f"{self.where}: an image of AVA.txt {error}") from error

    def find_test_list(self) -> Path:
        """Return the path of the official test list.

        Raises:
            ValueError: saying where it was looked for.
        """
        places = [self.root / TEST_LIST, self.root / "aesthetics_image_lists" / TEST_LIST]
        for place in places:
            if place.is_file():
                return place
        raise ValueError(
            f"{places[1]}: no such file (nor {places[0]}); data.split=random does without the "
            "official test list"
        )

    def check_test_list(self, index: Index) -> None:
        """Raise a ValueError if too many images of the official test list are not in AVA.txt."""
        path = self.find_test_list()
        wanted = {word.partition(".")[0] for word in read_text(path, "a list of images").split()}
        lacking = sorted(wanted.difference(map(str, index.ids.tolist())))
        if len(lacking) > NUM_UNLISTED:
            raise ValueError(
                f"{self.root / 'AVA.txt'}: lacks {len(lacking)} of the {len(wanted)} images of "
                f"{path.name} ({join_some(lacking, 3)}); {NUM_UNLISTED} are known to be missing, "
                "so it is incomplete: get it again, or set data.split=random to use what is there"
            )


def read_index(path: Path) -> Index:
    """Read AVA.txt, and warn if lines are missing.

    Raises:
        ValueError: naming the file and the line.
    """
    try:
        text = read_text(path, "AVA's ratings")
    except ValueError as error:
        raise ValueError(
            f"{error}; {program()} prepare dataset=ava tells you where to get AVA, "
            "data.root=FOLDER sets where it is"
        ) from error
    if not text.strip():
        raise ValueError(f"{path}: is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy 1 only warns about non-integers
            table = np.loadtxt(text.splitlines(), dtype=np.int64, ndmin=2, comments=None)
        if table.shape[1] != COLUMNS:
            raise ValueError(f"{table.shape[1]} columns")
    except (ValueError, OverflowError, IndexError, DeprecationWarning) as error:
        raise ValueError(f"{path}: {first_bad_line(text)}") from error
    ids, votes = table[:, 1], table[:, 2:12]
    if (wrong := first_wrong_row(ids, votes)) is not None:
        row, reason = wrong
        numbers = [n for n, line in enumerate(text.splitlines(), 1) if line.strip()]
        raise ValueError(f"{path}: line {numbers[row]}: image {ids[row]} {reason}")
    if len(table) < NUM_LINES:
        cut = "" if text.endswith("\n") else ", and the end of its last line is missing"
        log.warning("%s has %d of AVA's %d lines%s", path, len(table), NUM_LINES, cut)
    return Index(ids, votes, table[:, 12:14], table[:, 14])


def first_wrong_row(ids: NDArray[np.int64], votes: NDArray[np.int64]) -> tuple[int, str] | None:
    """Return the first row that cannot be right and the reason; None if all are plausible."""
    _, first = np.unique(ids, return_index=True)
    repeated = np.ones(len(ids), np.bool_)
    repeated[first] = False
    reasons = {
        "has an id that is not positive": ids <= 0,
        "has a negative number of votes": (votes < 0).any(axis=1),
        f"has more than {MAX_VOTES} votes for one rating": (votes > MAX_VOTES).any(axis=1),
        "has no valid votes": (votes == 0).all(axis=1),
        "appears twice": repeated,
    }
    found = [(int(bad.argmax()), reason) for reason, bad in reasons.items() if bad.any()]
    return min(found, default=None)


def first_bad_line(text: str) -> str:
    """Describe the first line that is not 15 integers."""
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        words = line.split()
        numbers = [word for word in words if re.fullmatch(r"-?[0-9]{1,18}", word)]
        if words and (len(numbers) != COLUMNS or len(words) != COLUMNS):
            cut = number == len(lines) and not text.endswith("\n")
            hint = "; the file is cut off there: get it again" if cut else ""
            return f"line {number} is not 15 whole numbers: {line[:60]!r}{hint}"
    return "has lines that are not 15 whole numbers"


def tag_numbers(tags: Sequence[int | str], path: Path) -> list[int]:
    """Convert names of semantic tags to numbers.

    Raises:
        ValueError: for a name that is not in tags.txt.
    """
    names: dict[str, int] = {}
    if path.is_file():
        for line in read_text(path, "a list of tags").splitlines():
            number, _, name = line.strip().partition(" ")
            if number.isdecimal():
                names[name.strip().lower()] = int(number)
    numbers = []
    for tag in tags:
        if isinstance(tag, str) and tag.lower() not in names:
            allowed = ", ".join(names) if names else f"numbers only, as there is no {path}"
            raise ValueError(f"data.tags={tag}: allowed are {allowed}")
        numbers.append(names[tag.lower()] if isinstance(tag, str) else tag)
    return numbers
