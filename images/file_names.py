"""Names of files in messages: one line each, whatever characters they have."""

import unicodedata
from pathlib import Path

JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # within emoji and Persian words


def shown(path: str | Path) -> str:
    """A file's name with line breaks, control characters and undecodable bytes escaped."""
    return "".join(
        ascii(c)[1:-1]
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in JOINERS
        else c
        for c in str(path)
    )
