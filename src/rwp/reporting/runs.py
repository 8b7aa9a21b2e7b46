"""What a training and its evaluations left in their folder, read back and checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.files import read_json
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params
from rwp.training.spec import RunKey

RUN_FORMAT = "rwp.run/1"


@dataclass(frozen=True)
class Run:
    """One training as its folder tells it; nothing here is computed.

    `status` is "finished", "collapsed", "diverged", "inconsistent" (its files contradict each
    other), "stale" (see `read_run`), or "missing" where no run.json lies.
    """

    path: Path  # the folder
    name: str  # the folder as people write it, relative to the project
    status: str
    reason: str = ""
    document: dict[str, Any] = field(default_factory=dict)  # run.json
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per epoch, from epoch 0

    @property
    def finished(self) -> bool:
        """Whether its numbers may enter a table."""
        return self.status == "finished"

    @property
    def best_epoch(self) -> int:
        """The epoch that the training selected, counted from 0."""
        return int(self.document["best"]["epoch"])


def read_run(params: Params, key: RunKey, *, root: Path | str) -> Run:
    """Read a run of this project; one trained with other settings than today's is "stale"."""
    run = read_run_folder(Path(root) / key.directory, name=str(key.directory))
    then, now = run.document.get("spec"), train_spec(params, key).document()
    if not run.finished or then == now:
        return run
    changed = [name for name in now if not isinstance(then, dict) or then.get(name) != now[name]]
    return replace(run, status="stale", reason=f"trained with another {', '.join(changed)}")


def read_run_folder(folder: Path | str, *, name: str | None = None) -> Run:
    """Read a run's folder.

    Raises:
        UserError: run.json or history.jsonl is cut, or of a format this version does not know.
    """
    path = Path(folder)
    name = name or str(folder)
    history = read_history(path / "history.jsonl")
    if not (path / "run.json").exists():
        done = f"; {len(history)} epochs are done" if history else ""
        return Run(path, name, "missing", f"this training has not finished{done}", {}, history)
    document = read_json(path / "run.json")
    check_format(path / "run.json", document, RUN_FORMAT)
    status, reason = document.get("status", ""), document.get("reason") or ""
    if status == "finished":
        status, reason = _check_history(path, document, history)
    elif status not in ("collapsed", "diverged"):
        raise UserError(
            f"{path / 'run.json'}: expected the status finished, collapsed or diverged,"
            f" got {status!r}; train this run again"
        )
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
        row = document.get(name) or {}
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
    for row in history:
        for measure, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                return "diverged", f"{measure} is not finite at epoch {row['epoch']}"
    return "finished", ""


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
            row = json.loads(line)
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
