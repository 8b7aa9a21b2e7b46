"""What of the pipeline is done, stale or to do, by the fingerprints that results carry.

The Merkle chain: the fingerprint of each step holds those of what it reads (`Step.fingerprint` in
`steps`), and its code (`code` says which code counts). Snakemake alone would
call a table done whose retraining failed; with the fingerprint among a job's parameters,
everything below a changed step is known to be stale until it has run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rwp.data.passport import PASSPORT, ImageFile, read_dataset_passport
from rwp.evaluation.spec import EvaluationSpec
from rwp.files import object_in, read_object
from rwp.pipeline.steps import Step
from rwp.training.spec import AttackSpec, TrainSpec

State = Literal["done", "stale", "to do"]


@dataclass(frozen=True)
class Result:
    """One file that carries a fingerprint."""

    step: Step
    path: str  # relative to the project

    @property
    def fingerprint(self) -> str:
        """What it should carry, under today's settings and code."""
        return self.step.fingerprint_of(self.path)

    @property
    def attack(self) -> AttackSpec | None:
        """Whose record it is, if it is one."""
        settings = self.step.settings
        if not isinstance(settings, EvaluationSpec):
            return None
        stem = Path(self.path).stem
        return next(attack for attack in settings.attacks if attack.name == stem)

    def state(self, root: Path) -> State:
        """Whether the file is there, and made under today's settings and code."""
        if not (root / self.path).exists():
            return "to do"
        document = read_object(root / self.path)
        if document.get("fingerprint") != self.fingerprint:
            return "stale"
        trained = isinstance(self.step.settings, TrainSpec)
        return "stale" if trained and other_images(document, root) else "done"


def other_images(document: dict[str, Any], root: Path) -> str:
    """The split of which a run saw others than the images of the passport, or an empty text."""
    inputs = object_in(document, "inputs")
    dataset = object_in(document, "key").get("dataset", "")
    for split, file in fetched_files(root / "data" / str(dataset)).items():
        if inputs.get(split, file.sha256) != file.sha256:
            return split
    return ""


def fetched_files(folder: Path) -> dict[str, ImageFile]:
    """Each split of a data set with what its passport says of the file; nothing without one."""
    if not (folder / PASSPORT).exists():
        return {}
    files = read_dataset_passport(folder).files
    return {name.removesuffix(".pt"): file for name, file in files.items()}


def results(steps: Iterable[Step]) -> list[Result]:
    """All files of steps that carry a fingerprint."""
    return [Result(step, path) for step in steps for path in step.records]


def stale_inputs(step: Step, root: Path, *, besides: Collection[str] = ()) -> list[str]:
    """Results that a step reads, or that what it reads came with, and that are not today's.

    `besides` are inputs that something else is read in place of.
    """
    read = {path: other for path, other in step.inputs.items() if path not in besides}
    return [
        path
        for other in dict.fromkeys(read.values())
        for path in other.records
        if path in read or other.kind in ("train", "label")
        if Result(other, path).state(root) == "stale"
    ]


def incomplete_fetches(steps: Iterable[Step], root: Path) -> list[str]:
    """Passports that lack beside fetched images: they are written last, so a fetch ended early."""
    fetched = (step.outputs for step in steps if step.kind == "fetch")
    return [
        passport
        for *images, passport in fetched
        if not (root / passport).exists() and any((root / path).exists() for path in images)
    ]


def changed_sources(steps: Iterable[Step], root: Path) -> list[str]:
    """Passports of fetched data that was made by other settings, code or images than today's."""
    marks = {step.outputs[-1]: step.fingerprint for step in steps if step.kind == "fetch"}
    return [
        path
        for path, mark in marks.items()
        if (root / path).exists() and read_object(root / path).get("fingerprint", mark) != mark
    ]
