"""MART (Wang et al., 2020): adversarial training that weighs misclassified examples more."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from rwp.core.attacks import pgd
from rwp.core.losses import mart_loss
from rwp.core.objectives.base import (
    ExampleLosses,
    Images,
    Labels,
    example_losses,
    forward,
)
from rwp.core.settings import Criterion, RandomStart


@dataclass(frozen=True)
class Mart:
    """Boosted cross-entropy plus beta times a KL weighted by the doubt about the clean image."""

    beta: float
    criterion: Criterion
    random_start: RandomStart

    def attack(self, model: nn.Module, images: Images, labels: Labels, **options: Any) -> Images:
        """`rwp.core.attacks.pgd` with this random start."""
        return pgd(model, images, labels, random_start=self.random_start, **options)

    def losses(
        self, model: nn.Module, images: Images, adversarial: Images, labels: Labels
    ) -> ExampleLosses:
        """Two forward passes, the clean one first, as published: running statistics end nearer to
        those of the later one.
        """
        clean_logits = forward(model, images)
        adversarial_logits = forward(model, adversarial)
        objective = mart_loss(clean_logits, adversarial_logits, labels, beta=self.beta)
        return example_losses(objective, adversarial_logits, labels, self.criterion)
