"""Show training progress: a bar on a terminal, lines of text in a pipe or a file."""

import logging
import time

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich import get_console

from system.progress import ProgressTimer

log = logging.getLogger(__name__)

RATE = 10  # times a second that the bar is drawn; at Lightning's 100, a core is busy with it


class ProgressBarOrLines(RichProgressBar):
    """Lightning's progress bar, or lines of text if there is no terminal.

    A line has epoch, step, loss and the time left for the whole training. It is printed every tenth
    of an epoch, at least every 30 seconds and at most every 5.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=RATE)
        self.updated = 0.0
        console = get_console()
        self.lines = not (console.is_terminal or console.is_jupyter)
        if self.lines:
            self.disable()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the training."""
        super().on_train_start(trainer, pl_module)
        self.training = ProgressTimer(trainer.global_step)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch."""
        super().on_train_epoch_start(trainer, pl_module)
        self.epoch = ProgressTimer()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Update the bar, or write a line, if it is due."""
        done, total = batch_idx + 1, trainer.num_training_batches
        if self.is_enabled and (done == total or time.monotonic() > self.updated + 1 / RATE):
            self.updated = time.monotonic()
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.speaks(trainer) and self.epoch.is_due(done, total):
            part = trainer.accumulate_grad_batches
            loss = trainer.callback_metrics.get("train/loss")
            say(
                trainer,
                f"step {done // part}/{total // part}",
                "" if loss is None else f"train/loss {loss.item():.4g}",
                self.training.time_left(trainer.global_step, trainer.estimated_stepping_batches),
            )

    def get_metrics(
        self, trainer: L.Trainer, pl_module: L.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what the bar shows: the metrics logged for it, or else the latest loss."""
        metrics = super().get_metrics(trainer, pl_module)
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not trainer.progress_bar_metrics:
            metrics["train/loss"] = loss.item()
        return metrics

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of a validation."""
        super().on_validation_start(trainer, pl_module)
        self.validation = ProgressTimer()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write a line if one is due."""
        super().on_validation_batch_end(
            trainer, pl_module, outputs, batch, batch_idx, dataloader_idx
        )
        done, total = batch_idx + 1, trainer.num_val_batches[dataloader_idx]
        if self.speaks(trainer) and self.validation.is_due(done, total):
            say(trainer, f"validation {done}/{total}", self.validation.time_left(done, total))

    def speaks(self, trainer: L.Trainer) -> bool:
        """Return whether this process writes lines."""
        return self.lines and trainer.is_global_zero and not trainer.sanity_checking


def say(trainer: L.Trainer, *words: str) -> None:
    """Write a line about the current epoch."""
    epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
    log.info("%s", "  ".join(filter(None, [epoch, *words])))
