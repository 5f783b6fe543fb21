"""What people see on the terminal: messages and tables."""

import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.table import Table


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever sys.stdout is at the time, so that a live progress bar is kept whole."""

    def __init__(self, stream: None = None) -> None:
        logging.Handler.__init__(self)

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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text, as wide as it needs: words to the left, numbers to the right."""
    built = Table(show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = any(re.fullmatch(r"[-+]?[\d.]+", row[i]) for row in rows)
        built.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        built.add_row(*row)
    console = Console(width=1000)
    with console.capture() as capture:
        console.print(built)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([title, "", *lines, ""])
