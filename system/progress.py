"""Show progress: as a bar on a terminal, as lines of text elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from rich import get_console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
log = logging.getLogger(__name__)

MIN_INTERVAL, MAX_INTERVAL = 5.0, 30.0  # seconds between two lines of text


class ProgressTimer:
    """Decides when a long task should report its progress, and estimates the time left.

    A report is due after each tenth of the task, though never within 5 seconds of the last one,
    and in any case every 30 seconds.

    Args:
        done: how much is done already, in any unit.
    """

    def __init__(self, done: float = 0) -> None:
        self.done_at_start = self.reported = done
        self.started = self.last = time.monotonic()

    def is_due(self, done: float, total: float) -> bool:
        """Return whether to report now; never at the end, when results follow anyway."""
        waited = time.monotonic() - self.last
        tenth = 10 * (done - self.reported) >= total
        if done >= total or waited < (MIN_INTERVAL if tenth else MAX_INTERVAL):
            return False
        self.reported, self.last = done, time.monotonic()
        return True

    def time_left(self, done: float, total: float) -> str:
        """Estimate the time left from the speed so far, as text; empty at the start."""
        if done <= self.done_at_start:
            return ""
        spent = time.monotonic() - self.started
        return f"{format_seconds(spent / (done - self.done_at_start) * (total - done))} left"


def format_seconds(seconds: float) -> str:
    """Format a duration as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Bar:
    """A progress bar that disappears when done; without a terminal, it logs lines of text.

    Args:
        what: description.
        total: the whole task, in any unit; unknown if None.
        columns: shown between the description and the time left.
        done: how much is done already.
    """

    def __init__(
        self, what: str, total: float | None, *columns: ProgressColumn, done: float = 0
    ) -> None:
        self.columns = columns
        self.timer = ProgressTimer(done)
        self.on_terminal = get_console().is_terminal
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            transient=True,
            disable=not self.on_terminal,
        )
        self.task = self.progress.add_task(what, total=total)
        self.progress.update(self.task, completed=done)

    def __enter__(self) -> Self:
        """Show the bar."""
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the bar."""
        self.progress.stop()

    def update(self, done: float, total: float | None = None) -> None:
        """Show how much is done, and the total if it has become known."""
        self.progress.update(self.task, completed=done, total=total)
        (task,) = self.progress.tasks
        if not self.on_terminal and task.total and self.timer.is_due(done, task.total):
            amounts = (str(column.render(task)).strip() for column in self.columns)
            left = self.timer.time_left(done, task.total)
            log.info("%s", "  ".join(filter(None, [task.description, *amounts, left])))


def progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Iterate over `total` items under a progress bar; a single item gets no bar."""
    if total <= 1:
        yield from items
        return
    with Bar(what, total, MofNCompleteColumn()) as bar:
        for done, item in enumerate(items, 1):
            yield item
            bar.update(done)
