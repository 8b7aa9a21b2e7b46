"""Which runs each table and figure of a suite shows, row by row.

This is asked here alone: the pipeline takes all runs of a table or figure, the report labels its
rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from rwp.errors import UserError
from rwp.evaluation.spec import DiagnosisSpec
from rwp.pipeline.lookup import Lookup, choose, get_suite, is_natural, run_key, setting_key
from rwp.pipeline.resolve import declared, landscape_keys, train_spec
from rwp.pipeline.resolve_evaluation import attacks_under_network_threat, evaluation_spec
from rwp.pipeline.settings import (
    OF_PERTURBATION,
    Change,
    CurvesFigure,
    LandscapeFigure,
    MovementFigure,
    Params,
    RecipeEntry,
    RemovalFigure,
    SearchFigure,
    Setting,
    Suite,
    SweepEntry,
)
from rwp.training.spec import RunKey

TABLES = ("table1", "table2")
BEYOND = "beyond"


@dataclass(frozen=True)
class Row:
    """A row of a table or a curve of a figure: its runs, and what sets it apart."""

    keys: tuple[RunKey, ...]  # one per seed; of a landscape those that it looks at
    group: str = ""  # what it stands under: the threat model of Tables 1 and 2, a title of `beyond`
    sweep: SweepEntry | None = None  # of whose values it is one
    change: Mapping[str, Any] = field(default_factory=dict)  # what that value changes

    @property
    def recipe(self) -> str:
        """The recipe of all its runs; of a sweep's value it has a name of its own."""
        return self.keys[0].recipe


def parts_of(suite: Suite) -> tuple[str, ...]:
    """The names of a suite's tables and figures."""
    return (*TABLES, *([BEYOND] if suite.beyond else []), *suite.figures)


def runs_of(params: Params, suite_name: str, name: str) -> list[RunKey]:
    """All runs behind a table or a figure, each once.

    Raises:
        UserError: the suite has no such table or figure.
    """
    rows = rows_of(params, suite_name, name)
    return list(dict.fromkeys(key for row in rows for key in row.keys))


def rows_of(params: Params, suite_name: str, name: str) -> list[Row]:
    """The rows of a table, or the curves of a figure, in its order.

    Raises:
        UserError: the suite has no such table or figure.
    """
    suite = get_suite(params, suite_name)
    if name == "table1":
        return _table1_rows(params, suite_name)
    if name == "table2":
        return _table2_rows(params, suite_name)
    if name == BEYOND:
        return _beyond_rows(params, suite_name)
    figure = choose(suite.figures, name, "figure", f"params.yaml: suites.{suite_name}.figures")
    if isinstance(figure, LandscapeFigure):
        return [Row(tuple(landscape_keys(suite, suite_name, figure)))]
    if isinstance(figure, SearchFigure):
        return _search_rows(suite, suite_name, figure)
    if isinstance(figure, MovementFigure):
        _check_epoch(params, suite_name, name, figure)
    if isinstance(figure, CurvesFigure | MovementFigure):
        return _recipe_rows(params, suite_name, figure, figure.recipes)
    plain = suite.sweeps[figure.sweep].recipe
    beside = (plain,) if isinstance(figure, RemovalFigure) else figure.references
    return [
        *sweep_rows(params, suite_name, figure, figure.sweep),
        *_recipe_rows(params, suite_name, figure, beside),
    ]


def _table1_rows(params: Params, suite_name: str) -> list[Row]:
    table = get_suite(params, suite_name).table1
    return [
        _row(params, suite_name, "table1", recipe=recipe, dataset=dataset, threat=threat)
        for threat, recipe, dataset in product(table.threat_models, table.recipes, table.datasets)
    ]


def _table2_rows(params: Params, suite_name: str) -> list[Row]:
    """The naturally trained reference comes last."""
    suite = get_suite(params, suite_name)
    table = suite.table2
    place = {"dataset": table.dataset, "threat": table.threat_model}
    recipes = dict.fromkeys([*table.recipes, *filter(None, [table.reference_recipe])])
    return [_row(params, suite_name, "table2", recipe=recipe, **place) for recipe in recipes]


def _beyond_rows(params: Params, suite_name: str) -> list[Row]:
    """Group by group; a training that a group names twice has one row in it, of all its seeds."""
    suite = get_suite(params, suite_name)
    rows: list[Row] = []
    for group in suite.beyond.groups if suite.beyond else ():
        found = _recipe_rows(params, suite_name, group, group.recipes)
        for sweep in group.sweeps:
            found += sweep_rows(params, suite_name, group, sweep)
        rows += [replace(row, group=group.title) for row in _each_once(found)]
    return rows


def _each_once(rows: Iterable[Row]) -> list[Row]:
    """A training that two rows name has one, of all its seeds."""
    longest: dict[RunKey, Row] = {}
    for row in rows:
        known = longest.get(row.keys[0], row)
        longest[row.keys[0]] = max(known, row, key=lambda row: len(row.keys))
    return list(longest.values())


def _search_rows(suite: Suite, suite_name: str, figure: SearchFigure) -> list[Row]:
    """The runs of a search, each under its own name, whichever values the recipes have today.

    What is chosen is written into the settings, and must not change what was searched.
    """

    def keys(recipe: str) -> Iterator[RunKey]:
        for seed in seeds_of(suite, recipe):
            yield setting_key(suite, suite_name, figure, recipe, seed=seed)

    sweeps = [suite.sweeps[name] for name in figure.sweeps]
    return _each_once(
        Row(tuple(keys(sweep.name_of(change))), sweep=sweep, change=change)
        for sweep in sweeps
        for change in sweep.changes()
    )


def _check_epoch(params: Params, suite_name: str, name: str, figure: MovementFigure) -> None:
    """A movement looks at an epoch that its trainings have.

    Raises:
        UserError: one of them has not.
    """
    for row in _recipe_rows(params, suite_name, figure, figure.recipes):
        epochs = train_spec(params, row.keys[0]).optimization.epochs
        if figure.epoch >= epochs:
            raise UserError(
                f"params.yaml: suites.{suite_name}.figures.{name}.epoch: expected at most "
                f"{epochs - 1}, the last of {row.keys[0].name} from 0, got {figure.epoch}; lower it"
            )


def check_final(suite: Suite, suite_name: str, name: str) -> None:
    """Tables refuse the shortened AutoAttack and drafts: upper bounds, for development only.

    Raises:
        UserError: an attack of the table is that.
    """
    attacks: Iterable[str] = suite.evaluation.attacks if name == "table2" else ()
    title = "table 2" if name == "table2" else f"table `{name}`"
    if name == BEYOND and suite.beyond:
        attacks = suite.beyond.attacks
    for attack in attacks:
        entry, where = suite.evaluation.attacks[attack], f"suites.{suite_name}.evaluation.attacks"
        if entry.version == "lite":
            raise UserError(
                f"params.yaml: {where}.{attack}.version: expected "
                f"standard for {title}, got lite, an upper bound for development; write standard"
            )
        if entry.draft is not None:
            raise UserError(
                f"params.yaml: {where}.{attack}.draft: expected a search in fp32 for {title}, got "
                f"{entry.draft}, an upper bound for development; leave draft out, or keep it in a "
                "suite of its own"
            )


def seeds_of(suite: Suite, recipe: str) -> tuple[int, ...]:
    """The seeds of a recipe: the suite's, or as many of them as the recipe takes."""
    return suite.seeds[: suite.recipes[recipe].num_seeds]


def _row(
    params: Params, suite_name: str, table: str, *, recipe: str, dataset: str, threat: str
) -> Row:
    """Of a table; the network may differ by data set, threat model and objective."""
    suite = get_suite(params, suite_name)
    shown = "none" if is_natural(suite, recipe) else threat
    look = Lookup(suite_name, dataset, shown, suite.recipes[recipe].objective)
    network = look(getattr(suite, table).network, f"{table}.network")
    place = {"recipe": recipe, "dataset": dataset, "threat": threat, "network": network}
    seeds = seeds_of(suite, recipe)
    return Row(tuple(run_key(params, suite_name, seed=seed, **place) for seed in seeds), threat)


def diagnosis_spec(params: Params, key: RunKey, *, checkpoint: str = "best") -> DiagnosisSpec:
    """Resolve the verdict on one checkpoint: on all attacks under its own threat model."""
    return DiagnosisSpec(
        evaluation=evaluation_spec(
            params,
            key,
            checkpoint=checkpoint,
            attacks=attacks_under_network_threat(params.suites[key.suite]),
        ),
        objective=_objective(params, key),
        twin=_twin(params, key),
    )


def _objective(params: Params, key: RunKey) -> str:
    suite = params.suites[key.suite]
    return suite.objectives[suite.recipes[key.recipe].objective].loss


def _twin(params: Params, key: RunKey) -> RunKey | None:
    """AT of the same place, where Table 2 has it: trained alike, or else as AT is.

    Natural training has none, nor has plain AT.
    """
    suite = params.suites[key.suite]

    def how(recipe: RecipeEntry) -> tuple[object, ...]:
        change = recipe.change.model_copy(update=dict.fromkeys(OF_PERTURBATION))
        smoothing = suite.objectives[recipe.objective].label_smoothing
        return (recipe.start, change, smoothing, recipe.average_decay, recipe.attack_num_steps)

    entry, plain = suite.recipes[key.recipe], (None, Change(), 0.0, None, None)
    objective = suite.objectives[entry.objective]
    is_at = objective.loss == "at" and entry.perturbation is None
    if objective.loss == "natural" or (is_at and how(entry) == plain and not objective.unlabeled):
        return None
    there = [
        other
        for other in runs_of(params, key.suite, "table2")
        if other == key.replace(recipe=other.recipe) and other != key
    ]
    for wanted in (how(entry), plain):
        for other in there:
            recipe = suite.recipes[other.recipe]
            at = suite.objectives[recipe.objective]
            alike = recipe.perturbation is None and how(recipe) == wanted
            if alike and at.loss == "at" and not at.unlabeled:
                return other
    return None


def setting_keys(params: Params, suite_name: str, setting: Setting, recipe: str) -> list[RunKey]:
    """The runs of a recipe in a setting, one per seed."""
    suite = get_suite(params, suite_name)
    seeds = seeds_of(suite, recipe)
    keys = [setting_key(suite, suite_name, setting, recipe, seed=seed) for seed in seeds]
    return [declared(params, key) for key in keys]


def _recipe_rows(
    params: Params, suite_name: str, setting: Setting, recipes: Iterable[str]
) -> list[Row]:
    """The runs of some recipes in a setting; two recipes that are one training are one row."""
    found = (setting_keys(params, suite_name, setting, recipe) for recipe in recipes)
    return _each_once(Row(tuple(keys)) for keys in found)


def sweep_rows(params: Params, suite_name: str, setting: Setting, name: str) -> list[Row]:
    """The runs of a sweep in a setting, in the order of its values."""
    sweep = get_suite(params, suite_name).sweeps[name]
    return [
        Row(
            tuple(setting_keys(params, suite_name, setting, sweep.name_of(change))),
            sweep=sweep,
            change=change,
        )
        for change in sweep.changes()
    ]


def figure_names(suite: Suite) -> list[str]:
    """The figures that a suite's report waits for."""
    return [name for name in suite.reported if name != BEYOND]
