"""Records of evaluations: one JSON file per run, checkpoint and attack.

A record holds counts and the outcome of every example, so that any accuracy, interval, test or
worst case over attacks can be computed from it later.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rwp.errors import UserError
from rwp.files import read_json, write_json
from rwp.spec import Amount, Count, PositiveInt, SettingsError, Spec
from rwp.training.spec import AttackSpec, RunKey

Flags = NDArray[np.bool_]
_IDENTITY = ("checkpoint_sha256", "function_sha256", "data_sha256", "num_examples", "part")


def pack(flags: Flags) -> str:
    """One bit per example, as text; the first example is the highest bit of the first byte."""
    return base64.b64encode(np.packbits(flags).tobytes()).decode("ascii")


def unpack(text: str, count: int) -> Flags:
    """The flags behind `pack`.

    Raises:
        ValueError: the text is not base64, or holds another number of bits.
    """
    try:
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(f"expected base64 text, got something else ({error})") from error
    if len(packed) != (count + 7) // 8:
        raise ValueError(f"expected bits for {count} examples, got {8 * len(packed)}")
    return np.unpackbits(packed, count=count).astype(np.bool_)


@dataclass(frozen=True, kw_only=True)
class PartRecord(Spec):
    """Which images of the data set an evaluation looked at."""

    rule: Literal["all", "stratified", "first"]
    seed: Count | None  # of the stratified draw
    size: PositiveInt
    of: PositiveInt  # images of the whole set
    sha256: str  # of the images' places in the set
    mask: str  # one bit per image of the set: taken or not; empty where all are

    def __post_init__(self) -> None:
        taken = int(unpack(self.mask, self.of).sum()) if self.mask else self.of
        if taken != self.size:
            raise ValueError(
                f"expected a part of {self.size} images, got a mask of {taken} of {self.of}"
            )


@dataclass(frozen=True, kw_only=True)
class GradientRecord(Spec):
    """Images for which an attack had no gradient to follow.

    Those that nevertheless count as robust are `blind`; each is in one of the two counts.
    """

    images: Count  # attacked with gradients
    not_finite: Count  # a NaN or an infinity in some step
    zero: Count  # zero in every pixel of every step
    blind_not_finite: Count
    blind_zero: Count


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(Spec):
    """The outcome of one attack on one checkpoint.

    `robust_bits` and `clean_bits` say for each example, in the order of the data set, whether it
    was classified correctly before (clean) and both before and after the attack (robust).
    """

    format: Literal["rwp.evaluation/1"] = "rwp.evaluation/1"
    fingerprint: str
    key: RunKey | None  # none: a model from elsewhere
    checkpoint: str
    checkpoint_sha256: str
    # what a model from elsewhere computes; none: a run of ours, or one of an earlier version, or
    # a model that answers differently each time
    function_sha256: str | None = None
    data_sha256: str
    attack: AttackSpec
    num_examples: PositiveInt
    part: PartRecord | None = None  # none: a record of an earlier version
    num_clean_correct: Count
    num_robust: Count
    clean_bits: str
    robust_bits: str
    max_perturbation: float  # largest found among the adversarial images, in the attack's norm
    num_nan: Count  # NaN pixels among the adversarial images
    seconds: Amount
    seed: Count
    batch_size: PositiveInt
    device: str
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    gradients: GradientRecord | None = None  # none: an attack that asks for none
    # AutoAttack: examples still robust after each of its attacks
    parts: dict[str, Count] = field(default_factory=dict)

    def __post_init__(self) -> None:
        clean = unpack(self.clean_bits, self.num_examples)
        robust = unpack(self.robust_bits, self.num_examples)
        if (int(clean.sum()), int(robust.sum())) != (self.num_clean_correct, self.num_robust):
            raise ValueError("expected counts that agree with the bits, got others")
        if self.part is not None and self.part.size != self.num_examples:
            raise ValueError(
                f"expected the outcomes of {self.part.size} examples, got {self.num_examples}"
            )
        if (robust & ~clean).any():
            raise ValueError("expected robust examples to be correct before the attack")

    @property
    def clean_accuracy(self) -> float:
        """Share of examples classified correctly."""
        return self.num_clean_correct / self.num_examples

    @property
    def robust_accuracy(self) -> float:
        """Share of examples classified correctly before and after the attack."""
        return self.num_robust / self.num_examples


def write_record(path: Path | str, record: EvaluationRecord) -> None:
    """Write a record in one move."""
    write_json(path, record.document())


def read_record(path: Path | str) -> EvaluationRecord:
    """Read a record and check that it agrees with itself.

    What a later version noted beside the outcome is left aside.

    Raises:
        UserError: the file is missing or is not a record.
    """
    content = read_json(path)
    if isinstance(content, dict):
        content = {f.name: content[f.name] for f in fields(EvaluationRecord) if f.name in content}
    try:
        return EvaluationRecord.validated(content)
    except SettingsError as fault:
        raise UserError(
            f"{path}: expected an evaluation record, got {fault.place or 'record'}: {fault}; "
            "delete it and evaluate again"
        ) from fault


def clean_flags(record: EvaluationRecord) -> Flags:
    """Per example: correct before the attack."""
    return unpack(record.clean_bits, record.num_examples)


def robust_flags(record: EvaluationRecord) -> Flags:
    """Per example: correct before and after the attack."""
    return unpack(record.robust_bits, record.num_examples)


def on_common_images(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """The same records of those images alone that all of them looked at.

    AutoAttack may look at fewer images than PGD; what compares two attacks compares them on the
    same ones. A record that is cut loses what was counted over all of its images.

    Raises:
        UserError: the parts do not lie in each other.
    """
    parts = [record.part for record in records]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or all(part == known[0] for part in known):
        return list(records)
    smallest = min(known, key=lambda part: part.size)
    shared = _mask(smallest)
    found = []
    for record, part in zip(records, known, strict=True):
        own = _mask(part)
        if part.of != smallest.of or (shared & ~own).any():
            raise UserError(
                f"records: expected parts of the images that lie in each other, got others under "
                f"{record.attack.name}; evaluate with one part_seed"
            )
        found.append(record if part == smallest else _cut(record, shared[own], smallest))
    return found


def _mask(part: PartRecord) -> Flags:
    return unpack(part.mask, part.of) if part.mask else np.ones(part.of, dtype=np.bool_)


def _cut(record: EvaluationRecord, kept: Flags, part: PartRecord) -> EvaluationRecord:
    clean, robust = clean_flags(record)[kept], robust_flags(record)[kept]
    return record.replace(
        part=part,
        num_examples=len(clean),
        num_clean_correct=int(clean.sum()),
        num_robust=int(robust.sum()),
        clean_bits=pack(clean),
        robust_bits=pack(robust),
        gradients=None,
        parts={},
    )


def worst_case(records: Sequence[EvaluationRecord], *, several_threats: bool = False) -> Flags:
    """Per example that all looked at: correct under all of several attacks on one checkpoint.

    Raises:
        UserError: no record, or records of different checkpoints or data; or of different threat
            models, unless those are meant.
    """
    if not records:
        raise UserError("records: expected at least one, got none; evaluate first")
    records = on_common_images(records)
    for other in records[1:]:
        _same(records[0], other, *_IDENTITY)
    attacked = [record.attack for record in records if record.attack.kind != "natural"]
    threats = list(dict.fromkeys(attack.threat for attack in attacked))
    if len(threats) > 1 and not several_threats:
        raise UserError(
            f"records: expected one threat model, got {threats[0]} and {threats[1]}; compare them"
            " apart"
        )
    return np.logical_and.reduce([robust_flags(record) for record in records])


def _same(first: EvaluationRecord, other: EvaluationRecord, *names: str) -> None:
    for name in names:
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise UserError(
                f"records: expected one {name}, got {ours} ({first.attack.name}) and "
                f"{theirs} ({other.attack.name}); evaluate both attacks on the same file"
            )


def require_final(record: EvaluationRecord) -> EvaluationRecord:
    """Hand a record through to a table, a verdict or an export.

    Raises:
        UserError: it comes from the shortened AutoAttack or from a draft, upper bounds only.
    """
    if record.attack.version == "lite":
        raise UserError(
            f"{record.attack.name}: expected AutoAttack standard in a table, got lite (APGD-CE and "
            "APGD-T only), an upper bound for development; evaluate with version: standard"
        )
    return require_search_in_fp32(record)


def require_search_in_fp32(record: EvaluationRecord) -> EvaluationRecord:
    """Hand a record through to a verdict, which says so where AutoAttack was shortened.

    Raises:
        UserError: it comes from a draft.
    """
    if record.attack.draft is not None:
        raise UserError(
            f"{record.attack.name}: expected a search in fp32, got a draft in "
            f"{record.attack.draft}, an upper bound for development; evaluate without draft"
        )
    return record
