"""Map a function over many items in several threads, under a progress bar."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from system.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    *,
    num_workers: int | None = None,
) -> Generator[Result, None, None]:
    """Yield the results of a function for all items, in order, under a progress bar.

    The function should spend its time where Python's lock is released, as Pillow, PyTorch and
    hashing do. Until the last result, PyTorch uses one thread per call: for images, its own
    threads cost more time than they save, and those of several calls compete for the cores.

    Args:
        function: called in several threads at once.
        items: arguments of the function, one per call.
        what: description shown beside the bar.
        num_workers: number of threads, by default one per core; 0 works in this thread.
    """
    import torch  # here, because most mistakes are refused without

    num_workers = min(num_cores() if num_workers is None else num_workers, len(items))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        work = map(function, items) if num_workers <= 1 else pooled(function, items, num_workers)
        yield from progress(work, what, len(items))
    finally:
        torch.set_num_threads(num_threads)


def pooled(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int
) -> Iterator[Result]:
    """Yield results in order, computing only a few ahead, because images take much memory."""
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_workers)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """Return the number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):  # Linux, where a container or cluster may limit them
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
