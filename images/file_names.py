"""Print file names on one line, whatever characters they contain."""

import unicodedata
from pathlib import Path

JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # within emoji and Persian words


def printable_name(path: str | Path) -> str:
    """Escape line breaks, control characters and undecodable bytes in a file name."""
    return "".join(
        ascii(c)[1:-1]
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in JOINERS
        else c
        for c in str(path)
    )
