"""Where this project's own files lie, and how paths are shown."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def shorter(path: str | Path) -> Path:
    """A path relative to the working directory where it lies below it.

    A model that ships is `weights/...` from everywhere.
    """
    path, here = Path(path), Path.cwd()
    if path.is_relative_to(ROOT / "weights"):
        return path.relative_to(ROOT)
    return path.relative_to(here) if path.is_relative_to(here) else path
