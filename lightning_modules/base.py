"""Base class of the LightningModules: what training scorers and enhancers has in common."""

from collections.abc import Mapping
from typing import ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from lightning_modules.attached import attached
from lightning_modules.compiling import WITH_GRAPHS, compile_in_place
from lightning_modules.kinds import Kind
from lightning_modules.metrics import MicroBatchMeans
from lightning_modules.schedules import (
    OptimizerFactory,
    Schedule,
    apply_schedule,
    configure,
    fused,
)


class TrainedModule(L.LightningModule):
    """Base of `EnhancementModule` and `NIMAModule`.

    Args:
        net: the network that is trained and saved.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        compile: see `compile_in_place`.
        others: parts that are compiled with the network; None is skipped.

    Attributes:
        kind: the kind of network that is trained.
    """

    kind: ClassVar[Kind]
    net: nn.Module

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        compile: bool | str,
        *others: nn.Module | None,
    ) -> None:
        super().__init__()
        # Much faster on GPUs in bf16, and for depthwise layers.
        self.net = net.to(memory_format=torch.channels_last)
        compile_in_place(compile, self.net, *others)
        self.replays_graphs = compile in WITH_GRAPHS
        self.optimizer = optimizer
        self.schedule = schedule
        self.means = MicroBatchMeans()
        self.row: dict[str, Tensor] = {}  # of the latest step, to be logged

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

    def log_terms(self, terms: Mapping[str, Tensor], batch_idx: int) -> None:
        """Log scalars of a micro-batch as `train/<name>`, averaged over its step and all ranks.

        Callbacks find them in `trainer.callback_metrics` at once; loggers get a row of them every
        `log_every_n_steps`. `self.log` does the same, for 0.4 ms of CPU a step and scalar.
        """
        trainer = self.trainer
        means = self.means.add(terms, batch_idx % trainer.accumulate_grad_batches)
        self.row = {
            f"train/{name}": trainer.strategy.reduce(mean, reduce_op="mean")
            for name, mean in means.items()
        }
        trainer.callback_metrics.update(self.row)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Write a row if one is due, and drop gradients that CUDA graphs are about to overwrite."""
        trainer = self.trainer
        ends_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        interval = attached(trainer).log_every_n_steps
        on_time = interval > 0 and trainer.global_step % interval == 0
        if self.row and ends_step and (on_time or trainer.should_stop):
            self.write_row(self.row, trainer.global_step - 1)
        if self.replays_graphs:
            self.net.zero_grad()

    def write_row(self, scalars: Mapping[str, Tensor], step: int) -> None:
        """Write scalars to metrics.csv and the other loggers, at an optimizer step from 0 on."""
        row = {name: value.item() for name, value in scalars.items()}
        for logger in self.loggers:
            logger.log_metrics({**row, "epoch": self.current_epoch}, step=step)

    def on_train_start(self) -> None:
        """Set the learning rate for the new length of an extended run."""
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, LambdaLR)
        apply_schedule(scheduler)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule over the whole training."""
        trainer, optimizer = self.trainer, self.optimizer
        # In mixed precision Lightning refuses to clip the gradients of fused optimizers, and those
        # unscale float16 gradients themselves, which a checkpoint of another kind does not expect.
        may_fuse = trainer.gradient_clip_val is None and trainer.precision != "16-mixed"
        if may_fuse and trainer.strategy.root_device.type == "cuda":
            optimizer = fused(optimizer)
        num_steps = int(trainer.estimated_stepping_batches)
        return configure(self.parameter_groups(), optimizer, self.schedule, num_steps)
