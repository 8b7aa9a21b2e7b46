"""Attacks that tell a robust network from one whose gradients lead nowhere.

They follow Athalye et al. (2018) and Carlini et al. (2019): stronger, differently scaled and
borrowed attacks, an unbounded one, and a look at the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core.attacks import pgd
from rwp.core.losses import cross_entropy
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.evaluation.diagnostics import FollowUp
from rwp.evaluation.forward import batch_of, borrowed, checked_logits
from rwp.evaluation.records import Flags
from rwp.evaluation.suite import threat_model
from rwp.rng import generator_for
from rwp.training.spec import AttackSpec

_MORE_STEPS, _RESTARTS = 100, 3
_SCALES = (1.0, 10.0)  # spread that the rescaled logits of each image are given
_LARGEST = {"linf": 0.5, "l2": 5.0}  # L-inf 0.5 turns every image into the same gray one
_DOUBLINGS = 12


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
    base = run.robust(pgd)
    rescaled = [run.robust(partial(pgd, loss=_rescaled(scale))).mean() for scale in _SCALES]
    counts = images.class_counts()
    return FollowUp(
        base=float(base.mean()),
        longer=float(run.longer(base).mean()),
        rescaled=float(min(rescaled)),
        transfer=None if twin is None else float(run.robust(pgd, source=twin).mean()),
        zero_gradients=run.zero_gradients(),
        sweep=run.sweep(),
        chance=max(counts) / len(images),
        num_examples=len(images),
    )


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
        among: Flags | None = None,
        restart: int = 0,
    ) -> Flags:
        """Which images are right before and after; `source` is attacked instead of the model.

        Only images in `among` are attacked, all others count as fooled.
        """
        attacked = source or self.model
        robust = np.zeros(len(self.images), dtype=np.bool_)
        chosen = np.flatnonzero(np.ones_like(robust) if among is None else among)
        images = self.images.select(torch.from_numpy(chosen))
        with borrowed(self.model, self.device), borrowed(attacked, self.device):
            for place, start in enumerate(range(0, len(images), self.batch_size)):
                batch, labels = batch_of(images, start, self.batch_size, self.device)
                adversarial = attack(
                    attacked,
                    batch,
                    labels,
                    threat=threat or threat_model(self.attack),
                    step_size=step_size or self.attack.step,
                    num_steps=num_steps or self.attack.num_steps or 0,
                    generator=generator_for(self.seed, "follow-up", restart, place),
                )
                before = checked_logits(self.model, batch, labels).argmax(dim=1) == labels
                after = checked_logits(self.model, adversarial, labels).argmax(dim=1) == labels
                index = chosen[start : start + self.batch_size]
                robust[index] = (before & after).cpu().numpy()
        return robust

    def longer(self, robust: Flags) -> Flags:
        """What is left of the robust images after more steps, several times from anew."""
        num_steps = max(_MORE_STEPS, self.attack.num_steps or 0)
        for restart in range(1, _RESTARTS + 1):
            robust = self.robust(
                partial(pgd, keep="worst"), num_steps=num_steps, among=robust, restart=restart
            )
        return robust

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

    def zero_gradients(self) -> float:
        """Share of images at which the loss has no gradient in any pixel."""
        silent = 0
        with borrowed(self.model, self.device), torch.enable_grad():
            for start in range(0, len(self.images), self.batch_size):
                batch, labels = batch_of(self.images, start, self.batch_size, self.device)
                batch.requires_grad_()
                loss = cross_entropy(self.model(batch), labels).sum()
                (gradient,) = torch.autograd.grad(loss, batch)
                silent += int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
        return silent / len(self.images)
