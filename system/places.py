"""The project's root folder, and how to display paths."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def display_path(path: str | Path) -> Path:
    """Return a path relative to the working directory if it lies below it, else unchanged.

    The bundled models are displayed as `weights/...` from any working directory.
    """
    path, here = Path(path), Path.cwd()
    if path.is_relative_to(ROOT / "weights"):
        return path.relative_to(ROOT)
    return path.relative_to(here) if path.is_relative_to(here) else path
