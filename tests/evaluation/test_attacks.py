import numpy as np
import pytest
import torch
from torch import nn

from rwp.core.attacks import cw, cw_zero_masked, pgd
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import attacks
from rwp.evaluation.alarms import BATCH_DEPENDENT, GRADIENT_DEPENDENT, UNSTEADY
from rwp.evaluation.attacks import AttackResult, evaluate, run_attack
from rwp.evaluation.clean import FLAT, PROBABILITIES, TRAIN_MODE
from rwp.rng import generator_for
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import (
    THREAT,
    Centered,
    Dropping,
    Lonely,
    OtherWithGradient,
    Quantized,
    Returning,
    Tiring,
    WithoutGradient,
    attack,
    three_classes,
)

PGD = attack("pgd-20", "pgd", num_steps=20, step_size="0.03")
ATTACKS = (
    attack("natural"),
    attack("fgsm"),
    attack("fgsm-literal", "fgsm_random_start", step_size="0.2"),
    PGD,
    attack("cw", num_steps=20, step_size="0.03", kappa=10.0),
    attack("cw-literal", "cw_zero_masked", num_steps=20, step_size="0.03", kappa=10.0),
)


def run(model: nn.Module, images: ImageSet, *attacks, **options) -> list[AttackResult]:
    settings = {"batch_size": 16, "seed": 0, "device": "cpu"} | options
    return evaluate(model, images, attacks, **settings)


def test_every_attack_leaves_consistent_outcomes(robust_model: nn.Module, images: ImageSet):
    seen = []
    results = run(robust_model, images, *ATTACKS, on_result=seen.append)
    assert seen == results
    natural, others = results[0], results[1:]
    assert np.array_equal(natural.robust, natural.clean_correct)
    assert natural.max_perturbation == 0.0
    for result in others:
        assert not (result.robust & ~result.clean_correct).any()
        assert result.robust.sum() < natural.robust.sum()
        assert 0.099 < result.max_perturbation < 0.1 + attacks.SLACK["linf"]


class Brightness(nn.Module):
    """Two classes: the brighter an image, the more it is of the second."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, mean], dim=1)


def test_the_largest_change_is_that_of_any_batch():
    """Images of the first batch get brighter; those of the second are white already."""
    pixels = torch.cat([torch.full((16, 1, 8, 8), 100), torch.full((16, 1, 8, 8), 255)])
    split = ImageSet(pixels.to(torch.uint8), torch.zeros(32, dtype=torch.long), 2)
    (result,) = run(Brightness(), split, attack("fgsm"))
    assert result.max_perturbation == pytest.approx(0.1)


def test_outcomes_are_those_of_the_core_attack(robust_model: nn.Module, images: ImageSet):
    (result,) = run(robust_model, images, PGD, batch_size=len(images))
    batch, labels = images.images.float() / 255, images.labels
    found = pgd(
        robust_model,
        batch,
        labels,
        threat=ThreatModel("linf", THREAT.radius),
        step_size=0.03,
        num_steps=20,
        generator=generator_for(0, "evaluation", "pgd-20", 0),
    )
    clean = robust_model(batch).argmax(1) == labels
    robust = clean & (robust_model(found).argmax(1) == labels)
    assert np.array_equal(result.robust, robust.numpy())


def test_same_seed_same_bits_and_model_untouched(robust_model: nn.Module, images: ImageSet):
    before = {name: value.clone() for name, value in robust_model.state_dict().items()}
    strides = [parameter.stride() for parameter in robust_model.parameters()]
    first, second = run(robust_model, images, PGD)[0], run(robust_model, images, PGD)[0]
    assert np.array_equal(first.robust, second.robust)
    assert all(
        torch.equal(before[name], value) for name, value in robust_model.state_dict().items()
    )
    assert strides == [parameter.stride() for parameter in robust_model.parameters()]
    assert all(parameter.requires_grad for parameter in robust_model.parameters())


def test_an_attacks_own_start_and_kept_point_are_used(robust_model, images, monkeypatch):
    given = []
    monkeypatch.setattr(attacks, "pgd", lambda *_, **options: given.append(options) or _[1])
    own = PGD.replace(random_start="none", keep="worst")
    run(robust_model, images, PGD, own, PGD.replace(num_restarts=2), batch_size=40)
    found = [(options["random_start"], options["keep"]) for options in given]
    assert found == [("uniform", "last"), ("none", "worst"), ("uniform", "worst")]


def test_one_step_from_a_random_start_is_of_its_own_size(robust_model, images, monkeypatch):
    """The published evaluator's is twice the radius."""
    sizes = []
    monkeypatch.setattr(
        attacks, "fgsm_random_start", lambda *_, **given: sizes.append(given["step_size"]) or _[1]
    )
    literal = attack("fgsm-literal", "fgsm_random_start", step_size="0.2")
    run(robust_model, images, literal, batch_size=len(images))
    assert sizes == [0.2]


def test_restarts_never_help_the_model(robust_model: nn.Module, images: ImageSet):
    weak = attack("pgd", num_steps=3, step_size="0.03")
    many = attack("pgd", num_steps=3, step_size="0.03", num_restarts=4)
    once, often = run(robust_model, images, weak)[0], run(robust_model, images, many)[0]
    assert often.robust.sum() <= once.robust.sum()


@pytest.mark.parametrize("kind", ["pgd", "cw", "cw_zero_masked"])
def test_the_worst_point_of_all_restarts_counts(
    kind: str, robust_model: nn.Module, images: ImageSet
):
    margin = {} if kind == "pgd" else {"kappa": 10.0}
    step = {"num_steps": 2, "step_size": "0.001"}  # hardly moves: where it starts decides
    batch, labels = images.images.float() / 255, images.labels
    points = {
        count: run_attack(
            robust_model,
            batch,
            labels,
            attack("many", kind, num_restarts=count, **step, **margin),
            generator=torch.Generator().manual_seed(0),
        )
        for count in (1, 4)
    }
    expected = {"pgd": pgd, "cw": cw, "cw_zero_masked": cw_zero_masked}[kind](
        robust_model,
        batch,
        labels,
        threat=ThreatModel("linf", float(THREAT.epsilon)),
        step_size=0.001,
        num_steps=2,
        num_restarts=4,
        keep="worst",
        generator=torch.Generator().manual_seed(0),
        **margin,
    )
    assert torch.equal(points[4], expected)
    assert not torch.equal(points[1], points[4])


def test_model_left_in_train_mode_is_evaluated_in_eval_mode(robust_model: nn.Module, images):
    expected = run(robust_model, images, PGD)[0]
    robust_model.train()
    try:
        found = run(robust_model, images, PGD)[0]
        assert robust_model.training
    finally:
        robust_model.eval()
    assert np.array_equal(found.robust, expected.robust)
    assert found.warnings == (TRAIN_MODE,)


def test_probabilities_are_noticed(robust_model: nn.Module, images: ImageSet):
    softmax = Returning(robust_model, lambda logits: logits.softmax(1)).eval()
    assert run(softmax, images, PGD)[0].warnings == (PROBABILITIES,)
    percent = Returning(robust_model, lambda logits: 100 * logits.softmax(1)).eval()
    assert run(percent, images, PGD)[0].warnings == (PROBABILITIES,)
    no_shares = Returning(robust_model, lambda logits: logits.relu()).eval()
    assert run(no_shares, images, attack("natural"))[0].warnings == ()
    assert run(robust_model, images, PGD)[0].warnings == ()


@pytest.mark.parametrize(
    ("function", "warning"),
    [
        (lambda logits: logits.sigmoid(), PROBABILITIES),
        (lambda logits: 1e-6 * logits, FLAT),
        (lambda logits: 100 + 1e-4 * logits, FLAT),
    ],
)
def test_outputs_on_which_cross_entropy_is_flat_are_noticed(
    robust_model, images, function, warning
):
    squeezed = Returning(robust_model, function).eval()
    natural, attacked = run(squeezed, images, attack("natural"), PGD)
    assert warning in natural.warnings
    assert attacked.robust.sum() > run(robust_model, images, PGD)[0].robust.sum()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logits: logits * torch.nan, "expected finite logits"),
        (lambda logits: logits.sum(1), r"logits of shape \(16, classes\)"),
        (lambda logits: logits[:, :3], "logits for .* classes, got 3"),
    ],
)
def test_bad_outputs_are_refused(robust_model: nn.Module, images: ImageSet, function, message):
    seen = []
    with pytest.raises(UserError, match=message):
        run(Returning(robust_model, function), images, PGD, on_result=seen.append)
    assert seen == []


def test_unlabeled_images_are_refused(robust_model: nn.Module, images: ImageSet):
    unlabeled = ImageSet(images.images, torch.full_like(images.labels, -1), 10)
    with pytest.raises(UserError, match="expected labeled images, got 40 with 40 unlabeled"):
        run(robust_model, unlabeled, PGD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found + 0.2, r"pixels in \[0, 1\]"),
        (lambda found: (found + 0.2).clamp(0, 1), "perturbations up to 0.1"),
        (lambda found: found * torch.nan, r"pixels in \[0, 1\]"),
    ],
)
def test_attack_that_cheats_is_caught(monkeypatch, robust_model, images, change, message):
    monkeypatch.setattr(attacks, "pgd", lambda model, found, *_, **__: change(found))
    with pytest.raises(UserError, match=message):
        run(robust_model, images, PGD)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (attack("pgd", step_size="0.03"), "expected num_steps"),
        (attack("cw", num_steps=3, step_size="0.03"), "expected kappa"),
        (attack("boundary"), "expected a kind of natural"),
    ],
)
def test_incomplete_attacks_are_refused(robust_model, images, wrong, message):
    with pytest.raises(UserError, match=message):
        run(robust_model, images, wrong)


def test_too_few_classes_for_the_labels(images: ImageSet):
    with pytest.raises(UserError, match="choose the data set it was trained on"):
        run(three_classes(), images, PGD)


def test_images_without_a_finite_gradient_are_counted(robust_model: nn.Module, images: ImageSet):
    for norm in ("linf", "l2"):
        threat = {"norm": norm, "epsilon": "0.1"}
        others = [found.replace(threat=ThreatSpec(**threat)) for found in ATTACKS]
        plain = run(robust_model, images, *others)
        blind = run(WithoutGradient(robust_model).eval(), images, *others)
        assert plain[0].gradients is None
        assert blind[0].warnings == ()
        for before, after in zip(plain[1:], blind[1:], strict=True):
            assert (before.gradients.not_finite, before.warnings) == (0, ())
            assert after.gradients.not_finite == after.gradients.images == len(images)
            assert after.gradients.blind_not_finite == after.robust.sum() > before.robust.sum()
            assert "the gradient was not finite at 40 of 40 images" in after.warnings[0]


def test_images_without_any_gradient_are_counted(robust_model: nn.Module, images: ImageSet):
    (result,) = run(Quantized(robust_model, 15).eval(), images, PGD)
    assert result.gradients.zero == len(images)
    assert result.gradients.blind_zero == result.robust.sum() > 0
    assert "the gradient was zero in every step at 40 of 40 images" in result.warnings[0]


@pytest.mark.parametrize(
    ("front", "sign"),
    [
        (Dropping, UNSTEADY),
        (lambda model: Tiring(model, 2), UNSTEADY),
        (lambda model: Tiring(model, 7), UNSTEADY),  # while the images are looked at
        (Centered, BATCH_DEPENDENT),
        (Lonely, BATCH_DEPENDENT),
        (OtherWithGradient, GRADIENT_DEPENDENT),
    ],
)
def test_models_without_one_answer_are_noticed(robust_model, images, front, sign):
    (result,) = run(front(robust_model).eval(), images, attack("natural"))
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith(sign)


@pytest.mark.parametrize("front", [Centered, Lonely])
def test_images_that_come_one_by_one_are_also_asked_for_together(robust_model, images, front):
    model = front(robust_model).eval()
    (result,) = run(model, images.select(torch.arange(3)), attack("natural"), batch_size=1)
    assert result.warnings[0].startswith(BATCH_DEPENDENT)


@pytest.mark.parametrize("calls", [11, 13, 20, 60])
def test_a_model_that_turns_during_an_attack_is_noticed(robust_model, images, calls):
    pgd = attack("pgd-20", "pgd", num_steps=20, step_size="0.025")
    model = Tiring(robust_model, calls).eval()
    before, after = run(model, images, attack("natural"), pgd)
    assert model.left < 0
    turned = before if calls <= 13 else after
    assert any(text.startswith(UNSTEADY) for text in turned.warnings)
    assert any(text.startswith(UNSTEADY) for text in after.warnings)


def test_a_model_with_one_answer_is_not_suspected(robust_model, images):
    for result in run(robust_model, images, attack("natural"), attack("fgsm", "fgsm")):
        assert result.warnings == ()


def test_batch_statistics_in_eval_mode_are_noticed(images: ImageSet):
    model = nn.Sequential(
        nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 10)
    )
    (result,) = run(model.eval(), images, attack("natural"))
    assert result.warnings[0].startswith(BATCH_DEPENDENT)


@pytest.mark.parametrize(
    "function",
    [
        lambda logits: logits.detach(),
        lambda logits: torch.from_numpy(logits.detach().numpy()),
        lambda logits: torch.nn.functional.one_hot(logits.argmax(1), 10).float(),
    ],
)
def test_attacks_are_refused_where_there_is_no_gradient(robust_model, images, function):
    model = Returning(robust_model, function).eval()
    assert run(model, images, attack("natural"))[0].robust.sum() > 0
    with pytest.raises(UserError, match="pgd-20: expected a model with a gradient"):
        run(model, images, PGD)


def test_each_kind_of_cw_is_its_own_attack(robust_model, images, monkeypatch):
    called = []
    for name in ("cw", "cw_zero_masked"):
        monkeypatch.setattr(
            attacks, name, lambda *given, name=name, **_: called.append(name) or given[1]
        )
    for kind in ("cw", "cw_zero_masked"):
        one = attack(kind, kind, num_steps=2, step_size="0.03", kappa=10.0)
        run(robust_model, images, one, batch_size=len(images))
    assert called == ["cw", "cw_zero_masked"]


def test_each_batch_has_random_numbers_of_its_own(robust_model, images, monkeypatch):
    seeds = []

    def unmoved(model, batch, labels, attack, *, generator, gradients):
        seeds.append(generator.initial_seed())
        return batch

    monkeypatch.setattr(attacks, "run_attack", unmoved)
    for seed in (0, 1):
        run(robust_model, images, PGD, batch_size=len(images) // 3, seed=seed)
    assert len(set(seeds)) == len(seeds) >= 6


def test_sizes_are_in_the_norm_of_the_threat_model():
    moved = torch.tensor([3.0, -4.0]).view(1, 1, 1, 2)
    for norm, size in (("linf", 4), ("l2", 5), ("l1", 7)):
        assert attacks.perturbation_sizes(moved, torch.zeros_like(moved), norm=norm).item() == size


class RootOfOnePixel(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return Brightness()(images) + images[:, 0, 0, :1].sqrt()


def test_equal_images_are_each_watched_and_an_infinite_pixel_stops_no_other():
    images, labels = torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.long)
    images[1, 0, 0, 0] = 0.0
    watched = attacks.WatchedModel(RootOfOnePixel())

    def look(points: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        inputs = points.clone().requires_grad_()
        return torch.autograd.grad(watched(inputs)[:, 1].sum(), inputs)[0]

    with watched.batch(images):
        gradient = watched.following(look, only_right=False)(images, labels)
    not_finite, nonzero = watched.counted()
    assert (not_finite.tolist(), nonzero.tolist()) == ([False, True, False], [True] * 3)
    assert gradient[1].flatten().tolist() == pytest.approx([0.0] + [1 / 64] * 63)
