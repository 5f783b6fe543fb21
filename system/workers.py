"""The same work on many items: under a progress bar, and in several processes.

Where there is no terminal, a line of text now and then takes the place of a bar.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from system.progress import progress

log = logging.getLogger(__name__)

# Bytes of image files that take as long to decode as processes to start: some three seconds.
WORTH_PROCESSES = 50_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


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
