"""TRADES (Zhang et al., 2019), and with it RST, which is TRADES on a mixture of data."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from rwp.core.attacks import kl_attack
from rwp.core.losses import trades_loss
from rwp.core.modes import repeated_statistics
from rwp.core.objectives.base import (
    ExampleLosses,
    Images,
    Labels,
    example_losses,
    forward,
)
from rwp.core.settings import Criterion, RandomStart


@dataclass(frozen=True)
class Trades:
    """Clean cross-entropy plus beta times KL(clean || adversarial).

    Attributes:
        beta: weight of the divergence.
        criterion: see `example_losses`.
        clean_updates: how often the clean batch counts in the running statistics. The
            published TRADES runs it twice (for the divergence and for the cross-entropy), the
            published RST once; either way we run it once.
        random_start: start of the KL attack.
        label_smoothing: of the clean cross-entropy.
    """

    beta: float
    criterion: Criterion
    clean_updates: int
    random_start: RandomStart
    label_smoothing: float = 0.0

    def attack(self, model: nn.Module, images: Images, labels: Labels, **options: Any) -> Images:
        """`rwp.core.attacks.kl_attack` with this random start."""
        return kl_attack(model, images, labels, random_start=self.random_start, **options)

    def losses(
        self, model: nn.Module, images: Images, adversarial: Images, labels: Labels
    ) -> ExampleLosses:
        """Two forward passes, the adversarial one first, as published."""
        adversarial_logits = forward(model, adversarial)
        with repeated_statistics(model, self.clean_updates):
            clean_logits = forward(model, images)
        objective = trades_loss(
            clean_logits,
            adversarial_logits,
            labels,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
        )
        return example_losses(objective, adversarial_logits, labels, self.criterion)
