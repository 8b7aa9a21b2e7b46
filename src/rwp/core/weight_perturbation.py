"""Adversarial weight perturbation with named options; AWP, RWP and SAM are settings of it.

`perturb_weights` is the second loop of the paper's Algorithm 1, with w the perturbed tensors
(convolution and linear kernels), l_i the objective of example i, V_i its mask and n the batch
size. Each of K2 steps adds one raw gradient to a sum,

    R <- R + grad_w (1/n) sum_i V_i l_i,        v <- gamma * ||w|| / ||R|| * R,

with the norms taken per layer or over the whole model. The mask (`rwp.core.mask`) is decided anew
at w + v in every step; once it selects no example, v stays as it is. As in the authors' program,
and unlike in the printed algorithm, the sum is one of raw gradients, only v is rescaled, and a
loss of just c_min is not below it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from rwp.core.geometry import normal_like
from rwp.core.mask import Bounds, loss_bounds, select
from rwp.core.modes import untracked_statistics
from rwp.core.objectives.base import ExampleLosses
from rwp.core.process_group import ALONE, Group
from rwp.core.settings import WeightPerturbation
from rwp.core.weights import (
    borrowed_weights,
    depth_factors,
    perturbed_tensors,
    shifted_weights,
)

__all__ = [
    "PerturbationDiagnostics",
    "PerturbedWeights",
    "WeightPerturbation",
    "adversarial_weight_perturbation",
    "perturb_weights",
    "robust_weight_perturbation",
    "select",
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
) -> "PerturbedWeights":
    """Find the v that raises the losses of the selected examples.

    The model comes back bit for bit as it was. Costs one forward and one backward pass per step,
    the latter of the perturbed tensors alone. On the CPU an empty mask ends the search; from
    another device nothing is read back, and the steps that are left add zero. Everything but
    the network itself is computed in the weights' own precision.

    Args:
        model: the model, in the mode of the outer pass.
        losses: runs the model on the batch; called once per step, under the perturbed weights.
        perturbation: the options.
        generator: for the mask and for the direction "random".
        group: the processes that hold the other shares of the batch; each finds the same v,
            that of the whole batch.

    Raises:
        ValueError: the model has nothing to perturb, perturbs it by factors of 0, has no such
            layer, or weights or arithmetic of too few bits; losses or a mask of another shape
            than (batch,), or losses that do not depend on the perturbed tensors.
    """
    if perturbation.perturbs_nothing:
        return PerturbedWeights({}, PerturbationDiagnostics())
    named = something_to_perturb(model, perturbation)
    weights = list(named.values())  # w
    factors = depth_factors(model, list(named), perturbation)
    weight_norms = list(torch._foreach_norm([weight.detach() for weight in weights]))  # ||w||
    gradient_sum = [torch.zeros_like(weight) for weight in weights]  # R
    offset: list[Tensor] = []  # v = 0
    selected: list[Tensor] = []
    losses_at_w: Tensor | None = None  # their sum
    bounds: Bounds | None = None  # c_min, and c_max where the mask has one
    batch_size = backward_passes = 0
    with borrowed_weights(weights) as move_by, untracked_statistics(model), torch.enable_grad():
        for k in range(1, perturbation.num_weight_steps + 1):  # for k = 1 to K2 do
            move_by(offset)
            batch = losses()  # l(f_{w+v}(x'), y)
            _check_losses(batch)
            if k == 1:  # v is still 0
                batch_size = group.total(len(batch.objective))  # n
                losses_at_w = batch.objective.detach().sum()
                bounds = loss_bounds(batch.criterion, perturbation, group)
            mask = select(batch.criterion, perturbation, generator, group, bounds)  # V
            if selected:  # what has ended stays so, also where a mask or a network draws
                mask = mask & (selected[-1] > 0)
            selected.append(group.total(mask.sum()))  # sum V
            if mask.device.type == "cpu" and selected[-1] == 0:  # if sum V = 0: break
                break
            if perturbation.direction == "random":
                gradients = _random_direction(weights, selected[-1] > 0, generator)
            else:
                masked_mean = torch.where(mask, batch.objective, 0.0).sum() / batch_size
                gradients = _gradients(masked_mean, weights, some=perturbation.layers is not None)
                group.add_up_(gradients)
                backward_passes += 1
            torch._foreach_add_(gradient_sum, gradients)  # R <- R + grad_v (1/n) sum V l
            # v <- gamma R/||R|| ||w||
            offset = _rescaled(gradient_sum, weight_norms, factors, perturbation)
    diagnostics = PerturbationDiagnostics(
        forward_passes=len(selected),
        backward_passes=backward_passes,
        c_min=None if bounds is None else bounds[0],
        losses_at_w=losses_at_w,
        _selected=tuple(selected),
        _batch_size=batch_size,
        _layer_norms=_layer_norms(named, offset, weight_norms),
    )
    return PerturbedWeights(dict(zip(named, offset, strict=False)), diagnostics)


def _gradients(loss: Tensor, weights: list[nn.Parameter], *, some: bool) -> list[Tensor]:
    """Of the loss with respect to each weight; zero for those that it does not depend on.

    Of `some` layers a batch may pass by all.
    """
    found = torch.autograd.grad(loss, weights, allow_unused=True) if loss.requires_grad else ()
    if not found or not (some or any(gradient is not None for gradient in found)):
        raise ValueError(
            "losses: expected losses that depend on the model's weights, got none that does; run "
            "this very model, no copy, and do not detach its logits"
        )
    return [
        torch.zeros_like(weight) if gradient is None else gradient
        for gradient, weight in zip(found, weights, strict=True)
    ]


def _check_losses(batch: ExampleLosses) -> None:
    """Other shapes would be broadcast against the mask: every example would count many times."""
    if not isinstance(batch, ExampleLosses):
        raise ValueError(
            f"losses: expected ExampleLosses, as an objective's `losses` gives, got "
            f"{type(batch).__name__}; return ExampleLosses(objective, criterion, logits)"
        )
    objective, criterion = batch.objective, batch.criterion
    if objective.ndim != 1 or criterion.shape != objective.shape:
        raise ValueError(
            "losses: expected an objective and a criterion per example, both (batch,), got "
            f"{tuple(objective.shape)} and {tuple(criterion.shape)}; do not reduce the losses, and "
            "flatten them"
        )
    if not (objective.is_floating_point() and criterion.is_floating_point()):
        raise ValueError(
            f"losses: expected numbers of a floating type, got {objective.dtype} and "
            f"{criterion.dtype}; the mask compares the criterion itself"
        )


def something_to_perturb(
    model: nn.Module, perturbation: WeightPerturbation
) -> dict[str, nn.Parameter]:
    """What a perturbation perturbs of a model, by name.

    Raises:
        ValueError: nothing, or it names a layer that the model does not have.
    """
    named = perturbed_tensors(model, perturbation.tensors, perturbation.layers)
    if not named:
        raise ValueError(
            "model: expected trainable kernels (convolution or linear weights), got none; "
            "unfreeze them or turn the weight perturbation off"
        )
    short = next((w.dtype for w in named.values() if w.dtype in _SHORT), None)
    if short is not None:
        raise ValueError(
            f"model: expected weights of 32 bits, got {short}, in which {_SHORT[short]}; keep them "
            "in torch.float32, and compute in fewer bits by torch.autocast(..., torch.bfloat16)"
        )
    if _rounds_to_float16(next(iter(named.values())).device.type):
        raise ValueError(
            "model: expected the arithmetic of torch.float32 or torch.bfloat16, got autocast to "
            "torch.float16, in which small gradients of the search are 0; name torch.bfloat16"
        )
    return named


def _rounds_to_float16(device: str) -> bool:
    can = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return can and torch.get_autocast_dtype(device) == torch.float16


_SHORT = {
    torch.float16: "lengths overflow",
    torch.bfloat16: "a perturbation is no more than a rounding",
}


def _random_direction(
    weights: Sequence[Tensor], anything: Tensor, generator: torch.Generator | None
) -> list[Tensor]:
    """Normal noise in the place of the gradient; zero where no example is under the mask."""
    generator = generator or torch.default_generator
    return [normal_like(weight, generator) * anything.to(weight.device) for weight in weights]


def _rescaled(
    vector: Sequence[Tensor],
    weight_norms: Sequence[Tensor],
    factors: Sequence[float],
    perturbation: WeightPerturbation,
) -> list[Tensor]:
    """The vector at gamma times the length of the weights, per layer or over the whole model.

    Where gamma is an absolute length, at gamma alone; with factors along the depth.
    """
    vector, gamma = list(vector), perturbation.gamma
    relative, along_depth = perturbation.length == "relative", bool(perturbation.depth_profile)
    if perturbation.norm_scope == "model":
        if along_depth:
            vector = list(torch._foreach_mul(vector, list(factors)))
        total = _total(torch._foreach_norm(vector)) + SMALLEST_NORM
        scale = _total(weight_norms) / total if relative else 1.0 / total
        return list(torch._foreach_mul(vector, gamma * scale))
    lengths = torch._foreach_add(torch._foreach_norm(vector), SMALLEST_NORM)
    wanted = list(weight_norms) if relative else [torch.ones_like(w) for w in weight_norms]
    scales = torch._foreach_mul(torch._foreach_div(wanted, lengths), gamma)
    if along_depth:
        scales = torch._foreach_mul(scales, list(factors))
    return list(torch._foreach_mul(vector, scales))


def _total(norms: Sequence[Tensor]) -> Tensor:
    """The norm of a vector from those of its parts."""
    return torch.linalg.vector_norm(torch.stack(list(norms)))


@dataclass(frozen=True)
class PerturbationDiagnostics:
    """What a weight perturbation did.

    Attributes:
        forward_passes: of the search.
        backward_passes: of the search.
        c_min: what the losses were compared with: as set, or a quantile of the batch; NaN where
            the mask compares nothing, None where nothing was searched.
        losses_at_w: sum of the losses that are raised, before they are, over this process's
            examples; None where nothing was searched.
    """

    forward_passes: int = 0
    backward_passes: int = 0
    c_min: Tensor | float | None = None
    losses_at_w: Tensor | None = None
    _selected: tuple[Tensor, ...] = ()
    _batch_size: int = 0
    _layer_norms: tuple[tuple[str, Tensor, Tensor], ...] = field(default=(), repr=False)

    @property
    def mask_fractions(self) -> tuple[float, ...]:
        """Share of the batch under the mask, one per forward pass; waits for the device."""
        return tuple(float(count) / self._batch_size for count in self._selected)

    @property
    def counts_steps(self) -> bool:
        """Whether it knows its steps: a perturbation of the user's own tells none."""
        return bool(self._selected) or not self._layer_norms

    @property
    def steps(self) -> int:
        """Steps that moved v, those with an example under the mask; waits for the device."""
        return int(self.steps_on_device)

    @property
    def steps_on_device(self) -> Tensor | int:
        """The same, without waiting for the device."""
        return (torch.stack(self._selected) > 0).sum() if self._selected else 0

    @property
    def norm_ratio(self) -> float:
        """||v|| / ||w|| over all perturbed tensors, 0 where v or w is 0; waits for the device."""
        return float(self.norm_ratio_on_device)

    @property
    def norm_ratio_on_device(self) -> Tensor | float:
        """The same, without waiting for the device."""
        if not self._layer_norms:
            return 0.0
        _, offsets, weights = zip(*self._layer_norms, strict=True)
        return _ratio(_total(offsets), _total(weights))

    @property
    def layer_norm_ratios(self) -> dict[str, float]:
        """||v|| / ||w|| per perturbed tensor, 0 where w is, empty where v = 0; waits."""
        return {name: _ratio(v, w).item() for name, v, w in self._layer_norms}


@dataclass(frozen=True)
class PerturbedWeights:
    """The perturbation of one batch.

    Attributes:
        offset: v by parameter name; empty where the search ended with v = 0.
        diagnostics: what happened.
    """

    offset: dict[str, Tensor]
    diagnostics: PerturbationDiagnostics


def _ratio(offset: Tensor, weights: Tensor) -> Tensor:
    """Of two lengths; none of weights that start at zero, which are no divergence."""
    return torch.where(weights == 0, torch.zeros_like(offset), offset / weights)


def _layer_norms(
    names: Iterable[str], offset: Sequence[Tensor], weight_norms: Sequence[Tensor]
) -> tuple[tuple[str, Tensor, Tensor], ...]:
    lengths = torch._foreach_norm(list(offset)) if offset else []
    return tuple(zip(names, lengths, weight_norms, strict=False))


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
