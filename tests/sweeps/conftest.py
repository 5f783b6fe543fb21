"""Shared by the tests of sweeps."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def files_named(name: str, folder: Path) -> list[Path]:
    """Files below a folder in which others come and go: `Path.rglob` fails where one vanishes."""
    return [Path(place) / name for place, _, names in os.walk(folder) if name in names]


def results(folder: str = "outputs/sweeps") -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder).rglob("result.json"))]
