"""The published AT / AT-AWP / AT-RWP training loop, re-stated with all it does.

Written from what the authors' program does, not from its text, to be timed against. It keeps
what costs time there: proxy networks that receive a copy of the whole state before every
ascent step, ten ascent steps whatever the mask says, an attack whose backward pass also
reaches the weights and that ends with one more forward pass, images that are augmented one by
one on the CPU, and (in RWP's program, not in those of AT and AWP) an attack on the whole training
set after every epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

TINY = 1e-20
NUM_ASCENT_STEPS = 10
PROXY_LEARNING_RATE = 0.01
EPSILON, STEP_SIZE = 8 / 255, 2 / 255
PAD, SIDE = 4, 32


class SlowImages(Dataset):
    """Images padded beforehand, then cropped and flipped one by one when asked for."""

    def __init__(self, images: Tensor, labels: Tensor, *, augment: bool) -> None:
        pixels = images.numpy().astype(np.float32) / 255
        if augment:
            margins = [(0, 0), (0, 0), (PAD, PAD), (PAD, PAD)]
            pixels = np.pad(pixels, margins, mode="reflect")
        self.pixels, self.labels, self.augment = pixels, labels.numpy(), augment
        self.draw_choices()

    def draw_choices(self) -> None:
        """New corners and flips for an epoch."""
        count = len(self.labels)
        self.corners = np.random.randint(0, 2 * PAD + 1, size=(count, 2))
        self.flips = np.random.rand(count) < 0.5

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        image = self.pixels[index]
        if self.augment:
            top, left = self.corners[index]
            image = image[:, top : top + SIDE, left : left + SIDE]
            image = image[:, :, ::-1].copy() if self.flips[index] else image.copy()
        return image, int(self.labels[index])


def kernels(model: nn.Module) -> dict[str, Tensor]:
    """The state entries that are perturbed."""
    return {k: v for k, v in model.state_dict().items() if v.ndim > 1 and "weight" in k}


def attack(model: nn.Module, images: Tensor, labels: Tensor, *, num_steps: int) -> Tensor:
    """PGD; the backward pass fills the weights' gradients too, and a last forward follows."""
    delta = torch.zeros_like(images).uniform_(-EPSILON, EPSILON)
    delta = torch.max(torch.min(delta, 1 - images), 0 - images)
    delta.requires_grad_()
    for _ in range(num_steps):
        F.cross_entropy(model(images + delta), labels).backward()
        step = delta.detach() + STEP_SIZE * delta.grad.detach().sign()
        step = torch.clamp(step, -EPSILON, EPSILON)
        delta.data = torch.max(torch.min(step, 1 - images), 0 - images)
        delta.grad.zero_()
    losses = F.cross_entropy(model(images + delta), labels, reduction="none")
    chosen = torch.zeros_like(images)
    chosen[losses >= 0] = delta.detach()[losses >= 0]
    return torch.clamp(images + chosen, 0, 1)


class ProxyPerturbation:
    """AWP (`c_min` None) or RWP by proxy networks."""

    def __init__(self, model: nn.Module, *, gamma: float, c_min: float | None) -> None:
        self.model, self.gamma, self.c_min = model, gamma, c_min
        self.anchor, self.climber = copy.deepcopy(model), copy.deepcopy(model)
        self.optimizer = torch.optim.SGD(self.climber.parameters(), lr=PROXY_LEARNING_RATE)

    def direction(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The direction D; the perturbation is gamma * D."""
        if self.c_min is None:
            step = self._ascend(images, labels, {})
            return {
                name: kernel.norm() / (step[name].norm() + TINY) * step[name]
                for name, kernel in kernels(self.model).items()
            }
        total: dict[str, Tensor] = {}
        scaled: dict[str, Tensor] = {}
        for _ in range(NUM_ASCENT_STEPS):
            step = self._ascend(images, labels, scaled)
            total = {name: total[name] + s if total else s for name, s in step.items()}
            weights = torch.cat([kernel.view(-1) for kernel in kernels(self.model).values()])
            moved = torch.cat([part.reshape(-1) for part in total.values()])
            factor = weights.norm() / (moved.norm() + TINY)
            scaled = {name: factor * part for name, part in total.items()}
        return scaled

    def _ascend(
        self, images: Tensor, labels: Tensor, scaled: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        for proxy in (self.anchor, self.climber):
            proxy.load_state_dict(self.model.state_dict())
            self.shift(proxy, scaled, self.gamma)
        self.climber.train()
        losses = F.cross_entropy(self.climber(images), labels, reduction="none")
        if self.c_min is not None:
            losses = losses * (losses < self.c_min).type(losses.dtype)
        self.optimizer.zero_grad()
        (-losses.mean()).backward()
        self.optimizer.step()
        before = kernels(self.anchor)
        return {name: after - before[name] for name, after in kernels(self.climber).items()}

    @staticmethod
    @torch.no_grad()
    def shift(model: nn.Module, scaled: dict[str, Tensor], factor: float) -> None:
        """Add factor * D to the weights."""
        for name, parameter in model.named_parameters():
            if name in scaled:
                parameter.add_(factor * scaled[name])


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    perturbation: ProxyPerturbation | None,
    images: Tensor,
    labels: Tensor,
) -> float:
    """One batch; the mean loss at w + v."""
    adversarial = attack(model, images, labels, num_steps=10)
    model.train()
    direction: dict[str, Tensor] = {}
    if perturbation is not None:
        direction = perturbation.direction(adversarial, labels)
        perturbation.shift(model, direction, perturbation.gamma)
    loss = F.cross_entropy(model(adversarial), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if perturbation is not None:
        perturbation.shift(model, direction, -perturbation.gamma)
    return loss.item()


def epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    perturbation: ProxyPerturbation | None,
    train: DataLoader,
    test: DataLoader,
    device: torch.device,
) -> float:
    """A whole epoch with its measurements; the robust test accuracy."""
    train.dataset.draw_choices()
    model.train()
    for images, labels in train:
        training_step(model, optimizer, perturbation, images.to(device), labels.to(device))
    model.eval()
    if perturbation is not None and perturbation.c_min is not None:
        _measure(model, train, num_steps=10, device=device)
    return _measure(model, test, num_steps=20, device=device)


def _measure(model: nn.Module, batches: Iterable, *, num_steps: int, device: torch.device) -> float:
    correct, count = 0, 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        robust = model(attack(model, images, labels, num_steps=num_steps))
        F.cross_entropy(robust, labels).item()
        clean = model(images)
        F.cross_entropy(clean, labels).item()
        correct += (robust.max(1)[1] == labels).sum().item()
        count += len(labels)
    return correct / count
