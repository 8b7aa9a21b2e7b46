"""Which runs each table and figure of a suite needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rwp.errors import UserError
from rwp.evaluation.spec import DiagnosisSpec
from rwp.pipeline.resolve import (
    Lookup,
    choose,
    declared,
    evaluation_spec,
    get_suite,
    is_natural,
    landscape_keys,
    own_attacks,
    run_key,
    setting_key,
    train_spec,
)
from rwp.pipeline.settings import Params, SearchFigure, Setting, Suite, SweepEntry
from rwp.training.spec import RunKey

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
    """Tables refuse the shortened AutoAttack and drafts: upper bounds, for development only.

    Raises:
        UserError: one of `attacks` is that.
    """
    for name in attacks:
        entry, where = suite.evaluation.attacks[name], f"suites.{suite_name}.evaluation.attacks"
        if entry.version == "lite":
            raise UserError(
                f"params.yaml: {where}.{name}.version: expected "
                f"standard for {table}, got lite, an upper bound for development; write standard"
            )
        if entry.draft is not None:
            raise UserError(
                f"params.yaml: {where}.{name}.draft: expected a search in fp32 for {table}, got "
                f"{entry.draft}, an upper bound for development; leave draft out, or keep it in a "
                "suite of its own"
            )


def seeds_of(suite: Suite, recipe: str) -> tuple[int, ...]:
    """The seeds of a recipe: the suite's, or as many of them as the recipe takes."""
    return suite.seeds[: suite.recipes[recipe].num_seeds]


def _row_keys(
    params: Params, suite_name: str, table: str, *, recipe: str, dataset: str, threat: str
) -> list[RunKey]:
    """One run per seed; the network may differ by data set, threat model and objective."""
    suite = get_suite(params, suite_name)
    shown = "none" if is_natural(suite, recipe) else threat
    look = Lookup(suite_name, dataset, shown, suite.recipes[recipe].objective)
    network = look(getattr(suite, table).network, f"{table}.network")
    place = {"recipe": recipe, "dataset": dataset, "threat": threat, "network": network}
    return [run_key(params, suite_name, seed=seed, **place) for seed in seeds_of(suite, recipe)]


def diagnosis_spec(params: Params, key: RunKey, *, checkpoint: str = "best") -> DiagnosisSpec:
    """Resolve the verdict on one checkpoint: on all attacks under its own threat model."""
    return DiagnosisSpec(
        evaluation=evaluation_spec(
            params, key, checkpoint=checkpoint, attacks=own_attacks(params.suites[key.suite])
        ),
        objective=_objective(params, key),
        twin=_twin(params, key),
    )


def _objective(params: Params, key: RunKey) -> str:
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
    seeds = seeds_of(suite, recipe)
    keys = [setting_key(suite, suite_name, setting, recipe, seed=seed) for seed in seeds]
    return [declared(params, key) for key in keys]


def sweep_rows(params: Params, suite_name: str, setting: Setting, name: str) -> list[SweepRow]:
    """The runs of a sweep in a setting, in the order of its values."""
    sweep = get_suite(params, suite_name).sweeps[name]
    return [
        (change, setting_keys(params, suite_name, setting, sweep.name_of(change)))
        for change in sweep.changes()
    ]


def search_rows(
    params: Params, suite_name: str, figure: SearchFigure
) -> list[tuple[SweepEntry, dict[str, Any], list[RunKey]]]:
    """The runs of a search, each under its own name, whichever values the recipes have today.

    What is chosen is written into the settings, and must not change what was searched.
    """
    suite = get_suite(params, suite_name)
    return [
        (
            sweep,
            change,
            [
                setting_key(suite, suite_name, figure, sweep.name_of(change), seed=seed)
                for seed in seeds_of(suite, sweep.name_of(change))
            ],
        )
        for sweep in (suite.sweeps[name] for name in figure.sweeps)
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
        return landscape_keys(suite, suite_name, figure)
    recipes: tuple[str, ...] = ()
    keys: list[RunKey] = []
    if figure.kind == "search":
        return [key for *_, row in search_rows(params, suite_name, figure) for key in row]
    if figure.kind == "curves" or figure.kind == "movement":
        recipes = figure.recipes
    else:
        for _, row in sweep_rows(params, suite_name, figure, figure.sweep):
            keys += row
        sweep = suite.sweeps[figure.sweep]
        recipes = figure.references if figure.kind == "sweep" else (sweep.recipe,)
    for recipe in recipes:
        keys += setting_keys(params, suite_name, figure, recipe)
    for key in keys if figure.kind == "movement" else ():
        epochs = train_spec(params, key).optimization.epochs
        if figure.kind == "movement" and figure.epoch >= epochs:
            raise UserError(
                f"params.yaml: suites.{suite_name}.figures.{name}.epoch: expected at most "
                f"{epochs - 1}, the last of {key.name} from 0, got {figure.epoch}; lower it"
            )
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


def figure_names(suite: Suite) -> list[str]:
    """The figures that a suite's report waits for."""
    return [name for name in suite.reported if name != BEYOND]
