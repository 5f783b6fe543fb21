"""Disk space: check that there is enough, and format amounts."""

import shutil
from pathlib import Path


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
