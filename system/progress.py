"""Show progress: as a bar on a terminal, as lines of text elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich import get_console
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
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


class BarOrLines(Progress):
    """A progress bar on a terminal that becomes lines of text elsewhere.

    Args:
        columns: shown between the description and the time left.
    """

    def __init__(self, *columns: ProgressColumn) -> None:
        is_terminal = get_console().is_terminal
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns,
            TimeRemainingColumn(),
            transient=True,
            console=get_console() if is_terminal else Console(quiet=True),
            disable=not is_terminal,
        )
        self.amount_columns = columns
        self.timers: dict[TaskID, ProgressTimer] = {}

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: object,
    ) -> TaskID:
        """Add a task and start its timer."""
        task_id = super().add_task(description, start, total, completed, visible, **fields)
        self.timers[task_id] = ProgressTimer(completed)
        return task_id

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task by some steps."""
        super().advance(task_id, advance)
        self.log_if_due(task_id)

    def update(
        self,
        task_id: TaskID,
        *,
        total: float | None = None,
        completed: float | None = None,
        advance: float | None = None,
        description: str | None = None,
        visible: bool | None = None,
        refresh: bool = False,
        **fields: object,
    ) -> None:
        """Update the fields of a task."""
        super().update(
            task_id,
            total=total,
            completed=completed,
            advance=advance,
            description=description,
            visible=visible,
            refresh=refresh,
            **fields,
        )
        self.log_if_due(task_id)

    def log_if_due(self, task_id: TaskID) -> None:
        """Log a line about a task if there is no terminal and a line is due."""
        task = self._tasks[task_id]
        if not self.disable or not task.visible or not task.total:
            return
        timer = self.timers[task_id]
        if timer.is_due(task.completed, task.total):
            amounts = (str(column.render(task)).strip() for column in self.amount_columns)
            left = timer.time_left(task.completed, task.total)
            log.info("%s", "  ".join(filter(None, [task.description, *amounts, left])))


def progress_bar(*columns: ProgressColumn) -> Progress:
    """Return a progress bar that disappears when done; without a terminal, it logs lines."""
    return BarOrLines(*columns)


def progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Iterate over `total` items under a progress bar; a single item gets no bar."""
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(what, total=total, visible=total > 1)
        for item in items:
            yield item
            bar.advance(task)
