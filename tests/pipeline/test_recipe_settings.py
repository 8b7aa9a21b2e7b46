"""A recipe, and with it a sweep, may change any setting of its training, and nothing else moves."""

from __future__ import annotations

from typing import Any

import pytest

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import CHANGEABLE, Change, Params, Setting, TrainingEntry
from rwp.pipeline.suites import setting_keys
from rwp.reporting.labels import recipe_label
from rwp.training.spec import TrainSpec

# For each setting: a value that the demo does not have, and where it arrives.
CHANGES: dict[str, tuple[Any, str, Any]] = {
    "epochs": (25, "optimization.epochs", 25),
    "batch_size": (32, "optimization.batch_size", 32),
    "learning_rate": (0.05, "optimization.learning_rate", 0.05),
    "schedule": ("piecewise_by_step", "optimization.schedule", "piecewise_by_step"),
    "decay_epochs": ([5, 8], "optimization.decay_epochs", (5, 8)),
    "decay_factor": (0.5, "optimization.decay_factor", 0.5),
    "momentum": (0.8, "optimization.momentum", 0.8),
    "nesterov": (True, "optimization.nesterov", True),
    "weight_decay": (0.002, "optimization.weight_decay", 0.002),
    "precision": ("tf32", "optimization.precision", "tf32"),
    "batch_statistics": ("share", "optimization.batch_statistics", "share"),
    "compile": ("graphs", "optimization.compile", "graphs"),
    "normalize": (False, "normalize", False),
    "crop_padding": (2, "augmentation.crop_padding", 2),
    "padding_mode": ("reflect", "augmentation.padding_mode", "reflect"),
    "flip": (True, "augmentation.flip", True),
    "rotation_degrees": (10, "augmentation.rotation_degrees", 10),
    "attack_num_steps": (7, "attack.num_steps", 7),
    "attack_bn_mode": ("eval", "attack.bn_mode", "eval"),
    "attack_epsilon": (0.1, "attack.threat.epsilon", "0.1"),
    "attack_step_size": ("2/255", "attack.step_size", "2/255"),
    "attack_random_start": ("none", "attack.random_start", "none"),
    "monitor_epsilon": (0.1, "monitor.threat.epsilon", "0.1"),
    "monitor_step_size": (0.01, "monitor.step_size", "0.01"),
    "monitor_random_start": ("none", "monitor.random_start", "none"),
    "monitor_keep": ("worst", "monitor.keep", "worst"),
    "remove_below": (0.5, "remove_below", 0.5),
    "average_decay": (0.9, "average_decay", 0.9),
}
# What follows from another setting, so that it moves along with it.
FOLLOWS = {"attack_random_start": {"monitor"}}


def with_recipe(settings: dict[str, Any], **recipe: Any) -> Params:
    settings["suites"]["demo"]["recipes"]["mine"] = {"objective": "at"} | recipe
    return check_params(settings)


def resolve(params: Params, recipe: str, **place: Any) -> TrainSpec:
    at = {"dataset": "digits", "threat": "linf", "seed": 0} | place
    spec = train_spec(params, run_key(params, "demo", recipe=recipe, **at))
    return spec.replace(keep_epochs=())  # a figure looks at some of AT's


def test_every_setting_of_a_training_is_tried_here() -> None:
    assert set(CHANGES) >= set(CHANGEABLE)
    assert set(TrainingEntry.model_fields) - set(CHANGEABLE) == {"gpus"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_changes_one_setting_and_nothing_else(name: str, settings: dict[str, Any]) -> None:
    value, place, arrived = CHANGES[name]
    params = with_recipe(settings, change={name: value})
    plain, changed = resolve(params, "at"), resolve(params, "mine")
    found: Any = changed
    for part in place.split("."):
        found = getattr(found, part)
    assert found == arrived
    moved = {
        field
        for field in plain.document()
        if field != "key" and getattr(plain, field) != getattr(changed, field)
    }
    assert moved == {place.split(".")[0]} | FOLLOWS.get(name, set())


@pytest.mark.parametrize("name", CHANGES)
def test_a_sweep_varies_any_setting(name: str, settings: dict[str, Any]) -> None:
    value, place, arrived = CHANGES[name]
    sweep = {"recipe": "at", "vary": {name: [value]}}
    settings["suites"]["demo"]["sweeps"]["mine"] = sweep
    params = check_params(settings)
    suite = params.suites["demo"]
    (recipe,) = [suite.sweeps["mine"].name_of(change) for change in suite.sweeps["mine"].changes()]
    found: Any = resolve(params, recipe)
    for part in place.split("."):
        found = getattr(found, part)
    assert found == arrived
    assert recipe_label(suite, recipe).startswith("AT: ")


def test_a_change_may_be_a_table_over_settings(settings: dict[str, Any]) -> None:
    params = with_recipe(settings, change={"weight_decay": {"default": 0.001, "l2": 0.003}})
    assert resolve(params, "mine").optimization.weight_decay == 0.001
    assert resolve(params, "mine", threat="l2").optimization.weight_decay == 0.003


def test_as_many_removed_at_random(settings: dict[str, Any]) -> None:
    sweep = {"recipe": "at", "vary": {"remove_below": [0.5], "remove_at_random": [False, True]}}
    settings["suites"]["demo"]["sweeps"]["mine"] = sweep
    params = check_params(settings)
    suite = params.suites["demo"]
    names = [suite.sweeps["mine"].name_of(change) for change in suite.sweeps["mine"].changes()]
    assert [resolve(params, name).remove_at_random for name in names] == [False, True]
    assert [resolve(params, name).remove_below for name in names] == [0.5, 0.5]
    labels = [recipe_label(suite, name) for name in names]
    assert labels == ["AT: losses below 0.5 removed", "AT: as many as below 0.5 removed at random"]


def test_beta_of_an_objective(settings: dict[str, Any]) -> None:
    params = with_recipe(settings, objective="trades", change={"beta": 3.0})
    assert resolve(params, "mine").objective.beta == 3
    assert resolve(params, "trades").objective.beta == 6


def test_no_change_changes_no_text_of_the_settings(
    params: Params, settings: dict[str, Any]
) -> None:
    """And so no fingerprint: what a recipe does not change is left out."""
    assert Change().of_training == {}
    mine = resolve(with_recipe(settings, change={}), "mine")
    assert mine.canonical().replace('"mine"', '"at"') == resolve(params, "at").canonical()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"change": {"gamma": 0.1}}, "expected a perturbation to change gamma of, got none"),
        ({"change": {"warmup_epochs": 1}}, "a perturbation to change warmup_epochs of"),
        ({"change": {"beta": 3.0}}, "change.beta: expected an objective with beta .*, got at"),
        (
            {"objective": "natural", "change": {"attack_num_steps": 3}},
            "change.attack_num_steps: expected an objective with an attack, got natural",
        ),
        (
            {"objective": "natural", "change": {"monitor_keep": "worst"}},
            "change.monitor_keep: expected an objective with an attack, got natural",
        ),
        (
            {"change": {"schedule": "cosine_by_epoch", "decay_factor": 0.5}},
            "change.decay_factor: expected a schedule with steps, got cosine_by_epoch; remove",
        ),
        (
            {"attack_num_steps": 3, "change": {"attack_num_steps": 4}},
            "expected attack_num_steps once, got it in the recipe and in its change",
        ),
        (
            {"change": {"remove_at_random": True}},
            "change.remove_at_random: expected remove_below beside it, got none; say below which",
        ),
        ({"change": {"weight_decai": 0.1}}, "expected a known key, got 'weight_decai'; did you"),
        ({"change": {"weight_decay": -1.0}}, "weight_decay.*: expected 0 or more, got -1.0"),
        ({"change": {"compile": True}}, "compile.*: expected 'off', 'default' or 'graphs'"),
        ({"change": {"weight_decay": {"digit": 0.1}}}, "got 'digit'; check the spelling"),
        ({"change": {"rotation_degrees": 200}}, "rotation_degrees.*: expected .*180, got 200"),
        ({"change": {"gpus": 2}}, "expected a known key, got 'gpus'"),
        (
            {"change": {"epochs": 9}},
            "mine.change: decay_epochs: expected epochs before the end .* .9 epochs., got",
        ),
        ({"change": {"decay_epochs": [30]}}, "mine.change: decay_epochs: expected epochs before"),
        ({"change": {"decay_epochs": [9, 5]}}, "mine.change: decay_epochs: expected rising epochs"),
        (
            {"change": {"decay_factor": 10.0}},
            "mine.change: decay_factor: expected .* below 1",
        ),
    ],
)
def test_a_setting_that_a_recipe_cannot_have(
    recipe: dict[str, Any], message: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=message):
        with_recipe(settings, **recipe)


def test_what_is_removed_may_be_told_by_another_loss(settings: dict[str, Any]) -> None:
    """Figure 4's thresholds are of the cross-entropy."""
    change = {"remove_below": 1.5, "criterion": "adversarial_ce"}
    params = with_recipe(settings, objective="trades", change=change)
    spec = resolve(params, "mine")
    assert (spec.remove_below, spec.objective.criterion) == (1.5, "adversarial_ce")


def test_trades_does_not_start_where_its_divergence_is_flat(settings: dict[str, Any]) -> None:
    change = {"attack_random_start": "none"}
    params = with_recipe(settings, objective="trades", change=change)
    with pytest.raises(UserError, match=r"recipes\.mine: expected a start beside the image"):
        resolve(params, "mine")
    assert resolve(with_recipe(settings, change=change), "mine").attack.random_start == "none"


def test_compile_off_is_a_word(settings: dict[str, Any]) -> None:
    """YAML reads it as false."""
    settings["suites"]["demo"]["training"]["compile"] = False
    assert resolve(check_params(settings), "at").optimization.compile == "off"


@pytest.mark.parametrize("key", ["digits", "small"])
def test_decays_of_a_run_without_steps(settings: dict[str, Any], key: str) -> None:
    """The schedule of a run is that of its data set and network, too."""
    training = settings["suites"]["demo"]["training"]
    training["schedule"] = {"default": "piecewise_by_epoch", key: "constant"}
    params = with_recipe(settings, change={"decay_factor": 0.3})
    with pytest.raises(UserError, match=r"mine\.change\.decay_factor: .* got constant for"):
        resolve(params, "mine")


def test_decays_of_a_run_with_steps_where_others_have_none(settings: dict[str, Any]) -> None:
    training = settings["suites"]["demo"]["training"]
    training["schedule"] = {"default": "constant", "digits": "piecewise_by_epoch"}
    params = with_recipe(settings, change={"decay_epochs": [1]})
    assert resolve(params, "mine").optimization.decay_epochs == (1,)


def test_a_recipe_is_not_refused_for_what_another_lacks(settings: dict[str, Any]) -> None:
    """AT on a data set for which RWP has no c_min."""
    settings["datasets"]["more-digits"] = {"source": "digits", "test_share": 0.3}
    settings["suites"]["demo"]["perturbations"]["rwp"]["c_min"] = {"digits": 1.7}
    params = with_recipe(settings, attack_num_steps=7)
    (key,) = setting_keys(params, "demo", Setting(dataset="more-digits"), "mine")
    assert key.recipe == "mine"
    with pytest.raises(UserError, match=r"rwp\.c_min: expected a value for more-digits/"):
        setting_keys(params, "demo", Setting(dataset="more-digits"), "at-rwp")
