"""JSON files that a reader never finds half written."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all; numbers that JSON lacks become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(finite(content), indent=2) + "\n")
    os.replace(temporary, path)


def finite(value: Any) -> Any:  # noqa: ANN401
    """Replaces infinities and not-a-numbers by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
