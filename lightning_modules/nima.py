"""Train scorers: the distribution of ratings of a photo, by the EMD loss (NIMA, equation 1)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datamodules.ratings_dataset import RatedBatch
from lightning_modules.attached import ratings_of
from lightning_modules.base import TrainedModule
from lightning_modules.losses import emd_per_sample, input_gradient
from lightning_modules.metrics import Predictions, RatingMetrics, rating_metrics
from lightning_modules.robust import RobustTerms
from lightning_modules.schedules import OptimizerFactory, Schedule
from lightning_modules.table_metrics import table_baselines, table_metrics
from networks.nima import NIMA, mean_score
from networks.timm_backbone import layer_groups


class NIMAModule(TrainedModule):
    """Train `net` to predict rating distributions.

    Besides its own metrics it logs `baselines`: the constant predictor and the noise of the votes.

    Args:
        net: the scorer.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        r: exponent of the EMD that is trained on; 2 in the paper.
        backbone_lr: learning rate of the backbone as a multiple of the head's.
        layer_decay: learning rate of a group of the backbone's layers as a multiple of the next
            deeper one's (layer-wise decay; Clark et al., "ELECTRA", 2020); the deepest has
            `backbone_lr`. None gives all layers that. Needs a backbone of timm.
        constant_start: start as the constant predictor, the mean of the training data, so that no
            step is spent on finding it; ignored if the training starts from a scorer (`init_from`).
        freeze_batch_norms: keep their running statistics, and use them in training too.
        gradient_penalty: weight of the squared norm of the mean score's gradient to the pixels in
            [0, 1] (double backpropagation; Drucker and LeCun, 1992). A scorer with small gradients
            is harder to fool with invisible noise. Costs two more backward passes.
        robust: other terms for scorers in a loss: a cheaper penalty, adversarial steps, a ranking
            of degraded photos. Batch norms have to be frozen, so that the network is the same.
        compile: compile the network for training, in place; a string is a mode of `torch.compile`.
    """

    kind = "scorer"
    net: NIMA

    def __init__(
        self,
        net: NIMA,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        r: float = 2,
        backbone_lr: float = 1.0,
        layer_decay: float | None = None,
        constant_start: bool = False,
        freeze_batch_norms: bool = False,
        gradient_penalty: float = 0.0,
        robust: RobustTerms | None = None,
        compile: bool | str = False,
    ) -> None:
        super().__init__(net, optimizer, schedule, compile)
        if not r >= 1:
            raise ValueError(f"model.r={r}: 1 or more")
        for name, value in (("backbone_lr", backbone_lr), ("gradient_penalty", gradient_penalty)):
            if not value >= 0:
                raise ValueError(f"model.{name}={value}: 0 or more")
        if layer_decay is not None and not 0 < layer_decay <= 1:
            raise ValueError(f"model.layer_decay={layer_decay}: above 0, at most 1, or null")
        if gradient_penalty and compile:
            raise ValueError(
                f"model.compile={compile}: compiled networks have no second derivative, which "
                "model.gradient_penalty needs"
            )
        if robust is not None and not freeze_batch_norms:
            raise ValueError("model.robust: needs model.freeze_batch_norms=true")
        self.r = r
        self.backbone_lr = backbone_lr
        self.layer_decay = layer_decay
        self.layer_groups()  # refuses a backbone without groups before training
        self.constant_start = constant_start
        self.freeze_batch_norms = freeze_batch_norms
        self.gradient_penalty = gradient_penalty
        self.robust = robust
        self.val_metrics = RatingMetrics()
        self.baselines: dict[str, float] = {}
        self.predictions: Predictions | None = None  # of the last validation, of all ranks
        self.train()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Predict distributions p_BK."""
        net = self.net if self.training else self.net.forward  # the latter is never compiled
        p_BK: Tensor = net(images_BCHW)
        return p_BK

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for frozen batch norms."""
        super().train(mode)
        if self.freeze_batch_norms:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def setup(self, stage: str) -> None:
        """Set the head to the constant predictor; a resumed checkpoint is loaded after this."""
        if not (self.constant_start and stage == "fit"):
            return
        p_NK = ratings_of(self.trainer).train.p_NK
        with torch.no_grad():
            self.net.head.weight.zero_()
            self.net.head.bias.copy_(p_NK.mean(dim=0).clamp_min(1e-4).log())

    def training_step(self, batch: RatedBatch, batch_idx: int) -> Tensor:
        """Compute the EMD of one batch, plus the other terms."""
        images_BCHW = batch.images_BCHW
        if self.gradient_penalty:
            images_BCHW.requires_grad_()
        with self.attention():
            p_BK = self(images_BCHW)
        loss = emd_per_sample(p_BK, batch.p_BK, self.r).mean()
        terms = {"loss": loss}
        if self.gradient_penalty:
            squares_B = input_gradient(mean_score(p_BK), images_BCHW).square().sum(dim=(1, 2, 3))
            terms |= {"emd": loss, "gradient_norm": squares_B.sqrt().mean()}
            loss = loss + self.gradient_penalty * squares_B.mean()
        if self.robust is not None:
            more = self.robust(self.net, batch.images_BCHW, batch.p_BK)
            loss = loss + self.robust.weighted(more)
            terms = {"emd": terms["loss"], **terms, **more}
        terms["loss"] = loss
        self.log_terms(terms, batch_idx)
        return loss

    def attention(self) -> AbstractContextManager[None]:
        """Choose how attention is computed: a penalty needs the kernel with second derivatives."""
        kernel: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
        return kernel if self.gradient_penalty else nullcontext()

    def validation_step(self, batch: RatedBatch, batch_idx: int) -> None:
        """Collect predictions, in float32 whatever the training precision."""
        with torch.autocast(self.device.type, enabled=False):
            self.val_metrics.update(self(batch.images_BCHW), batch.p_BK, batch.item_B)

    def on_validation_epoch_end(self) -> None:
        """Log metrics over all ranks, with their baselines."""
        with self.val_metrics.sync_context():
            p_NK, q_NK, item_N = self.val_metrics.everything()
        self.val_metrics.reset()
        self.predictions = Predictions(p_NK.cpu(), q_NK.cpu(), item_N.cpu())
        data = ratings_of(self.trainer)
        if not self.baselines:
            self.baselines = table_baselines(data.train, data.val)
        metrics = table_metrics(Predictions(p_NK, q_NK, item_N), data.val.tables)
        values: dict[str, Tensor | float] = {**metrics, "loss": metrics["emd"], **self.baselines}
        # The same on all ranks already; saying so keeps Lightning from warning.
        self.log_dict({f"val/{name}": value for name, value in values.items()}, sync_dist=True)

    def metric_names(self) -> set[str] | None:
        """Return what validation logs besides baselines, without `val/`; None if unknown."""
        if type(self) is not NIMAModule:
            return None
        p_NK = torch.eye(3)
        return {"loss", *rating_metrics(p_NK, p_NK)}

    def keep_weights(self) -> None:
        """Do not start as the constant predictor: the loaded head knows more."""
        self.constant_start = False

    def parameter_groups(self) -> list[tuple[nn.Module, float]]:
        """Return backbone and head; the backbone may have other learning rates."""
        backbone = [(part, self.backbone_lr * factor) for part, factor in self.layer_groups()]
        return [*backbone, (self.net.head, 1.0)]

    def layer_groups(self) -> list[tuple[nn.Module, float]]:
        """Return the parts of the backbone, by depth, each with a factor on its learning rate.

        Raises:
            ValueError: if `layer_decay` is set, and the backbone does not group its layers.
        """
        if self.layer_decay is None:
            return [(self.net.features, 1.0)]
        return [*layer_groups(self.net.features, self.net.backbone, self.layer_decay)]
