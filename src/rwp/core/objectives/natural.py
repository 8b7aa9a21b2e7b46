"""Natural training: cross-entropy on the clean images."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from rwp.core.losses import cross_entropy
from rwp.core.objectives.base import ExampleLosses, Images, Labels, example_losses, forward
from rwp.core.settings import Criterion, RandomStart


@dataclass(frozen=True)
class NaturalTraining:
    """No attack; its images are the clean ones, for either criterion."""

    random_start: RandomStart = "none"
    label_smoothing: float = 0.0
    criterion: Criterion = "objective"

    def attack(self, model: nn.Module, images: Images, labels: Labels, **options: Any) -> Images:
        """The clean images themselves."""
        return images

    def losses(
        self, model: nn.Module, images: Images, adversarial: Images, labels: Labels
    ) -> ExampleLosses:
        """Cross-entropy of `images`; `adversarial` plays no part."""
        logits = forward(model, images)
        objective = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return example_losses(objective, logits, labels, self.criterion)
