"""Clean and robust accuracy of the network as it is, measured after an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rwp.core.attacks import pgd
from rwp.core.group import ALONE, Group
from rwp.core.modes import batch_norm_mode
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.training.spec import AttackSpec

_BATCH = 512  # images are independent in eval mode, so the size changes no result beyond rounding


def measure(
    model: nn.Module,
    split: ImageSet,
    attack: AttackSpec | None,
    *,
    generator: Callable[[int], torch.Generator],
    device: torch.device,
    group: Group = ALONE,
    after_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Shares of correctly classified images, before and after the attack (last iterate).

    `generator(i)` gives the randomness of batch i; `after_batch` may raise, to leave early. Images
    that are wrong without an attack count as not robust and are not attacked. The processes of a
    group take turns at the batches.
    """
    clean = robust = 0
    was_training = model.training
    model.eval()
    try:
        for index, start in enumerate(range(0, len(split), _BATCH)):
            if index % group.size != group.rank:
                continue
            images = split.images[start : start + _BATCH].to(device).float() / 255
            labels = split.labels[start : start + _BATCH].to(device)
            correct = _correct(model, images, labels)
            clean += int(correct.sum())
            if attack is not None and correct.any():
                images, labels = images[correct], labels[correct]
                adversarial = pgd(
                    model,
                    images,
                    labels,
                    threat=ThreatModel(attack.threat.norm, attack.threat.radius),
                    step_size=attack.step,
                    num_steps=attack.num_steps or 0,
                    generator=generator(index),
                    random_start=attack.random_start or "uniform",
                    bn_mode="eval",
                )
                robust += int(_correct(model, adversarial, labels).sum())
            after_batch()
    finally:
        model.train(was_training)
    clean, robust = group.total(clean), group.total(robust)
    accuracies = {"clean_accuracy": clean / len(split)}
    if attack is not None:
        accuracies["robust_accuracy"] = robust / len(split)
    return accuracies


@torch.no_grad()
def _correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with batch_norm_mode(model, "eval"):
        return model(images).argmax(1) == labels
