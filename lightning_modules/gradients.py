"""Measure what each term of a loss does to the SR pixels.

Shape suffixes: B batch, C channels, H and W height and width, T terms.
"""

from typing import NamedTuple, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric

from lightning_modules.loss_terms import EPSILON
from lightning_modules.losses import LossSum

ADAPT_EVERY = 10  # steps between measurements for a weight that is `auto`
BLOCK = 8  # pixels: means over blocks of this side tell tone from detail


class GradientSums(NamedTuple):
    """Sums over pixels of the terms' gradients; they add up over micro-batches and ranks.

    Attributes:
        terms_T: squared norm of each term's gradient, before it is weighted.
        others: squared norm of the weighted sum of all terms but `aesthetic`.
        dots_T: dot products of what each term would do to SR, its negative gradient, with HR - SR.
        missing: squared norm of HR - SR.
        block_terms_T: as `terms_T`, of means over blocks of 8 x 8 pixels.
        block_dots_T: as `dots_T`, of such means.
        block_missing: as `missing`, of such means.
    """

    terms_T: Tensor
    others: Tensor
    dots_T: Tensor
    missing: Tensor
    block_terms_T: Tensor
    block_dots_T: Tensor
    block_missing: Tensor

    def plus(self, other: "GradientSums") -> "GradientSums":
        """Add those of another micro-batch."""
        return GradientSums(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def alignments(self) -> dict[str, Tensor]:
        """Return the cosines of each term's step and HR - SR: of pixels and of 8 x 8 means."""
        return {
            "alignment": cosines(self.dots_T, self.terms_T, self.missing),
            "alignment_8x8": cosines(self.block_dots_T, self.block_terms_T, self.block_missing),
        }


def cosines(dots_T: Tensor, squares_T: Tensor, square: Tensor) -> Tensor:
    """Divide dot products by both norms; 0 where a vector is zero."""
    return dots_T / (squares_T.sqrt() * square.sqrt() + EPSILON)


def gradient_sums(loss: LossSum, sr_BCHW: Tensor, hr_BCHW: Tensor) -> GradientSums:
    """Compare the terms' gradients at the SR pixels with each other and with HR - SR.

    Computes the loss anew, not compiled: a compiled one has no second backward pass. Leaves the
    random numbers that a term may draw to the training step.

    Args:
        loss: in training mode.
        sr_BCHW: the images.
        hr_BCHW: what they are compared with.
    """
    sr_BCHW = sr_BCHW.detach().requires_grad_()
    devices = [sr_BCHW.device] if sr_BCHW.is_cuda else []
    with torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
        terms = loss(sr_BCHW, hr_BCHW).terms
    gradients = {
        name: torch.autograd.grad(term, sr_BCHW, retain_graph=True)[0].float()
        for name, term in terms.items()
    }
    others = [loss.parts[name].now * g for name, g in gradients.items() if name != "aesthetic"]
    total = torch.stack(others).sum(dim=0) if others else torch.zeros_like(sr_BCHW)
    missing = hr_BCHW.float() - sr_BCHW.detach().float()
    steps = [-gradient for gradient in gradients.values()]
    block_missing, *block_steps = (block_means(signal) for signal in (missing, *steps))
    return GradientSums(
        torch.stack([step.square().sum() for step in steps]),
        total.square().sum(),
        torch.stack([(step * missing).sum() for step in steps]),
        missing.square().sum(),
        torch.stack([step.square().sum() for step in block_steps]),
        torch.stack([(step * block_missing).sum() for step in block_steps]),
        block_missing.square().sum(),
    )


def block_means(x_BCHW: Tensor) -> Tensor:
    """Average over blocks of 8 x 8 pixels; those at the lower and right edge may be smaller."""
    return F.avg_pool2d(x_BCHW, BLOCK, ceil_mode=True)


class GradientMeter(nn.Module):
    """Measure the gradients of a loss of several terms every so many steps.

    Args:
        loss: the loss.
        every: steps between measurements.

    Attributes:
        means: of what has been measured since the last validation, by name.
    """

    def __init__(self, loss: LossSum, every: int) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"model.grad_ratio_every={every}: 1 or more")
        self.every = every
        terms = loss.names if len(loss.names) > 1 else []
        kinds = ("grad_share", "alignment", "alignment_8x8")
        names = [f"{kind}/{term}" for kind in kinds for term in terms]
        names += ["grad_ratio"] if "aesthetic" in terms else []
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})
        self.sums: GradientSums | None = None  # of a step's micro-batches so far

    @property
    def names(self) -> list[str]:
        """Return the names of what is measured."""
        return list(self.means)

    def measure(
        self, loss: LossSum, sr_BCHW: Tensor, hr_BCHW: Tensor, trainer: L.Trainer, batch_idx: int
    ) -> dict[str, Tensor]:
        """Measure a micro-batch if its step is due, before the loss of the step is computed.

        A weight that is `auto` follows its share after the last micro-batch of a step, for the next
        step; before its first measurement, after the first one, so that no step goes without.

        Returns:
            After the last micro-batch of a step that is logged, the terms' weights and what was
            measured.
        """
        step, num_parts = trainer.global_step, trainer.accumulate_grad_batches
        following = loss.following
        begins = following is not None and following.log_ratio is None
        follows = following is not None and (begins or step % ADAPT_EVERY == 0)
        logs = bool(self.names) and step % self.every == 0
        if not (follows or logs):
            return {}
        part = batch_idx % num_parts
        is_last = part == num_parts - 1
        sums = gradient_sums(loss, sr_BCHW, hr_BCHW)
        self.sums = sums if part == 0 or self.sums is None else self.sums.plus(sums)
        if not (is_last or (begins and part == 0)):
            return {}
        reduce = trainer.strategy.reduce
        # Of a copy: `reduce` works in place, and more micro-batches may follow.
        sums = GradientSums(*(reduce(value.clone(), reduce_op="sum") for value in self.sums))
        if following is not None and follows:
            own = sums.terms_T[loss.names.index("aesthetic")]
            following.follow(own.sqrt().item(), sums.others.sqrt().item(), keep=is_last)
            if begins and part == 0:
                following.at(step, trainer.estimated_stepping_batches)
        if not (logs and is_last):
            return {}
        weights = {name: loss.parts[name].now for name in loss.names}
        found = measured(sums, weights)
        for name in self.names:
            cast(MeanMetric, self.means[name]).update(found[name])
        row = {
            f"weight/{name}": torch.tensor(weight, dtype=torch.float64)
            for name, weight in weights.items()
        }
        return row | {name: found[name] for name in self.names}

    def results(self) -> dict[str, Tensor]:
        """Return the means since the last call, over all ranks."""
        found = {}
        for name, metric in self.means.items():
            assert isinstance(metric, MeanMetric)
            if metric.update_called:
                found[name] = metric.compute()
                metric.reset()
        return found


def measured(sums: GradientSums, weights: dict[str, float]) -> dict[str, Tensor]:
    """Return shares and alignments of the terms by name, and the ratio of `aesthetic`, if any."""
    norms_T = sums.terms_T.sqrt() * sums.terms_T.new_tensor(list(weights.values()))
    kinds = {"grad_share": norms_T / (norms_T.sum() + EPSILON), **sums.alignments}
    found = {
        f"{kind}/{name}": value
        for kind, values_T in kinds.items()
        for name, value in zip(weights, values_T, strict=True)
    }
    if "aesthetic" in weights:
        k = list(weights).index("aesthetic")
        ratio = weights["aesthetic"] * (sums.terms_T[k] / (sums.others + EPSILON)).sqrt()
        found["grad_ratio"] = ratio
    return found
