"""Which jobs the workflow plans, and that a target which cannot be built is one line."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, Project, tiny_settings
from tests.pipeline.repository import new_repository


def planned(project: Project, *targets: str) -> dict[str, int]:
    """Rule -> number of jobs of a dry run; the rules that train count together."""
    result = project.snakemake("-n", *targets)
    assert result.returncode == 0, result.stdout + result.stderr
    text = result.stdout + result.stderr
    if "Nothing to be done" in text:
        return {}
    block = text.split("Job stats:")[1].split("total")[0]
    jobs: Counter[str] = Counter()
    for name, count in re.findall(r"^([\w-]+)\s+(\d+)$", block, re.M):
        jobs["train" if name.startswith("train_") else name] += int(count)
    return dict(jobs)


@pytest.fixture
def committed_project(project: Project, committed: dict[str, Any]) -> Project:
    project.write(committed)
    return project


def test_the_demo(committed_project: Project) -> None:
    jobs = planned(committed_project)
    assert jobs["train"] == 13  # 9 defenses, 3 more under L2, the teacher
    assert jobs["evaluate_demo"] == jobs["autoattack_demo"] == jobs["diagnose"] == 10
    assert jobs["table1"] == jobs["table2"] == jobs["report"] == jobs["pseudo_label"] == 1
    assert jobs["figure"] == 2


def test_small_numbers_and_overrides_reach_the_jobs(committed_project: Project) -> None:
    """Snakemake's own reader takes 1e-5 for a text."""
    path = committed_project.folder / "params.yaml"
    text = path.read_text()
    assert text.count("weight_decay: 0.0005") > 1
    path.write_text(text.replace("weight_decay: 0.0005", "weight_decay: 5e-5"))
    target = "results/demo/runs/digits/linf/small/at/seed0/run.json"
    found = committed_project.snakemake("-n", "-p", target)
    assert '"weight_decay":5e-05' in found.stdout + found.stderr
    training = "weight_decay: 3e-5, epochs: 20, decay_epochs: [10, 15]"
    given = committed_project.folder / "given.yaml"
    given.write_text(f"suites: {{demo: {{training: {{{training}}}}}}}\n")
    for words in (
        ["--config", f"suites={{demo: {{training: {{{training}}}}}}}"],
        ["--configfile", "given.yaml"],
    ):
        found = committed_project.snakemake("-n", "-p", target, *words)
        told = found.stdout + found.stderr
        assert found.returncode == 0, told
        assert '"weight_decay":3e-05' in told
        assert '"decay_epochs":[10,15]' in told
        assert '"epochs":20' in told
    elsewhere = committed_project.folder / "elsewhere"
    elsewhere.mkdir()
    given.rename(elsewhere / "other.yaml")
    words = ["-s", "../Snakefile", "--directory", "..", "--configfile", "other.yaml"]
    found = subprocess.run(
        [Path(sys.executable).parent / "snakemake", "-n", "-p", target, *words],
        cwd=elsewhere,
        env=committed_project.environment(),
        capture_output=True,
        text=True,
    )
    assert '"epochs":20' in found.stdout + found.stderr, found.stderr
    found = committed_project.snakemake("-n", target, "--config", "suites={demo: {a: yes}}")
    assert found.returncode == 2
    assert "--config suites: expected" in found.stderr


def test_a_damaged_ledger_is_one_line(tmp_path: Path, committed: dict[str, Any]) -> None:
    project = new_repository(tmp_path, committed)
    (project.folder / "accepted.jsonl").write_text("garbage\n")
    found = project.snakemake("-n")
    assert found.returncode == 2
    lines = found.stderr.splitlines()
    assert "error: " in lines[-1]
    assert "accepted.jsonl: expected an entry of `rwp accept` at line 1" in lines[-1]
    assert "Traceback" not in found.stderr


def test_names_of_rules_that_would_be_alike(project: Project, committed: dict[str, Any]) -> None:
    """Of landscape `b_x` in suite `a` and `x` in `a_b`; of a run that `a` keeps and `a_kept0`."""
    content = tiny_settings(committed)
    shared = {"extends": "demo", "description": "d"}
    fig2 = content["suites"]["demo"]["figures"]["fig2"]
    content["suites"] |= {
        "a": shared | {"figures": {"b_x": fig2}},
        "a_b": shared | {"figures": {"x": fig2}},
        "a_kept0": shared,
    }
    project.write(content)
    found = project.snakemake("--list-rules")
    assert found.returncode == 0, found.stderr
    names = found.stdout.split()
    for name in ("landscape_a_b_x", "landscape_a_b_x_2", "train_a_kept0", "train_a_kept0_2"):
        assert names.count(name) == 1


@pytest.mark.slow
def test_a_suite_as_one_target(committed_project: Project) -> None:
    jobs, named = planned(committed_project), planned(committed_project, "suite_demo")
    assert jobs.pop("all") == named.pop("suite_demo") == 1
    assert jobs == named


@pytest.mark.slow
def test_the_papers_tables(committed_project: Project) -> None:
    assert planned(committed_project, "results/table1.csv") == {
        "fetch": 3,
        "train": 18,
        "table1": 1,
    }
    second = planned(committed_project, "results/table2.csv")
    assert second["train"] == 9 + 1  # and the teacher
    assert second["autoattack_paper"] == second["diagnose"] == 9


@pytest.mark.slow
def test_the_papers_figures(committed_project: Project) -> None:
    """AT is trained once, though eleven figures and two tables show it or runs beside it."""
    assert planned(committed_project, "results/fig2.svg") == {
        "fetch": 1,
        "train": 1,
        "landscape_paper_fig2": 1,
        "figure": 1,
    }
    names = ["1a", "1b", "1c", "2", "3a", "3b", "3c", "4a", "4b", "4c", "4d"]
    targets = [f"results/fig{name}.svg" for name in names]
    jobs = planned(committed_project, "results/table1.csv", "results/table2.csv", *targets)
    sweeps = 6 + 6 + 9 + 9  # figures 1a, 1c, 3a and 3b, less what the tables have
    removal = 2 + 2 + 1 + 2  # figure 4; AT on CIFAR-100 with the Wide ResNet is new, too
    assert jobs["train"] == 18 + 9 + 1 + sweeps + removal
    assert jobs["figure"] == len(names)
    assert jobs["autoattack_paper"] == 9


@pytest.mark.slow
def test_the_papers_report_has_what_goes_beyond(committed_project: Project) -> None:
    jobs = planned(committed_project, "results/report.html")
    # EMA, AT-20, four corners between AWP and RWP, SVHN's other c_min, two other masks.
    assert jobs["train"] == 18 + 9 + 1 + 30 + 7 + 2 + 4 + 1 + 2
    assert jobs["beyond"] == jobs["report"] == 1


BAD_TARGETS = {
    "results/demo/table9.csv": "expected a file that the workflow makes, got another",
    "results/demo/runs/digits/none/small/at/seed0/last.pt": "expected a threat model",
    "results/quick/fig4c.svg": "expected a figure (",
    "nonsense": "expected a file that the workflow makes",
    "results/demo/runs/digits/linf/small/natural/seed0/last.pt": "expected results/demo/runs/digits"
    "/none/small/natural/seed0/last.pt, which is the same",
}


@pytest.mark.parametrize("target", BAD_TARGETS)
def test_a_target_that_cannot_be_built(target: str, project: Project) -> None:
    result = project.snakemake("-n", target)
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"error: {target}: ")
    assert BAD_TARGETS[target] in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "place", ["results/demo/runs/digits/linf/small/at/seed0", "data", ".snakemake"]
)
def test_a_file_in_a_folders_place(place: str, project: Project) -> None:
    path = project.folder / place
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("notes")
    result = project.snakemake("results/demo/table2.csv")
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line == f"error: {place}: expected a folder, got a file; move it away"
    assert "Traceback" not in result.stderr
    assert path.read_text() == "notes"


@pytest.mark.slow
def test_settings_that_cannot_run_are_one_line(project: Project) -> None:
    content = yaml.safe_load((project.folder / "params.yaml").read_text())
    del content["suites"]["demo"]["perturbations"]["rwp"]["c_min"]
    project.write(content)
    result = project.snakemake("-n")
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert "perturbations.rwp.c_min: expected a value for digits/linf" in line
    assert "got none; add one" in line


@pytest.mark.slow
@pytest.mark.parametrize("target", ["suite_x", "results/x/fig2.svg", "results/demo/table1.csv"])
def test_a_fault_in_a_suite_is_one_line_where_that_is_asked_for(
    target: str, project: Project
) -> None:
    """Its landscape looks at an epoch that the training does not have."""
    content = yaml.safe_load((project.folder / "params.yaml").read_text())
    figure = content["suites"]["demo"]["figures"]["fig2"] | {"epochs": [10, 20]}
    epochs = {"default": 30, "digits": 16}
    content["suites"]["x"] = {
        "extends": "demo",
        "training": {"epochs": epochs},
        "figures": {"fig2": figure},
    }
    content["build"] = ["demo", "x"]
    project.write(content)
    result = project.snakemake("-n", target)
    assert "Traceback" not in result.stderr
    if target.startswith("results/demo/"):
        assert result.returncode == 0, result.stderr
        return
    assert result.returncode == 2
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "suites.x.figures.fig2.epochs: expected at most the 16 epochs of x/digits" in line


@pytest.mark.slow
def test_a_missing_paper_source_fails_before_any_rst_training(committed_project: Project) -> None:
    """The published 500K images are the user's to give; the message says how to change that."""
    result = committed_project.snakemake("data/unlabeled/tinyimages-500k.pt")
    assert result.returncode != 0
    log = committed_project.folder / "logs/fetch/unlabeled-tinyimages-500k.log"
    assert "error: " in log.read_text()
    assert "expected" in log.read_text()


@pytest.mark.slow
def test_gpus_of_one_training_are_a_setting(project: Project, settings: dict[str, Any]) -> None:
    target = "results/runs/cifar10/linf/wrn-34-10/at/seed0/run.json"
    (project.folder / "workflow").unlink()
    shutil.copytree(ROOT / "workflow", project.folder / "workflow")
    rules = project.folder / "workflow/rules/train.smk"  # a job tells its message or its resources
    rules.write_text(re.sub(r"\n *message:\n.*", "", rules.read_text()))
    for gpus in (1, 4):
        settings["suites"]["paper"]["training"]["gpus"] = {"default": 1, "wrn-34-10": gpus}
        project.write(settings)
        result = project.snakemake("-n", "-p", target)
        said = result.stdout + result.stderr
        assert f"--gpus {gpus} >" in said  # the job's resource `gpu`
        assert f"cpus_per_task={gpus}" in said
        assert f"mem_mb={16000 * gpus}" in said
