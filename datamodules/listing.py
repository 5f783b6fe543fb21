"""List names and problems in messages."""

from collections.abc import Sequence

from images.file_names import printable_name


def some(names: Sequence[str], most: int = 20) -> str:
    """The first few of many names."""
    return ", ".join(map(printable_name, names[:most])) + (", ..." if len(names) > most else "")


def listing(title: str, problems: Sequence[str], most: int = 10) -> str:
    """A title and the first few problems as lines."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "\n  ".join([f"{len(problems)} {title}:", *problems[:most], *more])
