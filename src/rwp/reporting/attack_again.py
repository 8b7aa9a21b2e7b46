"""A gathered network attacked again: does it give its record's outcome on each image?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rwp.errors import UserError
from rwp.evaluation.jobs import evaluate_checkpoint
from rwp.evaluation.records import EvaluationRecord, clean_flags, read_record, robust_flags
from rwp.files import object_in, read_object, sha256_file
from rwp.pipeline.lookup import refuse_unknown
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.reporting.gathered import BRING_BACK, opened
from rwp.training.spec import RunKey


@dataclass(frozen=True)
class Again:
    """One attack made again, beside its gathered record, if there is one of the same settings."""

    record: EvaluationRecord
    gathered: EvaluationRecord | None

    @property
    def num_others(self) -> int | None:
        """Images with another outcome, with or without the attack."""
        if self.gathered is None:
            return None
        pairs = [
            (flags(self.record), flags(self.gathered)) for flags in (clean_flags, robust_flags)
        ]
        return int(np.logical_or.reduce([ours != theirs for ours, theirs in pairs]).sum())

    @property
    def told(self) -> str:
        """The comparison in words."""
        if self.gathered is None:
            return "no record of these settings to compare with"
        count = f"{self.record.num_examples:,} images"
        if self.num_others == 0:
            return f"the record's outcome on each of {count}"
        return (
            f"another outcome on {self.num_others} of {count} than the record, made on "
            f"{self.gathered.device} with torch {self.gathered.versions.get('torch', '?')}"
        )


def attack_again(
    folder: Path,
    checkpoint: Path,
    attacks: Sequence[str],
    *,
    root: Path,
    device: torch.device | str = "cpu",
) -> list[Again]:
    """Attack a network of a gathered folder as its settings say, on the images below `root/data`.

    Nothing in the folder is changed.

    Raises:
        UserError: the network is not that of the run or of its records; the images are not there,
            or are others than those of the training.
    """
    record = checkpoint.parent / "run.json"
    document = read_object(record)
    key = RunKey.parse(document.get("key"), where=str(record))
    with opened(folder) as place, tempfile.TemporaryDirectory() as scratch:
        refuse_unknown(place.params, key, where=str(record))
        if (place.root / key.directory).resolve() != checkpoint.parent.resolve():
            raise UserError(
                f"{record}: expected the run of its folder, got that of {key.directory}; "
                f"{BRING_BACK}"
            )
        _check_network(checkpoint, document)
        spec = evaluation_spec(
            place.params, key, checkpoint=checkpoint.stem, attacks=tuple(attacks) or None
        )
        there = Path(scratch)
        (there / "data").symlink_to((root / "data").resolve())
        run = there / key.directory
        run.mkdir(parents=True)
        (run / checkpoint.name).symlink_to(checkpoint.resolve())
        known = {
            attack.name: read_record(path)
            for attack in spec.attacks
            if (path := place.root / spec.record(attack.name)).exists()
        }
        _check_images(document, root / "data" / key.dataset / "test.pt", key.dataset)
        try:
            paths = evaluate_checkpoint(
                spec,
                root=there,
                fingerprint=sha256_file(checkpoint)[:16],
                state=root / ".state",
                device=device,
            )
        except UserError as error:
            raise UserError(str(error).replace(str(run), str(checkpoint.parent))) from error
        found = [read_record(path) for path in paths]
    return [Again(record, _alike(record, known.get(record.attack.name))) for record in found]


def _alike(record: EvaluationRecord, gathered: EvaluationRecord | None) -> EvaluationRecord | None:
    """The gathered record, if it is of the same attack on the same images in the same batches."""
    decisive = ("attack", "part", "seed", "batch_size")
    same = gathered is not None and all(
        getattr(gathered, name) == getattr(record, name) for name in decisive
    )
    return gathered if same else None


def _check_network(checkpoint: Path, document: dict[str, Any]) -> None:
    """The file is the one that the run wrote and that its records are of."""
    named = {"run.json": object_in(document, "networks").get(checkpoint.stem)}
    for path in sorted((checkpoint.parent / "evaluation" / checkpoint.stem).glob("*.json")):
        named[path.name] = read_object(path).get("checkpoint_sha256")
    found = sha256_file(checkpoint)
    for name, expected in named.items():
        if expected not in (None, found):
            raise UserError(
                f"{checkpoint}: expected the network that {name} beside it is of "
                f"({str(expected)[:12]}), got another file ({found[:12]}); {BRING_BACK}"
            )


def _check_images(document: dict[str, Any], images: Path, dataset: str) -> None:
    if not images.exists():
        raise UserError(
            f"{images}: expected the test images, found no file; run: rwp data fetch {dataset}"
        )
    expected = object_in(document, "inputs").get("test")
    if expected != sha256_file(images):
        raise UserError(
            f"{images}: expected the test images of the network's training, got others; fetch the "
            "data set as the folder's settings name it"
        )
