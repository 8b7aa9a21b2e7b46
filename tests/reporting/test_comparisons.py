"""Pairs of defenses on the same images: counted by hand, and never of other images."""

from __future__ import annotations

import base64
import copy
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from rwp.pipeline.load import check_params
from rwp.reporting import report
from rwp.reporting.comparisons import COLUMNS, comparisons, write_comparisons
from rwp.reporting.report import render_report

from .conftest import Project
from .settings import PARAMS


def bits(flags: np.ndarray) -> str:
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def pair(frame: pd.DataFrame, defense: str, against: str, attack: str) -> pd.DataFrame:
    return frame.query("defense == @defense and against == @against and attack == @attack")


def write_flags(project: Project, recipe: str, flags: np.ndarray, seed: int = 0) -> None:
    """A record of AutoAttack with these outcomes, below a clean accuracy of 100 %."""
    key = project.table2_keys(recipe)[seed]
    every = np.ones_like(flags)
    project.write_record(
        key,
        "autoattack",
        int(flags.sum()),
        num_clean_correct=len(flags),
        clean_bits=bits(every),
        robust_bits=bits(flags),
    )


def test_pairs_share_an_objective_and_images(demo: Project) -> None:
    demo.write_all()
    frame = comparisons(demo.params, "demo", root=demo.root)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 9 * 7  # three pairs of each objective; six attacks and all together
    assert set(frame["defense"].str.split("-").str[0] == frame["against"].str.split("-").str[0])
    row = pair(frame, "AT-RWP", "AT", "pgd-20").iloc[0]
    # 224 images against 220, the same ones but for four
    assert row["difference"] == pytest.approx(1.0)
    assert (row["only_defense"], row["only_against"]) == (4, 0)
    assert row["p_value"] == pytest.approx(2 * 0.5**4)
    assert 0 < row["low"] < 1 < row["high"]


def test_mcnemar_and_holm_by_hand(demo: Project) -> None:
    demo.write_all()
    base = np.arange(400) < 200
    better, worse = base.copy(), base.copy()
    better[300:312] = True
    worse[0:3] = False
    for recipe, flags in (("at", base), ("at-awp", better), ("at-rwp", worse)):
        write_flags(demo, recipe, flags)
    frame = comparisons(demo.params, "demo", root=demo.root)
    rows = frame[frame["attack"] == "autoattack"]
    row = pair(frame, "AT-RWP", "AT-AWP", "autoattack").iloc[0]
    assert (row["only_defense"], row["only_against"]) == (0, 15)
    assert row["p_value"] == pytest.approx(stats.binomtest(0, 15).pvalue)
    ordered = rows.sort_values("p_value")
    first, second = ordered.iloc[0], ordered.iloc[1]
    assert first["p_holm"] == pytest.approx(9 * first["p_value"])
    assert second["p_holm"] == pytest.approx(8 * second["p_value"])
    assert (rows["p_holm"] >= rows["p_value"]).all()
    assert (ordered["p_holm"].diff().dropna() >= 0).all()


def test_seeds_have_a_row_each_and_one_together(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1]
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    rng = np.random.default_rng(0)
    for seed in (0, 1):
        write_flags(project, "at", rng.random(400) < 0.5, seed)
        write_flags(project, "at-rwp", rng.random(400) < (0.3, 0.8)[seed], seed)
    rows = pair(comparisons(project.params, "demo", root=tmp_path), "AT-RWP", "AT", "autoattack")
    assert list(rows["seed"]) == ["0", "1", "all"]
    lone, together = rows.iloc[0], rows.iloc[2]
    assert together["difference"] == pytest.approx(rows["difference"].iloc[:2].mean())
    # Seeds that disagree by 50 points make the joint interval wider than that of one seed.
    assert together["high"] - together["low"] > 2 * (lone["high"] - lone["low"])
    assert pd.isna(together["p_value"])


def test_records_that_are_missing_or_of_other_images_make_no_pair(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "fgsm", 260, data_sha256="2" * 64)
    (demo.root / key.directory / "evaluation/best/pgd-20.json").unlink()
    frame = comparisons(demo.params, "demo", root=demo.root)
    for attack in ("fgsm", "pgd-20", "all attacks"):
        assert pair(frame, "AT-RWP", "AT", attack).empty
    assert len(pair(frame, "AT-RWP", "AT", "cw-100")) == 1
    assert len(pair(frame, "AT-RWP", "AT-AWP", "fgsm")) == 1


def test_the_file_keeps_small_p_values_and_an_empty_suite_has_a_head(demo: Project) -> None:
    path = write_comparisons(demo.params, "demo", root=demo.root)
    assert path == demo.root / "results/demo/comparisons.csv"
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    demo.write_all()
    write_flags(demo, "at", np.arange(400) < 100)
    write_comparisons(demo.params, "demo", root=demo.root)
    row = pair(pd.read_csv(path), "AT-RWP", "AT", "autoattack").iloc[0]
    assert 0 < row["p_value"] < 1e-20


def test_the_report_says_which_difference_is_more_than_chance(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "own_figures", lambda *_, **__: iter(()))
    demo.write_all()
    write_flags(demo, "at", np.arange(400) < 100)
    text = render_report(demo.params, "demo", root=demo.root)
    assert "AT-RWP is better" in text
    assert "chance could do it" in text


def test_the_papers_size_takes_seconds(demo: Project) -> None:
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
    began = time.process_time()
    frame = comparisons(demo.params, "demo", root=demo.root)
    assert len(frame) == 63
    assert time.process_time() - began < 10
