"""The keys that the measuring commands share, and their checks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from runs.requirements import best_of, check_name, require_file
from runs.run_folder import BEST
from system.places import expanded


class MeasuringOptions(BaseModel):
    """Keys shared by the commands that measure on held-out photos."""

    model_config = ConfigDict(strict=True)

    scale: Literal[1, 2, 3, 4] | None
    trusted: list[str]
    device: str
    name: str | None
    seed: NonNegativeInt
    overwrite: bool
    stale: Literal["refuse", "rerun", "accept"]


def measuring_problems(cfg: DictConfig, key: str, paths: list[str]) -> Iterator[str]:
    """Check the keys of `MeasuringOptions`, and that the files exist."""
    yield from check_name(cfg)
    for path in paths:
        yield from require_file(key, path)
    yield from require_file("scorer.checkpoint", cfg.scorer.checkpoint)
    yield from require_file("judge.checkpoint", cfg.judge.checkpoint)


def judges_of(cfg: DictConfig) -> dict[str, str]:
    """Return the checkpoints of several judges by name; in a list, files and runs name them."""
    given = cfg.get("judges") or {}
    if isinstance(given, str):
        return {}  # refused by its type
    named = given.items() if isinstance(given, DictConfig) else ((named_by(p), p) for p in given)
    return {str(name): best_of(path) for name, path in named}


def named_by(path: str) -> str:
    """Return the name of a judge in a list: that of its file, or of its run."""
    place = Path(path)
    if place.parts[-2:] == BEST.parts:
        place = place.parent.parent
    return re.sub(r"\W", "_", place.stem if place.suffix else place.name)


def judge_problems(cfg: DictConfig) -> Iterator[str]:
    """Check that the judges have usable, distinct names, and that their files exist."""
    judges = judges_of(cfg)
    if judges and len(judges) < len(cfg.judges):
        yield "judges: two have the same name; judges={one: FILE, two: FILE} gives them names"
        return
    for name, path in judges.items():
        if not re.fullmatch(r"\w+", name):
            yield f"judges.{name}: a name has letters, digits and _ only"
        else:
            yield from require_file(f"judges.{name}", path)


def runs_in(path: str, epoch: str) -> list[str]:
    """Return the checkpoints of a run folder, or of all finished runs in a folder.

    Args:
        path: a folder, or a file, which stands for itself.
        epoch: which checkpoint of runs, `best` or `last`.
    """
    folder = expanded(path)
    places = sorted(file.parent for file in folder.rglob("result.json")) if folder.is_dir() else []
    found = [Path(path) / place.relative_to(folder) / BEST for place in places]
    paths = [str(best) for best in found if expanded(best).is_file()] or [path]
    return [of_epoch(checkpoint, epoch) for checkpoint in paths]


def of_epoch(path: str, epoch: str) -> str:
    """Return the last checkpoint of the run whose best one this is, if `epoch` says so."""
    is_best = Path(path).parts[-2:] == BEST.parts
    return str(Path(path).with_stem("last")) if is_best and epoch == "last" else path
