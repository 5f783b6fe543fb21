"""Trains scorers: the distribution of ratings of a photo, by the EMD loss (NIMA, equation 1)."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.rated import RatedBatch
from lightning_modules.losses import emd_loss
from lightning_modules.metrics import MicroBatchMeans, RatingMetrics
from lightning_modules.schedules import OptimizerFactory, Schedule, apply_schedule, configure
from networks.nima import NIMA


class NIMAModule(L.LightningModule):
    """Trains `net` to predict rating distributions.

    Beside its own metrics it logs those of the constant predictor, which answers every photo with
    the mean distribution of the training data: a scorer that is not better has learned nothing.

    Args:
        net: the scorer.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        r: exponent of the EMD that is trained on; 2 in the paper.
    """

    def __init__(
        self, net: NIMA, optimizer: OptimizerFactory, schedule: Schedule, r: float = 2
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # depthwise layers: twice as fast
        self.optimizer = optimizer
        self.schedule = schedule
        self.r = r
        self.means = MicroBatchMeans()
        self.val_metrics = RatingMetrics()
        self.constant_metrics = RatingMetrics()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Predicted distributions p_BK."""
        return self.net(images_BCHW)  # type: ignore[no-any-return]

    def training_step(self, batch: RatedBatch, batch_idx: int) -> Tensor:
        """EMD of one batch."""
        loss = emd_loss(self(batch.images_BCHW), batch.p_BK, self.r)
        logs = self.means.add({"train/loss": loss}, self.trainer.accumulate_grad_batches)
        self.log_dict(logs, prog_bar=True, sync_dist=True, batch_size=len(batch.images_BCHW))
        return loss

    def validation_step(self, batch: RatedBatch, batch_idx: int) -> None:
        """Collects predictions, in float32 whatever the training precision."""
        with torch.autocast(self.device.type, enabled=False):
            self.val_metrics.update(self(batch.images_BCHW), batch.p_BK)
        constant_BK = self.constant_prediction().to(self.device).expand_as(batch.p_BK)
        self.constant_metrics.update(constant_BK, batch.p_BK)

    def on_validation_epoch_end(self) -> None:
        """Logs the metrics of all ranks together."""
        values = self.val_metrics.compute()
        values["loss"] = values["emd"]
        constant = self.constant_metrics.compute()
        values |= {f"{name}_constant": constant[name] for name in ("emd", "emd_batch", "emd_r1")}
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)
        self.val_metrics.reset()
        self.constant_metrics.reset()

    def constant_prediction(self) -> Tensor:
        """Mean distribution of the training data, 1 x K."""
        p_NK: Tensor = self.trainer.datamodule.train.p_NK  # type: ignore[attr-defined]
        return p_NK.mean(dim=0, keepdim=True)

    def on_train_start(self) -> None:
        """Lets an extended run go on at the rate of its new length."""
        apply_schedule(self.lr_schedulers())

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        """The optimizer and its schedule over the whole training."""
        num_steps = int(self.trainer.estimated_stepping_batches)
        return configure(self.net, self.optimizer, self.schedule, num_steps)
