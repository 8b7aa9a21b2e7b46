"""The set of allowed images around given ones: projecting, stepping, starting points."""

from typing import get_args

import torch
from torch import Tensor

from rwp.core.settings import RandomStart, check_choice
from rwp.core.threat import Norm, ThreatModel

# Published constants: the spread of the start in TRADES, the guard of the L2 step in
# adversarial training, the half-width of the SVHN L2 start.
GAUSSIAN_START_SCALE = 0.001
SMALLEST_NORM = 1e-10
OFF_BALL_HALF_WIDTH = 0.5
_ROUNDING = 1e-7  # of a pixel in [0, 1] to 32 bits, and of a difference of two, with room


class NormBall:
    """The points within a threat model's radius of `center` with pixels in [0, 1]."""

    def __init__(self, center: Tensor, threat: ThreatModel) -> None:
        if threat.norm not in get_args(Norm):
            raise ValueError(
                f"norm: expected linf or l2, got {threat.norm}, which AutoAttack alone searches; "
                "take that attack"
            )
        self.center = center
        self.threat = threat
        if threat.norm == "linf":
            self._low = (center - threat.epsilon).clamp_min(0.0)
            self._high = (center + threat.epsilon).clamp_max(1.0)

    def contains(self, points: Tensor) -> Tensor:
        """Per example: does the point lie in the ball, up to rounding, and in [0, 1]?"""
        delta = points - self.center
        half = delta.dtype in (torch.float16, torch.bfloat16)
        rounding = torch.finfo(delta.dtype).eps if half else _ROUNDING
        length, slack = delta.abs().flatten(1).amax(dim=1), rounding
        if self.threat.norm == "l2":
            length, slack = lengths(delta).flatten(), rounding * delta.shape[1:].numel() ** 0.5
        low, high = points.flatten(1).aminmax(dim=1)
        largest = self.threat.epsilon * (1 + 1e-5) + slack
        return (length <= largest) & (low >= 0.0) & (high <= 1.0)

    def project(self, points: Tensor) -> Tensor:
        """The nearest allowed points (L2: onto the ball, then into [0, 1], as published)."""
        if self.threat.norm == "linf":
            return torch.clamp(points, self._low, self._high)
        delta = points - self.center
        shrink = (self.threat.epsilon / lengths(delta).clamp_min(SMALLEST_NORM)).clamp_max(1.0)
        return (self.center + delta * shrink).clamp_(0.0, 1.0)

    def step(self, points: Tensor, gradient: Tensor, step_size: float) -> Tensor:
        """A step of length `step_size` up the gradient: its sign (L-inf) or direction (L2)."""
        if self.threat.norm == "linf":
            return self.project(points.add(gradient.sign(), alpha=step_size))
        # An infinite part, which comes as the largest number, would be all of the direction.
        usable = gradient.abs() < torch.finfo(gradient.dtype).max
        gradient = torch.where(usable, gradient, torch.zeros_like(gradient))
        # A gradient far below one is scaled up first, so that the guard against dividing by
        # zero stops no attack on a model that is sure of itself.
        largest = gradient.abs().flatten(1).amax(dim=1).view(per_example(gradient))
        scaled = gradient / torch.where(largest > 0, largest, torch.ones_like(largest))
        direction = scaled / lengths(scaled).clamp_min(SMALLEST_NORM)
        return self.project(points.add(direction, alpha=step_size))


def lengths(delta: Tensor) -> Tensor:
    """Euclidean length per example, or per filter of a kernel, shaped to broadcast over them."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1).view(per_example(delta))


def per_example(images: Tensor) -> tuple[int, ...]:
    """The shape (batch, 1, ..., 1) of one number per example."""
    return (images.shape[0], *(1,) * (images.ndim - 1))


def starting_point(
    ball: NormBall,
    kind: RandomStart,
    generator: torch.Generator | None,
    given: Tensor | None,
    *,
    check: bool = True,
) -> Tensor:
    """The given point, or else a random one.

    A given one is projected; for "off_ball" into [0, 1] alone, for "gaussian_unclamped" not at all.

    `check` asks whether a given point is finite, which waits for its device.

    Raises:
        ValueError: as `random_point`, or a given point of another shape or not finite.
    """
    if given is None:
        return random_point(ball, kind, generator)
    _check_start(given, ball.center, finite=check)
    if kind == "gaussian_unclamped":
        return given.detach()
    return given.detach().clamp(0.0, 1.0) if kind == "off_ball" else ball.project(given.detach())


def random_point(ball: NormBall, kind: RandomStart, generator: torch.Generator | None) -> Tensor:
    """A starting point for an attack.

    Args:
        ball: where to start.
        kind: "uniform": L-inf uniform in the ball; L2 a random direction of length
            uniform in [0, epsilon]. "gaussian": 0.001 times normal noise (TRADES), projected;
            "gaussian_unclamped": not projected, as published. "off_ball":
            uniform noise in +-0.5, which the first step projects (what the published SVHN L2
            training does). "none": the clean images.
        generator: where to draw from; none: torch's own, which `torch.manual_seed` seeds.

    Raises:
        ValueError: an unknown kind.
    """
    check_choice("random_start", kind, get_args(RandomStart))
    center = ball.center
    if kind == "none":
        return center.clone()
    generator = generator or torch.default_generator
    if kind == "gaussian_unclamped":
        return center + GAUSSIAN_START_SCALE * normal_like(center, generator)
    if kind == "gaussian":
        return ball.project(center + GAUSSIAN_START_SCALE * normal_like(center, generator))
    if kind == "off_ball":
        return (center + OFF_BALL_HALF_WIDTH * _uniform(center, generator)).clamp_(0.0, 1.0)
    if ball.threat.norm == "linf":
        return ball.project(center + ball.threat.epsilon * _uniform(center, generator))
    direction = normal_like(center, generator)
    share = torch.rand(
        per_example(center), generator=generator, device=generator.device, dtype=center.dtype
    ).to(center.device)
    length = share * ball.threat.epsilon / lengths(direction).clamp_min(SMALLEST_NORM)
    return ball.project(center + direction * length)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.empty(like.shape, dtype=like.dtype, device=generator.device)
    return noise.uniform_(-1.0, 1.0, generator=generator).to(like.device)


def normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal noise of a tensor's shape, type and place, drawn where the generator is."""
    noise = torch.empty(like.shape, dtype=like.dtype, device=generator.device)
    return noise.normal_(generator=generator).to(like.device)


def _check_start(start: Tensor, images: Tensor, *, finite: bool) -> None:
    if start.shape != images.shape:
        raise ValueError(
            f"start: expected the images' shape {tuple(images.shape)}, got {tuple(start.shape)}; "
            "pass one start per image"
        )
    if finite and not bool(start.isfinite().all()):
        raise ValueError("start: expected finite pixels, got NaN or infinity; pass a valid start")
