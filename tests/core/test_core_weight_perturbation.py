"""The weight perturbation: presets, masks, norms, what it costs and what it reports."""

import copy
from collections.abc import Callable

import pytest
import torch
from tests.core.helpers import (
    BATCH_SIZE,
    closure,
    generator,
    small_network,
)

from rwp.core import (
    WeightPerturbation,
    adversarial_weight_perturbation,
    make_objective,
    perturb_weights,
    robust_weight_perturbation,
    shifted_weights,
)
from rwp.core.mask import select
from rwp.core.objectives import ExampleLosses
from rwp.core.weights import perturbed_tensors


def test_raw_gradients_are_summed_over_the_steps(network, batch):
    """Two steps by hand: the second gradient is taken at w + v of the first."""
    losses = closure(network, batch)
    names = list(perturbed_tensors(network))
    weights = list(perturbed_tensors(network).values())
    total = torch.cat([w.detach().flatten() for w in weights]).norm()
    raw = torch.autograd.grad(losses().objective.mean(), weights)
    first = [0.1 * total / torch.cat([g.flatten() for g in raw]).norm() * g for g in raw]
    with shifted_weights(network, dict(zip(names, first, strict=True))):
        second = torch.autograd.grad(losses().objective.mean(), weights)
    raw = [a + b for a, b in zip(raw, second, strict=True)]
    expected = [0.1 * total / torch.cat([g.flatten() for g in raw]).norm() * g for g in raw]
    found = robust_weight_perturbation(network, losses, gamma=0.1, c_min=1e9, num_steps=2)
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(found.offset[name], value)


def test_awp_is_one_layer_scoped_unmasked_step(network, batch):
    losses = closure(network, batch)
    preset = adversarial_weight_perturbation(network, losses, gamma=0.02)
    options = WeightPerturbation(gamma=0.02, num_weight_steps=1, norm_scope="layer", mask="all")
    spelled = perturb_weights(network, losses, options)
    covers_all = WeightPerturbation(
        gamma=0.02, num_weight_steps=1, norm_scope="layer", mask="below", c_min=1e9
    )
    masked = perturb_weights(network, losses, covers_all)
    for name, value in preset.offset.items():
        assert torch.equal(value, spelled.offset[name])
        torch.testing.assert_close(value, masked.offset[name])


def test_weights_in_float16_are_refused(batch):
    """Lengths overflow there, and the offset is NaN."""
    network = small_network(torch.float32).half()
    with pytest.raises(ValueError, match=r"expected weights of 32 bits, got torch\.float16"):
        adversarial_weight_perturbation(network, closure(network, batch), gamma=0.02)


def test_too_few_bits_are_refused(batch):
    network = small_network(torch.float32).bfloat16()
    with pytest.raises(ValueError, match=r"32 bits, got torch\.bfloat16, in which a perturbation"):
        adversarial_weight_perturbation(network, closure(network, batch), gamma=0.02)
    network = small_network(torch.float32)
    rounded = torch.autocast("cpu", torch.float16)
    with (
        rounded,
        pytest.raises(ValueError, match=r"got autocast to torch\.float16, in which small"),
    ):
        adversarial_weight_perturbation(network, closure(network, batch), gamma=0.02)


@pytest.mark.wrong_type
def test_what_a_notebook_mistakes_is_told(network, batch):
    def reduced():
        return closure(network, batch)().objective.mean()

    with pytest.raises(ValueError, match=r"expected ExampleLosses, .* got Tensor; return Example"):
        adversarial_weight_perturbation(network, reduced, gamma=0.02)
    found = adversarial_weight_perturbation(network, closure(network, batch), gamma=0.02)
    wrong = shifted_weights(network, found)
    with pytest.raises(ValueError, match=r"got PerturbedWeights; .* pass `\.offset`"), wrong:
        pass


def test_presets():
    assert WeightPerturbation.none().perturbs_nothing
    rwp = WeightPerturbation.rwp(gamma=0.01, c_min=1.5, num_weight_steps=10)
    assert (rwp.norm_scope, rwp.mask) == ("model", "below")


@pytest.mark.parametrize("zero", [{"gamma": 0.0}, {"num_weight_steps": 0}])
def test_no_perturbation_runs_nothing(network, zero):
    options = {"gamma": 0.1, "num_weight_steps": 1, "norm_scope": "layer", "mask": "all"}
    found = perturb_weights(network, pytest.fail, WeightPerturbation(**options | zero))
    assert found.offset == {}
    assert (found.diagnostics.steps, found.diagnostics.norm_ratio) == (0, 0.0)
    assert (found.diagnostics.forward_passes, found.diagnostics.backward_passes) == (0, 0)
    assert found.diagnostics.mask_fractions == ()


@pytest.mark.parametrize(
    ("mask", "bounds"),
    [
        ("below", {"c_min": 1.4}),
        ("above", {"c_min": 1.4}),
        ("range", {"c_min": 1.2, "c_max": 1.5}),
        ("random", {"c_min": 1.4}),
        ("all", {}),
    ],
)
def test_masks_select_by_the_criterion(mask, bounds):
    losses = torch.tensor([0.0, 1.2, 1.39, 1.4, 1.5, 3.0, torch.nan])
    expected = {
        "below": [1, 1, 1, 0, 0, 0, 0],
        "above": [0, 0, 0, 1, 1, 1, 0],
        "range": [0, 1, 1, 1, 0, 0, 0],
        "all": [1] * 7,
    }
    perturbation = WeightPerturbation(
        gamma=0.1, num_weight_steps=1, norm_scope="model", mask=mask, **bounds
    )
    found = select(losses, perturbation, generator())
    if mask == "random":
        draws = torch.stack([select(losses, perturbation, generator(seed)) for seed in range(99)])
        assert (draws.sum(dim=1) == 3).all()
        assert (draws.float().mean(dim=0) > 0.2).all()
    else:
        assert found.int().tolist() == expected[mask]


def test_an_empty_mask_costs_one_pass_and_changes_nothing(network, batch):
    outer = small_network()
    expected = closure(outer, batch)().objective.mean()
    expected.backward()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    found = robust_weight_perturbation(
        network, closure(network, batch), gamma=0.1, c_min=0.0, num_steps=10
    )
    assert found.offset == {}
    assert len(calls) == 1
    diagnostics = found.diagnostics
    assert (diagnostics.forward_passes, diagnostics.backward_passes) == (1, 0)
    assert (diagnostics.steps, diagnostics.mask_fractions) == (0, (0.0,))
    with shifted_weights(network, found.offset):
        closure(network, batch)().objective.mean().backward()
    for (name, ours), theirs in zip(network.named_parameters(), outer.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(network.named_buffers(), outer.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_running_statistics_are_those_of_the_outer_pass_alone(network, batch):
    losses = closure(network, batch)
    found = robust_weight_perturbation(network, losses, gamma=0.1, c_min=1e9, num_steps=3)
    assert network.bn.num_batches_tracked == 0
    with shifted_weights(network, found.offset):
        losses()
    assert network.bn.num_batches_tracked == 1


def test_stops_where_the_mask_runs_empty(network, batch):
    losses = closure(network, batch)
    c_min = float(losses().criterion.min()) + 1e-3
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    found = robust_weight_perturbation(network, losses, gamma=0.3, c_min=c_min, num_steps=10)
    diagnostics = found.diagnostics
    assert diagnostics.mask_fractions == (1 / BATCH_SIZE, 0.0)
    assert (diagnostics.steps, len(calls)) == (1, 2)
    assert (diagnostics.forward_passes, diagnostics.backward_passes) == (2, 1)
    assert found.offset


def test_diagnostics(network, batch):
    losses = closure(network, batch)
    before = losses().objective.mean().item()
    found = adversarial_weight_perturbation(network, losses, gamma=0.05)
    with shifted_weights(network, found.offset):
        assert losses().objective.mean().item() > before
    told = found.diagnostics
    assert told.mask_fractions == (1.0,)
    ratios = told.layer_norm_ratios
    assert ratios.keys() == perturbed_tensors(network).keys()
    assert list(ratios.values()) == pytest.approx([0.05] * len(ratios))
    assert told.norm_ratio == pytest.approx(0.05)


def test_weights_that_start_at_zero_are_not_moved_and_no_divergence(network, batch):
    with torch.no_grad():
        network.linear.weight.zero_()
    options = {"gamma": 0.1, "num_weight_steps": 1, "norm_scope": "layer", "mask": "all"}
    alone = WeightPerturbation(**options, layers=(-1, -1))
    found = perturb_weights(network, closure(network, batch), alone)
    assert found.diagnostics.norm_ratio == 0.0
    assert found.diagnostics.layer_norm_ratios == {"linear.weight": 0.0}
    absolute = WeightPerturbation(**options, layers=(-1, -1), length="absolute")
    found = perturb_weights(network, closure(network, batch), absolute)
    assert found.offset["linear.weight"].any()
    assert found.diagnostics.norm_ratio == 0.0


def test_scales_of_several_dimensions_are_no_kernels():
    norms = torch.nn.LayerNorm([4, 8, 8]), torch.nn.RMSNorm([4, 8, 8])
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), *norms)
    assert list(perturbed_tensors(model)) == ["0.weight"]
    assert "1.weight" in perturbed_tensors(model, "kernels_and_norms")
    assert list(perturbed_tensors(model, layers=(-1, -1))) == ["0.weight"]


def test_only_trainable_kernels_are_perturbed(network):
    network.conv1.weight.requires_grad_(False)
    names = perturbed_tensors(network)
    assert "conv1.weight" not in names
    assert "linear.weight" in names
    assert not any("bn" in name or "bias" in name for name in names)


def test_a_dead_block_counts_in_the_norm_and_does_not_move(network, batch):
    network.add_module("sub_block1", torch.nn.Conv2d(1, 1, 3).double())
    found = robust_weight_perturbation(
        network, closure(network, batch), gamma=0.1, c_min=1e9, num_steps=2
    )
    assert not found.offset["sub_block1.weight"].any()
    assert found.diagnostics.norm_ratio == pytest.approx(0.1)


def test_natural_objective_is_perturbed_too(network, batch):
    objective = make_objective("natural")

    def losses():
        return objective.losses(network, batch.images, batch.images, batch.labels)

    assert adversarial_weight_perturbation(network, losses, gamma=0.1).offset


ONE_EACH = "expected an objective and a criterion per example"
SHAPES: dict[str, tuple[Callable[[ExampleLosses], ExampleLosses], str]] = {
    "columns": (lambda found: found._replace(objective=found.objective[:, None]), ONE_EACH),
    "a criterion in a column": (
        lambda found: found._replace(criterion=found.criterion[:, None]),
        ONE_EACH,
    ),
    "one criterion": (lambda found: found._replace(criterion=found.criterion[:1]), ONE_EACH),
    "a mean": (lambda found: found._replace(objective=found.objective.mean()), ONE_EACH),
    "a mask for a criterion": (
        lambda found: found._replace(criterion=found.criterion < 1.2),
        "expected numbers of a floating type",
    ),
    "detached": (
        lambda found: found._replace(objective=found.objective.detach()),
        "expected losses that depend on the model's weights",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_losses_of_other_shapes_are_refused(network, batch, name):
    """They were broadcast against the mask: a perturbation of other examples, without a word."""
    change, message = SHAPES[name]
    losses = closure(network, batch)
    with pytest.raises(ValueError, match=message):
        robust_weight_perturbation(
            network, lambda: change(losses()), gamma=0.1, c_min=1e9, num_steps=2
        )


def test_losses_of_another_model_are_refused(network, batch):
    losses = closure(copy.deepcopy(network), batch)
    with pytest.raises(ValueError, match="run this very model, no copy"):
        adversarial_weight_perturbation(network, losses, gamma=0.1)


@pytest.mark.parametrize(
    "mask",
    [
        lambda losses, generator: (losses < 9)[:, None],
        lambda losses, generator: (losses < 9)[:1],
        lambda losses, generator: (losses < 9).all(),
        lambda losses, generator: losses,
    ],
    ids=["column", "one", "scalar", "numbers"],
)
def test_masks_of_other_shapes_are_refused(network, batch, mask):
    options = WeightPerturbation(gamma=0.1, num_weight_steps=2, norm_scope="model", mask=mask)
    with pytest.raises(ValueError, match=r"mask: expected booleans \(\d+,\), one per example"):
        perturb_weights(network, closure(network, batch), options)


def test_a_batch_that_passes_by_the_perturbed_layers_moves_nothing(network, batch):
    """As stochastic depth may let it; the other layers have their gradients."""
    first, *others = perturbed_tensors(network)
    weights = dict(network.named_parameters())

    def losses():
        value = weights[others[-1]].square().sum() * torch.ones(BATCH_SIZE, dtype=torch.float64)
        return ExampleLosses(value, value.detach(), value[:, None])

    options = WeightPerturbation(
        gamma=0.1, num_weight_steps=1, norm_scope="layer", mask="all", layers=(0, 0)
    )
    found = perturb_weights(network, losses, options)
    assert list(found.offset) == [first]
    assert not any(value.any() for value in found.offset.values())
