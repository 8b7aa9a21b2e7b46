"""Claims are worded so that they can fail, judged over seeds and images, and never moved."""

from __future__ import annotations

import copy
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rwp.commands import claims as command
from rwp.errors import UserError
from rwp.evaluation.statistics import crossed_difference, crossed_mean, interval
from rwp.files import read_object
from rwp.pipeline.load import check_params, load_params
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import landscape_spec
from rwp.pipeline.settings import Params
from rwp.reporting.claim_verdicts import (
    _judged,
    judge_claims,
    numbers,
    sentence,
    told,
    write_claims,
)
from rwp.reporting.claims import FILE, Claim, checked_claims, moved, parse, read_claims
from rwp.reporting.figures import write_suite_figure
from rwp.reporting.report import render_report
from rwp.reporting.results import records
from rwp.reporting.runs import Run
from rwp.strict_yaml import read_yaml
from tests.conftest import ROOT

from .conftest import Project
from .settings import PARAMS, shown_content
from .test_pairs import write_flags

WON = {"says": "RWP beats AT", "terms": {"at-rwp best autoattack": 1, "at best autoattack": -1}}


def seeded(root: Path, num_seeds: int, suite: str = "demo") -> Project:
    content = copy.deepcopy(PARAMS)
    content["suites"][suite]["seeds"] = list(range(num_seeds))
    return Project(root, check_params(content), suite)


def judged(project: Project, **entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = checked_claims(entries, where="claims.yaml")
    frame = judge_claims(project.params, project.suite, found, root=project.root)
    return {row["claim"]: row for row in records(frame)}


def outcomes(share: float, seed: int, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


def played(root: Path, num_seeds: int = 4, lead: float = 0.2) -> Project:
    """AT and AT-RWP on as many seeds, the second right on `lead` more of the images."""
    project = seeded(root, num_seeds)
    for place in range(num_seeds):
        for recipe, share in (("at", 0.4), ("at-rwp", 0.4 + lead)):
            project.write_run(project.table2_keys(recipe)[place], [0.2, 0.4, 0.3])
            write_flags(project, recipe, outcomes(share, place), seed=place)
    return project


def test_a_lead_holds_its_opposite_does_not_and_a_small_one_is_not_told(tmp_path: Path) -> None:
    found = judged(
        played(tmp_path),
        won=WON | {"above": 0},
        lost=WON | {"below": 0},
        same=WON | {"within": 1},
        alike=WON | {"within": 40},
        close=WON | {"above": 20},
    )
    assert {name: row["outcome"] for name, row in found.items()} == {
        "won": "holds",
        "lost": "does not hold",
        "same": "does not hold",
        "alike": "holds",
        "close": "not told",
    }
    assert found["won"]["estimate"] == pytest.approx(20, abs=3)
    assert (found["won"]["seeds"], found["won"]["images"], found["won"]["num_tests"]) == (4, 400, 5)
    assert found["won"]["low"] > 0
    told = sentence(found["close"])
    assert told == f"not told; 4 seeds could tell {found['close']['detectable']:.1f} points"
    assert "wanted above 0 points; 4 seeds" in numbers(found["won"])


def test_where_nothing_varies_no_interval_is_told(tmp_path: Path) -> None:
    """Two recipes of the same settings agree to the bit, which is no proof of what others do."""
    row = judged(played(tmp_path, 3, lead=0.0), same=WON | {"within": 1})["same"]
    assert (row["outcome"], row["estimate"]) == ("not told", 0.0)
    assert (row["low"], row["high"], row["detectable"]) == (None, None, None)
    assert sentence(row) == "not told: nothing varies between seeds and images"
    assert numbers(row) == "+0.00; wanted within 1 points; 3 seeds"


LEADS = (0.2, 2.2, 0.2, 2.2, 0.2, 2.2, 1.2, 1.2)


def close_race(root: Path) -> tuple[Project, dict[str, Any]]:
    """Eight seeds of AT and AT-RWP, the second ahead by so many points, and a claim about it."""
    project = seeded(root, len(LEADS))
    for place, lead in enumerate(LEADS):
        for recipe, share in (("at", 0.4), ("at-rwp", 0.4 + lead / 100)):
            project.write_run(project.table2_keys(recipe)[place], [0.2, share])
    terms = {"at-rwp test_robust_accuracy 1:2": 1, "at test_robust_accuracy 1:2": -1}
    return project, {"says": "as good", "terms": terms}


def test_what_holds_alone_may_be_one_of_several_by_chance(tmp_path: Path) -> None:
    project, ahead = close_race(tmp_path)
    alone = judged(project, first=ahead | {"above": 0.4})["first"]
    assert (alone["outcome"], alone["p_holm"]) == ("holds", alone["p_value"])
    assert 0.05 / 3 < alone["p_value"] < 0.05
    several = {name: ahead | {"above": 0.4} for name in ("first", "second", "third")}
    assert {row["outcome"] for row in judged(project, **several).values()} == {"not told"}


def test_outside_of_both_ends_the_nearer_one_decides(tmp_path: Path) -> None:
    """A lead of 1.2 points, known to a point, is no lead of more than 1, however far -1 is."""
    project, same = close_race(tmp_path)
    found = judged(project, close=same | {"within": 1}, far=same | {"within": 0.1})
    assert found["close"]["estimate"] == pytest.approx(1.2)
    assert found["close"]["outcome"] == "not told"
    assert found["close"]["p_value"] == pytest.approx(stats.ttest_1samp(LEADS, 1.0).pvalue)
    assert found["far"]["outcome"] == "does not hold"


def test_a_record_of_another_network_judges_nothing(tmp_path: Path) -> None:
    project = played(tmp_path)
    best = project.root / project.table2_keys("at")[1].directory / "best.pt"
    best.write_bytes(b"trained again since")
    row = judged(project, won=WON | {"above": 0})["won"]
    assert (row["outcome"], row["estimate"]) == ("missing", None)
    assert row["reason"].endswith("autoattack.json: made with another file than best.pt")


def test_a_red_verdict_is_told_beside_the_claim(tmp_path: Path) -> None:
    project = played(tmp_path)
    key = project.table2_keys("at-rwp")[2]
    for name in project.params.suites["demo"].evaluation.attacks:
        if name != "autoattack":
            project.write_record(key, name, 300)
    project.write_diagnosis(key, "red")
    clean = {"says": "x", "terms": {"at best natural": 1, "at-rwp best natural": -1}, "within": 90}
    found = judged(project, won=WON | {"above": 0}, clean=clean)
    assert sentence(found["won"]) == "holds: but at-rwp: the verdict on it is red"
    assert "red" not in sentence(found["clean"])
    warning = "the model answers differently each time"
    write_flags(project, "at", outcomes(0.4, 1), seed=1, warnings=[warning])
    assert sentence(judged(project, won=WON | {"above": 0})["won"]).endswith(
        "it answers differently each time"
    )


def test_the_interval_is_that_of_seeds_crossed_with_images(tmp_path: Path) -> None:
    row = judged(played(tmp_path), won=WON | {"above": 0})["won"]
    ours = [outcomes(0.6, seed) for seed in range(4)]
    over = crossed_difference(ours, [outcomes(0.4, seed) for seed in range(4)])
    assert (row["low"], row["high"]) == pytest.approx((100 * over.low, 100 * over.high))
    assert row["p_value"] == pytest.approx(over.p_value)


def test_one_column_is_students_interval() -> None:
    values = np.array([[1.0], [2.0], [4.0], [3.5]])
    found = crossed_mean(values)
    expected = stats.ttest_1samp(values[:, 0], 0.5)
    assert found.p_value(0.5) == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


@pytest.mark.parametrize("shape", [(3, 1), (3, 7), (6, 1)])
def test_values_that_are_all_equal_prove_nothing_whatever_their_last_bit(shape: Any) -> None:
    """The mean of three times 57.14 is 57.14000000000001, which is no spread."""
    for value in (57.14, 0.1, 1 / 3, -2.7, 0.0):
        found = crossed_mean(np.full(shape, value))
        assert found.p_value(0.0) == 1.0
        assert found.standard_error == 0
    little = crossed_mean(57.14 + np.array([[0.0], [1e-6], [2e-6]]))
    assert 0 < little.standard_error < 1e-6


def test_intervals_of_three_and_ten_seeds_cover_what_they_say() -> None:
    """A percentile bootstrap of three seeds would cover about 80 of 100."""
    rng = np.random.default_rng(0)
    for num_seeds in (3, 10):
        hits = 0
        for _ in range(400):
            seeds, images = rng.normal(0, 1, (num_seeds, 1)), rng.normal(0, 8, (1, 60))
            found = crossed_mean(seeds + images + rng.normal(0, 8, (num_seeds, 60)))
            hits += found.low <= 0 <= found.high
        assert hits / 400 > 0.92


def test_what_could_be_told_is_told_in_four_of_five_cases() -> None:
    rng = np.random.default_rng(1)
    found = crossed_mean(rng.normal(0, 1, (10, 1)))
    distance = found.detectable_difference(0.8)
    told = [
        crossed_mean(rng.normal(distance / found.standard_error / 10**0.5, 1, (10, 1))).low > 0
        for _ in range(1000)
    ]
    assert np.mean(told) == pytest.approx(0.8, abs=0.06)


@pytest.mark.parametrize("place", [0, 1])
def test_seeds_on_other_images_make_no_claim(tmp_path: Path, place: int) -> None:
    """As many images, but others: a mean over seeds, image by image, would be of nothing."""
    project = played(tmp_path, 3)
    for recipe, share in (("at", 0.4), ("at-rwp", 0.6))[place:]:
        write_flags(project, recipe, outcomes(share, 1), seed=1, data_sha256="2" * 64)
    with pytest.raises(UserError, match="expected outcomes of the same images, got others under"):
        judged(project, won=WON | {"above": 0})


def test_a_record_of_fewer_images_makes_no_claim(tmp_path: Path) -> None:
    project = played(tmp_path, 2)
    write_flags(project, "at", outcomes(0.4, 1)[:200], seed=1, examples=200)
    with pytest.raises(UserError, match="expected outcomes of the same images, got others under"):
        judged(project, won=WON | {"above": 0})


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"at best pgd-20": 1, "at  best pgd-20": -1}, "expected each term once, got one in two"),
        ({"at best pgd-20": 0}, "expected weights other than 0, of at most 1,000,000, got 0"),
        ({"at best pgd-20": 1e308}, "expected weights other than 0, of at most 1,000,000"),
        ({"at best pgd-20": 10**400}, "expected weights .* got one of 401 digits"),
        ({"at best_epoch >=1": -1}, "expected best_epoch alone, with weight 1, .* got weights -1"),
        (
            {"at best_epoch >=1": 1, "at-awp best_epoch >=1": -1},
            "expected best_epoch alone, with weight 1, .* got weights 1, -1",
        ),
    ],
)
def test_terms_that_would_drop_out_in_silence_are_refused(
    terms: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        checked_claims({"won": {"says": "x", "terms": terms, "above": 0}}, where="claims.yaml")


def test_accuracies_that_are_measured_in_different_ways_make_no_claim(tmp_path: Path) -> None:
    """The curve of one is under a harder attack: a difference would be of the attacks."""
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["seeds"] = [0, 1]
    suite["recipes"]["at-rwp"] |= {
        "change": {"monitor_random_start": "none", "monitor_keep": "worst"}
    }
    project = Project(tmp_path, check_params(content), "demo")
    for seed in range(2):
        for recipe in ("at", "at-rwp"):
            project.write_run(project.table2_keys(recipe)[seed], [0.2, 0.4 + 0.01 * seed, 0.3])
    terms = {"at-rwp test_robust_accuracy -1:": 1, "at test_robust_accuracy -1:": -1}
    row = judged(project, won={"says": "x", "terms": terms, "above": 0})["won"]
    assert (row["outcome"], row["estimate"]) == ("not told", None)
    assert sentence(row) == (
        "not told: at is measured otherwise than at-rwp: random start uniform, keep last"
    )
    alone = {"at-rwp test_robust_accuracy -1:": 1, "at-rwp test_robust_accuracy 0:1": -1}
    row = judged(project, fell={"says": "x", "terms": alone, "above": 0})["fell"]
    assert row["estimate"] is not None
    page = render_report(project.results())
    words = "and counts its last image. Measured otherwise: "
    assert f"{words}AT-RWP (random start none, keep worst)." in page
    assert words not in render_report(played(tmp_path / "p").results())


def test_one_seed_tells_nothing(tmp_path: Path) -> None:
    row = judged(played(tmp_path, 1), won=WON | {"above": 0})["won"]
    assert row["outcome"] == "not told"
    assert row["p_value"] is None
    assert row["estimate"] == pytest.approx(20, abs=6)
    assert sentence(row) == "not told: one training seed: how far seeds spread is not known"


def test_holm_counts_all_claims_of_the_page(tmp_path: Path) -> None:
    project = played(tmp_path, 3, lead=0.07)
    alone = judged(project, won=WON | {"above": 0})["won"]
    many = judged(project, **{f"c{i}": WON | {"above": 0} for i in range(9)})["c0"]
    assert many["p_value"] == alone["p_value"]
    assert many["p_holm"] == pytest.approx(min(1, 9 * alone["p_value"]))


def test_claims_whose_runs_are_missing_count_as_tests(tmp_path: Path) -> None:
    """Nothing told is taken back as runs of other claims arrive; a premise is none of the tests."""
    project = played(tmp_path, 3, lead=0.07)
    later = {"says": "x", "terms": {"at-awp best autoattack": 1}, "above": 0}
    found = judged(
        project,
        won=WON | {"above": 0},
        first=later,
        second=later,
        other=WON | {"above": 0, "only": ["mini"]},
        chosen=WON | {"above": 0, "premise": True},
    )
    assert found["first"]["outcome"] == "missing"
    assert found["won"]["p_holm"] == pytest.approx(3 * found["won"]["p_value"])
    assert [found[name]["num_tests"] for name in ("won", "chosen")] == [3, 1]
    assert found["chosen"]["p_holm"] == found["chosen"]["p_value"] == found["won"]["p_value"]


def test_what_could_be_told_is_told_after_the_correction(tmp_path: Path) -> None:
    project = played(tmp_path, 4, lead=0.07)
    alone = judged(project, won=WON | {"above": 6})["won"]
    again = {
        f"c{i}": {"says": "x", "terms": {"at-awp best natural": 1}, "above": 0} for i in range(9)
    }
    among = judged(project, won=WON | {"above": 6}, **again)["won"]
    assert alone["outcome"] == among["outcome"] == "not told"
    differences = [outcomes(0.47, seed).astype(float) - outcomes(0.4, seed) for seed in range(4)]
    found = crossed_mean(100 * np.stack(differences))
    assert alone["detectable"] == pytest.approx(found.detectable_difference(0.8))
    assert among["detectable"] == pytest.approx(
        found.detectable_difference(0.8, confidence=1 - 0.05 / 10)
    )


def test_what_could_be_told_does_not_hang_on_the_place_of_the_claim(tmp_path: Path) -> None:
    """One that lay as far from its margin would come next after those told, whatever p it has."""
    project = played(tmp_path, 4, lead=0.07)
    told = WON | {"above": -60}
    found = judged(project, first=told, near=WON | {"above": 7}, far=WON | {"above": 5})
    assert [found[name]["outcome"] for name in ("first", "near", "far")] == [
        "holds",
        *2 * ["not told"],
    ]
    assert found["near"]["p_holm"] != found["far"]["p_holm"]
    assert found["near"]["detectable"] == found["far"]["detectable"]
    alone = judged(project, near=WON | {"above": 7}, far=WON | {"above": 5})
    assert alone["near"]["detectable"] == found["near"]["detectable"]  # what is told left the page


def test_too_few_seeds_for_sameness_say_so(tmp_path: Path) -> None:
    project = played(tmp_path, 3, lead=0.02)
    row = judged(project, alike=WON | {"within": 1})["alike"]
    assert row["outcome"] == "not told"
    assert row["detectable"] > 1
    expected = (
        f"3 seeds could tell differences of {row['detectable'] + 1:.1f} points, "
        "but no sameness within 1"
    )
    assert sentence(row) == f"not told; {expected}"
    wide = judged(project, alike=WON | {"within": 90})["alike"]
    assert "sameness" not in sentence(wide | {"outcome": "not told"})


def test_a_mistyped_column_shows_with_the_first_run(tmp_path: Path) -> None:
    project = seeded(tmp_path, 2)
    project.write_run(project.table2_keys("at")[0], [0.2, 0.4])
    for term in ("at loss_risee -1:",):
        with pytest.raises(
            UserError, match=r"at/seed0: expected .* (correct the claim|its history)"
        ):
            judged(project, x={"says": "x", "terms": {term: 1}, "above": 0})


@pytest.mark.parametrize(
    "term",
    [
        "at test_robust_accuracy 0:9",
        "at best_epoch >=8",
        "at x 9:",
        "at x 8:",
        "at x -2:2",
    ],
)
def test_epochs_that_a_suite_does_not_have_are_of_another_suite(tmp_path: Path, term: str) -> None:
    """Claims are shared by suites of other lengths; one that does not fit stops no page."""
    project = seeded(tmp_path, 2)
    project.write_run(project.table2_keys("at")[0], [0.2, 0.4])
    row = judged(project, x={"says": "x", "terms": {term: 1}, "above": 0})["x"]
    how = term.split()[-1]
    reason = f"no epochs {how} of at, which has 8, here"
    assert (row["outcome"], row["reason"]) == ("of another suite", reason)


def test_the_committed_claims_are_judged_on_the_demo(tmp_path: Path) -> None:
    """As `make demo` does, with the demo's trainings there and those of its sweeps not."""
    project = Project(tmp_path, load_params(ROOT / "params.yaml"), "demo")
    for recipe in ("at", "at-awp", "at-rwp"):
        (key,) = project.table2_keys(recipe)
        epochs = train_spec(project.params, key).optimization.epochs
        path = project.write_run(key, [0.2] * epochs) / "history.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        more = {"weight_steps": 5.0, "loss_rise": 0.1}
        path.write_text("".join(f"{json.dumps(row | more)}\n" for row in rows))
    frame = judge_claims(project.params, "demo", read_claims(ROOT / "claims.yaml"), root=tmp_path)
    assert {"missing", "of another suite"} <= set(frame["outcome"])


def test_a_value_that_is_not_finite_tells_nothing() -> None:
    claim = Claim(says="x", terms={"at landscape_excess 2/0-1": 1.0}, above=0.0)
    for value in (math.inf, math.nan):
        row = _judged(claim, {parse("at landscape_excess 2/0-1"): 1.0}, np.array([[1.0], [value]]))
        assert (row["outcome"], row.get("p_value")) == ("not told", None)


def test_missing_runs_and_records_are_named_and_nothing_is_judged_early(tmp_path: Path) -> None:
    project = played(tmp_path, 3)
    key = project.table2_keys("at-rwp")[2]
    (project.root / key.directory / "evaluation/best/autoattack.json").unlink()
    row = judged(project, won=WON | {"above": 0})["won"]
    assert (row["outcome"], row["estimate"]) == ("missing", None)
    assert row["reason"] == (
        f"{key.directory}/evaluation/best/autoattack.json: this attack has not been run"
    )
    (project.root / key.directory / "run.json").unlink()
    assert "at-rwp/seed2: this training" in judged(project, won=WON | {"above": 0})["won"]["reason"]


def test_a_claim_that_is_asked_for_alone_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = played(tmp_path)
    worded = {
        "won": WON | {"above": 0},
        "lacks": {"says": "x", "terms": {"trades best autoattack": 1}, "above": 0},
        "other": WON | {"above": 0, "only": ["mini"]},
    }
    (tmp_path / "claims.yaml").write_text(json.dumps(worded), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: project.params)

    def asked(*names: str) -> str:
        command.claims(None, list(names), "demo", None, None, True, Path("params.yaml"))
        return capsys.readouterr().out

    assert asked("won").startswith("won: holds")
    assert len(asked("won").splitlines()) == 1
    command.claims(None, ["won"], "demo", None, None, True, Path("params.yaml"))
    assert capsys.readouterr().err == ""  # of claims that nobody asked for
    command.claims(None, [], "demo", None, None, True, Path("params.yaml"))
    note = "note: claims.yaml: other: suite mini: none of that name in the settings\n"
    assert capsys.readouterr().err == note
    assert len(asked().splitlines()) == 3  # what is missing is told, and stops nothing
    with pytest.raises(UserError, match="lacks: expected its runs in the suite demo, got missing:"):
        asked("lacks")
    with pytest.raises(UserError, match=r"other: expected its runs .* got of another suite"):
        asked("won", "other")
    with pytest.raises(UserError, match="expected a claim"):
        asked("wonn")


def test_claims_csv_is_of_the_projects_own_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workflow counts it as done; other claims are told and not written in their place."""
    project = played(tmp_path)
    for name in ("claims.yaml", "other.yaml"):
        (tmp_path / name).write_text(json.dumps({name[:3]: WON | {"above": 0}}), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: project.params)
    written = tmp_path / "results/demo/claims.csv"
    command.claims(None, [], "demo", None, None, False, Path("params.yaml"))
    before = written.read_text()
    assert "\ncla," in before
    command.claims(None, [], "demo", None, Path("other.yaml"), False, Path("params.yaml"))
    assert written.read_text() == before


def test_claims_of_another_suite_are_one_line(tmp_path: Path) -> None:
    project = played(tmp_path, 2)
    nobody = {"says": "x", "terms": {"at-xyz best autoattack": 1}, "above": 0}
    found = judged(project, other=WON | {"above": 0, "only": ["mini"]}, nobody=nobody)
    assert sentence(found["other"]) == "of another suite: of mini alone"
    assert sentence(found["nobody"]) == "of another suite: no at-xyz here"


def test_columns_of_the_history_and_best_epochs(tmp_path: Path) -> None:
    project = seeded(tmp_path, 8)
    for place, end in enumerate((0.30, 0.31, 0.32, 0.31, 0.30, 0.32, 0.31, 0.31)):
        project.write_run(project.table2_keys("at")[place], [0.2, 0.4, 0.3, end])
    fall = {"at test_robust_accuracy 1:2": 1, "at test_robust_accuracy -2:": -1}
    found = judged(
        project,
        fall={"says": "falls", "terms": fall, "above": 1},
        early={"says": "first", "terms": {"at best_epoch >=1": 1}, "above": 50},
        most={"says": "most", "terms": {"at best_epoch >=1": 1}, "above": 80},
        late={"says": "late", "terms": {"at best_epoch >=2": 1}, "above": 50},
        none={"says": "none", "terms": {"at share_below_c_min 0:1": 100}, "below": 30},
    )
    assert found["fall"]["estimate"] == pytest.approx(100 * (0.4 - (0.3 + 0.31) / 2))
    assert found["fall"]["images"] is None
    assert [found[name]["estimate"] for name in ("early", "late", "none")] == [100, 0, 25]
    assert (found["early"]["outcome"], found["late"]["outcome"]) == ("holds", "does not hold")
    assert found["early"]["p_value"] == pytest.approx(2 * 0.5**8)  # eight of eight, by chance
    # beside a share of 80 % eight of eight are as rare as five and fewer are
    few = stats.binom.pmf(8, 8, 0.8) + stats.binom.cdf(5, 8, 0.8)
    assert found["most"]["p_value"] == pytest.approx(few)
    assert found["most"]["outcome"] == "not told"
    share = interval(8, 8)  # Wilson's: eight of eight seeds are not all that there could be
    assert (found["early"]["low"], found["early"]["high"]) == (100 * share.low, 100 * share.high)
    assert found["early"]["detectable"] is None


@pytest.mark.parametrize("how", ["5:2", "6:6", "-1:0", ":0", "-2:-3"])
def test_epochs_that_no_training_has_are_no_term(how: str) -> None:
    content = {"x": {"says": "x", "terms": {f"at test_robust_accuracy {how}": 1}, "above": 0}}
    with pytest.raises(UserError, match=rf"x: expected epochs of which .*, got 'at .* {how}'; cor"):
        checked_claims(content, where="claims.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"x": {"says": "x", "terms": ["at best pgd-20"], "above": 0}},
            "terms: expected a table, ",
        ),
        (
            {"x": {"says": "x", "each": {"at best pgd-20": 1}, "above": 0}},
            "each: expected a list, ",
        ),
        (None, "claims.yaml: expected a table of claims, got nothing; begin each with its name"),
    ],
)
def test_claims_of_another_shape_are_told_in_words_of_yaml(content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked_claims(content, where="claims.yaml")


def test_a_record_of_another_network_than_run_json_names_judges_nothing(tmp_path: Path) -> None:
    """Also where the network itself is not there, and all its records agree."""
    project = played(tmp_path)
    run = project.root / project.table2_keys("at")[1].directory / "run.json"
    document = json.loads(run.read_text())
    run.write_text(json.dumps(document | {"networks": {"best": "0" * 64}}))
    assert judged(project, won=WON | {"above": 0})["won"]["outcome"] == "holds"
    run.write_text(json.dumps(document | {"networks": {"best": "7" * 64}}))
    row = judged(project, won=WON | {"above": 0})["won"]
    assert (row["outcome"], row["estimate"]) == ("missing", None)
    assert row["reason"].endswith("autoattack.json: made with another file than best.pt")


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("at test_robust_accuracy 1:3", r"in epochs 1:3, got 2 epochs; correct"),
        ("at test_robust_accuracy -6:", r"in epochs -6:, got 2 epochs; correct"),
        ("at loss_histogram -1:", r"loss_histogram in epochs -1:, found no single numbers"),
        ("at held_out_robust_accuracy :", r"in epochs :, found it in 1 of 2; correct the term: it"),
    ],
)
def test_epochs_that_are_not_all_there_are_no_mean(term: str, message: str, tmp_path: Path) -> None:
    project = seeded(tmp_path, 2)
    for key in project.table2_keys("at"):
        path = project.write_run(key, [0.2, 0.4]) / "history.jsonl"
        rows = path.read_text().replace('"epoch"', '"loss_histogram": [0.5, 0.5], "epoch"')
        path.write_text(rows.replace('"held_out_robust_accuracy": 0.2, ', ""))
    with pytest.raises(UserError, match=f"^claims.yaml: x: results/.*{message}"):
        judged(project, x={"says": "x", "terms": {term: 1}, "above": 0})


def test_what_a_training_could_not_know_is_not_told(tmp_path: Path) -> None:
    """Such as the share below a quantile during the warm-up: that is no mistyped column."""
    project = seeded(tmp_path, 2)
    for key in project.table2_keys("at"):
        path = project.write_run(key, [0.2, 0.4]) / "history.jsonl"
        first, last = path.read_text().splitlines()
        unknown = json.dumps(json.loads(first) | {"share_below_c_min": None})
        path.write_text(f"{unknown}\n{last}\n")
    entry = {"says": "x", "terms": {"at share_below_c_min 0:1": 1}, "above": 0}
    row = judged(project, x=entry)["x"]
    reason = "a value is not finite: nothing can be tested"
    assert (row["outcome"], row["reason"]) == ("not told", reason)


def test_epochs_of_the_warm_up_say_nothing_of_weight_steps(tmp_path: Path) -> None:
    project = seeded(tmp_path, 2)
    (key, _) = project.table2_keys("at-rwp")
    folder = project.write_run(key, [0.2, 0.4, 0.3, 0.3])
    history = [{"epoch": n, "weight_steps": steps} for n, steps in enumerate((0, 0, 8, 10))]
    spec = {"perturbation": {"warmup_epochs": 2}}
    run = Run(folder, key.name, "finished", document={"spec": spec}, history=history)
    assert parse("at-rwp weight_steps :").of_run(run) == 9
    assert parse("at-rwp weight_steps 1:3").of_run(run) == 8
    assert math.isnan(parse("at-rwp weight_steps 0:2").of_run(run))


def test_a_curve_that_a_suite_does_not_measure_is_of_another_suite(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    demo = content["suites"]["demo"]
    demo |= {"seeds": [0, 1], "test_curve": False, "figures": {}, "reported": []}
    project = Project(tmp_path, check_params(content), "demo")
    entry = {"says": "x", "terms": {"at test_robust_accuracy -1:": 1}, "above": 0}
    row = judged(project, x=entry)["x"]
    reason = "no test_robust_accuracy (test_curve is false) here"
    assert (row["outcome"], row["reason"]) == ("of another suite", reason)


def test_a_recipe_that_cannot_be_trained_is_missing_and_counts_as_a_test(tmp_path: Path) -> None:
    """Left out it would make the other claims of the page easier to tell."""
    content = copy.deepcopy(PARAMS)
    demo = content["suites"]["demo"]
    demo["recipes"]["mine"] = {"objective": "mine"}
    demo["objectives"]["mine"] = {"loss": "nowhere.at:all"}
    project = Project(tmp_path, check_params(content), "demo")
    entry = {"says": "x", "terms": {"mine best pgd-20": 1}, "above": 0}
    row = judged(project, x=entry)["x"]
    assert row["outcome"] == "missing"
    assert "expected the module nowhere.at" in row["reason"]


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    project = seeded(tmp_path, 2)
    for key in project.table2_keys("at"):
        project.write_run(key, [0.2, 0.4])
    with pytest.raises(UserError, match=r"seed0: expected weight_stepz in epochs 0:1, found none"):
        judged(project, x={"says": "x", "terms": {"at weight_stepz 0:1": 1}, "above": 0})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (WON, "expected one of above, below and within, got none"),
        (WON | {"above": 0, "below": 1}, "expected one of .*got above and below"),
        (
            WON | {"above": 0, "abve": 1},
            "abve: expected a known key, got 'abve'; did you mean 'above'",
        ),
        (WON | {"within": -1}, "within: expected a number above 0, got -1"),
        (WON | {"within": 0}, "within: expected a number above 0, got 0"),
        (
            {
                "says": "x",
                "terms": {
                    "at landscape_excess 2/0.5-1": 1,
                    "at landscape_excess 2/0.50-1.0": -1,
                },
                "above": 0,
            },
            "expected each term once, got one in two spellings",
        ),
        ({"says": "x", "terms": {}, "above": 0}, "terms: expected at least 1, got 0; add one"),
        ({"says": "x", "terms": {"at best natural": "x"}, "above": 0}, "expected number, got 'x'"),
        ({"terms": {"at best natural": 1}, "above": 0}, "says: expected a value, got none; add it"),
        ({"says": "x", "terms": {"at best": 1}, "above": 0}, "expected a term such as .*'at best'"),
        ({"says": "x", "terms": {"at best_epoch 16": 1}, "above": 0}, "got 'at best_epoch 16'"),
        ({"says": "x", "terms": {"at weight_steps --6:": 1}, "above": 0}, "at weight_steps --6:'"),
        ({"says": "x", "terms": {"at loss x:y": 1}, "above": 0}, "got 'at loss x:y'"),
        (
            {"says": "x", "terms": {"at landscape_excess 16:20": 1}, "above": 0},
            "got 'at landscape_excess 16:20'",
        ),
        ({"says": "x", "terms": {"at best_epoch >=1": 1}, "above": 100}, "got above 100; say how"),
        ({"says": "x", "terms": {"at best_epoch >=1": 1}, "within": 5}, "got within 5; say how"),
        (WON | {"above": 0, "only": []}, "only: expected at least 1, got 0"),
        ({"says": "x", "above": 0}, "expected one of terms and each, got none"),
        (WON | {"each": [WON["terms"]] * 2, "above": 0}, "expected one of .* each, got both"),
        (
            {"says": "x", "each": [WON["terms"]], "above": 0},
            "each: expected at least 2, got 1; add one",
        ),
        (
            {
                "says": "x",
                "terms": {"at landscape_excess 2/0-1": 1, "at train_loss -1:": 1},
                "above": 0,
            },
            "expected landscape_excess alone, got others too; split it",
        ),
        (
            {"says": "x", "terms": {"at best natural": 1, "at best_epoch >=1": 1}, "above": 0},
            "expected records or columns of the history, got both",
        ),
    ],
)
def test_bad_claims_are_one_line(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^claims.yaml: mine.*{message}") as caught:
        checked_claims({"mine": entry}, where="claims.yaml")
    assert "\n" not in str(caught.value)


def test_the_committed_claims_are_of_recipes_and_attacks_that_mini_has(params: Params) -> None:
    found = read_claims(ROOT / FILE)
    suite = params.suites["mini"]
    for name, claim in found.items():
        for term in (parse(text) for terms in claim.sums for text in terms):
            assert term.recipe in suite.recipes, name
            assert not term.is_record or term.how in suite.evaluation.attacks, name
    at_last = {
        t.recipe for c in found.values() for s in c.sums for t in map(parse, s) if t.what == "last"
    }
    assert at_last <= set(suite.also_attacked.last)


def test_each_of_several_sums_holds_or_one_fails(tmp_path: Path) -> None:
    project, terms = played(tmp_path), WON["terms"]
    turned = {name: -weight for name, weight in terms.items()}
    found = judged(
        project,
        both={"says": "x", "each": [terms, {"at-rwp best autoattack": 1}], "above": 0},
        one={"says": "x", "each": [terms, turned], "above": 0},
        close={"says": "x", "each": [terms, {"at-rwp best autoattack": 1}], "above": 20},
    )
    assert {name: row["outcome"] for name, row in found.items()} == {
        "both": "holds",
        "one": "does not hold",
        "close": "not told",
    }
    alone = judged(project, won=WON | {"above": 0}, lost={"says": "x", "terms": turned, "above": 0})
    assert found["both"]["estimate"] == alone["won"]["estimate"]  # the less sure one
    assert found["both"]["p_value"] == alone["won"]["p_value"]
    assert found["one"]["estimate"] == alone["lost"]["estimate"]
    assert found["one"]["p_value"] == pytest.approx(2 * alone["lost"]["p_value"])
    missing = {"says": "x", "each": [terms, {"trades best autoattack": 1}], "above": 0}
    assert judged(project, m=missing)["m"]["outcome"] == "missing"


def landscapes(root: Path, num_seeds: int, *, test_images: bool = True) -> Project:
    content = shown_content()
    suite = content["suites"]["demo"]
    suite["seeds"] = list(range(num_seeds))
    suite["figures"]["fig2"] |= {
        **{"num_seeds": num_seeds, "test_images": test_images, "num_points": 5}
    }
    return Project(root, check_params(content), "demo")


def around(
    project: Project,
    rise: dict[tuple[int, str, str], float],
    name: str = "fig2",
) -> Path:
    """Losses that rise by so much per unit of the offset, by seed, split and group."""
    spec = landscape_spec(project.params, "demo", name)
    rows = [
        f"{seed},{split},{epoch},{group},{offset},1,{height * abs(offset)},9"
        for epoch in spec.epochs
        for (seed, split, group), height in rise.items()
        for offset in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    path = project.root / f"results/demo/landscapes/{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = "seed,split,epoch,group,offset,loss,change,num_examples"
    path.write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    project.write_landscape_state(name)
    return path


def test_the_excess_of_training_over_test_images_by_seed(tmp_path: Path) -> None:
    project = landscapes(tmp_path, 3)
    epoch = project.params.suites["demo"].figures["fig2"].epochs[0]  # type: ignore[union-attr]
    low, high = (f"at landscape_excess {epoch}/{group}" for group in ("0.0-0.5", "1-1.50"))
    entry = {"says": "x", "terms": {low: 1, high: -1}, "above": 0}
    row = judged(project, first=entry)["first"]
    assert (row["outcome"], row["reason"]) == (
        "missing",
        "results/demo/landscapes/fig2.csv: not measured",
    )
    rise = {}
    for seed, more in enumerate((2.0, 2.1, 2.2)):
        rise |= {(seed, "train", "0-0.5"): 5 + more, (seed, "test", "0-0.5"): 5.0}
        rise |= {(seed, "train", "1-1.5"): 9.0, (seed, "test", "1-1.5"): 8.0}
    around(project, rise)
    row = judged(project, first=entry)["first"]
    assert row["estimate"] == pytest.approx(0.5 * (2.1 - 1))  # over the inner half alone
    assert (row["seeds"], row["images"], row["outcome"]) == (3, None, "holds")
    del rise[1, "test", "0-0.5"]  # a group that no test image is in
    around(project, rise)
    reason = judged(project, first=entry)["first"]["reason"]
    assert reason.endswith("fig2.csv: seed 1 has no images of 0-0.5 nats in both")
    rise[1, "test", "0-0.5"] = 5.0
    path = around(project, rise)
    rows = path.read_text().splitlines()
    lost = next(row for row in rows if row.startswith(f"2,train,{epoch},0-0.5,0.5,"))
    path.write_text("\n".join(row for row in rows if row != lost) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"got 4 others of 0-0.5 nats, train, seed 2, after epoch"):
        judged(project, first=entry)


def test_a_landscape_of_few_points_has_none_in_its_inner_half(tmp_path: Path) -> None:
    project = landscapes(tmp_path, 1)
    figure = project.params.suites["demo"].figures["fig2"]
    epoch = figure.epochs[0]  # type: ignore[union-attr]
    entry = {"says": "x", "terms": {f"at landscape_excess {epoch}/0-0.5": 1}, "above": 0}
    for count, reason in ((3, "num_points 3 are too few to have one within"), (4, "not measured")):
        few = figure.model_copy(update={"num_points": count})
        project.params.suites["demo"].figures["fig2"] = few
        found = judged(Project(tmp_path, project.params.model_copy(), "demo"), x=entry)["x"]
        assert found["outcome"] == "missing"
        assert f"fig2.csv: {reason}" in found["reason"]


def test_a_landscape_of_other_settings_or_code_tells_nothing(tmp_path: Path) -> None:
    project = landscapes(tmp_path, 2)
    spec = landscape_spec(project.params, "demo", "fig2")
    entry = {"says": "x", "terms": {f"at landscape_excess {spec.epochs[0]}/0-0.5": 1}, "above": 0}
    rise = {
        (seed, split, "0-0.5"): h for seed in (0, 1) for split, h in (("train", 3), ("test", 2))
    }
    path = around(project, rise)
    assert judged(project, x=entry)["x"]["outcome"] == "not told"  # the seeds do not spread

    def tells_nothing(reason: str) -> None:
        row = judged(project, x=entry)["x"]
        assert row["outcome"] == "missing"
        assert f"results/demo/landscapes/fig2.csv: {reason}" in row["reason"]
        with pytest.raises(UserError, match=f"as the settings say, found {reason}"):
            write_suite_figure(project.results("fig2"), "fig2")

    project.write_landscape_state("fig2", spec=spec.replace(radius=2.0).document())
    tells_nothing("of other settings")
    project.write_landscape_state("fig2", fingerprint="of older code")
    tells_nothing("of other code or images")
    path.write_text("")
    tells_nothing("of other code or images")  # which counts first
    path.with_suffix(".json").unlink()
    tells_nothing("of unknown settings")


HEAD = "seed,split,epoch,group,offset,loss,change,num_examples"


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (lambda rows: [], "no column seed, split"),
        (lambda rows: ["seed,split", "0,train"], "no column epoch, group"),
        (lambda rows: [HEAD], "something else than numbers under loss"),
        (lambda rows: [*rows, rows[1]], "some of them twice"),
        (
            lambda rows: [rows[0], *(row for row in rows[1:] if row[0] != "1")],
            "none of the test",
        ),
        (
            lambda rows: [*rows, rows[1].replace("0,", "7,", 1)],
            "more, of the train images of seed 7",
        ),
        (lambda rows: [row.replace("0.5,1,", "0.4,1,") for row in rows], "5 others of 0-0.5 nats"),
        (lambda rows: rows[:-1], "4 others of 0-0.5 nats"),
        (
            lambda rows: [*rows[:-1], rows[-1].replace(",1.0,", ",x,")],
            "something else than numbers",
        ),
        (
            lambda rows: [row.replace("0,", "s0,", 1) for row in rows],
            "else than numbers under seed",
        ),
    ],
)
def test_a_landscape_that_is_not_whole_is_one_line(
    tmp_path: Path, broken: Callable[[list[str]], list[str]], fault: str
) -> None:
    """Neither a claim nor the figure is made of what is left of it."""
    project = landscapes(tmp_path, 2)
    epoch = landscape_spec(project.params, "demo", "fig2").epochs[0]
    rise = {(seed, split, "0-0.5"): 3.0 for seed in (0, 1) for split in ("train", "test")}
    path = around(project, rise)
    path.write_text("\n".join(broken(path.read_text().splitlines())) + "\n", encoding="utf-8")
    entry = {"says": "x", "terms": {f"at landscape_excess {epoch}/0-0.5": 1}, "above": 0}
    with pytest.raises(UserError, match=rf"fig2.csv: expected losses of each seed.*{fault}"):
        judged(project, x=entry)
    with pytest.raises(UserError, match=rf"fig2.csv: expected losses of each seed.*{fault}"):
        write_suite_figure(project.results("fig2"), "fig2")


def test_landscapes_of_other_numbers_of_seeds_are_compared_on_the_seeds_of_both(
    tmp_path: Path,
) -> None:
    project = landscapes(tmp_path, 3)
    content = shown_content()
    suite = content["suites"]["demo"]
    suite["seeds"], suite["figures"]["fig2"]["test_images"] = [0, 1, 2], True
    own = {"recipe": "at-rwp", "num_seeds": 2, "num_points": 5}
    suite["figures"]["rwp"] = suite["figures"]["fig2"] | own
    suite["figures"]["fig2"] |= {"num_seeds": 3, "num_points": 5}
    project = Project(tmp_path, check_params(content), "demo")
    epoch = suite["figures"]["fig2"]["epochs"][0]
    for name, height in (("rwp", 2.0), ("fig2", 3.0)):
        seeds = range(suite["figures"][name]["num_seeds"])
        rise = {(seed, "train", "0-0.5"): height * (seed + 1) for seed in seeds}
        rise |= {(seed, "test", "0-0.5"): 0.0 for seed in seeds}
        around(project, rise, name)
    terms = {
        f"{recipe} landscape_excess {epoch}/0-0.5": w for recipe, w in (("at", 1), ("at-rwp", -1))
    }
    row = judged(project, x={"says": "x", "terms": terms, "above": 0})["x"]
    assert (row["seeds"], row["estimate"]) == (2, pytest.approx(0.5 * 1.5))


def test_a_landscape_without_test_images_tells_no_excess(tmp_path: Path) -> None:
    project = landscapes(tmp_path, 2, test_images=False)
    epoch = project.params.suites["demo"].figures["fig2"].epochs[0]  # type: ignore[union-attr]
    for term in (f"{epoch}/0-0.5", "99/0-0.5", f"{epoch}/0-0.7"):
        entry = {"says": "x", "terms": {f"at landscape_excess {term}": 1}, "above": 0}
        assert judged(project, x=entry)["x"]["reason"] == "no landscape of at here"


def test_a_landscape_of_another_place_tells_no_excess(tmp_path: Path) -> None:
    content = shown_content()
    suite = content["suites"]["demo"]
    suite["seeds"] = [0, 1]
    suite["figures"]["fig2"] |= {"num_seeds": 2, "test_images": True, "threat_model": "l2"}
    project = Project(tmp_path, check_params(content), "demo")
    epoch = suite["figures"]["fig2"]["epochs"][0]
    entry = {"says": "x", "terms": {f"at landscape_excess {epoch}/0-0.5": 1}, "above": 0}
    assert judged(project, x=entry)["x"]["reason"] == "no landscape of at here"


def test_a_moved_threshold_is_seen() -> None:
    before = {"a": Claim(**WON, above=1.0), "b": Claim(**WON, below=0.0)}
    assert moved(before, before | {"c": Claim(**WON, within=1.0)}) == []
    assert moved(before, before | {"a": before["a"].model_copy(update={"says": "y"})}) == []
    assert moved(before, before | {"a": Claim(**WON, above=0.5)}) == ["a"]
    assert moved(before, before | {"a": Claim(**WON, below=1.0)}) == ["a"]
    assert moved(before, before | {"a": Claim(**WON, above=1.0, premise=True)}) == ["a"]
    assert moved(before, {"a": before["a"]}) == ["b"]
    several = {"a": Claim(says="x", each=(WON["terms"], {"at best natural": 1.0}), above=1.0)}
    assert moved(before, before | several) == ["a"]


# Called premises when five of ten seeds were known and no claim could be judged: see the changelog.
BECAME_PREMISES = ("regime-decay", "regime-clean", "at-falls")


def test_no_threshold_moved_after_a_published_run(tmp_path: Path) -> None:
    """Of each run under docs/results: the claims gathered with it, and those of its commit."""
    now, folder = read_claims(ROOT / FILE), ROOT / "docs/results"
    then = {str(path): path.read_bytes() for path in sorted(folder.glob(f"*/{FILE}"))}
    commits = {
        str(read_object(path)["commit"]).removesuffix("+changes")
        for path in sorted(folder.glob("**/run.json"))
    }
    for commit in sorted(commits):
        words = ("git", "-C", str(ROOT), "show", f"{commit}:{FILE}")
        shown = subprocess.run(words, capture_output=True, check=False)
        if shown.returncode == 0:  # an archive and a shallow clone have no history
            then[commit] = shown.stdout
    assert then
    for where, text in then.items():
        (tmp_path / FILE).write_bytes(text)
        before = checked_claims(read_yaml(tmp_path / FILE), where=where)
        for name in before.keys() & set(BECAME_PREMISES):
            before[name] = before[name].model_copy(update={"premise": True})
        assert moved(before, now) == [], where


@pytest.mark.slow
def test_the_report_opens_with_the_claims(tmp_path: Path) -> None:
    project = seeded(tmp_path, 2)
    project.write_all()
    assert 'id="claims"' not in render_report(project.results())
    text = f"won:\n  says: RWP <beats> AT\n  terms: {WON['terms']}\n  above: 0\n".replace("'", "")
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    judged = told(project.params, "demo", root=tmp_path)
    page = render_report(project.results(), judged=judged)
    assert page.index('id="claims"') < page.index('id="table2"')
    assert "RWP &lt;beats&gt; AT" in page
    assert "that nothing here can tell" not in page
    frame = judge_claims(project.params, "demo", read_claims(tmp_path / FILE), root=tmp_path)
    path = write_claims(frame, "demo", root=tmp_path)
    assert path.read_text().startswith("claim,says,wanted,outcome,estimate")


def test_claims_of_one_seed_do_not_fill_the_page(tmp_path: Path) -> None:
    project = seeded(tmp_path, 1)
    project.write_all()
    text = f"won:\n  says: RWP <beats> AT\n  terms: {WON['terms']}\n  above: 0\n".replace("'", "")
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    page = render_report(project.results(), judged=told(project.params, "demo", root=tmp_path))
    assert "Outcomes of 1 claim: not told 1. Claims are judged over several training seeds" in page
    assert "<summary>1 claim that nothing here can tell, and why</summary>" in page
    assert page.index("<summary>1 claim") < page.index("RWP &lt;beats&gt; AT")
    sections = [page.index(f'id="{name}"') for name in ("table2", "paper", "claims", "costs")]
    assert sections == sorted(sections)  # it opens with what it has
