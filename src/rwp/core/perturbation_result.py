"""What a weight perturbation returns: the offset, and what happened on the way."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rwp.core.objectives.base import ExampleLosses


@dataclass(frozen=True)
class PerturbationDiagnostics:
    """What a weight perturbation did. Reading a number waits for the device; keeping it does not.

    Attributes:
        mask_fractions: share of the batch under the mask, one per forward pass; the last is 0
            where the mask ran empty.
        steps: ascent steps taken.
    """

    mask_fractions: tuple[float, ...] = ()
    steps: int = 0
    _before: Tensor | None = None
    _after: Tensor | None = None
    _layer_norms: tuple[tuple[str, Tensor, Tensor], ...] = field(default=(), repr=False)

    @property
    def loss_before(self) -> float | None:
        """Mean objective at w; None without a perturbation."""
        return None if self._before is None else self._before.item()

    @property
    def loss_after(self) -> float | None:
        """Mean objective at w + v; None until the outer pass, which measures it, is told."""
        return None if self._after is None else self._after.item()

    @property
    def norm_ratio(self) -> float:
        """||v|| / ||w|| over all perturbed tensors; 0 where v = 0."""
        return float(self.norm_ratio_on_device)

    @property
    def norm_ratio_on_device(self) -> Tensor | float:
        """The same, without waiting for the device."""
        if not self._layer_norms:
            return 0.0
        offsets, weights = (
            torch.linalg.vector_norm(torch.stack([norms[i] for norms in self._layer_norms]))
            for i in (1, 2)
        )
        return offsets / weights

    @property
    def layer_norm_ratios(self) -> dict[str, float]:
        """||v|| / ||w|| per perturbed tensor; empty where v = 0."""
        return {name: (v / w).item() for name, v, w in self._layer_norms}

    def with_outer_pass(self, losses: ExampleLosses) -> "PerturbationDiagnostics":
        """The same with `loss_after` from the training's own pass at w + v."""
        return replace(self, _after=losses.objective.detach().mean())


@dataclass(frozen=True)
class PerturbedWeights:
    """The perturbation of one batch.

    Attributes:
        offset: v by parameter name; empty where v = 0.
        reusable: the losses at v = 0 with their graph, where the mask selected no example in
            the first step: the outer pass, already done and counted in the running statistics.
        diagnostics: what happened.
    """

    offset: dict[str, Tensor]
    reusable: ExampleLosses | None
    diagnostics: PerturbationDiagnostics
