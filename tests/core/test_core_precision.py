"""Precision settings, autocast, denormals, and how much arithmetic a step is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.reference_loop import ProxyPerturbation
from tests.core.helpers import closure, generator, small_batch, small_network

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    adversarial_weight_perturbation,
    attacks,
    make_objective,
    perturb_weights,
    precision_context,
    robust_weight_perturbation,
    shifted_weights,
)
from rwp.core.losses import cross_entropy, kl_divergence
from rwp.core.weights import perturbed_tensors
from rwp.training.flops import flops_of, forward_flops

SOURCE = Path(__file__).resolve().parents[2] / "src"
BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
ON_CPU = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn)


@pytest.mark.parametrize(
    ("name", "setting", "autocast"),
    [("fp32", "ieee", False), ("tf32", "tf32", False), ("bf16", "tf32", True)],
)
def test_precision_is_borrowed(name, setting, autocast):
    before = [backend.fp32_precision for backend in BACKENDS]

    def fail_inside():
        with precision_context(name, "cpu"):
            assert [backend.fp32_precision for backend in BACKENDS] == [setting] * 3
            assert torch.is_autocast_enabled("cpu") == autocast
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert [backend.fp32_precision for backend in BACKENDS] == before
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("wish", ["highest", "high", "medium"])
def test_a_wish_for_fewer_bits_on_cpus_has_no_say_inside(name, wish):
    """On processors with bf16 or AMX, "medium" is arithmetic of 8 bits."""
    before = [backend.fp32_precision for backend in (*BACKENDS, *ON_CPU)]
    legacy = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(wish)
        set_to = [backend.fp32_precision for backend in (*BACKENDS, *ON_CPU)]
        with precision_context(name, "cpu"):
            assert [backend.fp32_precision for backend in ON_CPU] == ["ieee"] * 3
        assert [backend.fp32_precision for backend in (*BACKENDS, *ON_CPU)] == set_to
        assert torch.get_float32_matmul_precision() == wish
    finally:
        torch.set_float32_matmul_precision(legacy)
        for backend, setting in zip((*BACKENDS, *ON_CPU), before, strict=True):
            backend.fp32_precision = setting


def test_fp32_leaves_autocast_outside():
    network, images = small_network(torch.float32), small_batch(torch.float32).images
    with precision_context("bf16", "cpu"):
        assert network(images).dtype == torch.bfloat16
        with precision_context("fp32", "cpu"):
            assert network(images).dtype == torch.float32


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_the_perturbation_is_in_32_bits_under_autocast(objective):
    network, batch = small_network(torch.float32), small_batch(torch.float32)
    losses = closure(network, batch, objective, beta=6.0 if objective == "trades" else None)
    exact = robust_weight_perturbation(network, losses, gamma=0.01, c_min=1e9, num_steps=3)
    with precision_context("bf16", "cpu"):
        assert losses().objective.dtype == losses().logits.dtype == torch.float32
        found = robust_weight_perturbation(network, losses, gamma=0.01, c_min=1e9, num_steps=3)
    assert all(value.dtype == torch.float32 for value in found.offset.values())
    assert found.diagnostics.norm_ratio == pytest.approx(0.01, rel=1e-6)
    vectors = [torch.cat([v.flatten() for v in r.offset.values()]) for r in (exact, found)]
    assert torch.cosine_similarity(*vectors, dim=0) > 0.95


def test_autocast_sees_the_weights_of_the_moment():
    """Its low-precision copies must not outlive a shift of the weights."""
    network, batch = small_network(torch.float32), small_batch(torch.float32)
    losses = closure(network, batch)
    with precision_context("bf16", "cpu"):
        offset = adversarial_weight_perturbation(network, losses, gamma=0.3).offset
        before = losses().objective.detach()
        with shifted_weights(network, offset):
            inside = losses().objective.detach()
        after = losses().objective.detach()
    with shifted_weights(network, offset), precision_context("bf16", "cpu"):
        fresh = losses().objective.detach()
    assert torch.equal(inside, fresh)
    assert not torch.equal(inside, before)
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-2)


def test_each_step_of_a_search_sees_the_weights_of_the_moment():
    """The second step's losses are those at w + v of the first, not those of kept copies of w."""
    network, batch = small_network(torch.float32), small_batch(torch.float32)
    losses, seen = closure(network, batch), []

    def noted():
        found = losses()
        seen.append(found.objective.detach())
        return found

    def steps(count):
        return WeightPerturbation(0.3, count, "model", "all")

    with precision_context("bf16", "cpu"):
        first = perturb_weights(network, losses, steps(1)).offset
    with precision_context("bf16", "cpu"):
        perturb_weights(network, noted, steps(2))
    with shifted_weights(network, first), precision_context("bf16", "cpu"):
        fresh = losses().objective.detach()
    assert torch.equal(seen[1], fresh)
    assert not torch.equal(seen[1], seen[0])


def test_the_losses_of_attacks_are_taken_in_32_bits_under_autocast(monkeypatch):
    network, batch, seen = small_network(torch.float32), small_batch(torch.float32), set()

    def loss(logits, labels):
        seen.add(logits.dtype)
        return cross_entropy(logits, labels)

    def divergence(*logits):
        seen.update(one.dtype for one in logits)
        return kl_divergence(*logits)

    monkeypatch.setattr(attacks, "kl_divergence", divergence)
    options = {"threat": ThreatModel("linf", 0.03), "step_size": 0.01, "num_steps": 2}
    with precision_context("bf16", "cpu"):
        assert network(batch.images).dtype == torch.bfloat16
        attacks.pgd(network, *batch[::2], loss=loss, generator=generator(), **options)
        attacks.kl_attack(network, *batch[::2], generator=generator(), **options)
    assert seen == {torch.float32}


def test_denormals_are_flushed_on_every_thread():
    script = (
        "import torch; from rwp.core import flush_denormals\n"
        "print(flush_denormals()); torch.set_num_threads(2)\n"
        "x = torch.full((1 << 20,), 1e-40); print(int((x * 1.0).count_nonzero()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "0"]


@pytest.mark.parametrize(
    ("perturbation", "floor"),
    [
        (WeightPerturbation.none(), 20 + 3),
        (WeightPerturbation.awp(gamma=0.1), 20 + 3 + 3),
        (WeightPerturbation.rwp(gamma=0.1, c_min=1e9, num_weight_steps=10), 20 + 30 + 3),
        (WeightPerturbation.rwp(gamma=0.1, c_min=0.0, num_weight_steps=10), 20 + 1 + 3),
    ],
)
def test_a_step_is_no_more_arithmetic_than_the_algorithm(perturbation, floor):
    """In forward passes: attack 10 x 2, weight steps 3 each, outer pass 3."""
    network, batch = small_network(torch.float32), small_batch(torch.float32)
    objective = make_objective("at")

    def step():
        adversarial = objective.attack(
            network,
            *batch[::2],
            threat=ThreatModel("linf", 0.03),
            step_size=0.01,
            num_steps=10,
            generator=generator(),
            bn_mode="train",
        )
        losses = closure(network, batch._replace(adversarial=adversarial))
        found = perturb_weights(network, losses, perturbation)
        with shifted_weights(network, found.offset):
            outer = losses()
            outer.objective.mean().backward()

    units = flops_of(step) / (forward_flops(network, batch.images) * len(batch.images))
    # The first layer passes no gradient on in a weight step, which in a small network shows.
    assert floor - 3 < units <= floor


@pytest.mark.parametrize("c_min", [None, 1e9, 1.5])
def test_the_timed_reference_does_what_we_do(network, batch, c_min):
    """Re-stated with proxies, the published perturbation is ours."""
    published = ProxyPerturbation(network, gamma=0.1, c_min=c_min)
    direction = published.direction(batch.adversarial, batch.labels)
    ours = (
        WeightPerturbation.awp(gamma=0.1)
        if c_min is None
        else WeightPerturbation.rwp(gamma=0.1, c_min=c_min, num_weight_steps=10)
    )
    found = perturb_weights(network, closure(network, batch), ours)
    assert direction.keys() == found.offset.keys() == perturbed_tensors(network).keys()
    for name, value in found.offset.items():
        torch.testing.assert_close(value, 0.1 * direction[name], rtol=1e-6, atol=1e-9)
    assert found.diagnostics.mask_fractions[0] > 0


@pytest.mark.slow
def test_compiled_networks_follow_the_borrowed_modes():
    """In a process of its own: torch does not compile what the type checker has wrapped."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.compiled_steps"],
        cwd=SOURCE.parent,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_pass_without_gradient_takes_none_from_those_after_it():
    """As TRADES' clean pass before the outer one: autocast keeps kernels that it has rounded."""
    model, images = small_network(), small_batch().images
    with precision_context("bf16", "cpu"):
        with torch.no_grad():
            model(images)
        losses = model(images).float().pow(2).sum()
    losses.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
