"""Write result.json, which marks a run as finished."""

import datetime
import importlib.metadata
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

from configuration.model_kind import stored_kind
from runs.identity import Identity
from runs.run_folder import BEST, read_json
from system.json_files import write_json
from system.places import ROOT

VERSIONED = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "numpy", "pillow")


def trained_scorer(folder: Path, backbone: str) -> str:
    """Find the best checkpoint of a scorer that a sweep has trained.

    If there are several, for example of several seeds, the one with the lowest `val/emd` is taken.

    Args:
        folder: folder of the sweep.
        backbone: backbone of the scorer.

    Raises:
        ValueError: if there is none.
    """
    found = []
    for path in sorted(folder.glob("*/result.json")):
        result = read_json(path) or {}
        config = result.get("config", {})
        if stored_kind(result, config) == "scorer" and config["scorer"]["backbone"] == backbone:
            emd = result["metrics"].get("val/emd")
            found.append((math.inf if emd is None else emd, path.parent))
    if not found:
        raise ValueError(
            f"no scorer with {backbone} in {folder}; "
            "python run.py sweep=backbone experiment=nima_mnasnet trains them"
        )
    return str(min(found)[1] / BEST)


def finish(
    folder: Path,
    identity: Identity,
    metrics: dict[str, float],
    **more: Any,  # noqa: ANN401
) -> None:
    """Write result.json, which marks a run as finished."""
    write_json(
        folder / "result.json",
        {
            "metrics": metrics,
            **more,
            **identity.record(),
            "git": git_state(),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED}
            | {"python": platform.python_version()},
            "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def git_state() -> dict[str, Any] | None:
    """Return the commit and whether the working tree is dirty; None outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", "run.py"
        )  # fails if only a parent folder is a repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
