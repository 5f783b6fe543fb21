"""Compare networks photo by photo and seed by seed, with bootstrapped intervals.

The interval is a percentile bootstrap over two crossed factors: photos and, independently, seeds
are drawn with replacement (Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007).
With one seed only photos are drawn, which is the ordinary bootstrap of a mean.

Shape suffixes: D draws, S seeds, N photos.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_modules.metric_catalogue import Direction

Values = Mapping[int | None, Mapping[str, float]]  # by seed (None: unknown), then by photo
Seeds = Mapping[int | None, str]  # names in per_image.csv by seed
Measured = Mapping[tuple[str, int], Mapping[str, Mapping[str, float]]]  # (net, scale): by photo
Floats = NDArray[np.float64]

DRAWS = 10_000  # moves the ends of an interval by about 1 % of its width from seed to seed
LEVEL = 0.95


class Gain(NamedTuple):
    """Mean difference of a measure between two networks, and its interval.

    Attributes:
        mean: candidate minus baseline.
        low: lower end of the interval.
        high: upper end of the interval.
        num_seeds: pairs of runs.
        num_photos: pairs of photos of each.
    """

    mean: float
    low: float
    high: float
    num_seeds: int
    num_photos: int

    @property
    def excludes_zero(self) -> bool:
        """Return whether the whole interval is on one side of zero."""
        return self.low > 0 or self.high < 0

    def verdict(self, better: Direction | None) -> str:
        """Return `better`, `worse`, `changed` if the direction is unknown, or `unclear`."""
        if not self.excludes_zero:
            return "unclear"
        if better is None:
            return "changed"
        return "better" if (self.low > 0) == (better == "higher") else "worse"

    def text(self, digits: int = 4) -> str:
        """Format the mean and the interval."""
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def paired_gains(
    ours: Seeds, theirs: Seeds, scale: int | None, measured: Measured
) -> dict[str, Gain]:
    """Return the gains of a candidate over a baseline by measure.

    Args:
        ours: the runs of the candidate.
        theirs: the runs of the baseline.
        scale: at which they are compared; None: over all scales of each photo.
        measured: values of each measure by network, scale and photo.
    """
    one, two = (by_measure(side, scale, measured) for side in (ours, theirs))
    found = {name: gain(values, two[name]) for name, values in one.items() if name in two}
    return {name: value for name, value in found.items() if value is not None}


def by_measure(runs: Seeds, scale: int | None, measured: Measured) -> dict[str, Values]:
    """Return the values of each measure by seed and photo; over several scales, their means."""
    found: dict[str, dict[int | None, dict[str, list[float]]]] = {}
    for seed, net in runs.items():
        for (name, at), photos in measured.items():
            if name != net or scale not in (None, at):
                continue
            for photo, values in photos.items():
                for measure, value in values.items():
                    by_seed = found.setdefault(measure, {}).setdefault(seed, {})
                    by_seed.setdefault(photo, []).append(value)
    return {
        measure: {
            seed: {photo: sum(values) / len(values) for photo, values in by_photo.items()}
            for seed, by_photo in by_seed.items()
        }
        for measure, by_seed in found.items()
    }


def gain(ours: Values, theirs: Values) -> Gain | None:
    """Compare a candidate with a baseline, paired over photos and seeds.

    Returns:
        The mean difference and its 95 % interval; None if they have no photo in common.
    """
    pairs_SN = differences(ours, theirs)
    if pairs_SN.size == 0:
        return None
    return Gain(float(pairs_SN.mean()), *interval(pairs_SN), *pairs_SN.shape)


def differences(ours: Values, theirs: Values) -> Floats:
    """Return the differences of one measure, S x N.

    Only photos that all runs have count. Runs with the same seed are paired. A run of unknown seed
    is paired with every run of the other side. If there are seeds on both sides but none in common,
    the means over seeds are compared, as a single pair.
    """
    photos = sorted(set.intersection(*(set(run) for run in (*ours.values(), *theirs.values()))))

    def rows(side: Values, seeds: list[int | None]) -> Floats:
        return np.array([[side[seed][photo] for photo in photos] for seed in seeds])

    common = [seed for seed in ours if seed in theirs]
    if common:
        return rows(ours, common) - rows(theirs, common)
    one, two = rows(ours, [*ours]), rows(theirs, [*theirs])
    if None not in ours and None not in theirs:
        one, two = one.mean(axis=0, keepdims=True), two.mean(axis=0, keepdims=True)
    pairs_SN: Floats = one - two
    return pairs_SN


def interval(
    pairs_SN: Floats, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval of the mean over seeds and photos.

    Args:
        pairs_SN: differences of pairs.
        draws: number of resamples.
        level: share of the resampled means that the interval covers.
        seed: of the random numbers; the same differences have the same interval.
    """
    rng = np.random.default_rng(seed)
    num_seeds, num_photos = pairs_SN.shape
    means_DS = counts(rng, draws, num_photos) @ pairs_SN.T / num_photos
    means_D = means_DS[:, 0]
    if num_seeds > 1:
        means_D = (means_DS * counts(rng, draws, num_seeds)).sum(axis=1) / num_seeds
    low, high = np.quantile(means_D, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def counts(rng: np.random.Generator, draws: int, num: int) -> NDArray[np.int64]:
    """Return how often each of `num` units is drawn in each resample, D x num."""
    return rng.multinomial(num, np.full(num, 1 / num), draws)
