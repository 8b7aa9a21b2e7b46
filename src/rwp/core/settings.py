"""The settings that the core's functions take: words, numbers, and what is refused of them.

Nothing here imports torch, so that a plan can be made and checked without it. Every word that
such a setting may take is listed here and nowhere else.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

BatchNormMode = Literal["eval", "train"]
Criterion = Literal["objective", "adversarial_ce"]
Keep = Literal["last", "worst"]
Loss = Literal["natural", "at", "trades", "mart"]
Mask = Literal["all", "below", "range", "above", "random"]
NormScope = Literal["layer", "model"]
Precision = Literal["fp32", "tf32", "bf16"]
RandomStart = Literal["uniform", "gaussian", "off_ball", "none"]


def check_count(name: str, value: int) -> None:
    """Refuse a count below one."""
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, got {value}; name a positive count")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is none of `choices`."""
    if value not in choices:
        expected = ", ".join(choices)
        raise ValueError(f"{name}: expected one of {expected}, got {value!r}; name one of them")


@dataclass(frozen=True)
class ObjectiveSettings:
    """What training minimizes.

    Attributes:
        loss: "natural", "at", "trades" (also RST: the same on mixed batches) or "mart".
        beta: weight of the divergence; TRADES and MART only.
        criterion: what the mask of the weight perturbation looks at: the "objective" itself, or
            the cross-entropy of the adversarial image. They differ for TRADES and MART.
        clean_updates: TRADES only: how often the clean pass counts in the running statistics, 2
            (its published code, and the default) or 1 (RST's).
        random_start: start of the attack; None for the published one ("uniform" for AT,
            "gaussian" for TRADES and MART).

    Raises:
        ValueError: an unknown word, beta missing or given in vain.
    """

    loss: Loss
    beta: float | None = None
    criterion: Criterion = "objective"
    clean_updates: int | None = None
    random_start: RandomStart | None = None

    def __post_init__(self) -> None:
        check_choice("objective", self.loss, get_args(Loss))
        check_choice("criterion", self.criterion, get_args(Criterion))
        if self.random_start is not None:
            check_choice("random_start", self.random_start, get_args(RandomStart))
        beta, takes_beta = self.beta, self.loss in ("trades", "mart")
        if takes_beta and (beta is None or not math.isfinite(beta) or beta < 0):
            raise ValueError(f"beta: expected a weight >= 0 for {self.loss}, got {beta}; name one")
        if not takes_beta and beta is not None:
            raise ValueError(f"beta: expected none for {self.loss}, got {beta}; remove it")
        updates = self.clean_updates
        if updates is not None and (self.loss != "trades" or updates not in (1, 2)):
            raise ValueError(
                f"clean_updates: expected 1 or 2, with trades, got {updates} with {self.loss}; "
                "remove it"
            )


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
