"""What params.yaml resolves to, and that the paper's suite is the paper."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from rwp.errors import UserError
from rwp.evaluation.spec import EvaluationSpec
from rwp.pipeline.checks import check_images
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import pick, run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec, landscape_spec
from rwp.pipeline.settings import Params
from rwp.pipeline.suites import runs_of
from rwp.spec import radius_value
from rwp.training.spec import TrainSpec


def resolve(params: Params, recipe: str, dataset: str, threat: str, **more: Any) -> TrainSpec:
    place = {"recipe": recipe, "dataset": dataset, "threat": threat, "seed": 0}
    return train_spec(params, run_key(params, more.pop("suite", "paper"), **place, **more))


def test_the_most_specific_setting_counts() -> None:
    table = {"default": 1, "svhn": 2, "at/svhn": 3}
    assert pick(table, ["cifar10", "at"]) == 1
    assert pick(table, ["svhn", "trades"]) == 2
    assert pick(table, ["svhn", "at"]) == 3
    assert pick({"svhn": 2}, ["cifar10"]) is None


def test_a_landscape_is_measured_on_the_suites_part_of_the_images(settings: dict[str, Any]) -> None:
    evaluation = {"part_seed": 3, "seed": 5, "batch_size": 11}
    settings["suites"]["demo"]["evaluation"] |= evaluation
    spec = landscape_spec(check_params(settings), "demo", "fig2")
    assert {name: getattr(spec, name) for name in evaluation} == evaluation


def test_a_table_in_a_table_narrows_a_setting(settings: dict[str, Any]) -> None:
    flat, nested = copy.deepcopy(settings), copy.deepcopy(settings)
    flat["suites"]["paper"]["training"]["crop_padding"] = {"default": 4, "at/svhn/l2": 1, "at": 2}
    nested["suites"]["paper"]["training"]["crop_padding"] = {
        "default": 4,
        "at": {"default": 2, "svhn": {"l2": 1}},
    }
    assert check_params(flat) == check_params(nested)
    params = check_params(nested)
    assert resolve(params, "at", "svhn", "l2").augmentation.crop_padding == 1
    assert resolve(params, "at", "svhn", "linf").augmentation.crop_padding == 2
    assert resolve(params, "trades", "svhn", "l2").augmentation.crop_padding == 4


def test_radii_are_exact() -> None:
    assert radius_value("8/255") == 8 / 255
    assert radius_value("0.031") == 0.031


@pytest.mark.parametrize(
    ("dataset", "threat", "epsilon", "step_size"),
    [
        ("cifar10", "linf", "8/255", "2/255"),
        ("cifar100", "linf", "8/255", "2/255"),
        ("svhn", "linf", "8/255", "1/255"),
        ("svhn", "l2", "128/255", "15/255"),
        ("cifar10", "l2", "128/255", "15/255"),
    ],
)
def test_paper_threat_models(
    params: Params, dataset: str, threat: str, epsilon: str, step_size: str
) -> None:
    spec = resolve(params, "at", dataset, threat)
    assert spec.attack is not None
    assert spec.monitor is not None
    assert (spec.attack.threat.epsilon, spec.attack.step_size) == (epsilon, step_size)
    assert (spec.monitor.threat.epsilon, spec.monitor.step_size) == (epsilon, step_size)
    assert (spec.attack.num_steps, spec.monitor.num_steps) == (10, 20)


@pytest.mark.parametrize(
    ("recipe", "threat", "dataset", "expected"),
    [
        ("at-rwp", "linf", "cifar10", (None, "last", "8/255", "2/255")),
        ("at", "l2", "svhn", ("off_ball", "last", "128/255", "15/255")),
        ("trades-rwp", "linf", "cifar10", ("gaussian", "last", "8/255", "2/255")),
        ("rst", "linf", "cifar10", ("none", "worst", "0.031", "0.007")),
        ("rst-awp", "linf", "cifar10", ("none", "worst", "0.031", "0.007")),
    ],
)
def test_the_paper_chooses_best_as_each_script_measures_it(
    params: Params, recipe: str, threat: str, dataset: str, expected: tuple[str | None, ...]
) -> None:
    monitor = resolve(params, recipe, dataset, threat).monitor
    assert monitor is not None
    found = (monitor.random_start, monitor.keep, monitor.threat.epsilon, monitor.step_size)
    assert found == expected


def test_other_suites_measure_every_recipe_alike(params: Params) -> None:
    for suite, entry in params.suites.items():
        if suite != "paper":
            own = [name for name in type(entry.training).model_fields if name.startswith("monitor")]
            assert all({*(getattr(entry.training, name) or {})} <= {"default"} for name in own)


@pytest.mark.parametrize(
    ("dataset", "threat", "recipe", "c_min", "warmup", "gamma", "steps"),
    [
        ("cifar10", "linf", "at-rwp", 1.7, 0, 0.01, 10),
        ("cifar100", "linf", "at-rwp", 4.0, 0, 0.01, 10),
        ("svhn", "linf", "at-rwp", 2.2, 5, 0.01, 10),
        ("svhn", "l2", "at-rwp", 2.2, 5, 0.01, 10),
        ("svhn", "linf", "at-awp", None, 5, 0.01, 1),
        ("svhn", "l2", "at-awp", None, 0, 0.01, 1),
        ("cifar10", "linf", "trades-rwp", 1.7, 9, 0.005, 10),
        ("cifar10", "linf", "rst-awp", None, 9, 0.005, 1),
    ],
)
def test_paper_perturbations(
    params: Params,
    dataset: str,
    threat: str,
    recipe: str,
    c_min: float | None,
    warmup: int,
    gamma: float,
    steps: int,
) -> None:
    found = resolve(params, recipe, dataset, threat).perturbation
    assert found is not None
    assert (found.c_min, found.warmup_epochs, found.gamma) == (c_min, warmup, gamma)
    assert found.num_weight_steps == steps
    assert found.norm_scope == ("layer" if recipe.endswith("awp") else "model")


def test_paper_families_differ_as_published(params: Params) -> None:
    at, svhn = resolve(params, "at", "cifar10", "linf"), resolve(params, "at", "svhn", "linf")
    trades, rst = (resolve(params, name, "cifar10", "linf") for name in ("trades", "rst"))
    assert (at.optimization.learning_rate, svhn.optimization.learning_rate) == (0.1, 0.01)
    assert (at.attack.bn_mode, trades.attack.bn_mode) == ("train", "eval")  # type: ignore[union-attr]
    assert (at.augmentation.padding_mode, trades.augmentation.padding_mode) == ("reflect", "zero")
    assert (svhn.augmentation.crop_padding, svhn.augmentation.flip) == (0, False)
    assert resolve(params, "at", "cifar100", "l2").augmentation.rotation_degrees == 15
    assert (at.normalize, trades.normalize, rst.normalize) == (True, False, False)
    assert (at.optimization.schedule, rst.optimization.schedule) == (
        "piecewise_by_step",
        "cosine_by_epoch",
    )
    assert (rst.optimization.nesterov, rst.optimization.batch_size) == (True, 256)
    assert rst.attack is not None
    assert (rst.attack.threat.epsilon, rst.attack.step_size) == ("0.031", "0.007")
    assert rst.threat is not None
    assert rst.threat.epsilon == "8/255"  # trained at 0.031, evaluated at 8/255


def test_paper_tables_count_27_trainings_and_their_networks(params: Params) -> None:
    first, second = runs_of(params, "paper", "table1"), runs_of(params, "paper", "table2")
    assert (len(set(first)), len(set(second))) == (18, 9)
    assert {key.network for key in first} == {"preact-resnet-18"}
    by_recipe = {key.recipe: key.network for key in second}
    assert by_recipe["at-rwp"] == by_recipe["trades"] == "wrn-34-10"
    assert by_recipe["rst-awp"] == "wrn-28-10"
    teachers = {train_spec(params, key).unlabeled.teacher for key in second if "rst" in key.recipe}  # type: ignore[union-attr]
    assert len(teachers) == 1


def test_one_spec_is_one_line_and_comes_back_equal(params: Params) -> None:
    for suite in params.suites:
        for key in runs_of(params, suite, "table1") + runs_of(params, suite, "table2"):
            spec = train_spec(params, key)
            text = spec.canonical()
            assert "\n" not in text
            assert TrainSpec.parse(text, where="here") == spec
            evaluation = evaluation_spec(params, key)
            assert EvaluationSpec.parse(evaluation.canonical(), where="here") == evaluation


def test_spelling_of_the_file_changes_nothing(settings: dict[str, Any], params: Params) -> None:
    shuffled = {name: settings[name] for name in reversed(settings)}
    key = runs_of(params, "demo", "table1")[0]
    again = check_params(shuffled)
    assert train_spec(again, key).canonical() == train_spec(params, key).canonical()


def test_a_start_at_an_average_that_the_recipe_changes_to(settings: dict[str, Any]) -> None:
    recipes = settings["suites"]["demo"]["recipes"]
    recipes["averaged"] = {"objective": "at", "average_decay": 0.98}
    start = {"recipe": "averaged", "epoch": 2}
    recipes["later"] = {"objective": "at", "start": start, "change": {"average_decay": 0.98}}
    spec = resolve(check_params(settings), "later", "digits", "linf", suite="demo")
    assert spec.average_decay == 0.98


def test_a_figure_of_a_recipe_that_trains_longer_may_look_at_its_epochs(
    settings: dict[str, Any],
) -> None:
    demo = settings["suites"]["demo-full"]
    longest = 100
    demo["recipes"] = {"long": {"objective": "at", "change": {"epochs": longest}}}
    figure = demo.setdefault("figures", {})["mine"] = copy.deepcopy(
        settings["suites"]["demo"]["figures"]["fig2"]
    )
    figure |= {"recipe": "long", "epochs": [longest]}
    check_params(settings)
    figure["epochs"] = [longest + 1]
    with pytest.raises(UserError, match=rf"expected at most the {longest} epochs of a training"):
        check_params(settings)


def test_autoattack_is_checked_where_it_is_asked_for(settings: dict[str, Any]) -> None:
    demo, data = settings["suites"]["demo"], settings["datasets"]
    data["few"] = data["digits"] | {"test_share": 0.05}
    demo["evaluation"]["attacks"]["autoattack"] |= {"num_examples": 200}
    group = {"title": "mine", "dataset": "few", "recipes": ["at"]}
    demo["beyond"] = {"attacks": ["natural", "pgd-20"], "groups": [group]}
    check_images(check_params(settings), Path(), "params.yaml")
    demo["beyond"]["attacks"] += ["autoattack"]
    with pytest.raises(UserError, match=r"autoattack\.num_examples: .* at most the 90 test"):
        check_images(check_params(settings), Path(), "params.yaml")
