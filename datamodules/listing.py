"""Shorten long lists in messages."""

from collections.abc import Sequence

from images.file_names import printable_name


def join_some(names: Sequence[str], most: int = 20) -> str:
    """Join the first few names by commas."""
    return ", ".join(map(printable_name, names[:most])) + (", ..." if len(names) > most else "")


def list_problems(title: str, problems: Sequence[str], most: int = 10) -> str:
    """Format a title with the number of problems, followed by the first few, one per line."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n  ".join([f"{len(problems)} {title}:", *problems[:most], *more])
