"""Adversarial training (Madry et al., 2018): cross-entropy on the images of a PGD attack."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from rwp.core.attacks import pgd
from rwp.core.losses import cross_entropy
from rwp.core.objectives.base import ExampleLosses, Images, Labels, example_losses, forward
from rwp.core.settings import RandomStart


@dataclass(frozen=True)
class AdversarialTraining:
    """PGD on the cross-entropy, last iterate."""

    random_start: RandomStart

    def attack(self, model: nn.Module, images: Images, labels: Labels, **options: Any) -> Images:
        """`rwp.core.attacks.pgd` with this random start."""
        return pgd(model, images, labels, random_start=self.random_start, **options)

    def losses(
        self, model: nn.Module, images: Images, adversarial: Images, labels: Labels
    ) -> ExampleLosses:
        """Cross-entropy of `adversarial`: one forward pass."""
        logits = forward(model, adversarial)
        return example_losses(cross_entropy(logits, labels), logits, labels, "objective")
