"""How sure a number is: intervals, spread over seeds, and paired tests on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from rwp.errors import UserError
from rwp.evaluation.records import Flags

# Of equal values; of their size. Three times 57.14 have a mean of 57.14000000000001.
_ROUNDING = 1e-12
_SMALLEST = 1e-150  # of p-values; quantiles further out are wrong in scipy where seeds are few
_GRID = 10_000  # quantiles; the power is right to a ten-thousandth


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, with its lower and upper confidence limits."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class TestedDifference(Interval):
    """An interval with the p-value of no difference, two-sided."""

    __test__ = False  # no test of pytest's

    p_value: float


@dataclass(frozen=True)
class PairedTest:
    """McNemar's exact test: do two networks differ on the same images?

    `only_first` images are right under the first alone, `only_second` under the second alone.
    """

    only_first: int
    only_second: int
    p_value: float


def interval(successes: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Binomial confidence interval of a share (Wilson, 1927).

    Raises:
        UserError: no examples, or more successes than examples.
    """
    if not 0 <= successes <= count or count == 0:
        raise UserError(
            f"interval: expected 0 to {count} successes of at least one example, got {successes}; "
            "check the record"
        )
    found = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return Interval(successes / count, float(found.low), float(found.high))


def mcnemar(first: Flags, second: Flags) -> PairedTest:
    """Two networks on the same images, in the same order (McNemar, 1947; exact, two-sided).

    Raises:
        UserError: other counts of images.
    """
    _same_length([first, second])
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p_value = float(stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return PairedTest(only_first, only_second, p_value)


def bootstrap_difference(
    first: Flags, second: Flags, *, num_resamples: int, seed: int, confidence: float = 0.95
) -> Interval:
    """First minus second, in accuracy, resampling images (Efron, 1979).

    Args:
        first: the outcome per image of one network.
        second: the same images under another network; both are seen on the same drawn images.
        num_resamples: how often to draw.
        seed: of the draws.
        confidence: of the percentile interval.

    Raises:
        UserError: other counts of images.
    """
    _same_length([first, second])
    # Images with the same outcomes are interchangeable: how often each kind of image was drawn
    # says as much as which images were, and there are four kinds.
    kinds, sizes = np.unique(np.vstack([first, second]), axis=1, return_counts=True)
    times = np.random.default_rng(seed).multinomial(
        len(first), sizes / len(first), size=num_resamples
    )
    # Each accuracy from its own whole count: a difference of counts would round otherwise.
    ours, theirs = (times[:, flags].sum(axis=1) / len(first) for flags in kinds)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ours - theirs, [tail, 1 - tail])
    estimate = float(first.mean() - second.mean())
    if len(np.unique(kinds[0].astype(int) - kinds[1])) == 1:
        low, high = _of_others(estimate, len(first), confidence)
    return Interval(estimate, float(low), float(high))


def _of_others(estimate: float, count: int, confidence: float) -> tuple[float, float]:
    """Limits of a difference that all images have alike, so that no draw says what others would do.

    How many of them may do something else, Wilson's limit of a share of 100 % says.
    """
    half = (1 + abs(estimate)) * (1 - interval(count, count, confidence=confidence).low)
    return max(-1.0, estimate - half), min(1.0, estimate + half)


def crossed_difference(
    first: Sequence[Flags], second: Sequence[Flags], *, confidence: float = 0.95
) -> TestedDifference:
    """First minus second, in accuracy, over training seeds and images, and whether it is zero.

    Args:
        first: the outcome per image of one recipe, once per training seed.
        second: the same images under another recipe, seed by seed.
        confidence: of the interval.

    Seeds are crossed with images: the variance of the mean is that of the seeds' differences over
    their number plus that of the images' differences over theirs. What a seed does to single
    images is in both terms, so the interval is rather too wide than too narrow. Seeds count with
    their own few degrees of freedom (Cochran and Cox, 1957): two seeds that happen to agree do not
    prove that seeds agree, as pooled degrees of freedom (Satterthwaite, 1946) or a bootstrap of
    three seeds would have it. Where all seeds and images differ alike, no variance is known: the
    interval is that of `bootstrap_difference`, and McNemar's test of one seed counts.

    Raises:
        UserError: fewer than two seeds, or other counts of seeds or images.
    """
    _same_length([*first, *second])
    if len(first) != len(second) or len(first) < 2:
        raise UserError(
            f"seeds: expected two or more of either recipe, as many of both, got {len(first)} and"
            f" {len(second)}; train the others first"
        )
    differences = np.stack(first).astype(float) - np.stack(second)
    found = crossed_mean(differences, confidence=confidence)
    num_images = differences.shape[1]
    if found.standard_error == 0 or (found.estimate and num_images == 1):
        low, high = _of_others(found.estimate, num_images, confidence)
        return TestedDifference(found.estimate, low, high, mcnemar(first[0], second[0]).p_value)
    low, high = max(-1.0, found.low), min(1.0, found.high)  # as accuracies differ by no more
    return TestedDifference(found.estimate, low, high, found.p_value(0.0))


@dataclass(frozen=True)
class MeanEstimate(Interval):
    """A mean with its interval, and what it rests on.

    `by_seed` and `by_image` are the two parts of the mean's variance, each with the degrees of
    freedom that it was estimated with.
    """

    __test__ = False  # no test of pytest's

    by_seed: float
    by_image: float
    degrees_of_freedom: tuple[int, int]

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        return (self.by_seed + self.by_image) ** 0.5

    @property
    def _seeds_alone(self) -> bool:
        """Two seeds agree by chance too often for weights: images give no degrees of freedom."""
        return self.by_image == 0 or self.degrees_of_freedom[0] == 1

    def critical_value(self, tail: float) -> float:
        """The critical value, in standard errors, of an upper tail of at most a half.

        Student's quantiles of both parts, each weighted by what it adds to the variance (Cochran
        and Cox, 1957), but at least what it would be if seeds alone varied: far out, where
        corrections for many tests look, few seeds that agree by chance would otherwise lend the
        weight to images.
        """
        of_seeds, of_images = map(float, stats.t.isf(tail, self.degrees_of_freedom))
        return self._of_both(of_seeds, of_images)

    def _of_both(self, of_seeds: float, of_images: float) -> float:
        if self._seeds_alone:
            return of_seeds
        weighted = (self.by_seed * of_seeds + self.by_image * of_images) / self.standard_error**2
        return max(weighted, of_seeds * self.by_seed**0.5 / self.standard_error)

    def p_value(self, value: float) -> float:
        """Two-sided, of the mean being `value`; 1 where nothing varies: that proves nothing.

        It is at most 1 less the confidence where the interval of that confidence leaves `value`
        out, and at least 1e-150.
        """
        if self.standard_error == 0:
            return 1.0
        distance = abs(self.estimate - value) / self.standard_error
        of_seeds, of_images = map(float, 2 * stats.t.sf(distance, self.degrees_of_freedom))
        if self._seeds_alone:
            return of_seeds
        # The level at which the distance is just told lies between those of the two parts.
        low, high = sorted(np.log([max(of_images, _SMALLEST), max(of_seeds, _SMALLEST)]))

        def spare(level: float) -> float:
            return self.critical_value(np.exp(level) / 2) - distance

        if spare(low) <= 0:  # but for rounding: images alone count, or it is smaller than any told
            return float(np.exp(low))
        if spare(high) >= 0:  # but for rounding: seeds alone count
            return float(np.exp(high))
        return float(np.exp(optimize.brentq(spare, low, high)))

    def detectable_difference(self, power: float, *, confidence: float = 0.95) -> float:
        """The smallest difference that is told with that power, if the variance is as estimated.

        Where both parts of the variance count it is an approximation.
        """
        level = 1 - confidence
        of_seeds, of_images = (
            _noncentral_distance(level / 2, power, n) for n in self.degrees_of_freedom
        )
        return self.standard_error * self._of_both(of_seeds, of_images)


def _noncentral_distance(tail: float, power: float, freedom: int) -> float:
    """So many standard errors from zero Student's test tells with that power (noncentral t).

    The error that the test divides by is drawn, too: it is averaged over a grid of its quantiles,
    which also holds far out, where scipy's `nct` does not.
    """
    grid = (np.arange(_GRID) + 0.5) / _GRID
    needed = stats.t.isf(tail, freedom) * np.sqrt(stats.chi2.ppf(grid, freedom) / freedom)

    def spare(distance: float) -> float:
        return float(stats.norm.sf(needed - distance).mean()) - power

    return float(optimize.brentq(spare, needed[0] - 10, needed[-1] + 10))


def crossed_mean(values: NDArray[np.float64], *, confidence: float = 0.95) -> MeanEstimate:
    """The mean over training seeds (rows, at least two) and images (columns), both drawn.

    Seeds are crossed with images, as in `crossed_difference`; with one column it is the t
    interval over seeds (Student, 1908).

    Raises:
        UserError: fewer than two seeds.
    """
    num_seeds, num_images = values.shape
    if num_seeds < 2:
        raise UserError(f"seeds: expected two or more, got {num_seeds}; train the others first")
    estimate = float(values.mean())
    by_seed = float(values.mean(axis=1).var(ddof=1)) / num_seeds
    by_image = float(values.mean(axis=0).var(ddof=1)) / num_images if num_images > 1 else 0.0
    found = MeanEstimate(
        estimate, estimate, estimate, by_seed, by_image, (num_seeds - 1, max(1, num_images - 1))
    )
    if found.standard_error <= _ROUNDING * float(np.abs(values).max()):
        return replace(found, by_seed=0.0, by_image=0.0)
    half = found.critical_value((1 - confidence) / 2) * found.standard_error
    return replace(found, low=estimate - half, high=estimate + half)


def _same_length(flags: Sequence[Flags]) -> None:
    lengths = sorted({len(one) for one in flags})
    if len(lengths) > 1:
        raise UserError(
            f"paired test: expected outcomes of the same images, got {lengths} of them; "
            "evaluate both on the same data"
        )
