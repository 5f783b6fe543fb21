"""Where the project's own files are, and how to display paths and the program's name."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"


def program() -> str:
    """Return how the user started this program: `nima`, `python -m run` or `python run.py`."""
    main = sys.modules["__main__"]
    if Path(getattr(main, "__file__", None) or "").stem == "nima":
        return "nima"
    spec = main.__spec__  # None for a script
    return "python -m run" if spec is not None and spec.name == "run" else "python run.py"


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
