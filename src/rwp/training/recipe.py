"""A recipe as objects: the objective that is minimized, the weight perturbation that is climbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from rwp.core.objectives import (
    AdversarialTraining,
    NaturalTraining,
    Objective,
    make_objective,
)
from rwp.core.settings import Loss
from rwp.core.weight_perturbation import (
    PerturbedWeights,
    WeightPerturbation,
    perturb_weights,
    something_to_perturb,
)
from rwp.core.weights import depth_factors
from rwp.errors import UserError
from rwp.factories import is_own
from rwp.training.own import OwnMask, OwnObjective, OwnPerturbation
from rwp.training.spec import TrainSpec


def has_own_code(spec: TrainSpec) -> bool:
    """Whether the user's own code takes part in a step."""
    own: list[str | None] = [spec.architecture.family, spec.objective.loss]
    own += [spec.perturbation.mask, spec.perturbation.factory] if spec.perturbation else []
    return any(map(is_own, own))


def memory_format_of(spec: TrainSpec, device: torch.device) -> torch.memory_format:
    """How images and kernels lie in memory: on a GPU as its convolutions are fastest.

    The user's own code gets what it gets on a CPU: `view` refuses the other, and kernels of three
    dimensions have no such layout.
    """
    fastest = device.type == "cuda" and not has_own_code(spec)
    return torch.channels_last if fastest else torch.contiguous_format


def objective_of(spec: TrainSpec, num_classes: int) -> Objective:
    """What is minimized, with the attack that belongs to it."""
    settings = spec.objective
    if is_own(settings.loss):
        return OwnObjective(
            settings.loss,
            settings.options,
            criterion=settings.criterion,
            random_start=spec.attack.random_start if spec.attack else None,
            num_classes=num_classes,
        )
    return make_objective(
        cast(Loss, settings.loss),
        beta=settings.beta,
        criterion=settings.criterion,
        clean_updates=settings.clean_updates if settings.loss == "trades" else None,
        random_start=spec.attack.random_start if spec.attack else None,
        label_smoothing=settings.label_smoothing,
    )


def climbed_of(spec: TrainSpec, objective: Objective) -> Objective:
    """The losses that the weight perturbation raises: those of training, or a cross-entropy."""
    climbs = "objective" if spec.perturbation is None else spec.perturbation.climbs
    if climbs == "objective":
        return objective
    return NaturalTraining() if climbs == "clean_ce" else AdversarialTraining("none")


def weight_perturbation_of(spec: TrainSpec, model: nn.Module) -> WeightPerturbation | None:
    """How weights are perturbed, if they are.

    Raises:
        UserError: the network has nothing of what is to be perturbed, or by a factor of 0 alone.
    """
    settings = spec.perturbation
    if settings is None:
        return None
    try:
        named = something_to_perturb(model, settings.options)
        depth_factors(model, list(named), settings.options)
    except ValueError as error:
        raise UserError(f"{spec.key.name}: {settings.name}: {error}") from error
    if is_own(settings.mask):
        return replace(settings.options, mask=OwnMask(settings.mask, settings.own_options))
    return settings.options


def perturb_of(spec: TrainSpec) -> Callable[..., PerturbedWeights]:
    """What perturbs weights: `rwp.core.perturb_weights`, or what the user has in its place."""
    settings = spec.perturbation
    if settings is None or settings.factory is None:
        return perturb_weights
    return OwnPerturbation(settings.factory, settings.own_options)
