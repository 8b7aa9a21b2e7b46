"""Options of own factories: of a recipe, of a sweep, and refused where nobody takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rwp.commands.plan import plan
from rwp.data.spec import DatasetSpec
from rwp.errors import UserError
from rwp.factories import call
from rwp.pipeline import own_trials
from rwp.pipeline.load import check_params, keep_settings
from rwp.pipeline.lookup import setting_key
from rwp.pipeline.own_trials import _trials
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params, Setting
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import sweep_rows
from rwp.reporting.labels import recipe_label
from rwp.strict_yaml import read_yaml
from rwp.training.spec import AttackSpec, ThreatSpec, TrainSpec
from tests.data.samples import write_passport

THREAT = ThreatSpec(norm="linf", epsilon="0.1")
SMOOTHED = {"loss": "own.methods:Smoothed", "options": {"smoothing": 0.1}}
LOWEST = {
    "gamma": 0.01,
    "num_weight_steps": 1,
    "norm_scope": "model",
    "mask": "own.methods:lowest",
    "options": {"share": 0.5},
    "warmup_epochs": 0,
}


def with_own(settings: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The demo with an objective, a mask and recipes of one's own."""
    demo = settings["suites"]["demo"]
    demo["objectives"]["smoothed"] = SMOOTHED
    demo["perturbations"]["lowest"] = LOWEST
    demo["recipes"] |= {
        "smoothed": {"objective": "smoothed"},
        "smoothed-lowest": {"objective": "smoothed", "perturbation": "lowest"},
        "at-lowest": {"objective": "at", "perturbation": "lowest"},
    }
    for table, entries in changes.items():
        demo[table] |= entries
    return settings


def spec(params: Params, recipe: str) -> TrainSpec:
    suite = params.suites["demo"]
    return train_spec(params, setting_key(suite, "demo", Setting(), recipe, seed=0))


def test_texts_in_quotes_are_texts(own_code: Path, settings: dict[str, Any]) -> None:
    """A factory gets what was written, whoever reads the settings: a job of the workflow, too."""
    options = {"tag": "1e5", "version": "089", "size": 1e-5, "word": "None", "long": "a b " * 60}
    content = with_own(settings)
    content["suites"]["demo"]["objectives"]["smoothed"] = SMOOTHED | {"options": options}
    for found in (content, read_yaml(keep_settings(content, own_code))):
        assert spec(check_params(found), "smoothed").objective.options == options


def test_a_recipe_changes_them(own_code: Path, settings: dict[str, Any]) -> None:
    recipes = {
        "more": {"objective": "smoothed", "change": {"options": {"smoothing": 0.3}}},
        "both": {
            "objective": "smoothed",
            "perturbation": "lowest",
            "change": {"options": {"smoothing": 0.3, "share": 0.25}},
        },
        "undeclared": {
            "objective": "at",
            "perturbation": "lowest",
            "change": {"options": {"q": 1}},
        },
        "another-mask": {
            "objective": "at",
            "perturbation": "rwp",
            "change": {"mask": "own.methods:lowest", "options": {"share": 0.75}},
        },
        "without": {"objective": "at", "perturbation": "lowest", "change": {"mask": "all"}},
        "a-range": {"objective": "at", "perturbation": "lowest", "change": {"loss_range": [1, 2]}},
    }
    params = check_params(with_own(settings, recipes=recipes))
    assert spec(params, "smoothed").objective.options == {"smoothing": 0.1}
    assert spec(params, "more").objective.options == {"smoothing": 0.3}
    both = spec(params, "both")
    assert both.objective.options == {"smoothing": 0.3}
    options = {
        name: (found.own_options, found.mask, bool(found.source))
        for name in ("both", "undeclared", "another-mask", "without", "a-range")
        if (found := spec(params, name).perturbation)
    }
    assert options == {
        "both": ({"share": 0.25}, "own.methods:lowest", True),
        "undeclared": ({"share": 0.5, "q": 1}, "own.methods:lowest", True),
        "another-mask": ({"share": 0.75}, "own.methods:lowest", True),
        "without": ({}, "all", False),
        "a-range": ({}, "range", False),
    }


def test_one_and_one_point_nought_and_true_are_three_options(
    own_code: Path, settings: dict[str, Any]
) -> None:
    """Own code may act on the type: 1.0 as all, 1 as one."""
    smoothed = SMOOTHED | {"options": {"smoothing": 1.0}}
    sweeps = {"smoothing": {"recipe": "smoothed", "vary": {"options.smoothing": [1, True]}}}
    params = check_params(with_own(settings, objectives={"smoothed": smoothed}, sweeps=sweeps))
    rows = sweep_rows(params, "demo", Setting(), "smoothing")
    found = ["smoothed", *(row.recipe for row in rows)]
    assert len(set(found)) == 3
    kinds = [type(spec(params, recipe).objective.options["smoothing"]) for recipe in found]
    assert kinds == [float, int, bool]
    one = AttackSpec(name="mine", kind="own.methods:noise", threat=THREAT, options={"k": 1})
    assert one == one.replace(options={"k": 1})
    for other in (1.0, True):
        assert one != one.replace(options={"k": other})
        assert one.differing(one.replace(options={"k": other})) == ["options"]


def test_a_factory_that_changes_its_options_changes_no_settings(own_code: Path) -> None:
    """An attack's factory is called for each batch: the second would be another attack."""
    (own_code / "own" / "mine.py").write_text("def f(scales):\n    return scales.pop(0)\n")
    options = {"scales": [1.0, 0.5]}
    assert [call("own.mine:f", options) for _ in range(2)] == [1.0, 1.0]
    assert options == {"scales": [1.0, 0.5]}


def test_a_parameter_that_cannot_be_named_is_told_of(own_code: Path) -> None:
    (own_code / "own" / "mine.py").write_text("def f(width, /):\n    return width\n")
    with pytest.raises(UserError, match=r"expected parameters that are given by name, got width"):
        call("own.mine:f", {"width": 3})


def test_a_sweep_varies_them_and_each_is_tried_first(
    own_code: Path, settings: dict[str, Any]
) -> None:
    sweeps = {
        "smoothing": {
            "recipe": "smoothed-lowest",
            "vary": {"options.smoothing": [0.1, 0.2], "options.share": [0.5, 0.9]},
        },
        "masks": {"recipe": "at-rwp", "vary": {"mask": ["below", "own.methods:lowest"]}},
    }
    figures = {"smoothing": {"kind": "sweep", "sweep": "smoothing", "label": "smoothing"}}
    params = check_params(with_own(settings, sweeps=sweeps, figures=figures))
    suite = params.suites["demo"]
    rows = sweep_rows(params, "demo", suite.figures["smoothing"], "smoothing")
    found = {row.recipe: row.change for row in rows}
    assert list(found) == [
        "smoothed-lowest",  # what is declared is that recipe's own run
        "smoothed-lowest-options.smoothing-0.1-options.share-0.9",
        "smoothed-lowest-options.smoothing-0.2-options.share-0.5",
        "smoothed-lowest-options.smoothing-0.2-options.share-0.9",
    ]
    last = spec(params, list(found)[-1])
    assert last.objective.options == {"smoothing": 0.2}
    assert last.perturbation is not None
    assert last.perturbation.own_options == {"share": 0.9}
    label = recipe_label(suite, list(found)[-1])
    assert label == "SMOOTHED-LOWEST: smoothing 0.2, share 0.9"
    assert spec(params, "at-rwp-mask-own.methods_lowest").perturbation.mask == "own.methods:lowest"

    steps = Steps(params)
    made = [steps.train(row.keys[0]) for row in rows]
    assert len({step.fingerprint for step in made}) == 4
    tried = {str(trial["options"]) for trial in _trials(made)}
    assert tried == {str({"smoothing": s}) for s in (0.1, 0.2)} | {
        str({"share": s}) for s in (0.5, 0.9)
    }


RECIPE = {"objective": "smoothed", "perturbation": "lowest"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nobody": (
        {"objective": "at", "change": {"options": {"smoothing": 0.1}}},
        r"recipes\.x\.change\.options\.smoothing: expected an objective, mask or perturbation of "
        r"your own .* got none; remove it",
    ),
    "of two, neither": (
        RECIPE | {"change": {"options": {"smothing": 0.1}}},
        "expected one of the objective own.methods:Smoothed and the mask or perturbation own.m",
    ),
    "no table": (RECIPE | {"change": {"options": 3}}, r"change\.options: expected .* got 3"),
    "beside own mask": (
        RECIPE | {"change": {"c_min": 1.0}},
        r"change\.c_min: expected none with",
    ),
    "beta": ({"objective": "smoothed", "change": {"beta": 6}}, r"change\.beta: expected"),
    "smoothing beside own": (
        {"objective": "smoothed", "change": {"label_smoothing": 0.1}},
        r"change\.label_smoothing: expected another objective, got own\.methods:Smoothed",
    ),
    "beside own perturbation": (
        {"objective": "at", "perturbation": "mine", "change": {"gamma": 0.1}},
        r"change\.gamma: expected none with the perturbation own\.methods:sam",
    ),
}


def test_what_attacks_is_tried_under_its_own_threat_model(
    own_code: Path, settings: dict[str, Any]
) -> None:
    demo = with_own(settings)["suites"]["demo"]
    demo["evaluation"]["attacks"]["mine"] = {"kind": "own.methods:noise"}
    demo["table2"]["threat_model"] = "l2"
    steps = Steps(check_params(settings))
    key = setting_key(steps.params.suites["demo"], "demo", Setting(), "smoothed", seed=0)
    made = [steps.train(key), steps.evaluate(key, "best", "mine")]
    found = {trial["role"]: trial.get("norm") for trial in _trials(made)}
    assert found == {"objective": "l2", "attack": "l2"}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_takes_is_refused(own_code: Path, settings: dict[str, Any], name: str) -> None:
    recipe, message = REFUSED[name]
    mine = {"mine": {"factory": "own.methods:sam", "options": {"rho": 0.1}}}
    content = with_own(settings, recipes={"x": recipe}, perturbations=mine)
    with pytest.raises(UserError, match=message) as caught:
        check_params(content)
    assert "\n" not in str(caught.value)


def test_an_option_of_two_factories_is_refused(own_code: Path, settings: dict[str, Any]) -> None:
    both = {"lowest": LOWEST | {"options": {"share": 0.5, "smoothing": 1}}}
    recipes = {"x": RECIPE | {"change": {"options": {"smoothing": 0.1}}}}
    with pytest.raises(UserError, match="among its options, got both; declare it"):
        check_params(with_own(settings, perturbations=both, recipes=recipes))


def test_one_factory_may_be_objective_and_mask(own_code: Path, settings: dict[str, Any]) -> None:
    """Each has its own options; those of the mask were taken for both."""
    mask = {"lowest": LOWEST | {"mask": SMOOTHED["loss"], "options": {"smoothing": 0.4}}}
    found = spec(check_params(with_own(settings, perturbations=mask)), "smoothed-lowest")
    assert found.objective.options == {"smoothing": 0.1}
    assert found.perturbation is not None
    assert found.perturbation.own_options == {"smoothing": 0.4}


@pytest.mark.parametrize(
    ("given", "fact"), [({"criterion": "margin"}, "objective"), ({"size": [8, 8]}, (9, 9))]
)
def test_an_option_that_would_be_replaced_is_refused(
    own_code: Path, given: dict[str, Any], fact: Any
) -> None:
    (name,) = given
    (own_code / "own" / "given.py").write_text(f"def f(*, {name}):\n    return {name}\n")
    with pytest.raises(UserError, match=f"own.given:f: expected no option {name}, which a "):
        call("own.given:f", given, **{name: fact})
    as_in_yaml = list(fact) if isinstance(fact, tuple) else fact
    assert call("own.given:f", {name: as_in_yaml}, **{name: fact}) == fact


def test_settings_beside_an_own_objective_are_refused(settings: dict[str, Any]) -> None:
    settings["suites"]["demo"]["objectives"]["own"] = SMOOTHED | {"label_smoothing": 0.1}
    with pytest.raises(UserError, match="under options, got label_smoothing beside them"):
        check_params(settings)


def test_every_suite_takes_an_objective_that_nobody_has_listed(
    own_code: Path, settings: dict[str, Any]
) -> None:
    suites = settings["suites"]
    for suite in suites.values():
        if "objectives" in suite:  # the others extend one of these
            suite["objectives"]["smoothed"] = SMOOTHED
            for perturbation in ("awp", "rwp"):
                recipe = {"objective": "smoothed", "perturbation": perturbation}
                suite["recipes"][f"smoothed-{perturbation}"] = recipe
    params = check_params(settings)
    for name, suite in params.suites.items():
        for perturbation in ("awp", "rwp"):
            key = setting_key(suite, name, Setting(), f"smoothed-{perturbation}", seed=0)
            found, plain = train_spec(params, key), key.replace(recipe=f"at-{perturbation}")
            assert found.perturbation is not None
            assert found.perturbation.gamma == 0.01
            if plain.recipe in suite.recipes:
                usual = train_spec(params, plain).perturbation
                assert usual is not None
                assert found.perturbation.c_min == usual.c_min


def test_images_that_will_be_fetched_anew_tell_no_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = {"path": "images/mine", "image_size": 64}
    own = DatasetSpec(source="image_folder", mean=(0.5,), std=(0.2,), **place)
    write_passport(Path("data"), "mine", fingerprint="of 8 pixels")
    then, now = {"mine": "of 8 pixels"}, {"mine": "of 64 pixels"}
    shapes = [own_trials._shape(own, "mine", marks) or {} for marks in (then, now)]
    assert [shape["image_size"] for shape in shapes] == [[8, 8], [64, 64]]
    assert shapes[0]["num_classes"] == 10
    for name in ("a", "b", "c"):  # the folder as it is now
        (tmp_path / "images/mine/train" / name).mkdir(parents=True)
    assert (own_trials._shape(own, "mine", now) or {})["num_classes"] == 3


def test_a_network_waits_for_images_that_alone_tell_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was tried at 32x32, and one for 28x28 was refused before its images could be fetched."""
    monkeypatch.chdir(tmp_path)
    own = DatasetSpec(source="image_folder", path="images/mine", mean=(0.5,), std=(0.2,))
    assert own_trials._shape(own, "mine") is None
    sized = own.replace(image_size=28)
    shape = {"in_channels": 1, "image_size": [28, 28], "num_classes": 3}
    assert own_trials._shape(sized, "mine") == shape
    assert own_trials._shape(sized.replace(mean=None, std=None), "mine") is None
    official = DatasetSpec(source="cifar10", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert own_trials._shape(official, "c") == {"in_channels": 3, "image_size": [32, 32]} | {
        "num_classes": 10
    }
    small = DatasetSpec(source="cifar10", image_size=16)
    digits = DatasetSpec(source="digits", test_share=0.25, image_size=4)
    sides = [own_trials._shape(data, "c") or {} for data in (small, digits)]
    assert [(found["in_channels"], found["image_size"]) for found in sides] == [
        (3, [16, 16]),
        (1, [4, 4]),
    ]


@pytest.mark.slow
def test_plan_says_what_is_misspelled_and_tries_it_once(
    own_code: Path,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = "results/demo/runs/digits/linf/small/smoothed/seed0/last.pt"
    wrong = with_own(settings, objectives={"smoothed": SMOOTHED | {"options": {"smoothign": 0.1}}})
    Path("wrong.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(UserError, match=r"own\.methods:Smoothed: expected .*smoothing.*smoothign"):
        plan([target], params_file=Path("wrong.yaml"))
    assert not capsys.readouterr().out
    settings["suites"]["demo"]["objectives"]["smoothed"] = SMOOTHED
    Path("right.yaml").write_text(yaml.safe_dump(settings))
    plan([target], params_file=Path("right.yaml"))
    monkeypatch.setattr(own_trials, "sys", None)  # a second trial could not be started
    plan([target], params_file=Path("right.yaml"))
    assert "trainings         0      0      1" in capsys.readouterr().out
