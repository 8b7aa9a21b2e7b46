"""Bad settings: one line that names the key, what was expected, what was found, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwp.errors import UserError
from rwp.pipeline.load import check_params, load_params
from rwp.pipeline.resolve import run_key, train_spec

Change = Callable[[dict[str, Any]], Any]


def demo(settings: dict[str, Any]) -> dict[str, Any]:
    return settings["suites"]["demo"]


CASES: dict[str, tuple[Change, str]] = {
    "epsilon of 8": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon=8),
        r"threat_models\.linf\.epsilon.*expected a radius in \(0, 1\] on \[0, 1\] pixels, got 8;"
        r" did you mean 8/255\?",
    ),
    "epsilon is a word": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon="big"),
        r"expected a radius such as 8/255, got 'big'",
    ),
    "a learning rate that is no number": (
        lambda s: demo(s)["training"].update(learning_rate=float("nan")),
        r"training\.learning_rate.*expected a finite number, got nan",
    ),
    "an infinite gamma": (
        lambda s: demo(s)["perturbations"]["awp"].update(gamma=float("inf")),
        r"perturbations\.awp\.gamma.*expected a finite number, got inf",
    ),
    "a number of 400 digits": (
        lambda s: demo(s)["training"].update(epochs=-(10**400)),
        r"training\.epochs.*expected ",
    ),
    "a radius of 400 digits": (
        lambda s: demo(s)["threat_models"]["linf"].update(epsilon="1e400"),
        r"threat_models\.linf\.epsilon.*expected a radius such as 8/255, got '1e400'",
    ),
    "PGD of no steps": (
        lambda s: demo(s)["evaluation"]["attacks"]["pgd-20"].pop("num_steps"),
        r"evaluation\.attacks\.pgd-20: expected num_steps for pgd, got none; add num_steps",
    ),
    "negative epochs": (
        lambda s: demo(s)["training"].update(epochs=-1),
        r"training\.epochs.*expected a number above 0, got -1",
    ),
    "epochs as text": (
        lambda s: demo(s)["training"].update(epochs="ten"),
        r"training\.epochs.*expected integer, got 'ten'",
    ),
    "misspelt key": (
        lambda s: demo(s).update(trian=1),
        r"suites\.demo\.trian: expected a known key, got 'trian'; did you mean 'train",
    ),
    "misspelt key of a needed one": (
        lambda s: demo(s).update(seds=demo(s).pop("seeds")),
        r"suites\.demo\.seds: expected a known key, got 'seds'; did you mean 'seeds'",
    ),
    "missing key": (
        lambda s: demo(s).pop("seeds"),
        r"suites\.demo\.seeds: expected a value, got none; add it",
    ),
    "unknown suite to build": (
        lambda s: s.update(build=["dmeo"]),
        r"build: expected a suite \(demo, demo-full, quick, paper\), got 'dmeo'; check the",
    ),
    "unknown objective": (
        lambda s: demo(s)["recipes"]["at"].update(objective="att"),
        r"recipes\.at\.objective: expected an objective .*got 'att'",
    ),
    "unknown data set in a table": (
        lambda s: demo(s)["table2"].update(dataset="mnist"),
        r"table2: expected a data set .*got 'mnist'",
    ),
    "setting for nothing that exists": (
        lambda s: demo(s)["perturbations"]["rwp"].update(c_min={"digts": 1.7}),
        r"perturbations\.rwp\.c_min: expected a data set, threat model.*got 'digts'",
    ),
    "a name that is a command": (
        lambda s: demo(s)["recipes"].update({"x; rm -rf": {"objective": "at"}}),
        r"expected a name of lower-case letters.*got 'x; rm -rf'",
    ),
    "beta missing": (
        lambda s: demo(s)["objectives"]["trades"].pop("beta"),
        r"objectives\.trades: expected beta with the losses trades and mart",
    ),
    "RST without an unlabeled source": (
        lambda s: s["unlabeled"].pop("digits-holdout"),
        r"objectives\.rst\.unlabeled\.source: expected an unlabeled source .*got 'digits-holdout'",
    ),
    "holdout of a data set without one": (
        lambda s: s["datasets"]["digits"].pop("unlabeled_share"),
        r"unlabeled\.digits-holdout\.dataset: expected a data set with an unlabeled_share",
    ),
    "held-out selection without a held-out split": (
        lambda s: demo(s).update(held_out_fraction=0),
        r"selection held_out: expected a held_out_fraction above 0, got 0",
    ),
    "two ways to take a part": (
        lambda s: demo(s)["evaluation"].update(num_examples=40, first_examples=40),
        r"evaluation: expected num_examples \(stratified\) or first_examples .*got both",
    ),
    "the same seed twice": (
        lambda s: demo(s).update(seeds=[0, 0]),
        r"seeds: expected distinct seeds, got \[0, 0\]",
    ),
    "wide network of an impossible depth": (
        lambda s: s["networks"]["wrn-28-10"].update(depth=29),
        r"networks\.wrn-28-10.*expected a depth of 6n \+ 4, got 29",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_one_clear_line(name: str, settings: dict[str, Any]) -> None:
    change, message = CASES[name]
    change(settings)
    with pytest.raises(UserError) as caught:
        check_params(settings)
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    assert text.startswith("params.yaml: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("build: [demo\n", r"expected YAML, got .* at line \d+"),
        ("just words", r"expected a table of settings, got str"),
        ("a: 2020-01-01", r"expected numbers, texts, lists and tables"),
        ("\x00\x01", r"expected YAML"),
        ("a: 2022-13-45", r"expected YAML, got month must be in 1\.\.12"),
        ("a: 1\nb: {c: 2, c: 3}", "expected YAML, got the key 'c' twice at line 2"),
        ("a: &a [*a]", r"expected numbers, texts, lists and tables"),
        ("[" * 20_000, r"expected (YAML|a table)"),
    ],
)
def test_file_that_is_no_settings_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_params(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the settings file, found none; run from the"):
        load_params(tmp_path / "params.yaml")


def test_rwp_without_c_min_for_a_data_set(settings: dict[str, Any]) -> None:
    settings["suites"]["paper"]["perturbations"]["rwp"]["c_min"] = {"cifar10": 1.7, "svhn": 2.2}
    params = check_params(settings)
    key = run_key(params, "paper", recipe="at-rwp", dataset="cifar100", threat="linf", seed=0)
    message = r"suites\.paper\.perturbations\.rwp\.c_min: expected a value for cifar100/"
    with pytest.raises(UserError, match=message):
        train_spec(params, key)


def test_two_settings_that_contradict_each_other(settings: dict[str, Any]) -> None:
    settings["suites"]["demo"]["training"]["learning_rate"] = {"digits": 0.1, "at": 0.2}
    params = check_params(settings)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    with pytest.raises(UserError, match=r"expected one value, got digits and at which both fit"):
        train_spec(params, key)


def test_unknown_names_on_a_command_line(params: Any) -> None:
    place = {"recipe": "at", "dataset": "digits", "threat": "linf", "seed": 0}
    for wrong, message in (
        ({"recipe": "at-rpw"}, r"expected a recipe \(natural, at,.*got 'at-rpw'"),
        ({"dataset": "digit"}, r"expected a data set .*got 'digit'"),
        ({"threat": "l3"}, r"expected a threat model \(linf, l2\), got 'l3'"),
    ):
        with pytest.raises(UserError, match=message):
            run_key(params, "demo", **(place | wrong))
    with pytest.raises(
        UserError, match=r"expected a suite \(demo, demo-full, quick, paper\), got 'papr'"
    ):
        run_key(params, "papr", **place)
