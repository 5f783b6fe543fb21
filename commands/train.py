"""python run.py [train]: train a network in a run folder that can be resumed."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt

from configuration.model_kind import trains_scorer
from runs.invocation import Invocation
from runs.metric_checks import metric_class_problems, metric_problems
from runs.requirements import check_name, require_file

if TYPE_CHECKING:
    from runs.results import Result

# PyTorch and Lightning are imported inside functions, so that most mistakes are refused without.


class Options(BaseModel, strict=True):
    """Keys of conf/train.yaml that are not groups."""

    seed: NonNegativeInt
    epochs: PositiveInt
    gamma: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] | None
    share: float = Field(gt=0, allow_inf_nan=False)
    scale: Literal[1, 2, 3, 4] | None
    init_from: str | None
    name: str | None
    trusted: list[str]
    metrics: list[str | dict[str, Any]] = Field(min_length=1)
    resume: bool
    overwrite: bool
    stale: Literal["refuse", "rerun", "accept"]


def problems(cfg: DictConfig) -> Iterator[str]:
    """Check the name of the run, and that files exist."""
    yield from check_name(cfg)
    if cfg.init_from != "official":
        yield from require_file("init_from", cfg.init_from)
    yield from require_file("judge.checkpoint", cfg.judge.checkpoint)
    yield from metric_problems(cfg)


def class_problems(cfg: DictConfig) -> Iterator[str]:
    """Find the mistakes that the classes of the groups reveal."""
    from runs import training_checks

    yield from training_checks.problems(cfg)
    if not trains_scorer(cfg):
        yield from metric_class_problems(cfg)


def machine_problems(cfg: DictConfig) -> Iterator[str]:
    """Find mistakes that matter only if the training runs on this machine, not on a cluster."""
    from runs import training_checks

    return training_checks.machine_problems(cfg)


def typed_problems(cfg: DictConfig, words: Sequence[str]) -> Iterator[str]:
    """Find typed overrides of `scorer` that contradict the file of the scorer."""
    from runs import training_checks

    return training_checks.typed_problems(cfg, words)


def run(cfg: DictConfig, invocation: Invocation) -> "Result | None":
    """Train or continue a run, or print the result of a finished one."""
    from runs.training import train

    return train(cfg, invocation)
