"""Hashes of files and texts, and the permissions of new files."""

import hashlib
import os
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def current_umask() -> int:
    """The permission bits that new files go without (mkstemp leaves files private)."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
