"""Intervals of paired differences, compared with SciPy, the t-distribution and simulations."""

import numpy as np
import pytest
import scipy.stats

from runs.paired import Gain, Values, differences, gain, interval


def test_one_seed_is_the_ordinary_bootstrap_of_a_mean() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=40)
    found = interval(values[None], draws=100_000)
    scipys = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=100_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = scipys.high - scipys.low
    assert found == pytest.approx((scipys.low, scipys.high), abs=0.01 * width)


def test_many_photos_give_the_interval_of_the_t_distribution() -> None:
    values = np.random.default_rng(3).normal(0.2, 1.0, size=2000)
    spread = scipy.stats.sem(values)
    expected = scipy.stats.t.interval(0.95, len(values) - 1, values.mean(), spread)
    assert interval(values[None]) == pytest.approx(expected, abs=0.08 * spread)


@pytest.mark.parametrize(
    ("num_seeds", "by_seed", "least", "most"),
    [(1, 0.0, 0.92, 0.97), (3, 0.1, 0.92, 0.98), (10, 0.3, 0.90, 0.98)],
)
def test_intervals_cover_the_truth(
    num_seeds: int, by_seed: float, least: float, most: float
) -> None:
    """Each photo and each seed has an effect of its own, and each pair has noise."""
    rng = np.random.default_rng(4)
    covered = []
    for _ in range(400):
        photos = rng.normal(0, 1, (1, 60))
        seeds = rng.normal(0, by_seed, (num_seeds, 1))
        pairs = 0.5 + photos + seeds + rng.normal(0, 0.5, (num_seeds, 60))
        low, high = interval(pairs, draws=1000)
        covered.append(low < 0.5 < high)
    assert least <= np.mean(covered) <= most


def test_seeds_are_drawn_as_well_as_photos() -> None:
    # Two seeds, no differences between photos: means are 0, 1 or 2 with 1/4, 1/2 and 1/4.
    pairs = np.repeat([[0.0], [2.0]], 30, axis=1)
    assert interval(pairs) == (0.0, 2.0)
    assert interval(pairs, level=0.4) == (1.0, 1.0)


def test_runs_are_paired_by_seed_and_photo() -> None:
    ours: Values = {0: {"a": 2.0, "b": 5.0, "only here": 9.0}, 1: {"a": 3.0, "b": 7.0}}
    theirs: Values = {1: {"b": 4.0, "a": 1.0}, 2: {"b": 0.0, "a": 0.0}}
    assert differences(ours, theirs).tolist() == [[2.0, 3.0]]  # seed 1, photos a and b
    unknown: Values = {None: {"a": 1.0, "b": 1.0}}
    assert differences(ours, unknown).tolist() == [[1.0, 4.0], [2.0, 6.0]]
    assert differences(unknown, ours).tolist() == [[-1.0, -4.0], [-2.0, -6.0]]
    others: Values = {7: {"a": 1.0, "b": 1.0}}
    assert differences(ours, others).tolist() == [[1.5, 5.0]]  # means over seeds
    found = gain(ours, theirs)
    assert found is not None
    assert (found.mean, found.num_seeds, found.num_photos) == (2.5, 1, 2)
    assert gain(ours, {0: {"elsewhere": 1.0}}) is None


def test_verdicts_follow_the_direction() -> None:
    up, down, near = Gain(2, 1, 3, 1, 9), Gain(-2, -3, -1, 1, 9), Gain(1, -1, 3, 1, 9)
    assert [g.verdict("higher") for g in (up, down, near)] == ["better", "worse", "unclear"]
    assert [g.verdict("lower") for g in (up, down, near)] == ["worse", "better", "unclear"]
    assert [g.verdict(None) for g in (up, near)] == ["changed", "unclear"]
    assert up.text(1) == "+2.0 [+1.0, +3.0]"
