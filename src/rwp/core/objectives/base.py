"""The interface of an objective, for the weight perturbation and the training loop."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rwp.core.attacks import Images, Labels
from rwp.core.gradient_tally import GradientTally
from rwp.core.losses import cross_entropy, full_precision
from rwp.core.settings import BatchNormMode, Criterion, RandomStart
from rwp.core.threat import ThreatModel


class ExampleLosses(NamedTuple):
    """Losses of one batch, one per example; reduction is the caller's.

    Attributes:
        objective: what training minimises (its mean over the batch).
        criterion: what the loss range of the mask is compared with, detached.
        logits: those of the adversarial images (natural training: of the clean ones).
    """

    objective: Float[Tensor, " batch"]
    criterion: Float[Tensor, " batch"]
    logits: Float[Tensor, "batch classes"]


@runtime_checkable  # for tools that check annotations, as our tests do
class Objective(Protocol):
    """An attack and the losses that training minimises on what it returns."""

    @property
    def random_start(self) -> RandomStart:
        """Where its attack starts."""
        ...

    def attack(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        threat: ThreatModel,
        step_size: float,
        num_steps: int,
        generator: torch.Generator,
        bn_mode: BatchNormMode,
        start: Images | None = None,
        gradients: GradientTally | None = None,
        check_inputs: bool = True,
    ) -> Images:
        """The adversarial images to train on; the model comes back as it was."""
        ...

    def losses(
        self, model: nn.Module, images: Images, adversarial: Images, labels: Labels
    ) -> ExampleLosses:
        """The forward passes, in the model's current mode, and the losses."""
        ...


def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Logits in at least 32 bits."""
    return full_precision(model(images))


def example_losses(
    objective: Tensor, adversarial_logits: Tensor, labels: Tensor, criterion: Criterion
) -> ExampleLosses:
    """Bundle the losses with the chosen mask criterion.

    "objective" masks on the objective itself; "adversarial_ce" on the cross-entropy of the
    adversarial image, the paper's literal definition. They differ for TRADES and MART.
    """
    if criterion == "objective":
        compared = objective.detach()
    else:
        compared = cross_entropy(adversarial_logits.detach(), labels)
    return ExampleLosses(objective, compared, adversarial_logits)
