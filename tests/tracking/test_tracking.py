"""MLflow mirrors trainings, and whatever it does, training goes on."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rwp.errors import UserError
from rwp.metric_names import LOSS_GROUPS, evaluation_metrics, panel_metrics
from rwp.pipeline.settings import Params
from rwp.tracking import Tracker, _no_server, _timed, connect, log_evaluation, page_links
from rwp.training.history import GROUP_EDGES
from rwp.training.jobs import train_run
from rwp.training.spec import TrainSpec
from tests.conftest import ROOT
from tests.training.conftest import shared_root, spec_of, tiny  # noqa: F401 (fixtures)


@pytest.fixture
def spec(tiny: Params) -> TrainSpec:  # noqa: F811
    return spec_of(tiny, "at-rwp")


@pytest.fixture(autouse=True)
def _local_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def row(epoch: int) -> dict[str, object]:
    return {
        "epoch": epoch,
        "train_loss": 2.0 - epoch,
        "loss_histogram": [0.25, 0.75, 0, 0, 0, 0, 0],
    }


def test_a_long_outage_takes_several_requests(spec: TrainSpec, tmp_path: Path) -> None:
    rows = [row(epoch) for epoch in range(150)]  # of 8 metrics each
    assert tracker(spec, tmp_path).sync(rows, "finished") == 150
    client, experiment = connect(tmp_path, "demo")
    (run,) = client.search_runs([experiment])
    points = client.get_metric_history(run.info.run_id, "loss/train")
    assert sorted(point.step for point in points) == list(range(150))


def test_a_server_that_was_away_hears_of_the_end(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: Tracker) -> None:
        raise ConnectionError("away")

    listener = tracker(spec, tmp_path)
    listener.start(None)
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "_flush", away)
        listener.epoch(row(0))
    listener.epoch(row(1))  # it is left alone for a while
    listener.finish("finished", {})
    client, experiment = connect(tmp_path, "demo")
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    points = client.get_metric_history(run.info.run_id, "loss/train")
    assert sorted(point.step for point in points) == [0, 1]


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_is_trained_again_is_running(
    known: bool, spec: TrainSpec, tmp_path: Path
) -> None:
    """Found by its id or by its tags; only then another's upload leaves it the current one."""
    first = tracker(spec, tmp_path)
    first.start(None)
    first.finish("finished", {})
    tracker(spec, tmp_path).start(first.run_id if known else None)
    client, experiment = connect(tmp_path, "demo")
    (run,) = client.search_runs([experiment])
    assert run.info.status == "RUNNING"


def tracker(spec: TrainSpec, root: Path, fingerprint: str = "f" * 16) -> Tracker:
    return Tracker(spec, root=root, fingerprint=fingerprint, commit="abc")


def test_one_run_with_parameters_tags_and_curves(spec: TrainSpec, tmp_path: Path) -> None:
    first = tracker(spec, tmp_path)
    first.start(None)
    first.epoch(row(0))
    first.finish("interrupted", {})
    resumed = tracker(spec, tmp_path)
    resumed.start(None)  # found again by its tags, also without a remembered id
    assert resumed.run_id == first.run_id
    resumed.epoch(row(1))
    resumed.finish("finished", {"folder": "results/somewhere"})
    log_evaluation(
        resumed.run_id, evaluation_metrics("best", {"pgd-20": 0.5}), root=tmp_path, suite="demo"
    )

    client, experiment = connect(tmp_path, "demo")
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "at-rwp digits linf small seed0"
    tags, values = run.data.tags, run.data.params
    wanted = {"recipe": "at-rwp", "dataset": "digits", "threat": "linf", "seed": "0"}
    assert wanted.items() <= tags.items()
    assert (tags["current"], tags["commit"], tags["run"]) == ("true", "abc", spec.key.name)
    assert tags["folder"] == "results/somewhere"
    again = tracker(spec, tmp_path)
    again.start(None)  # the same training, its results deleted
    assert again.run_id == first.run_id
    assert values["perturbation.c_min"] == "2.3"
    curve = client.get_metric_history(run.info.run_id, "loss/train")
    assert [(point.step, point.value) for point in curve] == [(0, 2.0), (1, 1.0)]
    assert run.data.metrics["loss_group/0.5-1.0"] == 0.75
    assert run.data.metrics["best/pgd-20"] == 50


def test_every_panel_of_an_epoch(shared_root: Path, tmp_path: Path, spec: TrainSpec) -> None:  # noqa: F811
    folder = train_run(spec, root=shared_root, fingerprint="f", output=tmp_path)
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    found = dict(panel_metrics(last))
    assert {
        "lsc/share_below_c_min",
        "lsc/share_removed",
        "weight_perturbation/steps",
        "weight_perturbation/norm_ratio",
        "weight_perturbation/loss_rise",
        "accuracy/train_robust",
        "accuracy/held_out_robust",
        "accuracy/test_robust",
        "accuracy/test_clean",
        "loss/train",
        "schedule/learning_rate",
        "speed/images_per_second",
    } <= found.keys()
    assert not [name for name in found if name.startswith("other/")]
    assert sum(found[f"loss_group/{group}"] for group in LOSS_GROUPS) == pytest.approx(1)
    edges = [group.partition("-")[2] for group in LOSS_GROUPS[:-1]]
    assert tuple(map(float, edges)) == GROUP_EDGES


def test_other_settings_get_a_run_of_their_own(spec: TrainSpec, tmp_path: Path) -> None:
    old, new = tracker(spec, tmp_path), tracker(spec, tmp_path, "e" * 16)
    old.start(None)
    old.finish("finished", {"folder": "results/somewhere"})
    new.start(None)
    client, _ = connect(tmp_path, "demo")
    assert client.get_run(old.run_id).data.tags["current"] == "false"
    assert client.get_run(new.run_id).data.tags["current"] == "true"
    names = [client.get_run(one.run_id).info.run_name for one in (old, new)]
    assert names == ["at-rwp digits linf small seed0", "at-rwp #2 digits linf small seed0"]
    back = tracker(spec, tmp_path)  # the first settings again
    back.start(None)
    assert back.run_id == old.run_id
    assert client.get_run(old.run_id).data.tags["current"] == "true"
    assert client.get_run(new.run_id).data.tags["current"] == "false"


def test_accuracies_are_in_percent_throughout() -> None:
    found = dict(panel_metrics({"epoch": 3, "test_robust_accuracy": 0.25, "norm_ratio": 0.01}))
    assert found == {"accuracy/test_robust": 25.0, "weight_perturbation/norm_ratio": 0.01}
    assert evaluation_metrics("last", {"natural": 0.5}) == {"last/natural": 50.0}


def test_a_link_opens_each_suite_with_its_accuracies(spec: TrainSpec, tmp_path: Path) -> None:
    assert page_links(tmp_path, "http://127.0.0.1:1") == {}
    client, experiment = connect(tmp_path, "demo")
    link = page_links(tmp_path, "http://127.0.0.1:1")["demo"]
    assert link.startswith(f"http://127.0.0.1:1/#/experiments/{experiment}/runs?")
    name = link.partition("viewStateShareKey=")[2]
    view = json.loads(client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{name}"])
    assert "metrics.`best/autoattack`" in view["selectedColumns"]
    client.delete_experiment_tag(experiment, f"mlflow.sharedViewState.{name}")  # an older store
    page_links(tmp_path, "http://127.0.0.1:1")
    assert f"mlflow.sharedViewState.{name}" in client.get_experiment(experiment).tags


def test_a_database_of_another_version_says_how_to_upgrade(tmp_path: Path) -> None:
    old = RuntimeError("Detected out-of-date database schema (found version a, but expected b)")
    text = str(_no_server(tmp_path, old))
    assert "run: mlflow db upgrade sqlite:///" in text
    assert "expected a database of this version of MLflow, got Detected out-of-date" in text


def test_epochs_that_are_uploaded_later_are_as_far_apart_as_they_took() -> None:
    rows = [{"epoch": epoch, "seconds": seconds} for epoch, seconds in enumerate((5, 20, 7))]
    times = [when for when, _ in _timed(rows)]
    assert times[1] - times[0] == pytest.approx(20_000, abs=2)
    assert times[2] - times[1] == pytest.approx(7_000, abs=2)
    assert times[2] <= time.time() * 1000


def test_pages_of_a_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"expected a tracking server, got .*start it"):
        page_links(tmp_path, "http://127.0.0.1:9")


@pytest.mark.slow
def test_eight_processes_create_the_store_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from rwp.tracking import connect\n"
        "client, experiment = connect(Path(sys.argv[1]), 'demo')\n"
        "run = client.create_run(experiment)\n"
        "for step in range(20): client.log_metric(run.info.run_id, 'm', step, step=step)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE) for _ in range(8)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    client, experiment = connect(tmp_path, "demo")
    runs = client.search_runs([experiment])
    assert len(runs) == 8
    assert all(len(client.get_metric_history(run.info.run_id, "m")) == 20 for run in runs)


class _Broken(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["absent", "500", "hangs"])
def bad_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if request.param == "hangs":
            listener.listen()
            yield f"http://127.0.0.1:{port}"
            return
    if request.param == "absent":
        yield f"http://127.0.0.1:{port}"
        return
    server = HTTPServer(("127.0.0.1", port), _Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{port}"
    server.shutdown()


def test_a_bad_server_costs_a_warning_and_little_time(
    bad_server: str,
    spec: TrainSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bad_server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    caplog.set_level(logging.WARNING, "rwp.tracking")
    listener = tracker(spec, tmp_path)
    started = time.monotonic()
    listener.start(None)
    for epoch in range(50):
        listener.epoch(row(epoch))
    listener.finish("finished", {})
    assert time.monotonic() - started < 60
    assert "training goes on without it" in caplog.text
    assert len(caplog.records) == 1


def test_what_an_outage_held_back_is_uploaded_once(spec: TrainSpec, tmp_path: Path) -> None:
    during = tracker(spec, tmp_path)
    during.start(None)
    during.epoch(row(0))
    rows = [row(epoch) | {"seconds": 3.0} for epoch in range(3)]
    assert tracker(spec, tmp_path).sync(rows, "finished") == 2
    assert tracker(spec, tmp_path).sync(rows, "finished") == 0
    client, experiment = connect(tmp_path, "demo")
    (run,) = client.search_runs([experiment])
    points = client.get_metric_history(run.info.run_id, "loss/train")
    assert [point.step for point in points] == [0, 1, 2]
    times = [point.timestamp for point in points]
    assert times == sorted(set(times))


@pytest.mark.parametrize("ended", [False, True])
def test_sync_takes_the_tag_from_no_run_in_training(
    ended: bool, spec: TrainSpec, tmp_path: Path
) -> None:
    """Retrained by hand under other settings, the old results lie there until the new ones do."""
    old, new = (tracker(spec, tmp_path, letter * 16) for letter in "ab")
    old.start(None)
    old.finish("finished", {})
    new.start(None)
    if ended:
        new.finish("interrupted", {})
    tracker(spec, tmp_path, "a" * 16).sync([row(0)], "finished")
    client, _ = connect(tmp_path, "demo")
    tags = [client.get_run(one.run_id).data.tags["current"] for one in (old, new)]
    assert tags == (["true", "false"] if ended else ["false", "true"])
    tracker(spec, tmp_path, "b" * 16).start(new.run_id)  # it goes on
    assert client.get_run(new.run_id).data.tags["current"] == "true"


def test_sync_without_a_server_says_so(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"expected a tracking server, got .*start it"):
        tracker(spec, tmp_path).sync([row(0)], "finished")


@pytest.mark.parametrize("gone", ["run", "store", "experiment"])
def test_a_run_that_is_gone_is_made_again(gone: str, spec: TrainSpec, tmp_path: Path) -> None:
    """Deleted in the pages, or of another server: a training that resumes knows its old id."""
    first = tracker(spec, tmp_path)
    first.start(None)
    first.epoch(row(0))
    client, experiment = connect(tmp_path, "demo")
    if gone == "run":
        client.delete_run(first.run_id)
    elif gone == "experiment":
        client.delete_experiment(experiment)
    root = tmp_path / "other" if gone == "store" else tmp_path
    root.mkdir(exist_ok=True)
    resumed = tracker(spec, root)
    resumed.start(first.run_id)
    resumed.epoch(row(1))
    resumed.finish("finished", {})
    client, experiment = connect(root, "demo")
    found = {run.info.run_id for run in client.search_runs([experiment])}
    assert resumed.run_id in found
    assert (resumed.run_id == first.run_id) == (gone == "experiment")


def test_a_password_is_not_shown(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(UserError, match=r"^http://127\.0\.0\.1:9: expected a") as caught:
        tracker(spec, tmp_path).sync([row(0)], "finished")
    assert "secret" not in str(caught.value)


def test_telemetry_is_off_before_mlflow_is_imported(tmp_path: Path) -> None:
    """It looks at its variables then; under pytest it is off in any case."""
    code = (
        "import builtins, os\n"
        "from pathlib import Path\n"
        "usual = builtins.__import__\n"
        "def seen(name, *given, **named):\n"
        "    if name.partition('.')[0] == 'mlflow':\n"
        "        assert os.environ.get('MLFLOW_DISABLE_TELEMETRY') == 'true', name\n"
        "    return usual(name, *given, **named)\n"
        "builtins.__import__ = seen\n"
        "from rwp.tracking import connect\n"
        "connect(Path('.'), 'demo')\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
