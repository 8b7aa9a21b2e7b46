"""Verdicts: worked out by hand; what is not the paper's setting is never called a match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rwp.evaluation.spec import PAPER_COLUMNS
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.reporting.lines import lines_of
from rwp.reporting.paper import (
    agreement,
    published_table1,
    published_table2,
    table1_beside_paper,
    table2_beside_paper,
)
from rwp.reporting.paper_settings import (
    PaperSettings,
    attack_settings,
    difference_in_table1,
    difference_in_table2,
    paper_settings,
    training_settings,
)
from rwp.reporting.published_curves import published_curve
from rwp.reporting.tables import table1, table2

from .conftest import Project
from .settings import paper_content

RESTARTED = {"pgd-20": {"kind": "pgd", "num_steps": 20, "num_restarts": 2}}


def cell(frame: pd.DataFrame, **values: str) -> pd.Series:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_one_seed_is_judged_by_the_binomial_error() -> None:
    # sqrt(0.5 * 0.5 / 10000) is half a point
    assert agreement([50.0], 49.5, num_examples=10_000).verdict == "within"
    assert agreement([50.0], 49.49, num_examples=10_000).verdict == "above"
    found = agreement([50.0], 50.6, num_examples=10_000)
    assert (found.verdict, found.difference) == ("below", pytest.approx(-0.6))
    assert found.band == pytest.approx(0.5)


def test_two_standard_deviations_over_seeds_widen_the_band() -> None:
    found = agreement([49.0, 50.0, 51.0], 51.9, num_examples=10_000)  # deviation 1.0
    assert (found.verdict, found.band) == ("within", pytest.approx(2.0))
    assert agreement([49.0, 50.0, 51.0], 52.1, num_examples=10_000).verdict == "below"


def test_the_papers_imported_rows_equal_the_logs_they_name() -> None:
    differing = []
    for place, row in published_table1().items():
        if not row["log"]:
            assert row["origin"] == "new"
            continue
        curve = 100 * published_curve(row["log"])["test_robust_accuracy"]
        if abs(curve.max() - row["best"]) > 0.006:
            differing.append(place)
        assert curve.loc[194:199].mean() == pytest.approx(row["last"], abs=0.006)
        assert row["logged"]["last"] == pytest.approx(row["last"], abs=0.006)
    assert differing == [("Linf", "AT", "CIFAR-100")]


def test_published_tables_are_the_papers() -> None:
    assert published_table1()["L2", "AT-RWP", "CIFAR-10"]["best"] == 74.47
    assert published_table2()["RST-RWP"]["aa"] == 60.36
    assert len(published_table1()) == 18
    assert len(published_table2()) == 9


def test_the_demo_is_other_data_so_nothing_is_compared(demo: Project) -> None:
    demo.write_all()
    demo.params = check_params(paper_content())
    second = table2_beside_paper(demo.results(), table2(demo.results()))
    row = cell(second, defense="AT", attack="pgd-20")
    assert (row["verdict"], row["reason"]) == ("not comparable", "other data (digits)")
    assert (row["paper"], row["ours"]) == (56.10, pytest.approx(55.0))
    first = table1_beside_paper(demo.results(), table1(demo.results()))
    assert set(first["verdict"]) == {"not comparable"}


@pytest.mark.usefixtures("small_paper")
def test_a_shorter_schedule_on_the_same_data_is_not_comparable(demo: Project) -> None:
    content = paper_content()
    content["suites"]["demo"]["table2"]["dataset"] = "cifar10"
    content["suites"]["demo"]["training"] |= {"epochs": 4, "decay_epochs": [2, 3]}
    params = check_params(content)
    project = Project(demo.root, params, "demo")
    (key,) = project.table2_keys("at")
    project.write_run(key, [0.5] * 4)
    project.write_record(key, "pgd-20", 200)
    frame = table2_beside_paper(project.results(), table2(project.results()))
    row = cell(frame, defense="AT", attack="pgd-20")
    assert row["verdict"] == "not comparable"
    assert row["reason"].startswith("other settings (optimization")


def test_the_paper_suite_is_judged_and_a_planted_number_stands_out(paper: Project) -> None:
    (key,) = paper.table2_keys("at")
    paper.write_run(key, [0.56] * 6)
    paper.write_record(key, "pgd-20", 5611, examples=10_000)
    frame = table2_beside_paper(paper.results(), table2(paper.results()))
    row = cell(frame, defense="AT", attack="pgd-20")
    assert (row["verdict"], row["paper"]) == ("within", 56.10)
    assert row["difference"] == pytest.approx(0.01)

    paper.write_record(key, "pgd-20", 6511, examples=10_000)  # someone planted nine points
    frame = table2_beside_paper(paper.results(), table2(paper.results()))
    assert cell(frame, defense="AT", attack="pgd-20")["verdict"] == "above"

    path = paper.write_record(key, "pgd-20", 5611, examples=10_000)
    record = json.loads(path.read_text()) | {"num_robust": 5911}  # or only the count
    path.write_text(json.dumps(record))
    frame = table2_beside_paper(paper.results(), table2(paper.results()))
    assert cell(frame, defense="AT", attack="pgd-20")["verdict"] == "inconsistent"
    assert cell(frame, defense="AT", attack="fgsm")["verdict"] == "missing"


def test_table1_compares_the_papers_measures_with_paper_and_log(paper: Project) -> None:
    (key,) = paper.table1_keys("at")  # CIFAR-10
    # best 52.79 as published; the last six have the published mean, 44.44
    paper.write_run(key, [0.30, 0.5279, 0.4444, 0.4544, 0.4344, 0.4444, 0.4544, 0.4344])
    frame = table1_beside_paper(paper.results(), table1(paper.results()))
    place = {"threat_model": "Linf", "method": "AT", "dataset": "CIFAR-10"}
    best = cell(frame, **place, measure="best")
    last = cell(frame, **place, measure="last")
    assert (best["verdict"], best["log"]) == ("within", pytest.approx(52.79, abs=0.006))
    assert (last["verdict"], last["ours"]) == ("within", pytest.approx(44.44))
    assert best["origin"] == "imported"
    missing = cell(frame, **(place | {"method": "AT-RWP"}), measure="best")
    assert (missing["verdict"], missing["origin"]) == ("missing", "new")
    assert pd.isna(missing["log"])


def test_rst_on_other_unlabeled_images_is_not_comparable(paper: Project) -> None:
    (key,) = paper.table2_keys("rst")
    paper.write_run(key, [0.6] * 6)
    paper.write_record(key, "pgd-20", 6260, examples=10_000)
    frame = table2_beside_paper(paper.results(), table2(paper.results()))
    row = cell(frame, defense="RST", attack="pgd-20")
    assert row["reason"] == "other unlabeled images (others)"


@pytest.mark.parametrize("changed", [{"weight": 2.0}, None])
def test_rst_with_other_shares_of_unlabeled_images_is_not_comparable(
    tmp_path: Path, changed: Any, small_paper: PaperSettings
) -> None:
    content = paper_content()
    kind = content["unlabeled"]["others"]["kind"]
    small_paper.table2["RST",]["unlabeled"]["kind"] = kind
    ours = content["suites"]["ours"] = paper_content()["suites"]["paper"]
    rst = ours["objectives"]["rst"]
    rst["unlabeled"] = changed and rst["unlabeled"] | changed
    project = Project(tmp_path, check_params(content), "ours")
    (line,) = (x for x in project.results().parts["table2"].lines if x.labels["defense"] == "RST")
    found = difference_in_table2(line, "pgd-20")
    words = "other settings (unlabeled.weight)" if changed else "other unlabeled images (none)"
    assert found == words


@pytest.mark.usefixtures("small_paper")
def test_files_that_a_training_keeps_are_no_other_setting(tmp_path: Path) -> None:
    content = paper_content()
    content["suites"]["ours"] = paper_content()["suites"]["paper"] | {"keep_losses": True}
    project = Project(tmp_path, check_params(content), "ours")
    (line,) = (x for x in project.results().parts["table2"].lines if x.labels["defense"] == "AT")
    assert not difference_in_table2(line, "pgd-20")


@pytest.mark.usefixtures("small_paper")
@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"attacks": RESTARTED}, "other settings of the attack"),
        ({"num_examples": 1000}, "another part of the test images"),
    ],
)
def test_another_evaluation_than_the_papers_is_not_comparable(
    tmp_path: Path, changed: Any, found: str
) -> None:
    content = paper_content()
    ours = content["suites"]["ours"] = paper_content()["suites"]["paper"]
    ours["evaluation"] |= changed
    project = Project(tmp_path, check_params(content), "ours")
    (line,) = (x for x in project.results().parts["table2"].lines if x.labels["defense"] == "AT")
    assert difference_in_table2(line, "pgd-20") == found


def test_a_failed_seed_decides_the_verdict(paper: Project) -> None:
    (key,) = paper.table2_keys("at")
    paper.write_run(key, [0.1] * 6, status="collapsed", reason="constant class")
    frame = table2_beside_paper(paper.results(), table2(paper.results()))
    row = cell(frame, defense="AT", attack="autoattack")
    assert (row["verdict"], row["reason"]) == ("collapsed", "seed 0: constant class")


def test_the_shipped_settings_are_those_of_the_suite(params: Params) -> None:
    """Whoever means to change what the paper's settings are changes both."""
    theirs = paper_settings()
    for table, rows in (("table1", theirs.table1), ("table2", theirs.table2)):
        lines = list(lines_of(params, "paper", table))
        ours = {tuple(line.labels.values()): training_settings(line.training) for line in lines}
        assert ours == rows
    assert set(theirs.table1) == set(published_table1())
    assert set(theirs.table2) == {(name,) for name in published_table2()}
    for line in lines:
        attacked = {name: line.attacked[name] for name in PAPER_COLUMNS}
        assert theirs.attacks == {n: attack_settings(s.attacks[0]) for n, s in attacked.items()}
        assert {(s.num_examples, s.first_examples) for s in attacked.values()} == {(None, None)}


def differences(content: dict[str, Any], suite: str) -> dict[str, set[str]]:
    """How each row of a suite differs from the paper's, by its label."""
    params, found = check_params(content), {}
    for line in lines_of(params, suite, "table1"):
        found[" ".join(line.labels.values())] = {difference_in_table1(line)}
    for line in lines_of(params, suite, "table2"):
        names = PAPER_COLUMNS.keys() & line.attacked
        found[line.labels["defense"]] = {difference_in_table2(line, name) for name in names}
    return found


SHORTER = {"epochs": 30, "decay_epochs": [15, 22], "attack_num_steps": 3}


@pytest.mark.parametrize("suite", ["paper", "mine"])
def test_an_edited_suite_is_not_the_paper_whatever_its_name(
    settings: dict[str, Any], suite: str
) -> None:
    suites = settings["suites"]
    suites["mine"] = {"extends": "paper"}
    if suite == "mine":  # the same settings under another name are the paper's
        assert set().union(*differences(settings, "mine").values()) == {""}
    theirs = {"figures": {"fig2": {"epochs": [15, 30]}}} if suite == "mine" else {}
    suites["paper"]["figures"]["fig2"]["epochs"] = [15, 30]
    suites[suite] |= theirs | {"training": suites[suite].get("training", {}) | SHORTER}
    found = differences(settings, suite)
    assert len(found) == 27
    assert set().union(*found.values()) == {"other settings (attack, optimization)"}


def test_the_papers_settings_under_another_name_are_compared_without_its_suite(
    settings: dict[str, Any],
) -> None:
    suites = settings["suites"]
    suites["mine"] = suites.pop("paper")
    assert set().union(*differences(settings, "mine").values()) == {""}
    suites["mine"]["evaluation"]["num_examples"] = 1000
    found = differences(settings, "mine")
    assert found["AT-RWP"] == {"another part of the test images"}
    assert found["Linf AT-RWP CIFAR-10"] == {""}  # which training measures itself


def test_without_the_papers_suite_other_data_is_still_called_so(demo: Project) -> None:
    demo.write_all()
    frame = table2_beside_paper(demo.results(), table2(demo.results()))
    assert set(frame["verdict"]) == {"not comparable"}
    assert set(frame["reason"]) == {"other data (digits)", "the paper has no such row"}
