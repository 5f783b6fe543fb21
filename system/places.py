"""Where the project's own files are, and how to display paths."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by a home folder.

    Like a shell, it takes `~name` for the name of a file if there is no such user;
    `Path.expanduser` raises a RuntimeError.
    """
    return Path(os.path.expanduser(path))


def display_path(path: str | Path) -> Path:
    """Return a path relative to the working directory if it lies below it.

    The bundled models are displayed as `weights/...` from any working directory.
    """
    path, here = Path(path), Path.cwd()
    if path.is_relative_to(ROOT / "weights"):
        return path.relative_to(ROOT)
    return path.relative_to(here) if path.is_relative_to(here) else path
