"""Projected gradient ascent on images, which every attack of `rwp.core.attacks` is a case of."""

from collections.abc import Callable
from typing import Literal, TypedDict, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rwp.core.checks import (
    check_choice,
    check_count,
    check_examples,
    check_label_range,
)
from rwp.core.geometry import NormBall, RandomStart, starting_point
from rwp.core.losses import cross_entropy, full_precision
from rwp.core.modes import BatchNormMode, batch_norm_mode, frozen_weights
from rwp.core.threat import ThreatModel, check_length

Images = Float[Tensor, "batch channels height width"]
Labels = Int[Tensor, " batch"]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Keep = Literal["last", "worst"]


class AttackOptions(TypedDict, total=False):
    """Options of `pgd`, and of the attacks built on it.

    Attributes:
        generator: where random starts are drawn from; may live on another device.
        random_start: see `rwp.core.geometry.random_point`.
        num_restarts: independent runs; the worst result per example is returned.
        keep: "last" iterate of a run, or the "worst" of all: a misclassified one if there is
            any, then the one of largest loss. Costs one more forward pass per run.
        bn_mode: run the model in "eval" or in "train" mode, the latter on the statistics of
            the batch. Neither writes running statistics.
        start: points to start from instead of random ones; projected onto the ball first,
            unless `random_start` is "off_ball".
    """

    generator: torch.Generator | None
    random_start: RandomStart
    num_restarts: int
    keep: Keep
    bn_mode: BatchNormMode
    start: Tensor | None


def pgd(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    num_steps: int,
    generator: torch.Generator | None = None,
    loss: LossFunction = cross_entropy,
    random_start: RandomStart = "uniform",
    num_restarts: int = 1,
    keep: Keep = "last",
    bn_mode: BatchNormMode = "eval",
    start: Images | None = None,
) -> Images:
    """Projected gradient ascent on `loss` (Madry et al., 2018); a step is forward + backward.

    `loss` takes logits and labels and returns one loss per example; `step_size` is a length in
    the threat model's norm. The other options are those of `AttackOptions`.

    Raises:
        ValueError: pixels not finite or outside [0, 1], labels out of range, a step on 0..255
            pixels, a count below 1, a random start without a generator, an unknown option.
    """
    largest_label = check_examples(images, labels)
    check_length("step_size", step_size, norm=threat.norm)
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    check_choice("keep", keep, get_args(Keep))
    ball = NormBall(images.detach(), threat)
    score = _Score(model, labels, loss, largest_label)
    worst = _Worst(ball, labels) if keep == "worst" or num_restarts > 1 else None
    with torch.enable_grad(), frozen_weights(model), batch_norm_mode(model, bn_mode):
        for _ in range(num_restarts):
            point = starting_point(ball, random_start, generator, start)
            point = _ascend(ball, score, point, step_size, num_steps, worst, keep)
    return point if worst is None else worst.images


def _ascend(
    ball: NormBall,
    score: "_Score",
    point: Tensor,
    step_size: float,
    num_steps: int,
    worst: "_Worst | None",
    keep: Keep,
) -> Tensor:
    """One run; the last point, and in `worst` what is to be kept of it."""
    for _ in range(num_steps):
        logits, losses, gradient = score.with_gradient(point)
        if worst is not None and keep == "worst":
            worst.update(point, logits, losses)
        point = ball.step(point, gradient, step_size)
    if worst is not None:
        worst.update(point, *score(point))
    return point


class _Score:
    """Logits and losses of points under attack."""

    def __init__(
        self, model: nn.Module, labels: Tensor, loss: LossFunction, largest_label: int
    ) -> None:
        self._model, self._labels, self._loss = model, labels, loss
        self._largest_label = largest_label

    def _run(self, points: Tensor) -> tuple[Tensor, Tensor]:
        logits = full_precision(self._model(points))
        check_label_range(self._largest_label, logits.shape[1])
        return logits, self._loss(logits, self._labels)

    @torch.no_grad()
    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(points)

    def with_gradient(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = points.detach().requires_grad_()
        logits, losses = self._run(inputs)
        (gradient,) = torch.autograd.grad(losses.sum(), inputs)
        return logits.detach(), losses.detach(), gradient


class _Worst:
    """Per example the worst point seen: a misclassified one first, then by loss."""

    def __init__(self, ball: NormBall, labels: Tensor) -> None:
        self.images = ball.center.clone()
        self._ball, self._labels = ball, labels
        self._fooled = torch.zeros_like(labels, dtype=torch.bool)
        self._losses: Tensor | None = None

    def update(self, points: Tensor, logits: Tensor, losses: Tensor) -> None:
        fooled = logits.argmax(dim=1) != self._labels
        if self._losses is None:
            self._losses = torch.full_like(losses, -torch.inf)
        worse = (fooled & ~self._fooled) | ((fooled == self._fooled) & (losses > self._losses))
        # An off-ball start is no adversarial image.
        worse &= self._ball.contains(points)
        self.images = torch.where(worse.view(-1, 1, 1, 1), points, self.images)
        self._losses = torch.where(worse, losses, self._losses)
        self._fooled |= worse & fooled
