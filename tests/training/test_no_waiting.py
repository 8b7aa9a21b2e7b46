"""A whole training step reads nothing back from its device: on `meta`, where there is no value to
read, every recipe of Table 2 takes its steps under both threat models.

Loading, augmentation, attack, weight steps, outer pass, optimizer, tally and moving average are
those of a training; what is read once an epoch is read after the last step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rwp.core.objectives import ExampleLosses
from rwp.pipeline.settings import Params
from rwp.training.jobs import input_paths, prepare
from rwp.training.loop import Training
from tests.training.conftest import spec_of

TABLE2 = [
    f"{objective}{perturbation}"
    for objective in ("at", "trades", "rst")
    for perturbation in ("", "-awp", "-rwp")
]
BEYOND = ["natural", "at-ema", "mine"]


def on(device: str, params: Params, recipe: str, threat: str, root: Path) -> Training:
    """A training in its second epoch, in which weights are perturbed."""
    spec = spec_of(params, recipe, threat)
    training, _ = prepare(spec, input_paths(spec, root), torch.device(device))
    training.model.train()
    training.progress.epoch = 1
    return training


class Copies(TorchDispatchMode):
    """Sizes of the tensors that leave the CPU, in numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = next((value for value in args if isinstance(value, Tensor)), None)
        if given is not None and isinstance(result, Tensor) and "_to_copy" in str(func):
            left = (given.device.type, result.device.type) == ("cpu", "meta")
            self.sizes += [given.numel()] if left else []
        return result


@pytest.mark.parametrize("threat", ["linf", "l2"])
@pytest.mark.parametrize("recipe", [*TABLE2, *BEYOND])
def test_no_step_waits_for_its_device(
    recipe: str, threat: str, all_recipes: Params, shared_root: Path
) -> None:
    training = on("meta", all_recipes, recipe, threat, shared_root)
    plan = training.batches.plan(1)
    with Copies() as copies:
        for indices in (plan[0], plan[-1]):  # the last one may be short
            training._step_in_precision(indices)
    assert all(value.device.type == "meta" for value in training.tally.sums.values())
    assert all(p.device.type == "meta" for p in training.measured.parameters())
    # What goes to the device in a step: indices, crops, angles, and the noise of the start, which
    # a GPU draws itself.
    assert len(copies.sizes) <= 2 * 6
    with pytest.raises((RuntimeError, NotImplementedError)):
        training.tally.row()  # at the end of an epoch


def test_a_step_that_reads_is_noticed(all_recipes: Params, shared_root: Path) -> None:
    """Or the test above would show nothing."""
    training = on("meta", all_recipes, "at", "linf", shared_root)
    losses = training.objective.losses

    def reading(*arguments: Any) -> ExampleLosses:
        found = losses(*arguments)
        if found.objective.mean() > 1e9:
            raise AssertionError
        return found

    object.__setattr__(training.objective, "losses", reading)
    with pytest.raises((RuntimeError, NotImplementedError)):
        training._step_in_precision(training.batches.plan(1)[0])


@pytest.mark.parametrize("recipe", TABLE2)
def test_the_cpu_stops_early_and_a_device_counts_the_same(
    recipe: str, all_recipes: Params, shared_root: Path
) -> None:
    """How many steps a perturbation took is counted where it happened, and read with the row."""
    training = on("cpu", all_recipes, recipe, "linf", shared_root)
    for indices in training.batches.plan(1)[:2]:
        training._step_in_precision(indices)
    row = training.tally.row()
    expected = {"": 0.0, "awp": 1.0, "rwp": 2.0}[recipe.partition("-")[2]]
    assert row["weight_steps"] == expected
