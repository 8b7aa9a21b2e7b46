"""Defense against defense on the same images: does weight perturbation help, beyond chance?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rwp.errors import UserError
from rwp.evaluation.alarms import GRADIENT_DEPENDENT, UNSTEADY
from rwp.evaluation.records import (
    EvaluationRecord,
    Flags,
    on_common_images,
    robust_flags,
    worst_case,
)
from rwp.evaluation.statistics import (
    Interval,
    bootstrap_difference,
    crossed_difference,
    mcnemar,
)
from rwp.reporting.lines import Line
from rwp.reporting.results import Results, read_level
from rwp.reporting.tables import write_frame

ALL_ATTACKS = "all attacks"  # right under each of them
ALL_SEEDS = "all"
LEVEL = 0.05  # of the whole family of tests
_RESAMPLES, _SEED = 2000, 0  # the limits then move by a tenth of a point from seed to seed
# Why a row is not tested.
ONE_START = "one random start: not tested"
ONE_STEP = "one step: not tested"
ONE_NETWORK = "one of several seeds: not tested"
CHANCE = "chance could do it"
COLUMNS = (
    "defense",
    "against",
    "attack",
    "seed",
    "num_examples",
    "difference",
    "low",
    "high",
    "only_defense",
    "only_against",
    "p_value",
    "p_holm",
    "num_tests",
    "finding",
)
# (attack, seed) -> which images, and for each whether it is right before and after
Outcomes = dict[tuple[str, int], tuple[str, Flags]]


def pairs(results: Results) -> pd.DataFrame:
    """Each pair of Table 2's defenses that share an objective, under each attack.

    `difference` is defense less against, in points, with its 95 % interval: a bootstrap over
    images where one network stands for each defense, over images and training seeds in the row of
    all seeds. `only_defense` images are right under the first alone, `only_against` under the
    second alone. `p_value` is McNemar's, or that of `crossed_difference` over seeds.

    A test needs an outcome that no random start decides: without an attack, under AutoAttack, or
    under all attacks at once where AutoAttack is one of them. Where there are several training
    seeds, only the row of all seeds is tested. `p_holm` is corrected for all tests of the frame
    together (Holm, 1979), `num_tests`. A pair without all its records, or with records of other
    images, has no row.
    """
    recipes, tested = results.suite.recipes, _tested(results)
    attacks = _attacks(results)
    defenses = _defenses(results)
    outcomes = {line.recipe: _outcomes(results, line) for line in defenses}
    rows: list[dict[str, Any]] = []
    for against, defense in combinations(defenses, 2):
        if recipes[against.recipe].objective != recipes[defense.recipe].objective:
            continue
        # the first ones of the suite: those of one recipe lie in those of the other
        seeds = [key.seed for key in min(against.keys, defense.keys, key=len)]
        names = {"defense": defense.labels["defense"], "against": against.labels["defense"]}
        for attack in [*attacks, ALL_ATTACKS]:
            rows += [
                names | {"attack": attack, "finding": tested[attack]} | row
                for row in pair(
                    outcomes[defense.recipe],
                    outcomes[against.recipe],
                    attack,
                    seeds,
                    test=not tested[attack],
                )
            ]
    doubts = _doubts(results)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    p_values = frame["p_value"].astype(float)
    frame = frame.assign(p_holm=holm(p_values), num_tests=int(p_values.notna().sum()))
    frame["finding"] = [finding(row, doubts) for row in frame.to_dict("records")]
    return frame


def _defenses(results: Results) -> list[Line]:
    """The rows of Table 2, without the naturally trained reference."""
    ours = results.suite.table2.recipes
    return [line for line in results.parts["table2"].lines if line.recipe in ours]


def _attacks(results: Results) -> list[str]:
    """The suite's attacks, in the order of Table 2."""
    return [name for name in results.columns if name in results.suite.evaluation.attacks]


def _tested(results: Results) -> dict[str, str]:
    """Attack -> why no finding can rest on it; an empty text where one can."""
    reasons = {}
    for row in results.attacks.to_dict("records"):
        if row["kind"] == "fgsm":
            reasons[row["attack"]] = ONE_STEP
        elif row["random_start"]:
            reasons[row["attack"]] = ONE_START
        else:
            reasons[row["attack"]] = ""
    together = results.suite.evaluation.attacks.values()
    ensemble = any(e.kind == "autoattack" and not e.has_other_threat for e in together)
    return reasons | {ALL_ATTACKS: "" if ensemble else ONE_START}


def _outcomes(results: Results, defense: Line) -> Outcomes:
    found: Outcomes = {}
    entries, attacks = results.suite.evaluation.attacks, _attacks(results)
    together = [name for name in attacks if not entries[name].has_other_threat]
    for key in defense.keys:
        own: list[EvaluationRecord] = [
            row["outcome"]
            for row in results.outcomes(key)
            if row["outcome"] is not None and row["attack"] in attacks
        ]
        for record in own:
            place = (record.attack.name, key.seed)
            found[place] = (images_of(record), robust_flags(record))
        own = [record for record in own if record.attack.name in together]
        if len(own) == len(together):
            try:
                shared = images_of(on_common_images(own)[0])
                found[ALL_ATTACKS, key.seed] = (shared, worst_case(own))
            except UserError:  # of other images or files: they say nothing together
                continue
    return found


def images_of(record: EvaluationRecord) -> str:
    """What the outcomes are of: the data set, and which part of it."""
    return f"{record.data_sha256} {record.part.sha256 if record.part else ''}"


def pair(
    defense: Outcomes, against: Outcomes, attack: str, seeds: Sequence[int], *, test: bool
) -> Iterator[dict[str, Any]]:
    """One row per seed, and one of all seeds where there are several."""
    places = [(attack, seed) for seed in seeds]
    if not all(place in defense and place in against for place in places):
        return
    outcomes = [table[place] for place in places for table in (defense, against)]
    if len({(images, len(flags)) for images, flags in outcomes}) > 1:
        return
    first = [defense[place][1] for place in places]
    second = [against[place][1] for place in places]
    for seed, one, other in zip(seeds, first, second, strict=True):
        found = bootstrap_difference(one, other, num_resamples=_RESAMPLES, seed=_SEED)
        counts = mcnemar(one, other)
        row = _points(found.estimate, found.low, found.high) | {
            "seed": str(seed),
            "num_examples": len(one),
            "only_defense": counts.only_first,
            "only_against": counts.only_second,
        }
        if len(seeds) > 1:
            yield row | {"finding": ONE_NETWORK}
        else:
            yield row | ({"p_value": counts.p_value} if test else {})
    if len(seeds) > 1:
        over = crossed_difference(first, second)
        row = _points(over.estimate, over.low, over.high)
        row |= {"seed": ALL_SEEDS, "num_examples": len(first[0])}
        yield row | ({"p_value": over.p_value} if test else {})


def headline(results: Results) -> str:
    """Which defense, by how much, how sure: one sentence; empty where records are missing.

    The most robust defense under all attacks at once beside the next one. As the first was chosen
    after looking, its difference counts as one of as many tests as there are other defenses.
    """
    robust = _robust_under_all(results)
    if len(robust) < 2 or _tested(results)[ALL_ATTACKS]:
        return ""
    counts = [len(flags) for flags in robust.values()]  # training seeds
    shared = min(counts)
    robust = {name: flags[:shared] for name, flags in robust.items()}
    shares = {name: 100 * float(np.mean(flags)) for name, flags in robust.items()}
    first, second = sorted(shares, key=shares.__getitem__, reverse=True)[:2]
    others = len(robust) - 1
    share = shares[first]
    many = f"{shared} training seeds" if shared > 1 else "training seed"
    mean = f" (mean of {many})" if shared > 1 else ""
    seeds = f" over the first {many}" if shared < max(counts) else mean
    gap, p_value = _gap(robust[first], robust[second], confidence=1 - LEVEL / others)
    sure = "so it is ahead" if p_value <= LEVEL / others else "so they cannot be told apart"
    doubted = _doubts(results).get(first)
    one_seed = shared == 1
    return (
        f"{first} keeps the most images right under all attacks at once, {share:.1f} % of"
        f" {len(robust[first][0]):,}{seeds}; next is {second}, {100 * gap.estimate:.1f} points"
        f" behind (interval {100 * gap.low:+z.1f} to {100 * gap.high:+z.1f}, corrected for {others}"
        f" other defense{'s' if others > 1 else ''}), {f'but {doubted}' if doubted else sure}."
        f"{' One training seed: this is about these networks.' if one_seed else ''}"
    )


def _robust_under_all(results: Results) -> dict[str, list[Flags]]:
    """Defense -> per seed, the images right under all attacks; none where a record is missing."""
    robust, images = {}, set()
    for line in _defenses(results):
        found = _outcomes(results, line)
        own = [found.get((ALL_ATTACKS, key.seed)) for key in line.keys]
        robust[str(line.labels["defense"])] = [one[1] for one in own if one]
        images |= {(one[0], len(one[1])) if one else ("", 0) for one in own}
    return robust if len(images) == 1 and ("", 0) not in images else {}


def _gap(
    first: Sequence[Flags], second: Sequence[Flags], *, confidence: float
) -> tuple[Interval, float]:
    if len(first) > 1:
        found = crossed_difference(first, second, confidence=confidence)
        return found, found.p_value
    draws = 20 * _RESAMPLES  # the limits lie far out
    interval = bootstrap_difference(
        first[0], second[0], num_resamples=draws, seed=_SEED, confidence=confidence
    )
    # Of a handful of images the exact test knows more than a bootstrap.
    return interval, mcnemar(first[0], second[0]).p_value


def _points(estimate: float, low: float, high: float) -> dict[str, Any]:
    return {"difference": 100 * estimate, "low": 100 * low, "high": 100 * high}


def holm(p_values: pd.Series, num_tests: int | None = None) -> pd.Series:
    """The p-values times the number of tests that are left, in rising order (Holm, 1979).

    `num_tests` are all that were planned: those without a p-value yet come last.
    """
    ordered = p_values.dropna().sort_values()
    planned = len(ordered) if num_tests is None else num_tests
    factors = np.arange(planned, planned - len(ordered), -1.0)
    return (ordered * factors).cummax().clip(upper=1.0).reindex(p_values.index)


def _doubts(results: Results) -> dict[str, str]:
    """Defense -> why its robustness is no ground for a finding."""
    doubts = {}
    for line in _defenses(results):
        for key in line.keys:
            found = [row["warning"] for row in results.outcomes(key) if row["outcome"]]
            # that of earlier records, too
            level = read_level(results.root / results.verdicts[key].path)
            if why := doubt(level, found):
                doubts[line.labels["defense"]] = why
    return doubts


# How a network answers whose outcomes are no ground for a finding, as its records' warnings say.
_ANSWERS = (UNSTEADY, GRADIENT_DEPENDENT)


def doubt(level: str | None, warnings: Iterable[str]) -> str:
    """Why a network's robustness is no ground for a finding, by its verdict and the warnings of
    its records; empty where nothing speaks against it."""
    if level == "red":
        return "the verdict on it is red"
    found = (how for warning in warnings for how in _ANSWERS if how in warning)
    return next((how.replace("the model", "it", 1) for how in found), "")


def finding(row: Mapping[Any, Any], doubts: Mapping[str, str], *, name: str = "defense") -> str:
    """What a test says in words of the rows' `name` and `against`; of one training seed, it
    speaks of two networks alone. `doubts`: name -> why nothing is found under an attack."""
    if pd.isna(row["p_holm"]):
        return str(row["finding"])
    if row["p_holm"] > LEVEL:
        return CHANCE
    for one in (row[name], row["against"]):
        if one in doubts and row["attack"] != "natural":
            return f"no finding on {one}: {doubts[one]}"
    better = row[name if row["difference"] > 0 else "against"]
    where = " without an attack" if row["attack"] == "natural" else ""
    subject = better if row["seed"] == ALL_SEEDS else f"this {better} network"
    return f"{subject} is better{where}"


def write_pairs(results: Results) -> Path:
    """Write comparisons.csv into the suite's folder."""
    path = results.folder / "comparisons.csv"
    write_frame(path, pairs(results), float_format="%.4g")
    return path


def p_text(p_value: float) -> str:
    """A p-value in two digits, or in as many as show on which side of the level it lies."""
    told = p_value <= LEVEL
    texts = (f"{p_value:.{digits}g}" for digits in range(2, 18))
    return next(text for text in texts if (float(text) <= LEVEL) == told)
