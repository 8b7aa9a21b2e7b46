"""The options of a weight perturbation, and which examples its mask selects."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rwp.core.checks import check_choice
from rwp.core.group import ALONE, Group

NormScope = Literal["layer", "model"]
Mask = Literal["all", "below", "range", "above", "random"]

# The threshold of MLCAT-WP (Yu et al., 2022), the same mechanism at another c_min.
MLCAT_C_MIN = 1.5


@dataclass(frozen=True)
class WeightPerturbation:
    """How far, how often and on which examples the weights are perturbed.

    Attributes:
        gamma: length of v relative to the weights; 0 perturbs nothing.
        num_weight_steps: ascent steps (the paper's K2); 0 perturbs nothing.
        norm_scope: what is gamma * ||w|| long: "layer", every tensor of v by itself; "model",
            v as one vector.
        mask: the examples whose loss is raised. "all"; "below": loss < c_min; "range":
            c_min <= loss < c_max; "above": loss >= c_min; "random": as many as are below
            c_min, drawn at random.
        c_min: loss in nats, for every mask but "all".
        c_max: loss in nats, for "range".

    Raises:
        ValueError: a number out of its range, or one missing or given in vain.
    """

    gamma: float
    num_weight_steps: int
    norm_scope: NormScope
    mask: Mask
    c_min: float | None = None
    c_max: float | None = None

    def __post_init__(self) -> None:
        check_choice("norm_scope", self.norm_scope, get_args(NormScope))
        check_choice("mask", self.mask, get_args(Mask))
        if not (math.isfinite(self.gamma) and 0 <= self.gamma < 1):
            raise ValueError(
                f"gamma: expected a share of the weights' norm in [0, 1), got {self.gamma}; "
                "the published ones are 0.01 and 0.005"
            )
        if self.num_weight_steps < 0:
            raise ValueError(
                f"num_weight_steps: expected at least 0, got {self.num_weight_steps}; "
                "name a count of ascent steps"
            )
        self._check_threshold("c_min", self.c_min, needed=self.mask != "all")
        self._check_threshold("c_max", self.c_max, needed=self.mask == "range")
        if self.c_min is not None and self.c_max is not None and self.c_max <= self.c_min:
            raise ValueError(
                f"c_max: expected more than c_min {self.c_min}, got {self.c_max}; swap them"
            )

    def _check_threshold(self, name: str, value: float | None, *, needed: bool) -> None:
        if needed and (value is None or math.isnan(value) or value < 0):
            raise ValueError(
                f"{name}: expected a loss in nats >= 0 for the mask {self.mask!r}, got {value}; "
                "name one"
            )
        if not needed and value is not None:
            raise ValueError(
                f"{name}: expected none for the mask {self.mask!r}, got {value}; remove it"
            )

    @property
    def perturbs_nothing(self) -> bool:
        """Is v zero whatever the losses are?"""
        return self.gamma == 0 or self.num_weight_steps == 0

    @classmethod
    def none(cls) -> "WeightPerturbation":
        """No perturbation."""
        return cls(gamma=0.0, num_weight_steps=0, norm_scope="layer", mask="all")

    @classmethod
    def awp(cls, *, gamma: float) -> "WeightPerturbation":
        """AWP (Wu et al., 2020): one step on all examples, scaled per layer."""
        return cls(gamma=gamma, num_weight_steps=1, norm_scope="layer", mask="all")

    @classmethod
    def rwp(cls, *, gamma: float, c_min: float, num_weight_steps: int) -> "WeightPerturbation":
        """RWP: several steps on the examples below c_min, scaled over the whole model."""
        return cls(
            gamma=gamma,
            num_weight_steps=num_weight_steps,
            norm_scope="model",
            mask="below",
            c_min=c_min,
        )

    @classmethod
    def mlcat_wp(cls, *, gamma: float, num_weight_steps: int) -> "WeightPerturbation":
        """MLCAT-WP (Yu et al., 2022): RWP at c_min = 1.5."""
        return cls.rwp(gamma=gamma, c_min=MLCAT_C_MIN, num_weight_steps=num_weight_steps)


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
