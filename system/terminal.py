"""What people see on the terminal: messages and tables."""

import contextlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

WEIGHTS = (".ckpt", ".safetensors", ".pt", ".pth", ".onnx")
LONG = 40  # characters; of longer run folders only the settings that differ are shown
LEAST = 8  # characters that a column keeps, however narrow the terminal


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stdout is at the time, so that a live progress bar is kept whole."""

    def __init__(self, stream: None = None) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """The message; what is no text in a file's name becomes question marks."""
        return super().format(record).encode(errors="replace").decode()

    def handleError(self, record: logging.LogRecord) -> None:
        """Goes on in silence when the reader of a pipe has left (`| head`)."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        else:
            super().handleError(record)

    @property
    def stream(self) -> TextIO:
        """The current standard output."""
        return sys.stdout

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """Shows what the commands say, where Hydra has not set that up: in a sweep's own process."""
    logger, handler = logging.getLogger(), TerminalHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    before, level = logger.handlers, logger.level
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers = before
        logger.setLevel(level)


def terminal_width() -> int:
    """Columns of the terminal, or what COLUMNS says; 100 in a pipe or a file."""
    return shutil.get_terminal_size((100, 24)).columns


def shorten(text: str, limit: int) -> str:
    """Cut a text in the middle, where names that are alike rarely differ most."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def table_width(lines: Sequence[Sequence[str]]) -> int:
    """Characters that a table of these cells is wide, headings included."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(widths) + 3 * (len(widths) - 1)


def fitted(lines: Sequence[Sequence[str]], limit: int) -> list[list[str]]:
    """Shorten the longest cells until a table of them is no wider than `limit`."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    while sum(widths) + 3 * (len(widths) - 1) > limit and max(widths) > LEAST:
        widths[widths.index(max(widths))] -= 1
    return [[shorten(*cell) for cell in zip(line, widths, strict=True)] for line in lines]


def differing_part(path: str, paths: Sequence[str]) -> str:
    """What tells a file from others: its path without what all have in common.

    Relative and absolute paths may be mixed. Of run folders with long names only the settings that
    differ are left, or the hash where a name was cut before them.
    """
    parts = [path_parts(p) for p in paths]
    own = path_parts(path)
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts, own = [p[1:] for p in parts], own[1:]
    while all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts, own = [p[:-1] for p in parts], own[:-1]
    if len(own) == 1 and len(own[0]) > LONG and all(len(p) == 1 for p in parts):
        names = {p[0] for p in parts}
        for with_hash in (False, True):
            left = {name: differing_settings(name, names, with_hash) for name in names}
            if all(left.values()) and len(set(left.values())) == len(names):
                return left[own[0]]
    return "/".join(own)


def path_parts(path: str) -> tuple[str, ...]:
    """The parts of a path from the root, without the suffix of a file of weights."""
    whole = Path(os.path.abspath(path))
    return (whole.with_suffix("") if whole.suffix in WEIGHTS else whole).parts


def differing_settings(name: str, names: set[str], with_hash: bool) -> str:
    """The settings in the name of a run folder that not all these names have."""
    kept = settings(name, with_hash)
    shared = set.intersection(*(set(settings(other, with_hash)) for other in names))
    return "_".join(item for item in kept if item not in shared)


def settings(name: str, with_hash: bool) -> list[str]:
    """The parts `key-value` of a folder's name; a key may hold underscores."""
    name, end = re.fullmatch(r"(.*?)((?:-[0-9a-f]{8})?)", name).groups()  # type: ignore[union-attr]
    items: list[str] = []
    for word in name.split("_"):
        if items and "-" not in items[-1]:
            items[-1] += f"_{word}"
        else:
            items.append(word)
    return [*items, end[1:]] if with_hash and end else items


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], limit: int | None = None
) -> str:
    """A table as text: words to the left, numbers to the right.

    Args:
        title: stands above it.
        columns: headings.
        rows: cells.
        limit: characters in a line; longer cells are shortened. None: as wide as it needs.
    """
    if limit is not None:
        columns, *rows = fitted([columns, *rows], limit)
    built = Table(show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = any(re.fullmatch(r"[-+]?[\d.]+", row[i]) for row in rows)
        built.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        built.add_row(
            *(Text(cell.replace("\n", " ")) for cell in row)
        )  # a file's name may look like markup
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(built)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([title, "", *lines, ""])


def refuse(error: Exception) -> int:
    """Prints what the user got wrong, without traceback; returns exit code 2."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {error}", file=sys.stderr)
    return 2
