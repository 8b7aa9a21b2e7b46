"""One evaluation from files to files: a checkpoint and a data set in, records out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.data.images import ImageSet
from rwp.data.parts import Part, take_part
from rwp.errors import UserError
from rwp.evaluation.attacks import AttackResult, evaluate
from rwp.evaluation.autoattack import autoattack
from rwp.evaluation.records import EvaluationRecord, PartRecord, pack, read_record, write_record
from rwp.evaluation.shared_batches import clear_folder, shared_folder
from rwp.evaluation.spec import EvaluationSpec, record_fingerprint, short_of_the_edge
from rwp.files import object_in, read_object, sha256_file
from rwp.training.checkpoint import load_network, require_fit
from rwp.training.spec import AttackSpec, RunKey

_PACKAGES = ("torch", "numpy", "pyautoattack")


def evaluate_checkpoint(
    spec: EvaluationSpec,
    *,
    root: Path,
    fingerprint: str,
    state: Path,
    device: torch.device | str = "cpu",
) -> list[Path]:
    """Run the attacks of `spec` on one checkpoint and write one record each, as it is done.

    A record that is there already, of the same fingerprint and files, is left alone; so a job
    that was killed goes on with the attack it was at, and AutoAttack with the batch it was at.
    Any number of these may run at once, on any machines that see the same folders: they divide
    AutoAttack's batches between them, and the record has the bits of one that works alone.

    Args:
        spec: what to run.
        root: the project's folder.
        fingerprint: of the evaluation; each record gets its own, with the attack's settings.
        state: a folder for what AutoAttack needs to go on; its part there is removed at the end.
        device: where to run.

    Raises:
        UserError: a missing or damaged file, a network that does not fit the images, or what
            the attacks refuse. No record is written for an attack that did not finish.
    """
    job = _Job(spec, root, fingerprint, device)

    def is_needed(attack: AttackSpec) -> bool:
        expected, record = record_fingerprint(fingerprint, attack), root / spec.record(attack.name)
        return not is_done(record, attack, expected, job.hashes(attack))

    def write(result: AttackResult) -> None:
        record = record_of(
            result,
            fingerprint=record_fingerprint(fingerprint, result.attack),
            key=spec.key,
            checkpoint=spec.checkpoint,
            hashes=job.hashes(result.attack),
            seed=spec.seed,
            batch_size=spec.batch_size,
            device=device,
        )
        write_record(root / spec.record(result.attack.name), record)

    pending = [attack for attack in spec.attacks if is_needed(attack)]
    model = job.model() if pending else None
    for same in by_part(pending):
        assert model is not None
        run_attacks(
            model,
            job.images(same[0]),
            same,
            batch_size=spec.batch_size,
            seed=spec.seed,
            device=device,
            state=job.state(state, same[0]),
            on_result=write,
            is_needed=is_needed,
        )
    for attack in spec.attacks:
        # Not the whole folder: a job with other attacks on the same checkpoint may be running.
        clear_folder(job.state(state, attack) / attack_id(attack))
    return [root / spec.record(attack.name) for attack in spec.attacks]


class _Job:
    """The files behind an evaluation, and the folder that is its own."""

    def __init__(
        self, spec: EvaluationSpec, root: Path, fingerprint: str, device: torch.device | str
    ) -> None:
        self.spec, self.device, self._fingerprint = spec, device, fingerprint
        self._checkpoint = root / spec.key.directory / f"{spec.checkpoint}.pt"
        data = root / "data" / spec.key.dataset / "test.pt"
        self._parts = {
            size: part_of(spec, ImageSet.load(data), data, num_examples=size)
            for size in {attack.num_examples for attack in spec.attacks}
        }
        if not self._checkpoint.exists():
            raise UserError(
                f"{self._checkpoint}: expected a checkpoint, found no file; train it first"
            )
        self._hashes: dict[str, Any] = {
            "checkpoint_sha256": sha256_file(self._checkpoint),
            "data_sha256": sha256_file(data),
        }

    def images(self, attack: AttackSpec) -> ImageSet:
        """The test images that an attack looks at."""
        return self._parts[attack.num_examples][0]

    def hashes(self, attack: AttackSpec) -> dict[str, Any]:
        """Of the network and of the images that an attack looks at."""
        return self._hashes | {"part": part_record(self._parts[attack.num_examples][1])}

    def model(self) -> nn.Module:
        """The network, checked against the images and the run.

        Raises:
            UserError: another number of channels or classes than the data set's, or none of the
                run's own.
        """
        model, description = load_network(self._checkpoint, device=self.device)
        _require_the_runs_own(self._checkpoint, self._hashes["checkpoint_sha256"])
        images = next(iter(self._parts.values()))[0]
        require_fit(description, images.shape[0], images.num_classes, source=self._checkpoint)
        return model

    def state(self, folder: Path, attack: AttackSpec) -> Path:
        """A folder for the attacks on these images alone: what decides the bits is in the name."""
        settings = {"seed": self.spec.seed, "batch_size": self.spec.batch_size}
        identity = self.hashes(attack) | settings | {"fingerprint": self._fingerprint}
        return folder / state_name(identity)


def _require_the_runs_own(checkpoint: Path, found: str) -> None:
    """Refuse a network that lies in a run's folder and is none of its own.

    Raises:
        UserError: run.json names another file; one of an earlier version names none.
    """
    record = checkpoint.parent / "run.json"
    document = read_object(record) if record.exists() else {}
    expected = object_in(document, "networks").get(checkpoint.stem, found)
    if expected != found:
        raise UserError(
            f"{checkpoint}: expected the network that {record.name} beside it is of "
            f"({str(expected)[:12]}), got another file ({found[:12]}); bring it back, or train "
            "this run again"
        )


def by_part(attacks: Sequence[AttackSpec]) -> list[list[AttackSpec]]:
    """Attacks on the same images together."""
    sizes = dict.fromkeys(attack.num_examples for attack in attacks)
    return [[attack for attack in attacks if attack.num_examples == size] for size in sizes]


def state_name(identity: dict[str, Any]) -> str:
    """A name for all that decides the bits of an evaluation, the packages among it."""
    packages = {name: version(name) for name in _PACKAGES}
    text = json.dumps([identity, packages], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_attacks(
    model: nn.Module,
    images: ImageSet,
    attacks: Sequence[AttackSpec],
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    state: Path | None,
    on_result: Callable[[AttackResult], None],
    is_needed: Callable[[AttackSpec], bool] = lambda _: True,
    keep_adversarial: bool = False,
) -> None:
    """Run cheap attacks first, then AutoAttack; `on_result` gets each result when it is there.

    `is_needed` is asked before AutoAttack starts: others who share `state` may be done with it.
    """
    shared: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
        "keep_adversarial": keep_adversarial,
    }
    cheap = [attack for attack in attacks if attack.kind != "autoattack"]
    if cheap:
        evaluate(model, images, cheap, **shared, on_result=on_result)
    for attack in attacks:
        if attack.kind != "autoattack":
            continue
        if state is None:
            on_result(autoattack(model, images, attack, **shared))
            continue
        own = state / attack_id(attack)
        with shared_folder(own):
            if is_needed(attack):
                on_result(autoattack(model, images, attack, **shared, state=own))


def attack_id(attack: AttackSpec) -> str:
    """A short name for an attack with all its settings."""
    return f"{attack.name}-{hashlib.sha256(attack.canonical().encode()).hexdigest()[:8]}"


def part_of(
    spec: EvaluationSpec, images: ImageSet, source: Path | str, *, num_examples: int | None = None
) -> tuple[ImageSet, Part]:
    """The test images that `spec` looks at, or those of an attack that looks at fewer.

    A smaller part lies in every larger one of the same seed.

    Raises:
        UserError: there are fewer, or a class would be missing.
    """
    return take_part(
        images,
        num_examples=num_examples or spec.num_examples,
        first_examples=spec.first_examples,
        seed=spec.part_seed,
        source=source,
    )


def part_record(part: Part) -> PartRecord:
    """A part as a record names it."""
    mask = "" if part.rule == "all" else pack(part.flags())
    return PartRecord(**part.identity(), mask=mask)


def draft_warning(attack: AttackSpec) -> list[str]:
    """A warning where the search was not in 32 bits."""
    if attack.draft is None:
        return []
    text = "an upper bound for development that no table, verdict or export takes"
    return [f"draft: searched in {attack.draft}, {text}"]


def record_of(
    result: AttackResult,
    *,
    fingerprint: str,
    key: RunKey | None,
    checkpoint: str,
    hashes: dict[str, Any],
    seed: int,
    batch_size: int,
    device: torch.device | str,
) -> EvaluationRecord:
    """A result with all that identifies it."""
    chosen = torch.device(device)
    return EvaluationRecord(
        fingerprint=fingerprint,
        key=key,
        checkpoint=checkpoint,
        **hashes,
        attack=result.attack,
        num_examples=len(result.robust),
        num_clean_correct=int(result.clean_correct.sum()),
        num_robust=int(result.robust.sum()),
        clean_bits=pack(result.clean_correct),
        robust_bits=pack(result.robust),
        max_perturbation=result.max_perturbation,
        num_nan=result.num_nan,
        seconds=round(result.seconds, 3),
        seed=seed,
        batch_size=batch_size,
        device=torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type,
        versions={name: version(name) for name in _PACKAGES},
        warnings=(
            *result.warnings,
            *short_of_the_edge(result.attack),
            *draft_warning(result.attack),
        ),
        gradients=result.gradients,
        parts=result.parts or {},
    )


def is_done(path: Path, attack: AttackSpec, fingerprint: str, identity: dict[str, Any]) -> bool:
    """Whether a record is there, of this attack, fingerprint and identity (field -> value)."""
    if not path.exists():
        return False
    try:
        record = read_record(path)
    except UserError:
        return False
    return (
        record.attack == attack
        and record.fingerprint == fingerprint
        and not any(differs(record, identity, name) for name in identity)
    )


def differs(record: EvaluationRecord, identity: dict[str, Any], name: str) -> bool:
    """Whether a record says otherwise than `identity` (field -> value) in that field."""
    return bool(getattr(record, name) != identity[name])
