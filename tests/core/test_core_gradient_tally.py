"""Attacks count the images for which they have no gradient to follow, and never pass on a NaN."""

from functools import partial

import pytest
import torch
from tests.core.helpers import LinearClassifier, generator, small_batch, small_network
from torch import Tensor, nn

from rwp.core import (
    GradientTally,
    ThreatModel,
    cw,
    cw_zero_masked,
    fgsm,
    fgsm_random_start,
    kl_attack,
    make_objective,
    pgd,
)

LINF, L2 = ThreatModel("linf", 0.05), ThreatModel("l2", 0.5)
THREATS = pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])
SCHEDULE = {"step_size": 0.02, "num_steps": 3, "generator": generator()}
ATTACKS = {
    "fgsm": fgsm,
    "fgsm_random_start": partial(fgsm_random_start, step_size=0.02, generator=generator()),
    "pgd": partial(pgd, **SCHEDULE),
    "worst of restarts": partial(pgd, keep="worst", num_restarts=2, **SCHEDULE),
    "cw": partial(cw, kappa=50.0, **SCHEDULE),
    "cw_zero_masked": partial(cw_zero_masked, kappa=50.0, **SCHEDULE),
    "kl_attack": partial(kl_attack, **SCHEDULE),
    "at": partial(make_objective("at").attack, bn_mode="eval", **SCHEDULE),
    "trades": partial(make_objective("trades", beta=6.0).attack, bn_mode="eval", **SCHEDULE),
    "mart": partial(make_objective("mart", beta=6.0).attack, bn_mode="eval", **SCHEDULE),
}
EVERY_ATTACK = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


class Spoiled(nn.Module):
    """A network whose logits are right and whose gradient is spoiled for some images."""

    def __init__(self, network: nn.Module, spoiled: Tensor, factor: float) -> None:
        super().__init__()
        self.network, self.spoiled, self.factor = network, spoiled, factor

    def forward(self, images: Tensor) -> Tensor:
        inputs = images.clone()
        if inputs.requires_grad:
            inputs.register_hook(self._spoil)
        return self.network(inputs)

    def _spoil(self, gradient: Tensor) -> Tensor:
        where = self.spoiled.view(-1, 1, 1, 1)
        return torch.where(where, gradient * self.factor, gradient)


SPOILED = torch.tensor([False, True, False, False, True, True])


@THREATS
@EVERY_ATTACK
@pytest.mark.parametrize("factor", [torch.nan, torch.inf, 0.0, 1.0])
def test_images_without_a_gradient_are_counted(attack, threat, factor):
    batch, tally = small_batch(), GradientTally()
    model = Spoiled(small_network().eval(), SPOILED, factor)
    found = attack(model, *batch[::2], threat=threat, gradients=tally)
    bad = SPOILED.tolist()
    assert tally.not_finite.tolist() == (bad if factor not in (0.0, 1.0) else [False] * 6)
    assert tally.zero.tolist() == (bad if factor == 0.0 else [False] * 6)
    expected = {0.0: (6, 0, 3), 1.0: (6, 0, 0)}.get(factor, (6, 3, 0))
    assert tally.counts() == expected
    assert found.isfinite().all()


class OverflowsAtOnePixel(nn.Module):
    """The derivative of the root of zero is infinite; all other pixels have a usable one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_network().eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits + images[:, 0, 0, 0].sqrt().unsqueeze(1) * logits.detach().sign()


def test_one_infinite_pixel_takes_no_step_from_the_others():
    """The attack goes on by the finite part, whose length counts for nothing beside infinity."""
    batch, threat = small_batch(), ThreatModel("l2", 0.5)
    images = batch.images.clone()
    images[:, 0, 0, 0] = 0.0
    step = {"threat": threat, "step_size": 0.5, "num_steps": 1, "random_start": "none"}
    found = pgd(OverflowsAtOnePixel(), images, batch.labels, **step)
    usual = pgd(small_network().eval(), images, batch.labels, **step)
    assert (found - images)[:, 0, 0, 0].abs().max() == 0
    moved = (found - images).flatten(1).norm(dim=1)
    assert bool((moved > 0.5 * (usual - images).flatten(1).norm(dim=1)).all())


@THREATS
def test_the_networks_of_the_wild(threat):
    """A square root of zero in front: its logits are finite, its gradient is not."""
    network, batch, tally = small_network().eval(), small_batch(), GradientTally()

    class Root(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(images + 0 * (images - images.detach()).sqrt())

    found = pgd(Root(), *batch[::2], threat=threat, gradients=tally, **SCHEDULE)
    assert tally.counts() == (6, 6, 0)
    assert found.isfinite().all()


@THREATS
def test_one_bad_pixel_leaves_the_others_their_step(threat):
    """A NaN in one pixel of a gradient moves the image by the rest of it."""
    draw = generator()
    weight = torch.randn(2, 8, dtype=torch.float64, generator=draw)
    model = LinearClassifier(weight, torch.zeros(2, dtype=torch.float64))
    images = 0.3 + 0.4 * torch.rand(3, 2, 2, 2, dtype=torch.float64, generator=draw)
    labels, tally = torch.tensor([0, 1, 1]), GradientTally()

    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            copy = inputs.clone()
            if copy.requires_grad:
                copy.register_hook(self.spoil)
            return model(copy)

        @staticmethod
        def spoil(gradient: Tensor) -> Tensor:
            gradient = gradient.clone()
            gradient[1, 0, 0, 0] = torch.nan
            return gradient

    options = {"threat": threat, "step_size": threat.epsilon, "num_steps": 1}
    found = pgd(Broken(), images, labels, random_start="none", gradients=tally, **options)
    whole = pgd(model, images, labels, random_start="none", **options)
    assert tally.counts() == (3, 1, 0)
    assert torch.equal(found[[0, 2]], whole[[0, 2]])
    delta = found[1] - images[1]
    assert delta[0, 0, 0] == 0
    assert (delta.flatten()[1:].sign() == (whole[1] - images[1]).flatten()[1:].sign()).all()
    length = delta.abs().max() if threat.norm == "linf" else delta.norm()
    assert float(length) == pytest.approx(threat.epsilon)


def test_a_gradient_that_is_zero_for_a_while_is_no_complaint():
    """Zero at the first step alone, as a margin attack's at the corner of its cap."""
    batch, tally, calls = small_batch(), GradientTally(), []

    class Late(Spoiled):
        def _spoil(self, gradient: Tensor) -> Tensor:
            calls.append(1)
            return super()._spoil(gradient) if len(calls) == 1 else gradient

    pgd(Late(small_network(), SPOILED, 0.0), *batch[::2], threat=LINF, gradients=tally, **SCHEDULE)
    assert len(calls) == 3
    assert tally.counts() == (6, 0, 0)


def test_a_gradient_that_is_not_finite_once_is_one():
    batch, tally, calls = small_batch(), GradientTally(), []

    class Once(Spoiled):
        def _spoil(self, gradient: Tensor) -> Tensor:
            calls.append(1)
            return super()._spoil(gradient) if len(calls) == 2 else gradient

    model = Once(small_network().eval(), SPOILED, torch.nan)
    pgd(model, *batch[::2], threat=LINF, gradients=tally, **SCHEDULE)
    assert tally.counts() == (6, 3, 0)


def test_batches_add_up_and_an_empty_tally_counts_nothing(network, batch):
    tally = GradientTally()
    assert tally.counts() == (0, 0, 0)
    for model in (network, Spoiled(network, SPOILED, torch.nan), Spoiled(network, SPOILED, 0.0)):
        fgsm(model.eval(), *batch[::2], threat=LINF, gradients=tally)
    assert tally.counts() == (18, 3, 3)
    assert tally.not_finite.tolist() == [False] * 6 + SPOILED.tolist() + [False] * 6
    assert tally.zero.tolist() == [False] * 12 + SPOILED.tolist()


def test_looking_changes_no_bit(network, batch):
    for threat in (LINF, L2):
        options = {"threat": threat, "step_size": 0.02, "num_steps": 3}
        found = [
            pgd(network, *batch[::2], generator=generator(), gradients=tally, **options)
            for tally in (None, GradientTally())
        ]
        assert torch.equal(*found)
