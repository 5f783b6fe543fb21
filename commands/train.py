"""python run.py [train]: train a network in a run folder that can be resumed."""

from typing import Literal

from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from runs.training import train as run
from runs.training_checks import machine_problems, problems, typed_problems

__all__ = ["Options", "machine_problems", "problems", "run", "typed_problems"]


class Options(BaseModel, strict=True):
    """Keys of conf/train.yaml that are not groups."""

    seed: NonNegativeInt
    epochs: PositiveInt
    gamma: float | None = Field(ge=0, allow_inf_nan=False)
    scale: Literal[1, 2, 3, 4] | None
    init_from: str | None
    name: str | None
    trusted: list[str]
    resume: bool
    overwrite: bool
    stale: Literal["refuse", "rerun", "accept"]
