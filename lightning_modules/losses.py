"""The losses: EMD between rating distributions, and L2 + gamma * (K - mean score) for images.

"Neural Image Enhancement and Assessment", sections 2.2 (EMD) and 2.3.1 (hybrid loss); the EMD is
equation 1 of "NIMA: Neural Image Assessment".

Images are RGB in [0, 1]. The L2 term is the mean squared error in 0..255 units, 65025 times that in
[0, 1]: the paper's gammas (0.1 to 0.4) make sense only there. At 33.87 dB the L2 term is 26.7, and
0.4 * (10 - 5.4) is 1.84.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

import copy
import logging
from collections.abc import Callable
from typing import Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from networks.nima import NIMA, inference_copy, mean_score

log = logging.getLogger(__name__)

Mode = Literal["linear", "hinge", "feature"]
Fidelity = Literal["l2", "l1"]
EPSILON = 1e-12  # inside roots, whose slope at 0 is infinite: a perfect prediction would give NaN
MIN_SCORER_SIDE = 192  # pixels; a NIMA's features are 3 to 5 times too large on smaller images


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


def l2_loss(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    """Mean squared error of images in [0, 1], **in 0..255 units**; a scalar."""
    return 65025.0 * F.mse_loss(sr_BCHW.float(), hr_BCHW.float())


def l1_loss(sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    """Mean absolute error of images in [0, 1], **in 0..255 units**; a scalar."""
    return 255.0 * F.l1_loss(sr_BCHW.float(), hr_BCHW.float())


class Frozen(nn.Module):
    """Hold a frozen scorer.

    It is not a submodule: its weights would be trained, averaged and saved with the enhancer. It
    moves to other devices with the module, stays in eval mode with its batch norms folded, and lets
    the gradient through to the pixels.

    Args:
        scorer: any NIMA; it is copied.
    """

    def __init__(self, scorer: NIMA) -> None:
        super().__init__()
        self._unregistered = (inference_copy(scorer),)  # nn.Module does not look into tuples

    @property
    def scorer(self) -> NIMA:
        """Return the frozen scorer."""
        return self._unregistered[0]

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """Copies of the module around it, such as averages of its weights, share the scorer."""
        memo[id(self.scorer)] = self.scorer
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__getstate__(), memo)  # type: ignore[no-untyped-call]
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.scorer._apply(fn)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]


class AestheticLoss(Frozen):
    """Aesthetic loss computed by a frozen scorer.

    Modes:

    - `linear`: `K - mean score` ("Neural Image Enhancement and Assessment", section 2.3.1): any
      score can be raised, also above that of HR. A scalar within 0..K-1.
    - `hinge`: `max(0, score of HR - score of SR)` of each image: only what SR loses against its own
      HR is charged, so that nothing is gained by pleasing the scorer more than the original does
      (the margin of a ranking loss, with HR in place of a constant). A scalar within 0..K-1.
    - `feature`: squared distance of the scorer's pooled features of SR and HR, relative to the
      squared norm of those of HR (a perceptual loss: Johnson, Alahi, Fei-Fei, ECCV 2016; pooled,
      since the scorer looks at pooled features only). A scalar, 0 where they are equal.

    Args:
        scorer: any NIMA; it is copied. K is its number of buckets.
        mode: see above.

    Raises:
        ValueError: if the mode is unknown.
    """

    def __init__(self, scorer: NIMA, mode: Mode = "linear") -> None:
        super().__init__(scorer)
        if mode not in get_args(Mode):
            raise ValueError(f"model.loss.mode={mode}: allowed are {', '.join(get_args(Mode))}")
        self.mode = mode
        self._warned = False

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
        """Mean of the term over the batch.

        The scorer sees the images clamped to [0, 1], whole, at their own size; below 192 pixels
        they are enlarged to it, bilinearly.
        """
        sr_BCHW = self.view(sr_BCHW)
        if self.mode == "linear":
            return self.scorer.num_buckets - mean_score(self.scorer(sr_BCHW)).mean()
        with torch.no_grad():
            hr_BCHW = self.view(hr_BCHW)
            target = (
                self.scorer.pooled_features(hr_BCHW)
                if self.mode == "feature"
                else self.scorer(hr_BCHW)
            )
        if self.mode == "hinge":
            return (mean_score(target) - mean_score(self.scorer(sr_BCHW))).relu().mean()
        return relative_distance(self.scorer.pooled_features(sr_BCHW), target)

    def whole(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the term for whole photos, which the scorer sees by its own rule.

        Returns:
            The mean of the term over the photos, and the mean score of each SR photo.
        """
        seen_BCHW = self.scorer.prepare(sr_BCHW.clamp(0, 1))
        score_B = mean_score(self.scorer(seen_BCHW))
        if self.mode == "linear":
            return self.scorer.num_buckets - score_B.mean(), score_B
        hr_BCHW = self.scorer.prepare(hr_BCHW)
        if self.mode == "hinge":
            return (mean_score(self.scorer(hr_BCHW)) - score_B).relu().mean(), score_B
        features = (self.scorer.pooled_features(images) for images in (seen_BCHW, hr_BCHW))
        return relative_distance(*features), score_B

    def view(self, images_BCHW: Tensor) -> Tensor:
        """Prepare a batch of patches for the scorer: clamp, and enlarge small ones."""
        images_BCHW = images_BCHW.clamp(0, 1)
        side = min(images_BCHW.shape[-2:])
        if side >= MIN_SCORER_SIDE:
            return images_BCHW
        size = [round(length * MIN_SCORER_SIDE / side) for length in images_BCHW.shape[-2:]]
        return F.interpolate(images_BCHW, size=size, mode="bilinear")

    def warn_of(self, images_BCHW: Tensor) -> None:
        """Warn once that patches are enlarged; not in `forward`, which may be compiled."""
        side = min(images_BCHW.shape[-2:])
        if side < MIN_SCORER_SIDE and not self._warned:
            self._warned = True
            log.warning(
                "the scorer sees patches of %d pixels enlarged to %d, and the blur changes its "
                "scores (data.patch_size x scale >= %d avoids this)",
                side,
                MIN_SCORER_SIDE,
                MIN_SCORER_SIDE,
            )


def relative_distance(sr_BC: Tensor, hr_BC: Tensor) -> Tensor:
    """Average the squared distance of features, relative to the squared norm of those of HR."""
    distance_B = (sr_BC - hr_BC).float().square().sum(dim=1)
    return (distance_B / (hr_BC.float().square().sum(dim=1) + EPSILON)).mean()


class LossTerms(NamedTuple):
    """The value of a loss and what it is made of.

    `total` is the scalar that is minimised. `terms` are scalars by name, before they are weighted:
    each is logged, as `train/<name>` and `val/<name>`. `score_B` is the mean score of each image
    where the loss has rated whole photos anyway.
    """

    total: Tensor
    terms: dict[str, Tensor]
    score_B: Tensor | None = None


class HybridLoss(nn.Module):
    """`L2 + gamma * (K - mean score)` (paper, section 2.3.1), the L2 term in 0..255 units.

    In training mode it compares patches, and `gamma` may be warming up. In eval mode it compares
    whole photos: the scorer sees them by its own rule, and the weight is `gamma`.

    A loss of your own that replaces the L2 term overrides `fidelity_terms`; one that adds to the
    sum overrides `forward`.

    Args:
        gamma: weight of the aesthetic term, 0 or more; with 0 this is the plain L2 loss, and no
            scorer is built unless `score_always`.
        scorer: the scorer, or a function that builds it, which is called at most once.
        mode: of the aesthetic term, see `AestheticLoss`.
        fidelity: the other term: `l2` (paper), or `l1`, the mean absolute error in 0..255 units
            (EDSR).
        warmup: share of the training over which gamma rises evenly from 0: at first the images are
            too far from photos for a scorer to say anything.
        score_always: builds the scorer at gamma 0, too, to rate validation photos: so that a curve
            of scores by gamma begins there.

    Attributes:
        weight: gamma as it stands now.

    Raises:
        ValueError: if gamma is negative, or above 0 without a scorer, or a word is unknown.
    """

    def __init__(
        self,
        gamma: float,
        scorer: NIMA | Callable[[], NIMA] | None = None,
        *,
        mode: Mode = "linear",
        fidelity: Fidelity = "l2",
        warmup: float = 0.0,
        score_always: bool = False,
    ) -> None:
        super().__init__()
        if not gamma >= 0:
            raise ValueError(f"gamma={gamma}: the weight of the aesthetic term is 0 or more")
        needed = gamma > 0 or score_always
        if needed and scorer is None:
            raise ValueError(f"gamma={gamma} needs a scorer: give scorer.checkpoint=<file>")
        if fidelity not in FIDELITIES:
            raise ValueError(f"model.loss.fidelity={fidelity}: allowed are {', '.join(FIDELITIES)}")
        if not 0 <= warmup <= 1:
            raise ValueError(f"model.loss.warmup={warmup}: 0 to 1, a share of the training")
        self.gamma = gamma
        self.fidelity = fidelity
        self.warmup = warmup
        self.weight = gamma
        self.aesthetic: AestheticLoss | None = None
        if needed and scorer is not None:
            built = scorer if isinstance(scorer, NIMA) else scorer()
            self.aesthetic = AestheticLoss(built, mode)

    def at(self, progress: float) -> None:
        """Set `weight` for a point of the training, 0..1."""
        self.weight = self.gamma * (min(1.0, progress / self.warmup) if self.warmup else 1.0)

    def fidelity_terms(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> dict[str, Tensor]:
        """Compute the terms that compare SR with HR; their sum is what gamma weighs against."""
        return {self.fidelity: FIDELITIES[self.fidelity](sr_BCHW, hr_BCHW)}

    def forward(self, sr_BCHW: Tensor, hr_BCHW: Tensor) -> LossTerms:
        """Compare B x 3 x H x W images in [0, 1]; the gradient goes to `sr_BCHW`.

        Warns once if patches are enlarged for the scorer.
        """
        terms = self.fidelity_terms(sr_BCHW, hr_BCHW)
        first, *others = terms.values()
        total = sum(others, start=first)
        if self.aesthetic is None or self.gamma == 0:
            return LossTerms(total, terms)
        if not self.training:
            aesthetic, score_B = self.aesthetic.whole(sr_BCHW, hr_BCHW)
            terms["aesthetic"] = aesthetic
            return LossTerms(total + self.gamma * aesthetic, terms, score_B)
        self.aesthetic.warn_of(sr_BCHW)
        terms["aesthetic"] = self.aesthetic(sr_BCHW, hr_BCHW)
        return LossTerms(total + self.weight * terms["aesthetic"], terms)


def gradient_squares(loss: HybridLoss, sr_BCHW: Tensor, hr_BCHW: Tensor) -> Tensor:
    """Compute the squared norms of the gradients of the aesthetic term and of all others.

    At the SR pixels, before gamma weighs the aesthetic term. Computes the loss anew, not compiled:
    a compiled one has no second backward pass. The squares add up over micro-batches and ranks.

    Args:
        loss: has an aesthetic term.
        sr_BCHW: the images.
        hr_BCHW: what they are compared with.

    Returns:
        Two values.
    """
    sr_BCHW = sr_BCHW.detach().requires_grad_()
    with torch.compiler.set_stance("force_eager"):
        total, terms, _ = loss(sr_BCHW, hr_BCHW)
    aesthetic = terms["aesthetic"]
    others = total - loss.weight * aesthetic
    gradients = [
        torch.autograd.grad(aesthetic, sr_BCHW, retain_graph=True)[0],
        torch.autograd.grad(others, sr_BCHW)[0],
    ]
    return torch.stack([gradient.float().square().sum() for gradient in gradients])


FIDELITIES = {"l2": l2_loss, "l1": l1_loss}
