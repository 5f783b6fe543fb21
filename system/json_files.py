"""Write JSON files atomically."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file atomically; infinity and NaN become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(replace_nonfinite(content), indent=2) + "\n")
    os.replace(temporary, path)


def replace_nonfinite(value: object) -> object:
    """Replace infinity and NaN by None, in nested mappings and lists too."""
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_nonfinite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
