"""The FLOPs and rates of a training are those it had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode

from rwp.core import build_network
from rwp.pipeline.settings import Params
from rwp.training.flops import Work, forward_flops, summary
from rwp.training.jobs import input_paths, prepare
from tests.training.conftest import spec_of


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        ("preact_resnet", {"blocks": (1, 2), "width": 4}),
        ("wide_resnet", {"depth": 10, "widen_factor": 1}),
    ],
)
def test_forward_flops(family: str, shape: dict[str, object]) -> None:
    network = build_network(family, num_classes=7, in_channels=3, mean=None, std=None, **shape)
    images = torch.zeros(2, 3, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    assert forward_flops(network, images) == counter.get_total_flops() / 2
    assert network.training


@pytest.mark.parametrize(
    ("recipe", "epoch"), [("natural", 0), ("at", 0), ("at-rwp", 1), ("trades-awp", 1)]
)
def test_the_flops_of_a_step(recipe: str, epoch: int, shared_root: Path, tiny: Params) -> None:
    spec = spec_of(tiny, recipe)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    training.model.train()
    training.progress.epoch = epoch
    plan = training.batches.plan(epoch)
    counter = FlopCounterMode(display=False)
    with _FlopCounterMode(counter):  # without the sums per module, which autograd.grad rules out
        training._step(plan[0])
    # The first layer passes no gradient on to images that are not attacked, and TRADES looks at
    # the clean images once more.
    assert training.progress.work.flops == pytest.approx(counter.get_total_flops(), rel=0.06), (
        counter.get_total_flops()
    )


def test_summary_counts_epochs_by_their_time() -> None:
    rates = {"images_per_second": 100.0, "flops_per_second": 1e9, "loading_share": 0.1}
    first = {"seconds": 1.0, "peak_memory": 7} | rates
    second = {"seconds": 3.0, "peak_memory": 5} | {name: 2 * rate for name, rate in rates.items()}
    found = summary([first, second])
    assert found["images_per_second"] == 175.0
    assert found["flops_per_second"] == 1.75e9
    assert found["loading_share"] == pytest.approx(0.175)
    assert found["peak_memory"] == 7


def test_the_rates_of_an_epoch_are_its_own(shared_root: Path, tiny: Params) -> None:
    spec = spec_of(tiny, "at")
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    training.progress.work = Work(seconds=4.0, loading_seconds=1.0, flops=8e9)
    training.tally.sums["images"] += 100
    row = training.finish_epoch()
    rates = ("seconds", "images_per_second", "flops_per_second", "loading_share")
    assert [row[name] for name in rates] == [4.0, 25.0, 2e9, 0.25]
    assert training.progress.work == Work()
