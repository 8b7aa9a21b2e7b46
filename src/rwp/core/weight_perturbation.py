"""Adversarial weight perturbation with named options; AWP and RWP are two settings of it.

With w the perturbed tensors (convolution and linear kernels), l_i the objective of example
i, m_i its mask and n the batch size, each of K2 steps adds one raw gradient to a sum,

    R <- R + grad_w (1/n) sum_i m_i l_i,        v = gamma * ||w|| / ||R|| * R,

with the norms taken per layer or over the whole model. The mask is decided anew at w + v in
every step; once it selects no example, v stays as it is.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rwp.core.group import ALONE, Group
from rwp.core.modes import RunningStatistics, untracked_statistics
from rwp.core.objectives.base import ExampleLosses
from rwp.core.perturbation_result import PerturbationDiagnostics, PerturbedWeights
from rwp.core.settings import WeightPerturbation
from rwp.core.weights import borrowed_weights, perturbed_tensors, shifted_weights

__all__ = [
    "PerturbationDiagnostics",
    "PerturbedWeights",
    "WeightPerturbation",
    "adversarial_weight_perturbation",
    "perturb_weights",
    "robust_weight_perturbation",
    "shifted_weights",
]

# The guard against dividing by zero in both published programs.
SMALLEST_NORM = 1e-20

LossClosure = Callable[[], ExampleLosses]


def perturb_weights(
    model: nn.Module,
    losses: LossClosure,
    perturbation: WeightPerturbation,
    *,
    generator: torch.Generator | None = None,
    group: Group = ALONE,
) -> PerturbedWeights:
    """Find the v that raises the losses of the selected examples.

    The model comes back bit for bit as it was, but for the running statistics of a pass
    returned as `reusable`. Costs one forward and one backward pass per step, the latter of the
    perturbed tensors alone; an empty mask costs one forward pass (none at the first step).
    Everything but the network itself is computed in the weights' own precision.

    Args:
        model: the model, in the mode of the outer pass.
        losses: runs the model on the batch; called once per step, under the perturbed weights.
        perturbation: the options.
        generator: for the mask "random".
        group: the processes that hold the other shares of the batch; each finds the same v,
            that of the whole batch.

    Raises:
        ValueError: the model has nothing to perturb; a random mask without a generator.
    """
    if perturbation.perturbs_nothing:
        return PerturbedWeights({}, None, PerturbationDiagnostics())
    return _Ascent(model, losses, perturbation, generator, group).run()


class _Ascent:
    def __init__(
        self,
        model: nn.Module,
        losses: LossClosure,
        perturbation: WeightPerturbation,
        generator: torch.Generator | None,
        group: Group,
    ) -> None:
        named = perturbed_tensors(model)
        if not named:
            raise ValueError(
                "model: expected trainable kernels (convolution or linear weights), got none; "
                "unfreeze them or turn the weight perturbation off"
            )
        self._model, self._losses = model, losses
        self._perturbation, self._generator = perturbation, generator
        self._group, self._batch_size = group, 0
        self._names, self._weights = list(named), list(named.values())
        self._norms = torch._foreach_norm([weight.detach() for weight in self._weights])
        self._sum: list[Tensor] = []
        self._fractions: list[float] = []

    def run(self) -> PerturbedWeights:
        first = self._first_step()
        before = self._mean(first.objective)
        after = before if not self._sum else None
        if not self._sum:
            return PerturbedWeights({}, first, self._diagnostics([], before, after))
        del first  # its graph is spent
        offset = self._scaled()
        if self._perturbation.num_weight_steps > 1:
            offset, after = self._further_steps(offset)
        named = dict(zip(self._names, offset, strict=True))
        return PerturbedWeights(named, None, self._diagnostics(offset, before, after))

    def _first_step(self) -> ExampleLosses:
        # With an empty mask this pass becomes the outer one, so it runs with the running
        # statistics tracked, and they are taken back otherwise.
        statistics = RunningStatistics(self._model)
        keep = False
        try:
            losses, keep = self._step()
        finally:
            if not keep:
                statistics.restore()
        return losses

    def _step(self) -> tuple[ExampleLosses, bool]:
        """Add one gradient to the sum; also tell whether the mask was empty."""
        with torch.enable_grad():
            losses = self._losses()
            self._batch_size = self._batch_size or self._group.total(len(losses.objective))
            active = select(losses.criterion, self._perturbation, self._generator, self._group)
            # The one wait for the device in a step: whether there is anything left to do.
            count = self._batch_size
            if self._perturbation.mask != "all":
                count = int(self._group.total(active.sum()))
            self._fractions.append(count / self._batch_size)
            if count == 0:
                return losses, True
            masked_mean = torch.where(active, losses.objective, 0.0).sum() / self._batch_size
            gradients = torch.autograd.grad(masked_mean, self._weights, materialize_grads=True)
            self._group.add_up_(gradients)
        self._sum = list(torch._foreach_add(self._sum, gradients) if self._sum else gradients)
        return losses, False

    def _further_steps(self, offset: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The steps after the first; the loss at w + v comes along where the mask ran empty."""
        with borrowed_weights(self._weights) as move, untracked_statistics(self._model):
            for _ in range(1, self._perturbation.num_weight_steps):
                move(offset)
                losses, empty = self._step()
                if empty:
                    return offset, self._mean(losses.objective)
                offset = self._scaled()
        return offset, None

    def _mean(self, losses: Tensor) -> Tensor:
        return self._group.total(losses.detach().sum()) / self._batch_size

    def _scaled(self) -> list[Tensor]:
        gamma = self._perturbation.gamma
        lengths = torch._foreach_norm(self._sum)
        norms = list(self._norms)
        if self._perturbation.norm_scope == "model":
            total = _total(norms) / (_total(lengths) + SMALLEST_NORM)
            return list(torch._foreach_mul(self._sum, gamma * total))
        scales = [
            norm / (length + SMALLEST_NORM) for norm, length in zip(norms, lengths, strict=True)
        ]
        return [
            gradient * (gamma * scale) for gradient, scale in zip(self._sum, scales, strict=True)
        ]

    def _diagnostics(
        self, offset: list[Tensor], before: Tensor, after: Tensor | None
    ) -> PerturbationDiagnostics:
        lengths = torch._foreach_norm(offset) if offset else []
        return PerturbationDiagnostics(
            mask_fractions=tuple(self._fractions),
            steps=sum(fraction > 0 for fraction in self._fractions),
            _before=before,
            _after=after,
            _layer_norms=tuple(zip(self._names, lengths, self._norms, strict=False)),
        )


def _total(norms: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(list(norms)))


def adversarial_weight_perturbation(
    model: nn.Module, losses: LossClosure, *, gamma: float
) -> PerturbedWeights:
    """AWP (Wu et al., 2020): one step on all examples, ||v_l|| = gamma ||w_l|| per layer."""
    return perturb_weights(model, losses, WeightPerturbation.awp(gamma=gamma))


def robust_weight_perturbation(
    model: nn.Module, losses: LossClosure, *, gamma: float, c_min: float, num_steps: int
) -> PerturbedWeights:
    """RWP: up to `num_steps` steps on the examples below c_min, ||v|| = gamma ||w||."""
    perturbation = WeightPerturbation.rwp(gamma=gamma, c_min=c_min, num_weight_steps=num_steps)
    return perturb_weights(model, losses, perturbation)


def select(
    losses: Float[Tensor, " batch"],
    perturbation: WeightPerturbation,
    generator: torch.Generator | None,
    group: Group = ALONE,
) -> Bool[Tensor, " batch"]:
    """The examples whose loss the perturbation raises.

    The random mask is drawn for the batch of all processes of the group.

    Raises:
        ValueError: a random mask without a generator.
    """
    if perturbation.mask == "all":
        return torch.ones_like(losses, dtype=torch.bool)
    if perturbation.mask == "above":
        return losses >= _given(perturbation.c_min)
    if perturbation.mask == "range":
        return (losses >= _given(perturbation.c_min)) & (losses < _given(perturbation.c_max))
    below = losses < _given(perturbation.c_min)
    if perturbation.mask == "below":
        return below
    if generator is None:
        raise ValueError(
            "generator: expected a torch.Generator for the random mask, got None; pass one"
        )
    batch_size = group.total(len(losses))
    draw = torch.rand(batch_size, generator=generator, device=generator.device)
    return group.part(draw.argsort().argsort().to(losses.device)) < group.total(below.sum())


def _given(threshold: float | None) -> float:
    # __post_init__ has made sure of it; this is for the type checker.
    return math.nan if threshold is None else threshold
