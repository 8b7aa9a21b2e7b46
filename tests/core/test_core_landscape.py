"""Random directions of the weights, and the loss along them."""

import pytest
import torch
from tests.core.helpers import generator

from rwp.core.landscape import (
    _group_means,
    filter_normalized_direction,
    weight_loss_landscape,
)
from rwp.core.losses import cross_entropy
from rwp.core.weights import perturbed_tensors


def test_every_filter_of_the_direction_is_as_long_as_the_networks(network):
    direction = filter_normalized_direction(network, generator=generator())
    weights = perturbed_tensors(network)
    assert direction.keys() == weights.keys()
    for name, weight in weights.items():
        lengths = [t.detach().flatten(1).norm(dim=1) for t in (direction[name], weight)]
        assert len(lengths[0]) > 1
        torch.testing.assert_close(lengths[0], lengths[1], msg=name)


def test_the_direction_is_random_and_follows_its_seed(network):
    first, again, other = (
        filter_normalized_direction(network, generator=generator(seed)) for seed in (0, 0, 1)
    )
    for name, weight in perturbed_tensors(network).items():
        assert torch.equal(first[name], again[name])
        weight = weight.detach()
        for one, another in ((first[name], other[name]), (first[name], weight)):
            cosine = torch.cosine_similarity(one.flatten(), another.flatten(), dim=0)
            assert abs(cosine) < 0.5, name
    signs = torch.cat([value.sign().flatten() for value in first.values()])
    assert abs(signs.mean()) < 0.15


def test_the_landscape_is_the_mean_loss_of_each_group_at_each_scale(network, batch):
    """By hand: eval mode, weights at w + scale * d, groups that are empty or left out."""
    network(batch.images)  # running statistics that differ from those of a new network
    direction = filter_normalized_direction(network, generator=generator())
    groups, scales = torch.tensor([0, 2, 0, -1, 2, 0]), [-0.5, 0.0, 0.25, 1.0]
    found = weight_loss_landscape(
        network,
        batch.images,
        batch.labels,
        groups,
        num_groups=3,
        direction=direction,
        scales=scales,
        batch_size=4,
    )
    assert found.shape == (4, 3)
    weights = perturbed_tensors(network)
    originals = {name: weight.detach().clone() for name, weight in weights.items()}
    network.eval()
    for row, scale in zip(found, scales, strict=True):
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(originals[name] + scale * direction[name])
            losses = cross_entropy(network(batch.images), batch.labels)
        assert float(row[0]) == pytest.approx(float(losses[[0, 2, 5]].mean()))
        assert row[1].isnan()
        assert float(row[2]) == pytest.approx(float(losses[[1, 4]].mean()))
    assert len({round(float(value), 6) for value in found[:, 0]}) == 4


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("group", [2, -1])
def test_a_loss_that_is_not_finite_spoils_its_own_group_alone(value, group):
    """Infinity times the zero of another group is NaN."""
    losses = torch.tensor([1.0, 2.0, 4.0, value])
    found = _group_means(losses, torch.tensor([0, 0, 1, group]), 3)
    assert found[:2].tolist() == [1.5, 4.0]
    assert found[2].isnan() if group == -1 or value != value else found[2] == torch.inf


@pytest.mark.parametrize("frozen", ["all", "conv1"])
def test_frozen_kernels_move_too(network, frozen):
    """Without them the landscape of a frozen network was flat, without a word."""
    expected = filter_normalized_direction(network, generator=generator())
    (network if frozen == "all" else getattr(network, frozen)).requires_grad_(False)
    found = filter_normalized_direction(network, generator=generator())
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_a_network_without_kernels_has_no_landscape():
    with pytest.raises(ValueError, match="expected kernels"):
        filter_normalized_direction(torch.nn.BatchNorm2d(3), generator=generator())
