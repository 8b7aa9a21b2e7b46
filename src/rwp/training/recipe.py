"""A recipe as objects: the objective that is minimized, the weight perturbation that is climbed."""

from __future__ import annotations

from torch import nn

from rwp.core.objectives import (
    AdversarialTraining,
    NaturalTraining,
    Objective,
    make_objective,
)
from rwp.core.weight_perturbation import WeightPerturbation, something_to_perturb
from rwp.errors import UserError
from rwp.training.spec import TrainSpec


def objective_of(spec: TrainSpec) -> Objective:
    """What is minimized, with the attack that belongs to it."""
    settings = spec.objective
    return make_objective(
        settings.loss,
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
        UserError: the network has nothing of what is to be perturbed.
    """
    if spec.perturbation is None:
        return None
    try:
        something_to_perturb(model, spec.perturbation.options)
    except ValueError as error:
        raise UserError(f"{spec.key.name}: {spec.perturbation.name}: {error}") from error
    return spec.perturbation.options
