"""Further attacks, which tell a robust network from one with masked gradients.

They follow Athalye et al. (2018) and Carlini et al. (2019): stronger, differently scaled and
borrowed attacks, an unbounded one, and a look at the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core.attacks import input_gradient, pgd
from rwp.core.losses import cross_entropy
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.evaluation.clean import batch_of, borrowed, checked_logits
from rwp.evaluation.records import Flags
from rwp.evaluation.verdict import FollowUp, Shares
from rwp.rng import generator_for
from rwp.training.spec import AttackSpec

_MORE_STEPS, _SEEDS = 100, 5
_SCALES = (1.0, 10.0)  # spread that the rescaled logits of each image are given
_LARGEST = {"linf": 0.5, "l2": 5.0}  # L-inf 0.5 turns every image into the same gray one
_DOUBLINGS = 12
_VALUES = 32 * 32 * 3  # of an image: in larger ones an L2 length of 5 covers little


def follow_up(
    model: nn.Module,
    images: ImageSet,
    attack: AttackSpec,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    twin: nn.Module | None = None,
) -> FollowUp:
    """Attack a network in the ways that uncover masked gradients.

    Args:
        model: images in [0, 1] to logits.
        images: a labeled set; a few hundred images are enough.
        attack: the PGD of the table.
        batch_size: images per batch.
        seed: of the random starts.
        device: where to run.
        twin: another network for the same task, e.g. the one trained without weight perturbation.

    Raises:
        UserError: logits that are not finite.
    """
    run = _Runner(model, images, attack, batch_size, seed, device)
    base = run.each_seed(partial(pgd, keep="worst"))
    num_steps = max(_MORE_STEPS, attack.num_steps or 0)
    longer = run.each_seed(partial(pgd, keep="worst"), num_steps=num_steps)
    rescaled = [
        run.each_seed(partial(pgd, keep="worst", loss=_rescaled(scale))) for scale in _SCALES
    ]
    transfer = None if twin is None else _shares(run.each_seed(pgd, source=twin))
    zero, not_finite = run.silent()
    counts = images.class_counts()
    return FollowUp(
        base=_shares(base),
        longer=_shares(longer),
        rescaled=tuple(map(min, *map(_shares, rescaled))),
        transfer=transfer,
        zero_gradients=zero,
        not_finite_gradients=not_finite,
        sweep=run.sweep(),
        chance=max(counts) / len(images),
        num_examples=len(images),
        covers=attack.threat.norm != "l2" or images.images[0].numel() <= _VALUES,
    )


def _shares(flags: Sequence[Flags]) -> Shares:
    return tuple(float(one.mean()) for one in flags)


def _rescaled(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy of logits with a fixed spread, so that no softmax is saturated or flat."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        spread = (logits.amax(dim=1) - logits.amin(dim=1)).detach().clamp_min(1e-20)
        return cross_entropy(scale * logits / spread.unsqueeze(1), labels)

    return loss


@dataclass(frozen=True)
class _Runner:
    model: nn.Module
    images: ImageSet
    attack: AttackSpec
    batch_size: int
    seed: int
    device: torch.device | str

    def robust(
        self,
        attack: Callable[..., Tensor],
        *,
        num_steps: int | None = None,
        threat: ThreatModel | None = None,
        step_size: float | None = None,
        source: nn.Module | None = None,
        restart: int = 0,
    ) -> Flags:
        """Which images are right before and after; `source` is attacked instead of the model."""
        attacked = source or self.model
        robust = []
        with borrowed(self.model, self.device), borrowed(attacked, self.device):
            for place, start in enumerate(range(0, len(self.images), self.batch_size)):
                batch, labels = batch_of(self.images, start, self.batch_size, self.device)
                adversarial = attack(
                    attacked,
                    batch,
                    labels,
                    threat=threat or self.attack.threat.model,
                    step_size=step_size or self.attack.step,
                    num_steps=num_steps or self.attack.num_steps or 0,
                    generator=generator_for(self.seed, "follow-up", restart, place),
                )
                before = checked_logits(self.model, batch, labels).argmax(dim=1) == labels
                after = checked_logits(self.model, adversarial, labels).argmax(dim=1) == labels
                robust.append((before & after).cpu().numpy())
        return np.concatenate(robust)

    def each_seed(self, attack: Callable[..., Tensor], **options: Any) -> list[Flags]:
        """`robust`, once per attack seed; the starts of a seed are the same for every attack."""
        return [self.robust(attack, restart=start, **options) for start in range(_SEEDS)]

    def sweep(self) -> tuple[tuple[float, float], ...]:
        """Robust accuracy at doubling radii, up to 0 or to the largest radius that makes sense.

        The step grows with the radius, so that each attack can cross its ball.
        """
        radius, largest = self.attack.threat.radius, _LARGEST[self.attack.threat.norm]
        points: list[tuple[float, float]] = []
        for doubling in range(_DOUBLINGS):
            size = min(radius * 2**doubling, largest)
            threat = ThreatModel(self.attack.threat.norm, size)
            step = self.attack.step * size / radius
            attack = partial(pgd, keep="worst")
            accuracy = float(self.robust(attack, threat=threat, step_size=step).mean())
            points.append((size, accuracy))
            if accuracy == 0 or size >= largest:
                break
        return tuple(points)

    def silent(self) -> tuple[float, float]:
        """Shares of images at which the loss has no gradient in any pixel, or one not finite."""
        zero = not_finite = 0
        with borrowed(self.model, self.device), torch.enable_grad():
            for start in range(0, len(self.images), self.batch_size):
                batch, labels = batch_of(self.images, start, self.batch_size, self.device)
                batch.requires_grad_()
                gradient = input_gradient(cross_entropy(self.model(batch), labels), batch)
                largest = gradient.flatten(1).abs().amax(dim=1)
                zero += int((largest == 0).sum())
                not_finite += int((~largest.isfinite()).sum())
        return zero / len(self.images), not_finite / len(self.images)
