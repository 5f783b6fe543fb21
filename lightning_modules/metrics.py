"""PSNR and SSIM of images in two protocols, and how well rating distributions are predicted.

Everything is computed outside autocast, per image, then averaged over images. Images are compared
in float64.

The two image protocols, which the field mixes up:

- DIV2K: RGB, a border of `scale + 6` pixels ignored: `psnr`.
- Benchmarks (Set5 and the like): BT.601 luma, a border of `scale` pixels ignored: `psnr_y` and
  `ssim`. The luma is not rounded, as in the published rows of networks; rounding it, as MATLAB does
  for uint8 images, costs 0.02 to 0.09 dB. A gray image goes through RGB to luma, too.

In both, images are clamped and rounded to 8 bits first. Equal images have `MAX_PSNR`.

Shape suffixes: B batch, C channels, H and W height and width, K rating buckets.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat

from datamodules.sampling import Purpose, random_stream
from images.pixels import to_unit
from lightning_modules.checkpoint import load_scorer
from lightning_modules.losses import emd_batch, emd_loss
from networks.nima import NIMA, check_images, inference_copy, mean_score, std_score

LUMA = (65.481, 128.553, 24.966)  # BT.601, RGB in [0, 1] to 16..235
SSIM_SIDE = 11  # pixels of the Gaussian window (Wang et al., IEEE TIP 2004)
SSIM_SIGMA = 1.5  # of the window, in pixels
# dB that equal images count as, in place of infinity, which no mean survives. Code of the field
# returns 100 where the error is 0, such as that of RCAN; larger values are cut to it, too.
MAX_PSNR = 100.0


def to_levels(image_BCHW: Tensor) -> Tensor:
    """Convert [0, 1] to whole grey levels 0..255, float64; on the CPU where a device lacks it."""
    if image_BCHW.device.type == "mps":
        image_BCHW = image_BCHW.cpu()
    return (image_BCHW.float() * 255.0).round().clamp(0, 255).double()


def luma(levels_BCHW: Tensor) -> Tensor:
    """Convert RGB levels 0..255 to BT.601 luma 16..235, not rounded; B x 1 x H x W."""
    weights = torch.tensor(LUMA, dtype=levels_BCHW.dtype, device=levels_BCHW.device)
    return (levels_BCHW / 255.0 * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True) + 16.0


def crop_border(image_BCHW: Tensor, border: int) -> Tensor:
    """Cut `border` pixels from each side.

    Raises:
        ValueError: if nothing would be left.
    """
    height, width = image_BCHW.shape[-2:]
    if min(height, width) <= 2 * border:
        raise ValueError(
            f"an image of {width}x{height} pixels is too small for a border of {border}"
        )
    return image_BCHW[..., border : height - border, border : width - border]


def image_metrics(sr_BCHW: Tensor, hr_BCHW: Tensor, scale: int) -> dict[str, Tensor]:
    """Fidelity of each image to its reference.

    Args:
        sr_BCHW: restored images in [0, 1].
        hr_BCHW: references in [0, 1].
        scale: HR pixels per LR pixel; sets the borders.

    Returns:
        `psnr` and `psnr_y` in dB (at most `MAX_PSNR`) and `ssim` within -1..1; B values each,
        float32.
    """
    with torch.autocast(sr_BCHW.device.type, enabled=False):
        sr, hr = to_levels(sr_BCHW), to_levels(hr_BCHW)
        sr_y, hr_y = (crop_border(luma(levels), scale) for levels in (sr, hr))
        sr, hr = (crop_border(levels, scale + 6) for levels in (sr, hr))
        values = {"psnr": psnr(sr, hr), "psnr_y": psnr(sr_y, hr_y), "ssim": ssim(sr_y, hr_y)}
        return {name: value.to(sr_BCHW.device, torch.float32) for name, value in values.items()}


def drift(sr_BCHW: Tensor, hr_BCHW: Tensor) -> dict[str, Tensor]:
    """Measure how far contrast and saturation, which scorers tend to reward, moved from HR.

    Args:
        sr_BCHW: restored images in [0, 1].
        hr_BCHW: references in [0, 1].

    Returns:
        `contrast_drift`: standard deviation of BT.601 luma over that of HR, less 1.
        `saturation_drift`: mean difference of the largest and the smallest colour channel over that
        of HR, less 1. B values each; 0 where nothing changed.
    """
    values = []
    for image in (sr_BCHW.float(), hr_BCHW.float()):
        weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1) / sum(LUMA)
        contrast_B = (image * weights).sum(dim=1).std(dim=(1, 2))
        saturation_B = (image.amax(dim=1) - image.amin(dim=1)).mean(dim=(1, 2))
        values.append(torch.stack([contrast_B, saturation_B]))
    sr, hr = values
    contrast_B, saturation_B = (sr - hr) / hr.clamp_min(1 / 255)  # HR may be gray, or empty
    return {"contrast_drift": contrast_B, "saturation_drift": saturation_B}


def psnr(levels_BCHW: Tensor, reference_BCHW: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio of each image in dB; images in 0..255."""
    value_B = peak_signal_noise_ratio(
        levels_BCHW, reference_BCHW, data_range=255.0, dim=(1, 2, 3), reduction="none"
    )
    return value_B.clamp(max=MAX_PSNR)


def ssim(x_BCHW: Tensor, y_BCHW: Tensor) -> Tensor:
    """Compute the structural similarity of each image; one channel, float64, in 0..255.

    Gaussian window of 11 pixels, averaged where the whole window lies inside the image, as
    published. Not torchmetrics', whose window is not separated: in float64 it takes 20 times as
    long on a CPU.
    """
    place = torch.arange(SSIM_SIDE, dtype=x_BCHW.dtype, device=x_BCHW.device) - SSIM_SIDE // 2
    window = torch.exp(-0.5 * (place / SSIM_SIGMA) ** 2)
    window = window / window.sum()
    maps = torch.cat([x_BCHW, y_BCHW, x_BCHW**2, y_BCHW**2, x_BCHW * y_BCHW])
    smooth = F.conv2d(maps, window.view(1, 1, -1, 1))
    smooth = F.conv2d(smooth, window.view(1, 1, 1, -1))
    mean_x, mean_y, square_x, square_y, product = smooth.chunk(5)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    variances = square_x - mean_x**2 + square_y - mean_y**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * (product - mean_x * mean_y) + c2)
    similarity = similarity / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))
    mean_B: Tensor = similarity.mean(dim=(1, 2, 3))
    return mean_B


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
    - `srcc`, `lcc`: rank and linear correlation of the mean score; `srcc_std`, `lcc_std`: of the
      standard deviation. Not a number where all predictions or all ratings are equal.
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
        "lcc": correlation(pearson_corrcoef, mean_p, mean_q),
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
