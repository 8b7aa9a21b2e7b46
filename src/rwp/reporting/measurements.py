"""One evaluation record becomes one measurement, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord, read_record
from rwp.evaluation.spec import EvaluationSpec
from rwp.files import read_json, sha256_file
from rwp.pipeline.resolve import evaluation_spec
from rwp.pipeline.settings import Params
from rwp.reporting.runs import Run, check_format
from rwp.training.spec import RunKey

RECORD_FORMAT = "rwp.evaluation/1"
OK = "ok"


@dataclass(frozen=True)
class Measurement:
    """The outcome of one attack on one run's checkpoint; `path` is its file's in the project.

    `status` is "ok", "missing", "stale" (made with other settings), "inconsistent" (the record
    contradicts itself), or the run's own status where it did not finish.
    """

    attack: str
    key: RunKey
    path: str
    status: str
    reason: str = ""
    record: EvaluationRecord | None = None

    @property
    def accuracy(self) -> float | None:
        """The share of the evaluated images that are still classified correctly, in [0, 1]."""
        return self.record.robust_accuracy if self.record else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % binomial interval (Wilson's) of the accuracy."""
        if self.record is None:
            return None
        from scipy.stats import binomtest

        test = binomtest(self.record.num_robust, self.record.num_examples)
        found = test.proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def measurements(
    params: Params,
    key: RunKey,
    run: Run,
    attacks: Sequence[str],
    *,
    root: Path | str,
    checkpoint: str,
) -> list[Measurement]:
    """Read the records of several attacks on one checkpoint of a run.

    Where they are of different files, those of another file than the checkpoint give no number.

    Raises:
        UserError: a record is no JSON, of an unknown format, or of AutoAttack's lite version.
    """
    found = [_measure(params, key, run, name, root=root, checkpoint=checkpoint) for name in attacks]
    return _of_one_file(found, Path(root) / key.directory / f"{checkpoint}.pt")


def _measure(
    params: Params, key: RunKey, run: Run, attack: str, *, root: Path | str, checkpoint: str
) -> Measurement:
    suite = params.suites[key.suite]
    if attack not in suite.evaluation.attacks:
        reason = f"{attack} is not among the attacks of the suite {key.suite}"
        return Measurement(attack, key, "", "missing", reason)
    spec = evaluation_spec(params, key, checkpoint=checkpoint, attacks=(attack,))
    name = str(spec.record(attack))
    if not run.finished:
        return Measurement(attack, key, name, run.status, run.reason)
    path = Path(root) / name
    if not path.exists():
        return Measurement(attack, key, name, "missing", "this attack has not been run")
    document = read_json(path)
    check_format(path, document, RECORD_FORMAT)
    _refuse_lite(path, document)
    try:
        record = read_record(path)
    except UserError as error:
        # The table is made without it; the report shows the cell in red.
        return Measurement(attack, key, name, "inconsistent", str(error).removeprefix(f"{path}: "))
    changed = _changed(record, spec)
    if changed:
        return Measurement(attack, key, name, "stale", changed)
    return Measurement(attack, key, name, OK, "", record)


def _of_one_file(found: list[Measurement], checkpoint: Path) -> list[Measurement]:
    # Which are right the checkpoint itself tells; without it none can be trusted.
    hashes = {item.record.checkpoint_sha256 for item in found if item.record}
    if len(hashes) < 2:
        return found
    right = sha256_file(checkpoint) if checkpoint.exists() else None
    reason = f"made with another file than {checkpoint.name}"
    return [
        replace(item, status="inconsistent", reason=reason, record=None)
        if item.record and item.record.checkpoint_sha256 != right
        else item
        for item in found
    ]


def _refuse_lite(path: Path, document: dict[str, Any]) -> None:
    """AutoAttack's number is the standard version's; a part of it would look too robust."""
    attack = document.get("attack") or {}
    if attack.get("kind") == "autoattack" and attack.get("version") != "standard":
        raise UserError(
            f"{path}: expected AutoAttack's standard version, got {attack.get('version')!r};"
            f" evaluate again with version: standard"
        )


def _changed(record: EvaluationRecord, spec: EvaluationSpec) -> str:
    """How a record's settings differ from those of params.yaml, or an empty text."""
    attack = spec.attacks[0]
    if record.key != spec.key:
        return f"made for the run {record.key.name if record.key else 'of another project'}"
    if record.checkpoint != spec.checkpoint:
        return f"made with the checkpoint {record.checkpoint}"
    different = [
        name
        for name in (field.name for field in fields(attack))
        if getattr(attack, name) != getattr(record.attack, name)
    ]
    return f"made with another {', '.join(different)} of the attack" if different else ""
