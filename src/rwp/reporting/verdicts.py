"""What the records of one network say together: the verdict on it, and the worst case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rwp.errors import UserError
from rwp.evaluation.diagnosis import read_diagnosis
from rwp.evaluation.diagnostics import LEVELS, Level
from rwp.evaluation.records import worst_case
from rwp.pipeline.settings import Params
from rwp.pipeline.suites import diagnosis_spec
from rwp.reporting.measurements import OK, Measurement
from rwp.reporting.runs import Run
from rwp.training.spec import RunKey

SEPARATOR = " | "  # between the reasons in a cell of a CSV file


@dataclass(frozen=True)
class Judged:
    """The verdict on one network; `path` is its file's in the project.

    `status` is that of a measurement: "ok", "missing", "stale" (of other records than those that
    lie beside it), "inconsistent" (not a diagnosis), or the run's own where it did not finish.
    """

    path: str
    status: str
    reason: str = ""
    level: Level | None = None
    gap: float | None = None  # PGD-20 less AutoAttack, in points
    band_source: str = ""  # what the usual gap rests on
    reasons: tuple[str, ...] = ()  # "level: text"


def read_judged(
    params: Params, key: RunKey, run: Run, found: Sequence[Measurement], *, root: Path | str
) -> Judged:
    """The verdict on a run's best network, and whether it is of the records `found`."""
    name = str(diagnosis_spec(params, key).path)
    if not run.finished:
        return Judged(name, run.status, run.reason)
    path = Path(root) / name
    if not path.exists():
        return Judged(name, "missing", "these records have not been judged")
    try:
        content = read_diagnosis(path)
        judged = Judged(
            name,
            OK,
            level=LEVELS[LEVELS.index(content["level"])],
            gap=content["gap"],
            band_source=(content["band"] or {}).get("source", ""),
            reasons=tuple(f"{entry['level']}: {entry['text']}" for entry in content["reasons"]),
        )
        known = content["records"]
    except UserError as error:
        return Judged(name, "inconsistent", str(error).removeprefix(f"{path}: "))
    except (AttributeError, KeyError, TypeError, ValueError):
        return Judged(name, "inconsistent", "expected a complete diagnosis, got a part of one")
    others = [
        item.attack
        for item in found
        if item.record and known.get(item.attack) != item.record.fingerprint
    ]
    if others:
        return Judged(name, "stale", f"judged by other records of {', '.join(others)}")
    return judged


def joint_accuracy(found: Sequence[Measurement]) -> float | None:
    """Percent of the images that are right under all attacks at once.

    None where an attack of the suite has no number, or where its records are of different files.
    """
    own = [item for item in found if item.path]
    records = [item.record for item in own if item.record]
    if not records or len(records) < len(own):
        return None
    try:
        return 100 * float(worst_case(records).mean())
    except UserError:
        return None


def worst_level(levels: Sequence[str | None]) -> str | None:
    """The worst verdict over seeds; none as long as one of them has none."""
    known = [level for level in levels if level is not None]
    return max(known, key=LEVELS.index) if known and len(known) == len(levels) else None
