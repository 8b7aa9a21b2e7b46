"""MLflow as a mirror of history.jsonl: it can be slow, absent or broken, and nothing is lost.

The only module that imports mlflow. One MLflow run per (run, fingerprint), found again by its
tags, so that a resumed training goes on in the run it began.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwp.errors import UserError
from rwp.metric_names import COLUMNS, panel_metrics, panel_name
from rwp.timeouts import Patience

if TYPE_CHECKING:
    from rwp.training.history import Row
    from rwp.training.spec import TrainSpec

log = logging.getLogger("rwp.tracking")

QUIET_SECONDS = 300.0  # after a failure the server is left alone for this long
# A training ends at most a minute later for a server's sake. A local store may take its time
# while eight jobs create it at once.
_SERVER = {"per_call": 25.0, "in_all": 45.0}
_FILE = {"per_call": 120.0, "in_all": 120.0}
_DEFAULTS = {
    # MLflow's own defaults wait four minutes for a server that refuses, twenty for one that hangs.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
_CHUNK = 900  # metrics per request; the server takes 1000
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}
# A shared view of the list of runs, as MLflow keeps those that people share: which columns, how
# wide, sorted by what. A link names it.
_VIEW_NAME = "accuracy"
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW_NAME}"
_VIEW = json.dumps(
    {
        "selectedColumns": [f"metrics.`{name}`" for name in COLUMNS],
        "columnWidths": {"run_name": 330},
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
    }
)


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file in the project; always absolute."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def without_user(text: str) -> str:
    """Addresses for people to read: without name and password."""
    return re.sub(r"://[^/\s]*@", "://", text)


class Tracker:
    """A `Recorder` on MLflow. After a failure it warns once and is quiet for a while."""

    def __init__(self, spec: TrainSpec, *, root: Path, fingerprint: str, commit: str | None):
        self.spec, self.root, self.fingerprint, self.commit = spec, root, fingerprint, commit
        self.run_id: str | None = None
        self._rows: list[tuple[int, Row]] = []  # not yet mirrored, with their time in ms
        self._quiet_until = 0.0
        self._client: Any = None
        self._patience, self._warned = _patience(root), False

    def start(self, run_id: str | None) -> None:
        """Find or create the MLflow run."""
        self.run_id = run_id
        self._try(self._connect)

    def epoch(self, row: Row) -> None:
        """Mirror a row, and those that a failure has held back."""
        self._rows.append((int(time.time() * 1000), row))
        self._try(self._flush)

    def finish(self, status: str, artifacts: dict[str, str]) -> None:
        """Close the MLflow run and say where the files lie."""
        self._quiet_until = 0.0  # the last chance to say it
        self._try(self._finish, status, artifacts)

    def sync(self, rows: list[Row], status: str) -> int:
        """Upload the rows that the server lacks, e.g. after an outage; returns their number.

        Where another run of these coordinates is being trained, that one stays the current one.

        Raises:
            UserError: the server does not answer.
        """
        try:
            self._connect(take_over=False)
            points = [
                point
                for name in ("train_loss", "learning_rate")  # the loss of a diverged epoch is null
                for point in self._client.get_metric_history(self.run_id, panel_name(name))
            ]
            known = {point.step for point in points}
            latest = max((point.timestamp for point in points), default=0)
            self._rows = [
                (max(when, latest + 1 + row["epoch"]), row)  # MLflow orders points by their time
                for when, row in _timed(rows)
                if row["epoch"] not in known
            ]
            count = len(self._rows)
            self._finish(status, {})
        except Exception as error:
            raise _no_server(self.root, error) from error
        return count

    def _try(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._patience.exhausted or time.monotonic() < self._quiet_until:
            return
        try:
            self._patience.call(self._connected, action, *arguments)
            self._warned = False
        except Exception as error:  # whatever it is, training goes on
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            text = "MLflow: no answer, training goes on without it: %s; later: rwp track sync"
            if not self._warned:
                log.warning(text, _reason(error))
            self._warned = True

    def _connected(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._client is None:
            self._connect()
        action(*arguments)

    def _connect(self, *, take_over: bool = True) -> None:
        if self._client is not None:
            return
        client, experiment = connect(self.root, self.spec.key.suite)
        if self.run_id is None or not _is_there(client, self.run_id):
            self.run_id = self._find(client, experiment) or self._create(client, experiment)
        else:
            take_over = True
        client.update_run(self.run_id, status="RUNNING")
        self._make_current(client, experiment, self.run_id, take_over=take_over)
        self._client = client

    def _find(self, client: Any, experiment: str) -> str | None:
        query = f"{self._of_this_run} and tags.fingerprint = '{self.fingerprint}'"
        found = client.search_runs([experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    @property
    def _of_this_run(self) -> str:
        """A query for all runs of these coordinates; earlier versions wrote over the tag `run`."""
        tags = self.spec.key.document().items()
        return " and ".join(f"tags.{name} = '{value}'" for name, value in tags)

    def _create(self, client: Any, experiment: str) -> str:
        key = self.spec.key
        earlier = client.search_runs([experiment], self._of_this_run)
        tags = {
            "run": key.name,
            "fingerprint": self.fingerprint,
            "commit": self.commit or "unknown",
            **{name: str(value) for name, value in key.document().items()},
        }
        name = f"{key.recipe} {key.dataset} {key.threat} {key.network} seed{key.seed}"
        if earlier:  # trained before, under other settings or code
            name = f"{key.recipe} #{len(earlier) + 1} {name.removeprefix(key.recipe).strip()}"
        run = client.create_run(experiment, run_name=name, tags=tags)
        settings = self.spec.document()
        del settings["key"]
        params = _flat(settings)
        from mlflow.entities import Param

        client.log_batch(run.info.run_id, params=[Param(k, v) for k, v in params.items()])
        return run.info.run_id

    def _make_current(
        self, client: Any, experiment: str, run_id: str, *, take_over: bool = True
    ) -> None:
        """Tag one run as that of today's settings, and the others of its coordinates as not."""
        runs = client.search_runs([experiment], self._of_this_run)
        chosen = run_id if take_over else _in_training(runs, but=run_id) or run_id
        for run in runs:
            current = str(run.info.run_id == chosen).lower()
            if run.data.tags.get("current") != current:
                client.set_tag(run.info.run_id, "current", current)

    def _flush(self) -> None:
        from mlflow.entities import Metric

        while self._rows:  # whole epochs per request, so that a row is there or is not
            metrics: list[Any] = []
            count = 0
            for timestamp, row in self._rows:
                values = panel_metrics(row)
                own = [Metric(name, value, timestamp, row["epoch"]) for name, value in values]
                if count and len(metrics) + len(own) > _CHUNK:
                    break
                metrics += own
                count += 1
            self._client.log_batch(self.run_id, metrics=metrics)
            del self._rows[:count]

    def _finish(self, status: str, artifacts: dict[str, str]) -> None:
        self._flush()
        for name, place in artifacts.items():
            self._client.set_tag(self.run_id, name, place)
        self._client.set_tag(self.run_id, "outcome", status)
        self._client.set_terminated(self.run_id, _STATUS.get(status, "FAILED"))


def _in_training(runs: list[Any], *, but: str) -> str | None:
    """The current run, if it is another one and has not ended."""
    found = (
        run.info.run_id
        for run in runs
        if run.info.status == "RUNNING" and run.data.tags.get("current") == "true"
    )
    return next((run_id for run_id in found if run_id != but), None)


def _is_there(client: Any, run_id: str) -> bool:
    """Whether this store has the run, and nobody has deleted it since."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run_id).info.lifecycle_stage) == "active"
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _mlflow() -> Any:
    """The package, imported after the settings that it reads then."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for chatty in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    import mlflow

    return mlflow


def _client(root: Path) -> Any:
    return _mlflow().MlflowClient(tracking_uri=tracking_uri(root))


def connect(root: Path, suite: str) -> tuple[Any, str]:
    """A client and the id of the suite's experiment, both made if need be."""
    _mlflow()  # takes seconds, which nobody else should wait for under the lock
    uri = tracking_uri(root)
    with _creation_lock(root, uri):
        client = _client(root)
        name = f"rwp-{suite}"
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            if experiment.lifecycle_stage == "deleted":  # in the pages, by a person
                client.restore_experiment(experiment.experiment_id)
            return client, experiment.experiment_id
        artifacts = (root.resolve() / "mlruns").as_uri() if uri.startswith("sqlite") else None
        # The kind decides what MLflow shows first: runs and curves, not traces of chat models.
        tags = {"mlflow.experimentKind": "custom_model_development", _VIEW_TAG: _VIEW}
        try:
            return client, client.create_experiment(name, artifact_location=artifacts, tags=tags)
        except Exception:  # on a server, which our lock does not cover, another job was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return client, experiment.experiment_id


def page_links(root: Path, address: str) -> dict[str, str]:
    """By suite: the page of its runs with the columns of accuracies, on a server at `address`.

    Raises:
        UserError: MLFLOW_TRACKING_URI names a server that does not answer.
    """
    links = {}
    try:
        client = _client(root)
        for experiment in client.search_experiments(filter_string="name LIKE 'rwp-%'"):
            if _VIEW_TAG not in experiment.tags:  # made by an earlier version
                client.set_experiment_tag(experiment.experiment_id, _VIEW_TAG, _VIEW)
            query = f"workflowType=machine_learning&viewStateShareKey={_VIEW_NAME}"
            page = f"{address}/#/experiments/{experiment.experiment_id}/runs?{query}"
            links[experiment.name.removeprefix("rwp-")] = page
    except Exception as error:
        raise _no_server(root, error) from error
    return dict(sorted(links.items()))


def _timed(rows: Sequence[Row]) -> Iterator[tuple[int, Row]]:
    """Each epoch with its time in ms, as far apart as they took; the last one is now."""
    left = sum(float(row.get("seconds") or 0) for row in rows)
    now = time.time()
    for row in rows:
        left -= float(row.get("seconds") or 0)
        yield int(1000 * (now - left)), row


def _no_server(root: Path, error: Exception) -> UserError:
    if "database schema" in str(error):
        place = tracking_uri(root)
        return UserError(
            f"{without_user(place)}: expected a database of this version of MLflow, got "
            f"{_reason(error)}; copy it, then run: mlflow db upgrade {without_user(place)} (where "
            "it is newer, install the version that wrote it)"
        )
    return UserError(
        f"{without_user(tracking_uri(root))}: expected a tracking server, got {_reason(error)};"
        f" start it, or check MLFLOW_TRACKING_URI"
    )


@contextmanager
def _creation_lock(root: Path, uri: str) -> Iterator[None]:
    """Several processes that create one SQLite store at once break each other's tables."""
    if not uri.startswith("sqlite"):
        yield
        return
    from filelock import FileLock

    folder = root / ".state"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "mlflow.lock", timeout=300):  # others make the store, one by one
        yield


def log_evaluation(
    run_id: str | None, metrics: Mapping[str, float], *, root: Path, suite: str
) -> None:
    """Add an evaluation's figures to the MLflow run of the training; never raises."""
    if run_id is None:
        return

    def write() -> None:
        client, _ = connect(root, suite)
        for name, value in metrics.items():
            client.log_metric(run_id, name, value)

    try:
        _patience(root).call(write)
    except Exception as error:
        log.warning("MLflow: the evaluation is not logged there: %s", _reason(error))


def _patience(root: Path) -> Patience:
    return Patience(**(_FILE if tracking_uri(root).startswith(("sqlite", "file")) else _SERVER))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_user(lines[0])[:200]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = str(value)[:500]
    return flat
