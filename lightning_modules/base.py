"""Base class of the LightningModules: what training scorers and enhancers has in common."""

from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from lightning_modules.kinds import Kind
from lightning_modules.schedules import OptimizerFactory, Schedule, apply_schedule, configure


class TrainedModule(L.LightningModule):
    """Base of `EnhancementModule` and `NIMAModule`.

    Attributes:
        kind: the kind of network that is trained.
        net: the network that is trained and saved.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        graphs: whether the compiled network replays CUDA graphs.
    """

    kind: ClassVar[Kind]
    net: nn.Module
    optimizer: OptimizerFactory
    schedule: Schedule
    graphs: bool

    def metric_names(self) -> set[str] | None:
        """Return the names that validation logs besides baselines, without `val/`; None if unknown.

        The metric that selects the best epoch is checked against them before training starts.
        """
        return None

    def keep_weights(self) -> None:
        """Leave the network's weights as they are when training starts: they were loaded."""

    def parameter_groups(self) -> list[tuple[nn.Module, float]]:
        """Return the parts to optimize, each with a factor on its learning rate."""
        return [(self.net, 1.0)]

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401
        """Drop the gradients if CUDA graphs are about to overwrite them: nothing may read them."""
        if self.graphs:
            self.net.zero_grad()

    def on_train_start(self) -> None:
        """Set the learning rate for the new length of an extended run."""
        apply_schedule(self.lr_schedulers())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule over the whole training."""
        num_steps = int(self.trainer.estimated_stepping_batches)
        return configure(self.parameter_groups(), self.optimizer, self.schedule, num_steps)
