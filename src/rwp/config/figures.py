"""Which runs stand behind which figure, and behind the table `beyond`."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from rwp.config.definitions import DatasetSpec
from rwp.config.fields import Amount, Count, PositiveFloat, PositiveInt, Share
from rwp.config.lookup import choose, setting_key
from rwp.config.results import LandscapeFigure, Setting
from rwp.config.schema import Params, Suite
from rwp.config.specs import AttackSpec, RunKey, Spec, TrainSpec, kept_checkpoint, suite_directory
from rwp.config.tables import get_suite
from rwp.config.trainings import landscape_key, train_spec

BEYOND = "beyond"
SweepRow = tuple[dict[str, Any], list[RunKey]]  # what is changed, and one run per seed

# What may differ between two names of one and the same training.
_NAMES_ONLY = {"key": True, "keep_epochs": True, "perturbation": {"name": True}}

_COPIED = ("epochs", "edges", "num_directions", "num_points", "radius", "num_examples")


class LandscapeSpec(Spec):
    """Losses of attacked training images at perturbed weights, at several checkpoints of a run."""

    key: RunKey
    data: DatasetSpec
    attack: AttackSpec
    held_out_fraction: Share
    batch_size: PositiveInt
    seed: Count
    epochs: tuple[PositiveInt, ...]
    edges: tuple[Amount, ...]
    num_directions: PositiveInt
    num_points: PositiveInt
    radius: PositiveFloat
    num_examples: PositiveInt | None
    part_seed: Count = 0

    def checkpoint(self, epoch: int) -> PurePosixPath:
        """The network after so many epochs, relative to the project."""
        return kept_checkpoint(self.key, epoch)

    def result(self, name: str) -> PurePosixPath:
        """Where the losses lie that the figure of that name shows, relative to the project."""
        return suite_directory(self.key.suite) / "landscapes" / f"{name}.csv"


def setting_keys(params: Params, suite_name: str, setting: Setting, recipe: str) -> list[RunKey]:
    """The runs of a recipe in a setting, one per seed."""
    suite = get_suite(params, suite_name)
    keys = [setting_key(suite, suite_name, setting, recipe, seed=seed) for seed in suite.seeds]
    return [declared(params, key) for key in keys]


def declared(params: Params, key: RunKey) -> RunKey:
    """The run of an earlier recipe that has the very settings of this one, so is the same run.

    So a sweep of c_min shares its run at 1.7 with AT-RWP, and the corners of a grid between AWP
    and RWP are AWP's and RWP's own.
    """
    suite = params.suites[key.suite]
    objective = suite.recipes[key.recipe].objective
    settings = _settings(train_spec(params, key))
    for recipe, entry in suite.recipes.items():
        if recipe == key.recipe:
            return key
        if entry.objective == objective:
            other = key.model_copy(update={"recipe": recipe})
            if _settings(train_spec(params, other)) == settings:
                return other
    return key


def _settings(spec: TrainSpec) -> dict[str, Any]:
    return spec.model_dump(exclude=_NAMES_ONLY)  # type: ignore[arg-type]


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


def landscape_spec(params: Params, suite_name: str, name: str) -> LandscapeSpec:
    """The measurement behind a landscape figure; its attack is the training's, in eval mode."""
    suite = get_suite(params, suite_name)
    figure = suite.figures[name]
    if not isinstance(figure, LandscapeFigure):
        raise ValueError(f"{name}: expected a landscape, got {figure.kind}")
    training = train_spec(params, landscape_key(suite, suite_name, figure))
    if training.attack is None:
        raise ValueError(f"{name}: expected an adversarially trained recipe, got {figure.recipe}")
    copied = {field: getattr(figure, field) for field in _COPIED}
    return LandscapeSpec(
        key=training.key,
        data=training.data,
        attack=training.attack.model_copy(update={"bn_mode": "eval"}),
        held_out_fraction=training.held_out_fraction,
        batch_size=suite.evaluation.batch_size,
        seed=suite.evaluation.seed,
        part_seed=suite.evaluation.part_seed,
        **copied,
    )


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
