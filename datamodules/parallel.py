"""The same work on many items: under a progress bar, and in several processes.

Where there is no terminal, a line of text now and then takes the place of a bar.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
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

log = logging.getLogger(__name__)

SOON, LATE = 5.0, 30.0  # seconds between two lines: at least, at most
# Bytes of image files that take as long to decode as processes to start: some three seconds.
WORTH_PROCESSES = 50_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    *,
    num_workers: int,
    chunk: int = 1,
) -> Iterator[Result]:
    """Results of a function for every item, in order, under a progress bar.

    Args:
        function: has to be picklable where there are workers, as its items and results.
        items: what to work on.
        what: said beside the bar.
        num_workers: processes; 0 works in this one. There are never more than chunks of items.
        chunk: items that a worker takes at a time.
    """
    num_workers = min(num_workers, -(-len(items) // chunk))
    if num_workers <= 1:
        yield from progress(map(function, items), what, len(items))
        return
    # Spawned, because a forked child of a process with PyTorch's threads can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=begin_worker)
    try:
        yield from progress(pool.map(function, items, chunksize=chunk), what, len(items))
    finally:
        pool.shutdown(cancel_futures=True)


def workers_for(paths: Iterable[str | Path]) -> int:
    """Processes that reading these files is worth: none for what takes less than to start them."""
    total = 0
    for path in paths:
        total += os.path.getsize(path) if os.path.exists(path) else 0
        if total > WORTH_PROCESSES:
            return num_cores()
    return 0


def begin_worker() -> None:
    """What each process begins with."""
    torch.set_num_threads(1)  # threads of several processes would stand in each other's way
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Ends this process when the one that started it is killed: nobody waits for its work."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux: a container or a cluster may allow fewer
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
