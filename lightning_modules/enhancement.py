"""Train enhancers: `L2 + gamma * (K - mean score)`, the scorer frozen (paper, section 2.3.1)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from datamodules.batches import PairBatch
from lightning_modules.base import TrainedModule
from lightning_modules.checkpoint import load_scorer
from lightning_modules.losses import EPSILON, Frozen, HybridLoss, LossTerms, gradient_squares
from lightning_modules.metric_names import baseline_name, is_baseline
from lightning_modules.metrics import drift, image_metrics
from lightning_modules.schedules import OptimizerFactory, Schedule
from networks.bicubic import Bicubic
from networks.nima import NIMA
from networks.scales import scales_of


class EnhancementModule(TrainedModule):
    """Train `net` to restore HR from LR.

    Args:
        net: maps LR B x 3 x H x W in [0, 1] to SR, `net.scale` times larger; or has several
            `net.scales` and takes one of them beside the images (MDSR).
        loss: minimised on patches, and measured on validation photos as `val/loss`; each of its
            terms is logged by its own name.
        optimizer: called with the parameters.
        schedule: factor on the learning rate by progress.
        judge: a second scorer, or its checkpoint, used only in validation: an enhancer that games
            its scorer gains with the scorer and loses with the judge.
        trusted: modules that the judge's network may come from, besides `networks`.
        grad_ratio_every: steps between measurements of `train/grad_ratio`.
        compile: compile network and aesthetic term for training patches, in place, so that
            checkpoints keep their keys; a string is a mode of `torch.compile`, such as
            `reduce-overhead`, which replays CUDA graphs. Whole photos vary in size and run
            uncompiled.
    """

    kind = "enhancer"

    def __init__(
        self,
        net: nn.Module,
        loss: HybridLoss,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        judge: NIMA | str | None = None,
        trusted: Sequence[str] = (),
        grad_ratio_every: int = 50,
        compile: bool | str = False,
    ) -> None:
        super().__init__(net, optimizer, schedule, compile, loss.aesthetic)
        if grad_ratio_every < 1:
            raise ValueError(f"model.grad_ratio_every={grad_ratio_every}: 1 or more")
        self.scales = scales_of(net)
        self.loss = loss
        self.grad_ratio_every = grad_ratio_every
        judge = load_scorer(judge, trusted) if isinstance(judge, str) else judge
        self.judge = None if judge is None else Frozen(judge)
        names = ["loss", "psnr", "psnr_y", "ssim"]
        if loss.aesthetic is not None:
            names += ["score"]
            self.grad_ratio = MeanMetric()
            self.grad_squares = torch.zeros(2)  # of the micro-batches of a step so far
        if self.judge is not None:
            names += ["score_judge"]
        if self.judge is not None or loss.aesthetic is not None:
            names += ["contrast_drift", "saturation_drift"]
        self.reserved = {*names, "grad_ratio"}  # names that no term of the loss may have
        if self.several:
            names += [f"{name}/x{scale}" for scale in self.scales for name in names[1:]]
        self.val_metrics = nn.ModuleDict({name: MeanMetric() for name in names})
        self.baseline = "input" if self.scales == [1] else "bicubic"
        self.baselines: dict[str, Tensor] = {}  # metrics of the enlarged, not restored, images

    @property
    def several(self) -> bool:
        """Return whether the network has several scales; each batch has one of them."""
        return not hasattr(self.net, "scale")

    def metric_names(self) -> set[str] | None:
        """Return what validation logs besides baselines, without `val/`.

        None where the terms of the loss are known only after the first batch.
        """
        if type(self) is not EnhancementModule or type(self.loss) is not HybridLoss:
            return None
        terms: list[str] = [self.loss.fidelity]
        if self.loss.aesthetic is not None:
            terms += ["aesthetic", "grad_ratio"]
        if self.several:
            terms += [f"{name}/x{scale}" for name in terms for scale in self.scales]
        return {*self.val_metrics, *terms}

    @property
    def scorers(self) -> dict[str, NIMA]:
        """Return the scorer in the loss and the judge, if any, by the names of their scores."""
        frozen = {"score": self.loss.aesthetic, "score_judge": self.judge}
        return {name: part.scorer for name, part in frozen.items() if part is not None}

    def setup(self, stage: str) -> None:
        """Drop the baselines of earlier photos."""
        self.baselines = {}

    def forward(self, lr_BCHW: Tensor, scale: int) -> Tensor:
        """Compute SR images, not clamped."""
        net = self.net if self.training else self.net.forward  # the latter is never compiled
        sr_BCHW: Tensor = net(lr_BCHW, scale) if self.several else net(lr_BCHW)
        return sr_BCHW

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss of one batch of patches."""
        self.loss.at(self.trainer.global_step / self.trainer.estimated_stepping_batches)
        sr_BCHW = self(batch.lr_BCHW, batch.scale)
        total, terms, _ = self.compare(sr_BCHW, batch.hr_BCHW)
        if "aesthetic" in terms:
            self.log_grad_ratio(sr_BCHW, batch.hr_BCHW, batch_idx)
        self.log_terms({"loss": total, **terms}, batch_idx)
        return total

    def log_grad_ratio(self, sr_BCHW: Tensor, hr_BCHW: Tensor, batch_idx: int) -> None:
        """Log at intervals the scorer's share of the gradient at the SR pixels."""
        part = batch_idx % self.trainer.accumulate_grad_batches
        if self.trainer.global_step % self.grad_ratio_every:
            return
        squares = gradient_squares(self.loss, sr_BCHW, hr_BCHW)
        self.grad_squares = squares if part == 0 else self.grad_squares + squares
        if part == self.trainer.accumulate_grad_batches - 1:
            aesthetic, fidelity = self.trainer.strategy.reduce(self.grad_squares, reduce_op="sum")
            ratio = self.loss.weight * (aesthetic / (fidelity + EPSILON)).sqrt()
            self.grad_ratio.update(ratio)
            self.write_row({"train/grad_ratio": ratio}, self.trainer.global_step)

    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Measure a whole photo, in float32 whatever the training precision.

        `val/loss` is the loss in eval mode: by default L2 + gamma * (K - score of the whole photo
        by the scorer's own rule).
        """
        with torch.autocast(self.device.type, enabled=False):
            sr_BCHW = self(batch.lr_BCHW, batch.scale)
            values = image_metrics(sr_BCHW, batch.hr_BCHW, batch.scale)
            total, terms, score_B = self.compare(sr_BCHW, batch.hr_BCHW)
            values |= {"loss": total, **terms}
            if not self.baselines:
                enlarged_BCHW = Bicubic(batch.scale)(batch.lr_BCHW)
                found = image_metrics(enlarged_BCHW, batch.hr_BCHW, batch.scale)
                values |= {baseline_name(name, self.baseline): v for name, v in found.items()}
            clamped_BCHW = sr_BCHW.clamp(0, 1)
            if self.loss.aesthetic is not None:
                scorer = self.loss.aesthetic.scorer
                values["score"] = scorer.score(clamped_BCHW) if score_B is None else score_B
            if self.judge is not None:
                values["score_judge"] = self.judge.scorer.score(clamped_BCHW)
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
                self.mean_of(key).update(value)

    def compare(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> LossTerms:
        """Compute the loss.

        Raises:
            ValueError: if the name of a term is not an identifier, or is that of a metric, or if a
                term is not a scalar.
        """
        terms: LossTerms = self.loss(sr_BCHW, hr_BCHW)
        title = type(self.loss).__name__
        for name, term in terms.terms.items():
            if name in self.reserved or not name.isidentifier():
                raise ValueError(
                    f"{title}: a term is called {name!r}; its name has to be a word other than "
                    f"{', '.join(sorted(self.reserved))}"
                )
            if term.numel() != 1:
                raise ValueError(f"{title}: {name} has {term.numel()} values, not one")
        return terms

    def mean_of(self, name: str) -> MeanMetric:
        """Return the mean of a metric over the photos."""
        metric = self.val_metrics[name]
        assert isinstance(metric, MeanMetric)
        return metric

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
            metric = self.mean_of(name)
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
        if self.loss.aesthetic is not None and self.grad_ratio.update_called:
            self.log("val/grad_ratio", self.grad_ratio.compute(), sync_dist=True)
            self.grad_ratio.reset()
