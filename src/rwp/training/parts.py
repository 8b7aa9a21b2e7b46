"""The parts that a spec puts together: objective, perturbation, optimizer."""

from __future__ import annotations

import torch
from torch import nn

from rwp.core.group import Group
from rwp.core.objectives import (
    AdversarialTraining,
    NaturalTraining,
    Objective,
    make_objective,
)
from rwp.core.weight_perturbation import WeightPerturbation, something_to_perturb
from rwp.errors import UserError
from rwp.training.batches import Batches
from rwp.training.spec import TrainSpec


def check_group(spec: TrainSpec, batches: Batches, group: Group) -> None:
    """Refuse what several processes cannot do.

    Raises:
        UserError: a batch has fewer images than there are processes; a compiled network.
    """
    if group.size == 1:
        return
    smallest = batches.smallest()
    if smallest < group.size:
        raise UserError(
            f"{spec.key.name}: expected at most {smallest} processes, as many as the smallest batch"
            f" has images, got {group.size}; use fewer GPUs"
        )
    if spec.optimization.compile != "off":
        raise UserError(
            f"{spec.key.name}: expected training.compile off with several GPUs, got"
            f" {spec.optimization.compile}; turn one of them off"
        )


def check_same_weights(model: nn.Module, group: Group, *, name: str) -> None:
    """Make sure that the processes have not drifted apart: one of them writes for all.

    The check sum is one of integers, the same in whatever order a device adds them up.

    Raises:
        UserError: the weights differ.
    """
    if group.size == 1:
        return
    floats = [parameter.detach() for parameter in model.parameters()]
    total = sum(int(values.view(torch.int32).sum(dtype=torch.int64)) for values in floats)
    if (group.largest(total), group.largest(-total)) != (total, -total):
        raise UserError(
            f"{name}: expected the same weights in all {group.size} processes, got different ones;"
            f" do all run the same version? if so, one of the devices computes wrongly"
        )


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


def optimizer_of(spec: TrainSpec, model: nn.Module) -> torch.optim.SGD:
    """SGD on all parameters; weight decay counts for all of them, as published."""
    settings = spec.optimization
    return torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def selection_keys(spec: TrainSpec) -> dict[str, str]:
    """The measurement that chooses each checkpoint; the test split's only where it is measured."""
    accuracy = "clean_accuracy" if spec.monitor is None else "robust_accuracy"
    keys = {"best": f"{spec.selection}_{accuracy}"}
    return keys | ({"best_on_test": f"test_{accuracy}"} if spec.test_curve else {})
