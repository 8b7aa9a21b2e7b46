"""APGD without the images it has fooled: the package's loop, on fewer images of the network.

APGD takes all its iterations with all images of a batch, also with those that were misclassified
at one of the first. Here these leave the passes of the network, so the loop around it, its draws
and its decisions stay the package's own. An image leaves once it is misclassified by more than
rounding, and only where the smaller batch gives those that stay the same bits: logits and
gradients of both batches are compared at the points of the attack, since the order in which a
device sums depends on the shape of a batch and not on its numbers. So no flag can change. Under L1
none leaves: there the package goes on from where a larger radius led.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The batch is made smaller when so many of its images stand; two more passes each time.
_SHARE = 0.75
# Of the range of a batch's logits: a margin beyond rounding, in batches of whatever size.
_ROUNDING = 1e-3


class StandingModel(nn.Module):
    """A model that passes over images which the attack at work has fooled.

    Attributes:
        passes: of single images, with gradients, that attacks asked for.
        spared: of these, those that were passed over.
        fallen: of these, those of images that had been misclassified before.
    """

    def __init__(self, model: nn.Module, *, leave: bool) -> None:
        """Watch a model.

        Args:
            model: images in [0, 1] to logits.
            leave: let images leave; False only counts.
        """
        super().__init__()
        self.model, self._leave = model, leave
        self._run: _Run | None = None
        self.passes = self.spared = self.fallen = 0

    def following(
        self, run: Callable[..., Any], *, has_gradient: Callable[[], Tensor]
    ) -> Callable[..., Any]:
        """An attack's `attack_single_run(x, y, ...)`.

        `has_gradient()` tells which of its images were seen to have one: the others stay, so that
        it is counted whether they ever have.
        """

        def followed(images: Tensor, labels: Tensor, *given: Any, **options: Any) -> Any:
            self._run = _Run(self.model, labels, has_gradient, leave=self._leave)
            try:
                return run(images, labels, *given, **options)
            finally:
                self.passes += self._run.passes
                self.spared += self._run.spared
                self.fallen += self._run.fallen
                self._run = None

        return followed

    def forward(self, images: Tensor) -> Tensor:
        """Logits; made-up ones that are right, without a gradient, where images have left."""
        if self._run is None or not (torch.is_grad_enabled() and images.requires_grad):
            return self.model(images)
        return self._run.logits(images)


class _Run:
    """One run of an attack on a batch, and the places of its images that are still asked for."""

    def __init__(
        self, model: nn.Module, labels: Tensor, has_gradient: Callable[[], Tensor], *, leave: bool
    ) -> None:
        self._model, self._labels, self._has_gradient = model, labels, has_gradient
        self._kept = torch.arange(len(labels), device=labels.device)
        self._fooled = self._sure = torch.zeros_like(labels, dtype=torch.bool)
        self._leave, self._shrink_below = leave, _SHARE * len(labels)
        self.passes = self.spared = self.fallen = 0

    def logits(self, images: Tensor) -> Tensor:
        """Of all images, with a gradient for those that are kept."""
        if self._leave:
            self._shrink(images.detach())
        self.passes += len(images)
        self.spared += len(images) - len(self._kept)
        self.fallen += int(self._fooled.sum())
        if len(self._kept) == len(images):
            logits = self._model(images)
        else:
            # The package keeps the last misclassified version of an image: a right answer leaves
            # it what it has.
            kept = self._model(images[self._kept]) if len(self._kept) else None
            right = F.one_hot(self._labels, self._last.shape[1]).to(self._last.dtype)
            logits = right + 0 * images.flatten(1)[:, :1].to(right.dtype)
            logits = logits if kept is None else logits.index_copy(0, self._kept, kept)
        self._look(logits.detach())
        return logits

    def _look(self, logits: Tensor) -> None:
        self._last = logits
        rows = torch.arange(len(logits), device=logits.device)
        margin = logits.amax(dim=1) - logits[rows, self._labels]
        wrong = logits.argmax(dim=1) != self._labels
        far = margin > _ROUNDING * (logits.amax() - logits.amin())
        self._fooled = self._fooled | wrong
        self._sure = torch.where(wrong, far, self._sure)  # of the version that is kept

    def _shrink(self, points: Tensor) -> None:
        """Leave out what has fallen, where that changes no bit of the rest."""
        standing = ~(self._sure & self._has_gradient())[self._kept]
        count = int(standing.sum())
        if count > self._shrink_below:
            return
        if count == 0 or self._same_bits(points[self._kept], standing):
            self._kept = self._kept[standing]
        self._shrink_below = _SHARE * count

    def _same_bits(self, points: Tensor, standing: Tensor) -> bool:
        """Whether the standing images alone have the logits and gradients that they have now."""
        whole, part = points.clone().requires_grad_(), points[standing].requires_grad_()
        with torch.enable_grad():
            answers = self._model(whole), self._model(part)
        if not torch.equal(answers[0][standing], answers[1]):
            return False
        weights = answers[0].detach().softmax(dim=1)
        (of_whole,) = torch.autograd.grad(answers[0], whole, weights)
        (of_part,) = torch.autograd.grad(answers[1], part, weights[standing])
        return torch.equal(of_whole[standing], of_part)
