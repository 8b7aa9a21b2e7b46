"""The settings that the core's functions take, and the checks of their values.

Nothing here imports torch, so that a plan can be made and checked without it. Every word that
such a setting may take is listed here and nowhere else.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

ActivationName = Literal["relu", "silu"]
BatchNormMode = Literal["eval", "train", "train_counted"]
Criterion = Literal["objective", "adversarial_ce"]
Direction = Literal["gradient", "random"]
Keep = Literal["last", "worst"]
Length = Literal["relative", "absolute"]
Loss = Literal["natural", "at", "trades", "mart"]
Mask = Literal["all", "below", "range", "above", "random"]
NormScope = Literal["layer", "model"]
Precision = Literal["fp32", "tf32", "bf16"]
RandomStart = Literal["uniform", "gaussian", "gaussian_unclamped", "off_ball", "none"]
Tensors = Literal["kernels", "kernels_and_norms", "all"]


def check_count(name: str, value: int, *, least: int = 1) -> None:
    """Refuse what is no whole number from `least` on."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise ValueError(f"{name}: expected a whole number, got {value!r}; name a count")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}; name such a count")


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
        label_smoothing: share of the label's probability that is spread over all classes, in the
            cross-entropy that is minimized; the attack's is that of the label alone.

    Raises:
        ValueError: an unknown word, beta missing or given in vain, a share outside [0, 1).
    """

    loss: Loss
    beta: float | None = None
    criterion: Criterion = "objective"
    clean_updates: int | None = None
    random_start: RandomStart | None = None
    label_smoothing: float = 0.0

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
        smoothing = self.label_smoothing
        if not 0 <= smoothing < 1 or (smoothing and self.loss == "mart"):
            raise ValueError(
                f"label_smoothing: expected a share in [0, 1), 0 for mart, got {smoothing} with "
                f"{self.loss}; 0.1 is usual"
            )


WITH_LOSSES = ("below", "range", "above", "random")  # masks that compare losses with c_min


@dataclass(frozen=True)
class WeightPerturbation:
    """Which weights are perturbed, how far, how often, on which examples and where to.

    Attributes:
        gamma: length of v relative to the weights; 0 perturbs nothing.
        num_weight_steps: ascent steps (the paper's K2); 0 perturbs nothing.
        norm_scope: what is gamma * ||w|| long: "layer", every tensor of v by itself; "model",
            v as one vector.
        mask: the examples whose loss is raised. "all"; "below": loss < c_min; "range":
            c_min <= loss < c_max; "above": loss >= c_min; "random": as many as are below
            c_min, drawn at random. Or a function of the losses (batch,) in nats and the
            generator, to booleans (batch,).
        c_min: loss in nats, for every mask but "all" and functions.
        c_max: loss in nats, for "range".
        c_min_quantile: in the place of c_min: the loss that this share of the batch is below,
            at the unperturbed weights; in (0, 1).
        c_max_quantile: in the place of c_max, likewise.
        tensors: what is perturbed: "kernels" of convolutions and linear layers; also scales and
            shifts of normalization ("kernels_and_norms"); "all" that is trained.
        layers: the first and the last layer to perturb, both included; layers are numbered from
            0 as the model lists their kernels, -1 is the last. None: all of them.
        depth_profile: factors of the strength at equal distances from the first to the last of
            these layers, linear in between. With the scope "layer" they scale gamma; with
            "model" they weigh the layers, and v as a whole is as long as ever. Empty: one.
        length: what gamma is. "relative": ||v|| = gamma * ||w||; "absolute": ||v|| = gamma.
        direction: where v points: up the "gradient", or in a "random" direction, by normal noise.

    Raises:
        ValueError: a number out of its range, or one missing or given in vain.
    """

    gamma: float
    num_weight_steps: int
    norm_scope: NormScope
    mask: Mask | Callable[[Any, Any], Any]
    c_min: float | None = None
    c_max: float | None = None
    c_min_quantile: float | None = None
    c_max_quantile: float | None = None
    tensors: Tensors = "kernels"
    layers: tuple[int, int] | None = None
    depth_profile: tuple[float, ...] = ()
    length: Length = "relative"
    direction: Direction = "gradient"

    def __post_init__(self) -> None:
        check_choice("norm_scope", self.norm_scope, get_args(NormScope))
        if not callable(self.mask):
            check_choice("mask", self.mask, get_args(Mask))
        check_choice("tensors", self.tensors, get_args(Tensors))
        check_choice("length", self.length, get_args(Length))
        check_choice("direction", self.direction, get_args(Direction))
        self._check_gamma()
        self._check_depth()
        self._check_threshold("c_min", needed=self.mask in WITH_LOSSES)
        self._check_threshold("c_max", needed=self.mask == "range")
        for low, high in ((self.c_min, self.c_max), (self.c_min_quantile, self.c_max_quantile)):
            if low is not None and high is not None and high <= low:
                raise ValueError(f"c_max: expected more than c_min {low}, got {high}; swap them")

    def _check_gamma(self) -> None:
        if self.length == "absolute" and not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(
                f"gamma: expected a length >= 0, got {self.gamma}; SAM's usual one is 0.05"
            )
        if self.length == "relative" and not 0 <= self.gamma < 1:
            raise ValueError(
                f"gamma: expected a share of the weights' norm in [0, 1), got {self.gamma}; "
                "the published ones are 0.01 and 0.005"
            )
        check_count("num_weight_steps", self.num_weight_steps, least=0)

    def _check_depth(self) -> None:
        if self.layers is not None:
            first, last = self.layers
            if (first < 0) == (last < 0) and last < first:
                raise ValueError(
                    f"layers: expected the first and the last layer, got {list(self.layers)}; "
                    "swap them"
                )
        profile = self.depth_profile
        if any(not math.isfinite(f) or f < 0 for f in profile) or (profile and not any(profile)):
            raise ValueError(
                f"depth_profile: expected factors >= 0, one of them above 0, got {list(profile)}; "
                "[1, 0] perturbs the first layer most and the last not at all"
            )

    def depth_factors(self, num_layers: int) -> list[float]:
        """The factor of each of so many perturbed layers: `depth_profile`, linear in between.

        Raises:
            ValueError: all are 0.
        """
        profile = self.depth_profile or (1.0,)
        factors = []
        for layer in range(num_layers):
            position = layer * (len(profile) - 1) / max(num_layers - 1, 1)
            low = min(int(position), len(profile) - 1)
            high = min(low + 1, len(profile) - 1)
            factors.append(profile[low] + (position - low) * (profile[high] - profile[low]))
        if factors and not any(factors):
            raise ValueError(
                f"depth_profile: expected a factor above 0 at one of the {num_layers} perturbed "
                f"layers, got {list(profile)}, which is 0 at all of them; change profile or layers"
            )
        return factors

    def _check_threshold(self, name: str, *, needed: bool) -> None:
        value, quantile = getattr(self, name), getattr(self, f"{name}_quantile")
        if quantile is not None:
            if value is not None or not needed:
                other = f"{name} {value}" if value is not None else f"the mask {self.mask!r}"
                raise ValueError(
                    f"{name}_quantile: expected none beside {other}, got {quantile}; remove it"
                )
            if not 0 < quantile < 1:
                raise ValueError(
                    f"{name}_quantile: expected a share of the batch in (0, 1), got {quantile}; "
                    "0.5 is the median"
                )
            return
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
    def sam(cls, *, rho: float) -> "WeightPerturbation":
        """SAM (Foret et al., 2021): one step of length rho on all that is trained, as one vector.

        SAM steps its optimizer at w, not at w + v: `step_at: original` of a training.
        """
        return cls(
            gamma=rho,
            num_weight_steps=1,
            norm_scope="model",
            mask="all",
            tensors="all",
            length="absolute",
        )
