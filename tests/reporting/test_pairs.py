"""Pairs of defenses on the same images: counted by hand, and never of other images."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rwp.evaluation import statistics
from rwp.evaluation.records import PartRecord, pack
from rwp.pipeline.load import check_params
from rwp.reporting import report
from rwp.reporting.pairs import _RESAMPLES, COLUMNS, headline, images_of, pairs, write_pairs
from rwp.reporting.report import render_report
from tests.evaluation.samples import record

from .conftest import Project
from .settings import PARAMS


def bits(flags: np.ndarray) -> str:
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def pair(frame: pd.DataFrame, defense: str, against: str, attack: str) -> pd.DataFrame:
    return frame.query("defense == @defense and against == @against and attack == @attack")


def write_flags(
    project: Project,
    recipe: str,
    flags: np.ndarray,
    seed: int = 0,
    attack: str = "autoattack",
    **changes: Any,
) -> None:
    """A record of an attack with these outcomes, below a clean accuracy of 100 %."""
    key = project.table2_keys(recipe)[seed]
    every = np.ones_like(flags)
    project.write_record(
        key,
        attack,
        int(flags.sum()),
        num_clean_correct=len(flags),
        clean_bits=bits(every),
        robust_bits=bits(flags),
        **changes,
    )


def test_pairs_share_an_objective_and_images(demo: Project) -> None:
    demo.write_all()
    frame = pairs(demo.results())
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 9 * 7  # three pairs of each objective; six attacks and all together
    assert set(frame["defense"].str.split("-").str[0] == frame["against"].str.split("-").str[0])
    row = pair(frame, "AT-RWP", "AT", "autoattack").iloc[0]
    # 208 images against 204, the same ones but for four
    assert row["difference"] == pytest.approx(1.0)
    assert (row["only_defense"], row["only_against"]) == (4, 0)
    assert row["p_value"] == pytest.approx(2 * 0.5**4)
    assert 0 < row["low"] < 1 < row["high"]


def test_mcnemar_by_hand(demo: Project) -> None:
    demo.write_all()
    base = np.arange(400) < 200
    better, worse = base.copy(), base.copy()
    better[300:312] = True
    worse[0:3] = False
    for recipe, flags in (("at", base), ("at-awp", better), ("at-rwp", worse)):
        write_flags(demo, recipe, flags)
    row = pair(pairs(demo.results()), "AT-RWP", "AT-AWP", "autoattack").iloc[0]
    assert (row["only_defense"], row["only_against"]) == (0, 15)
    assert row["p_value"] == pytest.approx(stats.binomtest(0, 15).pvalue)


def test_the_family_of_tests_is_the_one_that_is_shown(demo: Project) -> None:
    demo.write_all()
    rng = np.random.default_rng(0)
    for recipe in demo.params.suites["demo"].table2.recipes:
        write_flags(demo, recipe, rng.random(400) < 0.5 + 0.1 * rng.random())
    frame = pairs(demo.results())
    tested = frame[frame["p_value"].notna()].sort_values("p_value")
    assert set(tested["attack"]) == {"natural", "autoattack", "all attacks"}
    assert len(tested) == 27  # three tests of each of nine pairs
    assert set(frame["num_tests"]) == {27}
    so_far = 0.0
    for rank, (_, row) in enumerate(tested.iterrows()):
        so_far = max(so_far, min(1.0, (27 - rank) * row["p_value"]))
        assert row["p_holm"] == pytest.approx(so_far)
    assert frame[frame["p_value"].isna()]["p_holm"].isna().all()


def test_what_is_found_is_corrected_for_all_tests(demo: Project) -> None:
    """Eight images alone would be a finding, as one of 27 tests they are none; twelve are."""
    demo.write_all()
    for count, finding in ((8, "chance could do it"), (12, "this AT-RWP network is better")):
        write_flags(demo, "at", np.arange(400) < 204)
        write_flags(demo, "at-rwp", np.arange(400) < 204 + count)
        row = pair(pairs(demo.results()), "AT-RWP", "AT", "autoattack").iloc[0]
        assert row["p_value"] == pytest.approx(2 * 0.5**count)
        assert row["p_value"] < 0.01 < 27 * 0.5**8
        assert row["finding"] == finding


def test_no_finding_hangs_on_one_random_start(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "own_figures", lambda *_, **__: iter(()))
    demo.write_all()
    # One lucky start of each attack with random starts; AutoAttack finds the two alike.
    lucky, unlucky = np.arange(400) < 230, np.arange(400) < 205
    for recipe, flags in (("trades-rwp", lucky), ("trades-awp", unlucky)):
        for attack in ("pgd-20", "pgd-100", "cw-100", "fgsm"):
            write_flags(demo, recipe, flags, attack=attack)
        write_flags(demo, recipe, np.arange(400) < 200)
    frame = pairs(demo.results())
    rows = frame.query("defense == 'TRADES-RWP' and against == 'TRADES-AWP'").set_index("attack")
    for attack in ("pgd-20", "pgd-100", "cw-100"):
        assert rows.loc[attack, "difference"] == pytest.approx(6.25)
        assert rows.loc[attack, "low"] > 0
        assert pd.isna(rows.loc[attack, "p_value"])
        assert rows.loc[attack, "finding"] == "one random start: not tested"
    assert rows.loc["fgsm", "finding"] == "one step: not tested"
    assert rows.loc["autoattack", "finding"] == "chance could do it"
    assert "TRADES-RWP network is better" not in render_report(demo.results())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_without_autoattack_the_worst_case_hangs_on_its_starts_too(
    demo: Project, elsewhere: bool
) -> None:
    content = copy.deepcopy(PARAMS)
    attacks = content["suites"]["demo"]["evaluation"]["attacks"]
    for name in ("autoattack", "pgd-100", "cw-100"):
        del attacks[name]
    if elsewhere:  # AutoAttack under another threat model is not among "all attacks"
        other = {"kind": "autoattack", "version": "standard", "norm": "l1", "epsilon": 12}
        attacks["autoattack-l1"] = other
    project = Project(demo.root, check_params(content), "demo")
    for recipe in ("at", "at-rwp"):
        (key,) = project.table2_keys(recipe)
        project.write_run(key, [0.5] * 6)
        for attack in attacks:
            project.write_record(key, attack, 360)
    for recipe, count in (("at-rwp", 390), ("at", 10)):
        write_flags(project, recipe, np.arange(400) < count, attack="pgd-20")
    frame = pairs(project.results())
    for attack in ("pgd-20", "all attacks"):
        row = pair(frame, "AT-RWP", "AT", attack).iloc[0]
        assert row["finding"] == "one random start: not tested"
    assert set(frame["num_tests"]) == {1 + elsewhere}  # without an attack, and under L1


def test_nothing_is_found_on_a_network_that_hides_its_gradients(demo: Project) -> None:
    demo.write_all()
    write_flags(demo, "at", np.arange(400) < 100)
    reasons = [{"level": "red", "text": "one step fools more than many"}]
    (key,) = demo.table2_keys("at-rwp")
    demo.write_diagnosis(key, "red", reasons=reasons)
    frame = pairs(demo.results())
    row = pair(frame, "AT-RWP", "AT", "autoattack").iloc[0]
    assert row["p_holm"] < 1e-9
    assert row["finding"] == "no finding on AT-RWP: the verdict on it is red"
    # of earlier records now, and no less a doubt
    demo.write_record(key, "pgd-100", 300, fingerprint="later")
    assert demo.results().verdicts[key].status == "stale"
    assert pair(pairs(demo.results()), "AT-RWP", "AT", "autoattack").iloc[0]["finding"] == (
        "no finding on AT-RWP: the verdict on it is red"
    )
    other = pair(frame, "AT-AWP", "AT", "autoattack").iloc[0]
    assert other["finding"] == "this AT-AWP network is better"
    (awp,) = demo.table2_keys("at-awp")
    for how in ("each time", "when a gradient is asked for"):
        warning = f"the model answers differently {how}; the outcomes are of one"
        demo.write_record(awp, "natural", 362, warnings=[warning])
        row = pair(pairs(demo.results()), "AT-AWP", "AT", "autoattack").iloc[0]
        assert row["finding"] == f"no finding on AT-AWP: it answers differently {how}"


def test_the_headline_names_the_best_and_how_sure_that_is(demo: Project) -> None:
    assert headline(demo.results()) == ""
    demo.write_all()
    text = headline(demo.results())
    # 220 of 400 images, those of the best defense and of the next all but two the same
    assert text.startswith(
        "RST-RWP keeps the most images right under all attacks at once, 55.0 % of 400;"
        " next is RST-AWP, 0.5 points behind (interval +0.0 to +1.7"
    )
    assert "corrected for 8 other defenses), so they cannot be told apart. One training" in text
    # Eight images are enough for no bootstrap's interval to hold 0, but p = 2 / 2^8 > .05 / 8.
    write_flags(demo, "rst-rwp", np.arange(400) < 226)
    text = headline(demo.results())
    assert "2.0 points behind (interval +0.5" in text
    assert "cannot be told apart" in text
    for recipe in demo.params.suites["demo"].table2.recipes:
        if recipe != "at-rwp":
            write_flags(demo, recipe, np.arange(400) < 150)
    text = headline(demo.results())
    assert text.startswith("AT-RWP keeps the most images right")
    assert "so it is ahead. One training seed: this is about these networks." in text
    demo.write_diagnosis(demo.table2_keys("at-rwp")[0], "red")
    assert "but the verdict on it is red." in headline(demo.results())


def test_the_headline_compares_the_seeds_that_both_have(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1, 2]
    content["suites"]["demo"]["recipes"]["trades"]["num_seeds"] = 2
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    for seed, count in enumerate((300, 300, 390)):
        write_flags(project, "at", np.arange(400) < count, seed)
    for seed in range(2):
        write_flags(project, "trades", np.arange(400) < 280, seed)
    for recipe in content["suites"]["demo"]["table2"]["recipes"]:
        for name in ("pgd-20", "pgd-100", "cw-100", "fgsm", "natural"):
            for seed in range(len(project.table2_keys(recipe))):
                write_flags(project, recipe, np.arange(400) < 400, seed, name)
    text = headline(project.results())
    assert text.startswith(
        "AT keeps the most images right under all attacks at once, 75.0 % of 400 over the first 2"
        " training seeds; next is TRADES, 5.0 points behind"
    )
    ours, theirs = (np.arange(400) < count for count in (300, 280))
    over = statistics.crossed_difference([ours] * 2, [theirs] * 2, confidence=1 - 0.05 / 8)
    assert f"(interval {100 * over.low:+z.1f} to {100 * over.high:+z.1f}, corrected for 8" in text


def test_the_headline_ranks_by_the_seeds_that_all_have(tmp_path: Path) -> None:
    """Two seeds that only one defense has put it first, six points behind the next."""
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1, 2]
    for recipe in content["suites"]["demo"]["table2"]["recipes"]:
        content["suites"]["demo"]["recipes"][recipe]["num_seeds"] = 3 if recipe == "at-rwp" else 1
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    for recipe in content["suites"]["demo"]["table2"]["recipes"]:
        for seed in range(len(project.table2_keys(recipe))):
            for name in ("pgd-20", "pgd-100", "cw-100", "fgsm", "natural"):
                write_flags(project, recipe, np.arange(400) < 400, seed, name)
            count = {"at-rwp": (176, 224, 224), "at-awp": (200,)}.get(recipe, (100,))[seed]
            write_flags(project, recipe, np.arange(400) < count, seed)
    assert headline(project.results()).startswith(
        "AT-AWP keeps the most images right under all attacks at once, 50.0 % of 400 over the"
        " first training seed; next is AT-RWP, 6.0 points behind"
    )


def test_seeds_have_a_row_each_and_one_together_that_is_tested(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1]
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        write_flags(project, "at", rng.random(400) < 0.5, seed)
        write_flags(project, "at-rwp", rng.random(400) < (0.3, 0.8)[seed], seed)
    frame = pairs(project.results())
    rows = pair(frame, "AT-RWP", "AT", "autoattack")
    assert list(rows["seed"]) == ["0", "1", "all"]
    lone, together = rows.iloc[0], rows.iloc[2]
    assert together["difference"] == pytest.approx(rows["difference"].iloc[:2].mean())
    # Seeds that disagree by 50 points make the joint interval wider than that of one seed.
    assert together["high"] - together["low"] > 2 * (lone["high"] - lone["low"])
    assert list(rows["p_value"].isna()) == [True, True, False]
    assert together["finding"] == "chance could do it"
    assert set(frame["num_tests"]) == {27}


def test_over_seeds_a_defense_is_better_of_one_seed_a_network(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1, 2]
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    for seed in range(3):
        write_flags(project, "at", np.arange(400) < 100 + seed, seed)
        write_flags(project, "at-rwp", np.arange(400) < 200, seed)
    rows = pair(pairs(project.results()), "AT-RWP", "AT", "autoattack")
    assert list(rows["finding"]) == ["one of several seeds: not tested"] * 3 + ["AT-RWP is better"]


def test_records_that_are_missing_or_of_other_images_make_no_pair(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "fgsm", 260, data_sha256="2" * 64)
    (demo.root / key.directory / "evaluation/best/pgd-20.json").unlink()
    frame = pairs(demo.results())
    for attack in ("fgsm", "pgd-20", "all attacks"):
        assert pair(frame, "AT-RWP", "AT", attack).empty
    assert len(pair(frame, "AT-RWP", "AT", "cw-100")) == 1
    assert len(pair(frame, "AT-RWP", "AT-AWP", "fgsm")) == 1


def test_the_file_keeps_small_p_values_and_an_empty_suite_has_a_head(demo: Project) -> None:
    path = write_pairs(demo.results())
    assert path == demo.root / "results/demo/comparisons.csv"
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    demo.write_all()
    write_flags(demo, "at", np.arange(400) < 100)
    write_pairs(demo.results())
    row = pair(pd.read_csv(path), "AT-RWP", "AT", "autoattack").iloc[0]
    assert 0 < row["p_value"] < 1e-20


def test_the_report_says_which_difference_is_more_than_chance(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "own_figures", lambda *_, **__: iter(()))
    demo.write_all()
    write_flags(demo, "at", np.arange(400) < 100)
    text = render_report(demo.results())
    assert "this AT-RWP network is better" in text
    assert "chance could do it" in text


class CountedDraws:
    """A generator of numpy's that notes the kinds of images and how often they are drawn."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self.sizes: list[tuple[int, int]] = []

    def multinomial(self, count: int, shares: np.ndarray, size: int) -> np.ndarray:
        self.sizes.append((len(shares), size))
        return self.generator.multinomial(count, shares, size=size)


def test_at_the_papers_size_kinds_of_images_are_drawn_and_not_images(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One number per kind of outcome, of which two networks have four, whatever the images."""
    demo.write_all()
    rng = np.random.default_rng(0)
    for recipe in demo.params.suites["demo"].table2.recipes:
        (key,) = demo.table2_keys(recipe)
        for attack in demo.params.suites["demo"].evaluation.attacks:
            flags = rng.random(10_000) < 0.5
            demo.write_record(
                key,
                attack,
                int(flags.sum()),
                examples=10_000,
                num_clean_correct=10_000,
                clean_bits=bits(np.ones(10_000, dtype=bool)),
                robust_bits=bits(flags),
            )
    results, draws = demo.results(), CountedDraws(np.random.default_rng(0))
    monkeypatch.setattr(statistics.np.random, "default_rng", lambda seed: draws)
    frame = pairs(results)
    assert len(frame) == len(draws.sizes) == 63
    assert max(kinds for kinds, _ in draws.sizes) == 4
    assert {times for _, times in draws.sizes} == {_RESAMPLES}


def test_outcomes_of_two_parts_are_of_other_images() -> None:
    mask = pack(np.arange(4) < 2)
    first, second = (
        record(
            [True, False],
            part=PartRecord(rule="stratified", seed=s, size=2, of=4, sha256=str(s), mask=mask),
        )
        for s in (0, 1)
    )
    assert images_of(first) != images_of(second)


def test_pairs_are_of_the_seeds_that_both_have(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1, 2]
    content["suites"]["demo"]["recipes"]["at-rwp"]["num_seeds"] = 2
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    rows = pair(pairs(project.results()), "AT-RWP", "AT", "autoattack")
    assert list(rows["seed"]) == ["0", "1", "all"]
