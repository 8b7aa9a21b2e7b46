"""A borrowed model comes back as it was: modes, buffers, gradients, `requires_grad`."""

import pytest
import torch
from tests.core.helpers import closure, differences, generator, portrait
from torch import nn

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    batch_norm_mode,
    cw,
    evaluation_mode,
    fgsm,
    frozen_weights,
    kl_attack,
    perturb_weights,
    pgd,
    shifted_weights,
    untracked_statistics,
)
from rwp.core.landscape import filter_normalized_direction, weight_loss_landscape
from rwp.core.modes import repeated_statistics

THREAT = ThreatModel("linf", 0.05)
SCHEDULE = {"threat": THREAT, "step_size": 0.02, "num_steps": 3}


def _run_pgd(model, batch):
    pgd(model, *batch[::2], generator=generator(), bn_mode="train", **SCHEDULE)


def _run_worst_of_restarts(model, batch):
    pgd(model, *batch[::2], generator=generator(), keep="worst", num_restarts=2, **SCHEDULE)


def _run_fgsm(model, batch):
    fgsm(model, *batch[::2], threat=THREAT)


def _run_cw(model, batch):
    cw(model, *batch[::2], kappa=1.0, generator=generator(), **SCHEDULE)


def _run_kl(model, batch):
    kl_attack(model, *batch[::2], generator=generator(), bn_mode="train", **SCHEDULE)


def _run_awp(model, batch):
    perturb_weights(model, closure(model, batch), WeightPerturbation.awp(gamma=0.1))


def _run_rwp(model, batch):
    perturbation = WeightPerturbation.rwp(gamma=0.1, c_min=1e9, num_weight_steps=3)
    perturb_weights(model, closure(model, batch, "trades", beta=2.0), perturbation)


def _run_landscape(model, batch):
    weight_loss_landscape(
        model,
        *batch[::2],
        groups=torch.zeros_like(batch.labels),
        num_groups=1,
        direction=filter_normalized_direction(model, generator=generator()),
        scales=[-0.5, 0.0, 0.5],
        batch_size=4,
    )


RUNS = [
    _run_pgd,
    _run_worst_of_restarts,
    _run_fgsm,
    _run_cw,
    _run_kl,
    _run_awp,
    _run_rwp,
    _run_landscape,
]
EVERY_RUN = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__.removeprefix("_run_"))


@pytest.fixture
def odd_network(network, batch):
    """Gradients present, a layer frozen, normalizations in eval mode and without statistics."""
    network(batch.images).sum().backward()
    network.layer1[0].conv1.weight.requires_grad_(False)
    network.layer2[0].bn1.eval()
    network.bn.track_running_stats = False
    return network


@EVERY_RUN
def test_left_as_found(odd_network, batch, run):
    before = portrait(odd_network)
    run(odd_network, batch)
    assert differences(before, portrait(odd_network)) == []


@EVERY_RUN
def test_instance_normalization_is_left_as_found(batch, run):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4, track_running_stats=True)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    model.to(batch.images.dtype)
    model[1].running_mean.add_(1.0)
    before = portrait(model)
    run(model, batch)
    assert differences(before, portrait(model)) == []


def test_instance_normalization_uses_its_running_statistics_in_eval_mode(batch):
    model = nn.InstanceNorm2d(3, track_running_stats=True, dtype=batch.images.dtype)
    model.running_var.fill_(4.0)
    expected = model.eval()(batch.images)
    with batch_norm_mode(model.train(), "eval"):
        assert torch.equal(model(batch.images), expected)
    with batch_norm_mode(model, "train"):
        assert not torch.equal(model(batch.images), expected)
    assert model.running_var.tolist() == [4.0] * 3


ONE_FORWARD_PASS = (_run_fgsm, _run_awp)


@pytest.mark.parametrize(
    ("run", "failing_call"),
    [(run, 1) for run in RUNS] + [(run, 2) for run in RUNS if run not in ONE_FORWARD_PASS],
)
def test_left_as_found_after_an_exception(odd_network, batch, run, failing_call):
    before = portrait(odd_network)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == failing_call:
            raise KeyboardInterrupt

    # The last module, so that every running statistic before it has been written.
    handle = odd_network.linear.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(odd_network, batch)
    handle.remove()
    assert differences(before, portrait(odd_network)) == []


@pytest.mark.parametrize(
    "borrow",
    [
        frozen_weights,
        untracked_statistics,
        evaluation_mode,
        lambda model: batch_norm_mode(model, "train"),
        lambda model: batch_norm_mode(model, "eval"),
        lambda model: repeated_statistics(model.eval(), 2),
    ],
)
def test_context_managers_restore_after_an_exception(odd_network, borrow):
    odd_network.eval()
    before = portrait(odd_network)
    with pytest.raises(RuntimeError, match="inside"), borrow(odd_network):
        raise RuntimeError("inside")
    assert differences(before, portrait(odd_network)) == []


def test_shifted_weights_subtracts_after_an_exception(network):
    offset = {"conv1.weight": torch.full_like(network.conv1.weight, 0.25)}
    before = network.conv1.weight.detach().clone()
    with shifted_weights(network, offset):
        torch.testing.assert_close(network.conv1.weight, before + 0.25)
    with pytest.raises(RuntimeError, match="inside"), shifted_weights(network, offset):
        raise RuntimeError("inside")
    torch.testing.assert_close(network.conv1.weight, before, rtol=0, atol=1e-15)


def test_what_happens_inside_the_borrowing(network):
    with frozen_weights(network):
        assert not any(parameter.requires_grad for parameter in network.parameters())
    with batch_norm_mode(network, "eval"):
        assert not any(module.training for module in network.modules())
    with untracked_statistics(network):
        layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert layers
        assert not any(layer.track_running_stats for layer in layers)


def test_repeated_statistics_equal_repeated_passes(network, batch):
    start = {k: v.clone() for k, v in network.state_dict().items()}
    with torch.no_grad():
        network(batch.images)
        network(batch.images)
        twice = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(start)
        with repeated_statistics(network, 2):
            network(batch.images)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, twice[name], rtol=1e-13, atol=1e-15)
    assert network.bn.num_batches_tracked == 2


def test_repeated_statistics_need_a_momentum(network):
    network.bn.momentum = None
    with (
        pytest.raises(ValueError, match="expected a momentum, got None"),
        repeated_statistics(network, 2),
    ):
        pass
    with repeated_statistics(network, 1):
        pass


def test_batch_statistics_without_writing_running_ones(network, batch):
    network.eval()
    with torch.no_grad():
        running = network(batch.images)
        with batch_norm_mode(network, "train"):
            of_the_batch = network(batch.images)
        network.train()
        tracked = network(batch.images)
    assert not torch.equal(running, of_the_batch)
    assert torch.equal(of_the_batch, tracked)


class CenteredByHand(nn.Module):
    """A normalization of one's own, whose running mean is written in place or made anew."""

    def __init__(self, rebinds: bool) -> None:
        super().__init__()
        self.rebinds = rebinds
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, images):
        if self.training:
            new = 0.9 * self.mean + 0.1 * images.detach().mean().to(self.mean)
            if self.rebinds:
                self.mean, self.count = new, self.count + 1
            else:
                self.mean.copy_(new)
                self.count.add_(1)
        return images - self.mean.to(images)


@pytest.mark.parametrize("rebinds", [False, True])
def test_only_the_outer_pass_counts_in_statistics_of_ones_own(network, batch, rebinds):
    layer = CenteredByHand(rebinds)
    model = nn.Sequential(layer, network).train()
    mean, count = layer.mean, layer.count
    pgd(model, *batch[::2], bn_mode="train", generator=generator(), **SCHEDULE)
    losses = closure(model, batch)
    perturb_weights(model, losses, WeightPerturbation.awp(gamma=0.01))
    assert layer.mean is mean
    assert layer.count is count
    assert (float(mean), int(count)) == (0.0, 0)
    losses().objective.mean().backward()
    assert int(layer.count) == 1
    pgd(model, *batch[::2], bn_mode="train_counted", generator=generator(), **SCHEDULE)
    assert int(layer.count) == 1 + 4  # the published attack counts each of its passes


class NormOfAnotherForward(nn.BatchNorm2d):
    """A subclass that updates its running mean whatever `track_running_stats` says."""

    def forward(self, images):
        return nn.functional.batch_norm(
            images, self.running_mean, self.running_var, None, None, self.training, 0.1
        )


def test_a_norm_with_a_forward_of_its_own_is_not_counted_either(network, batch):
    layer = NormOfAnotherForward(3).to(batch.images.dtype)
    pgd(
        nn.Sequential(layer, network).train(),
        *batch[::2],
        bn_mode="train",
        generator=generator(),
        **SCHEDULE,
    )
    assert torch.equal(layer.running_mean, torch.zeros_like(layer.running_mean))


class Shifted(nn.Module):
    """An expanded buffer, as broadcasting once and for all makes it."""

    def __init__(self, images) -> None:
        super().__init__()
        mean = torch.full((1, 1, 1), 0.5, dtype=images.dtype)
        self.register_buffer("mean", mean.expand(images.shape[1:]))

    def forward(self, images):
        return images - self.mean


def test_an_expanded_buffer_is_no_obstacle(network, batch):
    model = nn.Sequential(Shifted(batch.images), network)
    found = pgd(model, *batch[::2], generator=generator(), **SCHEDULE)
    assert not torch.equal(found, batch.images)
    assert torch.equal(model[0].mean, Shifted(batch.images).mean)


class Scaled(nn.Module):
    """Divides by a buffer that it has written before."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1, dtype=torch.float64))

    def forward(self, images):
        self.scale.mul_(2.0)
        return images / self.scale


def test_a_graph_that_needs_the_other_value_is_noticed():
    """A gradient with the restored value would be another one, without a word."""
    model, given = Scaled(), torch.ones(1, dtype=torch.float64, requires_grad=True)
    with untracked_statistics(model):
        answer = model(given)
    assert float(model.scale) == 1.0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        answer.sum().backward()
