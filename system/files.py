"""Whole files under their final names, hashes of files and texts, permissions of new files."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name the file in errors of writing it: those of a full disk do not.

    Raises:
        OSError: with the file's name.
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot be written: {error.strerror or error}"
        raise OSError(error.errno, reason, str(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside a file; what is written there takes its place at the end.

    Raises:
        OSError: naming the file, if it cannot be written; an earlier one stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as of a folder that could not be made
            temporary.unlink()


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def current_umask() -> int:
    """Return the umask, to give files made by mkstemp the usual permissions."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a string in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
