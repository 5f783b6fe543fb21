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


def not_plain(value: object, name: str) -> str | None:
    """Return the name of the first nested value that is not plain data; None if all are.

    Plain data are None, booleans, finite numbers, strings, and lists and string-keyed dicts of
    them.
    """
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            return name
        parts = [not_plain(part, f"{name}.{key}") for key, part in value.items()]
    elif isinstance(value, list):
        parts = [not_plain(part, f"{name}[{k}]") for k, part in enumerate(value)]
    elif value is None or isinstance(value, bool | int | str):
        return None
    else:
        return None if isinstance(value, float) and math.isfinite(value) else name
    return next((part for part in parts if part is not None), None)
