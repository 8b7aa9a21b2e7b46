"""All files of a suite under results/, read once.

`read_results` gives one tidy frame, a row per run, checkpoint and attack, and beside it what each
training and each verdict states. Tables, pairs and figures are made of these alone. Whether a file
fits today's settings, code and images, its `Step` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.data.passport import read_passport
from rwp.errors import UserError
from rwp.evaluation.diagnosis_file import read_diagnosis
from rwp.evaluation.records import (
    EvaluationRecord,
    on_common_images,
    read_record,
    require_final,
    worst_case,
)
from rwp.evaluation.spec import EvaluationSpec
from rwp.evaluation.statistics import interval
from rwp.evaluation.verdict import LEVELS, Level
from rwp.files import read_json, sha256_file
from rwp.pipeline.lookup import get_suite
from rwp.pipeline.settings import Params, Suite
from rwp.pipeline.state import fetched_files
from rwp.pipeline.steps import Step, Steps, accepted, below
from rwp.pipeline.suites import BEYOND, TABLES, figure_names
from rwp.reporting.labels import attack_columns
from rwp.reporting.lines import Part, part_of
from rwp.reporting.runs import (
    OK,
    SOMETHING_ELSE,
    Run,
    check_format,
    of_its_time,
    read_run,
)
from rwp.training.spec import RunKey, suite_directory

# What a training measures of itself, in percent and points.
MEASURES = (
    "best",
    "last",
    "best_on_test",
    "selection_optimism",
    "last_epochs_mean",
    "robust_overfitting_gap",
)
OTHER_CHECKPOINTS = ("best_on_test", "last")  # besides `best`, where they are asked for

Row = dict[Any, Any]


@dataclass(frozen=True)
class Results:
    """What lies there of a suite's runs and records, read once.

    Landscapes and `losses.npz` are read by the figures that show them.

    `attacks` has a row per run, checkpoint and attack:

    - key, checkpoint, attack, seed, run (the folder), record (the file);
    - kind of the attack, and whether its outcome depends on a random start;
    - status ("ok", "missing", "stale", "inconsistent", or that of the run) and reason;
    - num_examples, num_robust, accuracy, interval_low, interval_high (95 %, in percent), seconds;
    - warning, fingerprint, and outcome: the record itself, with the bit of each image.
    """

    suite_name: str
    suite: Suite
    root: Path
    folder: Path  # of the suite, below the root
    parts: Mapping[str, Part]  # tables and figures, those of the report first
    waited: Sequence[str]  # figures that the report waits for
    columns: Mapping[str, str]  # attack -> column of Table 2
    runs: Mapping[RunKey, Run]
    attacks: pd.DataFrame
    verdicts: Mapping[RunKey, Judged]
    notes: Sequence[str]  # what was noticed when the images were fetched
    accepted: Sequence[Mapping[str, str]]  # changes of code that move no number

    def outcomes(self, key: RunKey, checkpoint: str = "best") -> list[Row]:
        """The rows of one network, in the order in which the attacks stand in Table 2."""
        chosen = self.attacks[
            (self.attacks["run"] == str(key.directory)) & (self.attacks["checkpoint"] == checkpoint)
        ]
        return records(chosen)


def read_results(
    params: Params,
    suite_name: str,
    *,
    root: Path | str = ".",
    parts: Sequence[str] | None = None,
) -> Results:
    """Read what tables and figures of a suite show: all that its report does, unless named.

    Raises:
        UserError: there is no such suite or part, or a file is cut or of an unknown format.
    """
    suite, root, steps = get_suite(params, suite_name), Path(root), Steps(params)
    shown = (*TABLES, *suite.reported) if parts is None else tuple(parts)
    named = shown if parts is not None else (*shown, *suite.figures)
    found = {name: part_of(steps, suite_name, name) for name in named}
    keys = {name: found[name].keys for name in shown}
    runs = {key: read_run(steps, key, root=root) for part in keys.values() for key in part}
    in_table2 = keys.get("table2", [])
    columns = attack_columns(suite)
    wanted = dict.fromkeys(in_table2, tuple(columns))
    for key in keys.get(BEYOND, []):
        more = suite.beyond.attacks if suite.beyond else ()
        wanted[key] = tuple(dict.fromkeys((*wanted.get(key, ()), *more)))
    rows: list[Row] = []
    for key, attacks in wanted.items():
        rows += _read_attacks(steps, key, runs[key], attacks, root, "best")
    for key in in_table2:
        for checkpoint in OTHER_CHECKPOINTS:
            rows += _read_attacks(steps, key, runs[key], wanted[key], root, checkpoint)
    frame = pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_COUNTS, "Int64"))
    ours = [found[name].step for name in shown]
    return Results(
        suite_name=suite_name,
        suite=suite,
        root=root,
        folder=root / suite_directory(suite_name),
        parts=found,
        waited=figure_names(suite),
        columns=columns,
        runs=runs,
        attacks=frame,
        verdicts={key: _read_verdict(steps, key, runs[key], rows, root) for key in in_table2},
        notes=list(_notes_on_images(ours, root)),
        accepted=accepted(ours),
    )


def _notes_on_images(steps: Iterable[Step], root: Path) -> Iterator[str]:
    """What passports say, such as that test images also train."""
    for step in below(steps):
        passport = root / step.outputs[-1]
        if step.kind == "fetch" and passport.exists():
            yield from (f"{step.name}: {note}" for note in read_passport(passport).notes)


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame; a missing value is none."""
    rows = frame.astype(object).where(frame.notna(), None)
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.to_numpy()]


def records_by(frame: pd.DataFrame, *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows of a frame by the values of some columns."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in records(frame):
        found.setdefault(tuple(row[name] for name in columns), []).append(row)
    return found


# Evaluations: one record per attack

_COUNTS = ("num_examples", "num_robust")
_COLUMNS = [
    "key",
    "checkpoint",
    "attack",
    "seed",
    "run",
    "record",
    "kind",
    "norm",
    "epsilon",
    "under_network_threat",
    "random_start",
    "status",
    "reason",
    *_COUNTS,
    "accuracy",
    "interval_low",
    "interval_high",
    "seconds",
    "warning",
    "fingerprint",
    "outcome",
]
# Kinds of attack whose outcome no random start decides: none at all, or, for AutoAttack, an
# ensemble with restarts.
_START_DOES_NOT_MATTER = ("natural", "fgsm", "autoattack")


def _read_attacks(
    steps: Steps,
    key: RunKey,
    run: Run,
    attacks: Sequence[str],
    root: Path,
    checkpoint: str,
) -> list[Row]:
    """One row per attack on one checkpoint.

    Records of another network than the run's give no number.

    Raises:
        UserError: a record is no JSON, of an unknown format, of lite AutoAttack, or of a draft.
    """
    rows = [_read_record(steps, key, run, name, root, checkpoint) for name in attacks]
    _leave_out_other_files(rows, run, root / key.directory / f"{checkpoint}.pt")
    for row in rows:
        _add_numbers(row)
    _warn_of_autoattack(rows)
    return rows


def read_attack(
    steps: Steps, key: RunKey, run: Run, attack: str, root: Path, checkpoint: str
) -> Row:
    """The row of one attack on one checkpoint, without numbers.

    Its outcome is the record, or none where that is of another network than the run's.

    Raises:
        UserError: a record is no JSON, of an unknown format, of lite AutoAttack, or of a draft.
    """
    file = root / key.directory / f"{checkpoint}.pt"
    others: Iterable[str] = steps.params.suites[key.suite].evaluation.attacks
    rows = [_read_record(steps, key, run, attack, root, checkpoint)]
    if not file.exists() and run.network_hash(checkpoint) is None:  # they may contradict it
        for name in (name for name in others if name != attack):
            with suppress(UserError):  # what is wrong with that one does not concern this one
                rows.append(_read_record(steps, key, run, name, root, checkpoint))
    _leave_out_other_files(rows, run, file)
    return rows[0]


def _read_record(
    steps: Steps, key: RunKey, run: Run, attack: str, root: Path, checkpoint: str
) -> Row:
    """The row of one attack, with its record or why there is none; of which network, unchecked.

    Raises:
        UserError: a record is no JSON, of an unknown format, of lite AutoAttack, or of a draft.
    """
    row = dict.fromkeys(_COLUMNS) | {
        "key": key,
        "checkpoint": checkpoint,
        "attack": attack,
        "seed": key.seed,
        "run": run.name,
        "record": "",
        "kind": "",
        "warning": "",
    }
    entry = steps.params.suites[key.suite].evaluation.attacks.get(attack)
    if entry is None:
        reason = f"{attack} is not among the attacks of the suite {key.suite}"
        return row | {"status": "missing", "reason": reason}
    step = steps.evaluate(key, checkpoint, attack)
    spec = step.settings_as(EvaluationSpec)
    spec = spec.replace(attacks=tuple(own for own in spec.attacks if own.name == attack))
    kind, start, threat = (getattr(spec.attacks[0], n) for n in ("kind", "random_start", "threat"))
    name = str(spec.record(attack))
    row |= {
        "record": name,
        "kind": kind,
        "norm": threat.norm,
        "epsilon": threat.epsilon,
        "under_network_threat": not entry.has_other_threat,
        "random_start": decided_by_start(kind, start),
    }
    if not run.finished:
        return row | {"status": run.status, "reason": run.reason}
    path = root / name
    if not path.exists():
        return row | {"status": "missing", "reason": "this attack has not been run"}
    document = read_json(path)
    check_format(path, document, EvaluationRecord.format)
    try:
        record = read_record(path)
    except UserError as error:
        # The table is made without it; the report shows the cell in red.
        return row | {"status": "inconsistent", "reason": str(error).removeprefix(f"{path}: ")}
    _refuse_upper_bound(path, record)
    if of_its_time(root):  # an attack of one's own, too, was that of its time
        spec = spec.replace(attacks=(spec.attacks[0].replace(source=record.attack.source),))
    changed = _changed(record, spec) or _changed_images(record, spec, root / "data" / key.dataset)
    if not (changed or of_its_time(root)) and record.fingerprint != step.fingerprint_of(name):
        changed = f"made with {SOMETHING_ELSE.format(name)}"
    if changed:
        return row | {"status": "stale", "reason": changed}
    return row | {"status": OK, "reason": "", "outcome": record}


def _refuse_upper_bound(path: Path, record: EvaluationRecord) -> None:
    try:
        require_final(record)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def decided_by_start(kind: str, start: str | None) -> bool:
    """Whether an attack's outcome depends on the one random start it is given."""
    return kind not in _START_DOES_NOT_MATTER and start != "none"


_OTHER_FILE = "made with another file than"


def _leave_out_other_files(rows: list[Row], run: Run, checkpoint: Path) -> None:
    """Take the outcome from rows whose record is of another network than the run's."""
    # Which are right run.json tells, or of an earlier version the checkpoint itself; without both
    # none of several can be trusted, and one alone has to be.
    hashes = {row["outcome"].checkpoint_sha256 for row in rows if row["outcome"]}
    right = run.network_hash(checkpoint.stem)
    if not hashes or (right is None and len(hashes) == 1 and not checkpoint.exists()):
        return
    if right is None and checkpoint.exists():
        right = sha256_file(checkpoint)
    reason = f"{_OTHER_FILE} {checkpoint.name}"
    for row in rows:
        if row["outcome"] and row["outcome"].checkpoint_sha256 != right:
            row |= {"status": "inconsistent", "reason": reason, "outcome": None}


def _add_numbers(row: Row) -> None:
    record: EvaluationRecord | None = row["outcome"]
    if record is None:
        return
    found = interval(record.num_robust, record.num_examples)
    row |= {
        "num_examples": record.num_examples,
        "num_robust": record.num_robust,
        "accuracy": 100 * record.robust_accuracy,
        "interval_low": 100 * found.low,
        "interval_high": 100 * found.high,
        "seconds": record.seconds,
        "warning": "; ".join(record_warnings(record)),
        "fingerprint": record.fingerprint,
    }


def record_warnings(record: EvaluationRecord) -> Iterator[str]:
    """What a reader must know before using a record's number."""
    yield from record.warnings
    if record.num_nan:
        yield f"{record.num_nan} pixels of the adversarial images are NaN"
    found = record.gradients  # none: an attack without, or an earlier version
    if found and found.blind_not_finite + found.blind_zero:
        share = f"{found.blind_not_finite + found.blind_zero} of {found.images} images"
        yield f"{share} count as robust where the attack had no gradient to follow"


TOO_MANY = "AutoAttack leaves"  # how such a warning begins


def _warn_of_autoattack(rows: list[Row]) -> None:
    """AutoAttack that leaves more images standing than a weaker attack points to a fault."""
    own = [row for row in rows if row["outcome"] is not None and row["under_network_threat"]]
    for row in own:
        if row["kind"] != "autoattack":
            continue
        margins = {
            other["attack"]: margin
            for other in own
            if (margin := _lead(row["outcome"], other["outcome"])) is not None
        }
        weaker = max(margins, key=margins.__getitem__)
        if margins[weaker] > 0:
            text = f"{TOO_MANY} {margins[weaker]} more images correct than {weaker}"
            row["warning"] = "; ".join(filter(None, [row["warning"], text]))


def _lead(first: EvaluationRecord, second: EvaluationRecord) -> int | None:
    """Images that the first leaves correct more than the second; none without common ones."""
    try:
        ours, theirs = on_common_images([first, second])
    except UserError:
        return None
    if ours.num_examples != theirs.num_examples:
        return None
    return ours.num_robust - theirs.num_robust


def _changed(record: EvaluationRecord, spec: EvaluationSpec) -> str:
    """How a record's settings differ from those of params.yaml, or an empty text."""
    attack = spec.attacks[0]
    if record.key != spec.key:
        return f"made for the run {record.key.name if record.key else 'of another project'}"
    if record.checkpoint != spec.checkpoint:
        return f"made with the checkpoint {record.checkpoint}"
    if fields := attack.differing(record.attack):
        return f"made with another {', '.join(fields)} of the attack"
    others = [name for name in ("seed", "batch_size") if getattr(record, name) != vars(spec)[name]]
    return f"made with another {', '.join(others)}" if others else _changed_part(record, spec)


def _changed_images(record: EvaluationRecord, spec: EvaluationSpec, folder: Path) -> str:
    """Whether a record's test images are others than those that lie there now, or not all of them
    where all are asked for."""
    now = fetched_files(folder).get("test")
    if now is None:
        return ""
    if now.sha256 != record.data_sha256:
        return "made with other test images than those fetched"
    if spec.num_asked(spec.attacks[0]) is None and now.count != record.num_examples:
        return f"made with {record.num_examples} of the {now.count} test images"
    return ""


def _changed_part(record: EvaluationRecord, spec: EvaluationSpec) -> str:
    """How the images of a record differ from those that params.yaml asks for, or an empty text."""
    size, rule = spec.num_asked(spec.attacks[0]), spec.part_rule(spec.attacks[0])
    part = record.part
    if part is None:  # of an earlier version, which took the first images where a size was given
        same = rule != "stratified" and size in (None, record.num_examples)
        return "" if same else f"made with the first {record.num_examples} images"
    seed = spec.part_seed if rule == "stratified" else None
    if (part.rule, part.seed) == (rule, seed) and size in (None, part.size):
        return ""
    return f"made with another part of the images ({part.rule}, {part.size} of {part.of})"


def joint_accuracy(rows: Sequence[Row], *, several_threats: bool = False) -> float | None:
    """Percent of the images that are right under all attacks at once.

    None where an attack of the suite has no number, or where its records are of different files
    (or threat models, unless those are meant).
    """
    own = [row for row in rows if row["record"]]
    found = [row["outcome"] for row in own if row["outcome"]]
    if not found or len(found) < len(own):
        return None
    try:
        return 100 * float(worst_case(found, several_threats=several_threats).mean())
    except UserError:
        return None


# Verdicts: one file per network


@dataclass(frozen=True)
class Judged:
    """The verdict on one network; `path` is its file's in the project.

    `status` is that of an attack's row: "ok", "missing", "stale" (of other records than those that
    lie beside it), "inconsistent" (not a diagnosis), or the run's own where it did not finish.
    """

    path: str
    status: str
    reason: str = ""
    level: Level | None = None
    gap: float | None = None  # PGD-20 less AutoAttack, in points
    band_source: str = ""  # what the usual gap rests on
    reasons: tuple[str, ...] = ()  # "level: text"


def _read_verdict(steps: Steps, key: RunKey, run: Run, rows: Sequence[Row], root: Path) -> Judged:
    """The verdict on a run's best network, and whether it is of the records among `rows`."""
    step = steps.judge(key, "best")
    name = step.outputs[0]
    if not run.finished:
        return Judged(name, run.status, run.reason)
    path = root / name
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
        known, mark = content["records"], content["fingerprint"]
    except UserError as error:
        return Judged(name, "inconsistent", str(error).removeprefix(f"{path}: "))
    except (AttributeError, KeyError, TypeError, ValueError):
        return Judged(name, "inconsistent", "expected a complete diagnosis, got a part of one")
    others = [
        row["attack"]
        for row in rows
        if row["key"] == key and row["checkpoint"] == "best" and row["under_network_threat"]
        if row["status"] == "stale"
        or row["reason"].startswith(_OTHER_FILE)
        or (row["outcome"] and known.get(row["attack"]) != row["fingerprint"])
    ]
    if others:
        return Judged(name, "stale", f"judged by other records of {', '.join(others)}")
    if mark != step.fingerprint and not of_its_time(root):
        return Judged(name, "stale", f"judged with {SOMETHING_ELSE.format(name)}")
    return judged


def read_level(path: Path) -> str | None:
    """That of a verdict which lies there, be it of earlier records; none without one."""
    try:
        return read_diagnosis(path).get("level")
    except UserError:
        return None


def worst_level(levels: Sequence[Level | None]) -> Level | None:
    """The worst verdict over seeds; none as long as one of them has none."""
    known = [level for level in levels if level is not None]
    return max(known, key=LEVELS.index) if known and len(known) == len(levels) else None
