"""Attacks under other norms and radii: from the settings to records, verdicts, pairs and tables."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwp.errors import UserError
from rwp.evaluation.records import pack, worst_case
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve_evaluation import attacks_under_network_threat, evaluation_spec
from rwp.pipeline.settings import Params
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import diagnosis_spec
from rwp.reporting.labels import column_label
from rwp.reporting.pairs import pairs
from rwp.reporting.report import render_report
from rwp.reporting.tables import table2

from .conftest import Project
from .settings import PARAMS

OTHERS: dict[str, Any] = {
    "pgd-l2-40": {
        **{"kind": "pgd", "num_steps": 40, "norm": "l2"},
        **{"epsilon": "0.5", "step_size": "0.05"},
    },
    "pgd-20-wide": {"kind": "pgd", "num_steps": 20, "epsilon": "16/255", "step_size": "2/255"},
    "autoattack-l1": {"kind": "autoattack", "version": "standard", "norm": "l1", "epsilon": 12},
}


def with_attacks(**attacks: Any) -> Params:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["evaluation"]["attacks"] |= attacks
    return check_params(content)


def key_of(params: Params, recipe: str = "at") -> Any:
    table = params.suites["demo"].table2
    place = {"dataset": table.dataset, "threat": table.threat_model, "seed": 0}
    return run_key(params, "demo", recipe=recipe, **place)


def test_an_attack_names_its_own_norm_and_radius() -> None:
    params = with_attacks(**OTHERS)
    attacks = {a.name: a for a in evaluation_spec(params, key_of(params)).attacks}
    threats = {name: (a.threat.norm, a.threat.radius) for name, a in attacks.items()}
    assert threats["pgd-20"] == ("linf", 8 / 255)
    assert threats["pgd-l2-40"] == ("l2", 0.5)
    assert threats["pgd-20-wide"] == ("linf", 16 / 255)
    assert threats["autoattack-l1"] == ("l1", 12)
    assert attacks["pgd-l2-40"].step == 0.05
    assert set(attacks_under_network_threat(params.suites["demo"])) == set(attacks) - set(OTHERS)


def test_nothing_else_moves() -> None:
    """Verdicts stand on the attacks under the network's own threat model; their mark stays."""
    plain, more = with_attacks(), with_attacks(**OTHERS)
    key = key_of(plain)
    assert diagnosis_spec(plain, key) == diagnosis_spec(more, key)
    judged = [Steps(params).judge(key, "best") for params in (plain, more)]
    assert judged[0].fingerprint == judged[1].fingerprint
    assert judged[0].inputs.keys() == judged[1].inputs.keys()
    records = [Steps(params).evaluate(key, "best", "pgd-20") for params in (plain, more)]
    for path in records[0].outputs:
        assert records[0].fingerprint_of(path) == records[1].fingerprint_of(path)
    assert any("pgd-l2-40" in path for path in records[1].outputs)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a norm alone": ({"norm": "l2"}, "expected an epsilon with the norm l2, got none"),
    "no step": ({"epsilon": "0.1"}, "expected a step_size for pgd with a radius of its own"),
    "pgd in L1": (
        {"norm": "l1", "epsilon": 12, "step_size": 1},
        "norm: expected linf or l2 for pgd, got l1, which AutoAttack alone searches",
    ),
    "an unknown norm": (
        {"norm": "l0", "epsilon": 1},
        "norm: expected 'linf', 'l2' or 'l1', got 'l0'",
    ),
    "pixels of 255": (
        {"norm": "linf", "epsilon": 8, "step_size": "2/255"},
        r"epsilon: expected a radius in \(0, 1\] on \[0, 1\] pixels, got 8; did you mean 8/255",
    ),
    "no radius": ({"epsilon": 0, "step_size": "0.1"}, "expected a radius above 0, got 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_line(name: str) -> None:
    change, message = BAD[name]

    def resolved() -> Any:
        params = with_attacks(mine={"kind": "pgd", "num_steps": 3} | change)
        return evaluation_spec(params, key_of(params))

    with pytest.raises(UserError, match=message):
        resolved()


@pytest.fixture
def several(tmp_path: Path) -> Project:
    """Table 2 with a second threat model, under which each defense keeps 100 other images."""
    project = Project(tmp_path, with_attacks(), "demo")
    project.write_all()
    project.params = with_attacks(**{"pgd-l2-40": OTHERS["pgd-l2-40"]})
    for recipe in (*project.params.suites["demo"].table2.recipes, "natural"):
        for key in project.table2_keys(recipe):
            bits = pack((np.arange(400) >= 150) & (np.arange(400) < 250))
            clean = pack(np.arange(400) < 380)
            changes = {"robust_bits": bits, "clean_bits": clean, "num_clean_correct": 380}
            project.write_record(key, "pgd-l2-40", 100, **changes)
    return project


def test_the_table_has_its_column_and_the_worst_case(several: Project) -> None:
    table = table2(several.results())
    row = table.frame.set_index("defense").loc["AT"]
    assert row["pgd-l2-40"] == 25
    # AutoAttack leaves the first 204 images, of which the L2 attack leaves those from 150 on
    assert row["worst_case"] == pytest.approx(100 * 54 / 400)
    assert row["verdict"] == "green"
    details = table.details[table.details["defense"] == "AT"].set_index("attack")
    assert details.loc["pgd-l2-40", ["norm", "epsilon"]].tolist() == ["l2", "0.5"]
    assert details.loc["pgd-20", ["norm", "epsilon"]].tolist() == ["linf", "8/255"]
    assert details["all_attacks"].tolist() == [100 * 204 / 400] * len(details)  # its own threat's
    assert set(details["verdict_status"]) == {"ok"}
    assert not details["warning"].any()  # it need not fool what another threat model fools
    page = render_report(several.results())
    assert "pgd-l2-40" in page
    assert re.search(r'<abbr title="[^"]*any threat model">Worst case</abbr>', page)
    assert page.count('data-label="Worst case"') == len(table.frame) + 1  # and the reference
    assert re.search(r'data-label="Worst case"[^>]*>\s*13\.50', page)


def test_pairs_compare_all_attacks_of_one_threat_model(several: Project) -> None:
    frame = pd.DataFrame(pairs(several.results()))
    at = frame[(frame["defense"] == "AT-AWP") & (frame["against"] == "AT")].set_index("attack")
    assert at.loc["pgd-l2-40", "difference"] == 0
    assert at.loc["all attacks", "difference"] == at.loc["autoattack", "difference"] != 0


def test_a_suite_of_one_threat_model_has_no_such_column(demo: Project) -> None:
    demo.write_all()
    assert "worst_case" not in table2(demo.results()).frame
    assert "Worst case" not in render_report(demo.results())


def test_the_worst_case_over_threat_models_is_asked_for(several: Project) -> None:
    (key,) = several.table2_keys("at")
    found = [row["outcome"] for row in several.results().outcomes(key)]
    with pytest.raises(UserError, match="expected one threat model"):
        worst_case(found)
    assert worst_case(found, several_threats=True).sum() == 54


def test_headings_say_the_norm_and_radius_of_an_attack_of_its_own_threat() -> None:
    suite = with_attacks(**OTHERS).suites["demo"]
    found = [column_label(suite, name) for name in ("pgd-20", "autoattack", *OTHERS)]
    assert found == [
        "PGD-20",
        "AutoAttack",
        "pgd-l2-40 (L2 0.5)",
        "pgd-20-wide (16/255)",
        "autoattack-l1 (L1 12)",
    ]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pgd-20", {"epsilon": "4/255", "step_size": "1/255"}, "call it pgd-20-other"),
        ("autoattack", {"norm": "l2", "epsilon": "0.5"}, "call it autoattack-l2"),
        ("fgsm", {"epsilon": "4/255"}, "expected another name for an attack with a radius of its"),
    ],
)
def test_the_papers_attacks_are_those_on_the_networks_own_threat(
    name: str, change: Any, message: str
) -> None:
    """A column PGD-20 beside others would show the accuracy at another radius, or norm."""
    plain = PARAMS["suites"]["demo"]["evaluation"]["attacks"][name]
    with pytest.raises(UserError, match=message):
        with_attacks(**{name: {**plain, **change}})


def test_a_name_with_a_norm_is_of_that_norm() -> None:
    linf = {"kind": "pgd", "num_steps": 7, "norm": "linf", "epsilon": "4/255", "step_size": 0.01}
    with pytest.raises(UserError, match="expected the norm l2 of an attack named pgd-l2-7, got l"):
        with_attacks(**{"pgd-l2-7": linf})
    params = with_attacks(**{"pgd-l2-7": {"kind": "pgd", "num_steps": 7}})
    with pytest.raises(UserError, match="expected the norm l2 of an attack named pgd-l2-7, got l"):
        evaluation_spec(params, key_of(params), attacks=("pgd-l2-7",))
