"""A change in params.yaml changes exactly the fingerprints of what depends on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.pipeline.state import results
from rwp.pipeline.steps import Steps, below
from rwp.pipeline.suites import diagnosis_spec, rows_of, runs_of


def demo(content: dict[str, Any]) -> dict[str, Any]:
    return content["suites"]["demo"]


def expected(params: Params, suite: str) -> dict[str, str]:
    found = results(below([Steps(params).report(suite)]))
    return {result.path: result.fingerprint for result in found}


def fingerprints(content: dict[str, Any]) -> dict[str, str]:
    params = check_params(content)
    found = expected(params, "demo")
    steps = Steps(params)
    shown = {name: steps.table("demo", name) for name in ("table1", "table2")}
    shown["report"] = steps.report("demo")
    return found | {name: step.fingerprint for name, step in shown.items()}


def recipes_of(paths: set[str]) -> set[str]:
    return {path.split("/")[6] for path in paths if "/runs/" in path}


CASES: dict[str, tuple[Callable[[dict[str, Any]], Any], set[str], set[str]]] = {
    # change, recipes whose trainings change, recipes whose records or verdict alone change
    "c_min": (
        lambda s: demo(s)["perturbations"]["rwp"].update(c_min={"digits": 1.5}),
        {"at-rwp", "trades-rwp", "rst-rwp"},
        set(),
    ),
    "gamma of AWP for TRADES": (
        lambda s: demo(s)["perturbations"]["awp"]["gamma"].update(trades=0.006),
        {"trades-awp"},
        set(),
    ),
    "restarts of PGD-20": (
        lambda s: demo(s)["evaluation"]["attacks"]["pgd-20"].update(num_restarts=2),
        set(),
        {"natural", "at", "at-awp", "at-rwp", "trades", "trades-awp", "trades-rwp"}
        | {"rst", "rst-awp", "rst-rwp"},
    ),
    "the teacher's weight decay": (
        lambda s: demo(s)["training"].update(weight_decay={"default": 0.0005, "natural": 0.0}),
        {"natural", "rst", "rst-awp", "rst-rwp"},
        set(),
    ),
    "AT's weight decay": (  # TRADES and RST borrow images of AT where a verdict is in doubt
        lambda s: demo(s)["training"].update(weight_decay={"default": 0.0005, "at": 0.0}),
        {"at", "at-awp", "at-rwp"},
        {"trades", "trades-awp", "trades-rwp", "rst", "rst-awp", "rst-rwp"},
    ),
    "another suite": (
        lambda s: s["suites"]["paper"]["training"].update(epochs=201),
        set(),
        set(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_exactly_what_depends_on_a_change(name: str, committed: dict[str, Any]) -> None:
    change, retrained, measured_again = CASES[name]
    content = copy.deepcopy(committed)
    before = fingerprints(content)
    change(content)
    after = fingerprints(content)
    assert before.keys() == after.keys()
    different = {path for path in after if before[path] != after[path]}
    assert recipes_of({path for path in different if path.endswith("run.json")}) == retrained
    records = recipes_of({path for path in different if "/evaluation/" in path})
    assert records == retrained | measured_again
    changed_tables = {"table2", "report"} if retrained or measured_again else set()
    assert changed_tables <= different
    assert ("table1" in different) == bool(retrained & {"at", "at-awp", "at-rwp"})


def test_a_new_seed_adds_and_changes_no_run(settings: dict[str, Any]) -> None:
    before = fingerprints(settings)
    demo(settings)["seeds"] = [0, 1]
    after = fingerprints(settings)
    runs = {path for path in before if path.endswith(".json")}
    assert all(after[path] == before[path] for path in runs)
    assert len(after) > len(before)


def test_the_papers_plan_counts_each_training_once_the_teacher_among_them(params: Params) -> None:
    runs = [path for path in expected(params, "paper") if path.endswith("run.json")]
    assert len(runs) == len(set(runs)) == 28 + 46  # both tables; figures and what goes beyond
    assert sum("/natural/" in path for path in runs) == 1


def test_the_twin_is_plain_at_of_the_same_place(params: Params) -> None:
    def twin(suite: str, recipe: str) -> str | None:
        runs = runs_of(params, suite, "table2")
        found = diagnosis_spec(params, next(key for key in runs if key.recipe == recipe)).twin
        return found and found.name

    at = "demo/digits/linf/small/at/seed0"
    assert twin("demo", "trades-rwp") == twin("demo", "rst") == twin("demo", "at-awp") == at
    assert twin("demo", "at") is None
    assert twin("demo", "natural") is None
    assert twin("paper", "trades") == "paper/cifar10/linf/wrn-34-10/at/seed0"
    assert twin("paper", "rst") is None  # another network


def test_a_variant_of_at_is_no_twin_and_has_one(settings: dict[str, Any]) -> None:
    demo = settings["suites"]["demo"]
    variants = {
        "averaged": {"average_decay": 0.99},
        "removed": {"change": {"remove_below": 0.5}},
        "slow": {"attack_num_steps": 20},
        "smooth": {"objective": "smooth"},
    }
    demo["objectives"]["smooth"] = {"loss": "at", "label_smoothing": 0.1}
    for name, settings_of in variants.items():
        demo["recipes"][name] = {"objective": "at"} | settings_of
    demo["table2"]["recipes"] = [*variants, *demo["table2"]["recipes"]]
    params = check_params(settings)
    twins = {
        key.recipe: diagnosis_spec(params, key).twin for key in runs_of(params, "demo", "table2")
    }
    assert twins["at"] is None
    assert {twins[name].recipe for name in (*variants, "at-awp")} == {"at"}


def test_the_twin_is_trained_alike_where_there_is_one(settings: dict[str, Any]) -> None:
    demo = settings["suites"]["demo"]
    decay = {"change": {"weight_decay": 0.001}}
    demo["recipes"]["at-rwp"] |= {"change": {"weight_decay": 0.001, "gamma": 0.02}}
    demo["recipes"]["at-decay"] = {"objective": "at"} | decay
    demo["table2"]["recipes"] = ["at", "at-decay", "at-rwp"]
    params = check_params(settings)
    twins = {
        key.recipe: diagnosis_spec(params, key).twin for key in runs_of(params, "demo", "table2")
    }
    assert twins["at-rwp"].recipe == "at-decay"
    assert twins["at-decay"].recipe == "at"
    demo["recipes"]["at"] |= decay  # all of them: the first is as good
    demo["table2"]["recipes"] = ["at", "at-rwp"]
    params = check_params(settings)
    keys = {key.recipe: key for key in runs_of(params, "demo", "table2")}
    assert diagnosis_spec(params, keys["at-rwp"]).twin == keys["at"]


def test_a_training_that_a_group_names_twice_is_of_all_its_seeds(settings: dict[str, Any]) -> None:
    demo = settings["suites"]["demo"]
    demo["seeds"] = [0, 1, 2]
    demo["sweeps"]["few"] = {"recipe": "at-rwp", "vary": {"gamma": [0.01, 0.02]}, "num_seeds": 1}
    demo["beyond"]["groups"] = [
        {"title": "mine", "recipes": ["at-rwp"], "sweeps": ["few"]},
    ]
    rows = rows_of(check_params(settings), "demo", "beyond")
    assert {row.recipe: len(row.keys) for row in rows}["at-rwp"] == 3


def test_each_autoattack_has_a_job_of_its_own(settings: dict[str, Any]) -> None:
    """One that is added takes no finished one away, and the time of one is enough."""
    attacks = settings["suites"]["demo"]["evaluation"]["attacks"]
    attacks["autoattack-l1"] = {"kind": "autoattack", "norm": "l1", "epsilon": 1}
    steps = Steps(check_params(settings))
    key = runs_of(steps.params, "demo", "table2")[0]
    jobs = [steps.evaluate(key, "best", name) for name in attacks]
    made = {tuple(path.rpartition("/")[2] for path in job.outputs) for job in jobs}
    cheap = tuple(f"{name}.json" for name in attacks if not name.startswith("autoattack"))
    assert made == {cheap, ("autoattack.json",), ("autoattack-l1.json",)}
