"""Progress of long work: a bar on a terminal, lines of text elsewhere."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

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


SOON, LATE = 5.0, 30.0  # seconds between two lines: at least, at most


class Pace:
    """Tell when a long piece of work is due for a line of text, and how long it will take.

    Due is every tenth of the work, but not within 5 seconds of the last line, and every 30 seconds.

    Args:
        done: how much is done already, in any unit.
    """

    def __init__(self, done: float = 0) -> None:
        self.first = self.shown = done
        self.began = self.last = time.monotonic()

    def due(self, done: float, total: float) -> bool:
        """Whether it is time for a line; never at the end, where results follow."""
        waited = time.monotonic() - self.last
        tenth = 10 * (done - self.shown) >= total
        if done >= total or waited < (SOON if tenth else LATE):
            return False
        self.shown, self.last = done, time.monotonic()
        return True

    def left(self, done: float, total: float) -> str:
        """The time left at the present speed, as text; empty where none is known."""
        if done <= self.first:
            return ""
        spent = time.monotonic() - self.began
        return f"{clock(spent / (done - self.first) * (total - done))} left"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class BarOrLines(Progress):
    """A progress bar on a terminal, lines of text elsewhere.

    Args:
        columns: what the bar shows between its description and the time left.
        options: of `rich.progress.Progress`.
    """

    def __init__(self, *columns: ProgressColumn, **options: Any) -> None:  # noqa: ANN401
        text = TextColumn("{task.description}", markup=False)
        super().__init__(text, BarColumn(), *columns, TimeRemainingColumn(), **options)
        self.shown = columns
        self.paces: dict[TaskID, Pace] = {}

    def add_task(self, *args: Any, **options: Any) -> TaskID:  # noqa: ANN401
        """Start the clock of a piece of work."""
        task_id = super().add_task(*args, **options)
        self.paces[task_id] = Pace(self._tasks[task_id].completed)
        return task_id

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Note that more is done."""
        super().advance(task_id, advance)
        self.say(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:  # noqa: ANN401
        """Note how much is done."""
        super().update(task_id, **changes)
        self.say(task_id)

    def say(self, task_id: TaskID) -> None:
        """Write a line, if one is due."""
        task = self._tasks[task_id]
        if not self.disable or not task.visible or not task.total:
            return
        pace = self.paces[task_id]
        if pace.due(task.completed, task.total):
            amounts = (str(column.render(task)).strip() for column in self.shown)
            left = pace.left(task.completed, task.total)
            log.info("%s", "  ".join(filter(None, [task.description, *amounts, left])))


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar that is gone when it is done; where there is no terminal, lines of text."""
    terminal = get_console().is_terminal
    return BarOrLines(
        *columns,
        transient=True,
        console=get_console() if terminal else Console(quiet=True),
        disable=not terminal,
    )


def progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """Iterates over `total` items under a progress bar (none where there is one item)."""
    bar = progress_bar(MofNCompleteColumn())
    with bar:
        task = bar.add_task(what, total=total, visible=total > 1)
        for item in items:
            yield item
            bar.advance(task)
