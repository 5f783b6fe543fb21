"""Whole files under their final names, hashes of files and texts, permissions of new files."""

import contextlib
import glob
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

    Three things are written in another way: a download, whose part is kept to be resumed
    (`datamodules.download`), a folder that is unpacked (`datamodules.unpacking`), and the files of
    several stores at a time (`datamodules.shard_writer`).

    Raises:
        OSError: naming the file, if it cannot be written; an earlier one stays as it was.
    """
    temporary = temporary_path(path)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # such as of a folder that could not be made
            temporary.unlink()


def temporary_path(path: Path) -> Path:
    """Return the temporary name beside a file under which this process writes it."""
    # A hash, because a name as long as file systems allow leaves no room for a prefix.
    return path.with_name(f"{temporary_prefix()}{os.getpid()}-{text_sha256(path.name)[:8]}")


def temporary_prefix() -> str:
    """Return the start of the names of temporary files written on this machine."""
    return f".part-{os.uname().nodename}-"


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder and its subfolders."""
    prefix = temporary_prefix()
    for part in folder.rglob(f"{glob.escape(prefix)}*"):
        pid = part.name.removeprefix(prefix).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except (ProcessLookupError, ValueError):
            part.unlink(missing_ok=True)
        except PermissionError:
            pass  # another user's process is still writing it


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
    """Return the SHA-256 of a string in UTF-8 (or of a file name, in any bytes), in hexadecimal."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
