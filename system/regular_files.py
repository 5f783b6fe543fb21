"""Read files from untrusted sources without blocking on pipes or exhausting memory."""

import os
import stat
from io import BufferedReader
from pathlib import Path

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading.

    Raises:
        ValueError: if it is not a regular file but, for example, a named pipe or a folder.
        OSError: if it is missing or cannot be opened.
    """
    mode = stat.S_IFMT(path.stat().st_mode)
    if mode != stat.S_IFREG:
        kind = KINDS.get(mode, "something else")
        raise ValueError(f"{path.name} is {kind}; a regular file is needed")
    # O_NONBLOCK: if a pipe has replaced the file since the check, opening it does not block.
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a whole regular file.

    Raises:
        ValueError: if it is not a regular file, or larger than `max_bytes`.
        OSError: if it is missing or cannot be read.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path.name} is larger than {max_bytes / 2**20:g} MB")
    return content
