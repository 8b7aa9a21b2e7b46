import math

import numpy as np
import pytest
from scipy import stats

from rwp.errors import UserError
from rwp.evaluation.statistics import (
    MeanEstimate,
    bootstrap_difference,
    crossed_difference,
    crossed_mean,
    interval,
    mcnemar,
)


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
    found = bootstrap_difference(first, second, num_resamples=500, seed=0)
    assert found.estimate == pytest.approx(0.03)
    assert 0.02 < found.low < 0.03 < found.high < 0.04
    assert interval(int(second.sum()), 2000).high > interval(int(first.sum()), 2000).low


@pytest.mark.parametrize("count", [3, 10, 400])
def test_images_that_all_differ_alike_do_not_make_an_interval_of_no_width(count):
    right, wrong = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    half = 1 - interval(count, count).low  # a share of others that may be otherwise
    alike = bootstrap_difference(right, right, num_resamples=100, seed=0)
    assert (alike.estimate, alike.low, alike.high) == pytest.approx((0, -half, half))
    mixed = np.arange(count) % 2 == 0  # right under both, or wrong under both
    assert bootstrap_difference(mixed, mixed, num_resamples=100, seed=0) == alike
    better = bootstrap_difference(right, wrong, num_resamples=100, seed=0)
    assert (better.estimate, better.low, better.high) == pytest.approx((1, 1 - 2 * half, 1))
    worse = bootstrap_difference(wrong, right, num_resamples=100, seed=0)
    assert (worse.low, worse.high) == (-better.high, -better.low)


def test_seeds_that_disagree_make_the_interval_wide():
    rng = np.random.default_rng(0)
    second = rng.random(2000) < 0.5
    lucky, unlucky = second | (rng.random(2000) < 0.2), second & (rng.random(2000) < 0.8)
    found = crossed_difference([lucky, unlucky], [second] * 2)
    assert found.low < -0.5 < 0.5 < found.high  # t of one degree of freedom: 12.7 errors
    assert found.p_value > 0.9


def test_over_seeds_by_hand():
    # Images split 2:1:1, all seeds alike: the variance is that of the images alone.
    first = np.repeat([True, True, False, False], 100)
    second = np.repeat([True, False, False, False], 100)
    found = crossed_difference([first] * 3, [second] * 3)
    error = math.sqrt(0.1875 / 399)  # of 0.25 with 399 degrees of freedom
    assert found.estimate == 0.25
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, 399) * error)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.25 / error, 399))
    surer = crossed_difference([first] * 3, [second] * 3, confidence=0.99)
    assert surer.high - surer.estimate == pytest.approx(stats.t.ppf(0.995, 399) * error)
    same, one = crossed_difference([first] * 2, [first] * 2), interval(400, 400)
    assert (same.estimate, same.p_value) == (0, 1)
    assert (same.high, same.low) == pytest.approx((1 - one.low, one.low - 1))  # as of one seed


@pytest.mark.parametrize(("count", "p_value"), [(1, 1.0), (3, 0.25), (10, 2 / 1024)])
def test_over_seeds_a_few_images_that_all_differ_alike_prove_little(count, p_value):
    right, wrong = np.ones(count, dtype=bool), np.zeros(count, dtype=bool)
    found = crossed_difference([right] * 3, [wrong] * 3)
    assert found.p_value == pytest.approx(p_value)
    assert (found.low > 0) == (p_value < 0.05)
    assert found.high == 1.0
    if count == 1:  # nothing is known of other images
        mixed = crossed_difference([right, right, wrong], [wrong] * 3)
        assert mixed.p_value == 1.0
        assert mixed.low < 0


def test_over_seeds_the_paired_t_test_where_images_say_nothing():
    count = 1_000_000
    gains = [0.02, 0.05, 0.03]
    second = np.zeros(count, dtype=bool)
    first = [np.arange(count) % count < gain * count for gain in gains]
    found = crossed_difference(first, [second] * 3)
    paired = stats.ttest_1samp(gains, 0.0)
    assert found.p_value == pytest.approx(paired.pvalue, rel=0.05)
    low, high = paired.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.03)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [1.0, 3.0])
def test_few_seeds_that_agree_by_chance_prove_nothing(num_seeds, ratio):
    """Seeds spread `ratio` times as far as images: Holm's correction rests on the small levels.

    Pooled degrees of freedom would call two seeds of equal recipes different, at 0.001, in 43 of
    1,000 cases, and three in 15.
    """
    rng = np.random.default_rng(0)
    told = {0.05: 0, 0.001: 0}
    for _ in range(2000):
        by_seed = ratio**2 * rng.chisquare(num_seeds - 1) / (num_seeds - 1)
        estimate = rng.normal(0, math.hypot(ratio, 1))
        tested = MeanEstimate(estimate, 0, 0, by_seed, 1.0, (num_seeds - 1, 9999))
        for level in told:
            told[level] += abs(estimate) > tested.critical_value(level / 2) * tested.standard_error
    assert told[0.05] / 2000 < 0.06
    assert told[0.001] / 2000 < 0.004


@pytest.mark.parametrize("by_seed", [0.0, 1e-6, 0.01, 0.04])
@pytest.mark.parametrize("distance", [0.1, 0.5, 2.0])
def test_a_level_is_told_exactly_at_its_distance(by_seed, distance):
    tested = MeanEstimate(distance, 0, 0, by_seed, 0.03, (2, 99))
    p_value = tested.p_value(0.0)
    assert tested.critical_value(p_value / 2) * tested.standard_error == pytest.approx(distance)
    assert 2 * stats.t.sf(distance / tested.standard_error, 99) <= p_value * (1 + 1e-12)
    assert p_value <= 2 * stats.t.sf(distance / tested.standard_error, 2) * (1 + 1e-12)


def test_far_out_few_seeds_that_agree_lend_no_weight_to_images():
    """At small levels the weighted quantile would ask for less than seeds alone do."""
    tested = MeanEstimate(0.3, 0, 0, 0.02, 0.001, (2, 9999))
    few, many = stats.t.isf(1e-4, [2, 9999])
    weighted = (0.02 * few + 0.001 * many) / tested.standard_error
    assert tested.critical_value(1e-4) * tested.standard_error == pytest.approx(few * 0.02**0.5)
    assert weighted < few * 0.02**0.5


def test_the_error_of_both_parts_by_hand():
    both = MeanEstimate(0.3, 0, 0, 0.01, 0.03, (2, 99))  # an error of 0.2, a quarter of it of seeds
    few, many = stats.t.ppf(0.975, [2, 99])
    assert both.critical_value(0.025) == pytest.approx(0.25 * few + 0.75 * many)
    at = 0.3 - 0.2 * (0.25 * few + 0.75 * many)
    assert both.p_value(at) == pytest.approx(0.05)
    assert both.p_value(0.3) == 1.0
    two = MeanEstimate(0.3, 0, 0, 0.0, 0.04, (1, 99))  # they may agree by chance
    assert two.p_value(0.0) == pytest.approx(2 * stats.t.sf(1.5, 1))
    seeds = MeanEstimate(0.3, 0, 0, 0.04, 0.0, (2, 0))
    assert seeds.p_value(0.0) == pytest.approx(2 * stats.t.sf(1.5, 2))
    assert MeanEstimate(0.3, 0, 0, 0.0, 1e-8, (2, 9999)).p_value(0.0) < 1e-100


def test_over_three_seeds_the_interval_covers_what_it_says():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        skill = rng.random(300)
        draws = [
            rng.random(300) < np.clip(skill + rng.normal(0, 0.03), 0, 1) for _ in range(6)
        ]  # no recipe is better than the other
        found = crossed_difference(draws[:3], draws[3:])
        held += found.low <= 0 <= found.high
        assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)
    assert held >= 0.93 * 400


@pytest.mark.parametrize("seed", range(40))
def test_a_p_value_is_small_exactly_where_the_interval_leaves_the_value_out(seed):
    """Also where one part's variance is nothing but rounding, and with few images."""
    rng = np.random.default_rng(seed)
    num_seeds, num_images = int(rng.integers(2, 14)), int(rng.choice([1, 2, 3, 10, 200]))
    both, seeds, images = rng.choice([0.0, 1e-13, 1.0], size=3)
    values = rng.choice([0.0, 5.0]) + both * rng.normal(size=(num_seeds, num_images))
    values += seeds * rng.normal(size=(num_seeds, 1)) + images * rng.normal(size=(1, num_images))
    found = crossed_mean(values)
    if found.standard_error == 0:
        return
    half = found.high - found.estimate
    for share in (0.0, 0.5, 0.999, 1.001, 2.0, 50.0):
        p_value = found.p_value(found.estimate + share * half)
        assert (p_value < 0.05) == (share > 1)
        assert 0 < p_value <= 1


def test_seeds_decide_where_images_vary_by_rounding_alone():
    """All images right under two seeds, none under the third: the t test of three seeds."""
    values = np.zeros((3, 200))
    values[:2] = 100.0
    expected = stats.ttest_1samp([100.0, 100.0, 0.0], 0.0).pvalue
    assert crossed_mean(values).p_value(0.0) == pytest.approx(expected)


@pytest.mark.parametrize("num_seeds", range(2, 20))
def test_far_away_the_p_value_is_that_of_the_seeds(num_seeds):
    """Where few seeds spread, however many images there are; scipy's quantiles end early."""
    rng = np.random.default_rng(num_seeds)
    values = 1000.0 + rng.normal(size=(num_seeds, 1)) + 1e-9 * rng.normal(size=(1, 5000))
    expected = stats.ttest_1samp(values.mean(axis=1), 0.0).pvalue
    assert crossed_mean(values).p_value(0.0) == pytest.approx(expected, rel=1e-6)
    apart = np.zeros((num_seeds, 2000))
    apart[:, :1200] = -100.0  # seeds alike, images far apart
    assert 0 < crossed_mean(apart).p_value(0.0) < 1e-10 or num_seeds == 2


def test_outcomes_of_other_images_are_refused():
    with pytest.raises(UserError, match="outcomes of the same images"):
        mcnemar(np.ones(3, dtype=bool), np.ones(4, dtype=bool))
    with pytest.raises(UserError, match="outcomes of the same images"):
        bootstrap_difference(np.ones(3), np.ones(4), num_resamples=10, seed=0)
    with pytest.raises(UserError, match="two or more of either recipe, as many of both"):
        crossed_difference([np.ones(3, dtype=bool)], [np.ones(3, dtype=bool)])


def test_bootstrap_by_kinds_of_images_is_that_over_images():
    rng = np.random.default_rng(3)
    first, second = rng.random(500) < 0.6, rng.random(500) < 0.5
    found = bootstrap_difference(first, second, num_resamples=4000, seed=0)
    draws = rng.integers(0, 500, size=(4000, 500))
    naive = first[draws].mean(axis=1) - second[draws].mean(axis=1)
    low, high = np.quantile(naive, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_a_difference_of_accuracies_has_limits_from_minus_one_to_one() -> None:
    """Two seeds that disagree tell next to nothing, but no accuracy is below 0 or above 1."""
    right, wrong = np.ones(40, bool), np.zeros(40, bool)
    right[:4] = False
    found = crossed_difference([right, wrong], [wrong, wrong])
    assert (found.low, found.high) == (-1.0, 1.0)
    assert found.p_value > 0.05


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 99])
@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 34])
def test_what_could_be_told_has_the_power_of_a_noncentral_t(freedom, confidence):
    """Adding two quantiles of the central one asks for a fifth less of three seeds."""
    seeds = MeanEstimate(0.3, 0, 0, 0.04, 0.0, (freedom, 1))
    limit = stats.t.isf((1 - confidence) / 2, freedom)
    distance = seeds.detectable_difference(0.8, confidence=confidence) / seeds.standard_error
    assert stats.nct.sf(limit, freedom, distance) == pytest.approx(0.8, abs=2e-4)


def test_what_could_be_told_of_seeds_and_images_by_hand():
    both = MeanEstimate(0.3, 0, 0, 0.01, 0.03, (2, 99))  # an error of 0.2, a quarter of it of seeds
    few, many = (
        MeanEstimate(0, 0, 0, 1.0, 0.0, (n, 1)).detectable_difference(0.8) for n in (2, 99)
    )
    assert both.detectable_difference(0.8) == pytest.approx(0.2 * (0.25 * few + 0.75 * many))
    assert few > 5.6
    assert many == pytest.approx(2.84, abs=0.02)


def test_what_two_seeds_could_tell_among_many_tests_is_a_number():
    two = MeanEstimate(0.3, 0, 0, 0.04, 0.0, (1, 1))
    limit = stats.t.isf(1e-6, 1)  # so far out the drawn error alone counts
    told = two.detectable_difference(0.8, confidence=1 - 2e-6) / two.standard_error
    assert told == pytest.approx(limit * stats.chi2.ppf(0.8, 1) ** 0.5, rel=1e-3)
