"""A training logs to an MLflow server on Postgres; `make test-mlflow-server`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.local_servers import mlflow_server, postgres, postgres_programs

from rwp.metric_names import panel_name
from tests.conftest import ROOT, Project

pytestmark = [
    pytest.mark.mlflow_server,
    pytest.mark.timeout(1200),
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
    result = project_with_data.snakemake(target, f"{RUN}/seed1/run.json", timeout=900)
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
        record = json.loads((folder / "run.json").read_text())
        assert record["mlflow_run_id"] == run.info.run_id
        assert run.data.tags["outcome"] == record["status"]  # so short a training may collapse
        assert (run.info.status == "FINISHED") == (record["status"] == "finished")
        lines = (folder / "history.jsonl").read_text().splitlines()
        history = {row["epoch"]: row["train_loss"] for row in map(json.loads, lines)}
        curve = client.get_metric_history(run.info.run_id, panel_name("train_loss"))
        if record["status"] != "finished":
            history.popitem()  # the epoch at which the guards stopped it is in the file alone
        assert {point.step: point.value for point in curve} == pytest.approx(history)
    assert "evaluation_best/fgsm" in runs["0"].data.metrics


CONNECT = """
import sys, time
from pathlib import Path
from rwp.tracking import connect
import mlflow
time.sleep(max(0.0, float(sys.argv[1]) - time.time()))
print(connect(Path.cwd(), "demo")[1])
"""


def test_jobs_that_meet_a_new_server_together(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them makes the experiment, and all use it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    words = [sys.executable, "-c", CONNECT, str(time.time() + 40)]
    jobs = [
        subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    found = [job.communicate(timeout=300)[0].strip() for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 6
    assert len(set(found)) == 1


def test_nothing_but_the_loopback_can_reach_it(server: str) -> None:
    port = server.rpartition(":")[2]
    listening = subprocess.run(("ss", "-Hltn"), capture_output=True, text=True, check=True)
    places = {line.split()[3] for line in listening.stdout.splitlines()}
    assert {place for place in places if place.endswith(f":{port}")} == {f"127.0.0.1:{port}"}


HOLD = """
import sys, time
from pathlib import Path
from benchmarks.local_servers import mlflow_server, postgres
folder = Path(sys.argv[1])
with postgres(folder / "postgres") as database, mlflow_server(database, folder / "mlflow"):
    print("up", flush=True)
    time.sleep(600)
"""


def test_both_servers_end_with_their_user() -> None:
    """Also where he is killed outright."""
    with tempfile.TemporaryDirectory(prefix="rwp-server-") as name:
        Path(name).chmod(0o755)
        words = (sys.executable, "-c", HOLD, name)
        user = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert user.stdout is not None
        assert user.stdout.readline() == "up\n"
        assert len(_processes_of(name)) >= 2
        user.kill()
        user.communicate(timeout=20)
        deadline = time.monotonic() + 60
        while _processes_of(name) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not _processes_of(name)


def _processes_of(folder: str) -> list[int]:
    """Those that name the folder, in their command line or their environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            texts = [(process / name).read_bytes() for name in ("cmdline", "environ")]
        except OSError:
            continue
        if any(f"{folder}/".encode() in text for text in texts):
            found.append(int(process.name))
    return found
