"""What a record's warnings say, so that whoever reads one knows it by the words of who wrote it.

Records keep warnings as text. These beginnings and turns stand in those of every version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEW_BLIND = 0.01  # share of the images that may have no gradient and still count as robust
UNSTEADY = "the model answers differently each time"
BATCH_DEPENDENT = "the model's answer to an image depends on the other images in its batch"
GRADIENT_DEPENDENT = "the model answers differently when a gradient is asked for"
PROBABILITIES = "the model's outputs are probabilities"
FLAT = "the model's logits are all but equal"
SHORT = "are together shorter than the radius"  # the steps of an attack
# In the words of the checks that come with AutoAttack, as they are passed on.
RANDOMIZED, DYNAMIC = "randomized defense", "dynamic defense"
PROBABILITY, ZERO_GRADIENT = "probability", "zero gradient"


def says(warnings: tuple[str, ...] | list[str], *alarms: str) -> bool:
    """Whether one of the warnings says one of these."""
    return any(alarm in text for text in warnings for alarm in alarms)


def blind_note(row: Mapping[str, Any]) -> str:
    """What a reader of one epoch's row of the history must know; often empty."""
    share = max((value for name, value in row.items() if name.endswith("blind_share")), default=0)
    if share <= FEW_BLIND:
        return ""
    return (
        f"after epoch {row['epoch']} (from 0) {100 * share:.1f} % of the images count as robust "
        "because the attack found no gradient to follow"
    )
