"""Published sets of rated photos, by their descriptions in `datamodules.published_sets`."""

import difflib
import math
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from datamodules.published_sets import PUBLISHED, Part, PublishedSet
from datamodules.rated import StoredRatings
from datamodules.ratings_table import (
    FileNames,
    Ratings,
    Table,
    join_cells,
    parse_number,
    parse_ratings,
    read_table,
    read_text,
)
from datamodules.splitting import draw_share
from system.places import expanded, program
from system.terminal import printable

HELD_OUT_FIRST = ("test", "validation", "train")  # a photo on several lists counts to the first

MAX_SHEET = 1 << 26  # bytes of an Excel file when unpacked; SPAQ's has some 5 MB
MAX_ROWS, MAX_COLUMNS = 200_000, 256  # read of it; a damaged one may claim more


class PublishedRatings(StoredRatings):
    """A published set in the layout of its files.

    Args:
        published: its name in `datamodules.published_sets.PUBLISHED`.
        root: folder of its files.
        images: the photos: a folder with its subfolders, a glob or a list of these; the published
            folder in `root` if None.
        split: `official` (as published), `random` (by `val_share` and `split_seed`, with the photos
            that were made from the same one on the same side) or `lists` (`val_list`,
            `train_list`). None is `official` where a split is published.
        val_part: part of the official split that validates, `validation` or `test`; the other one
            is kept out of training. None is `validation` where there is one.
        more: arguments of `StoredRatings`.
    """

    def __init__(
        self,
        published: str,
        root: str,
        *,
        images: str | list[str] | None = None,
        split: Literal["official", "random", "lists"] | None = None,
        val_part: Literal["validation", "test"] | None = None,
        val_list: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> None:
        if published not in PUBLISHED:
            near = difflib.get_close_matches(published, PUBLISHED, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(PUBLISHED)}"
            raise ValueError(f"data.published={published}: no such set; {hint}")
        self.name, self.layout = published, PUBLISHED[published]
        self.scale = self.layout.scale
        self.root = expanded(root)
        default = "official" if self.layout.has_split else "random"
        self.how = split or ("lists" if val_list is not None else default)
        self.val_part = val_part
        check_split(self.layout, self.how, val_part, val_list is not None)
        folders = [self.root / name for name in self.layout.images]
        there = next((folder for folder in folders if folder.is_dir()), folders[0])
        super().__init__(str(there) if images is None else images, val_list=val_list, **more)
        self.description = f"{self.layout.title}, {self.how} split"
        self.part_of: dict[str, Part] = {}  # by name of the photo
        self.group_of: dict[str, str] = {}

    @cached_property
    def tables(self) -> dict[Part, Path]:
        """Find the files of ratings by part.

        Raises:
            ValueError: naming the first one that is missing.
        """
        missing = missing_files(self.layout, self.root)
        if missing:
            raise ValueError(
                f"{self.root}: {missing[0]} is missing; {program()} prepare dataset={self.name} "
                f"tells you where to get it, data.root=FOLDER sets where {self.layout.title} is"
            )
        return {
            part: next(path for path in (self.root / n for n in names) if path.is_file())
            for part, names in self.layout.tables.items()
        }

    def ratings(self) -> Ratings:
        """Read the files, and note the part and the group of each photo."""
        tables = self.tables  # first: without them the photos are hardly there
        photos, _ = self.found
        self.part_of, self.group_of = {}, {}
        known = FileNames(photos)
        by_case = {name.rpartition("/")[2].casefold(): name for name in photos}
        found: list[Ratings] = []
        notes: list[str] = []
        for part in sorted(tables, key=("", *HELD_OUT_FIRST).index):
            path, kept = tables[part], []
            rows, separator = read_rows(path, self.layout, part)
            earlier = set(self.part_of)
            for row in rows:
                name = known.resolve(row.name)
                if name not in photos:
                    name = by_case.get(name.rpartition("/")[2].casefold(), name)
                if name not in earlier:
                    self.part_of[name], self.group_of[name] = row.part, row.group
                    kept.append(row._replace(name=name))
            found.append(self.parse(path, kept, separator, known))
            if len(kept) < len(rows):
                notes.append(
                    f"{len(rows) - len(kept)} of {path.name}, which another list holds out"
                )
        names, p_NK, counts, _ = zip(*found, strict=True)
        all_names = np.concatenate(names)
        num_votes_N = None if any(c is None for c in counts) else np.concatenate(counts)
        notes += self.others(all_names.tolist())
        return Ratings(all_names, np.concatenate(p_NK), num_votes_N, notes)

    def parse(self, path: Path, rows: list["Row"], separator: str, known: FileNames) -> Ratings:
        """Convert rows to distributions; with their numbers of votes, if a column has them."""
        layout = self.layout
        columns = [f"votes_{k + 1}" for k in range(len(layout.votes))] or ["mean", "std"]
        columns = columns if layout.votes or layout.std else ["mean"]
        cells = [(row.line, [row.name, *row.values]) for row in rows]
        table = Table(["image", *columns], cells, separator)
        ratings = parse_ratings(path, table, self.num_buckets, known, layout.scale)
        if layout.num_votes is not None and ratings.num_votes_N is None:
            counts = [count_of(path, row, separator) for row in rows]
            ratings = ratings._replace(num_votes_N=np.array(counts, np.int64))
        return ratings

    @property
    def knows_parts(self) -> bool:
        """Return whether the files that were read have the official split."""
        return "" not in self.part_of.values()

    def reserved(self, names: NDArray[np.str_]) -> NDArray[np.int64]:
        """Return the images of the official split that neither train nor validate."""
        if self.how != "official":
            return super().reserved(names)
        if not self.knows_parts:
            files = self.layout.tables[""]
            raise ValueError(
                f"{self.tables['']}: does not have the official split, which {files[0]} has; "
                "data.split=random does without"
            )
        parts = self.parts_of(names)
        return np.flatnonzero((parts != "train") & (parts != self.validating(parts)))

    def draw_val(self, names: NDArray[np.str_], others: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the images of the official part, or of a random share of the groups."""
        if self.how == "official":
            parts = self.parts_of(names)
            return np.intersect1d(others, np.flatnonzero(parts == self.validating(parts)))
        groups = np.array([self.group_of[name] for name in names[others].tolist()])
        each = np.unique(groups)
        drawn = each[draw_share(each, self.val_share, self.split_seed)]
        return np.intersect1d(others, others[np.isin(groups, drawn)])

    def parts_of(self, names: NDArray[np.str_]) -> NDArray[np.str_]:
        """Return the official part of each image."""
        return np.array([self.part_of[name] for name in names.tolist()])

    def validating(self, parts: NDArray[np.str_]) -> Part:
        """Return the official part that validates."""
        return self.val_part or ("validation" if "validation" in parts else "test")


def check_split(layout: PublishedSet, split: str, val_part: str | None, lists: bool) -> None:
    """Raise a ValueError for a split that the set does not have."""
    if (split == "lists") != lists:
        raise ValueError(
            f"data.split={split}: needs data.val_list"
            if split == "lists"
            else f"data.val_list: goes with data.split=lists, not {split}"
        )
    if split == "official" and not layout.has_split:
        raise ValueError(
            f"data.split=official: {layout.title} is published without a split; random draws one"
        )
    parts = {*layout.tables, *layout.parts.values()} - {"", "train"}
    if val_part is not None and (split != "official" or val_part not in parts):
        allowed = f"one of {', '.join(sorted(parts))}" if split == "official" else "null"
        raise ValueError(
            f"data.val_part={val_part}: for data.split={split} of {layout.title} it is {allowed}"
        )


def missing_files(layout: PublishedSet, root: Path) -> list[str]:
    """List the files of ratings that are missing, with their alternatives."""
    return [
        " or ".join(names)
        for names in layout.tables.values()
        if not any((root / name).is_file() for name in names)
    ]


class Row(NamedTuple):
    """A photo in a published file: its line, name, part and group, and the cells of its ratings."""

    line: int
    name: str
    part: Part
    group: str
    values: list[str]
    num_votes: str


def read_rows(path: Path, layout: PublishedSet, part: Part) -> tuple[list[Row], str]:
    """Read a published file; return its rows, and the character that separates cells.

    Raises:
        ValueError: naming the file and the columns that it lacks, or the line that is wrong.
    """
    columns, cells, separator = read_cells(path, layout)
    values = layout.votes or tuple(filter(None, (layout.mean, layout.std)))
    needed = [*filter(None, [layout.folder]), layout.image, *values]
    lacking = [name for name in needed if name.lower() not in columns]
    if lacking:
        raise ValueError(
            f"{path}: has no column {', '.join(lacking)}; its columns are {join_cells(columns)}"
        )
    rows = []
    for line, row in cells:
        cell = dict(zip(columns, map(str.strip, row), strict=False))

        def get(name: str | None, cell: dict[str, str] = cell) -> str:
            return cell.get((name or "").lower(), "")

        own = get(layout.part_column)
        if own and own not in layout.parts:
            allowed = ", ".join(layout.parts)
            raise ValueError(f"{path}: line {line}: {layout.part_column} is {own}, not {allowed}")
        name = "/".join(filter(None, [get(layout.folder), get(layout.image)]))
        texts = [get(value) for value in values]
        part_of = layout.parts.get(own, part)
        total = get(layout.num_votes)
        rows.append(Row(line, name, part_of, get(layout.group) or name, texts, total))
    return rows, separator


def read_cells(path: Path, layout: PublishedSet) -> Table:
    """Read the cells of a CSV file, a file without a header, or the first sheet of an Excel file.

    Raises:
        ValueError: if the file cannot be read.
    """
    if path.suffix == ".xlsx":
        return read_sheet(path)
    if not layout.header:
        return read_table(path)
    lines = read_text(path, "a list of scores").splitlines()
    rows = [(n, line.rsplit(maxsplit=1)) for n, line in enumerate(lines, 1) if line.strip()]
    return Table(list(layout.header), rows, " ")


def count_of(path: Path, row: "Row", separator: str) -> int:
    """Return the number of votes of a row.

    Raises:
        ValueError: naming the line, unless it is above 0.
    """
    try:
        number = parse_number(row.num_votes, separator, is_vote=False)
        if not 0.5 <= number < math.inf:
            raise ValueError(f"{number:g} votes")
    except ValueError as error:
        raise ValueError(f"{path}, '{row.name}' in line {row.line}: {error}") from error
    return round(number)


def read_sheet(path: Path) -> Table:
    """Read the first sheet of an Excel file.

    Raises:
        ValueError: if it cannot be read, or openpyxl is missing.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise ValueError(
            f"{path}: reading it needs openpyxl: pip install openpyxl, or save it as .csv beside it"
        ) from error
    try:
        if sum(part.file_size for part in ZipFile(path).infolist()) > MAX_SHEET:
            raise ValueError(f"more than {MAX_SHEET:,} bytes when unpacked")
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
        rows = sheet.iter_rows(max_row=MAX_ROWS, max_col=MAX_COLUMNS, values_only=True)
        lines = [
            (n, ["" if cell is None else str(cell) for cell in row])
            for n, row in enumerate(rows, 1)
            if any(cell is not None for cell in row)
        ]
    except Exception as error:  # damaged sheets raise what their parsers like
        reason = printable(str(error).partition("\n")[0])
        raise ValueError(f"{path}: cannot be read as an Excel file ({reason})") from error
    columns = [name.strip().lower() for name in lines[0][1]] if lines else []
    return Table(columns, lines[1:], ",")
