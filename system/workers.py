"""Map a function over many items in several processes, under a progress bar."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from system.progress import progress

log = logging.getLogger(__name__)

# Decoding fewer bytes of image files is faster than starting processes (about three seconds).
MIN_BYTES_FOR_WORKERS = 50_000_000

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    *,
    num_workers: int,
    chunk: int = 1,
) -> Iterator[Result]:
    """Yield the results of a function for all items, in order, under a progress bar.

    Args:
        function: must be picklable if there are workers, and so must items and results.
        items: arguments of the function, one per call.
        what: description shown beside the bar.
        num_workers: number of processes, at most one per chunk; 0 works in this process.
        chunk: number of items passed to a worker at a time.
    """
    num_workers = min(num_workers, -(-len(items) // chunk))
    if num_workers <= 1:
        yield from progress(map(function, items), what, len(items))
        return
    # Spawned because forking a process with PyTorch's threads can hang the child.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=init_worker)
    try:
        yield from progress(pool.map(function, items, chunksize=chunk), what, len(items))
    finally:
        pool.shutdown(cancel_futures=True)


def num_workers_for(paths: Iterable[str | Path]) -> int:
    """Return how many processes to use for reading these files; 0 if they are too few to pay."""
    total = 0
    for path in paths:
        total += os.path.getsize(path) if os.path.exists(path) else 0
        if total > MIN_BYTES_FOR_WORKERS:
            return num_cores()
    return 0


def init_worker() -> None:
    """Initialise a worker process."""
    import torch

    torch.set_num_threads(1)  # threads of several processes would compete for the cores
    threading.Thread(target=exit_with_parent, daemon=True).start()


def exit_with_parent() -> None:
    """Exit this worker when the process that started it dies."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def num_cores() -> int:
    """Return the number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):  # Linux, where a container or cluster may limit them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
