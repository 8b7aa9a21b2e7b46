"""Many trainings log to one MLflow server on Postgres at once: what is lost, and how long it takes.

    python benchmarks/scale_tracking.py [--processes N] [--epochs N] [--interval SECONDS]

Servers and loggers run on the loopback of this machine and share its cores; they end with it. As
fast as they can: what comes out is the most that the server bears.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

from benchmarks.local_servers import mlflow_server, postgres
from rwp.metric_names import panel_name
from rwp.pipeline.load import load_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.tracking import Tracker, connect
from rwp.training.history import Row
from rwp.training.spec import TrainSpec

ROOT = Path(__file__).resolve().parents[1]
METRICS = 12  # in each row


def spec_of(seed: int) -> TrainSpec:
    """One of many runs."""
    params = load_params(ROOT / "params.yaml")
    place = {"dataset": "digits", "threat": "linf", "seed": seed}
    return train_spec(params, run_key(params, "demo", recipe="at", **place))


def one_training(spec: TrainSpec, epochs: int, interval: float, found) -> None:
    """Log as a training does; report the seconds of each call."""
    tracker = Tracker(spec, root=Path.cwd(), fingerprint=f"{spec.key.seed:016x}", commit=None)
    tracker.start(None)
    seconds = []
    for epoch in range(epochs):
        began = time.perf_counter()
        tracker.epoch(row_of(epoch))
        seconds.append(time.perf_counter() - began)
        time.sleep(max(0.0, interval - seconds[-1]))
    tracker.finish("finished", {})
    found.put((spec.key.seed, seconds))


def late(spec: TrainSpec, epochs: int) -> int:
    """What `rwp track sync` still uploads of a training."""
    tracker = Tracker(spec, root=Path.cwd(), fingerprint=f"{spec.key.seed:016x}", commit=None)
    return tracker.sync([row_of(epoch) for epoch in range(epochs)], "finished")


def row_of(epoch: int) -> Row:
    """An epoch's row of the history."""
    values = {f"metric_{index}": float(epoch) for index in range(METRICS - 1)}
    return {"epoch": epoch, "train_loss": float(epoch), **values}


def count(options: argparse.Namespace, when: str) -> None:
    """Print what is on the server."""
    client, experiment = connect(Path.cwd(), "demo")
    runs = client.search_runs([experiment], max_results=1000)
    name = panel_name("train_loss")
    points = [len(client.get_metric_history(run.info.run_id, name)) for run in runs]
    finished = sum(run.info.status == "FINISHED" for run in runs)
    wanted = options.processes * options.epochs
    print(f"{when}: {len(runs)} runs, {finished} finished; {sum(points)} epochs of {wanted}")


def measure(address: str, options: argparse.Namespace) -> None:
    """Start the loggers, wait for them, and count what arrived."""
    os.environ["MLFLOW_TRACKING_URI"] = address
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = f"{options.patience:g}"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    specs = [spec_of(seed) for seed in range(options.processes)]
    importlib.import_module("mlflow")  # once, in memory that the forked loggers share
    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    began = time.perf_counter()
    loggers = [
        fork.Process(target=one_training, args=(spec, options.epochs, options.interval, found))
        for spec in specs
    ]
    for logger in loggers:
        logger.start()
    calls = sorted(value for _ in loggers for value in found.get(timeout=options.limit)[1])
    for logger in loggers:
        logger.join()
    seconds = time.perf_counter() - began
    print(f"{options.processes} processes x {options.epochs} epochs, {seconds:.0f} s in all,")
    print(f"    {options.processes * options.epochs / seconds:.1f} epochs a second")
    count(options, "when the trainings ended")
    uploaded = sum(late(spec, options.epochs) for spec in specs)
    print(f"rwp track sync uploaded {uploaded} epochs")
    count(options, "after rwp track sync")
    places = {"median": 0.5, "99 %": 0.99, "longest": 1.0}
    for name, share in places.items():
        index = min(len(calls) - 1, int(share * len(calls)))
        print(f"{name:>8} call {1000 * calls[index]:8.0f} ms")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--interval", type=float, default=0.0, help="seconds of an epoch, at least")
    parser.add_argument("--patience", type=float, default=120, help="seconds for a call; jobs: 10")
    parser.add_argument("--workers", type=int, default=2, help="of the server")
    parser.add_argument("--limit", type=float, default=1800, help="seconds until it gives up")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rwp-server-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres has an account of its own
        with (
            postgres(folder / "postgres") as database,
            mlflow_server(database, folder / "mlflow", workers=options.workers) as address,
        ):
            measure(address, options)


if __name__ == "__main__":
    main()
