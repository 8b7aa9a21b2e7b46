"""What a training leaves, as tests compare it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rwp.metric_names import TIMINGS


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Those of a checkpoint."""
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["weights"]
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """The history of a run, without what it says of the machine."""
    lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]
