"""How sure a number is: intervals, spread over seeds, and paired tests on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from rwp.errors import UserError
from rwp.evaluation.records import Flags


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, with its lower and upper confidence limits."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n - 1) over seeds; the deviation of one seed is NaN."""

    mean: float
    deviation: float
    count: int


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


def over_seeds(values: Sequence[float]) -> Spread:
    """Mean and spread of one number over training seeds.

    Raises:
        UserError: no value.
    """
    if len(values) == 0:
        raise UserError("seeds: expected at least one value, got none; train first")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return Spread(float(np.mean(values)), deviation, len(values))


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
    first: Sequence[Flags],
    second: Sequence[Flags],
    *,
    num_resamples: int,
    seed: int,
    confidence: float = 0.95,
) -> Interval:
    """First minus second, in accuracy, resampling images and seeds together (Efron, 1979).

    Args:
        first: the outcome per image of one recipe, once per training seed.
        second: the same images under another recipe; the number of seeds may differ.
        num_resamples: how often to draw.
        seed: of the draws.
        confidence: of the percentile interval.

    Both recipes are seen on the same drawn images, as they are on the real ones; seeds are drawn
    for each on its own, as seed 0 of one has nothing to do with seed 0 of the other.

    Raises:
        UserError: no seeds, or other counts of images.
    """
    _same_length([*first, *second])
    if not first or not second:
        raise UserError("bootstrap: expected at least one seed per recipe, got none; train first")
    ours, theirs = np.stack(first), np.stack(second)
    draws = _resampled(ours, theirs, num_resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(ours.mean() - theirs.mean()), float(low), float(high))


def _resampled(
    ours: NDArray[np.bool_], theirs: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    # Images with the same outcomes everywhere are interchangeable: how often each kind of image
    # was drawn says as much as which images were, and there are few kinds.
    num_images = ours.shape[1]
    kinds, sizes = np.unique(np.vstack([ours, theirs]), axis=1, return_counts=True)
    times = rng.multinomial(num_images, sizes / num_images, size=count)
    means = []
    for flags in (kinds[: len(ours)], kinds[len(ours) :]):
        seeds = rng.multinomial(len(flags), np.full(len(flags), 1 / len(flags)), size=count)
        means.append(((seeds / len(flags)) @ flags * times).sum(axis=1) / num_images)
    return means[0] - means[1]


def _same_length(flags: Sequence[Flags]) -> None:
    lengths = sorted({len(one) for one in flags})
    if len(lengths) > 1:
        raise UserError(
            f"paired test: expected outcomes of the same images, got {lengths} of them; "
            "evaluate both on the same data"
        )
