"""Rating distributions over 1..K: from their moments, and from ratings on another scale.

How ratings on any scale become distributions over the K buckets of a scorer:

- A score is mapped linearly: the ends of its scale go to 1 and K. A standard deviation is scaled by
  the same factor (`rescale`). Mean and deviation then become the distribution of maximum entropy.
- Votes for K' ratings are placed evenly on 1..K, the first at 1 and the last at K. A vote between
  two buckets is shared between them in proportion to its distance from the other (`spread_votes`).
  This keeps the mean exactly, and adds at most 1/4 to the variance, in squared buckets.

Shape suffixes: N images, K rating buckets, J buckets of votes, F features.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Means and deviations of a published table are rounded, so that a deviation can exceed the largest
# possible by a little: by 0.01 of 4 for KADID-10k's two digits.
ROUNDING = 0.01  # of the length of the scale


def check_scale(scale: Sequence[float], where: str) -> tuple[float, float]:
    """Return the lowest and the highest possible score.

    Raises:
        ValueError: unless these are two finite numbers in ascending order.
    """
    numbers = [float(v) for v in scale if isinstance(v, int | float) and math.isfinite(v)]
    if len(numbers) != 2 or len(scale) != 2 or not 0 < numbers[1] - numbers[0] < math.inf:
        shown = ",".join(map(str, scale))
        raise ValueError(f"{where}=[{shown}]: the lowest and the highest score, such as [0,100]")
    return numbers[0], numbers[1]


def rescale(
    values: NDArray[np.float64], scale: tuple[float, float], num_buckets: int
) -> NDArray[np.float64]:
    """Map a mean, and its standard deviation if given, from a scale to 1..K.

    A deviation below the smallest that ratings of 1..K allow is raised to it, because votes on a
    finer scale can agree more closely. One that exceeds the largest by rounding is cut to it.

    Raises:
        ValueError: if the mean is outside the scale.
    """
    low, high = scale
    if not low <= values[0] <= high:
        raise ValueError(f"a score of {values[0]:g} is outside scale=[{low:g},{high:g}]")
    factor = (num_buckets - 1) / (high - low)
    mean = min(1 + (values[0] - low) * factor, float(num_buckets))
    if len(values) == 1:
        return np.array([mean])
    std, largest = values[1] * factor, max_std(mean, num_buckets)
    if 0 <= std < min_std(mean):
        std = min_std(mean)
    elif largest < std <= largest + ROUNDING * (num_buckets - 1):
        std = largest
    return np.array([mean, std])


def spread_votes(share_NJ: NDArray[np.float64], num_buckets: int) -> NDArray[np.float64]:
    """Spread shares of votes for J ratings over K buckets (see the top of this file).

    Returns:
        N x K, rows sum to what they did.
    """
    place_J = np.linspace(0, num_buckets - 1, share_NJ.shape[1])
    weight_JK = np.maximum(0, 1 - np.abs(place_J[:, None] - np.arange(num_buckets)))
    spread_NK: NDArray[np.float64] = share_NJ @ weight_JK
    return spread_NK


def min_std(mean: float) -> float:
    """Return the smallest standard deviation for a mean: only the two nearest ratings occur."""
    return math.sqrt((mean - math.floor(mean)) * (math.floor(mean) + 1 - mean))


def max_std(mean: float, num_buckets: int) -> float:
    """Return the largest standard deviation for a mean: only ratings of 1 and K occur."""
    return math.sqrt((mean - 1) * (num_buckets - mean))


def moments_problem(mean: float, std: float | None = None, *, num_buckets: int) -> str | None:
    """Describe why no distribution over 1..K has these moments; None if there is one."""
    if not 1 <= mean <= num_buckets:
        return f"a mean of {mean:g} is not within 1 to {num_buckets}; a scale maps others"
    low, high = min_std(mean), max_std(mean, num_buckets)
    if std is not None and not low - 1e-6 <= std <= high + 1e-6:
        return (
            f"ratings of 1 to {num_buckets} with a mean of {mean:g} have a standard deviation of "
            f"{low:.4g} to {high:.4g}, not {std:g}"
        )
    return None


def maximum_entropy(
    mean_N: NDArray[np.float64], std_N: NDArray[np.float64] | None = None, *, num_buckets: int
) -> NDArray[np.float64]:
    """Compute the maximum-entropy distributions over 1..K with given means and deviations.

    They are p_k ~ exp(a k), or p_k ~ exp(a k + b k^2) if a standard deviation is given (Jaynes,
    Physical Review 1957).

    Args:
        mean_N: means, in 1..K.
        std_N: possible standard deviations (see `moments_problem`); unconstrained if None.
        num_buckets: K.

    Returns:
        N x K, rows sum to 1.
    """
    k_K = np.arange(1, num_buckets + 1, dtype=np.float64)
    if std_N is not None:
        # At the limits there is only one distribution, for which a and b are infinite.
        low_N = np.array([min_std(mean) for mean in mean_N])
        high_N = np.array([max_std(mean, num_buckets) for mean in mean_N])
        gap_N = 1e-4 * (high_N - low_N)
        std_N = np.clip(std_N, low_N + gap_N, high_N - gap_N)
    x_K = (2 * k_K - num_buckets - 1) / (num_buckets - 1)  # in -1..1
    unit = 2 / (num_buckets - 1)
    aim_N = np.clip((mean_N - (num_buckets + 1) / 2) * unit, -1 + 1e-6, 1 - 1e-6)
    features = [x_K] if std_N is None else [x_K, x_K**2]
    aims = [aim_N] if std_N is None else [aim_N, (std_N * unit) ** 2 + aim_N**2]
    p_NK = match_moments(np.array(features), np.stack(aims, axis=1))
    for mean, bucket in ((1, 0), (num_buckets, -1)):  # only one bucket is possible
        p_NK[mean_N == mean] = np.eye(num_buckets)[bucket]
    return p_NK


def match_moments(f_FK: NDArray[np.float64], aim_NF: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute maximum-entropy distributions by Newton's method on the dual, which is convex.

    Args:
        f_FK: features of each bucket.
        aim_NF: expectation that each feature has to have in each distribution.

    Returns:
        N x K, rows sum to 1.
    """
    weight_NF = np.zeros_like(aim_NF)
    p_NK, value_N = evaluate_dual(weight_NF, f_FK, aim_NF)
    for _ in range(200):
        slope_NF = p_NK @ f_FK.T - aim_NF
        if np.abs(slope_NF).max() < 1e-9:
            break
        mean_NF = p_NK @ f_FK.T
        moments_NFF = np.einsum("nk,fk,gk->nfg", p_NK, f_FK, f_FK)
        curvature_NFF = moments_NFF - mean_NF[:, :, None] * mean_NF[:, None, :]
        curvature_NFF += 1e-12 * np.eye(len(f_FK))
        step_NF = np.linalg.solve(curvature_NFF, slope_NF[..., None])[..., 0]
        size_N = np.ones(len(step_NF))
        for _ in range(40):  # halve steps that overshoot
            _, new_N = evaluate_dual(weight_NF - size_N[:, None] * step_NF, f_FK, aim_NF)
            worse_N = new_N > value_N + 1e-15
            if not worse_N.any():
                break
            size_N[worse_N] /= 2
        size_N[worse_N] = 0
        weight_NF = weight_NF - size_N[:, None] * step_NF
        p_NK, value_N = evaluate_dual(weight_NF, f_FK, aim_NF)
    return p_NK


def evaluate_dual(
    weight_NF: NDArray[np.float64], f_FK: NDArray[np.float64], aim_NF: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the distributions with these weights (N x K) and the values of the dual (N)."""
    logits_NK = weight_NF @ f_FK
    top_N1 = logits_NK.max(axis=1, keepdims=True)
    p_NK = np.exp(logits_NK - top_N1)
    total_N1 = p_NK.sum(axis=1, keepdims=True)
    value_N = (np.log(total_N1) + top_N1)[:, 0] - (weight_NF * aim_NF).sum(axis=1)
    return p_NK / total_N1, value_N
