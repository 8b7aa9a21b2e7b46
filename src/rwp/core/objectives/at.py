"""Adversarial training (Madry et al., 2018): cross-entropy on the images of a PGD attack."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from rwp.core.attacks import pgd
from rwp.core.losses import cross_entropy
from rwp.core.objectives.base import ExampleLosses, Images, Labels, example_losses, forward
from rwp.core.settings import Criterion, RandomStart


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD on the cross-entropy, last iterate."""

    random_start: RandomStart
    label_smoothing: float = 0.0
    criterion: Criterion = "objective"

    def attack(self, model: nn.Module, images: Images, labels: Labels, **options: Any) -> Images:
        """`rwp.core.attacks.pgd` with this random start."""
        return pgd(model, images, labels, random_start=self.random_start, **options)

    def losses(
        self, model: nn.Module, images: Images, adversarial: Images, labels: Labels
    ) -> ExampleLosses:
        """Cross-entropy of `adversarial`: one forward pass."""
        logits = forward(model, adversarial)
        objective = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return example_losses(objective, logits, labels, self.criterion)
