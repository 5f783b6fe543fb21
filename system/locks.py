"""Lock files and folders against other processes; a process that dies frees its locks."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

log = logging.getLogger(__name__)


def lock(file: IO[Any], *, wait: bool = False) -> bool:
    """Lock an open file until it is closed.

    On a file system without locks, every process gets the lock.

    Args:
        file: open file; on NFS, it has to be open for writing to be locked.
        wait: wait until no other process holds the lock.

    Returns:
        Whether the file is locked now; False if another process holds the lock.
    """
    try:
        return lock_descriptor(file.fileno(), blocking=wait)
    except OSError:  # a file system without locks
        return True


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder, which is created if necessary, by the file `.lock` in it.

    Args:
        folder: the folder.
        wait: wait until no other process holds the lock.

    Raises:
        ValueError: if another process holds the lock and `wait` is not set.
        OSError: if the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        if not lock(file):
            if not wait:
                raise ValueError(f"{folder}: another process is running this")
            log.info("waiting for another process that uses %s", folder)
            lock(file, wait=True)
        yield
