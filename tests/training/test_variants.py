"""What goes beyond objective and perturbation: removal, averaging, and the checkpoints kept."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rwp.core import ExampleLosses
from rwp.core.lsc import loss_groups
from rwp.core.models import PreActResNet
from rwp.core.modes import untracked_statistics
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.landscape import measure_landscape
from rwp.pipeline.load import check_params
from rwp.pipeline.resolve_evaluation import landscape_spec
from rwp.pipeline.settings import Params
from rwp.training import loop
from rwp.training.batches import Batches
from rwp.training.checkpoint import load_network
from rwp.training.jobs import input_paths, prepare, train_run
from rwp.training.loop import Training
from rwp.training.spec import PreActResNetSpec, TrainSpec
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of
from tests.training.outcomes import rows, weights


def short(spec: TrainSpec, **changes: Any) -> TrainSpec:
    """One epoch of a few steps."""
    optimization = spec.optimization.replace(epochs=1)
    few = {"optimization": optimization, "keep_epochs": (), "held_out_fraction": 0.8}
    return spec.replace(**few | changes)


@pytest.fixture(scope="module")
def plain(shared_root: Path, tmp_path_factory: pytest.TempPathFactory, tiny: Params) -> Path:
    """AT for one epoch."""
    output = tmp_path_factory.mktemp("at")
    return train_run(short(spec_of(tiny, "at")), root=shared_root, fingerprint="at", output=output)


def test_nothing_below_zero_is_removed(
    plain: Path, shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    spec = short(spec_of(tiny, "at"), remove_below=0.0)
    folder = train_run(spec, root=shared_root, fingerprint="zero", output=tmp_path)
    ours, theirs = weights(folder / "last.pt"), weights(plain / "last.pt")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rows(folder)[0]["share_removed"] == 0


def test_removed_examples_stay_in_the_divisor() -> None:
    losses, kept = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([False, True, True, False])
    assert loop._weighted(losses, None, kept).mean() == 5 / 4
    weights = torch.tensor([1.0, 1.0, 2.0, 2.0])  # of labeled and of pseudo-labeled images
    assert loop._weighted(losses, weights, kept).mean() == 8 / 4


def test_removed_examples_leave_momentum_and_decay(
    shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    """Where a whole batch is removed, weights only decay: exactly (1 - lr * decay) each step."""
    spec = short(spec_of(tiny, "at"), remove_below=1e6)
    optimization = spec.optimization.replace(momentum=0.0, schedule="constant")
    spec = spec.replace(optimization=optimization)
    start = short(spec, optimization=optimization.replace(learning_rate=1e-12))
    untouched = train_run(start, root=shared_root, fingerprint="start", output=tmp_path / "start")
    folder = train_run(spec, root=shared_root, fingerprint="all", output=tmp_path / "all")
    assert rows(folder)[0]["share_removed"] == 1
    before, after = weights(untouched / "last.pt"), weights(folder / "last.pt")
    name = next(name for name in after if name.endswith("weight") and after[name].ndim == 4)
    num_steps = 4  # a fifth of 1,005 images in batches of 64
    shrunk = (
        before[name] * (1 - optimization.learning_rate * optimization.weight_decay) ** num_steps
    )
    torch.testing.assert_close(after[name], shrunk, rtol=1e-5, atol=1e-7)


Kept = list[tuple[torch.Tensor, torch.Tensor]]  # of each step: the losses, who counts


def removals(
    folder: Path, root: Path, spec: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Kept]:
    """A training, and who counted in each of its steps."""
    seen: Kept = []
    original = Training._kept

    def kept(self: Training, outer: Any) -> torch.Tensor | None:
        found = original(self, outer)
        if found is not None:
            seen.append((outer.criterion.detach().clone(), found.clone()))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_kept", kept)
        return train_run(spec, root=root, fingerprint=folder.name, output=folder), seen


def test_as_many_are_removed_at_random(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = 2.25
    spec = short(spec_of(tiny, "at"), remove_below=threshold, held_out_fraction=0.15)
    drawn = spec.replace(remove_at_random=True)
    folder, seen = removals(tmp_path / "random", shared_root, drawn, monkeypatch)
    removed, counted = [], []
    for losses, kept in seen:
        assert set(kept.tolist()) <= {0.0, 1.0}
        assert (kept == 0).sum() == (losses < threshold).sum()
        removed += losses[kept == 0].tolist()
        counted += losses[kept == 1].tolist()
    assert min(len(removed), len(counted)) > 100
    assert any(loss >= threshold for loss in removed)  # whoever they are
    assert any(loss < threshold for loss in counted)
    assert rows(folder)[0]["share_removed"] == pytest.approx(
        len(removed) / (len(removed) + len(counted))
    )
    again, same = removals(tmp_path / "again", shared_root, drawn, monkeypatch)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(seen, same, strict=True))
    assert not torch.equal(seen[0][1][:32], seen[1][1][:32])  # drawn anew in each step
    ours, theirs = weights(folder / "last.pt"), weights(again / "last.pt")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    low, seen = removals(tmp_path / "low", shared_root, spec, monkeypatch)
    assert all(torch.equal(kept, (losses >= threshold).float()) for losses, kept in seen)
    assert any(not torch.equal(ours[name], weights(low / "last.pt")[name]) for name in ours)


@pytest.mark.parametrize("threshold", [0.0, 1e6])
def test_none_or_all_at_random_are_none_or_all(
    threshold: float, shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    """Where there is nothing to draw the control is the removal itself, to the bit."""
    spec = short(spec_of(tiny, "at"), remove_below=threshold)
    low, drawn = (
        weights(train_run(s, root=shared_root, fingerprint=n, output=tmp_path / n) / "last.pt")
        for n, s in (("low", spec), ("random", spec.replace(remove_at_random=True)))
    )
    assert all(torch.equal(low[name], drawn[name]) for name in low)


def test_nothing_removed_at_random_changes_no_fingerprint(tiny: Params) -> None:
    assert "remove_at_random" not in spec_of(tiny, "at").canonical()


def test_what_the_perturbation_adds_to_the_loss_is_in_the_history(
    shared_root: Path, tiny: Params
) -> None:
    spec = short(spec_of(tiny, "at-awp"))
    assert spec.perturbation is not None
    spec = spec.replace(perturbation=spec.perturbation.replace(warmup_epochs=0, gamma=0.05))
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    perturb, before = training.perturb, []

    def look(model: nn.Module, losses: Any, *arguments: Any, **options: Any) -> Any:
        with untracked_statistics(model), torch.no_grad():
            before.extend(losses().objective.double().tolist())
        return perturb(model, losses, *arguments, **options)

    training.perturb = look
    training.run_epoch(lambda: None)
    row = training.tally.row()
    assert row["loss_rise"] == pytest.approx(
        row["train_loss"] - sum(before) / len(before), abs=1e-5
    )
    assert row["loss_rise"] > 0.01


def test_a_rise_is_told_of_the_loss_that_is_raised_alone(shared_root: Path, tiny: Params) -> None:
    found = []
    for change in ({"c_min": 0.0}, {"climbs": "clean_ce"}):  # nothing to raise; another loss
        spec = short(spec_of(tiny, "at-rwp"))
        assert spec.perturbation is not None
        spec = spec.replace(perturbation=spec.perturbation.replace(warmup_epochs=0, **change))
        training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
        training.run_epoch(lambda: None)
        found.append(training.tally.row()["loss_rise"])
    assert found == [0, None]


def test_the_moving_average_is_what_is_kept(
    plain: Path,
    shared_root: Path,
    tmp_path: Path,
    tiny: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Training itself is that of AT; what is saved is the recurrence a <- d a + (1 - d) w."""
    seen: list[dict[str, torch.Tensor]] = []
    original = Training._step

    def step(self: Training, batch: Any) -> None:
        original(self, batch)
        seen.append({name: value.clone() for name, value in self.model.state_dict().items()})

    monkeypatch.setattr(Training, "_step", step)
    decay = 0.9
    spec = short(spec_of(tiny, "at"), average_decay=decay)
    folder = train_run(spec, root=shared_root, fingerprint="average", output=tmp_path)
    theirs = weights(plain / "last.pt")
    assert all(torch.equal(seen[-1][name], theirs[name]) for name in theirs)
    kept = weights(folder / "last.pt")
    for name in kept:
        if kept[name].is_floating_point():
            average = seen[0][name].double()
            for state in seen[1:]:
                average = decay * average + (1 - decay) * state[name].double()
            torch.testing.assert_close(kept[name].double(), average, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_what_is_measured_is_what_is_kept(
    decay: float | None, shared_root: Path, tiny: Params
) -> None:
    """The moving average where there is one: a curve of other weights would choose `best`."""
    spec = short(spec_of(tiny, "at"), average_decay=decay)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    assert training.measured_runner is training.measured
    assert (training.measured is training.model) == (decay is None)


def test_what_is_removed_is_of_low_criterion(shared_root: Path, tiny: Params) -> None:
    """Which may be another loss than the one that is trained on."""
    spec = short(spec_of(tiny, "at"), remove_below=1.0)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    high, mixed = torch.tensor([9.0, 9.0, 0.1]), torch.tensor([0.1, 3.0, 3.0])
    found = training._kept(ExampleLosses(high, mixed, torch.zeros(3, 2)))
    assert found is not None
    assert found.tolist() == [0, 1, 1]


def test_each_draw_of_a_step_has_a_stream_of_its_own(
    all_recipes: Params, shared_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random mask that were drawn as the attack's start is would not be random."""
    spec = spec_of(all_recipes, "mine").replace(remove_at_random=True)
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    training.progress.epoch = 1
    training.model.train()
    drawn: list[Any] = []
    original = loop.generator_for

    def noted(seed: int, *where: Any, **options: Any) -> torch.Generator:
        drawn.append((seed, *where))
        return original(seed, *where, **options)

    monkeypatch.setattr(loop, "generator_for", noted)
    training._step_in_precision(training.batches.plan(1)[0])
    assert drawn == [(0, purpose, 1, 0) for purpose in ("augment", "attack", "mask", "removal")]


@pytest.fixture(scope="module")
def kept(
    shared_root: Path, tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any]
) -> tuple[Params, Path]:
    """A run that keeps checkpoints for Figure 2, in a project of its own."""
    root = tmp_path_factory.mktemp("kept")
    (root / "data").symlink_to(shared_root / "data")
    params = check_params(tiny_settings(committed))
    train_run(spec_of(params, "at"), root=root, fingerprint="f")
    return params, root


def test_each_checkpoint_is_of_its_epoch(kept: tuple[Params, Path]) -> None:
    params, root = kept
    spec = spec_of(params, "at")
    folder = root / spec.key.directory
    assert spec.keep_epochs == (1, 3)
    epochs = [load_network(path)[1]["epoch"] for path in sorted(folder.glob("checkpoints/*.pt"))]
    assert epochs == [0, 2]
    ours, last = weights(folder / "checkpoints" / "epoch3.pt"), weights(folder / "last.pt")
    assert all(torch.equal(ours[name], last[name]) for name in last)
    history = rows(folder)
    record = json.loads((folder / "run.json").read_text())
    best = max(history, key=lambda row: row["test_robust_accuracy"])
    assert {name: record["best_on_test"][name] for name in best} == best
    assert load_network(folder / "best_on_test.pt")[1]["epoch"] == best["epoch"]


def test_the_landscape_of_kept_checkpoints(
    kept: tuple[Params, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, root = kept
    spec = landscape_spec(params, "demo", "fig2").replace(test_images=True)
    output = tmp_path / "fig2.csv"
    arithmetic = set()
    forward = PreActResNet.forward

    def noted(self: PreActResNet, images: torch.Tensor) -> torch.Tensor:
        arithmetic.add(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]
        return forward(self, images)

    monkeypatch.setattr(PreActResNet, "forward", noted)
    measure_landscape(spec, root=root, fingerprint="print", output=output)
    assert arithmetic == {"ieee"}  # not TF32, as cuDNN does it unless told otherwise
    with output.open(newline="") as stream:
        found = list(csv.DictReader(stream))
    assert {row["epoch"] for row in found} == {"1", "3"}
    assert {float(row["offset"]) for row in found} == {-1.0, 0.0, 1.0}
    assert {row["split"] for row in found} == {"train", "test"}
    assert {row["seed"] for row in found} == {"0"}
    for row in found:
        low, high = map(float, row["group"].split("-"))
        if float(row["offset"]) == 0:  # the checkpoint itself
            assert float(row["change"]) == 0
            assert low <= float(row["loss"]) < high
    for split, most in (("train", 854), ("test", 252)):  # no more than there are
        sizes = {
            (row["epoch"], row["group"]): int(row["num_examples"])
            for row in found
            if row["split"] == split
        }
        assert 0 < sum(n for (epoch, _), n in sizes.items() if epoch == "3") <= most
    plain = tmp_path / "plain.csv"
    measure_landscape(spec.replace(test_images=False), root=root, fingerprint="print", output=plain)
    with plain.open(newline="") as stream:  # the training images are measured as without the others
        assert list(csv.DictReader(stream)) == [row for row in found if row["split"] == "train"]
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["fingerprint"] == "print"
    assert loss_groups(torch.tensor([2.999, 3.0]), spec.edges).tolist() == [5, -1]


DROPPING = """
from torch import nn

def net(*, num_classes):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, num_classes)
    )
"""


def test_a_batch_of_one_that_batch_normalization_cannot_use(
    shared_root: Path, tiny: Params
) -> None:
    """8x8 images are one pixel each before the last normalization of a large network."""
    spec = spec_of(tiny, "at")
    count = len(
        prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))[0].batches.labels
    )
    deep = PreActResNetSpec(family="preact_resnet", blocks=(1, 1, 1, 1, 1), width=4)
    last_alone = spec.optimization.replace(batch_size=count - 1)
    for architecture, size in ((deep, count), (spec.architecture, count - 1)):
        fine = spec.replace(
            architecture=architecture, optimization=spec.optimization.replace(batch_size=size)
        )
        prepare(fine, input_paths(spec, shared_root), torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"expected at least 2 images in every batch, .* got a batch"
    ):
        prepare(
            spec.replace(architecture=deep, optimization=last_alone),
            input_paths(spec, shared_root),
            torch.device("cpu"),
        )


def test_unlabeled_images_of_another_size_are_refused(shared_root: Path, tiny: Params) -> None:
    spec = spec_of(tiny, "rst")
    labeled = ImageSet.load(shared_root / "data/digits/train.pt")
    larger = ImageSet(labeled.images.repeat(1, 1, 2, 2), labeled.labels, labeled.num_classes)
    with pytest.raises(UserError, match=r"height, width\) \(1, 8, 8\), .* got \(1, 16, 16\); name"):
        Batches(spec, labeled, larger, device=torch.device("cpu"))


@pytest.fixture
def dropping(
    committed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainSpec:
    """AT of a network of the user's own with dropout."""
    (tmp_path / "dropping.py").write_text(DROPPING)
    monkeypatch.syspath_prepend(tmp_path)
    content = tiny_settings(committed)
    content["networks"]["mine"] = {"family": "dropping:net"}
    content["suites"]["demo"]["network"] = "mine"
    spec = spec_of(check_params(content), "at")
    assert spec.key.network == "mine"
    return spec


def test_kept_losses_take_no_draw_from_dropout(dropping: TrainSpec, shared_root: Path) -> None:
    found = []
    for keeps in (False, True):
        spec = dropping.replace(keep_losses=keeps)
        training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
        training.model.train()
        training._step_in_precision(training.batches.plan(0)[0])
        found.append(training.model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_dropout_of_an_own_network_is_the_same_after_a_break(
    dropping: TrainSpec, shared_root: Path
) -> None:
    """It draws from torch's own stream, which no checkpoint holds."""

    def fresh() -> Training:
        return prepare(dropping, input_paths(dropping, shared_root), torch.device("cpu"))[0]

    whole, broken = fresh(), fresh()
    plan = whole.batches.plan(0)
    whole.model.train()
    whole._step_in_precision(plan[0])
    whole.progress.step = 1
    torch.manual_seed(99)  # whatever was drawn in between
    state = copy.deepcopy(whole.state())
    whole._step_in_precision(plan[1])
    broken.load_state(state)
    broken.model.train()
    broken._step_in_precision(plan[1])
    first, second = whole.model.state_dict(), broken.model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], state["weights"][name]) for name in first)
