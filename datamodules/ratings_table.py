"""Tables of ratings as people and spreadsheets write them, and distributions from their moments.

Shape suffixes: N images, K rating buckets.
"""

import codecs
import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from networks.tensor_files import printable
from system.regular_files import read_regular

MAX_TABLE = 2**28  # bytes; a line for each photo of AVA takes 15 MB
MAX_VOTES = 10**6  # for one rating of one photo; AVA's photos have up to 549 in all
# UTF-32 first: its mark begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAVE_AS_UTF8 = "save it as UTF-8 (in Excel: CSV UTF-8)"


class Ratings(NamedTuple):
    """Rated images, and what was left out of the table and why."""

    names: NDArray[np.str_]  # of the files, N
    p_NK: NDArray[np.float32]
    num_votes_N: NDArray[np.int64] | None  # None where the table does not say
    notes: list[str]


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Bytes that are not UTF-8 become lone surrogates, as in file names that Python reads: a table
    may name such files.

    Raises:
        ValueError: if it is in another encoding with zero bytes, or not a regular file.
        OSError: if it cannot be read.
    """
    content = read_regular(path, MAX_TABLE)
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), None)
    if encoding is not None:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(f"damaged {encoding.upper()}; {SAVE_AS_UTF8}") from error
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"line {line} has zero bytes, so it is not UTF-8; {SAVE_AS_UTF8}")
    return content.decode("utf-8-sig", "surrogateescape")


def compose(name: str) -> str:
    """A name in Unicode's composed form: Macs decompose the names of files, keyboards do not."""
    return unicodedata.normalize("NFC", name)


class FileNames:
    """File names, found by names that look the same (composed or decomposed).

    Args:
        names: of the files.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self.alike: dict[str, list[str]] = {}
        for name in self.names:
            self.alike.setdefault(compose(name), []).append(name)

    def meant(self, name: str) -> str:
        """The file that a name means; the name itself if there is none.

        Raises:
            ValueError: if it could be two.
        """
        if name in self.names:
            return name
        found = self.alike.get(compose(name), [name])
        if len(found) > 1:
            shown = " and ".join(sorted(map(ascii, found)))
            raise ValueError(f"two files look like {name!r}: {shown}")
        return found[0]

    def at_end(self, path: str) -> str:
        """The file that the last parts of a path mean, as many as there can be.

        Raises:
            ValueError: as `meant`.
        """
        parts = PurePosixPath(path).parts
        for k in range(len(parts)):
            name = self.meant("/".join(parts[k:]))
            if name in self.names:
                return name
        return parts[-1] if parts else path


class Table(NamedTuple):
    """A table as it was written: its columns, and its rows by line."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]
    separator: str


def read_table(path: Path) -> Table:
    """Read a CSV file: separated by comma, semicolon or tab, without blank rows and columns.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        text = read_text(path)
        if re.match("sep=.\r?\n", text):  # tells Excel the separator
            text = "\n" + text[text.index("\n") + 1 :]
        header = next(filter(str.strip, text.splitlines()), "")
        separator = max(",;\t", key=header.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        try:
            lines = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: cannot be read as a table of ratings ({reason})") from error
    columns = [name.strip().lower() for name in lines[0][1]] if lines else []
    while columns and not columns[-1]:  # spreadsheets save empty columns, too
        columns.pop()
    width = len(columns)
    rows = [(n, row if any(map(str.strip, row[width:])) else row[:width]) for n, row in lines[1:]]
    return Table(columns, rows, separator)


def read_ratings(path: Path, num_buckets: int, files: Iterable[str] = ()) -> Ratings:
    """Read a table of ratings (see `RatedFolder`).

    It is UTF-8, or UTF-16 with a byte order mark, separated by comma, semicolon or tab; except
    after commas, numbers may have a decimal comma, as Excel writes them in many countries.

    Args:
        path: the table.
        num_buckets: K.
        files: the photos that it may name: one whose name looks the same is taken.

    Raises:
        ValueError: naming the table and the line.
    """
    columns, rows, separator = read_table(path)
    if not columns:
        raise ValueError(f"{path}: is empty")
    known = FileNames(files)
    by_path = columns[1:4] == ["mean", "std", "p1"]  # what `score` has written
    if by_path:
        columns = ["image", *(f"votes_{name.removeprefix('p')}" for name in columns[3:])]
        rows = [(line, [row[0], *row[3:]]) for line, row in rows]
    votes = [f"votes_{k}" for k in range(1, len(columns))]
    if columns not in (["image", *votes], ["image", "mean"], ["image", "mean", "std"]) or not votes:
        raise ValueError(
            f"{path}: the columns are {shown(columns)}; needed are image,votes_1,...,votes_K or "
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
        try:
            if len(row) != len(columns) or not row[0].strip():
                raise ValueError(f"a name and {len(votes)} numbers are needed")
            values[k] = [number(word, separator, is_vote=by_votes) for word in row[1:]]
            check_values(values[k], num_buckets, by_votes=by_votes)
            name = name_of(row[0].strip(), known, by_path=by_path)
            if names.setdefault(name, k) != k:
                raise ValueError("is there twice")
        except ValueError as error:
            raise ValueError(f"{path}, '{shown(row[:1])}' in line {line}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: has no row")
    if by_votes:
        p_NK = values / values.sum(axis=1, keepdims=True)
    else:
        p_NK = maximum_entropy(*values.T, num_buckets=num_buckets)
    num_votes_N = None
    if by_votes and (values == values.round()).all():  # otherwise shares
        num_votes_N = values.sum(axis=1).astype(np.int64)
    return Ratings(np.array(list(names)), p_NK.astype(np.float32), num_votes_N, [])


def shown(words: list[str]) -> str:
    """Words of a table for a message, however many there are."""
    return printable(",".join(words), 200)


def name_of(text: str, known: FileNames, *, by_path: bool) -> str:
    """The file that a cell of a table names.

    Args:
        text: the cell.
        known: the photos.
        by_path: whether it is the path of a file rather than its name.

    Raises:
        ValueError: if it could be two files, or is not UTF-8 and names none.
    """
    name = known.at_end(text) if by_path else known.meant(text)
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


def number(word: str, separator: str, *, is_vote: bool) -> float:
    """A cell as a number.

    Args:
        word: the cell.
        separator: of the table; where it is not a comma, a comma may be a decimal one.
        is_vote: whether it is a number of votes.

    Raises:
        ValueError: if it is not a number, or could be two.
    """
    word = word.strip()
    if is_vote and separator != "," and re.fullmatch(r"[1-9]\d{0,2}([.,]\d{3})+", word):
        raise ValueError(f"{word} could be a thousand times as many votes; write whole numbers")
    plain = word.replace(",", ".") if separator != "," else word
    try:
        if "_" in plain:  # Python's own way to write numbers
            raise ValueError
        return float(plain)
    except ValueError as error:
        raise ValueError(f"{word[:40]!r} is not a number") from error


def check_values(values: NDArray[np.float64], num_buckets: int, *, by_votes: bool) -> None:
    """Raise a ValueError unless these can be votes, or a mean and a standard deviation."""
    if not np.isfinite(values).all() or (by_votes and values.min() < 0):
        raise ValueError("the numbers have to be finite, and votes 0 or more")
    if by_votes and values.max() > MAX_VOTES:
        raise ValueError(f"{values.max():g} votes for one rating; at most {MAX_VOTES} are possible")
    if by_votes and not values.any():
        raise ValueError("has no votes")
    wrong = None if by_votes else impossible(*values, num_buckets=num_buckets)
    if wrong is not None:
        raise ValueError(wrong)


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
