"""The verdict on one checkpoint as a file: judge the records and, where in doubt, follow up."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rwp.config.specs import EvaluationSpec
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.diagnostics import Verdict, judge
from rwp.evaluation.followup import FollowUp, follow_up
from rwp.evaluation.jobs import first_examples
from rwp.evaluation.records import EvaluationRecord, read_record
from rwp.files import read_json, write_json
from rwp.training.checkpoint import load_network

FORMAT = "rwp.diagnosis/1"
_FOLLOW_UP_EXAMPLES = 500  # standard error of a share: at most 2.2 points


def diagnose_checkpoint(
    spec: EvaluationSpec,
    *,
    objective: str,
    root: Path,
    fingerprint: str,
    twin: Path | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Judge the records that `spec` names; attack again unless all is green; write the verdict.

    Args:
        spec: the evaluation whose records exist.
        objective: natural, at, trades or mart.
        root: the project's folder.
        fingerprint: goes into the file.
        twin: a checkpoint to borrow adversarial images from, e.g. that of plain AT.
        device: where to run.

    Returns:
        The file, `diagnosis.json` beside the records.

    Raises:
        UserError: a record is missing or damaged.
    """
    records = [read_record(root / spec.record(attack.name)) for attack in spec.attacks]
    verdict = judge(records, dataset=spec.key.dataset, objective=objective)
    found = None
    if verdict.level != "green" and objective != "natural":
        found = _follow_up(spec, records, root=root, twin=twin, device=device)
        verdict = judge(records, dataset=spec.key.dataset, objective=objective, follow_up=found)
    path = root / spec.record("diagnosis")
    write_json(path, _as_json(verdict, found, fingerprint))
    return path


def _follow_up(
    spec: EvaluationSpec,
    records: list[EvaluationRecord],
    *,
    root: Path,
    twin: Path | None,
    device: torch.device | str,
) -> FollowUp:
    attack = next((record.attack for record in records if record.attack.kind == "pgd"), None)
    if attack is None:
        raise UserError(
            f"{spec.key.name}: expected a PGD among the attacks, got none; "
            "add one under evaluation.attacks"
        )
    data = root / "data" / spec.key.dataset / "test.pt"
    images = ImageSet.load(data)
    count = min(_FOLLOW_UP_EXAMPLES, spec.num_examples or len(images), len(images))
    model, _ = load_network(root / spec.key.directory / f"{spec.checkpoint}.pt", device=device)
    return follow_up(
        model,
        first_examples(images, count, data),
        attack,
        batch_size=spec.batch_size,
        seed=spec.seed,
        device=device,
        twin=None if twin is None else load_network(twin, device=device)[0],
    )


def _as_json(verdict: Verdict, found: FollowUp | None, fingerprint: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "fingerprint": fingerprint,
        **asdict(verdict),
        "follow_up": None if found is None else asdict(found),
    }


def read_diagnosis(path: Path | str) -> dict[str, Any]:
    """The content of a diagnosis: level, gap, band, reasons, follow_up.

    Raises:
        UserError: the file is missing or of another kind.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected a diagnosis ({FORMAT}), got another kind of file; "
            "delete it and diagnose again"
        )
    return content
