"""The verdict on one checkpoint as a file: judge the records, attack further, judge again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwp.data.passport import PASSPORT, read_dataset_passport
from rwp.errors import UserError
from rwp.evaluation.diagnosis_file import write_diagnosis
from rwp.evaluation.records import EvaluationRecord, PartRecord, read_record
from rwp.evaluation.spec import DiagnosisSpec, EvaluationSpec
from rwp.evaluation.verdict import FollowUp, Verdict, judge, usual_pgd
from rwp.files import sha256_file
from rwp.training.spec import AttackSpec

if TYPE_CHECKING:
    import torch

    from rwp.data.images import ImageSet

_FOLLOW_UP_EXAMPLES = 500  # standard error of a share: at most 2.2 points


def diagnose_checkpoint(
    spec: DiagnosisSpec,
    *,
    root: Path,
    fingerprint: str,
    twin: Path | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Judge the records of one evaluation; attack again where anything may resist; write it down.

    Args:
        spec: whose records exist.
        root: the project's folder.
        fingerprint: goes into the file.
        twin: a checkpoint to borrow adversarial images from, instead of the twin of `spec`.
        device: where to run.

    Returns:
        The file, `diagnosis.json` beside the records.

    Raises:
        UserError: a record is missing, damaged, or of another network or other images than those
            that lie there; or the twin is missing.
    """
    evaluation = spec.evaluation
    paths = {attack.name: root / evaluation.record(attack.name) for attack in evaluation.attacks}
    missing = [name for name, path in paths.items() if not path.exists()]
    if missing:
        place = evaluation.key.directory / f"{evaluation.checkpoint}.pt"
        raise UserError(
            f"{root / place}: expected records of all its attacks, found none of "
            f"{', '.join(missing)}; run: rwp evaluate --checkpoint {place}"
        )
    records = [read_record(path) for path in paths.values()]
    dataset = evaluation.key.dataset
    _require_same_files(records, spec, root)
    context: dict[str, Any] = {
        "dataset": dataset,
        "objective": spec.objective,
        "chance": _chance(root / "data" / dataset, evaluation, records[0].part),
    }

    def further(attack: AttackSpec) -> FollowUp:
        lender = root / spec.twin_checkpoint if twin is None and spec.twin_checkpoint else twin
        return _follow_up(spec, attack, root=root, twin=lender, device=device)

    verdict, found = judge_further(records, further, **context)
    path = root / spec.path
    write_diagnosis(path, verdict, found, records, fingerprint=fingerprint)
    return path


def _require_same_files(
    records: Sequence[EvaluationRecord], spec: DiagnosisSpec, root: Path
) -> None:
    """Records of an earlier training would be judged, and the later network attacked further."""
    evaluation = spec.evaluation
    there = {
        "checkpoint_sha256": root / evaluation.key.directory / f"{evaluation.checkpoint}.pt",
        "data_sha256": root / "data" / evaluation.key.dataset / "test.pt",
    }
    for field, file in there.items():
        now = sha256_file(file) if file.exists() else None
        for record in records:
            if now is not None and getattr(record, field) != now:
                raise UserError(
                    f"{root / evaluation.record(record.attack.name)}: expected a record of {file} "
                    "as it lies there, got one of another file; evaluate again"
                )


def judge_further(
    records: Sequence[EvaluationRecord], further: Callable[[AttackSpec], FollowUp], **context: Any
) -> tuple[Verdict, FollowUp | None]:
    """Judge by the records and, unless there is nothing to doubt, by `further` attacks as well.

    These vary the records' PGD, so without one there are none. A network that is weak by its
    records, or was never meant to resist, is not attacked again. `context` are the other arguments
    of `judge`.
    """
    verdict, pgd = judge(records, **context), usual_pgd(records)
    if pgd is None or verdict.level == "weak" or context["objective"] == "natural":
        return verdict, None
    found = further(pgd.attack)
    return judge(records, **context, follow_up=found), found


def _chance(folder: Path, evaluation: EvaluationSpec, part: PartRecord | None) -> float:
    """Share of the most frequent class among the images looked at, but at least 1 / classes."""
    whole = part is None or part.rule == "all"
    if part is not None and part.rule == "stratified":  # of few images it has other shares
        whole = not (folder / "test.pt").exists()
    if (folder / PASSPORT).exists() and whole:
        counts = read_dataset_passport(folder).files["test.pt"].class_histogram
        if any(counts):
            return max(counts) / sum(counts)
    from rwp.data.images import ImageSet
    from rwp.evaluation.jobs import part_of

    images = part_of(evaluation, ImageSet.load(folder / "test.pt"), folder / "test.pt")[0]
    return max(images.class_counts()) / len(images)


def _follow_up(
    spec: DiagnosisSpec,
    attack: AttackSpec,
    *,
    root: Path,
    twin: Path | None,
    device: torch.device | str,
) -> FollowUp:
    # A weak verdict is written without torch, whose import takes longer than that does.
    from rwp.data.images import ImageSet
    from rwp.evaluation.followup import follow_up
    from rwp.evaluation.jobs import part_of
    from rwp.training.checkpoint import load_network, require_fit

    evaluation = spec.evaluation
    if twin is not None and not twin.exists():
        raise UserError(
            f"{twin}: expected the twin that lends adversarial images, found no file; "
            "train it first, or name another network with --twin"
        )
    data = root / "data" / evaluation.key.dataset / "test.pt"
    images = part_of(evaluation, ImageSet.load(data), data)[0]
    images = followed_up(images, seed=evaluation.part_seed, source=data)
    checkpoint = root / evaluation.key.directory / f"{evaluation.checkpoint}.pt"
    lender = None
    if twin is not None:
        lender, description = load_network(twin, device=device)
        require_fit(description, images.shape[0], images.num_classes, source=f"--twin: {twin}")
    return follow_up(
        load_network(checkpoint, device=device)[0],
        images,
        attack,
        batch_size=evaluation.batch_size,
        seed=evaluation.seed,
        device=device,
        twin=lender,
    )


def followed_up(images: ImageSet, *, seed: int, source: Path) -> ImageSet:
    """As many of the images as are attacked further."""
    if len(images) <= _FOLLOW_UP_EXAMPLES:
        return images
    from rwp.data.parts import take_part

    count = max(_FOLLOW_UP_EXAMPLES, len(images.labels.unique()))
    return take_part(images, num_examples=count, seed=seed, source=source)[0]
