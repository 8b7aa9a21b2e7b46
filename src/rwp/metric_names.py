"""What MLflow calls the measurements of an epoch: the part before the slash names a panel.

The names in history.jsonl stay as they are; these are for people who look at curves. Accuracies
are in percent here, as in the tables; history.jsonl and the records have shares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What an epoch's row says of the machine; two runs of one training differ in it alone.
TIMINGS = ("seconds", "images_per_second", "flops_per_second", "loading_share", "peak_memory")
_NAMES = {
    "train_loss": "loss/train",
    "share_below_c_min": "lsc/share_below_c_min",
    "share_removed": "lsc/share_removed",
    "weight_steps": "weight_perturbation/steps",
    "norm_ratio": "weight_perturbation/norm_ratio",  # ||v|| / ||w||
    "loss_rise": "weight_perturbation/loss_rise",
    "learning_rate": "schedule/learning_rate",
    **{name: f"speed/{name}" for name in TIMINGS},
}
# The six loss groups of the paper's section 3 in nats, and what lies above.
LOSS_GROUPS = ("0.0-0.5", "0.5-1.0", "1.0-1.5", "1.5-2.0", "2.0-2.5", "2.5-3.0", "above_3.0")


_IN_PERCENT = ("_accuracy", "_blind_share")


def panel_name(name: str) -> str:
    """The panel and name of one measurement, such as accuracy/test_robust."""
    if name.endswith(_IN_PERCENT):
        return f"accuracy/{name.removesuffix('_accuracy')}"
    return _NAMES.get(name, f"other/{name}")


def panel_metrics(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """A row of history.jsonl as single numbers with their panels; its epoch is their step."""
    for name, value in row.items():
        if name == "loss_histogram":
            for group, share in zip(LOSS_GROUPS, value, strict=True):
                yield f"loss_group/{group}", float(share)
        elif name != "epoch" and isinstance(value, int | float):
            percent = name.endswith(_IN_PERCENT)
            yield panel_name(name), 100 * float(value) if percent else float(value)


def evaluation_metrics(checkpoint: str, accuracies: Mapping[str, float]) -> dict[str, float]:
    """Accuracies under attacks in percent, a panel for each checkpoint that is evaluated."""
    return {f"{checkpoint}/{name}": 100 * value for name, value in accuracies.items()}


# The columns of MLflow's list of runs when a suite's page opens.
COLUMNS = (
    "best/natural",
    "best/pgd-20",
    "best/autoattack",
    *map(panel_name, ("held_out_robust_accuracy", "test_robust_accuracy")),
)
