"""Learning-rate schedules as pure functions of the step.

Nothing is accumulated, so a resumed run cannot apply a schedule twice, and a run that is extended
goes on with the schedule of its new length.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

OptimizerFactory = Callable[..., Optimizer]
Schedule = Callable[[float], float]


FIRST = 1e-3  # of the training: the first step has some rate too


class Constant:
    """The learning rate as given."""

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate at `progress` (0..1) of the training."""
        return 1.0


@dataclass
class Cosine:
    """Half a cosine from 1 to `final` (Loshchilov and Hutter, "SGDR", 2017, without restarts)."""

    final: float = 0.0

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate at `progress` (0..1) of the training."""
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass
class Exponential:
    """Decays exponentially from 1 to `final`, which is above 0."""

    final: float = 0.1

    def __post_init__(self) -> None:
        if self.final <= 0:
            raise ValueError(f"optim.schedule.final={self.final}: an exponential stays above 0")

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate at `progress` (0..1) of the training."""
        return float(self.final**progress)


@dataclass
class Steps:
    """Multiplied by `factor` at each of some places in the training (EDSR, section 4.2).

    Args:
        places: shares of the training, within 0..1.
        factor: above 0.
    """

    places: Sequence[float] = (0.5,)
    factor: float = 0.5

    def __post_init__(self) -> None:
        self.places = list(self.places)
        if not all(0 <= place <= 1 for place in self.places):
            raise ValueError(f"optim.schedule.places={self.places}: 0 to 1 each, of the training")
        if self.factor <= 0:
            raise ValueError(f"optim.schedule.factor={self.factor}: above 0")

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate at `progress` (0..1) of the training."""
        return float(self.factor ** sum(progress >= place for place in self.places))


@dataclass
class WarmUp:
    """Rises evenly from near 0 to 1 over the first `share` of the training, times `then`.

    Args:
        then: the schedule that it is multiplied with.
        share: of the training, within 0..1.
    """

    then: Schedule
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"optim.schedule.share={self.share}: 0 to 1")

    def __call__(self, progress: float) -> float:
        """Return the factor on the learning rate at `progress` (0..1) of the training."""
        rise = min(1.0, (progress + FIRST) / self.share) if self.share else 1.0
        return rise * self.then(progress)


def fused(optimizer: OptimizerFactory) -> OptimizerFactory:
    """Return an optimizer that updates all weights by one GPU kernel, if it can and may choose."""
    known = inspect.signature(optimizer).parameters
    free = all(name in known and known[name].default is None for name in ("fused", "foreach"))
    return functools.partial(optimizer, fused=True) if free else optimizer


def configure(
    parts: Sequence[tuple[nn.Module, float]],
    optimizer: OptimizerFactory,
    schedule: Schedule,
    num_steps: int,
) -> OptimizerLRScheduler:
    """Build an optimizer and its per-step schedule, as `configure_optimizers` returns them.

    Args:
        parts: whose trainable parameters are optimized, each with a factor on its learning rate.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        num_steps: optimizer steps of the whole training.
    """
    built = optimizer(
        [{"params": [p for p in part.parameters() if p.requires_grad]} for part, _ in parts]
    )
    for group, (_, factor) in zip(built.param_groups, parts, strict=True):
        group["lr"] *= factor
    scheduler = LambdaLR(built, lambda step: schedule(min(1.0, step / max(1, num_steps))))
    per_step: LRSchedulerConfigType = {"scheduler": scheduler, "interval": "step"}
    return {"optimizer": built, "lr_scheduler": per_step}


def apply_schedule(scheduler: LambdaLR) -> None:
    """Set the learning rate for the scheduler's current step.

    A restored optimizer brings the rate of the schedule that it was trained with; when the run is
    extended, that of the new one is another. Without an extension nothing changes.

    Args:
        scheduler: the LambdaLR that `configure` made.
    """
    groups = zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    )
    for group, base, factor in groups:
        group["lr"] = base * factor(scheduler.last_epoch)
