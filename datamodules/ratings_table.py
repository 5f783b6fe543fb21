"""Read tables of ratings written by people and spreadsheets.

Shape suffixes: N images, K rating buckets.
"""

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.distributions import maximum_entropy, moments_problem, rescale, spread_votes
from datamodules.listing import join_some
from system.regular_files import read_regular
from system.terminal import printable

MAX_TABLE = 2**28  # bytes; AVA's table has 15 MB
MAX_VOTES = 10**6  # votes for one rating of a photo; AVA's photos have up to 549 in total
# UTF-32 first, because its mark starts with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAVE_AS_UTF8 = "save it as UTF-8 (in Excel: CSV UTF-8)"


class Ratings(NamedTuple):
    """Ratings of images."""

    names: NDArray[np.str_]  # file names, N
    p_NK: NDArray[np.float32]
    num_votes_N: NDArray[np.int64] | None  # None if not in the table
    notes: list[str]  # on images left out

    def rows(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> "Ratings":
        """Select images."""
        votes_N = None if self.num_votes_N is None else self.num_votes_N[rows]
        return Ratings(self.names[rows], self.p_NK[rows], votes_N, self.notes)


def read_text(path: Path, what: str) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Bytes that are not UTF-8 become lone surrogates, as Python decodes file names, because a table
    may contain such names.

    Args:
        path: the file.
        what: what it should contain, for messages.

    Raises:
        ValueError: naming the file, if it cannot be read or is in another encoding.
    """
    try:
        return decode_text(read_regular(path, MAX_TABLE))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read as {what} ({reason})") from error


def decode_text(content: bytes) -> str:
    """Decode a text file, whose zero bytes would mean another encoding."""
    marks = BYTE_ORDER_MARKS.items()
    encoding = next((name for mark, name in marks if content.startswith(mark)), None)
    if encoding is not None:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(f"damaged {encoding.upper()}; {SAVE_AS_UTF8}") from error
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"line {line} has zero bytes, so it is not UTF-8; {SAVE_AS_UTF8}")
    return content.decode("utf-8-sig", "surrogateescape")


def to_nfc(name: str) -> str:
    """Convert a name to composed Unicode (NFC), because macOS decomposes file names."""
    return unicodedata.normalize("NFC", name)


class FileNames:
    """Names of files below a folder, which a table may write in other ways.

    Accents may be composed or decomposed, and folders may be left out where that is unambiguous:
    `a.png` or `2023/a.png` for `trips/2023/a.png`.

    Args:
        names: paths of the files below the folder.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.by_nfc: dict[str, list[str]] = {}
        for name in self.names:
            self.by_nfc.setdefault(to_nfc(name), []).append(name)

    @cached_property
    def by_last_part(self) -> dict[str, list[str]]:
        """Group the files in subfolders by the last part of their names, composed."""
        files: dict[str, list[str]] = {}
        for name in filter(lambda name: "/" in name, self.names):
            files.setdefault(to_nfc(name).rpartition("/")[2], []).append(name)
        return files

    def resolve(self, name: str) -> str:
        """Return the file that a name means; the name itself if there is none.

        Raises:
            ValueError: if there are two.
        """
        if name in self.names:
            return name
        composed = to_nfc(name)
        if found := self.by_nfc.get(composed):
            if len(found) > 1:
                printable_name = " and ".join(sorted(map(ascii, found)))
                raise ValueError(f"two files look like {name!r}: {printable_name}")
            return found[0]
        last = composed.rpartition("/")[2]
        found = [n for n in self.by_last_part.get(last, []) if to_nfc(n).endswith(f"/{composed}")]
        if len(found) > 1:
            files = join_some(sorted(found), 3).replace(", ", " or ", 1)
            raise ValueError(f"could be {files}")
        return found[0] if found else name

    def resolve_path(self, path: str) -> str:
        """Return the file name that equals the end of a path, as many parts of it as possible.

        Raises:
            ValueError: if there are two.
        """
        parts = PurePosixPath(path).parts
        for k in range(len(parts)):
            name = self.resolve("/".join(parts[k:]))
            if name in self.names:
                return name
        return parts[-1] if parts else path


class Table(NamedTuple):
    """Cells of a table as text: names of the columns, and rows with their line numbers."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]
    separator: str


def read_table(path: Path) -> Table:
    """Read a CSV file with commas, semicolons or tabs, dropping blank rows and columns.

    Raises:
        ValueError: if it cannot be read.
    """
    what = "a table of ratings"
    text = read_text(path, what)
    if re.match("sep=.\r?\n", text):  # states the separator for Excel
        text = "\n" + text[text.index("\n") + 1 :]
    header = next(filter(str.strip, text.splitlines()), "")
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        lines = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        where = f"line {reader.line_num}: {error}"
        raise ValueError(f"{path}: cannot be read as {what} ({where})") from error
    columns = [name.strip().lower() for name in lines[0][1]] if lines else []
    while columns and not columns[-1]:  # spreadsheets also save empty columns
        columns.pop()
    width = len(columns)
    rows = [(n, row if any(map(str.strip, row[width:])) else row[:width]) for n, row in lines[1:]]
    return Table(columns, rows, separator)


def read_ratings(
    path: Path,
    num_buckets: int,
    files: Iterable[str] = (),
    scale: tuple[float, float] | None = None,
) -> Ratings:
    """Read a table of ratings (see `RatedFolder`).

    It can be in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, and separated by commas,
    semicolons or tabs. Unless commas are the separator, numbers may have a decimal comma, as Excel
    writes them in many countries.

    Args:
        path: the table.
        num_buckets: K.
        files: names of the photos, with which names in the table are matched up to Unicode form.
        scale: lowest and highest possible score; mapped to 1..K (see `datamodules.distributions`).
            None means 1..K itself.

    Raises:
        ValueError: naming the table and the line.
    """
    return parse_ratings(path, read_table(path), num_buckets, FileNames(files), scale)


def parse_ratings(
    path: Path,
    table: Table,
    num_buckets: int,
    known: FileNames,
    scale: tuple[float, float] | None,
) -> Ratings:
    """Convert the cells of a table, see `read_ratings`."""
    columns, rows, separator = table
    if not columns:
        raise ValueError(f"{path}: is empty")
    by_path = columns[1:4] == ["mean", "std", "p1"]  # written by `score`
    if by_path:
        columns = ["image", *(f"votes_{name.removeprefix('p')}" for name in columns[3:])]
        rows = [(line, [row[0], *row[3:]]) for line, row in rows]
    votes = [f"votes_{k}" for k in range(1, len(columns))]
    if columns not in (["image", *votes], ["image", "mean"], ["image", "mean", "std"]) or not votes:
        raise ValueError(
            f"{path}: the columns are {join_cells(columns)}; needed are image,votes_1,...,votes_K "
            "or image,mean or image,mean,std, or the table that score writes"
        )
    by_votes = columns[1] == "votes_1"
    if by_votes and len(votes) != num_buckets and (scale is None or len(votes) < 2):
        raise ValueError(
            f"{path}: has votes for {len(votes)} ratings, the scorer is for {num_buckets}; "
            f"train one with scorer.num_buckets={len(votes)}, or map them by a scale: "
            f"[1,{len(votes)}]"
        )
    names: dict[str, int] = {}
    values = np.empty((len(rows), len(columns) - 1))
    for k, (line, row) in enumerate(rows):
        try:
            if len(row) != len(columns) or not row[0].strip():
                raise ValueError(f"a name and {len(votes)} numbers are needed")
            values[k] = [parse_number(word, separator, is_vote=by_votes) for word in row[1:]]
            if scale is not None and not by_votes:
                values[k] = rescale(values[k], scale, num_buckets)
            check_values(values[k], num_buckets, by_votes=by_votes)
            name = resolve_cell(row[0].strip(), known, by_path=by_path)
            if names.setdefault(name, k) != k:
                raise ValueError("appears twice")
        except ValueError as error:
            raise ValueError(f"{path}, '{join_cells(row[:1])}' in line {line}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: has no row")
    p_NK = to_distributions(values, num_buckets, by_votes=by_votes)
    num_votes_N = None
    if by_votes and (values == values.round()).all():  # otherwise they are shares
        num_votes_N = values.sum(axis=1).astype(np.int64)
    return Ratings(np.array(list(names)), p_NK.astype(np.float32), num_votes_N, [])


def to_distributions(
    values: NDArray[np.float64], num_buckets: int, *, by_votes: bool
) -> NDArray[np.float64]:
    """Convert rows of votes, or of a mean and perhaps a standard deviation on 1..K, to N x K."""
    if not by_votes:
        return maximum_entropy(*values.T, num_buckets=num_buckets)
    share_NJ: NDArray[np.float64] = values / values.sum(axis=1, keepdims=True)
    return share_NJ if share_NJ.shape[1] == num_buckets else spread_votes(share_NJ, num_buckets)


def join_cells(words: list[str]) -> str:
    """Join cells of a table for a message, shortened if there are many."""
    return printable(",".join(words), 200)


def resolve_cell(text: str, known: FileNames, *, by_path: bool) -> str:
    """Return the file named by a cell of a table, which contains a path if `by_path` is set.

    Raises:
        ValueError: if it could be two files, or is not UTF-8 and matches none.
    """
    name = known.resolve_path(text) if by_path else known.resolve(text)
    if name not in known.names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            byte = ord(name[error.start]) - 0xDC00
            raise ValueError(
                f"the name has the byte 0x{byte:02X}, which is not UTF-8, and no photo is called "
                f"so; {SAVE_AS_UTF8.replace('it', 'the table', 1)}"
            ) from error
    return name


def parse_number(word: str, separator: str, *, is_vote: bool) -> float:
    """Parse a cell as a number; a comma may be a decimal comma unless it is the table's separator.

    Raises:
        ValueError: if it is not a number, or a point or comma may separate thousands.
    """
    word = word.strip()
    if is_vote and separator != "," and re.fullmatch(r"[1-9]\d{0,2}([.,]\d{3})+", word):
        raise ValueError(f"{word} could be a thousand times as many votes; write whole numbers")
    plain = word.replace(",", ".") if separator != "," else word
    try:
        if "_" in plain:  # allowed in Python, but not in tables
            raise ValueError
        return float(plain)
    except ValueError as error:
        raise ValueError(f"{word[:40]!r} is not a number") from error


def check_values(values: NDArray[np.float64], num_buckets: int, *, by_votes: bool) -> None:
    """Raise a ValueError unless these are possible votes, or a possible mean and std."""
    if not np.isfinite(values).all() or (by_votes and values.min() < 0):
        raise ValueError("the numbers have to be finite, and votes 0 or more")
    if by_votes and values.max() > MAX_VOTES:
        raise ValueError(f"{values.max():g} votes for one rating; at most {MAX_VOTES} are possible")
    if by_votes and not values.any():
        raise ValueError("has no votes")
    wrong = None if by_votes else moments_problem(*values, num_buckets=num_buckets)
    if wrong is not None:
        raise ValueError(wrong)
