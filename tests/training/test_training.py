"""What a training does: its schedule, its guards, its files."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.core import ExampleLosses
from rwp.data.images import ImageSet
from rwp.data.sampling import epoch_batches
from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.reporting.runs import read_run_folder
from rwp.training import jobs, loop, resume
from rwp.training.batches import Batches
from rwp.training.checkpoint import load_network
from rwp.training.guards import Stopped, check_epoch
from rwp.training.history import Row, Tally
from rwp.training.jobs import input_paths, train_run
from rwp.training.loop import Training
from rwp.training.optimization import learning_rate
from rwp.training.pseudo_labels import load_pseudo_labeled, write_pseudo_labels
from rwp.training.run_record import commit
from rwp.training.spec import OptimizationSpec
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of


def schedule(name: str, **changes: Any) -> OptimizationSpec:
    values = {
        "epochs": 200,
        "batch_size": 128,
        "learning_rate": 0.1,
        "schedule": name,
        "decay_epochs": (100, 150),
        "decay_factor": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "precision": "fp32",
        "batch_statistics": "batch",
        "compile": "off",
    }
    return OptimizationSpec(**(values | changes))


@pytest.mark.parametrize(
    ("epoch", "step", "rate"),
    [(0, 0, 0.1), (99, 389, 0.1), (99, 390, 0.01), (149, 389, 0.01), (149, 390, 0.001)],
)
def test_at_drops_on_the_last_batch_before_the_milestone(
    epoch: int, step: int, rate: float
) -> None:
    found = learning_rate(schedule("piecewise_by_step"), epoch=epoch, step=step, num_steps=391)
    assert found == pytest.approx(rate)


def test_trades_trains_99_epochs_at_the_full_rate() -> None:
    spec = schedule("piecewise_by_epoch")
    rates = [learning_rate(spec, epoch=epoch, step=0, num_steps=391) for epoch in range(200)]
    counts = [sum(math.isclose(rate, value) for rate in rates) for value in (0.1, 0.01, 0.001)]
    assert counts == [99, 50, 51]


def test_rst_follows_a_cosine() -> None:
    spec = schedule("cosine_by_epoch")
    rates = [learning_rate(spec, epoch=epoch, step=0, num_steps=196) for epoch in (0, 100, 199)]
    assert rates[0] == 0.1
    assert rates[1] == pytest.approx(0.05)
    assert 0 < rates[2] < 1e-4


def history(*rows: tuple[float, float]) -> list[dict[str, float]]:
    return [
        {"epoch": index, "train_loss": loss, "train_robust_accuracy": accuracy}
        for index, (loss, accuracy) in enumerate(rows)
    ]


def test_guard_stops_what_is_not_finite() -> None:
    with pytest.raises(Stopped, match="the training loss is nan in epoch 1") as caught:
        check_epoch(history((2.0, 0.3), (math.nan, 0.3)), epochs=200, majority_share=0.1)
    assert caught.value.status == "diverged"


def test_guard_stops_a_perturbation_that_is_not_finite() -> None:
    told = [row | {"norm_ratio": math.inf} for row in history((2.0, 0.3))]
    with pytest.raises(Stopped, match=r"the weight perturbation's norm, .* is inf in epoch 0"):
        check_epoch(told, epochs=200, majority_share=0.1)


@pytest.mark.parametrize(("epochs", "patience"), [(5, 2), (20, 8), (24, 10), (25, 10), (26, 10)])
def test_guard_waits_for_two_fifths_of_a_short_schedule(epochs: int, patience: int) -> None:
    check_epoch(history(*[(2.3, 0.1)] * (patience - 1)), epochs=epochs, majority_share=0.1)
    with pytest.raises(Stopped, match=f"share .0.100. for {patience} epochs"):
        check_epoch(history(*[(2.3, 0.1)] * patience), epochs=epochs, majority_share=0.1)


def test_the_largest_class_is_that_of_the_labeled_images(tiny: Params) -> None:
    spec = spec_of(tiny, "rst")
    images = torch.zeros(10, 1, 8, 8, dtype=torch.uint8)
    labeled = ImageSet(images, torch.tensor([0] * 7 + [1] * 3), 10)
    pseudo = ImageSet(images, torch.full((10,), 2), 10)
    assert Batches(spec, labeled, pseudo, device=torch.device("cpu")).majority_share == 0.7


def test_the_histogram_is_of_the_loss_that_is_trained_on() -> None:
    tally = Tally(torch.device("cpu"))
    losses = ExampleLosses(torch.tensor([0.2, 9.0]), torch.tensor([1.2, 1.3]), torch.eye(2))
    tally.add(losses, torch.tensor([0, 1]), c_min=1.25, perturbed=None)
    row = tally.row()
    assert row["loss_histogram"] == [0.5, 0, 0, 0, 0, 0, 0.5]
    assert row["share_below_c_min"] == 0.5


def test_guard_leaves_svhn_its_plateau_and_no_longer() -> None:
    plateau = history(*[(2.26, 0.187)] * 9)
    check_epoch(plateau, epochs=200, majority_share=0.189)
    with pytest.raises(Stopped, match="has not left the majority class's share"):
        check_epoch(history(*[(2.26, 0.187)] * 10), epochs=200, majority_share=0.189)
    check_epoch(history(*[(2.2, 0.19)] * 9, (1.9, 0.31)), epochs=200, majority_share=0.189)
    ten_times_chance = history(*[(6.7, 0.01)] * 10)  # of a thousand classes
    check_epoch(ten_times_chance, epochs=200, majority_share=0.001)
    with pytest.raises(Stopped, match="has not left the majority class's share"):
        check_epoch(history(*[(6.9, 0.001)] * 10), epochs=200, majority_share=0.001)


def test_guard_leaves_a_network_that_learns_and_does_not_resist_yet() -> None:
    """A few steps on a few images: right on half of three classes, and on none under attack."""
    rows = history((1.7, 0.2), (1.5, 0.3))
    for names in (("held_out_clean_accuracy", "test_clean_accuracy"), ("test_clean_accuracy",)):
        told = [row | dict.fromkeys(names, 0.5) for row in rows]
        check_epoch(told, epochs=2, majority_share=0.334)
        told[1] |= dict.fromkeys(names, math.nan)  # measured every second epoch
        check_epoch(told, epochs=2, majority_share=0.334)
        told = [row | dict.fromkeys(names, 0.4) for row in rows]
        with pytest.raises(Stopped, match="has not left the majority class's share"):
            check_epoch(told, epochs=2, majority_share=0.334)
    chosen = [row | {"held_out_clean_accuracy": 0.4, "test_clean_accuracy": 0.5} for row in rows]
    with pytest.raises(Stopped):  # the test split decides nothing where images are held out
        check_epoch(chosen, epochs=2, majority_share=0.334)


@pytest.mark.parametrize("share", [0.85, 0.95, 0.991])
def test_guard_asks_of_one_large_class_what_can_be_reached(share: float) -> None:
    """600 good and 5 defect: above a share of 0.99 none is a point above it."""
    right, held = history(*[(0.01, 1.0)] * 4), history(*[(0.2, share)] * 4)
    some = share + 0.6 * (1 - share)  # of the others it tells most, and resists on none

    def check(rows: list[dict[str, float]], clean: float) -> None:
        told = [row | {"test_clean_accuracy": clean} for row in rows]
        check_epoch(told, epochs=8, majority_share=share)

    check(right, 1.0)
    check(held, some if share > 0.9 else share + 0.11)
    with pytest.raises(Stopped, match="has not left the majority class's share"):
        check(held, share)


def test_guard_knows_the_largest_class_of_what_is_measured() -> None:
    """Trained on as many of each class, measured where one has nine of ten images."""
    told = [row | {"held_out_clean_accuracy": 0.9} for row in history(*[(0.7, 0.5)] * 6)]
    check_epoch(told, epochs=6, majority_share=0.5)
    with pytest.raises(Stopped, match="has not left the majority class's share"):
        check_epoch(told, epochs=6, majority_share=0.5, measured_share=0.9)
    told = [row | {"held_out_clean_accuracy": 0.96} for row in told]
    check_epoch(told, epochs=6, majority_share=0.5, measured_share=0.9)


def test_guard_remembers_what_was_measured_before() -> None:
    """Held-out images that are looked at rarely, and no curve on test images."""
    rows = history(*[(1.5, 0.3)] * 6)
    rows[0] |= {"held_out_clean_accuracy": 0.97}
    check_epoch(rows, epochs=6, majority_share=0.334)
    rows[0] |= {"held_out_clean_accuracy": 0.3}
    with pytest.raises(Stopped):
        check_epoch(rows, epochs=6, majority_share=0.334)


def test_c_min_zero_trains_as_at_to_the_bit(
    shared_root: Path, tmp_path: Path, committed: dict[str, Any]
) -> None:
    content = tiny_settings(committed)
    content["suites"]["demo"]["perturbations"]["rwp"]["c_min"] = 0
    params = check_params(content)
    folders = [
        train_run(
            spec_of(params, recipe), root=shared_root, fingerprint="f", output=tmp_path / recipe
        )
        for recipe in ("at", "at-rwp")
    ]
    at, rwp = (torch.load(f / "last.pt", weights_only=True)["weights"] for f in folders)
    assert all(torch.equal(at[name], rwp[name]) for name in at)


@pytest.mark.parametrize(
    ("shape", "num_classes"), [((3, 8, 8), 10), ((1, 10, 10), 10), ((1, 8, 8), 9)]
)
def test_a_teacher_labels_no_images_unlike_its_own(
    shared_root: Path, tmp_path: Path, tiny: Params, shape: tuple[int, ...], num_classes: int
) -> None:
    mix = spec_of(tiny, "rst").unlabeled
    assert mix is not None
    for name in ("digits", "unlabeled"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "results").symlink_to(shared_root / "results")
    (tmp_path / "data/digits/test.pt").symlink_to(shared_root / "data/digits/test.pt")
    images = torch.randint(256, (4, *shape), dtype=torch.uint8)
    found = ImageSet(images, torch.full((4,), -1), num_classes)
    found.save(tmp_path / f"data/unlabeled/{mix.source}.pt")
    message = r"expected 10 classes and images .*\[1, 8, 8\] as in digits, .*, got \d+ classes and"
    with pytest.raises(UserError, match=rf"unlabeled\.{mix.source}: {message}"):
        write_pseudo_labels(mix.labeling, root=tmp_path, fingerprint="labels")


def test_files_of_a_run(shared_root: Path, tmp_path: Path, tiny: Params) -> None:
    spec = spec_of(tiny, "at-rwp")
    folder = train_run(spec, root=shared_root, fingerprint="print", output=tmp_path)
    record = json.loads((folder / "run.json").read_text())
    num_images = round(0.85 * len(ImageSet.load(shared_root / "data" / "digits" / "train.pt")))
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert record["status"] == "finished"
    assert record["fingerprint"] == "print"
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert record["last"] == rows[-1]
    best = max(rows, key=lambda row: row["held_out_robust_accuracy"])
    assert record["best"]["held_out_robust_accuracy"] == best["held_out_robust_accuracy"]
    assert rows[0]["weight_steps"] == 0  # warm-up
    assert 0 < rows[1]["weight_steps"] <= spec.perturbation.num_weight_steps  # type: ignore[union-attr]
    assert rows[1]["norm_ratio"] == pytest.approx(0.01, rel=1e-3)
    assert sum(rows[0]["loss_histogram"]) == pytest.approx(1)
    assert sorted(record["inputs"]) == ["test", "train"]
    steps = 3 * len(epoch_batches(num_images, batch_size=64, seed=0, epoch=0))
    # The attack's steps and the outer pass; in two of the three epochs two weight steps as well.
    # What was measured between the epochs is no part of it.
    assert record["passes"]["forward"] == steps * (2 + 1) + steps // 3 * 2 * 2
    network, description = load_network(folder / "best.pt")
    assert description["epoch"] == record["best"]["epoch"]
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert not list((shared_root / ".state").rglob("checkpoint.pt"))


def test_a_run_that_collapses_in_an_epoch_to_be_kept_is_marked_and_ends(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(history: Sequence[Row], **_: Any) -> None:
        if len(history) == 2:
            raise Stopped("collapsed", "as asked")

    monkeypatch.setattr(jobs, "check_epoch", check)
    spec = spec_of(tiny, "at").replace(keep_epochs=(1, 2, 3), keep_starts=(2,))
    folder = train_run(spec, root=shared_root, fingerprint="kept", output=tmp_path)
    assert json.loads((folder / "run.json").read_text())["status"] == "collapsed"
    last = load_network(folder / "last.pt")[1]["epoch"]
    kept = {
        path.stem: load_network(path)[1]["epoch"] for path in folder.glob("checkpoints/epoch*.pt")
    }
    assert last == 1
    assert sorted(kept.values()) == [0, 1, 1]  # the final network stands in


def test_a_run_that_diverges_is_marked_and_ends(
    shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training._step

    def step(self: Training, batch: Any) -> None:
        original(self, batch)
        if self.progress.epoch == 1:
            self.tally.sums["loss"] += math.nan

    monkeypatch.setattr(Training, "_step", step)
    shares: list[dict[str, Any]] = []

    def noted(history: list[Any], **options: Any) -> None:
        shares.append(options)
        check_epoch(history, **options)

    monkeypatch.setattr("rwp.training.jobs.check_epoch", noted)
    folder = train_run(spec_of(tiny, "at"), root=shared_root, fingerprint="f", output=tmp_path)
    measured = shares[0]["measured_share"]  # of the held-out images, not of those trained on
    assert 0.1 <= measured != shares[0]["majority_share"]
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "diverged"
    assert "training loss is nan in epoch 1" in record["reason"]
    assert record["last"] is None
    load_network(folder / "last.pt")  # the last epoch that was in order, to be looked at


@pytest.mark.parametrize("epoch", [0, 1])
def test_what_diverges_within_an_epoch_is_stopped_there_and_not_saved(
    epoch: int, shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, steps = Training._step, []

    def step(self: Training, batch: Any) -> None:
        original(self, batch)
        steps.append(self.progress.epoch)
        if (self.progress.epoch, self.progress.step) == (epoch, 3):
            next(self.model.parameters()).data.fill_(math.inf)

    monkeypatch.setattr(Training, "_step", step)
    monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", 0)  # after each step, unless it is bad
    spec = spec_of(tiny, "at").replace(keep_losses=True)
    folder = train_run(spec, root=shared_root, fingerprint="inf", output=tmp_path)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "diverged"
    assert record["reason"] == f"a weight is not finite in epoch {epoch}, by step 4"
    assert steps.count(epoch) == 4
    assert read_run_folder(folder).status == "diverged"
    network, _ = load_network(folder / "last.pt")
    assert all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


def test_missing_data_are_named(tmp_path: Path, tiny: Params) -> None:
    with pytest.raises(UserError, match=r"train\.pt: expected the train images, found none"):
        input_paths(spec_of(tiny, "at"), tmp_path)


def test_without_a_test_curve_the_test_split_is_no_input(
    shared_root: Path, committed: dict[str, Any]
) -> None:
    content = tiny_settings(committed)
    demo = content["suites"]["demo"] | {"test_curve": False, "figures": {}, "reported": []}
    content["suites"] = {"demo": demo}  # others show test curves
    spec = spec_of(check_params(content), "at")
    assert sorted(input_paths(spec, shared_root)) == ["train"]


@pytest.mark.parametrize("keep", [0, 300])
def test_cut_pseudo_labels_are_refused(keep: int, shared_root: Path, tmp_path: Path) -> None:
    (whole,) = (shared_root / "results" / "demo" / "pseudo_labels").rglob("*.pt")
    cut = tmp_path / "labels.pt"
    cut.write_bytes(whole.read_bytes()[:keep])
    images = shared_root / "data" / "unlabeled" / "digits-holdout.pt"
    with pytest.raises(UserError, match=r"labels\.pt: expected a checkpoint, got"):
        load_pseudo_labeled(images, cut, num_classes=10)


def test_the_commit_is_the_projects_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpacked in a folder of another repository, it has none."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    (tmp_path / "notes").write_text("of somebody")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "theirs")):
        subprocess.run(("git", "-C", str(tmp_path), *words), check=True)
    project = tmp_path / "unpacked"
    project.mkdir()
    (project / "params.yaml").write_text("")
    monkeypatch.chdir(project)
    assert commit.__wrapped__() is None
    subprocess.run(("git", "add", "."), check=True)
    found = commit.__wrapped__()
    assert found is not None
    assert found.endswith("+changes")


@pytest.mark.parametrize("saves", [True, False])
def test_a_weight_that_is_lost_in_the_last_steps_is_not_saved(
    saves: bool, shared_root: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(
        model: torch.nn.Module, *_: Any, after_batch: Callable[[], None], **__: Any
    ) -> dict[str, float]:
        next(model.parameters()).data.fill_(math.inf)
        if saves:
            monkeypatch.setattr(resume, "CHECKPOINT_SECONDS", 0)
            after_batch()
        return {"clean_accuracy": 0.5, "robust_accuracy": 0.5}

    monkeypatch.setattr(loop, "measure", measure)
    folder = train_run(spec_of(tiny, "at"), root=shared_root, fingerprint="lost", output=tmp_path)
    record = json.loads((folder / "run.json").read_text())
    assert record["reason"] == "a weight is not finite in epoch 0"
    load_network(folder / "last.pt")
