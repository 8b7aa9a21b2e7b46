"""Several processes train one network to what one process makes of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwp import processes
from rwp.core import (
    ALONE,
    ExampleLosses,
    Group,
    WeightPerturbation,
    average_statistics,
    normalize_together,
    perturb_weights,
)
from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.training import jobs
from rwp.training.jobs import Interrupted, input_paths, prepare, train_run
from rwp.training.loop import Training
from rwp.training.spec import TrainSpec
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of
from tests.training.outcomes import rows, weights
from tests.training.ranks import Several, run_ranks


def images_and_labels(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 2, 5, 5, generator=generator, dtype=torch.float64)
    return images, torch.arange(count) % 3


def network(*, norm: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 3),
    ]
    return nn.Sequential(*layers).double()


def found(group: Group, perturbation: WeightPerturbation) -> dict[str, Any]:
    """What a weight perturbation finds on this process's share of one batch."""
    model = network(norm=False)
    images, labels = (group.part(rows) for rows in images_and_labels())

    def losses() -> ExampleLosses:
        logits = model(images)
        each = F.cross_entropy(logits, labels, reduction="none")
        return ExampleLosses(each, each.detach(), logits)

    generator = torch.Generator().manual_seed(3)
    result = perturb_weights(model, losses, perturbation, generator=generator, group=group)
    diagnostics = result.diagnostics
    return {
        "offset": result.offset,
        "fractions": diagnostics.mask_fractions,
        "passes": (diagnostics.forward_passes, diagnostics.backward_passes, diagnostics.steps),
    }


PERTURBATIONS = [
    WeightPerturbation.awp(gamma=0.2),
    WeightPerturbation.rwp(gamma=0.5, c_min=1.05, num_weight_steps=10),  # runs empty on the way
    WeightPerturbation(0.2, 3, "layer", "random", c_min=1.05),
    WeightPerturbation.rwp(gamma=0.2, c_min=0.0, num_weight_steps=10),  # empty at once
    WeightPerturbation(0.2, 2, "layer", lambda losses, _: losses < losses.median()),
    WeightPerturbation(0.2, 2, "model", "below", c_min_quantile=0.4),  # of all losses together
]


def all_found(group: Group) -> list[dict[str, Any]]:
    return [found(group, perturbation) for perturbation in PERTURBATIONS]


def test_the_perturbation_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    alone = all_found(ALONE)
    ranks = run_ranks(all_found, 2, tmp_path / "meeting")
    steps = [len(one["fractions"]) for one in alone]
    assert steps[0] == 1
    assert 2 < steps[1] < 11
    assert alone[1]["fractions"][-1] == 0
    assert alone[3]["passes"] == (1, 0, 0)
    for index, one in enumerate(alone):
        for rank in ranks:
            assert rank[index]["fractions"] == one["fractions"]
            assert rank[index]["passes"] == one["passes"]
            torch.testing.assert_close(rank[index]["offset"], one["offset"])
        first, second = (rank[index]["offset"] for rank in ranks)
        assert all(torch.equal(first[name], second[name]) for name in first)


def normalized(group: Group, *, together: bool) -> dict[str, Tensor]:
    """A pass through batch normalization, its gradients and its running statistics."""
    model = network(norm=True).train()
    if together:
        model = normalize_together(model, group)
    images, labels = images_and_labels()
    images.requires_grad_()
    logits = model(group.part(images))
    F.cross_entropy(logits, group.part(labels), reduction="sum").backward()
    group.add_up_([images.grad])  # a process knows the gradient of its own images alone
    group.add_up_([parameter.grad for parameter in model.parameters()])
    average_statistics(model, group)
    gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    return model.state_dict() | gradients | {"images": images.grad}


def normalized_together(group: Group) -> dict[str, Tensor]:
    return normalized(group, together=True)


def normalized_apart(group: Group) -> dict[str, Tensor]:
    return normalized(group, together=False)


def test_batch_statistics_of_the_whole_batch(tmp_path: Path) -> None:
    alone = normalized(ALONE, together=True)
    for rank in run_ranks(normalized_together, 3, tmp_path / "meeting"):
        assert rank.keys() == alone.keys()
        torch.testing.assert_close(rank, alone, rtol=1e-10, atol=1e-12)


def test_batch_statistics_of_the_shares_are_averaged(tmp_path: Path) -> None:
    images, _ = images_and_labels()
    hidden = network(norm=True)[0](images)
    shares = [hidden[rank::2].transpose(0, 1).flatten(1) for rank in range(2)]
    mean = sum(0.1 * share.mean(1) for share in shares) / 2
    variance = sum(0.9 + 0.1 * share.var(1) for share in shares) / 2
    for rank in run_ranks(normalized_apart, 2, tmp_path / "meeting"):
        torch.testing.assert_close(rank["1.running_mean"], mean.detach())
        torch.testing.assert_close(rank["1.running_var"], variance.detach())


def train(group: Group, text: str, root: Path, output: Path, norm: bool, exact: bool) -> None:
    """One training; on a network without batch normalization, or with weights of 64 bits."""
    build = jobs.new_network

    def changed(description: dict[str, Any]) -> nn.Module:
        model = build(description)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.BatchNorm2d) and not norm:
                model.set_submodule(name, nn.Identity())
        if exact:
            model.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
        return model

    spec = TrainSpec.parse(text, where="test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "new_network", changed)
        train_run(spec, root=root, fingerprint=output.name, output=output, group=group)


def outcome(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    return weights(folder / "last.pt"), rows(folder)


def compared(
    params: Params, setting: tuple[str, str], root: Path, tmp_path: Path, *how: bool
) -> float:
    """The largest difference between the weights of one process and those of two."""
    text = spec_of(params, *setting).canonical()
    train(ALONE, text, root, tmp_path / "alone", *how)
    run_ranks(train, 2, tmp_path / "meeting", text, root, tmp_path / "together", *how)
    (weights, rows), (other_weights, other_rows) = map(
        outcome, (tmp_path / "alone", tmp_path / "together")
    )
    assert [sorted(row) for row in rows] == [sorted(row) for row in other_rows]
    for row, other in zip(rows, other_rows, strict=True):
        assert {key: pytest.approx(row[key], abs=1e-4) for key in row} == other
    assert weights.keys() == other_weights.keys()
    differences = [weights[name].double() - other_weights[name] for name in weights]
    return max(float(difference.abs().max()) for difference in differences)


@pytest.fixture(scope="session")
def brief(committed: dict[str, Any]) -> Params:
    """Two epochs of four steps; the second is perturbed."""
    content = tiny_settings(committed)
    content["suites"]["demo"]["training"] |= {"epochs": 2, "batch_size": 256, "decay_epochs": []}
    content["suites"]["demo"]["figures"]["fig2"]["epochs"] = [2]
    return check_params(content)


@pytest.mark.parametrize("norm", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_training_in_two_processes_is_that_of_one(
    norm: bool, shared_root: Path, tmp_path: Path, brief: Params
) -> None:
    assert compared(brief, ("at-rwp", "linf"), shared_root, tmp_path, norm, False) < 1e-5


# With 64 bits: a rounding error that turns the sign of one pixel's gradient is felt sooner or
# later, in TRADES (which starts where gradients are smallest) after a few steps of 32 bits.
@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [("at-awp", "l2"), ("at-rwp", "linf"), ("trades-rwp", "linf"), ("rst-rwp", "linf")]
)
def test_but_for_rounding_it_is_the_same(
    setting: tuple[str, str], shared_root: Path, tmp_path: Path, brief: Params
) -> None:
    difference = compared(brief, setting, shared_root, tmp_path, True, True)
    assert difference < 1e-12


def train_until(
    group: Group, text: str, root: Path, output: Path, stop_at: int, told: int
) -> tuple[int, int]:
    """Train until process `told` gets SIGTERM in a step; where the training then stands."""
    steps, original = [], Training._step

    def step(self: Training, indices: Any) -> None:
        steps.append((self.progress.epoch, self.progress.step))
        if len(steps) == stop_at and group.rank == told:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, indices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_step", step)
        with pytest.raises(Interrupted):
            train(group, text, root, output, True, False)
    return steps[-1]


def test_stopped_and_resumed_by_another_number_of_processes(
    shared_root: Path, tmp_path: Path, brief: Params
) -> None:
    text = spec_of(brief, "at-rwp").canonical()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(ALONE, text, shared_root, whole, True, False)
    assert train_until(ALONE, text, shared_root, parts, 3, 0) == (0, 2)
    two = run_ranks(train_until, 2, tmp_path / "meeting", text, shared_root, parts, 3, 1)
    assert two == [(1, 1)] * 2  # both left after the step in which one was told
    assert not (parts / "last.pt").exists()
    train(ALONE, text, shared_root, parts, True, False)
    (weights, rows), (other_weights, other_rows) = outcome(whole), outcome(parts)
    torch.testing.assert_close(other_weights, weights, rtol=0, atol=1e-5)
    for row, other in zip(rows, other_rows, strict=True):
        assert {key: pytest.approx(row[key], abs=1e-5) for key in row} == other


@pytest.mark.parametrize(
    ("size", "compiled", "message"),
    [
        (100, "off", "expected at most 85 processes, as many as the smallest batch has images"),
        (2, "graphs", "expected training.compile off with several GPUs, got graphs"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    size: int, compiled: str, message: str, shared_root: Path, brief: Params
) -> None:
    spec = spec_of(brief, "at")
    optimization = spec.optimization.replace(compile=compiled)
    spec = spec.replace(optimization=optimization)
    with pytest.raises(UserError, match=message):
        prepare(spec, input_paths(spec, shared_root), torch.device("cpu"), Several(size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"WORLD_SIZE": "abc"},
            "WORLD_SIZE: expected what torchrun sets .*, got 'abc'; unset RANK",
        ),
        ({"RANK": "x"}, "RANK: expected what torchrun sets .*, got 'x'"),
        ({"RANK": "2"}, r"RANK: expected a number below WORLD_SIZE \(2\), got 2"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR: expected what torchrun sets .*, got ''"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR: expected what torchrun sets .*, got nothing; unset"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT: expected what torchrun sets .*, got 'http'"),
    ],
)
def test_variables_that_a_scheduler_left_are_one_line(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], message: str
) -> None:
    usual = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (usual | {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}).items():
        monkeypatch.setenv(name, value)
    assert processes.launched()
    for name, new in changes.items():
        monkeypatch.delenv(name) if new is None else monkeypatch.setenv(name, new)
    with pytest.raises(UserError, match=message):
        processes.launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert not processes.launched()
