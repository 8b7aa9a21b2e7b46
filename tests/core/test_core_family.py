"""The family around AWP and RWP: SAM by steps written apart, tensors, depth, quantiles, noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.core.helpers import BATCH_SIZE, closure, generator, small_batch, small_network
from torch import Tensor, nn
from torch.nn import functional

from rwp.core import WeightPerturbation, build_network, perturb_weights, shifted_weights
from rwp.core.mask import loss_bounds, select
from rwp.core.process_group import Group
from rwp.core.weights import depth_factors, layer_numbers, perturbed_tensors
from rwp.training.spec import PreActResNetSpec, WideResNetSpec

MODEL: dict[str, Any] = {"gamma": 0.1, "num_weight_steps": 1, "norm_scope": "model", "mask": "all"}


def options(**changes: Any) -> WeightPerturbation:
    return WeightPerturbation(**MODEL | changes)


def lengths(offset: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.norm()) for name, value in offset.items()}


class Sam:
    """Algorithm 1 of Foret et al. (2021) with SGD, momentum and weight decay, from its text alone.

    It shares no line with `rwp.core`: parameters are read, moved and stepped here.
    """

    def __init__(self, model: nn.Module, rho: float, rate: float, momentum: float, decay: float):
        self.model, self.rho, self.rate = model, rho, rate
        self.momentum, self.decay = momentum, decay
        self.buffers: list[Tensor | None] = [None for _ in model.parameters()]

    def step(self, images: Tensor, labels: Tensor) -> None:
        weights = list(self.model.parameters())
        before = [weight.detach().clone() for weight in weights]
        gradient = self.gradient(images, labels)
        size = torch.sqrt(sum((part**2).sum() for part in gradient))
        with torch.no_grad():
            for weight, part in zip(weights, gradient, strict=True):
                weight.add_(self.rho * part / size)  # w + epsilon-hat, Eq. 2
        gradient = self.gradient(images, labels)
        with torch.no_grad():
            for place, (weight, old) in enumerate(zip(weights, before, strict=True)):
                push = gradient[place] + self.decay * old
                last = self.buffers[place]
                self.buffers[place] = push if last is None else self.momentum * last + push
                weight.copy_(old - self.rate * self.buffers[place])

    def gradient(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        loss = functional.cross_entropy(self.model(images), labels)
        return list(torch.autograd.grad(loss, list(self.model.parameters())))


def test_sam_is_a_setting_of_this_family():
    """Step by step in float64, against SAM as its paper has it."""
    ours, theirs = small_network(), small_network()
    sam = Sam(theirs, rho=0.05, rate=0.1, momentum=0.9, decay=5e-3)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-3)
    perturbation = WeightPerturbation.sam(rho=0.05)
    for number in range(5):
        batch = small_batch(seed=number)
        losses = closure(ours, batch, "natural")
        found = perturb_weights(ours, losses, perturbation)
        assert found.offset.keys() == dict(ours.named_parameters()).keys()
        optimizer.zero_grad()
        with shifted_weights(ours, found.offset):
            losses().objective.mean().backward()
        optimizer.step()
        sam.step(batch.images, batch.labels)
        for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(weight, other, rtol=0, atol=1e-12, msg=name)


def test_absolute_length(network, batch):
    for scope, expected in (("model", 0.3), ("layer", None)):
        perturbation = options(gamma=0.3, length="absolute", norm_scope=scope)
        offset = perturb_weights(network, closure(network, batch), perturbation).offset
        found = list(lengths(offset).values())
        if expected is None:
            assert found == pytest.approx([0.3] * len(found))
        else:
            assert torch.tensor(found).norm() == pytest.approx(expected)
    assert options(gamma=3.0, length="absolute").gamma == 3
    with pytest.raises(ValueError, match=r"gamma: expected a share of the weights' norm in \[0, 1"):
        options(gamma=3.0)


def test_which_tensors(network):
    kernels, norms, everything = (
        set(perturbed_tensors(network, tensors))
        for tensors in ("kernels", "kernels_and_norms", "all")
    )
    assert kernels < norms < everything == set(dict(network.named_parameters()))
    assert {name for name in norms - kernels if "bn" not in name} == set()
    assert everything - norms == {"linear.bias"}
    network.linear.bias.requires_grad_(False)
    assert "linear.bias" not in perturbed_tensors(network, "all")


def test_which_layers(network):
    names = list(perturbed_tensors(network))
    for layers, expected in {
        (0, 0): names[:1],
        (1, 2): names[1:3],
        (-2, -1): names[-2:],
        (2, -1): names[2:],
        (0, len(names) - 1): names,
    }.items():
        assert list(perturbed_tensors(network, "kernels", layers)) == expected
    last = perturbed_tensors(network, "all", (-1, -1))
    assert set(last) == {"linear.weight", "linear.bias"}
    parts = [set(perturbed_tensors(network, "all", (i, i))) for i in range(len(names))]
    assert set.union(*parts) == set(dict(network.named_parameters()))
    assert sum(map(len, parts)) == len(list(network.parameters()))


@pytest.mark.parametrize("layers", [(0, 99), (-99, -1)])
def test_a_layer_that_is_not_there(layers, network, batch):
    with pytest.raises(ValueError, match=r"layers: expected numbers from -7 to 6, as the netw"):
        perturb_weights(network, closure(network, batch), options(layers=layers))


def test_only_the_chosen_layers_move_and_by_their_own_norm(network, batch):
    offset = perturb_weights(network, closure(network, batch), options(layers=(-1, -1))).offset
    assert lengths(offset) == pytest.approx(
        {"linear.weight": 0.1 * float(network.linear.weight.detach().norm())}
    )


@pytest.mark.parametrize(
    "spec",
    [
        PreActResNetSpec(family="preact_resnet", blocks=(2, 2, 2, 2), width=4),
        PreActResNetSpec(family="preact_resnet", blocks=(1, 1), width=8),
        PreActResNetSpec(family="preact_resnet", blocks=(3,), width=4),
        WideResNetSpec(family="wide_resnet", depth=10, widen_factor=2),
        WideResNetSpec(family="wide_resnet", depth=16, widen_factor=1),
    ],
)
def test_the_number_of_layers_is_known_from_the_settings(spec):
    shape = spec.document()
    network = build_network(
        shape.pop("family"), num_classes=3, in_channels=1, mean=None, std=None, **shape
    )
    assert max(layer_numbers(network).values()) + 1 == spec.num_layers


def test_strength_along_the_depth(network, batch):
    losses = closure(network, batch)
    names = list(perturbed_tensors(network))

    def factors(*profile, of=names):
        return depth_factors(network, of, options(depth_profile=profile))

    assert factors() == [1.0] * 7
    assert factors(1.0, 0.0)[::2] == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert factors(0.0, 1.0, 0.0)[2:5] == pytest.approx([2 / 3, 1, 2 / 3])
    each = [0.5, 1.0, 2.0, 0.0, 1.0, 3.0, 1.5]
    assert factors(*each) == each
    assert factors(2.0, 5.0, of=names[3:4]) == [2.0]  # a single layer is the first
    with pytest.raises(ValueError, match="a factor above 0 at one of the 1 perturbed layers, got"):
        factors(0.0, 5.0, of=names[3:4])

    per_layer = options(norm_scope="layer", depth_profile=tuple(each))
    told = perturb_weights(network, losses, per_layer).diagnostics
    assert list(told.layer_norm_ratios.values()) == pytest.approx([0.1 * f for f in each])

    plain = perturb_weights(network, losses, options())
    weighed = perturb_weights(network, losses, options(depth_profile=tuple(each)))
    assert weighed.diagnostics.norm_ratio == pytest.approx(plain.diagnostics.norm_ratio) == 0.1
    first = names[0]
    for name, factor in zip(names, each, strict=True):
        share = weighed.offset[name].norm() / weighed.offset[first].norm()
        plainly = plain.offset[name].norm() / plain.offset[first].norm()
        assert float(share) == pytest.approx(float(plainly * factor / each[0]))


def test_biases_and_norms_are_as_strong_as_their_layer(network):
    names = list(perturbed_tensors(network, "all"))
    factors = dict(
        zip(names, depth_factors(network, names, options(depth_profile=(1.0, 0.0))), strict=True)
    )
    assert factors["linear.weight"] == factors["linear.bias"] == 0
    assert factors["conv1.weight"] == 1


@pytest.mark.parametrize(("quantile", "count"), [(0.01, 1), (0.5, 3), (0.51, 4), (0.99, 6)])
def test_a_quantile_selects_a_share_of_the_batch(quantile, count):
    losses = torch.tensor([3.0, 0.1, 2.0, 0.3, 7.0, 1.0])
    below = select(losses, options(mask="below", c_min_quantile=quantile), None)
    assert below.sum() == count
    assert losses[below].max() <= losses.sort().values[count - 1]
    above = select(losses, options(mask="above", c_min_quantile=quantile), None)
    assert torch.equal(above, ~below)  # turned over
    drawn = select(losses, options(mask="random", c_min_quantile=quantile), generator())
    assert drawn.sum() == count


@pytest.mark.parametrize(
    ("quantile", "size", "count"), [(0.07, 100, 7), (0.28, 25, 7), (1 / 3, 6, 2)]
)
def test_a_quantile_is_the_one_that_is_written(quantile, size, count):
    """0.07 times 100 is a little more than 7 in floats, which is no reason to take 8."""
    losses = torch.rand(size, generator=generator())
    assert select(losses, options(mask="below", c_min_quantile=quantile), None).sum() == count


@pytest.mark.parametrize(
    ("quantile", "count"), [(0.1, 4), (0.5, 4), (2 / 3, 4), (0.8, 5), (1 / 6, 4)]
)
def test_equal_losses_at_a_quantile_are_all_taken(quantile, count):
    """Cross-entropy is exactly zero beyond a margin: a threshold of zero would select nobody.

    Nor would a denormal one, which a training on a CPU takes for zero.
    """
    losses = torch.tensor([3.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    for flushed in (False, True):
        torch.set_flush_denormal(flushed)
        try:
            below = select(losses, options(mask="below", c_min_quantile=quantile), None)
            above = select(losses, options(mask="above", c_min_quantile=quantile), None)
        finally:
            torch.set_flush_denormal(False)
        assert below.sum() == count
        assert torch.equal(above, ~below)


def test_a_range_of_quantiles():
    losses = torch.tensor([3.0, 0.1, 2.0, 0.3, 7.0, 1.0])
    perturbation = options(mask="range", c_min_quantile=1 / 3, c_max_quantile=2 / 3)
    assert losses[select(losses, perturbation, None)].sort().values.tolist() == [1.0, 2.0]
    mixed = options(mask="range", c_min=0.2, c_max_quantile=0.5)
    assert losses[select(losses, mixed, None)].sort().values.tolist() == pytest.approx([0.3, 1.0])


def test_a_quantile_needs_no_loss_scale_and_is_one_of_the_whole_batch():
    losses = torch.tensor([3.0, 0.1, 2.0, 0.3, 7.0, 1.0])
    perturbation = options(mask="below", c_min_quantile=0.5)
    assert torch.equal(
        select(losses, perturbation, None), select(losses * 1000, perturbation, None)
    )

    class Halves(Group):
        """Two processes, played one after the other."""

        size = 2

        def __init__(self, rank: int, wholes: list[Any]) -> None:
            self.rank, self.wholes = rank, wholes

        def total(self, value):
            self.wholes.append(value)
            return len(losses) if isinstance(value, int) else self.wholes[0] + value

    other = torch.zeros(6)
    other[0::2] = losses[0::2]
    (c_min, _) = loss_bounds(losses[1::2], perturbation, Halves(1, [other]))
    assert c_min == loss_bounds(losses, perturbation)[0]


def test_a_quantile_is_taken_at_the_unperturbed_weights(network, batch):
    """As c_min is: examples may leave the mask in later steps."""
    losses = closure(network, batch)
    q = options(gamma=0.3, num_weight_steps=10, mask="below", c_min_quantile=0.5)
    c_min = float(losses().criterion.sort().values[3])
    same = options(gamma=0.3, num_weight_steps=10, mask="below", c_min=c_min)
    ours, theirs = (perturb_weights(network, losses, p) for p in (q, same))
    assert ours.diagnostics.mask_fractions == theirs.diagnostics.mask_fractions
    assert ours.diagnostics.mask_fractions[0] == 0.5
    assert len(set(ours.diagnostics.mask_fractions)) > 1
    assert float(ours.diagnostics.c_min) == c_min
    assert all(torch.equal(ours.offset[name], theirs.offset[name]) for name in theirs.offset)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_random_direction_of_the_same_length(scope, network, batch):
    losses = closure(network, batch)
    up = perturb_weights(network, losses, options(norm_scope=scope))
    randomly = options(norm_scope=scope, direction="random")
    one, same, other = (
        perturb_weights(network, losses, randomly, generator=generator(seed)) for seed in (0, 0, 1)
    )
    assert one.diagnostics.norm_ratio == pytest.approx(up.diagnostics.norm_ratio)
    assert (one.diagnostics.forward_passes, one.diagnostics.backward_passes) == (1, 0)
    for name in one.offset:
        assert torch.equal(one.offset[name], same.offset[name])
        cosine = functional.cosine_similarity(
            one.offset[name].flatten(), other.offset[name].flatten(), dim=0
        )
        assert abs(float(cosine)) < 0.5


def test_a_random_direction_keeps_to_the_mask(network, batch):
    """v is zero in the same batches, so that the two differ in the direction alone."""
    nothing = options(direction="random", mask="below", c_min=0.0)
    found = perturb_weights(network, closure(network, batch), nothing, generator=generator())
    assert found.offset == {}
    assert found.diagnostics.mask_fractions == (0.0,)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": "below", "c_min_quantile": 0.5, "num_weight_steps": 3},
        {"mask": "range", "c_min_quantile": 0.2, "c_max_quantile": 0.9},
        {"mask": "random", "c_min_quantile": 0.2},
        {"direction": "random", "num_weight_steps": 2},
        {"tensors": "all", "length": "absolute", "gamma": 0.05},
        {"tensors": "kernels_and_norms", "layers": (1, -1), "depth_profile": (1.0, 0.5)},
        {"norm_scope": "layer", "depth_profile": (1.0, 0.0), "length": "absolute"},
    ],
)
def test_nothing_is_read_back_from_a_device(changes):
    network, batch = small_network(torch.float32).to("meta"), small_batch(torch.float32)
    batch = type(batch)(*(part.to("meta") for part in batch))
    found = perturb_weights(
        network, closure(network, batch), options(**changes), generator=generator()
    )
    assert found.offset
    assert all(value.device.type == "meta" for value in found.offset.values())


DEFAULTS = {"tensors": "kernels", "layers": (0, -1), "length": "relative", "direction": "gradient"}


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_defaults_spelled_out_change_no_bit(scope, network, batch):
    base: dict[str, Any] = {"mask": "below", "c_min": 1.4, "norm_scope": scope}
    plain = perturb_weights(network, closure(network, batch), options(**base, num_weight_steps=3))
    spelled = perturb_weights(
        network, closure(network, batch), options(**base, num_weight_steps=3, **DEFAULTS)
    )
    assert plain.offset
    assert all(torch.equal(plain.offset[name], spelled.offset[name]) for name in plain.offset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mask": "below", "c_min_quantile": 0.0},
            r"c_min_quantile: .* in \(0, 1\), got 0.0",
        ),
        ({"mask": "below", "c_min_quantile": 1.0}, r"c_min_quantile: expected a share .*, got 1.0"),
        ({"mask": "below", "c_min_quantile": -0.5}, r"c_min_quantile: .*, got -0.5"),
        ({"mask": "below", "c_min_quantile": float("nan")}, r"c_min_quantile: .*, got nan"),
        ({"mask": "below", "c_min": 1.0, "c_min_quantile": 0.5}, r"expected none beside c_min 1.0"),
        ({"c_min_quantile": 0.5}, r"expected none beside the mask 'all', got 0.5; remove it"),
        (
            {"mask": "range", "c_min_quantile": 0.5, "c_max_quantile": 0.4},
            r"c_max: expected more than c_min 0.5, got 0.4; swap them",
        ),
        ({"gamma": -1.0, "length": "absolute"}, r"gamma: expected a length >= 0, got -1.0"),
        ({"layers": (3, 1)}, r"layers: expected the first and the last layer, got \[3, 1\]; swap"),
        ({"layers": (-1, -3)}, r"layers: .* got \[-1, -3\]; swap"),
        ({"depth_profile": (0.0, 0.0)}, r"depth_profile: expected factors >= 0, one of them above"),
        ({"depth_profile": (1.0, -1.0)}, r"depth_profile: .*, got \[1.0, -1.0\]"),
    ],
)
def test_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


@pytest.mark.wrong_type
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": "biases"}, r"tensors: expected one of kernels, kernels_and_norms, all, got"),
        ({"direction": "down"}, r"direction: expected one of gradient, random, got 'down'"),
        ({"length": "long"}, r"length: expected one of relative, absolute, got 'long'"),
    ],
)
def test_a_word_that_is_none_of_those_known(changes, message):
    with pytest.raises(ValueError, match=message):
        options(**changes)


def test_layers_the_wrong_way_round_in_this_network(network, batch):
    with pytest.raises(ValueError, match=r"got \[6, -2\], which are 6 and 5 of the network"):
        perturb_weights(network, closure(network, batch), options(layers=(6, -2)))


def test_silu_and_relu_differ_in_the_activation_alone():
    def built(activation: str) -> nn.Module:
        torch.manual_seed(0)
        return build_network(
            "preact_resnet", num_classes=4, in_channels=3, mean=None, std=None,
            blocks=(1, 1), width=4, activation=activation,
        )  # fmt: skip

    relu, silu = built("relu"), built("silu")
    assert relu.state_dict().keys() == silu.state_dict().keys()
    images = torch.rand(BATCH_SIZE, 3, 8, 8)
    assert not torch.equal(relu(images), silu(images))
    block = silu.layer1[0]
    hidden = torch.randn(2, 4, 8, 8)
    activated = block.bn1(hidden) * block.bn1(hidden).sigmoid()
    expected = block.conv1(activated)
    expected = block.conv2(block.bn2(expected) * block.bn2(expected).sigmoid()) + hidden
    torch.testing.assert_close(block(hidden), expected)


@pytest.mark.wrong_type
def test_another_activation_is_refused():
    with pytest.raises(ValueError, match="activation: expected one of relu, silu, got 'gelu'"):
        build_network(
            "preact_resnet", num_classes=4, in_channels=3, mean=None, std=None, activation="gelu"
        )


def test_label_smoothing_is_the_mean_over_classes(network, batch):
    plain = closure(network, batch)()
    smoothed = closure(network, batch, label_smoothing=0.2, criterion="adversarial_ce")()
    uniform = -plain.logits.log_softmax(1).mean(1)
    torch.testing.assert_close(smoothed.objective, 0.8 * plain.objective + 0.2 * uniform)
    assert torch.equal(smoothed.criterion, plain.criterion)  # c_min stays one of the label's loss
    trades = closure(network, batch, "trades", beta=3.0, label_smoothing=0.2)()
    unsmoothed = closure(network, batch, "trades", beta=3.0)()
    clean = closure(network, batch, "natural")()
    clean_smoothed = closure(network, batch, "natural", label_smoothing=0.2)()
    torch.testing.assert_close(
        trades.objective - unsmoothed.objective, clean_smoothed.objective - clean.objective
    )
    options = {"label_smoothing": 0.2, "criterion": "adversarial_ce"}
    unsmoothed = closure(network, batch, "natural", **options)().criterion
    assert torch.equal(unsmoothed, clean.objective.detach())


def test_attacks_may_count_in_the_running_statistics_as_published():
    """A PGD of k steps passes k + 1 times, and the outer pass is one more: 4 of 5 here."""
    from rwp.core import ThreatModel, pgd

    network, batch = small_network(), small_batch()
    threat: dict[str, Any] = {"threat": ThreatModel("linf", 8 / 255), "step_size": 2 / 255}
    threat |= {"num_steps": 3, "check_inputs": False}
    plain = pgd(
        network, batch.images, batch.labels, bn_mode="train", generator=generator(), **threat
    )
    assert network.bn.num_batches_tracked == 0
    counted = pgd(
        network,
        batch.images,
        batch.labels,
        bn_mode="train_counted",
        generator=generator(),
        **threat,
    )
    assert torch.equal(plain, counted)  # batch statistics either way
    assert network.bn.num_batches_tracked == 4
    network(batch.images)
    assert network.bn.num_batches_tracked == 5


def test_the_start_of_trades_as_published_leaves_the_box():
    from rwp.core import ThreatModel
    from rwp.core.geometry import NormBall, random_point, starting_point

    images = torch.zeros(2, 3, 4, 4)
    images[1] = 1.0
    ball = NormBall(images, ThreatModel("linf", 8 / 255))
    published = random_point(ball, "gaussian_unclamped", generator())
    ours = random_point(ball, "gaussian", generator())
    assert published.min() < 0
    assert published.max() > 1
    assert torch.equal(published.clamp(0, 1), ours)
    draw = torch.randn(images.shape, generator=generator())
    torch.testing.assert_close(published, images + 0.001 * draw)
    assert torch.equal(starting_point(ball, "gaussian_unclamped", None, published), published)
    assert ball.contains(published).tolist() == [False, False]


def test_a_given_start_off_the_ball_is_only_put_into_the_box():
    from rwp.core import ThreatModel
    from rwp.core.geometry import NormBall, starting_point

    images = torch.rand(3, 3, 4, 4, generator=generator())
    given = images + torch.rand(images.shape, generator=generator(1)) - 0.5
    ball = NormBall(images, ThreatModel("l2", 0.5))
    assert torch.equal(starting_point(ball, "off_ball", None, given), given.clamp(0, 1))
    assert not ball.contains(given.clamp(0, 1)).any()
    assert torch.equal(starting_point(ball, "uniform", None, given), ball.project(given))


def test_our_own_attacks_refuse_the_l1_norm(network, batch):
    from rwp.core import ThreatModel, pgd

    with pytest.raises(ValueError, match="norm: expected linf or l2, got l1, which AutoAttack"):
        pgd(
            network.float(), batch.images.float(), batch.labels,
            threat=ThreatModel("l1", 12.0), step_size=1.0, num_steps=1, generator=generator(),
        )  # fmt: skip


def test_what_comes_before_the_first_kernel_belongs_to_it():
    layers = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten()
    model = nn.Sequential(*layers, nn.Linear(4, 2))
    assert list(layer_numbers(model).values()) == [0] * 6 + [1] * 2
    assert set(perturbed_tensors(model, "all")) == set(dict(model.named_parameters()))
    norms = perturbed_tensors(model, "kernels_and_norms").keys() - perturbed_tensors(model).keys()
    assert norms == {"0.weight", "0.bias", "2.weight", "2.bias"}
