"""Which runs stand behind which table, figure and file of a suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from rwp.errors import UserError
from rwp.evaluation.spec import DiagnosisSpec, EvaluationSpec
from rwp.pipeline.resolve import (
    Lookup,
    declared,
    evaluation_spec,
    is_natural,
    landscape_key,
    run_key,
    setting_key,
)
from rwp.pipeline.settings import Params, Setting, Suite, choose, get_suite
from rwp.training.spec import Loss, RunKey, suite_directory

BEYOND = "beyond"
SweepRow = tuple[dict[str, Any], list[RunKey]]  # what is changed, and one run per seed


def table1_keys(
    params: Params, suite_name: str, *, threat: str, recipe: str, dataset: str
) -> list[RunKey]:
    """The runs behind one row of Table 1, one per seed."""
    return _row_keys(params, suite_name, "table1", recipe=recipe, dataset=dataset, threat=threat)


def table2_keys(params: Params, suite_name: str, recipe: str) -> list[RunKey]:
    """The runs behind one row of Table 2, one per seed."""
    table = get_suite(params, suite_name).table2
    return _row_keys(
        params,
        suite_name,
        "table2",
        recipe=recipe,
        dataset=table.dataset,
        threat=table.threat_model,
    )


def table1_runs(params: Params, suite_name: str) -> list[RunKey]:
    """All runs behind Table 1."""
    table = get_suite(params, suite_name).table1
    return [
        key
        for threat in table.threat_models
        for recipe in table.recipes
        for dataset in table.datasets
        for key in table1_keys(params, suite_name, threat=threat, recipe=recipe, dataset=dataset)
    ]


def table2_runs(params: Params, suite_name: str) -> list[RunKey]:
    """All runs behind Table 2, those of the naturally trained reference last."""
    suite = get_suite(params, suite_name)
    _check_final(suite, suite_name, suite.evaluation.attacks, "table 2")
    table = suite.table2
    recipes = [*table.recipes, *filter(None, [table.reference_recipe])]
    return [key for recipe in recipes for key in table2_keys(params, suite_name, recipe)]


def _check_final(suite: Suite, suite_name: str, attacks: Iterable[str], table: str) -> None:
    """Tables refuse the shortened AutoAttack: an upper bound, for development only.

    Raises:
        UserError: one of `attacks` is that.
    """
    for name in attacks:
        if suite.evaluation.attacks[name].version == "lite":
            raise UserError(
                f"params.yaml: suites.{suite_name}.evaluation.attacks.{name}.version: expected "
                f"standard for {table}, got lite, an upper bound for development; write standard"
            )


def _row_keys(
    params: Params, suite_name: str, table: str, *, recipe: str, dataset: str, threat: str
) -> list[RunKey]:
    """One run per seed; the network may differ by data set, threat model and objective."""
    suite = get_suite(params, suite_name)
    shown = "none" if is_natural(suite, recipe) else threat
    look = Lookup(suite_name, dataset, shown, suite.recipes[recipe].objective)
    network = look(getattr(suite, table).network, f"{table}.network")
    place = {"recipe": recipe, "dataset": dataset, "threat": threat, "network": network}
    return [run_key(params, suite_name, seed=seed, **place) for seed in suite.seeds]


def diagnosis_spec(params: Params, key: RunKey, *, checkpoint: str = "best") -> DiagnosisSpec:
    """Resolve the verdict on one checkpoint, which stands on all attacks of its suite."""
    return DiagnosisSpec(
        evaluation=evaluation_spec(params, key, checkpoint=checkpoint),
        objective=_objective(params, key),
        twin=_twin(params, key),
    )


def _objective(params: Params, key: RunKey) -> Loss:
    suite = params.suites[key.suite]
    return suite.objectives[suite.recipes[key.recipe].objective].loss


def _twin(params: Params, key: RunKey) -> RunKey | None:
    """Plain AT of the same place, where Table 2 has it; natural and AT itself have no twin."""
    suite = params.suites[key.suite]

    def is_plain_at(other: RunKey) -> bool:
        return suite.recipes[other.recipe].perturbation is None and (
            _objective(params, other) == "at"
        )

    if is_plain_at(key) or _objective(params, key) == "natural":
        return None
    alike = (
        other
        for other in table2_runs(params, key.suite)
        if other == key.replace(recipe=other.recipe) and is_plain_at(other)
    )
    return next(alike, None)


def setting_keys(params: Params, suite_name: str, setting: Setting, recipe: str) -> list[RunKey]:
    """The runs of a recipe in a setting, one per seed."""
    suite = get_suite(params, suite_name)
    keys = [setting_key(suite, suite_name, setting, recipe, seed=seed) for seed in suite.seeds]
    return [declared(params, key) for key in keys]


def sweep_rows(params: Params, suite_name: str, setting: Setting, name: str) -> list[SweepRow]:
    """The runs of a sweep in a setting, in the order of its values."""
    sweep = get_suite(params, suite_name).sweeps[name]
    return [
        (change, setting_keys(params, suite_name, setting, sweep.name_of(change)))
        for change in sweep.changes()
    ]


def figure_runs(params: Params, suite_name: str, name: str) -> list[RunKey]:
    """All runs behind a figure, each once.

    Raises:
        UserError: the suite has no such figure.
    """
    suite = get_suite(params, suite_name)
    figure = choose(suite.figures, name, "figure", f"params.yaml: suites.{suite_name}.figures")
    if figure.kind == "landscape":
        return [landscape_key(suite, suite_name, figure)]
    recipes: tuple[str, ...] = ()
    keys: list[RunKey] = []
    if figure.kind == "curves":
        recipes = figure.recipes
    else:
        for _, row in sweep_rows(params, suite_name, figure, figure.sweep):
            keys += row
        sweep = suite.sweeps[figure.sweep]
        recipes = figure.references if figure.kind == "sweep" else (sweep.recipe,)
    for recipe in recipes:
        keys += setting_keys(params, suite_name, figure, recipe)
    return list(dict.fromkeys(keys))


def beyond_rows(params: Params, suite_name: str) -> list[tuple[str, str, list[RunKey]]]:
    """The rows of the table `beyond`: group, recipe, and the runs, one per seed."""
    suite = get_suite(params, suite_name)
    rows: list[tuple[str, str, list[RunKey]]] = []
    for group in suite.beyond.groups if suite.beyond else ():
        runs = [setting_keys(params, suite_name, group, recipe) for recipe in group.recipes]
        for sweep in group.sweeps:
            runs += [keys for _, keys in sweep_rows(params, suite_name, group, sweep)]
        rows += [(group.title, keys[0].recipe, keys) for keys in _distinct(runs)]
    return rows


def _distinct(runs: list[list[RunKey]]) -> list[list[RunKey]]:
    return list({keys[0]: keys for keys in runs}.values())


def beyond_runs(params: Params, suite_name: str) -> list[RunKey]:
    """All runs behind the table `beyond`, each once."""
    suite = get_suite(params, suite_name)
    _check_final(suite, suite_name, suite.beyond.attacks if suite.beyond else (), "table `beyond`")
    return list(
        dict.fromkeys(key for _, _, keys in beyond_rows(params, suite_name) for key in keys)
    )


def reported_runs(params: Params, suite_name: str) -> list[RunKey]:
    """The runs of what the report waits for, besides the two tables."""
    found: list[RunKey] = []
    for name in get_suite(params, suite_name).reported:
        found += (
            beyond_runs(params, suite_name)
            if name == BEYOND
            else figure_runs(params, suite_name, name)
        )
    return list(dict.fromkeys(found))


def figure_names(suite: Suite) -> list[str]:
    """The figures that a suite's report waits for."""
    return [name for name in suite.reported if name != BEYOND]


TABLES = ("table1", "table2")
REPORT = ("report", "metrics")  # written together
COMPARISONS = "comparisons"  # written with table 2
CHECKPOINTS = ("best", "best_on_test", "last")
_SUFFIXES = (".csv", ".svg", ".png", ".html", ".json")


@dataclass(frozen=True)
class Needs:
    """What a target reads, directly or not; steps upstream of a training are not listed."""

    trainings: tuple[RunKey, ...] = ()
    evaluations: tuple[EvaluationSpec, ...] = ()  # their trainings are among the others
    landscapes: tuple[tuple[str, str], ...] = ()  # suite, figure
    verdicts: tuple[DiagnosisSpec, ...] = ()  # their evaluations are among the others


def together(several: Iterable[Needs]) -> Needs:
    """What several targets need, each thing once."""
    parts = list(several)
    return Needs(
        tuple(dict.fromkeys(key for part in parts for key in part.trainings)),
        tuple(dict.fromkeys(spec for part in parts for spec in part.evaluations)),
        tuple(dict.fromkeys(item for part in parts for item in part.landscapes)),
        tuple(dict.fromkeys(spec for part in parts for spec in part.verdicts)),
    )


def suite_needs(params: Params, suite_name: str) -> Needs:
    """What a suite's report stands on: all that the suite builds."""
    reported = get_suite(params, suite_name).reported
    return together(part_needs(params, suite_name, part) for part in (*TABLES, *reported))


def part_needs(params: Params, suite_name: str, part: str) -> Needs:
    """What one table or figure of a suite stands on.

    Raises:
        UserError: the suite has no such table or figure.
    """
    suite = get_suite(params, suite_name)
    if part == "table1":
        return Needs(tuple(table1_runs(params, suite_name)))
    if part == "table2":
        return _judged(params, table2_runs(params, suite_name), checkpoint="best")
    if part == BEYOND and suite.beyond is not None:
        return _evaluated(params, beyond_runs(params, suite_name), suite.beyond.attacks)
    runs = tuple(figure_runs(params, suite_name, part))
    landscape = suite.figures[part].kind == "landscape"
    return Needs(runs, (), ((suite_name, part),) if landscape else ())


def target_needs(params: Params, target: str) -> Needs:
    """What a file of the workflow stands on, such as results/demo/table2.csv.

    Raises:
        UserError: it is no table, figure, report, landscape or run of params.yaml.
    """
    path = PurePosixPath(target)
    for name, suite in params.suites.items():
        base = suite_directory(name)
        parts = {*TABLES, *suite.figures, *([BEYOND] if suite.beyond else [])}
        part = path.stem.removesuffix("_details")
        if path.parent == base and path.suffix in _SUFFIXES:
            if part in REPORT:
                return suite_needs(params, name)
            if part == COMPARISONS:
                return part_needs(params, name, "table2")
            if part in parts:
                return part_needs(params, name, part)
        if path.parent == base / "landscapes" and part in parts:
            return part_needs(params, name, part)
        if path.is_relative_to(base / "runs"):
            return _run_needs(params, name, target, path.relative_to(base / "runs").parts)
    raise UserError(
        f"{target}: expected a table, figure, report or run of params.yaml, got another file;"
        f" try results/demo/table2.csv"
    )


def _evaluated(params: Params, keys: Sequence[RunKey], attacks: tuple[str, ...] | None) -> Needs:
    return Needs(tuple(keys), tuple(evaluation_spec(params, key, attacks=attacks) for key in keys))


def _judged(params: Params, keys: Sequence[RunKey], *, checkpoint: str) -> Needs:
    verdicts = tuple(diagnosis_spec(params, key, checkpoint=checkpoint) for key in keys)
    twins = tuple(spec.twin for spec in verdicts if spec.twin is not None)
    evaluations = tuple(spec.evaluation for spec in verdicts)
    return Needs((*keys, *twins), evaluations, verdicts=verdicts)


def _run_needs(params: Params, suite_name: str, target: str, parts: Sequence[str]) -> Needs:
    """A run's folder, one of its files, or the record of one attack."""
    seed = re.fullmatch(r"seed(\d+)", parts[4]) if len(parts) > 4 else None
    if seed is None:
        raise UserError(
            f"{target}: expected .../runs/DATA/THREAT/NETWORK/RECIPE/seedN, got another path;"
            f" check it"
        )
    names = dict(zip(("dataset", "threat", "network", "recipe"), parts[:4], strict=True))
    key = run_key(params, suite_name, seed=int(seed[1]), **names)
    if len(parts) == 8 and parts[5] == "evaluation" and parts[6] in CHECKPOINTS:
        if parts[7] == "diagnosis.json":
            return _judged(params, [key], checkpoint=parts[6])
        attacks = (parts[7].removesuffix(".json"),)
        spec = evaluation_spec(params, key, checkpoint=parts[6], attacks=attacks)
        return Needs((key,), (spec,))
    return Needs((key,))
