"""Terminal output: log messages, tables and shortened names."""

import contextlib
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

WEIGHT_SUFFIXES = (".ckpt", ".safetensors", ".pt", ".pth", ".onnx")
LONG_NAME = 40  # characters; longer names of run folders are reduced to the settings that differ
MIN_COLUMN = 8  # characters; columns never get narrower


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Log handler that writes to the current `sys.stdout`, so that progress bars stay intact."""

    def __init__(self, stream: None = None) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """Format a message; undecodable bytes of file names become question marks."""
        return super().format(record).encode(errors="replace").decode()

    def handleError(self, record: logging.LogRecord) -> None:
        """Discard further output if the reader of a pipe is gone (`| head`)."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        else:
            super().handleError(record)

    @property
    def stream(self) -> TextIO:
        """Current standard output."""
        return sys.stdout

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


def printable(text: str, limit: int = 120) -> str:
    """Make text from an untrusted file fit for a message: escape control characters, cut it."""
    escaped = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[: limit + 1])
    return escaped if len(escaped) <= limit else f"{escaped[:limit]}..."


@contextlib.contextmanager
def show_messages() -> Iterator[None]:
    """Log messages to the terminal in a sweep's own process, where Hydra sets up no logging."""
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
    """Return the number of columns of the terminal; 100 if the output is a pipe or a file."""
    return shutil.get_terminal_size((100, 24)).columns


def shorten(text: str, limit: int) -> str:
    """Shorten text to `limit` characters by cutting the middle, where names differ least."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - tail :]}"


def table_width(lines: Sequence[Sequence[str]]) -> int:
    """Return the width in characters of a table of these lines, headings included."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return sum(widths) + 3 * (len(widths) - 1)


def shorten_cells(lines: Sequence[Sequence[str]], limit: int) -> list[list[str]]:
    """Shorten the widest columns until the table is no wider than `limit` characters."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    while sum(widths) + 3 * (len(widths) - 1) > limit and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1
    return [[shorten(*cell) for cell in zip(line, widths, strict=True)] for line in lines]


def differing_part(path: str, paths: Sequence[str]) -> str:
    """Return the part of a path that distinguishes it from the others.

    Relative and absolute paths may be mixed. Long names of run folders are reduced to the settings
    that differ, or to the hash if the name was cut before those settings.
    """
    parts = [path_parts(p) for p in paths]
    own = path_parts(path)
    while all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts, own = [p[1:] for p in parts], own[1:]
    while all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts, own = [p[:-1] for p in parts], own[:-1]
    if len(own) == 1 and len(own[0]) > LONG_NAME and all(len(p) == 1 for p in parts):
        names = {p[0] for p in parts}
        for with_hash in (False, True):
            left = {name: differing_settings(name, names, with_hash) for name in names}
            if all(left.values()) and len(set(left.values())) == len(names):
                return left[own[0]]
    return "/".join(own)


def path_parts(path: str) -> tuple[str, ...]:
    """Split an absolute path into its parts, dropping the suffix of a file of weights."""
    whole = Path(os.path.abspath(path))
    return (whole.with_suffix("") if whole.suffix in WEIGHT_SUFFIXES else whole).parts


def differing_settings(name: str, names: set[str], with_hash: bool) -> str:
    """Return the settings in the name of a run folder that the other names do not all share."""
    kept = split_settings(name, with_hash)
    shared = set.intersection(*(set(split_settings(other, with_hash)) for other in names))
    return "_".join(item for item in kept if item not in shared)


def split_settings(name: str, with_hash: bool) -> list[str]:
    """Split the name of a run folder into `key-value` parts; keys may contain underscores."""
    match = re.fullmatch(r"(.*?)((?:-[0-9a-f]{8})?)", name)
    assert match is not None
    name, end = match.groups()
    items: list[str] = []
    for word in name.split("_"):
        if items and "-" not in items[-1]:
            items[-1] += f"_{word}"
        else:
            items.append(word)
    return [*items, end[1:]] if with_hash and end else items


def format_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], limit: int | None = None
) -> str:
    """Format a table as text, with numbers aligned to the right and other cells to the left.

    Args:
        title: printed above the table.
        columns: headings.
        rows: cells.
        limit: maximum width in characters, for which cells are shortened; unlimited if None.
    """
    if limit is not None:
        columns, *rows = shorten_cells([columns, *rows], limit)
    from rich.console import Console  # here, because most commands print no table
    from rich.table import Table
    from rich.text import Text

    built = Table(show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = any(re.fullmatch(r"[-+]?[\d.]+", row[i]) for row in rows)
        built.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        # As `Text`, because a file's name may look like markup.
        built.add_row(*(Text(cell.replace("\n", " ")) for cell in row))
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(built)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([title, "", *lines, ""])


def told(error: Exception) -> str:
    """Write an error's message; that of a failed system call without its number."""
    if isinstance(error, OSError) and error.filename is not None and error.filename2 is None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def report_error(error: Exception) -> int:
    """Print what the user got wrong, without traceback, and return exit code 2."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        raise error
    print(f"error: {told(error)}", file=sys.stderr)
    return 2
