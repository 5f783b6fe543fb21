"""Shared by the tests of sweeps."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUIET = ["callbacks.epoch_line=null", "callbacks.watch=null"]


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)


def files_named(name: str, folder: Path) -> list[Path]:
    """Files below a folder in which others come and go: `Path.rglob` fails where one vanishes."""
    return [Path(place) / name for place, _, names in os.walk(folder) if name in names]


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == folder.resolve():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return [line for line in found if "run.py" in line]


def results(folder: str = "outputs/sweeps") -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(Path(folder).rglob("result.json"))]
