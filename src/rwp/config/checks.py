"""Sweeps, figures and the table `beyond` name only what a suite has."""

from __future__ import annotations

from rwp.config.lookup import choose
from rwp.config.results import Change, Setting
from rwp.config.schema import Params, Suite
from rwp.errors import UserError


def check_results(params: Params, suite: Suite, where: str) -> None:
    """Look up every name in a suite's sweeps, figures and table `beyond`.

    Raises:
        UserError: with the key, what was expected, what was found.
    """
    for name, sweep in suite.sweeps.items():
        at = f"{where}.sweeps.{name}"
        choose(suite.recipes, sweep.recipe, "recipe", f"{at}.recipe")
        for setting, values in sweep.vary.items():
            choose(dict(Change.model_fields), setting, "setting", f"{at}.vary")
            if not values:
                raise UserError(f"{at}.vary.{setting}: expected values, got none; add one")
    for name, recipe in suite.recipes.items():
        _check_change(f"{where}.recipes.{name}", recipe.change, recipe.perturbation)
    for name, figure in suite.figures.items():
        at = f"{where}.figures.{name}"
        _check_setting(params, suite, figure, at)
        if figure.kind in ("sweep", "removal"):
            choose(suite.sweeps, figure.sweep, "sweep", f"{at}.sweep")
        for role in ("recipes", "references"):
            for recipe_name in getattr(figure, role, ()):
                choose(suite.recipes, recipe_name, "recipe", f"{at}.{role}")
        if figure.kind == "landscape":
            choose(suite.recipes, figure.recipe, "recipe", f"{at}.recipe")
            _check_epochs(suite, figure.epochs, at)
    _check_beyond(params, suite, where)


def _check_change(where: str, change: Change, perturbation: str | None) -> None:
    given = change.model_dump(exclude_none=True, exclude={"remove_below"})
    if given and perturbation is None:
        raise UserError(
            f"{where}: expected a perturbation to change {', '.join(given)} of, got none; name one"
        )


def _check_setting(params: Params, suite: Suite, setting: Setting, where: str) -> None:
    if setting.dataset is not None:
        choose(params.datasets, setting.dataset, "data set", f"{where}.dataset")
    if setting.threat_model is not None:
        choose(suite.threat_models, setting.threat_model, "threat model", f"{where}.threat_model")
    if setting.network is not None:
        choose(params.networks, setting.network, "network", f"{where}.network")


def _check_epochs(suite: Suite, epochs: tuple[int, ...], where: str) -> None:
    longest = max(suite.training.epochs.values())
    for epoch in epochs:
        if epoch > longest:
            raise UserError(
                f"{where}.epochs: expected at most the {longest} epochs of a training, got {epoch};"
                f" lower it"
            )


def _check_beyond(params: Params, suite: Suite, where: str) -> None:
    known = dict.fromkeys([*suite.figures, *(["beyond"] if suite.beyond else [])])
    for name in suite.reported:
        choose(known, name, "figure", f"{where}.reported")
    if suite.beyond is None:
        return
    for name in suite.beyond.attacks:
        choose(suite.evaluation.attacks, name, "attack", f"{where}.beyond.attacks")
    for group in suite.beyond.groups:
        at = f"{where}.beyond.groups ({group.title})"
        _check_setting(params, suite, group, at)
        for recipe in group.recipes:
            choose(suite.recipes, recipe, "recipe", f"{at}.recipes")
        for sweep in group.sweeps:
            choose(suite.sweeps, sweep, "sweep", f"{at}.sweeps")
