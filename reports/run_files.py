"""The JSON files of a run folder, as far as reports read them."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from lightning_modules.metric_catalogue import Direction
from lightning_modules.moved import present_names

LARGEST = float(np.finfo(np.float32).max)  # metrics are computed and logged in float32
LARGEST_SCALE = 16  # twice the largest in common use
UNRECORDED = "?"  # the sweep of a run of version 0.1

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**15)]


class RunFile(BaseModel):
    """A JSON file of a run folder, as far as reports read it; null is the same as absent."""

    model_config = ConfigDict(strict=True)

    @model_validator(mode="before")
    @classmethod
    def drop_nulls(cls, raw: object) -> object:
        """Leave the defaults of fields that are null."""
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None or key == "sweep"}


class About(RunFile):
    """What run.json says: the identity of a run and where it comes from."""

    config: dict[str, JsonValue] = {}
    settings: dict[str, JsonValue] = {}
    inputs: dict[str, str] = {}
    choices: dict[str, str | None] = {}
    code: dict[str, str] = {}
    config_hash: str = ""
    code_hash: str = ""
    command: str = ""
    kind: str = ""
    sweep: str | None = UNRECORDED

    @model_validator(mode="before")
    @classmethod
    def rename_classes(cls, raw: object) -> object:
        """Give classes that have moved their present names."""
        return present_names(raw)


class Git(RunFile):
    """The commit that a run was made with, and whether the working tree was changed."""

    commit: str = ""
    dirty: bool = False


class Net(RunFile):
    """A checkpoint that `evaluate` measured: its training, and the judges that do not count."""

    config_hash: str = ""
    dependent: dict[str, str] = {}


class Result(RunFile):
    """What result.json says: the metrics of the best epoch and how they came about."""

    metrics: dict[str, Number | None] = {}
    warnings: list[str] = []
    better: dict[str, Direction | None] = {}  # of image metrics
    nets: dict[str, Net] = {}  # by name in per_image.csv
    git: Git = Git()
    wall_time_s: Number | None = None
    best_epoch: Count | None = None
    epochs: Count | None = None
    num_parameters: Count | None = None
    data: str = ""
    device: str = ""
    monitor: str = ""
    finished: str = ""


class Photo(NamedTuple):
    """A validation photo of a run: its pictures by kind, such as `sr`, and its measurements."""

    id: str
    scale: int
    pictures: dict[str, str]
    values: dict[str, float]


def number(value: object) -> float | None:
    """Return a number in the range of float32 as a float, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST else None  # false for NaN


def is_scale(value: object) -> bool:
    """Return whether this is a valid scale of a network."""
    return type(value) is int and 1 <= value <= LARGEST_SCALE
