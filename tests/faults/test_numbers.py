"""Runs that go wrong are stopped and named; the others of the DAG go on."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.metric_names import panel_name
from rwp.tracking import connect
from rwp.training import jobs, resume
from rwp.training.checkpoint import load_network
from rwp.training.loop import Training
from tests.conftest import tiny_settings
from tests.faults.conftest import new_project
from tests.faults.ledger import attempt
from tests.faults.processes import Undisturbed, leftovers
from tests.faults.sample import sample
from tests.pipeline.repository import without_autoattack

RUNS = "results/demo/runs/digits/linf/small"
BAD = {"trades": "diverged", "still": "collapsed"}  # a rate of 1e30, and one of 1e-12


def bad_settings(committed: dict[str, Any]) -> dict[str, Any]:
    """One defense that trains, one that diverges by itself, one that never leaves its start."""
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["training"]["learning_rate"] = {"default": 0.2, "trades": 1e30, "still": 1e-12}
    demo["training"]["epochs"] = 4
    demo["objectives"]["still"] = {"loss": "at"}
    demo["recipes"]["still"] = {"objective": "still"}
    demo["training"]["attack_bn_mode"]["still"] = "train"
    recipes = ["at", "trades", "still"]
    demo["table1"] |= {"threat_models": ["linf"], "recipes": recipes}
    demo["table2"] |= {"recipes": recipes, "reference_recipe": None}
    without_autoattack(demo)
    return content


def test_the_dag_goes_on_around_them(
    tmp_path: Path, digits: Path, committed: dict[str, Any]
) -> None:
    project = new_project(tmp_path / "project", digits, bad_settings(committed))
    with attempt("a training that diverges, and one that collapses, in a DAG", 2):
        built = project.snakemake(timeout=1800)
        assert built.returncode == 0, built.stderr
        client, experiment = connect(project.folder, "demo")
        for recipe in ("at", *BAD):
            record = json.loads((project.folder / RUNS / recipe / "seed0/run.json").read_text())
            (run,) = client.search_runs([experiment], f"tags.recipe = '{recipe}'")
            status = BAD.get(recipe, "finished")
            assert record["status"] == status
            assert (record["reason"] is None) == (status == "finished")
            assert run.info.status == ("FINISHED" if status == "finished" else "FAILED")
            assert run.data.tags["outcome"] == status
            load_network(project.folder / RUNS / recipe / "seed0/last.pt")
            if status != "diverged":  # the last epoch of a collapse is told as well
                history = (project.folder / RUNS / recipe / "seed0/history.jsonl").read_text()
                points = client.get_metric_history(run.info.run_id, panel_name("learning_rate"))
                assert len(points) == len(history.splitlines())
        with (project.folder / "results/demo/table2.csv").open() as stream:
            rows = {row["defense"]: row for row in csv.DictReader(stream)}
        assert float(rows["AT"]["pgd20"]) >= 0
        assert {rows[name.upper()]["pgd20"] for name in BAD} == {""}
        with (project.folder / "results/demo/table2_details.csv").open() as stream:
            details = [row for row in csv.DictReader(stream) if row["attack"] == "pgd-20"]
            found = {row["defense"]: row["status"] for row in details}
        assert {name: found[name.upper()] for name in BAD} == BAD
        report = (project.folder / "results/demo/report.html").read_text()
        assert all(status in report for status in BAD.values())
        assert leftovers(project.folder) == []


def test_a_job_that_fails_does_not_stop_the_others(
    tmp_path: Path, digits: Path, committed: dict[str, Any]
) -> None:
    """`keep-going` is the profile's default."""
    project = new_project(tmp_path / "project", digits, bad_settings(committed))
    blocked = project.folder / ".state/demo/digits/linf/small/trades"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    with attempt("a job that fails in a DAG"):
        targets = [f"{RUNS}/{recipe}/seed0/last.pt" for recipe in ("trades", "at", "still")]
        built = project.snakemake(*targets, timeout=1800)
        assert built.returncode != 0
        log = (project.folder / f"logs/train/{RUNS}/trades/seed0.log").read_text()
        assert log.startswith("error: ")
        assert f"{blocked}/seed0" in log
        assert "expected a file or folder that can be used, got Not a directory" in log
        for recipe in ("at", "still"):
            assert (project.folder / RUNS / recipe / "seed0/run.json").exists()


PLANTS = {
    "NaN in the loss": lambda t: t.tally.sums["loss"].add_(math.nan),
    "an infinite loss": lambda t: t.tally.sums["loss"].add_(math.inf),
    "an infinite weight": lambda t: next(t.model.parameters()).data.view(-1)[0].fill_(math.inf),
    "NaN in the optimizer": lambda t: next(iter(t.optimizer.state.values()))[
        "momentum_buffer"
    ].fill_(math.nan),
    "a weight perturbation that explodes": lambda t: t.tally.sums["norm_ratio"].add_(math.inf),
}


LOOKS = ("within the epoch", "before each checkpoint", "at its end")
PLANTED = sample("planted", list(itertools.product(PLANTS, LOOKS)), 4)


@pytest.mark.parametrize(("fault", "looks"), PLANTED)
def test_stopped_within_an_epoch(
    fault: str,
    looks: str,
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the second of three epochs: what is saved is the last state that was in order."""
    original, steps, planted = Training._step, [], []

    def step(self: Training, batch: Any) -> None:
        original(self, batch)
        steps.append((self.progress.epoch, self.progress.step))
        if steps[-1] == (1, 5):
            planted.append(len(steps))
            PLANTS[fault](self)

    monkeypatch.setattr(Training, "_step", step)
    monkeypatch.setattr(resume, "LOOK_SECONDS", 0 if looks == "within the epoch" else 1e9)
    seconds = 0 if looks == "before each checkpoint" else 300  # a bad state must not be saved
    monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", seconds)
    with attempt(f"{fault}, planted"):
        folder = jobs.train_run(
            undisturbed.spec("at-rwp"),
            root=undisturbed.project.folder,
            fingerprint=f"numbers {fault} {looks}",
            output=tmp_path,
        )
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "diverged"
        assert "epoch 1" in record["reason"]
        assert {epoch for epoch, _ in steps} == {0, 1}
        if looks != "at its end" and "explodes" not in fault:
            assert len(steps) - planted[0] <= 2
        model, _ = load_network(folder / "last.pt")
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())
        load_network(folder / "best.pt")
        rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert rows[0]["epoch"] == 0
