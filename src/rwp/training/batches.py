"""The training images on the device, and which of them make up each step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rwp.core.geometry import NormBall, random_point
from rwp.core.objectives import Objective
from rwp.core.process_group import Group
from rwp.data.images import ImageSet
from rwp.data.sampling import epoch_batches, mixed_batches
from rwp.data.transfer import send
from rwp.errors import UserError
from rwp.training.spec import AttackSpec, TrainSpec

Indices = tuple[Tensor, Tensor | None]  # labeled and pseudo-labeled images of one step


@dataclass(frozen=True)
class Batch:
    """Images (batch, channels, height, width) as bytes, labels, and weights if they differ.

    `places` are those of the images among all that are trained on, the labeled ones first.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor | None
    places: Tensor

    def part(self, images: Tensor, group: Group) -> Batch:
        """This process's share of the batch, with other images in the place of its own."""
        weights = None if self.weights is None else group.part(self.weights)
        places = group.part(self.places)
        return Batch(group.part(images), group.part(self.labels), weights, places)


def attack_start(
    images: Tensor,
    objective: Objective,
    attack: AttackSpec | None,
    generator: torch.Generator,
    group: Group,
) -> Tensor | None:
    """Where this process's share of the images is attacked from.

    Drawn for the whole batch, so that any number of processes makes the same images. None where
    one process is alone: its attack draws the same itself.
    """
    if group.size == 1 or attack is None:
        return None
    ball = NormBall(images, attack.threat.model)
    return group.part(random_point(ball, objective.random_start, generator))


def check_labels(part: ImageSet, *, num_classes: int, name: str) -> None:
    """Refuse a set with unlabeled images or more classes; once, so that no step looks again.

    Pixels need no look: bytes become images in [0, 1] whatever they are.

    Raises:
        UserError: a label is -1 or none of the network's classes.
    """
    low, high = (int(value) for value in part.labels.aminmax()) if len(part) else (0, 0)
    if low < 0 or high >= num_classes:
        wrong = low if low < 0 else high
        raise UserError(
            f"{name}: expected labels from 0 to {num_classes - 1}, got {wrong}"
            f"{' (unlabeled)' if low < 0 else ''}; fetch or label the images again"
        )


class Batches:
    """Labeled images, mixed with pseudo-labeled ones where the recipe asks for it."""

    def __init__(
        self,
        spec: TrainSpec,
        labeled: ImageSet,
        pseudo_labeled: ImageSet | None,
        *,
        device: torch.device,
        kept: Tensor | None = None,
    ) -> None:
        """Put all images on the device; `kept` says which of the fetched ones the labeled are."""
        self.spec, self.mix, self.device = spec, spec.unlabeled, device
        self.num_labeled, self.num_classes = len(labeled), labeled.num_classes
        self.kept = torch.arange(self.num_labeled) if kept is None else kept
        parts = [labeled] if pseudo_labeled is None else [labeled, pseudo_labeled]
        for part in parts:
            if part.shape != labeled.shape:
                raise UserError(
                    f"{spec.key.name}: expected unlabeled images (channels, height, width) "
                    f"{labeled.shape}, as the labeled ones are, got {part.shape}; name another "
                    "source, or its `dataset`, so that the fetch looks at their size"
                )
            check_labels(part, num_classes=labeled.num_classes, name=spec.key.name)
        self.num_pseudo = sum(len(part) for part in parts) - len(labeled)
        self.images = torch.cat([part.images for part in parts]).to(device)
        self.labels = torch.cat([part.labels for part in parts]).to(device)
        self.majority_share = max(labeled.class_counts()) / len(labeled)

    def plan(self, epoch: int) -> list[Indices]:
        """The indices of each step of an epoch."""
        seed, batch_size = self.spec.key.seed, self.spec.optimization.batch_size
        if self.mix is None:
            plain = epoch_batches(self.num_labeled, batch_size=batch_size, seed=seed, epoch=epoch)
            return [(indices, None) for indices in plain]
        mixed = mixed_batches(
            self.num_labeled,
            self.num_pseudo,
            batch_size=batch_size,
            unlabeled_fraction=self.mix.fraction,
            epoch_size=self.mix.epoch_size,
            seed=seed,
            epoch=epoch,
        )
        return [(labeled, pseudo) for labeled, pseudo in mixed]

    def smallest(self) -> int:
        """Images in the smallest batch; all epochs have the same sizes."""
        return min(
            len(labeled) + (0 if pseudo is None else len(pseudo))
            for labeled, pseudo in self.plan(0)
        )

    def load(self, indices: Indices) -> Batch:
        """Gather one step's images on the device."""
        labeled, pseudo = indices
        index, weights = labeled, None
        if pseudo is not None and self.mix is not None:
            index = torch.cat([labeled, pseudo + self.num_labeled])
            if self.mix.weight != 1:  # lambda of Eq. 6, where half of a batch is unlabeled
                weights = torch.ones(len(index), device=self.device)
                weights[len(labeled) :] = self.mix.weight
        index = send(index, self.device)
        # On a CPU, index_select copies bytes many times as fast as indexing.
        return Batch(self.images.index_select(0, index), self.labels[index], weights, index)
