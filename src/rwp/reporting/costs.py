"""What a training cost, as its run.json tells it."""

from __future__ import annotations

from typing import Any

from rwp.reporting.runs import Run

COSTS = ("forward_passes", "backward_passes", "training_hours")


def run_costs(run: Run) -> dict[str, Any]:
    """Passes over a batch, hours of its steps, and the device; none of an unfinished run."""
    document = run.document if run.finished else {}
    passes, seconds = document.get("passes") or {}, document.get("seconds")
    return {
        "forward_passes": passes.get("forward"),
        "backward_passes": passes.get("backward"),
        "training_hours": None if seconds is None else seconds / 3600,
        "device": document.get("device"),
    }


def duration(hours: float) -> str:
    """A length of time with a unit that suits it: 12.5 s, 8.1 min, 3.20 h."""
    seconds = 3600 * hours
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if hours < 1.7 else f"{hours:,.2f} h"
