"""Train enhancers, by default with `L2 + gamma * (K - mean score)` (paper, section 2.3.1)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.batches import PairBatch
from lightning_modules.base import TrainedModule
from lightning_modules.checkpoint import load_scorer
from lightning_modules.frozen import Frozen
from lightning_modules.gradients import GradientMeter
from lightning_modules.image_metrics import ImageMetrics, drift
from lightning_modules.losses import LossSum, LossTerms, check_names
from lightning_modules.metric_catalogue import DEFAULT, Direction
from lightning_modules.metric_names import baseline_name, is_baseline
from lightning_modules.schedules import OptimizerFactory, Schedule
from lightning_modules.scorer_ensemble import Ensemble
from lightning_modules.trainable import Part, freeze_batch_norms, save_adapters, train_part
from networks.bicubic import Bicubic
from networks.nima import NIMA, inference_copy
from networks.scales import scales_of


class EnhancementModule(TrainedModule):
    """Train `net` to restore HR from LR.

    Args:
        net: maps LR B x 3 x H x W in [0, 1] to SR, `net.scale` times larger; or has several
            `net.scales` and takes one of them beside the images (MDSR).
        loss: minimised on patches, and measured on validation photos as `val/loss`; each of its
            terms is logged under its name.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        judge: a second scorer, or its checkpoint, used only in validation: an enhancer that games
            its scorer gains with the scorer and loses with the judge.
        trusted: modules that the judge's network may come from, besides `networks`.
        grad_ratio_every: steps between measurements of the terms' gradients at the SR pixels:
            `train/grad_share/<term>`, the share of a term in the sum of the weighted terms' norms;
            `train/grad_ratio`, the norm of the aesthetic term's over that of all others together;
            `train/alignment/<term>` and, of 8 x 8 means, `train/alignment_8x8/<term>`, the cosine
            of what the term would do to SR and HR - SR.
        compile: compile network and the loss's terms for training patches, in place, so that
            checkpoints keep their keys; a string is a mode of `torch.compile`, such as
            `reduce-overhead`, which replays CUDA graphs. Whole photos vary in size and run
            uncompiled.
        train: `all` of the network, `tail`, the layers after its body, or `lora`, low-rank adapters
            on all layers. What is not trained keeps the weights that are loaded into `net`, and
            checkpoints hold the merged weights.
        lora_rank: rank of the adapters.
        lora_alpha: the adapters' factor is `lora_alpha / lora_rank`.
        metrics: of validation photos, see `ImageMetrics`. A term of the loss may have the name of
            one that is not among the default; `val/<name>` is then the metric.
    """

    kind = "enhancer"

    def __init__(
        self,
        net: nn.Module,
        loss: LossSum,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        judge: NIMA | str | None = None,
        trusted: Sequence[str] = (),
        grad_ratio_every: int = 50,
        compile: bool | str = False,
        train: Part = "all",
        lora_rank: int = 8,
        lora_alpha: float = 8.0,
        metrics: Sequence[str | Callable[..., Any]] = DEFAULT,
    ) -> None:
        functions = [term.function for term in loss.parts.values()]
        modules = [function for function in functions if isinstance(function, nn.Module)]
        train_part(net, train, lora_rank, lora_alpha)
        super().__init__(net, optimizer, schedule, compile, *modules)
        self.part = train
        if train == "lora":
            save_adapters(self)
        self.scales = scales_of(net)
        self.loss = loss
        self.gradients = GradientMeter(loss, grad_ratio_every)
        judge = load_scorer(judge, trusted) if isinstance(judge, str) else judge
        self.judge = None if judge is None else Frozen(inference_copy(judge))
        self.metrics = ImageMetrics(metrics)
        names = ["loss", *self.metrics.about, *self.scorers]
        if self.scorers:
            names += ["contrast_drift", "saturation_drift"]
        reserved = {*names, "weight", "grad_ratio", "grad_share", "alignment", "alignment_8x8"}
        # lpips may be a term as well
        check_names(loss.names, reserved - (self.metrics.about.keys() - set(DEFAULT)))
        if self.several:
            names += [f"{name}/x{scale}" for scale in self.scales for name in names[1:]]
        self.val_metrics = nn.ModuleDict({name: MeanMetric() for name in names})
        self.baseline = "input" if self.scales == [1] else "bicubic"
        self.baselines: dict[str, Tensor] = {}  # metrics of the enlarged, not restored, images

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except for batch norms of a network that is not trained as a whole."""
        super().train(mode)
        if self.part != "all":
            freeze_batch_norms(self.net)
        return self

    @property
    def several(self) -> bool:
        """Return whether the network has several scales; each batch has one of them."""
        return not hasattr(self.net, "scale")

    @property
    def better(self) -> dict[str, Direction | None]:
        """Return which values of each image metric are better."""
        return self.metrics.better

    def metric_names(self) -> set[str] | None:
        """Return what validation logs besides baselines, without `val/`.

        None where a subclass may log more.
        """
        if type(self) is not EnhancementModule:
            return None
        terms = self.loss.names
        if self.several:
            terms = terms + [f"{name}/x{scale}" for name in terms for scale in self.scales]
        return {*self.val_metrics, *terms, *self.gradients.names}

    @property
    def scorers(self) -> dict[str, NIMA | Ensemble]:
        """Return the scorers in the loss and the judge, if any, by the names of their scores.

        `score` is that of the term `aesthetic`, `score_<term>` that of another one.
        """
        found: dict[str, NIMA | Ensemble] = {
            score_name(name): part.ensemble for name, part in self.loss.aesthetics.items()
        }
        return found if self.judge is None else {**found, "score_judge": self.judge.held}

    def setup(self, stage: str) -> None:
        """Drop the baselines of earlier photos."""
        self.baselines = {}

    def on_train_start(self) -> None:
        """Refuse a loss that never counts."""
        super().on_train_start()
        num_steps = self.trainer.estimated_stepping_batches
        first = min(self.loss.parts[name].from_step for name in self.loss.names)
        if first >= num_steps:
            raise ValueError(f"loss: no term counts before step {first} of {num_steps:g}")

    def forward(self, lr_BCHW: Tensor, scale: int) -> Tensor:
        """Compute SR images, not clamped."""
        net = self.net if self.training else self.net.forward  # the latter is never compiled
        sr_BCHW: Tensor = net(lr_BCHW, scale) if self.several else net(lr_BCHW)
        return sr_BCHW

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss of one batch of patches."""
        trainer = self.trainer
        micro = batch_idx % trainer.accumulate_grad_batches
        first = (micro * trainer.world_size + trainer.global_rank) * len(batch.hr_BCHW)
        self.loss.at(trainer.global_step, trainer.estimated_stepping_batches, first)
        sr_BCHW = self(batch.lr_BCHW, batch.scale)
        row = self.gradients.measure(self.loss, sr_BCHW, batch.hr_BCHW, self.trainer, batch_idx)
        if row:
            row = {f"train/{name}": value for name, value in row.items()}
            self.write_row(row, self.trainer.global_step)
        found: LossTerms = self.loss(sr_BCHW, batch.hr_BCHW)
        terms = {"loss": found.total, **found.terms}
        if self.loss.following is not None:
            terms["weight/aesthetic"] = found.total.new_tensor(self.loss.following.now)
        self.log_terms(terms, batch_idx)
        return found.total

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a weight that is `auto` has measured."""
        if self.loss.following is not None:
            checkpoint["log_ratio"] = self.loss.following.log_ratio

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what a weight that is `auto` has measured."""
        if self.loss.following is not None:
            self.loss.following.restore(checkpoint["log_ratio"])

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Measure a whole photo, in float32 whatever the training precision.

        `val/loss` is the loss in eval mode: by default L2 + gamma * (K - score of the whole photo
        by the scorer's own rule).
        """
        with torch.autocast(self.device.type, enabled=False):
            sr_BCHW = self(batch.lr_BCHW, batch.scale)
            values = self.metrics(sr_BCHW, batch.hr_BCHW, batch.scale)
            total, terms, scores = self.loss(sr_BCHW, batch.hr_BCHW)
            values = values | {"loss": total, **terms} | values  # a metric precedes a term
            if not self.baselines:
                enlarged_BCHW = Bicubic(batch.scale)(batch.lr_BCHW)
                found = self.metrics(enlarged_BCHW, batch.hr_BCHW, batch.scale)
                values |= {baseline_name(name, self.baseline): v for name, v in found.items()}
            clamped_BCHW = sr_BCHW.clamp(0, 1)
            rated = {score_name(name): score_B for name, score_B in scores.items()}
            for name, scorer in self.scorers.items():
                values[name] = rated[name] if name in rated else scorer.score(clamped_BCHW)
            if "contrast_drift" in self.val_metrics:
                values |= drift(clamped_BCHW, batch.hr_BCHW)
        self.make_room(values)
        for name, value in values.items():
            if value.isnan().any():
                raise ValueError(
                    f"val/{name} of photo {batch_idx + 1} in epoch {self.trainer.current_epoch + 1}"
                    " is not a number: a lower optim.optimizer.lr or trainer.gradient_clip_val=1 "
                    "may help"
                )
            for key in {name, f"{name}/x{batch.scale}"} & set(self.val_metrics):
                mean_of(self.val_metrics, key).update(value)

    def make_room(self, names: Iterable[str]) -> None:
        """Add means for loss terms and baselines, which are unknown before the first batch."""
        for name in names:
            if name not in self.val_metrics:
                scales = [f"{name}/x{scale}" for scale in self.scales] if self.several else []
                for key in (name, *scales):
                    self.val_metrics[key] = MeanMetric().to(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the means over the photos of all ranks."""
        means: dict[str, Tensor] = {}
        for name in self.val_metrics:
            metric = mean_of(self.val_metrics, name)
            with metric.sync_context():  # of all ranks; `compute` would warn where there is none
                means[name] = metric.mean_value / metric.weight
            metric.reset()
        found = {name: value for name, value in means.items() if is_baseline(name)}
        if found and not self.trainer.sanity_checking:
            self.baselines = found
            for name in found:
                del self.val_metrics[name]
        for name, value in (means | self.baselines).items():
            if not value.isnan():  # limit_val_batches may leave no photo at a scale
                # The same on all ranks already; saying so keeps Lightning from warning.
                self.log(f"val/{name}", value, prog_bar=name == "psnr", sync_dist=True)
        for name, value in self.gradients.results().items():
            self.log(f"val/{name}", value, sync_dist=True)


def score_name(term: str) -> str:
    """Return the name under which the scores of a term's scorer are logged."""
    return "score" if term == "aesthetic" else f"score_{term}"


def mean_of(metrics: nn.ModuleDict, name: str) -> MeanMetric:
    """Return one of several means."""
    metric = metrics[name]
    assert isinstance(metric, MeanMetric)
    return metric
