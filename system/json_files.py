"""JSON objects, and writing them atomically."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.files import replacing

JsonObject = dict[str, Any]  # as read from a file or written to one


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all; infinity and NaN become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(replace_nonfinite(content), indent=2) + "\n")


def replace_nonfinite(value: object) -> object:
    """Replace infinity and NaN by None, in nested mappings and lists too."""
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
