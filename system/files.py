"""Hashes of files and strings, and the umask."""

import hashlib
import os
from pathlib import Path


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
