"""What people see on the terminal: messages and tables."""

import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lightning_modules.metric_names import BASELINES, baseline_name, is_baseline


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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, as wide as it needs: words to the left, numbers to the right."""
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


def metrics_table(title: str, metrics: Mapping[str, float | None]) -> str:
    """Format metrics by name, each with its baselines beside it."""
    names = [name for name in metrics if not is_baseline(name)]
    used = [
        kind for kind in BASELINES if any(baseline_name(name, kind) in metrics for name in names)
    ]
    rows = [
        [
            name,
            *(digits(metrics.get(key)) for key in (name, *(baseline_name(name, k) for k in used))),
        ]
        for name in names
    ]
    own = "scorer" if "constant" in used else "network" if used else "value"
    return table(title, ["metric", own, *(BASELINES[kind] for kind in used)], rows)


def digits(value: float | None) -> str:
    """Four decimals; a dash for what is not there or not a number."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"
