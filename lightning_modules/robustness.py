"""How scorers respond to changes whose effect on people is known.

Robustness: a step along the score's own gradient that nobody sees should add next to nothing.
Monotony: the score should fall as a photo gets worse. Images are RGB in [0, 1].

Shape suffixes: B batch, C channels, H and W height and width, N photos, S strengths.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from datamodules.graded import GRADED, degrade
from lightning_modules.loss_terms import MIN_SCORER_SIDE, enlarged
from networks.nima import NIMA, inference_copy, mean_score

LEVELS = (0.08, 0.25, 0.77)  # root mean square of a step, in grey levels of 255
STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)  # of degradations
Score = Callable[[Tensor], Tensor]  # of B x 3 x H x W images; B values
Key = TypeVar("Key", bound=Hashable)


class Gain(NamedTuple):
    """What a step along the gradient of one scorer adds to the score of the same or another one.

    Attributes:
        scorer: the one whose gradient is followed.
        levels: length of the step, in grey levels rms.
        rounded: whether the result is rounded to 8 bits.
        rater: the one whose score is measured.
        score: mean over the photos of what its score gains.
        sds: the same in standard deviations of its scores of the photos; NaN for a single photo.
    """

    scorer: str
    levels: float
    rounded: bool
    rater: str
    score: float
    sds: float


def patch_score(scorer: NIMA, device: torch.device) -> Score:
    """Return the score of a photo's centre as the aesthetic loss sees it: at full resolution.

    Centres below 192 pixels are enlarged to that, bilinearly.
    """
    fast = inference_copy(scorer).to(device)

    def score(images_BCHW: Tensor) -> Tensor:
        patches_BCHW = enlarged(centre(images_BCHW).to(device).clamp(0, 1))
        found: Tensor = mean_score(fast(patches_BCHW))
        return found

    return score


def whole_score(scorer: NIMA, device: torch.device) -> Score:
    """Return the score of a photo by the scorer's own resize rule, as in `score` and `evaluate`."""
    fast = inference_copy(scorer).to(device)
    return lambda images_BCHW: fast.score(images_BCHW.to(device))


def centre(images_BCHW: Tensor, side: int = MIN_SCORER_SIDE) -> Tensor:
    """Cut out the central square; a side that is shorter stays as it is."""
    top, left = (max(0, length - side) // 2 for length in images_BCHW.shape[-2:])
    return images_BCHW[..., top : top + side, left : left + side]


def direction(score: Score, image_BCHW: Tensor) -> Tensor:
    """Return the gradient of a score at the pixels, scaled to a root mean square of 1.

    It is zero where the score does not depend on the pixels.
    """
    image_BCHW = image_BCHW.detach().clone().requires_grad_()
    (gradient_BCHW,) = torch.autograd.grad(score(image_BCHW).sum(), image_BCHW)
    rms = gradient_BCHW.double().square().mean().sqrt()
    return gradient_BCHW / rms.clamp_min(1e-30).float()


def robustness(scores: Mapping[str, Score], images: Iterable[Tensor]) -> list[Gain]:
    """Measure what one step along each scorer's gradient adds to its own score and the others'.

    Args:
        scores: the scorers by name, differentiable.
        images: 1 x 3 x H x W each, of any size.
    """
    clean: dict[str, list[Tensor]] = defaultdict(list)
    gains: dict[tuple[str, float, bool, str], list[Tensor]] = defaultdict(list)
    for image_BCHW in images:
        for rater, rate in scores.items():
            clean[rater].append(rate(image_BCHW).flatten())
        for scorer, score in scores.items():
            step_BCHW = direction(score, image_BCHW)
            for levels in LEVELS:
                moved_BCHW = (255 * image_BCHW + levels * step_BCHW).clamp(0, 255)
                for rounded in (False, True):
                    seen_BCHW = (moved_BCHW.round() if rounded else moved_BCHW) / 255
                    for rater, rate in scores.items():
                        gain = rate(seen_BCHW).flatten() - clean[rater][-1]
                        gains[scorer, levels, rounded, rater].append(gain)
    sds = {rater: spread(torch.cat(found)) for rater, found in clean.items()}
    means = {key: torch.cat(found).double().mean().item() for key, found in gains.items()}
    return [Gain(*key, mean, mean / (sds[key[-1]] or math.nan)) for key, mean in means.items()]


def spread(score_N: Tensor) -> float:
    """Return the standard deviation of scores; NaN for a single one."""
    return score_N.double().std().item() if len(score_N) > 1 else math.nan


def monotony(
    scores: Mapping[Key, Score], photos: Iterable[Tensor], *, seed: int = 0
) -> dict[tuple[Key, str], Tensor]:
    """Score each photo as it is and at every strength of every degradation.

    Args:
        scores: the scorers, each perhaps by several views.
        photos: 1 x 3 x H x W each, of any size, on the CPU.
        seed: of the noise.

    Returns:
        By scorer and degradation: the scores of the clean photo and at each of `STRENGTHS`, N x S.
    """
    rows: dict[tuple[Key, str], list[Tensor]] = defaultdict(list)
    strength_B = torch.tensor([0.0, *STRENGTHS])
    for number, photo_1CHW in enumerate(photos):
        photo_BCHW = photo_1CHW.expand(len(strength_B), -1, -1, -1)
        for name in GRADED:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed + number)
                worse_BCHW = degrade(photo_BCHW, name, strength_B)
            for key, score in scores.items():
                rows[key, name].append(score(worse_BCHW).cpu())
    return {key: torch.stack(found) for key, found in rows.items()}


def falls(scores_NS: Tensor) -> tuple[list[float], list[float]]:
    """Return the shares of photos that score less than the clean photo, and than one step before.

    Args:
        scores_NS: of N photos, clean and at growing strengths.
    """
    worse_NS = scores_NS[:, 1:]
    below = (worse_NS < scores_NS[:, :1], worse_NS < scores_NS[:, :-1])
    clean, weaker = (less_NS.double().mean(dim=0).tolist() for less_NS in below)
    return clean, weaker
