"""Models from elsewhere, evaluated and judged like our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.data.images import ImageSet
from rwp.data.parts import Part, take_part
from rwp.errors import UserError
from rwp.evaluation.adapted import (
    AdaptedModel,
    left_as_it_was,
)
from rwp.evaluation.api import as_threat
from rwp.evaluation.attacks import AttackResult
from rwp.evaluation.clean import batch_of, borrowed, checked_logits, clean_outcomes
from rwp.evaluation.diagnosis import followed_up, judge_further
from rwp.evaluation.diagnosis_file import NAME as DIAGNOSIS, write_diagnosis
from rwp.evaluation.external_models import ExternalModel
from rwp.evaluation.followup import follow_up
from rwp.evaluation.identity import function_sha256
from rwp.evaluation.jobs import (
    by_part,
    differs,
    is_done,
    part_record,
    record_of,
    run_attacks,
    state_name,
)
from rwp.evaluation.records import EvaluationRecord, read_record, unpack, write_record
from rwp.evaluation.spec import check_attack
from rwp.evaluation.verdict import FollowUp, Verdict, judge
from rwp.files import sha256_file
from rwp.spec import radius_fraction, radius_text
from rwp.training.spec import AttackSpec

_UNKNOWN = "unknown"  # what was minimized
_FINGERPRINT = "external"  # nothing of ours stands behind these models
_OF_L1 = "external-l1-2"  # of AutoAttack under L1, with all images in each pass of APGD


def evaluate_external(
    external: ExternalModel,
    *,
    data: Path,
    attacks: Sequence[AttackSpec],
    out: Path,
    state: Path,
    batch_size: int,
    seed: int,
    num_examples: int | None = None,
    first_examples: int | None = None,
    part_seed: int = 0,
    device: torch.device | str = "cpu",
    on_clean: Callable[[float], None] | None = None,
    other_threats: Collection[str] = (),
) -> list[Path]:
    """Evaluate a model from elsewhere; `on_clean` gets the clean accuracy before any attack.

    `other_threats` names attacks with a norm and a radius of their own, whose records lie beside.

    A record that is there already, of the same model, images and settings, is left alone, and
    AutoAttack goes on with the batch it was at.

    Returns:
        The records, `<out>/<attack>.json`; they have no run key.

    Raises:
        UserError: a model that does not take these images, or what the attacks refuse.
    """
    chosen = {"num_examples": num_examples, "first_examples": first_examples, "seed": part_seed}
    with _looked_at(external, data, device, **chosen) as seen:
        drawn = {"seed": seed, "batch_size": batch_size}
        parts = _parts(attacks, seen, part_seed, data)
        jobs = [_Job.of(external, seen, out, drawn, device, part) for part in parts]
        _refuse_others(out, jobs, other_threats)
        clean, _ = clean_outcomes(seen.model, seen.images, batch_size=batch_size, device=device)
        if on_clean is not None:
            on_clean(float(clean.mean()))
        for job in jobs:
            run_attacks(
                seen.model,
                job.images,
                [attack for attack in job.attacks if job.is_needed(attack)],
                batch_size=batch_size,
                seed=seed,
                device=device,
                state=job.state(state),
                on_result=job.write,
                is_needed=job.is_needed,
            )
    return [out / f"{attack.name}.json" for attack in attacks]


@dataclass(frozen=True)
class _Seen:
    """A model made fit for attacks, the images, and what both are known by."""

    model: AdaptedModel
    whole: ImageSet
    images: ImageSet  # those of them that are attacked
    part: Part
    hashes: dict[str, Any]


@contextmanager
def _looked_at(
    external: ExternalModel, data: Path, device: torch.device | str, **chosen: int | None
) -> Iterator[_Seen]:
    """A model that was tried on one image; left as it was."""
    whole = ImageSet.load(data)
    images, part = take_part(whole, source=data, **chosen)  # type: ignore[arg-type]
    model = AdaptedModel(external.model, num_classes=images.num_classes)
    with left_as_it_was(external.model):
        _try_one_image(external.name, model, images, device)
        hashes = {
            "checkpoint_sha256": external.sha256,
            "function_sha256": function_sha256(model, whole, device=device),
            "data_sha256": sha256_file(data),
        }
        yield _Seen(model, whole, images, part, hashes)


_Attacked = tuple[list[AttackSpec], ImageSet, Part]


def _parts(
    attacks: Sequence[AttackSpec], seen: _Seen, part_seed: int, source: Path
) -> Iterator[_Attacked]:
    """Attacks that look at the same images, with these; some look at fewer."""
    for same in by_part(attacks):
        size = same[0].num_examples
        if size is None:
            yield same, seen.images, seen.part
        else:
            some, own = take_part(seen.whole, num_examples=size, seed=part_seed, source=source)
            yield same, some, own


def at_radius(attack: AttackSpec, epsilon: str) -> AttackSpec:
    """The same attack at another radius, its step in proportion.

    Raises:
        UserError: the radius, or the step that goes with it, is none on [0, 1] pixels.
    """
    threat = as_threat((attack.threat.norm, epsilon), where=f"--epsilons {epsilon}")
    if attack.step_size is None:
        return attack.replace(threat=threat)
    share = radius_fraction(attack.step_size) / radius_fraction(attack.threat.epsilon)
    step_size = radius_text(share * radius_fraction(epsilon))
    return check_attack(attack.replace(threat=threat, step_size=step_size))


def verdict_on(paths: Sequence[Path], *, dataset: str, data: Path) -> Verdict:
    """The verdict on the records of a model whose training nobody knows; `data` has the classes."""
    images = ImageSet.load(data)
    records = [read_record(path) for path in paths]
    part = records[0].part
    if part is not None and part.rule != "all":  # the first images may be of other shares
        images = images.select(torch.from_numpy(unpack(part.mask, part.of).nonzero()[0]))
    chance = max(images.class_counts()) / len(images)
    return judge(records, dataset=dataset, objective=_UNKNOWN, chance=chance)


def diagnose_external(
    external: ExternalModel,
    *,
    data: Path,
    attacks: Sequence[AttackSpec],
    dataset: str,
    out: Path,
    batch_size: int,
    seed: int,
    num_examples: int | None = None,
    first_examples: int | None = None,
    part_seed: int = 0,
    device: torch.device | str = "cpu",
) -> Path:
    """Judge the records in `out` as those of our own runs, with further attacks where in doubt.

    Returns:
        The verdict, `<out>/diagnosis.json`.

    Raises:
        UserError: a record is missing, of another model, or of another attack of the same name.
    """
    chosen = {"num_examples": num_examples, "first_examples": first_examples, "seed": part_seed}
    with _looked_at(external, data, device, **chosen) as seen:
        drawn = {"seed": seed, "batch_size": batch_size}
        parts = _parts(attacks, seen, part_seed, data)
        jobs = [_Job.of(external, seen, out, drawn, device, part) for part in parts]
        there = {attack.name: job.record(attack) for job in jobs for attack in job.attacks}
        records = [there[attack.name] for attack in attacks]

        def further(attack: AttackSpec) -> FollowUp:
            some = followed_up(seen.images, seed=part_seed, source=data)
            return follow_up(
                seen.model, some, attack, batch_size=batch_size, seed=seed, device=device
            )

        verdict, found = judge_further(
            records,
            further,
            dataset=dataset,
            objective=_UNKNOWN,
            chance=max(seen.images.class_counts()) / len(seen.images),
        )
    path = out / DIAGNOSIS
    write_diagnosis(path, verdict, found, records, fingerprint=_FINGERPRINT)
    return path


def _differences_beside(
    record: EvaluationRecord, attack: AttackSpec, identity: dict[str, Any]
) -> list[str]:
    """The same of a record at another radius, whose step goes with it up to rounding."""
    if record.attack.threat.norm != attack.threat.norm:
        return ["under another norm"]
    expected = at_radius(attack, record.attack.threat.epsilon)
    steps = (record.attack.step_size, expected.step_size)
    if None not in steps and math.isclose(record.attack.step, expected.step, rel_tol=1e-9):
        expected = expected.replace(step_size=record.attack.step_size)
    return _differences(record, expected, identity)


def _fingerprint(attack: AttackSpec) -> str:
    in_l1 = attack.kind == "autoattack" and attack.threat.norm == "l1"
    return _OF_L1 if in_l1 else _FINGERPRINT


def _differences(
    record: EvaluationRecord, attack: AttackSpec, identity: dict[str, Any]
) -> list[str]:
    """In what a record is not of this attack on this model and these images."""
    found = [text for name, text in _DIFFERENT.items() if differs(record, identity, name)]
    others = ["code" if n == "source" else n for n in attack.differing(record.attack)]
    return found + ([f"of an attack with another {', '.join(others)}"] if others else [])


@dataclass(frozen=True)
class _Job:
    """The records of one model on one set of images."""

    name: str
    out: Path
    hashes: dict[str, Any]
    drawn: dict[str, int]  # seed and size of the batches
    device: torch.device | str
    attacks: Sequence[AttackSpec]
    images: ImageSet

    @classmethod
    def of(
        cls,
        external: ExternalModel,
        seen: _Seen,
        out: Path,
        drawn: dict[str, int],
        device: torch.device | str,
        attacked: _Attacked,
    ) -> _Job:
        """Attacks on the same images, and these."""
        attacks, images, part = attacked
        hashes = seen.hashes | {"part": part_record(part)}
        return cls(external.name, out, hashes, drawn, device, attacks, images)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bits of its records, their attacks apart."""
        return self.hashes | self.drawn

    def record(self, attack: AttackSpec) -> EvaluationRecord:
        """The one that lies there.

        Raises:
            UserError: there is none, or one of something else.
        """
        path = self.path(attack)
        if not path.exists():
            raise UserError(
                f"{path}: expected the record of an attack, found none; run `rwp evaluate` with the"
                " same options first, or name the attacks with --attack"
            )
        record = read_record(path)
        other = _differences(record, attack, self.identity)
        if record.fingerprint != _fingerprint(attack):
            other.append("of an earlier version")
        if other:
            raise UserError(
                f"{path}: expected a record of {self.name} as it is evaluated now, got one "
                f"{other[0]}; evaluate into another folder (--output), or delete this record first"
            )
        return record

    def path(self, attack: AttackSpec) -> Path:
        return self.out / f"{attack.name}.json"

    def is_needed(self, attack: AttackSpec) -> bool:
        # A model that answers differently each time cannot be recognized.
        known = self.hashes["function_sha256"] is not None
        return not (
            known and is_done(self.path(attack), attack, _fingerprint(attack), self.identity)
        )

    def state(self, folder: Path) -> Path | None:
        """A folder for this evaluation alone: what decides its bits is in the name."""
        if self.hashes["function_sha256"] is None:
            return None
        return folder / state_name(self.identity)

    def write(self, result: AttackResult) -> None:
        record = record_of(
            result,
            fingerprint=_fingerprint(result.attack),
            key=None,
            checkpoint=self.name,
            hashes=self.hashes,
            device=self.device,
            **self.drawn,
        )
        write_record(self.path(result.attack), record)


_DIFFERENT = {
    "data_sha256": "on other images",
    "part": "on another part of the images",
    "checkpoint_sha256": "of another model",
    "function_sha256": "of a model of the same weights that computes something else",
    "seed": "with another seed",
    "batch_size": "in batches of another size",
}


def _refuse_others(out: Path, jobs: Sequence[_Job], other_threats: Collection[str]) -> None:
    """A folder holds the records of one evaluation: those of another may have taken hours."""
    asked = {attack.name: (attack, job) for job in jobs for attack in job.attacks}
    own = (attack for attack, _ in asked.values() if attack.name not in other_threats)
    threats = {attack.threat for attack in own if attack.kind != "natural"}
    sizes = {attack.num_examples: job for attack, job in asked.values()}
    beside = out.parent.glob("epsilon-*/*.json") if out.name.startswith("epsilon-") else ()
    for path in sorted({*out.glob("*.json"), *beside}):
        try:
            found = read_record(path)
        except UserError:
            if path.parent != out and path.stem in asked:
                raise  # its curve would lack a radius
            continue  # damaged ones are made again
        if path.stem in asked:
            attack, job = asked[path.stem]
            other = (
                _differences(found, attack, job.identity)
                if path.parent == out
                else _differences_beside(found, attack, job.identity)
            )
        else:  # not asked for now; of another number of images, its part is its own
            same = sizes.get(found.attack.num_examples)
            fields = [name for name in _DIFFERENT if name != "part" or same is not None]
            identity = (same or jobs[0]).identity
            other = [_DIFFERENT[name] for name in fields if differs(found, identity, name)]
            apart = found.attack.kind == "natural" or path.stem in other_threats
            threat = None if apart else found.attack.threat
            if path.parent == out and threat is not None and threats and threat not in threats:
                other.append("under another threat model")
        if other:
            raise UserError(
                f"{path}: expected a record of {jobs[0].name} as it is evaluated now, got one "
                f"{other[0]}; name another folder with --output, or delete this record first"
            )


def _try_one_image(
    name: str, model: nn.Module, images: ImageSet, device: torch.device | str
) -> None:
    batch, labels = batch_of(images, 0, 1, device)
    try:
        with borrowed(model, device):
            num_classes = checked_logits(model, batch, labels * 0).shape[1]
    except UserError as error:
        raise UserError(f"{name}: {str(error).removeprefix('model: ')}") from error
    if num_classes < images.num_classes:
        raise UserError(
            f"{name}: expected logits of {images.num_classes} classes, got {num_classes}; "
            "choose the data set it was trained on"
        )
