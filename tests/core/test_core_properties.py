"""Invariants, for any input hypothesis comes up with."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from tests.core.helpers import closure, generator, small_batch, small_network
from torch import nn

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    cw,
    fgsm,
    kl_attack,
    make_objective,
    perturb_weights,
    pgd,
    robust_weight_perturbation,
    shifted_weights,
)
from rwp.core.geometry import NormBall, random_point
from rwp.core.lsc import keep_high_loss, loss_groups
from rwp.core.weights import perturbed_tensors

FEW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10_000)
THREATS = st.one_of(
    st.builds(ThreatModel, st.just("linf"), st.floats(1e-3, 0.5)),
    st.builds(ThreatModel, st.just("l2"), st.floats(1e-2, 3.0)),
)
STARTS = st.sampled_from(["uniform", "gaussian", "none", "off_ball"])


def problem(seed: int, dtype: torch.dtype):
    """A small random network and images that touch 0 and 1."""
    draw = generator(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).to(dtype)
    images = torch.rand(3, 1, 4, 4, dtype=dtype, generator=draw) * 1.6 - 0.3
    return model, images.clamp(0, 1), torch.randint(0, 4, (3,), generator=draw)


def assert_allowed(adversarial, images, threat):
    assert adversarial.dtype == images.dtype
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    delta = (adversarial - images).double().flatten(1)
    length = delta.abs().amax(1) if threat.norm == "linf" else delta.norm(dim=1)
    slack = 1e-6 if images.dtype == torch.float32 else 1e-12
    assert (length <= threat.epsilon + slack).all()


@FEW
@given(SEEDS, THREATS, STARTS, st.integers(1, 4), st.sampled_from(["last", "worst"]), st.booleans())
def test_pgd_stays_inside(seed, threat, random_start, num_steps, keep, double):
    model, images, labels = problem(seed, torch.float64 if double else torch.float32)
    found = pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=threat.epsilon * 0.7,
        num_steps=num_steps,
        generator=generator(seed),
        random_start=random_start,
        keep=keep,
    )
    assert_allowed(found, images, threat)


@FEW
@given(SEEDS, THREATS)
def test_the_other_attacks_stay_inside(seed, threat):
    model, images, labels = problem(seed, torch.float32)
    schedule = {"threat": threat, "step_size": threat.epsilon, "num_steps": 2}
    for found in (
        fgsm(model, images, labels, threat=threat),
        cw(model, images, labels, kappa=1.0, generator=generator(seed), **schedule),
        kl_attack(model, images, labels, generator=generator(seed), **schedule),
    ):
        assert_allowed(found, images, threat)


@FEW
@given(SEEDS, THREATS)
def test_projection_keeps_allowed_points_and_is_idempotent(seed, threat):
    _, images, _ = problem(seed, torch.float64)
    ball = NormBall(images, threat)
    wild = images + 3 * torch.randn(images.shape, dtype=images.dtype, generator=generator(seed))
    once = ball.project(wild)
    assert_allowed(once, images, threat)
    torch.testing.assert_close(ball.project(once), once, rtol=0, atol=1e-12)
    assert ball.contains(once).all()
    inside = random_point(ball, "uniform", generator(seed))
    torch.testing.assert_close(ball.project(inside), inside, rtol=0, atol=1e-12)


@FEW
@given(
    gamma=st.floats(1e-4, 0.5),
    steps=st.integers(1, 3),
    scope=st.sampled_from(["layer", "model"]),
    mask=st.sampled_from(["all", "below", "above", "range", "random"]),
    objective=st.sampled_from(["at", "trades", "mart"]),
)
def test_the_perturbation_is_gamma_times_the_weights_long(gamma, steps, scope, mask, objective):
    model, batch = small_network(), small_batch()
    losses = closure(model, batch, objective, **({} if objective == "at" else {"beta": 3.0}))
    middle = float(losses().criterion.median()) + 1e-9
    bounds = {} if mask == "all" else {"c_min": 0.0 if mask == "range" else middle}
    bounds |= {"c_max": middle} if mask == "range" else {}
    options = WeightPerturbation(
        gamma=gamma, num_weight_steps=steps, norm_scope=scope, mask=mask, **bounds
    )
    offset = perturb_weights(model, losses, options, generator=generator()).offset
    weights = {name: weight.detach() for name, weight in perturbed_tensors(model).items()}
    assert offset.keys() == weights.keys()
    if scope == "layer":
        for name, value in offset.items():
            torch.testing.assert_close(value.norm(), gamma * weights[name].norm())
    else:
        lengths = [
            torch.cat([v.flatten() for v in tensors.values()]).norm()
            for tensors in (offset, weights)
        ]
        torch.testing.assert_close(lengths[0], gamma * lengths[1])


@settings(max_examples=8, deadline=None)
@given(
    objective=st.sampled_from(["at", "trades", "mart"]),
    mask=st.sampled_from(["below", "random"]),
    scope=st.sampled_from(["layer", "model"]),
    steps=st.integers(1, 10),
)
def test_c_min_0_trains_exactly_as_without_perturbation(objective, mask, scope, steps):
    empty = WeightPerturbation(
        gamma=0.1, num_weight_steps=steps, norm_scope=scope, mask=mask, c_min=0.0
    )
    states = [train(objective, options) for options in (WeightPerturbation.none(), empty)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def train(name: str, perturbation: WeightPerturbation):
    """Three steps with a short attack; the final state."""
    model, batch = small_network(torch.float32), small_batch(torch.float32)
    objective = make_objective(name, beta=None if name == "at" else 2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        adversarial = objective.attack(
            model,
            *batch[::2],
            threat=ThreatModel("linf", 0.05),
            step_size=0.02,
            num_steps=2,
            generator=generator(step),
            bn_mode="train",
        )
        current = batch._replace(adversarial=adversarial)
        losses = closure(model, current, name, beta=None if name == "at" else 2.0)
        found = perturb_weights(model, losses, perturbation, generator=generator(step))
        assert found.offset == {}
        with shifted_weights(model, found.offset):
            outer = losses()
            optimizer.zero_grad()
            outer.objective.mean().backward()
            optimizer.step()
    return model.state_dict()


@FEW
@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.floats(0.1, 4))
def test_removal_and_groups_split_at_the_same_place(values, threshold):
    losses = torch.tensor(values, dtype=torch.float64)
    kept = keep_high_loss(losses, threshold=threshold)
    groups = loss_groups(losses, [0.0, threshold, 10.0])
    assert kept.tolist() == groups.tolist()


def test_the_perturbation_leaves_no_residue_in_float32():
    model, batch = small_network(torch.float32), small_batch(torch.float32)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for _ in range(5):
        robust_weight_perturbation(model, closure(model, batch), gamma=0.01, c_min=1e9, num_steps=4)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("beta", [0.0, 6.0])
def test_trades_at_beta_0_is_clean_cross_entropy(network, batch, beta):
    losses = closure(network, batch, "trades", beta=beta)()
    natural = make_objective("natural").losses(network, batch.images, batch.images, batch.labels)
    assert torch.allclose(losses.objective, natural.objective) == (beta == 0.0)
