"""A training logs to an MLflow server on Postgres; `make test-mlflow-server`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.local_servers import mlflow_server, postgres, postgres_programs

from tests.conftest import Project

pytestmark = [
    pytest.mark.mlflow_server,
    pytest.mark.skipif(
        postgres_programs() is None, reason="no Postgres here: apt-get install postgresql"
    ),
]
RUN = "results/demo/runs/digits/linf/small/at"


@pytest.fixture
def server() -> Iterator[str]:
    # Not below tmp_path, where Postgres's own account may not look.
    with tempfile.TemporaryDirectory(prefix="rwp-server-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            postgres(folder / "postgres") as database,
            mlflow_server(database, folder / "mlflow") as address,
        ):
            yield address


def test_trainings_and_evaluations_log_to_the_server(
    server: str, project_with_data: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once, as a cluster's jobs do; nothing but the address says where."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    target = f"{RUN}/seed0/evaluation/best/fgsm.json"
    result = project_with_data.snakemake(target, f"{RUN}/seed1/run.json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert not (project_with_data.folder / "mlflow.db").exists()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("rwp-demo")
    assert experiment is not None
    runs = {run.data.tags["seed"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"0", "1"}
    for seed, run in runs.items():
        folder = project_with_data.folder / RUN / f"seed{seed}"
        assert run.info.status == "FINISHED"
        assert json.loads((folder / "run.json").read_text())["mlflow_run_id"] == run.info.run_id
        lines = (folder / "history.jsonl").read_text().splitlines()
        history = {row["epoch"]: row["train_loss"] for row in map(json.loads, lines)}
        curve = client.get_metric_history(run.info.run_id, "train_loss")
        assert {point.step: point.value for point in curve} == pytest.approx(history)
    assert "best_fgsm" in runs["0"].data.metrics


def test_nothing_but_the_loopback_can_reach_it(server: str) -> None:
    port = server.rpartition(":")[2]
    listening = subprocess.run(("ss", "-Hltn"), capture_output=True, text=True, check=True)
    places = {line.split()[3] for line in listening.stdout.splitlines()}
    assert {place for place in places if place.endswith(f":{port}")} == {f"127.0.0.1:{port}"}


def test_both_servers_end_with_their_user() -> None:
    before = _server_processes()
    with tempfile.TemporaryDirectory(prefix="rwp-server-") as name:
        Path(name).chmod(0o755)
        with postgres(Path(name) / "postgres"):
            assert _server_processes() - before
    assert _server_processes() <= before


def _server_processes() -> set[int]:
    found = set()
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
        except OSError:
            continue
        if b"postgres" in line.split(b"\0")[0] and int(folder.name) != os.getpid():
            found.add(int(folder.name))
    return found
