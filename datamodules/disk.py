"""Disk space, and files that only one process may work on at a time."""

import fcntl
import shutil
from pathlib import Path
from typing import IO


def lock(file: IO[bytes], path: Path) -> None:
    """Lock an open file against other processes until it is closed.

    Raises:
        ValueError: if another process holds it, or has just finished and removed it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = path.exists()
    except BlockingIOError:
        held = False
    except OSError:  # a file system without locks
        held = True
    if not held:
        raise ValueError(f"{path}: another process is busy with it")


def need_space(folder: Path, num_bytes: int, what: str | Path) -> None:
    """Raise unless the disk has room.

    Raises:
        ValueError: if fewer bytes are free for this user.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{folder}: {what} needs {amount(num_bytes)}, and {amount(free)} are free there"
        )


def amount(num_bytes: int) -> str:
    """Write a number of bytes in powers of 1000, such as `3.53 GB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} bytes"
