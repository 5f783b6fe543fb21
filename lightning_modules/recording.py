"""Put the record of a training into its checkpoints."""

import time
from dataclasses import replace
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import nn

from lightning_modules.checkpoint import network_state, sealed
from lightning_modules.record import Record


class WriteRecord(Callback):
    """Put the record, with the metrics of that moment, into every checkpoint.

    Args:
        record: what is known before the training.
        earlier: training time in seconds before the run was interrupted.
    """

    def __init__(self, record: Record, earlier: float = 0.0) -> None:
        self.record = record
        self.began = time.monotonic() - earlier

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop a training whose loss is no longer finite."""
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not loss.isfinite():
            raise ValueError(
                f"train/loss is {loss.item()} in epoch {trainer.current_epoch + 1}: a lower "
                "optim.optimizer.lr or trainer.gradient_clip_val=1 may help"
            )

    def elapsed(self) -> float:
        """Return the seconds of the run so far, including those before interruptions."""
        return time.monotonic() - self.began

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the record to a checkpoint that Lightning is about to write."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        record = replace(
            self.record,
            gamma=metrics.get("train/weight/aesthetic", self.record.gamma),  # what auto came to
            metrics=metrics,
            epoch=trainer.current_epoch,
            wall_time_s=self.elapsed(),
        )
        state = network_state(checkpoint["state_dict"])  # of the average, if there is one
        assert isinstance(pl_module.net, nn.Module)
        checkpoint["record"] = sealed(record, pl_module.net, state).plain()
