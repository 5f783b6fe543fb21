"""Read tables of ratings written by people and spreadsheets; distributions from their moments.

Shape suffixes: N images, K rating buckets.
"""

import codecs
import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def read_ratings(path: Path, num_buckets: int, files: Iterable[str] = ()) -> Ratings:
    """Read a table of ratings (see `RatedFolder`).

    It can be in UTF-8, or in UTF-16 or UTF-32 with a byte order mark, and separated by commas,
    semicolons or tabs. Unless commas are the separator, numbers may have a decimal comma, as Excel
    writes them in many countries.

    Args:
        path: the table.
        num_buckets: K.
        files: names of the photos, with which names in the table are matched up to Unicode form.

    Raises:
        ValueError: naming the table and the line.
    """
    columns, rows, separator = read_table(path)
    if not columns:
        raise ValueError(f"{path}: is empty")
    known = FileNames(files)
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
    if by_votes and len(votes) != num_buckets:
        raise ValueError(
            f"{path}: has votes for {len(votes)} ratings, the scorer is for {num_buckets}; "
            f"train one with scorer.num_buckets={len(votes)}"
        )
    names: dict[str, int] = {}
    values = np.empty((len(rows), len(columns) - 1))
    for k, (line, row) in enumerate(rows):
        try:
            if len(row) != len(columns) or not row[0].strip():
                raise ValueError(f"a name and {len(votes)} numbers are needed")
            values[k] = [parse_number(word, separator, is_vote=by_votes) for word in row[1:]]
            check_values(values[k], num_buckets, by_votes=by_votes)
            name = resolve_cell(row[0].strip(), known, by_path=by_path)
            if names.setdefault(name, k) != k:
                raise ValueError("appears twice")
        except ValueError as error:
            raise ValueError(f"{path}, '{join_cells(row[:1])}' in line {line}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: has no row")
    if by_votes:
        p_NK = values / values.sum(axis=1, keepdims=True)
    else:
        p_NK = maximum_entropy(*values.T, num_buckets=num_buckets)
    num_votes_N = None
    if by_votes and (values == values.round()).all():  # otherwise they are shares
        num_votes_N = values.sum(axis=1).astype(np.int64)
    return Ratings(np.array(list(names)), p_NK.astype(np.float32), num_votes_N, [])


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


def min_std(mean: float) -> float:
    """Return the smallest standard deviation for a mean: only the two nearest ratings occur."""
    return math.sqrt((mean - math.floor(mean)) * (math.floor(mean) + 1 - mean))


def max_std(mean: float, num_buckets: int) -> float:
    """Return the largest standard deviation for a mean: only ratings of 1 and K occur."""
    return math.sqrt((mean - 1) * (num_buckets - mean))


def moments_problem(mean: float, std: float | None = None, *, num_buckets: int) -> str | None:
    """Describe why no distribution over 1..K has these moments; None if there is one."""
    if not 1 <= mean <= num_buckets:
        return f"a mean of {mean:g} is not within 1 to {num_buckets}"
    low, high = min_std(mean), max_std(mean, num_buckets)
    if std is not None and not low - 1e-6 <= std <= high + 1e-6:
        return (
            f"ratings of 1 to {num_buckets} with a mean of {mean:g} have a standard deviation of "
            f"{low:.4g} to {high:.4g}, not {std:g}"
        )
    return None


def maximum_entropy(
    mean_N: NDArray[np.float64], std_N: NDArray[np.float64] | None = None, *, num_buckets: int
) -> NDArray[np.float64]:
    """Compute the maximum-entropy distributions over 1..K with given means and deviations.

    They are p_k ~ exp(a k), or p_k ~ exp(a k + b k^2) if a standard deviation is given (Jaynes,
    Physical Review 1957).

    Args:
        mean_N: means, in 1..K.
        std_N: possible standard deviations (see `moments_problem`); unconstrained if None.
        num_buckets: K.

    Returns:
        N x K, rows sum to 1.
    """
    k_K = np.arange(1, num_buckets + 1, dtype=np.float64)
    if std_N is not None:
        # At the limits there is only one distribution, for which a and b are infinite.
        low_N = np.array([min_std(mean) for mean in mean_N])
        high_N = np.array([max_std(mean, num_buckets) for mean in mean_N])
        gap_N = 1e-4 * (high_N - low_N)
        std_N = np.clip(std_N, low_N + gap_N, high_N - gap_N)
    x_K = (2 * k_K - num_buckets - 1) / (num_buckets - 1)  # in -1..1
    unit = 2 / (num_buckets - 1)
    aim_N = np.clip((mean_N - (num_buckets + 1) / 2) * unit, -1 + 1e-6, 1 - 1e-6)
    features = [x_K] if std_N is None else [x_K, x_K**2]
    aims = [aim_N] if std_N is None else [aim_N, (std_N * unit) ** 2 + aim_N**2]
    p_NK = match_moments(np.array(features), np.stack(aims, axis=1))
    for mean, bucket in ((1, 0), (num_buckets, -1)):  # only one bucket is possible
        p_NK[mean_N == mean] = np.eye(num_buckets)[bucket]
    return p_NK


def match_moments(f_FK: NDArray[np.float64], aim_NF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute maximum-entropy distributions by Newton's method on the dual, which is convex.

    Args:
        f_FK: features of each bucket.
        aim_NF: expectation that each feature has to have in each distribution.

    Returns:
        N x K, rows sum to 1.
    """
    weight_NF = np.zeros_like(aim_NF)
    p_NK, value_N = evaluate_dual(weight_NF, f_FK, aim_NF)
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
        for _ in range(40):  # halve steps that overshoot
            _, new_N = evaluate_dual(weight_NF - size_N[:, None] * step_NF, f_FK, aim_NF)
            worse_N = new_N > value_N + 1e-15
            if not worse_N.any():
                break
            size_N[worse_N] /= 2
        size_N[worse_N] = 0
        weight_NF = weight_NF - size_N[:, None] * step_NF
        p_NK, value_N = evaluate_dual(weight_NF, f_FK, aim_NF)
    return p_NK


def evaluate_dual(
    weight_NF: NDArray[np.float64], f_FK: NDArray[np.float64], aim_NF: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the distributions with these weights (N x K) and the values of the dual (N)."""
    logits_NK = weight_NF @ f_FK
    top_N1 = logits_NK.max(axis=1, keepdims=True)
    p_NK = np.exp(logits_NK - top_N1)
    total_N1 = p_NK.sum(axis=1, keepdims=True)
    value_N = (np.log(total_N1) + top_N1)[:, 0] - (weight_NF * aim_NF).sum(axis=1)
    return p_NK / total_N1, value_N
