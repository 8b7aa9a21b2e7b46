"""Losses and groups of losses, against their definitions."""

import math

import pytest
import torch
from tests.core.helpers import BATCH_SIZE, NUM_CLASSES, generator

from rwp.core import (
    cross_entropy,
    kl_divergence,
    make_objective,
    margin_loss,
    mart_loss,
    trades_loss,
    zero_masked_margin_loss,
)
from rwp.core.losses import full_precision
from rwp.core.lsc import keep_high_loss, loss_groups


@pytest.mark.parametrize(("name", "order"), [("trades", [1, 0]), ("mart", [0, 1])])
def test_the_passes_come_in_the_published_order(name, order):
    """Running statistics end nearer to those of the later pass: 0 is the clean one."""
    seen = []
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, NUM_CLASSES))
    layers.register_forward_pre_hook(lambda _, given: seen.append(float(given[0].mean())))
    clean, labels = torch.zeros(4, 3, 2, 2), torch.tensor([0, 1, 2, 3])
    make_objective(name, beta=6.0).losses(layers, clean, clean + 1, labels)
    assert seen == order


@pytest.fixture
def logits():
    shape = (BATCH_SIZE, NUM_CLASSES)
    return [torch.randn(shape, generator=generator(i), dtype=torch.float64) for i in (1, 2)]


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 1, 2, 0, 1])


def test_against_their_definitions(logits, labels):
    clean, adversarial = logits
    p, q = clean.softmax(1), adversarial.softmax(1)
    for i, label in enumerate(labels.tolist()):
        divergence = sum(p[i, c] * math.log(p[i, c] / q[i, c]) for c in range(NUM_CLASSES))
        wrong = [c for c in range(NUM_CLASSES) if c != label]
        margin = max(clean[i, c] for c in wrong) - clean[i, label]
        boosted = -math.log(q[i, label]) - math.log(1 - max(q[i, c] for c in wrong))
        expected = {
            "ce": (cross_entropy(clean, labels), -math.log(p[i, label])),
            "kl": (kl_divergence(clean, adversarial), divergence),
            "trades": (
                trades_loss(clean, adversarial, labels, beta=6.0),
                -math.log(p[i, label]) + 6 * divergence,
            ),
            "mart": (
                mart_loss(clean, adversarial, labels, beta=5.0),
                boosted + 5 * divergence * (1 - p[i, label]),
            ),
            "margin": (margin_loss(clean, labels, kappa=0.2), min(margin, 0.2)),
            "zero-masked": (
                zero_masked_margin_loss(clean, labels, kappa=9.0),
                max(0, *(clean[i, c] for c in wrong)) - clean[i, label],
            ),
            "zero-masked, capped": (
                zero_masked_margin_loss(clean, labels, kappa=0.2),
                min(max(0, *(clean[i, c] for c in wrong)) - clean[i, label], 0.2),
            ),
        }
        for name, (found, value) in expected.items():
            assert found.shape == (BATCH_SIZE,), name
            assert float(found[i]) == pytest.approx(float(value)), name


def test_margin_is_positive_where_misclassified(logits, labels):
    fooled = logits[0].argmax(1) != labels
    assert fooled.any()
    assert not fooled.all()
    assert torch.equal(margin_loss(logits[0], labels, kappa=math.inf) > 0, fooled)


def test_beyond_kappa_an_attack_has_no_gradient(logits, labels):
    clean = logits[0].requires_grad_()
    losses = margin_loss(clean, labels, kappa=0.0)
    (gradient,) = torch.autograd.grad(losses.sum(), clean)
    fooled = clean.argmax(1) != labels
    assert torch.equal(gradient.abs().sum(1) == 0, fooled)


def test_gradients_of_the_divergence_flow_into_both(logits):
    clean, adversarial = (x.requires_grad_() for x in logits)
    for gradient in torch.autograd.grad(
        kl_divergence(clean, adversarial).sum(), (clean, adversarial)
    ):
        assert (gradient.abs().sum(1) > 0).all()


def test_finite_on_extreme_logits(labels):
    extreme = torch.full((BATCH_SIZE, NUM_CLASSES), -200.0)
    extreme[:, 0] = 200.0
    extreme.requires_grad_()
    flat = torch.zeros_like(extreme)
    for losses in (
        trades_loss(extreme, flat, labels, beta=6.0),
        trades_loss(flat, extreme, labels, beta=6.0),
        mart_loss(extreme, extreme, labels, beta=6.0),
    ):
        (gradient,) = torch.autograd.grad(losses.sum(), extreme, retain_graph=True)
        assert losses.isfinite().all()
        assert gradient.isfinite().all()


def test_a_network_that_is_surely_wrong_costs_marts_margin_its_floor():
    """-log(1 - p) of the largest wrong probability, with 1 - p no less than the arithmetic's."""
    logits = torch.tensor([[200.0, 0.0, 0.0]])
    found = mart_loss(logits, logits, torch.tensor([1]), beta=0.0)
    assert float(found) == pytest.approx(200 - math.log(torch.finfo(torch.float32).eps))


def test_full_precision():
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert full_precision(torch.zeros(2, 3, dtype=dtype)).dtype == torch.float32
    assert full_precision(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_loss_groups_are_half_open():
    losses = torch.tensor([-0.1, 0.0, 0.49, 0.5, 1.0, 1.49, 1.5, torch.nan, torch.inf])
    groups = loss_groups(losses, [0.0, 0.5, 1.0, 1.5])
    assert groups.tolist() == [-1, 0, 0, 1, 2, 2, -1, -1, -1]


def test_removed_examples_count_in_the_divisor():
    losses = torch.tensor([0.5, 1.5, 2.5, 1.4])
    weights = keep_high_loss(losses, threshold=1.5)
    assert weights.tolist() == [0, 1, 1, 0]
    assert (weights * losses).mean() == 1.0
