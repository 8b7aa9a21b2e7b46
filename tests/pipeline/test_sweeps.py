"""Sweeps are recipes; a run that two of them share is one run; suites may extend another."""

from __future__ import annotations

from typing import Any

import pytest

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params, Setting
from rwp.pipeline.steps import Steps, below
from rwp.pipeline.suites import rows_of, runs_of, sweep_rows
from rwp.training.spec import TrainSpec


def test_a_sweep_changes_its_setting_and_nothing_else(params: Params) -> None:
    suite = params.suites["paper"]
    figure = suite.figures["fig3b"]
    base = None
    for row in sweep_rows(params, "paper", figure, "weight-steps"):
        (key,) = row.keys
        spec = train_spec(params, key)
        assert spec.perturbation is not None
        assert spec.perturbation.num_weight_steps == row.change["num_weight_steps"]
        same = spec.perturbation.replace(num_weight_steps=0)
        assert base in (None, same)
        base = same


def test_a_loss_range_is_a_mask(params: Params) -> None:
    figure = params.suites["paper"].figures["fig1c"]
    found = [
        train_spec(params, row.keys[0]).perturbation
        for row in sweep_rows(params, "paper", figure, "awp-range")
    ]
    assert [(p.mask, p.c_min, p.c_max) for p in found if p][:2] == [
        ("range", 0.0, 0.5),
        ("range", 0.5, 1.0),
    ]
    assert all(p and (p.num_weight_steps, p.norm_scope) == (1, "layer") for p in found)


def test_one_training_under_several_names_is_trained_once(params: Params) -> None:
    names = {
        name: {key.recipe for key in runs_of(params, "paper", name)}
        for name in ("fig1a", "fig3a", "fig3b")
    }
    assert {"at", "at-awp"} <= names["fig1a"]  # gamma 0 and 0.01
    assert "at-awp-gamma-0.01" not in names["fig1a"]
    assert "at-rwp" in names["fig3a"] & names["fig3b"]
    rows = rows_of(params, "paper", "beyond")
    corners = [row.recipe for row in rows if "Between" in row.group]
    assert len(corners) == len(set(corners)) == 8
    assert {"at-awp", "at-rwp", "at-rwp-all", "at-rwp-num_weight_steps-1"} <= set(corners)


def test_one_training_under_several_names_is_one_row_of_all_its_seeds(
    settings: dict[str, Any],
) -> None:
    demo = settings["suites"]["demo"]
    demo |= {"seeds": [0, 1, 2], "reported": [], "beyond": None}
    demo["sweeps"] = {
        "few": {"recipe": "at-awp", "vary": {"gamma": [0.01, 0.02]}, "num_seeds": 2},
        "again": {"recipe": "at-awp", "vary": {"gamma": [0.02, 0.03]}, "num_seeds": 2},
    }
    names = ["at-awp-gamma-0.01", "at-awp", "at-awp-gamma-0.02"]
    demo["keep_losses"] = True
    demo["figures"] = {
        "curves": {"kind": "curves", "recipes": names, "splits": ["test"]},
        "moved": {"kind": "movement", "recipes": names, "epoch": 3, "edges": [0.0, 1.0]},
        "searched": {"kind": "search", "sweeps": ["few", "again"]},
    }
    params = check_params(settings | {"build": ["demo"], "suites": {"demo": demo}})

    def found(name: str) -> list[tuple[str, int]]:
        return [(row.recipe, len(row.keys)) for row in rows_of(params, "demo", name)]

    assert found("curves") == found("moved") == [("at-awp", 3), ("at-awp-gamma-0.02", 2)]
    assert found("searched") == [(f"at-awp-gamma-0.0{n}", 2) for n in (1, 2, 3)]


def test_c_min_of_svhn_in_both_readings(params: Params) -> None:
    found = {
        train_spec(params, row.keys[0]).perturbation.c_min: row.recipe  # type: ignore[union-attr]
        for row in rows_of(params, "paper", "beyond")
        if row.group == "c_min on SVHN"
    }
    assert found == {2.2: "at-rwp", 1.7: "at-rwp-c_min-1.7"}


def test_the_second_reading_of_the_mask(params: Params) -> None:
    criteria = {
        row.recipe: train_spec(params, row.keys[0]).objective.criterion
        for row in rows_of(params, "paper", "beyond")
        if row.group.startswith("What the mask")
    }
    assert criteria["trades-rwp"] == criteria["rst-rwp"] == "objective"
    assert criteria["trades-rwp-ce"] == criteria["rst-rwp-ce"] == "adversarial_ce"


def test_a_sweep_may_stand_before_the_one_that_it_varies(settings: dict[str, Any]) -> None:
    demo = settings["suites"]["demo"]
    finer = {"recipe": "at-rwp-c_min-1.6", "vary": {"gamma": [0.02]}}
    longer = {"recipe": "at-rwp-c_min-1.6-gamma-0.02", "vary": {"warmup_epochs": [1]}}
    first = {"recipe": "at-rwp", "vary": {"c_min": [1.6]}}
    figure = {"kind": "sweep", "sweep": "longer", "label": "epochs"}
    for order in (
        {"longer": longer, "finer": finer, "first": first},
        {"first": first} | {"finer": finer, "longer": longer},
    ):
        demo["sweeps"], demo["figures"], demo["reported"] = order, {"own": figure}, []
        demo.pop("beyond", None)
        content = settings | {"build": ["demo"], "suites": {"demo": demo}}
        params = check_params(content)
        (row,) = sweep_rows(params, "demo", Setting(), "longer")
        spec = train_spec(params, row.keys[0])
        assert spec.perturbation is not None
        assert (spec.perturbation.gamma, spec.perturbation.c_min) == (0.02, 1.6)
        assert spec.perturbation.warmup_epochs == 1
    demo["sweeps"] = {"first": first | {"recipe": "at-rwp-c_min-1.6"}}  # of nothing else's
    with pytest.raises(UserError, match=r"sweeps\.first\.recipe: expected a recipe"):
        check_params(content)


def test_a_suite_that_extends_another(params: Params) -> None:
    demo, full = params.suites["demo"], params.suites["demo-full"]
    assert full.training.epochs != demo.training.epochs
    assert full.training.batch_size == demo.training.batch_size
    assert full.threat_models["l2"] == demo.threat_models["l2"]
    assert full.recipes.keys() == demo.recipes.keys()
    extra = {
        suite: {
            step.settings.key
            for step in below([Steps(params).report(suite)])
            if isinstance(step.settings, TrainSpec) and step.kind == "train"
        }
        - {*runs_of(params, suite, "table1"), *runs_of(params, suite, "table2")}
        for suite in ("demo", "demo-full")
    }
    assert not extra["demo"]  # its figures stand on the runs of the tables
    assert len(extra["demo-full"]) > 20


BAD: dict[str, tuple[Any, str]] = {
    "an unknown parent": (
        lambda s: s["demo-full"].update(extends="dmeo"),
        r"suites\.demo-full\.extends: expected a suite \(.*\), got 'dmeo'; check the spelling",
    ),
    "a circle": (
        lambda s: s["demo"].update(extends="demo-full"),
        r"\.extends: expected another suite, got a circle",
    ),
    "an attack to take away that is not there": (
        lambda s: s["demo-full"].update(evaluation={"attacks": {"cw-10": None}}),
        r"suites\.demo-full\.evaluation\.attacks\.cw-10: expected one that `demo` has, to take it",
    ),
    "a figure to take away that is not there": (
        lambda s: s["demo-full"].update(figures={"fig9": None}),
        r"suites\.demo-full\.figures\.fig9: expected one that `demo` has, to take it away \(",
    ),
    "a misspelled table to take away": (
        lambda s: s["demo-full"].update(tabel2=None),
        r"suites\.demo-full\.tabel2: expected a known key, got 'tabel2'; did you mean 'table2'",
    ),
    "a misspelled setting to take away": (
        lambda s: s["demo-full"].update(training={"epcohs": None}),
        r"demo-full\.training\.epcohs: expected a known key, got 'epcohs'; did you mean 'epochs'",
    ),
    "an unknown setting": (
        lambda s: s["demo"]["sweeps"]["c-min"].update(vary={"cmin": [1.0]}),
        r"expected a known key, got 'cmin'; did you mean 'c_min'",
    ),
    "no values": (
        lambda s: s["demo"]["sweeps"]["c-min"].update(vary={"c_min": []}),
        r"sweeps\.c-min\.vary\.c_min: expected values, got none",
    ),
    "a value of the wrong kind": (
        lambda s: s["demo"]["sweeps"]["c-min"].update(vary={"c_min": ["high"]}),
        r"at-rwp-c_min-high\.change\.c_min: expected number, got 'high'",
    ),
    "a range upside down": (
        lambda s: s["demo"]["sweeps"]["awp-range"].update(vary={"loss_range": [[1.0, 0.5]]}),
        r"loss_range: expected \[low, high\], got \[1\.0, 0\.5\]",
    ),
    "a sweep of nothing": (
        lambda s: s["demo"]["sweeps"]["c-min"].update(recipe="at-rpw"),
        r"sweeps\.c-min\.recipe: expected a recipe \(.*\), got 'at-rpw'",
    ),
    "a figure of an unknown sweep": (
        lambda s: s["demo"]["figures"]["fig3a"].update(sweep="cmin"),
        r"figures\.fig3a\.sweep: expected a sweep \(.*\), got 'cmin'",
    ),
    "a checkpoint after the end": (
        lambda s: s["demo"]["figures"]["fig2"].update(epochs=[17]),
        r"figures\.fig2\.epochs: expected at most the 16 epochs of a training, got 17",
    ),
    "a change without a perturbation": (
        lambda s: s["demo"]["recipes"]["at-ema"].update(change={"c_min": 1.0}),
        r"recipes\.at-ema: expected a perturbation to change c_min of, got none",
    ),
    "an unknown figure to report": (
        lambda s: s["demo"].update(reported=["fig9"]),
        r"suites\.demo\.reported: expected a figure \(.*beyond\), got 'fig9'",
    ),
    "an attack that is not there": (
        lambda s: s["demo"]["beyond"].update(attacks=["pgd-21"]),
        r"beyond\.attacks: expected an attack \(.*\), got 'pgd-21'",
    ),
    "natural networks attacked under a threat model that is not the group's": (
        lambda s: s["demo"]["beyond"]["groups"].append(
            {"title": "L2", "recipes": ["at", "natural"], "threat_model": "l2"}
        ),
        r"\(L2\)\.threat_model: expected linf with natural, .* under that of table 2, got l2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_line(name: str, settings: dict[str, Any]) -> None:
    change, message = BAD[name]
    change(settings["suites"])
    with pytest.raises(UserError, match=message):
        check_params(settings)
