import math

import numpy as np
import pytest
from scipy import stats

from rwp.errors import UserError
from rwp.evaluation.statistics import bootstrap_difference, interval, mcnemar, over_seeds


def test_interval_is_wilsons():
    found = interval(45, 100)
    z, share, n = stats.norm.ppf(0.975), 0.45, 100
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))
    assert found.estimate == 0.45


def test_interval_at_the_ends():
    assert interval(0, 20).low == 0.0
    assert interval(20, 20).high == pytest.approx(1.0)
    with pytest.raises(UserError, match="0 to 0 successes of at least one example"):
        interval(0, 0)


def test_spread_over_seeds():
    found = over_seeds([0.5, 0.7])
    assert (found.mean, found.count) == (pytest.approx(0.6), 2)
    assert found.deviation == pytest.approx(math.sqrt(0.02))
    assert math.isnan(over_seeds([0.5]).deviation)
    with pytest.raises(UserError, match="expected at least one value"):
        over_seeds([])


def test_mcnemar_counts_only_images_that_differ():
    first = np.array([True] * 50 + [True] * 9 + [False] * 1 + [False] * 40)
    second = np.array([True] * 50 + [False] * 9 + [True] * 1 + [False] * 40)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (9, 1)
    assert found.p_value == pytest.approx(2 * stats.binom.cdf(1, 10, 0.5))
    assert mcnemar(first, first).p_value == 1.0


def test_paired_bootstrap_is_tighter_than_two_intervals():
    rng = np.random.default_rng(0)
    second = rng.random(2000) < 0.5
    first = second.copy()
    first[rng.choice(np.flatnonzero(~second), 60, replace=False)] = True
    found = bootstrap_difference([first], [second], num_resamples=500, seed=0)
    assert found.estimate == pytest.approx(0.03)
    assert 0.02 < found.low < 0.03 < found.high < 0.04
    assert interval(int(second.sum()), 2000).high > interval(int(first.sum()), 2000).low


def test_bootstrap_sees_the_spread_over_seeds():
    rng = np.random.default_rng(0)
    second = rng.random(2000) < 0.5
    lucky, unlucky = second | (rng.random(2000) < 0.2), second & (rng.random(2000) < 0.8)
    found = bootstrap_difference([lucky, unlucky], [second] * 2, num_resamples=500, seed=0)
    assert found.low < -0.05 < 0.05 < found.high
    again = bootstrap_difference([lucky, unlucky], [second] * 2, num_resamples=500, seed=0)
    assert again == found


def test_outcomes_of_other_images_are_refused():
    with pytest.raises(UserError, match="outcomes of the same images"):
        mcnemar(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
    with pytest.raises(UserError, match="at least one seed"):
        bootstrap_difference([], [np.ones(3, dtype=bool)], num_resamples=10, seed=0)


def test_bootstrap_by_kinds_of_images_is_that_over_images():
    rng = np.random.default_rng(3)
    first, second = rng.random(500) < 0.6, rng.random(500) < 0.5
    found = bootstrap_difference([first], [second], num_resamples=4000, seed=0)
    draws = rng.integers(0, 500, size=(4000, 500))
    naive = first[draws].mean(axis=1) - second[draws].mean(axis=1)
    low, high = np.quantile(naive, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
