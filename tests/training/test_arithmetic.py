"""The arithmetic in which a training runs and is measured: its settings, watched on any machine."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rwp.core.models import build_network
from rwp.core.objectives import ExampleLosses
from rwp.core.precision import autotuned_convolutions
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.pipeline.settings import Params
from rwp.training.batches import Batches
from rwp.training.history import GROUP_EDGES, Tally
from rwp.training.jobs import input_paths, prepare
from rwp.training.measure import batch_size, measure
from rwp.training.optimization import MovingAverage, _OwnOutputs
from rwp.training.spec import AttackSpec, TrainSpec
from tests.training.conftest import spec_of

BACKENDS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


def with_optimization(spec: TrainSpec, **changes: Any) -> TrainSpec:
    optimization = spec.optimization.replace(**{"epochs": 1} | changes)
    return spec.replace(optimization=optimization, keep_epochs=())


class Watched(torch.nn.Module):
    """A network that notes the arithmetic of each of its passes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: set[tuple[Any, ...]] = set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        settings = [backend.fp32_precision for backend in BACKENDS]
        autocast = torch.is_autocast_enabled("cpu")
        self.seen.add((*settings, autocast, torch.backends.cudnn.benchmark))
        return self.network(images)


@pytest.fixture
def determinism() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "tf32")],
)
@pytest.mark.parametrize("recipe", ["at-rwp", "at-ema"])
def test_what_is_measured_runs_in_the_precision_of_the_training(
    recipe: str, precision: str, expected: str, shared_root: Path, tiny: Params
) -> None:
    spec = with_optimization(spec_of(tiny, recipe), precision=precision)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    arithmetic = (expected, expected, precision == "bf16", False)
    trained = training.runner = Watched(training.model)
    training._step_in_precision(training.batches.plan(0)[0])
    assert trained.seen == {arithmetic}
    measured = training.measured_runner = Watched(training.measured)
    row = training.finish_epoch()
    assert measured.seen == {arithmetic}
    assert {"held_out_robust_accuracy", "test_robust_accuracy"} <= row.keys()


@pytest.mark.usefixtures("determinism")
@pytest.mark.parametrize("found", [False, True])
def test_a_deterministic_training_tries_no_algorithms(
    found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fastest differs from one time to the next, and so would the bits."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", found)
    with autotuned_convolutions("cuda"):
        assert torch.backends.cudnn.benchmark is False
    assert torch.backends.cudnn.benchmark is found


@pytest.mark.usefixtures("determinism")
def test_no_step_and_no_measurement_of_a_deterministic_training_tunes(
    shared_root: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = with_optimization(spec_of(tiny, "at-rwp"))
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    training.runner = training.measured_runner = watched = Watched(training.model)
    # As on a GPU, where the loop would otherwise switch it on.
    monkeypatch.setattr(
        "rwp.training.loop.autotuned_convolutions", lambda device: autotuned_convolutions("cuda")
    )
    training._step_in_precision(training.batches.plan(0)[0])
    training.finish_epoch()
    assert watched.seen == {("ieee", "ieee", False, False)}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"blocks": (1,), "width": 4, "mean": None, "std": None}
    return build_network("preact_resnet", num_classes=10, in_channels=1, **shape)


class Waves(torch.nn.Module):
    """Two classes, by the brightness, that follow one another closer than an attack steps."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wave = (100 * images.mean((1, 2, 3))).cos()
        return torch.stack([wave, -wave], 1)


def test_some_images_are_fooled_only_on_the_way() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (400, 1, 6, 6), generator=generator, dtype=torch.uint8)
    model = Waves()
    answers = model(pixels.float() / 255).argmax(1)
    step = {"threat": {"norm": "linf", "epsilon": "0.05"}, "step_size": "0.04", "num_steps": 4}
    counts = {}
    for keep in ("last", "worst"):
        words = {"name": "a", "kind": "pgd", "random_start": "none", "keep": keep}
        counts[keep] = measure(
            model,
            ImageSet(pixels, answers, 2),
            AttackSpec.parse(words | step, where="test"),
            generator=lambda index: torch.Generator(),
            device=torch.device("cpu"),
        )
    assert counts["last"]["clean_accuracy"] == counts["worst"]["clean_accuracy"] == 1
    assert counts["worst"]["robust_accuracy"] < counts["last"]["robust_accuracy"] - 0.1


@pytest.mark.parametrize("size", [100, 512, 700, 1100])
def test_batches_of_one_shape_count_each_image_once(size: int) -> None:
    """Images that are wrong already, or were in an earlier batch, are attacked and do not count."""
    generator = torch.Generator().manual_seed(size)
    pixels = torch.randint(256, (size, 1, 6, 6), generator=generator, dtype=torch.uint8)
    model = network().eval()
    with torch.no_grad():
        answers = model(pixels.float() / 255).argmax(1)
    labels = torch.where(torch.rand(size, generator=generator) < 0.7, answers, 3)
    split = ImageSet(pixels, labels, 10)
    step = {"threat": {"norm": "linf", "epsilon": "0.02"}, "step_size": "0.01", "num_steps": 2}
    attack = AttackSpec.parse(
        {"name": "a", "kind": "pgd", "random_start": "none", **step}, where="test"
    )
    found = [
        measure(
            model,
            split,
            attack,
            generator=lambda index: torch.Generator(),
            device=torch.device("cpu"),
            one_shape=one_shape,
        )
        for one_shape in (False, True)
    ]
    assert found[0] == found[1]
    assert found[0]["clean_accuracy"] == pytest.approx((answers == labels).double().mean().item())
    assert 0 < found[0]["robust_accuracy"] < found[0]["clean_accuracy"]


class BrightOnesRounded(torch.nn.Module):
    """Half of the images lose their gradient, as in a network of few gray levels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network().eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.mean((1, 2, 3), keepdim=True) > 0.5
        seen: torch.Tensor = self.inner(torch.where(bright, images.detach(), images))
        return seen


@pytest.mark.parametrize("one_shape", [False, True])
def test_images_without_a_gradient_are_counted(one_shape: bool) -> None:
    """The attack leaves them as they are, and they count as robust; who reads it must know."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (700, 1, 6, 6), generator=generator, dtype=torch.uint8)
    model = BrightOnesRounded()
    with torch.no_grad():
        answers = model(pixels.float() / 255).argmax(1)
    labels = torch.where(torch.rand(700, generator=generator) < 0.7, answers, (answers + 1) % 10)
    step = {"threat": {"norm": "linf", "epsilon": "0.1"}, "step_size": "0.05", "num_steps": 2}
    words = {"name": "a", "kind": "pgd", "random_start": "none", **step}
    found = measure(
        model,
        ImageSet(pixels, labels, 10),
        AttackSpec.parse(words, where="test"),
        generator=lambda index: torch.Generator(),
        device=torch.device("cpu"),
        one_shape=one_shape,
    )
    bright = pixels.float().mean((1, 2, 3)) / 255 > 0.5
    expected = int((bright & (labels == answers)).sum()) / 700
    assert 0.2 < expected < 0.5
    assert found["blind_share"] == pytest.approx(expected, abs=2 / 700)  # on the edge of bright
    assert found["robust_accuracy"] > found["blind_share"]


class OneMemory(torch.nn.Module):
    """Writes its logits to the same place each time, as a recorded graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.zeros(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.copy_(images)


def test_logits_of_a_recorded_graph_outlive_the_next_pass() -> None:
    fast = _OwnOutputs(OneMemory())
    batches = [torch.full((4, 3), float(number)) for number in range(3)]
    found = [fast(images) for images in batches]
    assert all(torch.equal(ours, images) for ours, images in zip(found, batches, strict=True))


def test_the_moving_average_is_torchs_to_the_bit() -> None:
    model = network().train()
    ours = MovingAverage(model, decay=0.9)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        images = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(step))
        model(images).square().sum().backward()
        optimizer.step()
        ours.update(model)
        theirs.update_parameters(model)
    expected = theirs.module.state_dict()
    found = ours.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    restored = MovingAverage(network(), decay=0.9)
    restored.load_state_dict(ours.state_dict())
    restored.update(model)
    ours.update(model)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            ours.module.state_dict().values(), restored.module.state_dict().values(), strict=True
        )
    )


def test_a_table_of_whole_numbers_has_no_average() -> None:
    """Rounded down at each update, a constant 3 would become 2."""
    model = network().train()
    model.register_buffer("places", torch.arange(1000))
    average = MovingAverage(model, decay=0.9)
    for _ in range(3):
        average.update(model)
    assert torch.equal(average.module.get_buffer("places"), torch.arange(1000))


def test_an_average_of_what_cannot_be_copied_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that it is deprecated
        model = torch.nn.utils.weight_norm(torch.nn.Linear(2, 2))
    model(torch.zeros(1, 2))
    with pytest.raises(UserError, match="average_decay: expected a network that"):
        MovingAverage(model, decay=0.9)


def test_the_histogram_of_losses_counts_every_group() -> None:
    losses = torch.tensor(
        [0.0, 0.49, 0.5, 1.0, 1.2, 1.9, 2.0, 2.7, 3.0, 50.0, torch.inf, torch.nan]
    )
    tally = Tally(torch.device("cpu"))
    outer = ExampleLosses(losses, losses, torch.zeros(len(losses), 10))
    tally.add(outer, torch.zeros(len(losses), dtype=torch.long), c_min=None, perturbed=None)
    expected = [2, 1, 2, 1, 1, 1, 4]  # up to each of the edges, and what lies above
    assert len(GROUP_EDGES) + 1 == len(expected)
    assert tally.state()["groups"].tolist() == expected


def test_what_is_below_c_min_is_what_the_mask_looks_at() -> None:
    """The criterion, which may be another loss than the objective."""
    objective, criterion = torch.tensor([5.0, 4.0, 3.0]), torch.tensor([0.5, 1.7, 5.0])
    tally = Tally(torch.device("cpu"))
    outer = ExampleLosses(objective, criterion, torch.eye(3, 10))
    kept = torch.tensor([True, False, False])
    tally.add(outer, torch.tensor([0, 1, 5]), c_min=1.7, perturbed=None, kept=kept)
    row = tally.row()
    assert row["share_below_c_min"] == pytest.approx(1 / 3)  # 1.7 itself is not below
    assert row["share_removed"] == pytest.approx(2 / 3)
    assert row["train_robust_accuracy"] == pytest.approx(2 / 3)
    assert row["train_loss"] == pytest.approx(4.0)


def test_a_checkpoint_of_before_a_count_existed_goes_on_without_it() -> None:
    """Not from zero, which would say too little."""
    losses, tally = torch.tensor([1.0, 3.0]), Tally(torch.device("cpu"))
    state = tally.state()
    del state["loss_rise"]
    tally.load(state)
    outer = ExampleLosses(losses, losses, torch.eye(2, 10))
    tally.add(outer, torch.tensor([0, 1]), c_min=None, perturbed=None, rise=torch.tensor(0.5))
    row = tally.row()
    assert row["loss_rise"] is None
    assert row["train_loss"] == 2.0


@pytest.mark.parametrize(
    ("role", "label", "message"),
    [
        ("labeled", -1, "from 0 to 9, got -1 (unlabeled)"),
        ("pseudo", -1, "from 0 to 9, got -1 (unlabeled)"),
        ("pseudo", 10, "from 0 to 9, got 10;"),
    ],
)
def test_labels_are_looked_at_once_when_loaded(
    role: str, label: int, message: str, tiny: Params
) -> None:
    """No step looks again: on a GPU that would wait for all that is under way."""
    pixels = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)
    good = ImageSet(pixels, torch.arange(20) % 10, 10)
    bad = ImageSet(pixels, torch.where(torch.arange(20) == 7, label, good.labels), 11)
    bad = ImageSet(pixels, bad.labels, 10) if label < 0 else bad
    labeled, pseudo = (bad, good) if role == "labeled" else (good, bad)
    with pytest.raises(UserError, match=re.escape(message)):
        Batches(spec_of(tiny, "rst"), labeled, pseudo, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("shape", "trained", "expected"),
    [
        ((1, 8, 8), 64, 512),
        ((3, 32, 32), 128, 512),
        ((3, 64, 64), 64, 128),
        ((3, 224, 224), 32, 32),
        ((3, 224, 224), 4, 10),
        ((3, 224, 224), 4096, 512),
    ],
)
def test_large_images_are_measured_in_batches_that_training_can_hold(
    shape: tuple[int, ...], trained: int, expected: int
) -> None:
    split = ImageSet(torch.zeros(2, *shape, dtype=torch.uint8), torch.tensor([0, 1]), 2)
    assert batch_size(split, trained) == expected
