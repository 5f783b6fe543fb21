"""How well rating distributions are predicted, and NIMA scores as a metric.

Everything is computed outside autocast.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat

from datamodules.sampling import Purpose, random_stream
from images.pixels import to_unit
from lightning_modules.checkpoint import load_scorer
from lightning_modules.losses import emd_batch, emd_loss
from networks.nima import NIMA, check_images, inference_copy, mean_score, std_score


class MicroBatchMeans:
    """Means over the micro-batches of a step, so that curves do not depend on accumulation."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: Mapping[str, Tensor], part: int) -> dict[str, Tensor]:
        """Add the values of micro-batch `part` of a step, from 0 on; returns the means so far."""
        if part == 0:
            self.sums = {}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        return {name: value / (part + 1) for name, value in self.sums.items()}


class RatingMetrics(Metric):
    """How well rating distributions are predicted, over the whole data set and all ranks.

    `compute` returns scalars:

    - `emd`, `emd_r1`: per-sample EMD, r = 2 and 1; `emd_batch`: one root over the data set.
    - `srcc`, `krcc`, `lcc`: Spearman's and Kendall's (tau-b) rank correlation and the linear one of
      the mean score; `srcc_std`, `lcc_std`: of the standard deviation. Not a number where all
      predictions or all ratings are equal.
    - `rmse`: root of the mean squared error of the mean score, in ratings of 1..K.
    - `accuracy`: share of photos put on the right side of the middle of the scale: bucket 5 of 10
      (AVA, as in the NIMA paper), 4 of 7, 3 of 5.
    """

    full_state_update = False
    p: list[Tensor]
    q: list[Tensor]
    item: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("p", [], dist_reduce_fx="cat")
        self.add_state("q", [], dist_reduce_fx="cat")
        self.add_state("item", [], dist_reduce_fx="cat")

    def update(self, p_BK: Tensor, q_BK: Tensor, item_B: Tensor) -> None:
        """Add predicted and true distributions, and the photos' positions in their data set."""
        self.p.append(p_BK.detach().float())
        self.q.append(q_BK.float())
        self.item.append(item_B)

    def compute(self) -> dict[str, Tensor]:
        """Everything at once (see the class)."""
        return rating_metrics(*self.everything()[:2])

    def everything(self) -> "Predictions":
        """Return everything added, sorted by position; from all ranks within `sync_context`."""
        item_N, order_N = dim_zero_cat(self.item).sort()
        return Predictions(dim_zero_cat(self.p)[order_N], dim_zero_cat(self.q)[order_N], item_N)


class Predictions(NamedTuple):
    """Predicted and true distributions of N photos, and their positions in the data set."""

    p_NK: Tensor
    q_NK: Tensor
    item_N: Tensor


class NIMAScore(Metric):
    """Mean NIMA score of images, higher is better: a torchmetrics metric like any other.

    Each image goes through the scorer's own rule, whole. The scorer is not part of the metric's
    state: it appears in no checkpoint of a module that holds the metric.

    Args:
        scorer: a NIMA, which is copied, or the path of a checkpoint.
        reduction: `mean` over all images; `none` keeps the scores, in the order of the updates.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: if the reduction is unknown or the checkpoint cannot be read.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 1.0
    total: Tensor
    num_images: Tensor
    scores: list[Tensor]

    def __init__(
        self,
        scorer: NIMA | str | Path,
        reduction: Literal["mean", "none"] = "mean",
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction={reduction}: allowed are mean and none")
        loaded = scorer if isinstance(scorer, NIMA) else load_scorer(scorer)
        self._unregistered = (inference_copy(loaded),)  # nn.Module does not look into tuples
        self.reduction = reduction
        if reduction == "none":
            self.add_state("scores", [], dist_reduce_fx="cat")
        else:
            self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def scorer(self) -> NIMA:
        """Return the frozen scorer."""
        return self._unregistered[0]

    @property
    def plot_upper_bound(self) -> float:  # type: ignore[override]
        """K."""
        return float(self.scorer.num_buckets)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        # The scorer follows to other devices, but not to half precision, as other metrics' states.
        self.scorer.to(fn(torch.empty(0, device=self.scorer.mean.device)).device)
        return super()._apply(fn, exclude_state)

    def update(self, images: Tensor) -> None:
        """Add images: B x 3 x H x W, float in [0, 1] or uint8."""
        unit = to_unit(images) if images.dtype == torch.uint8 else images
        check_images(unit)
        unit = unit.float().clamp(0, 1)
        with torch.autocast(images.device.type, enabled=False):
            scores_B = self.scorer.score(unit)
        if self.reduction == "none":
            self.scores.append(scores_B)
        else:
            self.total += scores_B.double().sum()
            self.num_images += len(scores_B)

    def compute(self) -> Tensor:
        """Compute the mean score (NaN without images), or return all scores."""
        if self.reduction == "none":
            return dim_zero_cat(self.scores)
        return (self.total / self.num_images).float()


def rating_metrics(p_BK: Tensor, q_BK: Tensor) -> dict[str, Tensor]:
    """Compute the metrics of `RatingMetrics` from predictions `p` and true distributions `q`."""
    middle = (p_BK.shape[1] + 1) // 2
    mean_p, mean_q = mean_score(p_BK), mean_score(q_BK)
    std_p, std_q = std_score(p_BK), std_score(q_BK)
    return {
        "emd": emd_loss(p_BK, q_BK),
        "emd_batch": emd_batch(p_BK, q_BK),
        "emd_r1": emd_loss(p_BK, q_BK, r=1),
        "srcc": correlation(spearman_corrcoef, mean_p, mean_q),
        "krcc": correlation(kendall, mean_p, mean_q),
        "lcc": correlation(pearson_corrcoef, mean_p, mean_q),
        "rmse": (mean_p - mean_q).square().mean().sqrt(),
        "srcc_std": correlation(spearman_corrcoef, std_p, std_q),
        "lcc_std": correlation(pearson_corrcoef, std_p, std_q),
        "accuracy": ((mean_p > middle) == (mean_q > middle)).float().mean(),
    }


def baselines(
    train_NK: Tensor, q_NK: Tensor, num_votes_N: NDArray[np.int64] | None, *, draws: int = 10
) -> dict[str, float]:
    """Compute the baselines of a scorer's metrics, which depend on the ratings alone.

    - `<metric>_constant`: of the constant predictor, which answers every photo with the mean
      distribution of the training data: a scorer that is not better has learned nothing.
    - `<metric>_floor`: of as many votes as each photo has, drawn anew from its own distribution:
      the noise in the ratings, which no scorer can be expected to get below.

    Args:
        train_NK: distributions of the training data.
        q_NK: those of the photos that are predicted.
        num_votes_N: their numbers of votes; None leaves out the floor.
        draws: times that all votes are drawn; the metrics are averaged.
    """
    constant_NK = train_NK.mean(dim=0, keepdim=True).expand_as(q_NK)
    values = {
        f"{name}_constant": value.item()
        for name, value in rating_metrics(constant_NK, q_NK).items()
    }
    if num_votes_N is None:
        return values
    p_NK = q_NK.double().numpy()
    p_NK /= p_NK.sum(axis=1, keepdims=True)  # float32 sums to 1 within 1e-7 only
    for k in range(draws):
        votes_NK = random_stream(0, position=k, purpose=Purpose.VOTES).multinomial(
            num_votes_N, p_NK
        )
        drawn_NK = torch.from_numpy(votes_NK / num_votes_N[:, None]).float()
        for name, value in rating_metrics(drawn_NK, q_NK).items():
            name = f"{name}_floor"
            values[name] = values.get(name, 0.0) + value.item() / draws
    return values


def correlation(kind: Callable[[Tensor, Tensor], Tensor], x_B: Tensor, y_B: Tensor) -> Tensor:
    """Compute a correlation; NaN if one side is constant up to rounding."""
    if len(x_B) < 2 or any(values.std() < 1e-6 for values in (x_B, y_B)):
        return torch.tensor(float("nan"), device=x_B.device)
    return kind(x_B.double(), y_B.double()).float()


def kendall(x_B: Tensor, y_B: Tensor) -> Tensor:
    """Compute Kendall's tau-b; by SciPy, as torchmetrics' compares all pairs."""
    from scipy.stats import kendalltau

    tau = kendalltau(x_B.cpu().numpy(), y_B.cpu().numpy()).statistic
    return torch.tensor(tau, device=x_B.device)


def fitted_lcc(x_B: Tensor, y_B: Tensor) -> float:
    """Compute the linear correlation after fitting predictions `x` to ratings `y` by a logistic.

    The monotonic logistic of four parameters, `y = b + (a - b) / (1 + exp(-(x - c) / |d|))`, by
    least squares (VQEG, "Final report on the validation of objective models of video quality
    assessment", 2000), from the starting point that VQEG's successors and pyiqa use.

    Returns:
        The correlation; NaN if one side is constant, or nothing can be fitted.
    """
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.special import expit

    def logistic(
        x: NDArray[np.float64], a: float, b: float, c: float, d: float
    ) -> NDArray[np.float64]:
        curve: NDArray[np.float64] = b + (a - b) * expit((x - c) / (abs(d) + 1e-12))
        return curve

    x, y = x_B.double().cpu().numpy(), y_B.double().cpu().numpy()
    if len(x) <= 4 or min(x.std(), y.std()) < 1e-6:
        return float("nan")
    start = [y.max(), y.min(), x.mean(), x.std() / 4]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            found, _ = curve_fit(logistic, x, y, start, maxfev=10_000)
    except RuntimeError:  # no convergence
        return float("nan")
    fitted = torch.from_numpy(logistic(x, *found))
    return correlation(pearson_corrcoef, fitted, torch.from_numpy(y)).item()
