"""Defense against defense on the same images: does weight perturbation help, beyond chance?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rwp.evaluation.records import Flags, robust_flags
from rwp.evaluation.statistics import bootstrap_difference, mcnemar
from rwp.pipeline.settings import Params, get_suite
from rwp.pipeline.suites import table2_keys
from rwp.reporting.cells import attack_columns, method_label
from rwp.reporting.measurements import measurements
from rwp.reporting.runs import read_run
from rwp.reporting.tables import write_frame
from rwp.training.spec import RunKey, suite_directory

ALL_ATTACKS = "all attacks"  # right under each of them
ALL_SEEDS = "all"
_RESAMPLES, _SEED = 2000, 0  # the limits then move by a tenth of a point from seed to seed
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
)
# (attack, seed) -> hash of the images, and for each whether it is right before and after
Outcomes = dict[tuple[str, int], tuple[str, Flags]]


def comparisons(params: Params, suite_name: str, *, root: Path | str = ".") -> pd.DataFrame:
    """Each pair of Table 2's defenses that share an objective, under each attack.

    `difference` is defense less against, in points, with its 95 % bootstrap interval over images,
    and over seeds too in the row of all seeds. `only_defense` images are right under the first
    alone, `only_against` under the second alone; `p_value` is McNemar's, `p_holm` the same
    corrected for the number of pairs under that attack (Holm, 1979). A pair without all its
    records, or with records of other images, has no row.
    """
    suite = get_suite(params, suite_name)
    attacks = [name for name in attack_columns(suite) if name in suite.evaluation.attacks]
    outcomes = {
        recipe: _outcomes(params, table2_keys(params, suite_name, recipe), attacks, root)
        for recipe in suite.table2.recipes
    }
    rows = []
    for against, defense in combinations(suite.table2.recipes, 2):
        if suite.recipes[against].objective != suite.recipes[defense].objective:
            continue
        names = {"defense": method_label(defense), "against": method_label(against)}
        for attack in [*attacks, ALL_ATTACKS]:
            rows += [
                names | {"attack": attack} | row
                for row in _compare(outcomes[defense], outcomes[against], attack, suite.seeds)
            ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    chosen = frame.groupby(["attack", "seed"], sort=False)["p_value"]
    return frame.assign(p_holm=chosen.transform(_holm) if rows else None)


def _outcomes(
    params: Params, keys: Sequence[RunKey], attacks: Sequence[str], root: Path | str
) -> Outcomes:
    found: Outcomes = {}
    for key in keys:
        run = read_run(params, key, root=root)
        own: Outcomes = {}
        for item in measurements(params, key, run, attacks, root=root, checkpoint="best"):
            if item.record is not None:
                flags = robust_flags(item.record)
                part = item.record.part.sha256 if item.record.part else ""
                own[item.attack, key.seed] = (f"{item.record.data_sha256} {part}", flags)
        if len(own) == len(attacks) and _same_images(list(own.values())):
            flags = np.logical_and.reduce([flags for _, flags in own.values()])
            own[ALL_ATTACKS, key.seed] = (next(iter(own.values()))[0], flags)
        found |= own
    return found


def _same_images(outcomes: Sequence[tuple[str, Flags]]) -> bool:
    return len({(images, len(flags)) for images, flags in outcomes}) == 1


def _compare(
    defense: Outcomes, against: Outcomes, attack: str, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One row per seed, and one of all seeds where there are several."""
    places = [(attack, seed) for seed in seeds]
    if not all(place in defense and place in against for place in places):
        return
    if not _same_images([table[place] for place in places for table in (defense, against)]):
        return
    first = [defense[place][1] for place in places]
    second = [against[place][1] for place in places]
    for seed, one, other in zip(seeds, first, second, strict=True):
        test = mcnemar(one, other)
        yield _difference([one], [other]) | {
            "seed": str(seed),
            "only_defense": test.only_first,
            "only_against": test.only_second,
            "p_value": test.p_value,
        }
    if len(seeds) > 1:
        yield _difference(first, second) | {"seed": ALL_SEEDS}


def _difference(first: Sequence[Flags], second: Sequence[Flags]) -> dict[str, Any]:
    found = bootstrap_difference(first, second, num_resamples=_RESAMPLES, seed=_SEED)
    return {
        "num_examples": len(first[0]),
        "difference": 100 * found.estimate,
        "low": 100 * found.low,
        "high": 100 * found.high,
    }


def _holm(values: pd.Series) -> pd.Series:
    """The p-values times the number of tests that are left, in rising order (Holm, 1979)."""
    ordered = values.dropna().sort_values()
    factors = np.arange(len(ordered), 0, -1)
    return (ordered * factors).cummax().clip(upper=1.0).reindex(values.index)


def write_comparisons(params: Params, suite_name: str, *, root: Path | str = ".") -> Path:
    """Write comparisons.csv into the suite's folder."""
    path = Path(root) / suite_directory(suite_name) / "comparisons.csv"
    write_frame(path, comparisons(params, suite_name, root=root), float_format="%.4g")
    return path
