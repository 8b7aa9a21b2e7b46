"""Whatever the tracking server does, the networks are the same, a minute late at most."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rwp.metric_names import panel_name
from tests.conftest import Project
from tests.faults.ledger import attempt
from tests.faults.processes import Result, Undisturbed, finish, rwp, spec_of, start
from tests.faults.sample import sample
from tests.faults.servers import KINDS, RealServer, bad_server
from tests.faults.test_kills import long_project, wait_for

LATE_SECONDS = 60.0


def train(project: Project, recipe: str, **environment: str) -> tuple[float, str]:
    """Train; how long it took and what it said."""
    started = time.monotonic()
    done = finish(start(project.folder, rwp("train", "--recipe", recipe), **environment))
    return time.monotonic() - started, done.stderr


def curve_at(address: str, recipe: str) -> tuple[Any, list[int]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("rwp-demo")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.recipe = '{recipe}'")
    points = client.get_metric_history(run.info.run_id, panel_name("learning_rate"))
    return run, [point.step for point in points]


@pytest.fixture(scope="module")
def usual_seconds(undisturbed: Undisturbed) -> float:
    """How long the command takes with the store in a file."""
    folder = undisturbed.project.folder / undisturbed.spec("at").key.directory
    shutil.rmtree(folder)
    seconds, _ = train(undisturbed.project, "at")
    return seconds


@pytest.mark.parametrize("kind", sample("servers", KINDS, 2))
def test_a_bad_server(
    kind: str, place: Project, undisturbed: Undisturbed, usual_seconds: float
) -> None:
    with bad_server(kind) as address, attempt(f"tracking server {kind}") as tried:
        seconds, said = train(place, "at", MLFLOW_TRACKING_URI=address)
        assert seconds < LATE_SECONDS + 3 * usual_seconds  # which may wait for other processes
        assert said.count("MLflow: no answer, training goes on without it") == 1
        assert "rwp track sync" in said
        folder = place.folder / undisturbed.spec("at").key.directory
        Result.read(folder).assert_equals(undisturbed.results["at"])
        tried.lost("none; curves wait for `rwp track sync`")


def test_a_server_that_dies_midway(
    place: Project, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """What it missed is uploaded from history.jsonl, once."""
    long_project(place, epochs=24)
    spec = spec_of(undisturbed.params, "at")
    folder = place.folder / spec.key.directory
    finish(start(place.folder, rwp("train", "--recipe", "at", "--no-tracking")))
    whole = Result.read(folder)
    shutil.rmtree(folder)
    server = RealServer(tmp_path / "server", place)
    server.start()
    address = {"MLFLOW_TRACKING_URI": server.address}
    try:
        with attempt("tracking server dies midway") as tried:
            process = start(place.folder, rwp("train", "--recipe", "at"), **address)
            wait_for(place.folder / ".state" / spec.key.name, "*/best-*.pt", process)
            server.kill()
            said = finish(process).stderr
            assert "training goes on without it" in said
            Result.read(folder).assert_equals(whole)
            server.start()
            run, steps = curve_at(server.address, "at")
            assert len(steps) < len(whole.rows)
            synced = finish(start(place.folder, rwp("track", "sync"), **address))
            assert f"{len(whole.rows) - len(steps)} epochs uploaded" in synced.stdout
            run, steps = curve_at(server.address, "at")
            assert run.info.status == "FINISHED"
            assert steps == [row["epoch"] for row in whole.rows]
            again = finish(start(place.folder, rwp("track", "sync"), **address))
            assert " 0 epochs uploaded" in again.stdout
            tried.lost("none; curves wait for `rwp track sync`")
    finally:
        server.kill()


@pytest.mark.parametrize("fault", ["is no database", "cannot be written"])
def test_a_store_in_a_file_that(fault: str, place: Project, undisturbed: Undisturbed) -> None:
    store = place.folder / "mlflow.db"
    if fault == "is no database":
        store.write_bytes(b"no database at all" * 100)
    else:
        store.mkdir()
    with attempt(f"MLflow's file {fault}") as tried:
        _, said = train(place, "at")
        assert "MLflow: no answer, training goes on without it" in said
        folder = place.folder / undisturbed.spec("at").key.directory
        Result.read(folder).assert_equals(undisturbed.results["at"])
        tried.lost("none; curves wait for `rwp track sync`")
