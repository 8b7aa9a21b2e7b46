import multiprocessing
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pyautoattack import AutoAttack
from torch import nn

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import autoattack as module
from rwp.evaluation.alarms import UNSTEADY
from rwp.evaluation.autoattack import VERSIONS, autoattack
from rwp.evaluation.shared_batches import BatchOutcome, load_outcome, save_outcome
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import (
    Quantized,
    Returning,
    ShortAutoAttack,
    Tiring,
    WithoutGradient,
    attack,
    autoattack_spec,
    three_classes,
)
from tests.evaluation.workers import BATCH, SEED, killed_before_saving, short_autoattack, worker

_START = multiprocessing.get_context("forkserver")
_START.set_forkserver_preload(["tests.evaluation.workers"])


def package_flags(model: nn.Module, images: ImageSet, *, kind=ShortAutoAttack, **options):
    """The package's own loop, unsharded, on a model as it comes."""
    settings = {"norm": "Linf", "eps": 0.1, "version": "standard", "seed": SEED} | options
    with torch.random.fork_rng():
        _, labels = kind(model, **settings).run_standard_evaluation(
            images.images.float() / 255, images.labels, batch_size=BATCH
        )
    return (labels == images.labels).numpy()


@pytest.fixture(scope="module")
def expected(robust_model: nn.Module, images: ImageSet) -> np.ndarray:
    return package_flags(robust_model, images)


def run_process(target, *arguments) -> int:
    process = _START.Process(target=target, args=arguments)
    process.start()
    process.join(280)
    assert process.exitcode is not None
    return process.exitcode


def test_flags_are_the_packages_own(robust_model, images, expected):
    result = short_autoattack(robust_model, images, None)
    assert np.array_equal(result.robust, expected)
    assert 0 < result.robust.sum() < result.clean_correct.sum()
    assert list(result.parts) == list(VERSIONS["standard"])
    assert result.parts["square"] == result.robust.sum()
    assert 0 < result.max_perturbation <= 0.1 + 1e-6


def test_flags_are_the_packages_own_in_l2(robust_model, images, monkeypatch):
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    spec = autoattack_spec(threat=ThreatSpec(norm="l2", epsilon="0.5"))
    result = autoattack(robust_model, images, spec, batch_size=BATCH, seed=SEED, device="cpu")
    wanted = package_flags(robust_model, images, norm="L2", eps=0.5)
    assert np.array_equal(result.robust, wanted)


class LongSquare(AutoAttack):
    """Square Attack alone, long enough for windows to recur."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.square.n_queries, self.attacks_to_run = 1500, ["square"]


@pytest.mark.slow
def test_square_asks_the_model_less_often_to_the_same_end(robust_model, images, monkeypatch):
    monkeypatch.setattr(module, "AutoAttack", LongSquare)
    monkeypatch.setitem(VERSIONS, "standard", ("square",))
    calls = []
    hook = robust_model.register_forward_hook(lambda *_: calls.append(1))
    try:
        spec = autoattack_spec()
        result = autoattack(robust_model, images, spec, batch_size=BATCH, seed=SEED, device="cpu")
        ours = len(calls)
        wanted = package_flags(robust_model, images, kind=LongSquare)
    finally:
        hook.remove()
    assert np.array_equal(result.robust, wanted)
    assert 0 < result.robust.sum() < result.clean_correct.sum()
    assert ours < 0.7 * (len(calls) - ours)


def test_killed_in_each_attack_then_shared_gives_the_same_flags(
    robust_model, images, expected, tmp_path: Path
):
    for name in VERSIONS["standard"]:
        code = run_process(killed_before_saving, robust_model, images, tmp_path, f"{name}-1")
        assert code == -signal.SIGKILL
        assert (tmp_path / f"{name}-0.pt").exists()
        assert not (tmp_path / f"{name}-1.pt").exists()
    helpers = [
        _START.Process(target=worker, args=(robust_model, images, tmp_path)) for _ in range(2)
    ]
    for helper in helpers:
        helper.start()
    result = short_autoattack(robust_model, images, tmp_path)
    for helper in helpers:
        helper.join(120)
        assert helper.exitcode == 0
    assert np.array_equal(result.robust, expected)


def test_finished_batches_are_not_run_again(robust_model, images, expected, tmp_path, monkeypatch):
    short_autoattack(robust_model, images, tmp_path)
    damaged = tmp_path / "fab-t-1.pt"
    damaged.write_bytes(damaged.read_bytes()[:100])
    runs = []
    perturb = module._perturb
    monkeypatch.setattr(module, "_perturb", lambda *given: runs.append(given[1]) or perturb(*given))
    result = short_autoattack(robust_model, images, tmp_path)
    assert runs == ["fab-t"]
    assert np.array_equal(result.robust, expected)


def test_caller_keeps_random_numbers_tracer_and_logger(robust_model, images):
    torch.manual_seed(5)
    before, tracer = torch.random.get_rng_state(), sys.gettrace()
    short_autoattack(robust_model, images, None)
    assert torch.equal(before, torch.random.get_rng_state())
    assert sys.gettrace() is tracer


def test_lite_runs_two_attacks(robust_model, images, monkeypatch):
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    result = autoattack(
        robust_model, images, autoattack_spec("lite"), batch_size=BATCH, seed=SEED, device="cpu"
    )
    assert list(result.parts) == ["apgd-ce", "apgd-t"]


def run_short(model: nn.Module, images: ImageSet):
    return short_autoattack(model, images.select(torch.arange(12)), None)


def test_randomized_model_is_noticed(robust_model, images):
    noisy = Returning(robust_model, lambda logits: logits + torch.randn_like(logits))
    assert any("randomized defense" in text for text in run_short(noisy, images).warnings)


def test_probabilities_are_noticed(robust_model, images):
    softmax = Returning(robust_model, lambda logits: logits.softmax(1))
    assert any("probability distribution" in text for text in run_short(softmax, images).warnings)


def test_zero_gradients_and_square_are_noticed(robust_model, images):
    flat = Returning(robust_model, lambda logits: (3 * logits).round())
    warnings = run_short(flat, images).warnings
    assert any("zero gradient" in text for text in warnings)


def test_square_beating_white_box_attacks_is_noticed():
    clean = np.ones(100, dtype=bool)
    parts = {"apgd-ce": 50, "apgd-t": 49, "fab-t": 49, "square": 40}
    assert "Square Attack has decreased" in module._square_warning(clean, parts)[0]
    assert module._square_warning(clean, parts | {"square": 49}) == ()


@pytest.mark.parametrize("calls", [60, 400])
def test_a_model_that_turns_is_noticed(robust_model, images, calls):
    model = Tiring(robust_model, calls).eval()
    warnings = run_short(model, images).warnings
    assert model.left < 0
    assert any(text.startswith(UNSTEADY) for text in warnings)


def test_calm_model_leaves_no_warning(robust_model, images):
    assert run_short(robust_model, images).warnings == ()


def test_few_classes(images: ImageSet):
    few = ImageSet(images.images, images.labels % 3, 3)
    with pytest.raises(UserError, match="expected at least 4 classes, got 3"):
        autoattack(three_classes(), few, autoattack_spec(), batch_size=8, seed=0, device="cpu")
    five = ImageSet(images.images, images.labels % 5, 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5)).eval()
    assert "4 target classes instead of 9" in short_autoattack(model, five, None).warnings[0]


def test_few_classes_have_a_version_of_their_own(images: ImageSet, monkeypatch):
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    threat = ThreatSpec(norm="linf", epsilon="0.06")
    spec = attack("few-classes", "autoattack", version="few-classes", threat=threat)
    for num_classes in (2, 3):
        few = ImageSet(images.images, images.labels % num_classes, num_classes)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes, bias=False)).eval()
        with torch.no_grad():
            pixels, targets = few.images.flatten(1) / 255, torch.eye(num_classes)[few.labels]
            gram = pixels.T @ pixels + 0.1 * torch.eye(64)
            model[1].weight.copy_(torch.linalg.solve(gram, pixels.T @ targets).T)
        result = autoattack(model, few, spec, batch_size=16, seed=0, device="cpu")
        assert list(result.parts) == ["apgd-ce", "apgd-margin", "fab-t", "square"]
        assert np.array_equal(result.robust, linear_truth(model[1].weight, few, 0.06))
        assert 0 < result.robust.sum() < result.clean_correct.sum()
        assert result.warnings == ()
    ten = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(UserError, match="expected two or three classes for version: few-classes"):
        autoattack(ten, images, spec, batch_size=16, seed=0, device="cpu")


def linear_truth(weight: torch.Tensor, images: ImageSet, epsilon: float) -> np.ndarray:
    """Which images a linear model gets right at every point of the L-inf ball in [0, 1]."""
    pixels, rows = images.images.flatten(1).double() / 255, weight.detach().double()
    safe = torch.ones(len(images), dtype=torch.bool)
    for wrong in range(len(rows)):
        lead = rows[images.labels] - rows[wrong]
        worst = torch.where(lead > 0, pixels - epsilon, pixels + epsilon).clamp(0, 1)
        safe &= ((lead * worst).sum(1) > 0) | (images.labels == wrong)
    return safe.numpy()


def test_gradients_that_are_not_finite_are_counted(robust_model, images):
    some = images.select(torch.arange(12))
    plain = short_autoattack(robust_model, some, None)
    assert (plain.gradients.not_finite, plain.gradients.zero) == (0, 0)
    blind = short_autoattack(WithoutGradient(robust_model), some, None)
    assert blind.gradients.images == blind.gradients.not_finite == plain.clean_correct.sum()
    assert blind.gradients.blind_not_finite == blind.robust.sum()
    assert any("gradient was not finite" in text for text in blind.warnings)


def test_gradients_of_zero_are_counted(robust_model, images):
    flat = Returning(robust_model, lambda logits: logits + 0.0 * logits.round())
    assert short_autoattack(flat, images.select(torch.arange(8)), None).gradients.zero == 0
    rounded = Quantized(robust_model, 15)
    found = short_autoattack(rounded, images.select(torch.arange(12)), None)
    assert found.gradients.zero == found.gradients.images == found.clean_correct.sum()
    assert found.gradients.blind_zero == found.robust.sum()


def test_nothing_left_to_attack(images: ImageSet):
    wrong = ImageSet(images.images, (images.labels + 1) % 10, 10)
    right = Returning(  # whatever the pixels are, of which the logits hold but a trace
        nn.Flatten(),
        lambda pixels: torch.eye(10)[images.labels[: len(pixels)]] + 1e-6 * pixels[:, :10],
    )
    result = short_autoattack(right, wrong.select(torch.arange(8)), None)
    assert result.robust.sum() == 0
    assert result.max_perturbation == 0.0


def test_unknown_version(robust_model, images):
    spec = attack("autoattack", version="plus")
    with pytest.raises(
        UserError, match="expected a version of standard, lite, few-classes, got 'plus'"
    ):
        autoattack(robust_model, images, spec, batch_size=8, seed=0, device="cpu")


def test_nan_logits_leave_no_result(robust_model, images, tmp_path):
    broken = Returning(robust_model, lambda logits: logits * torch.nan)
    with pytest.raises(UserError, match="expected finite logits"):
        short_autoattack(broken, images, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_full_length_flags_are_the_packages_own(robust_model, images):
    some = images.select(torch.tensor(random.Random(0).sample(range(len(images)), 16)))
    result = autoattack(
        robust_model, some, autoattack_spec(), batch_size=BATCH, seed=SEED, device="cpu"
    )
    assert np.array_equal(result.robust, package_flags(robust_model, some, kind=AutoAttack))


def test_the_outcome_of_other_images_counts_as_missing(tmp_path: Path):
    outcome, path = BatchOutcome([3], torch.zeros(1, 1, 8, 8), 1.0, (), [], []), tmp_path / "b.pt"
    save_outcome(path, np.array([3, 5]), outcome)
    found = load_outcome(path, np.array([3, 5]))
    assert found is not None
    assert found.fooled == [3]
    assert load_outcome(path, np.array([3, 6])) is None
