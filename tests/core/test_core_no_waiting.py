"""A step reads nothing back from its device: on `meta` tensors, which have no values, it runs.

There every read raises: a number (`.item()`, `bool()`), a mask as an index, a copy to the CPU.
"""

import pytest
import torch
from tests.core.helpers import (
    BATCH_SIZE,
    NUM_CLASSES,
    closure,
    generator,
    small_batch,
    small_network,
)
from torch import Tensor

from rwp.core import (
    GradientTally,
    ThreatModel,
    WeightPerturbation,
    build_network,
    cw,
    cw_zero_masked,
    fgsm,
    fgsm_random_start,
    kl_attack,
    make_objective,
    perturb_weights,
    pgd,
    robust_weight_perturbation,
    shifted_weights,
    weight_perturbation,
)
from rwp.core.lsc import keep_high_loss, loss_groups
from rwp.core.mask import select
from rwp.core.weights import perturbed_tensors

THREATS = pytest.mark.parametrize(
    "threat", [ThreatModel("linf", 8 / 255), ThreatModel("l2", 0.5)], ids=["linf", "l2"]
)
PERTURBATIONS = {
    "none": WeightPerturbation.none(),
    "awp": WeightPerturbation.awp(gamma=0.01),
    "rwp": WeightPerturbation.rwp(gamma=0.01, c_min=1.7, num_weight_steps=2),
}
MASKS = {
    "above": WeightPerturbation(0.01, 2, "layer", "above", c_min=1.7),
    "range": WeightPerturbation(0.01, 2, "model", "range", c_min=0.5, c_max=1.0),
    "random": WeightPerturbation(0.01, 2, "model", "random", c_min=1.7),
}
# Objective, its options, and how it attacks.
OBJECTIVES = {
    "natural": ("natural", {}, "eval"),
    "at": ("at", {}, "train"),
    "trades": ("trades", {"beta": 6.0}, "eval"),
    "rst": ("trades", {"beta": 6.0, "clean_updates": 1}, "eval"),
    "trades on the adversarial cross-entropy": (
        "trades",
        {"beta": 6.0, "criterion": "adversarial_ce"},
        "eval",
    ),
    "mart": ("mart", {"beta": 5.0}, "train"),
}


def on_meta(rows: int = BATCH_SIZE) -> tuple[Tensor, Tensor]:
    images = torch.empty(rows, 3, 8, 8, device="meta")
    return images, torch.zeros(rows, dtype=torch.int64, device="meta")


@pytest.mark.parametrize("read", [float, bool, lambda t: t.cpu(), lambda t: t[t > 0]])
def test_reading_a_meta_tensor_raises(read):
    """Or the tests below would show nothing."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        read(torch.zeros((), device="meta"))


@pytest.mark.parametrize("mask", MASKS)
def test_no_mask_waits(mask):
    losses = torch.empty(BATCH_SIZE, device="meta")
    assert select(losses, MASKS[mask], generator()).device.type == "meta"


@THREATS
@pytest.mark.parametrize("perturbation", PERTURBATIONS.values(), ids=PERTURBATIONS)
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_training_step_never_waits(objective, perturbation, threat):
    """Attack, weight steps, outer pass, backward pass and optimizer, as a training takes them."""
    name, options, bn_mode = objective
    model, goal = small_network(torch.float32).to("meta"), make_objective(name, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    images, labels = on_meta()
    tally = GradientTally()
    adversarial = goal.attack(
        model,
        images,
        labels,
        threat=threat,
        step_size=0.01,
        num_steps=2,
        generator=generator(),
        bn_mode=bn_mode,
        gradients=tally,
        check_inputs=False,
    )
    assert adversarial.device.type == "meta"

    def losses():
        return goal.losses(model, images, adversarial, labels)

    found = perturb_weights(model, losses, perturbation, generator=generator())
    expected = perturbation.num_weight_steps
    assert found.diagnostics.forward_passes == expected
    assert found.diagnostics.backward_passes == expected
    assert found.offset.keys() == (perturbed_tensors(model).keys() if expected else set())
    with shifted_weights(model, found.offset):
        outer = losses()
        kept = keep_high_loss(outer.criterion, threshold=1.5)
        optimizer.zero_grad(set_to_none=True)
        (outer.objective * kept).mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.parameters())
    # What a tally of the epoch would keep.
    kept_on_device = (
        found.diagnostics.steps_on_device,
        found.diagnostics.norm_ratio_on_device,
        loss_groups(outer.criterion, [0.0, 1.0, 2.0]),
        *((tally.not_finite, tally.zero) if name != "natural" else ()),
    )
    for value in kept_on_device:
        assert not isinstance(value, Tensor) or value.device.type == "meta"


SCHEDULE = {"step_size": 0.01, "num_steps": 2}
ATTACKS = {
    "fgsm": (fgsm, {}),
    "fgsm_random_start": (fgsm_random_start, {"step_size": 0.1, "generator": generator()}),
    "pgd": (pgd, SCHEDULE | {"generator": generator()}),
    "pgd from a given start": (pgd, SCHEDULE | {"start": on_meta()[0]}),
    "pgd off the ball": (
        pgd,
        SCHEDULE | {"random_start": "off_ball", "generator": generator()},
    ),
    "worst of restarts": (
        pgd,
        SCHEDULE | {"keep": "worst", "num_restarts": 2, "generator": generator()},
    ),
    "cw": (cw, SCHEDULE | {"kappa": 50.0, "generator": generator()}),
    "cw_zero_masked": (cw_zero_masked, SCHEDULE | {"kappa": 50.0, "generator": generator()}),
    "kl_attack": (kl_attack, SCHEDULE | {"generator": generator()}),
}


@THREATS
@pytest.mark.parametrize(("attack", "options"), ATTACKS.values(), ids=ATTACKS)
def test_no_attack_waits(attack, options, threat):
    model, tally = small_network(torch.float32).to("meta"), GradientTally()
    images, labels = on_meta()
    options = options | {"gradients": tally, "check_inputs": False}
    assert attack(model, images, labels, threat=threat, **options).shape == images.shape


def test_inputs_are_looked_at_where_it_is_not_declined():
    """Looking waits for the device, so that bad pixels are refused; that is the default."""
    model = small_network(torch.float32).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        fgsm(model, *on_meta(), threat=ThreatModel("linf", 0.1))


def test_the_wide_network_never_waits():
    shape = {"depth": 10, "widen_factor": 1, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    model = build_network("wide_resnet", num_classes=NUM_CLASSES, in_channels=3, **shape)
    model, (images, labels) = model.to("meta").train(), on_meta()
    goal = make_objective("at")
    found = robust_weight_perturbation(
        model,
        lambda: goal.losses(model, images, images, labels),
        gamma=0.01,
        c_min=1.7,
        num_steps=2,
    )
    with shifted_weights(model, found.offset):
        goal.losses(model, images, images, labels).objective.mean().backward()


@pytest.mark.parametrize("name", ["at", "trades"])
@pytest.mark.parametrize("c_min", [0.0, None, 1e9])
def test_a_device_that_is_not_asked_comes_to_the_same(monkeypatch, name, c_min):
    """What a device does, all the steps with masks that run empty, gives the CPU's v to the bit."""
    network, batch = small_network(), small_batch()
    losses = closure(network, batch, name, **({} if name == "at" else {"beta": 6.0}))
    if c_min is None:
        c_min = float(losses().criterion.min()) + 1e-3  # empty after one step
    options = {"gamma": 0.3, "c_min": c_min, "num_steps": 5}
    stopped = robust_weight_perturbation(network, losses, **options)

    class Elsewhere(Tensor):
        """Says that it is on another device."""

        device = torch.device("cuda")

    monkeypatch.setattr(
        weight_perturbation, "select", lambda *options: select(*options).as_subclass(Elsewhere)
    )
    whole = robust_weight_perturbation(network, losses, **options)
    assert whole.diagnostics.forward_passes == whole.diagnostics.backward_passes == 5
    assert whole.diagnostics.steps == stopped.diagnostics.steps
    assert whole.diagnostics.norm_ratio == stopped.diagnostics.norm_ratio
    for tensor_name, value in whole.offset.items():
        expected = stopped.offset.get(tensor_name, torch.zeros_like(value))
        assert torch.equal(value.as_subclass(Tensor), expected), tensor_name
