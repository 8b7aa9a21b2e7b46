"""Attacks on images: PGD, and by the same loop FGSM, CW and the KL attack of TRADES.

One call shape: `attack(model, images, labels, *, threat, ...)` returns adversarial images,
inside the threat model's ball and inside [0, 1]. The model comes back exactly as it was:
modes, buffers, `.grad` and `requires_grad`, also when something inside raises. Only the
gradient of the inputs is ever computed.

Nothing is read back from a device, except for the check of the inputs (`check_inputs`).
A gradient that is not finite moves an image by its finite part; a `GradientTally` counts where.
"""

from collections.abc import Callable
from functools import partial
from typing import Required, TypedDict, Unpack, cast, get_args

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from rwp.core.geometry import NormBall, per_example, starting_point
from rwp.core.gradient_tally import GradientTally
from rwp.core.losses import (
    cross_entropy,
    full_precision,
    kl_divergence,
    margin_loss,
    zero_masked_margin_loss,
)
from rwp.core.modes import batch_norm_mode, frozen_weights
from rwp.core.settings import BatchNormMode, Keep, RandomStart, check_choice, check_count
from rwp.core.threat import ThreatModel, check_length

Images = Float[Tensor, "batch channels height width"]
Labels = Integer[Tensor, " batch"]
LossFunction = Callable[[Tensor, Tensor], Tensor]

# Interpolating between pixels (rotation, resizing) overshoots by this much at most.
_ROUNDING = 1e-6


class AttackOptions(TypedDict, total=False):
    """Options of `pgd`, and of the attacks built on it.

    Attributes:
        generator: where random starts are drawn from; may live on another device.
        random_start: see `rwp.core.geometry.random_point`.
        num_restarts: independent runs; the worst result per example is returned.
        keep: "last" iterate of a run, or the "worst" of all: a misclassified one if there is
            any, then the one of largest loss. Costs one more forward pass per run.
        bn_mode: run the model in "eval" or in "train" mode, the latter on the statistics of
            the batch. Neither writes running statistics; "train_counted" is "train" with
            running statistics that count each pass of the attack, and one more at its end, as
            the published program takes it.
        start: points to start from instead of random ones; projected onto the ball first,
            unless `random_start` is "off_ball" or "gaussian_unclamped".
        gradients: counts the images whose gradient was not finite, or zero throughout.
        check_inputs: look at pixels, labels and start first, which waits for the device once;
            False where they were looked at when loaded.
    """

    generator: torch.Generator | None
    random_start: RandomStart
    num_restarts: int
    keep: Keep
    bn_mode: BatchNormMode
    start: Tensor | None
    gradients: GradientTally | None
    check_inputs: bool


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
    gradients: GradientTally | None = None,
    check_inputs: bool = True,
) -> Images:
    """Projected gradient ascent on `loss` (Madry et al., 2018); a step is forward + backward.

    `loss` takes logits and labels and returns one loss per example; `step_size` is a length in
    the threat model's norm. The other options are those of `AttackOptions`.

    Raises:
        ValueError: pixels not finite or outside [0, 1], labels out of range, a step on 0..255
            pixels, a count below 1, an unknown option, a loss that is not one number per example,
            logits that do not depend on the images.
    """
    labels = class_indices(images, labels)
    largest_label = check_examples(images, labels) if check_inputs else None
    check_length("step_size", step_size, norm=threat.norm)
    check_count("num_steps", num_steps)
    check_count("num_restarts", num_restarts)
    check_choice("keep", keep, get_args(Keep))
    ball = NormBall(images.detach(), threat)
    score = _Score(model, labels, loss, largest_label, gradients)
    worst = _Worst(ball, labels) if keep == "worst" or num_restarts > 1 else None
    if gradients is not None:
        gradients.begin(images)
    with torch.enable_grad(), frozen_weights(model), batch_norm_mode(model, bn_mode):
        for _ in range(num_restarts):
            point = starting_point(ball, random_start, generator, start, check=check_inputs)
            point = _ascend(ball, score, point, step_size, num_steps, worst, keep)
            if bn_mode == "train_counted" and worst is None:
                score(point)
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
        self,
        model: nn.Module,
        labels: Tensor,
        loss: LossFunction,
        largest_label: int | None,
        gradients: GradientTally | None,
    ) -> None:
        self._model, self._labels, self._loss = model, labels, loss
        self._largest_label, self._gradients = largest_label, gradients

    def _run(self, points: Tensor) -> tuple[Tensor, Tensor]:
        logits = full_precision(self._model(points))
        if self._largest_label is not None:
            check_label_range(self._largest_label, logits.shape[1])
        losses = self._loss(logits, self._labels)
        if losses.shape != self._labels.shape:
            raise ValueError(
                f"loss: expected one per example, {tuple(self._labels.shape)}, got "
                f"{tuple(losses.shape)}; do not reduce it (reduction='none')"
            )
        return logits, losses

    @torch.no_grad()
    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor]:
        return self._run(points)

    def with_gradient(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = points.detach().requires_grad_()
        logits, losses = self._run(inputs)
        gradient = input_gradient(losses, inputs)
        if self._gradients is not None:
            self._gradients.look(gradient)
        return logits.detach(), losses.detach(), gradient.nan_to_num(nan=0.0)


def input_gradient(losses: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of the losses' sum.

    Raises:
        ValueError: they do not depend on the inputs.
    """
    found: Tensor | None = None
    if losses.requires_grad:
        (found,) = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)
    if found is None:
        raise ValueError(
            "model: expected logits that depend on the images by operations of torch, got none "
            "that do; take detach and no_grad out of its forward pass"
        )
    return found


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
        self.images = torch.where(worse.view(per_example(points)), points, self.images)
        self._losses = torch.where(worse, losses, self._losses)
        self._fooled |= worse & fooled


def fgsm(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    bn_mode: BatchNormMode = "eval",
    gradients: GradientTally | None = None,
    check_inputs: bool = True,
) -> Images:
    """One step of length epsilon from the clean images (Goodfellow et al., 2015)."""
    return pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=threat.epsilon,
        num_steps=1,
        random_start="none",
        bn_mode=bn_mode,
        gradients=gradients,
        check_inputs=check_inputs,
    )


def fgsm_random_start(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    **options: Unpack[AttackOptions],
) -> Images:
    """What the RWP authors' evaluation calls FGSM: one step from a random start.

    With their step of 2 epsilon every pixel ends at +-epsilon (or at 0 or 1), by the sign of
    the gradient at the random point. Other options and errors as `pgd`.
    """
    return pgd(model, images, labels, threat=threat, step_size=step_size, num_steps=1, **options)


class StepOptions(AttackOptions):
    """The options of an attack that names its ball and its steps."""

    threat: Required[ThreatModel]
    step_size: Required[float]
    num_steps: Required[int]


def cw(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    kappa: float,
    **options: Unpack[StepOptions],
) -> Images:
    """PGD on `margin_loss`, the Carlini-Wagner margin with confidence kappa; else as `pgd`."""
    return pgd(model, images, labels, loss=partial(margin_loss, kappa=kappa), **options)


def cw_zero_masked(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    kappa: float,
    **options: Unpack[StepOptions],
) -> Images:
    """PGD on `zero_masked_margin_loss`, what the authors' evaluation calls CW; else as `pgd`."""
    loss = partial(zero_masked_margin_loss, kappa=kappa)
    return pgd(model, images, labels, loss=loss, **options)


def kl_attack(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    num_steps: int,
    generator: torch.Generator | None = None,
    random_start: RandomStart = "gaussian",
    bn_mode: BatchNormMode = "eval",
    start: Images | None = None,
    gradients: GradientTally | None = None,
    check_inputs: bool = True,
) -> Images:
    """The attack of TRADES (Zhang et al., 2019): make KL(clean || adversarial) large.

    The labels play no part. The clean logits are computed once, as they do not change during
    the attack. From the clean images themselves the gradient is zero, hence the random start.
    Arguments and errors as `pgd`.
    """
    if check_inputs:
        check_examples(images, class_indices(images, labels))
    with torch.no_grad(), batch_norm_mode(model, bn_mode):
        clean_logits = full_precision(model(images))
    return pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=step_size,
        num_steps=num_steps,
        generator=generator,
        loss=lambda logits, _: kl_divergence(clean_logits, logits),
        random_start=random_start,
        bn_mode=bn_mode,
        start=start,
        gradients=gradients,
        check_inputs=check_inputs,
    )


def class_indices(images: Tensor, labels: Tensor) -> Tensor:
    """Labels of any integer type as 64-bit class indices; nothing is read from the device.

    Raises:
        ValueError: another type or shape, or torch's inference mode, which allows no gradient.
    """
    if torch.is_inference_mode_enabled() or images.is_inference() or labels.is_inference():
        raise ValueError(
            "images: expected ordinary tensors, got those of torch.inference_mode(), which forbids "
            "gradients; call the attack outside of it, with copies of its tensors"
        )
    kind = labels.dtype
    if labels.ndim != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        advice = "pass labels.argmax(dim=1) of one-hot ones" if labels.ndim > 1 else "cast them"
        if labels.ndim > 1 and labels.shape[1] == 1:  # whose argmax would be class 0 throughout
            advice = "flatten them"
        raise ValueError(
            f"labels: expected class indices (batch,) of an integer type, got {kind} "
            f"{tuple(labels.shape)}; {advice}"
        )
    return labels.long()


def check_examples(images: Tensor, labels: Tensor) -> int:
    """Refuse images that are not finite in [0, 1] and labels that cannot be class indices.

    One transfer from the device, whatever the size.

    Returns:
        The largest label, to be compared with the number of classes once it is known.

    Raises:
        ValueError: an empty batch, another count of labels than images, pixels that are not
            finite or lie outside [0, 1], negative labels.
    """
    if images.shape[0] == 0 or labels.shape[0] != images.shape[0]:
        raise ValueError(
            f"labels: expected one per image and at least one image, got {labels.shape[0]} "
            f"for {images.shape[0]}; pass both of one batch"
        )
    extremes = torch.stack([*images.detach().aminmax(), *labels.aminmax()])
    low, high, first, last = cast(list[float], extremes.tolist())
    if not (low >= -_ROUNDING and high <= 1.0 + _ROUNDING):
        _refuse_images(images, low, high)
    if first < 0:
        raise ValueError(
            f"labels: expected class indices from 0, got {int(first)}; drop or relabel them"
        )
    return int(last)


def _refuse_images(images: Tensor, low: float, high: float) -> None:
    if not bool(images.isfinite().all()):
        raise ValueError(
            "images: expected finite pixels, got NaN or infinity; look at how they were loaded"
        )
    raise ValueError(
        f"images: expected pixels in [0, 1], got [{low:g}, {high:g}]; "
        "divide 0..255 pixels by 255, and leave normalization to the model"
    )


def check_label_range(largest: int, num_classes: int) -> None:
    """Refuse labels that the model has no logit for."""
    if largest >= num_classes:
        raise ValueError(
            f"labels: expected class indices below {num_classes}, the model's number of classes, "
            f"got {largest}; build the model with more classes or fix the labels"
        )
