"""diagnosis.json: the verdict on one checkpoint and what it rests on, written and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord
from rwp.evaluation.verdict import FollowUp, Verdict
from rwp.files import read_json, write_json

NAME = "diagnosis.json"
FORMAT = "rwp.diagnosis/1"


def write_diagnosis(
    path: Path,
    verdict: Verdict,
    found: FollowUp | None,
    records: Sequence[EvaluationRecord],
    *,
    fingerprint: str,
) -> None:
    """Write a verdict and what it rests on, in one move."""
    content = {
        "format": FORMAT,
        "fingerprint": fingerprint,
        **asdict(verdict),
        "follow_up": None if found is None else asdict(found),
        "records": {record.attack.name: record.fingerprint for record in records},
    }
    write_json(path, content)


def read_diagnosis(path: Path | str) -> dict[str, Any]:
    """The content of a diagnosis: level, gap, band, reasons, follow_up, records.

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
