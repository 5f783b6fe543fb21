"""The losses: EMD between rating distributions, and weighted sums of terms for images.

"Neural Image Enhancement and Assessment", sections 2.2 (EMD) and 2.3.1 (hybrid loss); the EMD is
equation 1 of "NIMA: Neural Image Assessment".

Images are RGB in [0, 1]. The L2 term is the mean squared error in 0..255 units, 65025 times that in
[0, 1]: the paper's gammas (0.1 to 0.4) make sense only there. At 33.87 dB the L2 term is 26.7, and
0.4 * (10 - 5.4) is 1.84.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from torch import Tensor, nn

from lightning_modules.frozen import Frozen
from lightning_modules.loss_terms import EPSILON, AestheticLoss, Mode, l2_loss
from lightning_modules.metric_names import is_baseline
from networks.nima import NIMA


def cdf_difference(p_BK: Tensor, q_BK: Tensor) -> Tensor:
    """Difference of the cumulative distributions, float32."""
    if p_BK.shape != q_BK.shape or p_BK.ndim != 2:
        raise ValueError(
            f"two B x K distributions are needed, not {tuple(p_BK.shape)} and {tuple(q_BK.shape)}"
        )
    return (p_BK.float() - q_BK.float()).cumsum(dim=1)


def emd_per_sample(p_BK: Tensor, q_BK: Tensor, r: float = 2) -> Tensor:
    """EMD of each pair: `(mean_k |CDF_p - CDF_q|^r)^(1/r)`; B values within 0..1.

    Args:
        p_BK: distributions; rows sum to 1.
        q_BK: distributions to compare with; the order of the two does not matter.
        r: 2 for training (squares pull harder on large errors); 1 is Wasserstein's distance
            divided by K.
    """
    difference_BK = cdf_difference(p_BK, q_BK)
    if r == 1:
        return difference_BK.abs().mean(dim=1)
    return (difference_BK.abs().pow(r).mean(dim=1) + EPSILON).pow(1 / r)


def emd_loss(p: Tensor, q: Tensor, r: float = 2) -> Tensor:
    """Per-sample EMD, averaged over the batch: `mean_b (mean_k d^r)^(1/r)`.

    This is what the scorers train on. The field knows three numbers by the name of EMD; for the
    same predictions they are, for example, 0.070 (this one with r=2), 0.083 (`emd_batch`) and 0.049
    (this one with r=1).

    Args:
        p: predicted distributions, B x K; rows sum to 1.
        q: true distributions, B x K.
        r: exponent.

    Returns:
        A scalar within 0..1.
    """
    return emd_per_sample(p, q, r).mean()


def input_gradient(score_B: Tensor, images_BCHW: Tensor) -> Tensor:
    """Gradient of each score to its own image, float32, as a function that can be differentiated.

    Args:
        score_B: computed from the images, which require a gradient.
        images_BCHW: the images in [0, 1].
    """
    # In float16 small gradients would be lost on the way; a power of two changes nothing else.
    scale = 1024.0
    (gradient,) = torch.autograd.grad((scale * score_B).sum(), images_BCHW, create_graph=True)
    return gradient.float() / scale


def emd_batch(p: Tensor, q: Tensor) -> Tensor:
    """EMD with one root over the batch: `sqrt(mean_bk d^2)`; the paper's code base reports it."""
    return (cdf_difference(p, q).square().mean() + EPSILON).sqrt()


# Settings of a `Term` that stand beside those of its function.
TERM = ("weight", "warmup", "from_step", "share")
AUTO = "auto"  # the weight that follows `share`
KEPT = 0.9  # of the moving average by each measurement, so that it spans about ten


class LossTerms(NamedTuple):
    """The value of a loss and what it is made of.

    `total` is the scalar that is minimised. `terms` are scalars by name, before they are weighted.
    `scores` are the mean scores of each image, by term, where the loss has rated whole photos.
    """

    total: Tensor
    terms: dict[str, Tensor]
    scores: dict[str, Tensor]


class Term(Frozen):
    """A term of a loss, with its weight.

    Args:
        function: maps SR and HR (B x 3 x H x W in [0, 1], SR not clamped) to one value, or one for
            each image. A module is not trained.
        weight: 0 or more; `auto` follows `share`, and is 0 before the first measurement.
        warmup: share of the training over which the weight rises evenly from 0: at first the images
            are too far from photos for a scorer to say anything.
        from_step: optimizer steps before the term counts; `warmup` follows them.
        share: what the norm of the weighted term's gradient at the SR pixels should be, divided by
            that of all other terms together; ignored unless `weight` is `auto`.

    Attributes:
        now: the weight in this step.
        log_ratio: with `auto`, moving average of the logarithm of the others' norm over the term's
            own before it is weighted; None before the first measurement.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        weight: float | Literal["auto"] = 1.0,
        *,
        warmup: float = 0.0,
        from_step: int = 0,
        share: float | None = None,
    ) -> None:
        super().__init__(function)
        self.share = share if isinstance(weight, str) else None
        if isinstance(weight, str):
            if share is None or not 0 < share < math.inf:
                raise ValueError(f"share={share}: above 0")
            weight = 0.0
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weight={weight}: the weight of a term is 0 or more")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup={warmup}: 0 to 1, a share of the training")
        if from_step < 0:
            raise ValueError(f"from_step={from_step}: 0 or more")
        self.weight = weight
        self.warmup = warmup
        self.from_step = from_step
        self.now = weight
        self.log_ratio: float | None = None

    @property
    def counts(self) -> bool:
        """Return whether the term is part of the loss."""
        return self.share is not None or self.weight > 0

    @property
    def function(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Return what computes the term."""
        function: Callable[[Tensor, Tensor], Tensor] = self.held
        return function

    def at(self, step: int, num_steps: float) -> None:
        """Set the weight for a step of a training that has `num_steps`."""
        risen = (step - self.from_step) / num_steps / self.warmup if self.warmup else 1.0
        self.now = self.weight * min(1.0, risen) if step >= self.from_step else 0.0

    def follow(self, own: float, others: float, *, keep: bool = True) -> None:
        """Set the weight by which the term has its share of the gradient.

        Without a gradient of either side there is nothing to measure, and the weight stays.

        Args:
            own: norm of the term's gradient, before it is weighted.
            others: norm of the gradient of all other terms together.
            keep: whether the moving average takes the measurement in.
        """
        assert self.share is not None
        if not (0 < own < math.inf and 0 < others < math.inf):
            return
        found = math.log(others / own)
        if self.log_ratio is not None:
            found = KEPT * self.log_ratio + (1 - KEPT) * found
        if keep:
            self.log_ratio = found
        self.weight = self.share * math.exp(found)

    def restore(self, log_ratio: float | None) -> None:
        """Restore the moving average on resume."""
        self.log_ratio = log_ratio
        if self.share is not None and log_ratio is not None:
            self.weight = self.share * math.exp(log_ratio)

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Compute the term, not weighted."""
        function = self.function
        if not self.training and isinstance(function, nn.Module):
            function = function.forward  # which is never compiled: photos vary in size
        value = function(sr_BCHW, hr_BCHW)
        if not isinstance(value, Tensor) or value.shape not in ((), (1,), (len(sr_BCHW),)):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"should be one value, or one for each image, not {shape}")
        return value.mean() if value.ndim else value


class LossSum(nn.Module):
    """A sum of weighted terms.

    In training mode it compares patches, and weights may be warming up. In eval mode it compares
    whole photos, which scorers see by their own rule, with the full weights; one that is `auto` has
    the value that it came to.

    Args:
        terms: by name, in the order in which they are added. One of weight 0 is not computed.

    Raises:
        ValueError: if no term has a weight above 0, or one is `auto` that cannot be.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.parts = terms
        self._held = nn.ModuleList(terms.values())  # which follow to other devices and modes
        if not self.names:
            raise ValueError("loss: no term has a weight above 0")
        for name in self.names:
            if terms[name].share is not None and (name != "aesthetic" or len(self.names) == 1):
                raise ValueError(
                    f"loss.{name}.weight=auto: is for the term `aesthetic` beside other terms"
                )

    @property
    def names(self) -> list[str]:
        """Return the names of the terms that are summed."""
        return [name for name, term in self.parts.items() if term.counts]

    @property
    def following(self) -> Term | None:
        """Return the term whose weight follows its share of the gradient, if any."""
        return next((term for term in self.parts.values() if term.share is not None), None)

    @property
    def aesthetics(self) -> dict[str, AestheticLoss]:
        """Return the terms that hold a scorer, also those of weight 0, by name."""
        functions = {name: term.function for name, term in self.parts.items()}
        return {name: f for name, f in functions.items() if isinstance(f, AestheticLoss)}

    def at(self, step: int, num_steps: float, first: int = 0) -> None:
        """Set the weights and the scorers' views for a step of a training that has `num_steps`.

        Args:
            step: optimizer steps so far.
            num_steps: of the whole training.
            first: position of the next batch's first patch in the global batch.
        """
        for term in self.parts.values():
            term.at(step, num_steps)
        for function in self.aesthetics.values():
            function.at(step, first)

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> LossTerms:
        """Compare B x 3 x H x W images in [0, 1]; the gradient goes to `sr_BCHW`.

        Warns once if patches are enlarged for a scorer.

        Raises:
            ValueError: if a term returns something else than one value, or one for each image.
        """
        total: Tensor | None = None
        terms: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        for name in self.names:
            part = self.parts[name]
            if not isinstance(part.function, AestheticLoss):
                try:
                    terms[name] = part(sr_BCHW, hr_BCHW)
                except ValueError as error:
                    raise ValueError(f"loss.{name}: {error}") from error
            elif self.training:
                part.function.warn_of(sr_BCHW)
                terms[name] = part(sr_BCHW, hr_BCHW)
            else:
                terms[name], scores[name] = part.function.whole(sr_BCHW, hr_BCHW)
            weighted = (part.now if self.training else part.weight) * terms[name]
            total = weighted if total is None else total + weighted
        assert total is not None
        return LossTerms(total, terms, scores)


class HybridLoss(LossSum):
    """`L2 + gamma * (K - mean score)` (paper, section 2.3.1), the L2 term in 0..255 units.

    Args:
        gamma: weight of the aesthetic term, 0 or more; 0 is plain L2, which needs no scorer.
        scorer: a NIMA, or its checkpoint.
        mode: of the aesthetic term, see `AestheticLoss`.

    Raises:
        ValueError: if gamma is negative, or above 0 without a scorer.
    """

    def __init__(
        self, gamma: float, scorer: NIMA | str | Path | None = None, mode: Mode = "linear"
    ) -> None:
        terms = {"l2": Term(l2_loss)}
        if gamma != 0:
            if scorer is None:
                raise ValueError(f"gamma={gamma} needs a scorer: give scorer.checkpoint=<file>")
            terms["aesthetic"] = Term(AestheticLoss(scorer, mode), gamma)
        super().__init__(terms)


def check_names(names: Iterable[str], reserved: Collection[str]) -> None:
    """Raise a ValueError if a term cannot be logged by its name.

    Args:
        names: of the terms.
        reserved: names of other values in the logs.
    """
    for name in names:
        if name in reserved or not name.isidentifier():
            raise ValueError(
                f"loss.{name}: the name of a term has to be a word other than "
                f"{', '.join(sorted(reserved))}"
            )
        if is_baseline(name) or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"loss.{name}: the name is taken; choose another one")


def build_loss(terms: Mapping[str, Mapping[str, object] | None]) -> LossSum:
    """Build a loss from settings, such as those of `conf/loss/`.

    Args:
        terms: for each name the class or function (`_target_`), its arguments, and those of `Term`.
            Without a weight it is 1. Terms of weight 0 are left out, unless `score_always` is set.

    Raises:
        ValueError: naming the term that cannot be built.
    """
    built = {name: build_term(name, settings) for name, settings in terms.items()}
    return LossSum({name: term for name, term in built.items() if term is not None})


def build_term(name: str, settings: Mapping[str, object] | None) -> Term | None:
    """Build a term of `build_loss`; None if it is left out."""
    arguments = dict(settings or {"weight": 0})
    own: dict[str, Any] = {key: arguments.pop(key) for key in TERM if key in arguments}
    if own.get("weight") == 0 and not arguments.get("score_always"):
        return None
    if own.get("weight") == AUTO and name != "aesthetic":
        raise ValueError(f"loss.{name}.weight=auto: only gamma can be auto")
    try:
        target = get_object(str(arguments.get("_target_")))
        return Term(
            instantiate(arguments, _partial_=not inspect.isclass(target), _convert_="all"), **own
        )
    except Exception as error:  # a term of the user's own may raise what it likes
        cause = error.__cause__ if isinstance(error, InstantiationException) else None
        raise ValueError(f"loss.{name}: {cause or error}") from error
