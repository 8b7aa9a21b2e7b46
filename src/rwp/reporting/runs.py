"""Trainings as their folders tell them, by run.json and history.jsonl; and which are stale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from rwp.errors import UserError
from rwp.evaluation.spec import LandscapeSpec
from rwp.files import object_in, objects_in, parse_json, read_json, read_object
from rwp.pipeline.own_code import without_sources
from rwp.pipeline.state import other_images
from rwp.pipeline.steps import Step, Steps
from rwp.spec import Spec
from rwp.training.spec import RunKey, TrainSpec

S = TypeVar("S", bound=Spec)

RUN_FORMAT = "rwp.run/1"
OK = "ok"  # the status of what has a number
FAILED = ("collapsed", "diverged")  # trainings that ended without one
NO_TEST_CURVE = "the test split was not measured in each epoch (test_curve)"
SOMETHING_ELSE = "other code or images; `rwp verify --why {}` names them"

# The paper's "last" is the mean over this many final epochs wherever it can be traced to a log.
LAST_EPOCHS = 6


@dataclass(frozen=True)
class Run:
    """One training as its folder tells it; nothing here is computed.

    `status` is "finished", "collapsed", "diverged", "inconsistent" (its files contradict each
    other), "stale" (its step has changed), or "missing" where no run.json lies.
    """

    path: Path  # the folder
    name: str  # the folder as people write it, relative to the project
    status: str
    reason: str = ""
    document: dict[str, Any] = field(default_factory=dict)  # run.json
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per epoch, from epoch 0

    @property
    def ended(self) -> bool:
        """Whether the training came to an end, be it a bad one."""
        return self.finished or self.status in FAILED

    @property
    def finished(self) -> bool:
        """Whether its numbers may enter a table."""
        return self.status == "finished"

    @property
    def best_epoch(self) -> int:
        """The epoch that the training selected, counted from 0."""
        return int(self.document["best"]["epoch"])

    def network_hash(self, name: str) -> str | None:
        """SHA-256 of the network that it wrote as `name`; none in run.json of earlier versions."""
        return object_in(self.document, "networks").get(name)

    @property
    def warmup_epochs(self) -> int:
        """The epochs at the start without a weight perturbation."""
        spec = object_in(self.document, "spec")
        return int(object_in(spec, "perturbation").get("warmup_epochs", 0))

    @property
    def numbers(self) -> dict[str, Any]:
        """What a finished run measured by itself, in percent, or why it has no numbers."""
        if not self.finished:
            return {}
        percent = [
            100 * row["test_robust_accuracy"]
            for row in self.history
            if "test_robust_accuracy" in row
        ]
        if len(percent) < len(self.history):
            return {"status": "missing", "reason": NO_TEST_CURVE}
        top = max(range(len(percent)), key=percent.__getitem__)
        best, last = percent[self.best_epoch], percent[-1]
        tail = percent[-LAST_EPOCHS:]
        return {
            "status": OK,
            "best": best,
            "last": last,
            "best_on_test": percent[top],
            "selection_optimism": percent[top] - best,
            "last_epochs_mean": sum(tail) / LAST_EPOCHS if len(tail) == LAST_EPOCHS else None,
            "robust_overfitting_gap": best - last,
            "best_epoch": self.best_epoch,
            "best_on_test_epoch": top,
        }

    @property
    def made_by(self) -> list[dict[str, Any]]:
        """What has computed it, in order: device, versions, processes; usually one."""
        return [*objects_in(self.document, "earlier"), self.document]

    @property
    def device(self) -> str | None:
        """The device that trained it; several where it went on elsewhere."""
        names = [made_by.get("device") for made_by in self.made_by]
        return ", then ".join(dict.fromkeys(map(str, filter(None, names)))) or None

    @property
    def costs(self) -> dict[str, Any]:
        """Passes over a batch, hours of its steps, and the device; none of an unfinished run."""
        document = self.document if self.finished else {}
        passes, seconds = object_in(document, "passes"), document.get("seconds")
        return {
            "forward_passes": passes.get("forward"),
            "backward_passes": passes.get("backward"),
            "training_hours": None if seconds is None else seconds / 3600,
            "device": self.device if document else None,
        }


def read_run(steps: Steps, key: RunKey, *, root: Path | str) -> Run:
    """Read a run of this project; one that its step calls stale has no numbers."""
    run = read_run_folder(Path(root) / key.directory, name=str(key.directory))
    stale = why_run_stale(steps.train(key), run, Path(root)) if run.ended else ""
    return replace(run, status="stale", reason=stale) if stale else run


def why_run_stale(step: Step, run: Run, root: Path) -> str:
    """What a run of this step was trained with that is another now, or an empty text."""
    try:
        now, then = _now_and_then(step, TrainSpec, run.document, root, where=run.name)
    except UserError as error:
        return f"trained by another version: {error}"
    if changed := now.differing(then):
        return f"trained with another {', '.join(changed)}"
    if split := other_images(run.document, root):
        return f"trained with other {split} images than those fetched"
    same = of_its_time(root) or run.document.get("fingerprint") == step.fingerprint
    return "" if same else f"trained with {SOMETHING_ELSE.format(step.record)}"


def _now_and_then(
    step: Step, kind: type[S], record: dict[str, Any], root: Path, *, where: str
) -> tuple[S, S]:
    """Today's settings of a step and those of a record; of gathered ones without own code."""
    now, then = step.settings_as(kind), record.get("spec")
    if of_its_time(root):
        now, then = kind.parse(without_sources(now.document()), where=where), without_sources(then)
    return now, kind.parse(then, where=where)


def why_landscape_stale(step: Step, root: Path) -> str:
    """Of what else than today's a landscape that lies there is, or an empty text."""
    path = root / step.outputs[1]
    if not path.exists():
        return f"of unknown settings, without {step.outputs[1]}"
    document = read_object(path)
    try:
        now, then = _now_and_then(step, LandscapeSpec, document, root, where=step.outputs[1])
        changed = then != now
    except UserError:
        return "of another version"
    if changed:
        return "of other settings"
    same = of_its_time(root) or document.get("fingerprint") == step.fingerprint
    return "" if same else f"of {SOMETHING_ELSE.format(step.record)}"


_OF_THEIR_TIME: set[Path] = set()


@contextmanager
def of_its_time_below(root: Path) -> Iterator[None]:
    """Within it, the results below `root` are gathered ones; no file of a project says that."""
    _OF_THEIR_TIME.add(root)
    try:
        yield
    finally:
        _OF_THEIR_TIME.discard(root)


def of_its_time(root: Path) -> bool:
    """Whether these are gathered results, which the code and images of today say nothing of."""
    return root in _OF_THEIR_TIME


def read_run_folder(folder: Path | str, *, name: str | None = None) -> Run:
    """Read a run's folder.

    Raises:
        UserError: run.json or history.jsonl is cut, or of a format this version does not know.
    """
    path = Path(folder)
    name = name or str(folder)
    history = read_history(path / "history.jsonl")
    if not (path / "run.json").exists():
        if fault := _odd_row(history):
            return Run(path, name, "inconsistent", fault, {}, history)
        done = f"; {len(history)} epochs are done" if history else ""
        return Run(path, name, "missing", f"this training has not finished{done}", {}, history)
    document = read_json(path / "run.json")
    check_format(path / "run.json", document, RUN_FORMAT)
    status, reason = document.get("status", ""), document.get("reason") or ""
    if status == "finished":
        status, reason = _check_history(path, document, history)
    elif status not in FAILED:
        raise UserError(
            f"{path / 'run.json'}: expected the status finished, collapsed or diverged,"
            f" got {status!r}; train this run again"
        )
    elif fault := _odd_row(history):
        status, reason = "inconsistent", fault
    return Run(path, name, status, reason, document, history)


def _check_history(
    path: Path, document: dict[str, Any], history: list[dict[str, Any]]
) -> tuple[str, str]:
    """Whether a finished run's curve is whole and says what run.json says."""
    where = path / "history.jsonl"
    epochs = [row.get("epoch") for row in history]
    if not history or epochs != list(range(len(history))):
        raise UserError(
            f"{where}: expected one row per epoch from 0 on, got {len(history)} rows;"
            f" train this run again"
        )
    for name in ("best", "last"):
        row = object_in(document, name)
        epoch = row.get("epoch")
        if not isinstance(epoch, int) or not 0 <= epoch < len(history):
            raise UserError(
                f"{path / 'run.json'}: expected the {name} epoch among {len(history)} epochs,"
                f" got {epoch!r}; train this run again"
            )
        for measure, value in row.items():
            if measure in history[epoch] and history[epoch][measure] != value:
                return "inconsistent", (
                    f"run.json gives {measure} {value} at epoch {epoch}, history.jsonl"
                    f" {history[epoch][measure]}"
                )
    if better := _better_epoch(document, history):
        return "inconsistent", better
    for name, count in object_in(document, "passes").items():
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            return "inconsistent", f"run.json gives {count!r} {name} passes, no count"
    seconds = document.get("seconds", 0)
    if seconds is not None and not (is_number(seconds) and seconds >= 0):
        return "inconsistent", f"run.json gives {seconds!r} seconds, no number from 0 on"
    last = document["last"]["epoch"]
    if last != len(history) - 1:
        return "inconsistent", (
            f"run.json ends at epoch {last}, history.jsonl at epoch {len(history) - 1}"
        )
    for row in history:
        for measure, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                return "diverged", f"{measure} is not finite at epoch {row['epoch']}"
    if fault := _odd_row(history):
        return "inconsistent", fault
    return "finished", ""


def _odd_row(history: list[dict[str, Any]]) -> str:
    """What in a curve, whole or not, cannot have been measured; or an empty text."""
    for epoch, row in enumerate(history):
        if row.get("epoch") != epoch:
            return f"history.jsonl has epoch {row.get('epoch')!r} in the place of {epoch}"
        for measure, value in row.items():
            if expected := _odd_value(measure, value):
                return f"history.jsonl gives {measure} {value!r} at epoch {epoch}, no {expected}"
    return ""


def _odd_value(measure: str, value: Any) -> str:
    """What a value of a row should have been; empty where it is that. Null: it is not known."""
    if measure.endswith(("_accuracy", "_blind_share")):
        return "" if _is_share(value) else "share from 0 to 1"
    if value is None:
        return ""
    if measure == "loss_histogram":
        numbers = isinstance(value, list) and all(map(is_number, value))
        return "" if numbers else "list of numbers"
    return "" if is_number(value) else "number"


def _better_epoch(document: dict[str, Any], history: list[dict[str, Any]]) -> str:
    """Whether `best` is not the first epoch with the highest of what the training chose it by."""
    best, spec = object_in(document, "best"), object_in(document, "spec")
    by = "clean_accuracy" if spec.get("monitor") is None else "robust_accuracy"
    measure = f"{spec.get('selection')}_{by}"
    known = {row["epoch"]: row[measure] for row in history if _is_share(row.get(measure))}
    if not known or best["epoch"] not in known:
        return ""
    right = max(known, key=known.__getitem__)
    if right == best["epoch"]:
        return ""
    return (
        f"run.json gives epoch {best['epoch']} as best, history.jsonl has its highest {measure} at"
        f" epoch {right}"
    )


def is_number(value: Any) -> bool:
    """Whether a value of a document is a number; to Python true is one, too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    return is_number(value) and bool(0 <= value <= 1)


def read_history(path: Path | str) -> list[dict[str, Any]]:
    """The rows of history.jsonl; none where there is no file yet.

    Raises:
        UserError: a line is not a JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            row = parse_json(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("epoch"), int):
            raise UserError(
                f"{path}: expected one JSON object with its epoch per line, got something else at"
                f" line {number}; train this run again"
            )
        rows.append(row)
    return rows


def check_format(path: Path, document: Any, expected: str) -> None:
    """Refuse a document of another kind or of a later version.

    Raises:
        UserError: `document` does not carry the format `expected`.
    """
    found = document.get("format") if isinstance(document, dict) else None
    if found != expected:
        raise UserError(
            f"{path}: expected the format {expected}, got {found!r};"
            f" read it with the version of rwp that wrote it, or build it again"
        )
