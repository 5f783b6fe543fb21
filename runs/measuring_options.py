"""The keys that the measuring commands share, and their checks."""

from collections.abc import Iterator
from typing import Literal

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, NonNegativeInt

from runs.requirements import check_name, require_file


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
