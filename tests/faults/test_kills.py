"""Real processes, really killed: they end in the same bits, in the same MLflow run."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rwp.metric_names import panel_name
from rwp.tracking import connect
from tests.conftest import Project
from tests.faults.conftest import new_project
from tests.faults.forks import Fork
from tests.faults.ledger import attempt
from tests.faults.processes import (
    DEFENSES,
    RECIPES,
    Result,
    Undisturbed,
    finish,
    leftovers,
    rwp,
    spec_of,
    start,
    victim,
)
from tests.faults.sample import sample

KILLS = 3  # per recipe


@pytest.fixture(scope="module")
def crime_scene(
    tmp_path_factory: pytest.TempPathFactory,
    digits: Path,
    brief: dict[str, Any],
    undisturbed: Undisturbed,
) -> Project:
    """A project with data, teacher and pseudo-labels, and an MLflow store of its own."""
    folder = tmp_path_factory.mktemp("scene")
    project = new_project(folder, digits, brief)
    teacher = undisturbed.spec("natural").key.directory
    shutil.copytree(undisturbed.project.folder / teacher, folder / teacher)
    labels = "results/demo/pseudo_labels"
    shutil.copytree(undisturbed.project.folder / labels, folder / labels)
    return project


def mlflow_runs(project: Project, recipe: str) -> list[Any]:
    client, experiment = connect(project.folder, "demo")
    return [
        (run, client.get_metric_history(run.info.run_id, panel_name("learning_rate")))
        for run in client.search_runs([experiment], f"tags.recipe = '{recipe}'")
    ]


def kill_points(recipe: str, num_steps: int, count: int = KILLS) -> list[tuple[int, bool]]:
    """Batches at random, each counted from the process's start, before or within the batch."""
    draw = random.Random(f"kill {recipe}")
    share = num_steps // count
    return [(draw.randint(1, share), draw.random() < 0.5) for _ in range(count)]


@pytest.mark.parametrize("recipe", sample("killed recipes", RECIPES, 3))
def test_killed_at_random_batches(
    recipe: str, crime_scene: Project, undisturbed: Undisturbed
) -> None:
    project, expected = crime_scene, undisturbed.results[recipe]
    folder = project.folder / undisturbed.spec(recipe).key.directory
    shutil.rmtree(folder, ignore_errors=True)
    # Every other recipe saves after each step, so that it goes on from within an epoch.
    seconds = 0 if sorted(undisturbed.results).index(recipe) % 2 else 300
    command = ("train", "--recipe", recipe)
    role = "teacher" if recipe == "natural" else "training"
    points = sample(f"kill {recipe}", kill_points(recipe, undisturbed.num_steps[recipe]), 1)
    with attempt(f"kill -9 of a {role} at a random batch", len(points)):
        for count, before in points:
            plan = {"kill_after_steps": count, "before": before, "checkpoint_seconds": seconds}
            finish(start(project.folder, victim(plan, *command)), code=-signal.SIGKILL)
            assert not folder.exists()
        finish(start(project.folder, rwp(*command)))
        Result.read(folder).assert_equals(expected)
        ((run, curve),) = mlflow_runs(project, recipe)
        assert run.info.status == "FINISHED"
        assert run.info.run_id == Result.read(folder).record["mlflow_run_id"]
        assert sorted({point.step for point in curve}) == [row["epoch"] for row in expected.rows]
        assert leftovers(project.folder) == []


def test_killed_while_labeling(crime_scene: Project, undisturbed: Undisturbed) -> None:
    project = crime_scene
    mix = undisturbed.spec("rst").unlabeled
    assert mix is not None
    labels = project.folder / mix.labeling.path
    whole = labels.read_bytes()
    # Of two writes: the labels, their summary.
    moments = list(itertools.product(("begun", "written", "named"), (1, 2)))
    for moment, number in sample("killed labelings", moments, 2):
        shutil.rmtree(labels.parent)
        with attempt("kill -9 of a pseudo-label job at each of its writes"):
            plan = {"kill_at_write": number, "moment": moment}
            finish(start(project.folder, victim(plan, "pseudo-label")), code=-signal.SIGKILL)
            finish(start(project.folder, rwp("pseudo-label")))
            assert labels.read_bytes() == whole
            assert leftovers(labels.parent) == []


def test_killed_while_attacking(crime_scene: Project, undisturbed: Undisturbed) -> None:
    """AutoAttack goes on at the batch where it was; the record is the same."""
    project, key = crime_scene, undisturbed.spec("at").key
    folder = project.folder / key.directory
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(undisturbed.project.folder / key.directory, folder)
    command = ("evaluate", "--checkpoint", str(key.directory / "best.pt"))
    record = folder / "evaluation" / "best" / "autoattack.json"

    def outcome() -> tuple[str, str]:
        content = json.loads(record.read_text())
        return content["robust_bits"], content["parts"]

    short = {"short_autoattack": True}
    finish(start(project.folder, victim(short, *command)))
    whole = outcome()
    shutil.rmtree(folder / "evaluation")
    with attempt("kill -9 of an evaluation at a random write", 3):
        for number, moment in ((3, "begun"), (4, "named"), (1, "written")):
            plan = short | {"kill_at_write": number, "moment": moment}
            finish(start(project.folder, victim(plan, *command)), code=-signal.SIGKILL)
        finish(start(project.folder, victim(short, *command)))
        assert outcome() == whole
        assert leftovers(folder) == []


def wait_for(state: Path, pattern: str, process: Fork | subprocess.Popen[bytes]) -> None:
    """Wait until a training has written a file of its resume state."""
    while not list(state.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.02)


def long_project(project: Project, epochs: int) -> None:
    """Make its trainings long enough to be met at work."""
    path = project.folder / "params.yaml"
    content = yaml.safe_load(path.read_text())
    content["suites"]["demo"]["training"]["epochs"] = epochs
    project.write(content)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_saves_and_leaves(
    number: signal.Signals, place: Project, undisturbed: Undisturbed
) -> None:
    """Slurm and people: before the next step, and the next call goes on from that very step."""
    spec = undisturbed.spec("at-rwp")
    folder, command = place.folder / spec.key.directory, ("train", "--recipe", "at-rwp")
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C (SIGINT)"
    step = undisturbed.num_steps["at-rwp"] // 2
    with attempt(f"{name} to a training"):
        plan = {"kill_after_steps": step, "signal": number}
        done = finish(start(place.folder, victim(plan, *command)), code=143)
        assert "the same command goes on from here" in done.stderr
        assert not folder.exists()
        plan = {"kill_after_steps": undisturbed.num_steps["at-rwp"] - step + 1}
        finish(start(place.folder, victim(plan, *command)))  # no step is done twice
        Result.read(folder).assert_equals(undisturbed.results["at-rwp"])
        assert leftovers(place.folder) == []


def test_a_second_process_is_refused(place: Project, undisturbed: Undisturbed) -> None:
    long_project(place, epochs=40)
    spec = spec_of(undisturbed.params, "at")
    command = rwp("train", "--recipe", "at", "--no-tracking")
    with attempt("a second process on the same run"):
        first = start(place.folder, command)
        wait_for(place.folder / ".state" / spec.key.name, "*/checkpoint.pt", first)
        second = finish(start(place.folder, command), code=2)
        (line,) = second.stderr.strip().splitlines()
        assert "expected to train this run alone, found another process at it" in line
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        finish(first, code=143)


def test_ctrl_c_and_kill_of_snakemake(place: Project, undisturbed: Undisturbed) -> None:
    """The engine goes down with its jobs; the next call goes on and ends in the same bits."""
    key = undisturbed.spec("at").key
    target = str(key.directory / "last.pt")
    words = ["snakemake", "--cores", "1", target]
    long_project(place, epochs=12)
    finish(start(place.folder, rwp("train", "--recipe", "at", "--no-tracking")))
    whole = Result.read(place.folder / key.directory)
    for number, fault in (
        (signal.SIGINT, "Ctrl-C to Snakemake while it trains"),
        (signal.SIGKILL, "kill -9 of Snakemake and all its jobs"),
    ):
        shutil.rmtree(place.folder / "results")
        shutil.rmtree(place.folder / ".state", ignore_errors=True)
        with attempt(fault):
            process = subprocess.Popen(
                words,
                cwd=place.folder,
                env=place.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            wait_for(place.folder / ".state" / key.name, "*/best-*.pt", process)
            os.killpg(process.pid, number)
            process.wait()
            assert process.returncode != 0
            place.snakemake("--unlock")
            again = place.snakemake(target, timeout=600)
            assert again.returncode == 0, again.stderr
            Result.read(place.folder / key.directory).assert_equals(whole)
            assert leftovers(place.folder) == []


def test_eight_at_once_into_a_fresh_store(place: Project, undisturbed: Undisturbed) -> None:
    """The same bits as alone, and no epoch or run is missing in the store they all create."""
    teacher = undisturbed.spec("natural").key.directory
    for part in ("results/demo/pseudo_labels", str(teacher)):
        shutil.copytree(undisturbed.project.folder / part, place.folder / part)
    recipes = DEFENSES[1:]
    assert len(recipes) == 8
    assert not (place.folder / "mlflow.db").exists()
    processes = {
        recipe: start(place.folder, rwp("train", "--recipe", recipe)) for recipe in recipes
    }
    logs = {recipe: finish(process).stderr for recipe, process in processes.items()}
    for recipe in recipes:
        folder = place.folder / undisturbed.spec(recipe).key.directory
        with attempt("eight trainings at once: the same bits as alone"):
            Result.read(folder).assert_equals(undisturbed.results[recipe])
        with attempt("eight trainings at once into a SQLite store created at that moment"):
            assert "MLflow" not in logs[recipe]
            ((run, curve),) = mlflow_runs(place, recipe)
            assert run.info.status == "FINISHED"
            epochs = [row["epoch"] for row in undisturbed.results[recipe].rows]
            assert [point.step for point in curve] == epochs
