"""The family around RWP at toy size, from a study of a few lines to its report."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from tests.conftest import ROOT, Project

STUDY = ROOT / "tests" / "pipeline" / "studies" / "toy.yaml"
RUNS = "results/toy/runs/digits"


@pytest.mark.slow
@pytest.mark.timeout(3600)  # on a machine that does much else
def test_each_kind_of_member_is_trained_attacked_and_shown(project_with_data: Project) -> None:
    project = project_with_data
    (project.folder / "studies").mkdir()
    shutil.copy(STUDY, project.folder / "studies")
    words = ("--quiet", "rules", "--", "suite_toy")
    done = project.snakemake(*words, timeout=3500)
    assert done.returncode == 0, done.stderr[-3000:]

    results = project.folder / "results" / "toy"
    second = pd.read_csv(results / "table2.csv", index_col="defense")
    assert list(second.index) == ["AT", "AT-RWP", "AT-MILD"]
    assert (second["worst_case"] <= second[["pgd20", "pgd-l2-4"]].min(axis=1) + 0.01).all()
    assert second["worst_case"].notna().all()
    beyond = pd.read_csv(results / "beyond.csv")
    assert len(beyond) == 5
    assert beyond[["natural", "pgd20", "pgd-l2-4"]].notna().all().all()
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "Worst case" in page
    assert (results / "moves.svg").exists()

    runs = project.folder / RUNS
    history = {
        name: [json.loads(line) for line in (runs / name / "history.jsonl").open()]
        for name in ("linf/small/at/seed0", "linf/small/at-then-rwp/seed0")
    }
    at, branch = history.values()
    assert [row["epoch"] for row in branch][-1] == at[-1]["epoch"] == 2
    losses = np.load(runs / "linf/small/at/seed0/losses.npz")
    assert {len(losses[name]) for name in losses.files} >= {3}  # one row per epoch
    starts = list((runs / "linf/small/at/seed0").rglob("start2*.pt"))
    assert len(starts) == 1
