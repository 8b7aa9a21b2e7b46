"""Attacks against known optima, against foolbox, and their options."""

from functools import partial

import foolbox
import pytest
import torch
from tests.core.helpers import LinearClassifier, generator, small_batch, small_network

from rwp.core import (
    ThreatModel,
    cw,
    cw_zero_masked,
    fgsm,
    fgsm_random_start,
    kl_attack,
    make_objective,
    pgd,
)
from rwp.core.losses import cross_entropy, kl_divergence, margin_loss

LINF, L2 = ThreatModel("linf", 0.05), ThreatModel("l2", 0.5)
THREATS = pytest.mark.parametrize("threat", [LINF, L2], ids=["linf", "l2"])


def two_class_problem(inner: bool):
    """A linear model of two classes, images far from 0 and 1 or not, and the gap's gradient."""
    draw = generator()
    # Opposite rows: the gradient keeps its direction where one probability rounds to 1.
    weight = torch.randn(1, 3 * 4 * 4, dtype=torch.float64, generator=draw).repeat(2, 1)
    weight[1] *= -1
    images = torch.rand(5, 3, 4, 4, dtype=torch.float64, generator=draw)
    images = 0.3 + 0.4 * images if inner else images
    labels = torch.tensor([0, 1, 1, 0, 1])
    downhill = (weight[1 - labels] - weight[labels]).view_as(images)
    return LinearClassifier(weight, torch.zeros(2, dtype=torch.float64)), images, labels, downhill


def optimum(images, downhill, threat):
    if threat.norm == "linf":
        return (images + threat.epsilon * downhill.sign()).clamp(0, 1)
    lengths = downhill.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return images + threat.epsilon * downhill / lengths


ATTACKS = {"pgd": pgd, "cw": partial(cw, kappa=50.0)}


# L2 has no closed form where the ball leaves [0, 1].
@pytest.mark.parametrize(
    ("threat", "inner"),
    [(LINF, True), (LINF, False), (L2, True)],
    ids=["linf", "linf at the edge", "l2"],
)
@pytest.mark.parametrize("attack", ["pgd", "cw"])
def test_reaches_the_optimum_of_a_linear_model(threat, attack, inner):
    model, images, labels, downhill = two_class_problem(inner)
    found = ATTACKS[attack](
        model,
        images,
        labels,
        threat=threat,
        step_size=threat.epsilon / 4,
        num_steps=100,
        generator=generator(),
    )
    torch.testing.assert_close(found, optimum(images, downhill, threat), rtol=0, atol=1e-6)


@THREATS
def test_fgsm_is_the_optimum_of_a_linear_model(threat):
    model, images, labels, downhill = two_class_problem(inner=True)
    found = fgsm(model, images, labels, threat=threat)
    torch.testing.assert_close(found, optimum(images, downhill, threat), rtol=0, atol=1e-12)


def test_l2_step_on_a_model_sure_of_itself():
    """A loss gradient far below the guard against dividing by zero still gives a full step."""
    model, images, labels, downhill = two_class_problem(inner=True)
    margins = margin_loss(model(images), labels, kappa=torch.inf).detach()
    model.weight.data *= 60 / margins.abs().max()
    assert margins.min() == -margins.abs().max()
    found = fgsm(model, images, labels, threat=L2)
    torch.testing.assert_close(found, optimum(images, downhill, L2), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("at", {}, "uniform"),
        ("at", {"random_start": "off_ball"}, "off_ball"),
        ("mart", {"beta": 5.0}, "gaussian"),
        ("mart", {"beta": 5.0, "random_start": "uniform"}, "uniform"),
    ],
)
def test_an_objectives_attack_is_pgd_from_its_start(name, options, start):
    model, batch = small_network().eval(), small_batch()
    settings = {"threat": L2, "step_size": 0.1, "num_steps": 2, "bn_mode": "eval"}
    given = (model, batch.images, batch.labels)
    objective = make_objective(name, **options)
    found = objective.attack(*given, generator=generator(), **settings)
    ends = {
        kind: pgd(*given, generator=generator(), random_start=kind, **settings)
        for kind in ("uniform", "gaussian", "off_ball")
    }
    assert [kind for kind, end in ends.items() if torch.equal(found, end)] == [start]


@pytest.mark.parametrize(
    ("threat", "theirs"),
    [(LINF, foolbox.attacks.LinfPGD), (L2, foolbox.attacks.L2PGD)],
    ids=["linf", "l2"],
)
def test_pgd_agrees_with_foolbox(threat, theirs, monkeypatch):
    model = small_network(torch.float32).eval()
    batch = small_batch(torch.float32)
    start = pgd(
        model, *batch[::2], threat=threat, step_size=1e-9, num_steps=1, generator=generator(5)
    )
    attack = theirs(abs_stepsize=threat.epsilon / 4, steps=7, random_start=True)
    monkeypatch.setattr(attack, "get_random_start", lambda x0, epsilon: type(x0)(start))
    bound = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, expected, _ = attack(bound, batch.images, batch.labels, epsilons=threat.epsilon)
    found = pgd(
        model,
        batch.images,
        batch.labels,
        threat=threat,
        step_size=threat.epsilon / 4,
        num_steps=7,
        start=start,
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("threat", "theirs"),
    [(LINF, foolbox.attacks.LinfFastGradientAttack), (L2, foolbox.attacks.L2FastGradientAttack)],
    ids=["linf", "l2"],
)
def test_fgsm_agrees_with_foolbox(threat, theirs):
    model = small_network(torch.float32).eval()
    batch = small_batch(torch.float32)
    bound = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, expected, _ = theirs()(bound, batch.images, batch.labels, epsilons=threat.epsilon)
    found = fgsm(model, batch.images, batch.labels, threat=threat)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_fgsm_from_a_random_start_ends_at_the_corners_of_that_point(network, batch):
    found = fgsm_random_start(
        network, batch.images, batch.labels, threat=LINF, step_size=0.1, generator=generator()
    )
    change = (found - batch.images).abs()
    inside = (found > 0) & (found < 1)
    torch.testing.assert_close(change[inside], torch.full_like(change[inside], 0.05))
    assert not torch.equal(found, fgsm(network, batch.images, batch.labels, threat=LINF))


def test_zero_masking_is_blind_where_all_wrong_logits_are_negative():
    """The authors' variant keeps lowering the label's logit; the margin looks at the rival's."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    model = LinearClassifier(weight, torch.tensor([3.0, -5.0, -9.0], dtype=torch.float64))
    image = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64)
    label = torch.zeros(1, dtype=torch.int64)
    schedule = {"threat": LINF, "step_size": 0.05, "num_steps": 2, "random_start": "none"}
    found = cw(model, image, label, kappa=10.0, **schedule)
    blind = cw_zero_masked(model, image, label, kappa=10.0, **schedule)
    assert found.flatten().tolist() == pytest.approx([0.45, 0.55])
    assert blind.flatten().tolist() == pytest.approx([0.45, 0.5])


@THREATS
def test_kl_attack_raises_the_divergence_and_ignores_labels(network, batch, threat):
    network.eval()
    schedule = {"threat": threat, "step_size": threat.epsilon / 4, "num_steps": 5}
    found = kl_attack(network, batch.images, batch.labels, generator=generator(), **schedule)
    other = kl_attack(network, batch.images, batch.labels * 0, generator=generator(), **schedule)
    assert torch.equal(found, other)
    with torch.no_grad():
        clean = network(batch.images)
        weak = kl_divergence(clean, network(batch.images + 0.001))
        assert (kl_divergence(clean, network(found)) > weak).all()


@THREATS
def test_a_step_of_the_kl_attack_follows_the_divergence_from_the_clean_output(
    network, batch, threat
):
    """KL(clean || adversarial), not the other way round: one step, by its definition."""
    network.eval()
    start = batch.adversarial.clone().requires_grad_()
    clean, adversarial = (network(x).log_softmax(dim=1) for x in (batch.images, start))
    divergence = (clean.detach().exp() * (clean.detach() - adversarial)).sum()
    (gradient,) = torch.autograd.grad(divergence, start)
    if threat.norm == "l2":
        direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    else:
        direction = gradient.sign()
    roomy = ThreatModel(threat.norm, 20 * threat.epsilon if threat.norm == "linf" else 5.0)
    found = kl_attack(
        network, *batch[::2], threat=roomy, step_size=1e-3, num_steps=1, start=start.detach()
    )
    expected = (start + 1e-3 * direction).clamp(0, 1)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-9)


def test_keep_worst_prefers_a_misclassified_iterate(network, batch):
    network.eval()
    options = {"threat": LINF, "step_size": 0.04, "num_steps": 6}
    last = pgd(network, *batch[::2], generator=generator(), **options)
    worst = pgd(network, *batch[::2], generator=generator(), keep="worst", **options)
    restarted = pgd(
        network, *batch[::2], generator=generator(), keep="worst", num_restarts=3, **options
    )
    with torch.no_grad():
        scores = []
        for images in (last, worst, restarted):
            logits = network(images)
            fooled = (logits.argmax(1) != batch.labels).double()
            scores.append(100 * fooled + cross_entropy(logits, batch.labels))
    assert (scores[1] >= scores[0]).all()
    assert (scores[2] >= scores[1]).all()
    assert (scores[2] > scores[0]).any()


def test_same_seed_same_bits(network, batch):
    runs = [
        pgd(
            network,
            *batch[::2],
            threat=L2,
            step_size=0.1,
            num_steps=3,
            bn_mode="train",
            generator=generator(seed),
        )
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_bn_mode_decides_whose_statistics_are_used(network, batch):
    start = batch.adversarial
    options = {"threat": LINF, "step_size": 0.01, "num_steps": 2, "start": start}
    found = {mode: pgd(network, *batch[::2], bn_mode=mode, **options) for mode in ("eval", "train")}
    assert not torch.equal(found["eval"], found["train"])
    alone = pgd(network, *(part[:1] for part in batch[::2]), **options | {"start": start[:1]})
    torch.testing.assert_close(alone, found["eval"][:1])


def test_a_step_costs_one_forward_pass_and_no_more(network, batch):
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    pgd(network, *batch[::2], threat=LINF, step_size=0.01, num_steps=10, generator=generator())
    assert len(calls) == 10


def test_works_under_no_grad_and_returns_no_graph(network, batch):
    with torch.no_grad():
        found = fgsm(network, batch.images, batch.labels, threat=LINF)
    assert not found.requires_grad
    assert not torch.equal(found, batch.images)


@pytest.mark.parametrize("attack", [cw, cw_zero_masked])
def test_an_image_beyond_kappa_is_not_moved(attack):
    model, images, _, _ = two_class_problem(inner=True)
    with torch.no_grad():
        wrong = 1 - model(images).argmax(dim=1)
    options = {"threat": LINF, "step_size": 0.01, "num_steps": 2, "random_start": "none"}
    assert torch.equal(attack(model, images, wrong, kappa=0.0, **options), images)
    assert not torch.equal(attack(model, images, wrong, kappa=50.0, **options), images)
