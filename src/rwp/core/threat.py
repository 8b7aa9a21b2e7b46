"""What an attacker may do to an image: a norm and a radius."""

import math
from dataclasses import dataclass
from typing import Literal

Norm = Literal["linf", "l2"]  # what our own attacks search
AnyNorm = Literal["linf", "l2", "l1"]  # AutoAttack searches the third as well

# The largest radius that still makes sense on [0, 1] pixels. In the L2 norm 5 is the largest
# in use (on ImageNet), in the L1 norm 60; anything above is a radius on 0..255 pixels that was not
# divided.
_LARGEST_RADIUS: dict[str, float] = {"linf": 1.0, "l2": 5.0, "l1": 100.0}


@dataclass(frozen=True)
class ThreatModel:
    """All images within `epsilon` of the clean one in `norm`, with pixels in [0, 1].

    Args:
        norm: "linf" (largest change of one pixel), "l2" (Euclidean length of the change) or "l1"
            (sum of all changes).
        epsilon: radius on [0, 1] pixels, e.g. 8/255.

    Raises:
        ValueError: an unknown norm, or a radius that is not one on [0, 1] pixels.
    """

    norm: AnyNorm
    epsilon: float

    def __post_init__(self) -> None:
        if self.norm not in _LARGEST_RADIUS:
            raise ValueError(
                f"norm: expected 'linf', 'l2' or 'l1', got {self.norm!r}; name one of them"
            )
        check_length("epsilon", self.epsilon, norm=self.norm)


def check_length(name: str, value: float, *, norm: AnyNorm) -> None:
    """Raise ValueError unless `value` is a radius or step on [0, 1] pixels."""
    largest = _LARGEST_RADIUS[norm]
    if isinstance(value, str | bool):
        raise ValueError(f"{name}: expected a number such as 8 / 255, got {value!r}; write it so")
    if math.isfinite(value) and 0 < value <= largest:
        return
    advice = "name a positive one"
    if math.isfinite(value) and 1 <= value <= 255:
        advice = f"did you mean {value:g}/255?"
    raise ValueError(
        f"{name}: expected a radius in (0, {largest:g}] on [0, 1] pixels, got {value:g}; {advice}"
    )
