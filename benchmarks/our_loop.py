"""The same training with rwp.core: what a reader's own loop would look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    evaluation_mode,
    make_objective,
    perturb_weights,
    pgd,
    precision_context,
    shifted_weights,
)
from rwp.data.augmentation import augment
from rwp.data.spec import AugmentationSpec

THREAT = ThreatModel("linf", 8 / 255)
STEP_SIZE = 2 / 255
CROP_AND_FLIP = AugmentationSpec(
    crop_padding=4, padding_mode="reflect", flip=True, rotation_degrees=0
)


@dataclass
class OurTraining:
    """Everything one run needs.

    Attributes:
        model: the network, perhaps compiled.
        perturbation: of the weights.
        precision: "fp32", "tf32" or "bf16".
        images: uint8, on the device.
        labels: on the device.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    perturbation: WeightPerturbation
    precision: str
    memory_format: torch.memory_format
    generator: torch.Generator

    def step(self, images: Tensor, labels: Tensor) -> float:
        """One batch of images in [0, 1]; the mean loss at w + v."""
        objective = make_objective("at")
        images = images.contiguous(memory_format=self.memory_format)
        with precision_context(self.precision, images.device):
            adversarial = objective.attack(
                self.model,
                images,
                labels,
                threat=THREAT,
                step_size=STEP_SIZE,
                num_steps=10,
                generator=self.generator,
                bn_mode="train",
            )

            def losses():
                return objective.losses(self.model, images, adversarial, labels)

            found = perturb_weights(self.model, losses, self.perturbation)
            with shifted_weights(self.model, found.offset):
                outer = losses()
                loss = outer.objective.mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
        return loss.item()

    def epoch(self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], size: int) -> float:
        """Train on uint8 images on the device, then measure the robust test accuracy."""
        self.model.train()
        order = torch.randperm(len(train[1]), generator=self.generator, device=train[1].device)
        for index in order.split(size):
            images = augment(train[0][index], CROP_AND_FLIP, generator=self.generator)
            self.step(images.float() / 255, train[1][index])
        correct = torch.zeros((), device=test[1].device)
        for pixels, labels in zip(test[0].split(size), test[1].split(size), strict=True):
            correct += self._survivors(pixels.float() / 255, labels)
        return correct.item() / len(test[1])

    def _survivors(self, images: Tensor, labels: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        with precision_context(self.precision, images.device):
            adversarial = pgd(
                self.model,
                images,
                labels,
                threat=THREAT,
                step_size=STEP_SIZE,
                num_steps=20,
                generator=self.generator,
            )
            with torch.no_grad(), evaluation_mode(self.model):
                self.model(images)
                return (self.model(adversarial).argmax(1) == labels).sum()


def our_training(
    model: nn.Module,
    perturbation: WeightPerturbation,
    *,
    precision: str,
    memory_format: torch.memory_format,
    transform: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> OurTraining:
    """Prepare a run with the published optimizer; `transform` may compile the network."""
    model = model.to(memory_format=memory_format)
    device = next(model.parameters()).device
    return OurTraining(
        model=transform(model),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4),
        perturbation=perturbation,
        precision=precision,
        memory_format=memory_format,
        generator=torch.Generator(device).manual_seed(0),
    )
