"""Images at which an attack found no gradient to follow: not finite, or zero throughout.

An attack that has no gradient changes nothing, and the network looks robust. Whoever reports a
robust accuracy passes a tally to the attack and looks at what it counted.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class GradientCounts(NamedTuple):
    """How many images were attacked, and for how many of them the attack was blind.

    Attributes:
        images: attacked.
        not_finite: with a NaN or an infinity in the gradient at any step.
        zero: with a gradient of zero in every pixel at every step (of every restart).
    """

    images: int
    not_finite: int
    zero: int


class GradientTally:
    """Counts over the attacks that it is passed to, one after another, batch by batch.

    It stays on the device: only `counts` waits for it.
    """

    def __init__(self) -> None:
        self._not_finite: list[Tensor] = []
        self._zero: list[Tensor] = []

    @property
    def not_finite(self) -> Bool[Tensor, " images"]:
        """Per image, in the order attacked: was a gradient not finite?"""
        return torch.cat(self._not_finite) if self._not_finite else torch.zeros(0).bool()

    @property
    def zero(self) -> Bool[Tensor, " images"]:
        """Per image, in the order attacked: was every gradient zero?"""
        return torch.cat(self._zero) if self._zero else torch.zeros(0).bool()

    def counts(self) -> GradientCounts:
        """The sums; one transfer from the device."""
        flags = torch.stack([self.not_finite, self.zero])
        return GradientCounts(flags.shape[1], *flags.sum(dim=1).tolist())

    def begin(self, like: Tensor) -> None:
        """Start a batch of as many images as `like` has."""
        self._not_finite.append(torch.zeros(len(like), dtype=torch.bool, device=like.device))
        self._zero.append(torch.ones_like(self._not_finite[-1]))

    def look(self, gradient: Float[Tensor, "batch ..."]) -> None:
        """Note the gradient of one step for the batch begun last."""
        largest = gradient.detach().abs().flatten(1).amax(dim=1)
        self._not_finite[-1] |= ~largest.isfinite()
        self._zero[-1] &= largest == 0
