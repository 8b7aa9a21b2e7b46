"""A training that starts from another's state, and what every image's losses were."""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from rwp.core import ALONE
from rwp.core.models import Normalization
from rwp.errors import UserError
from rwp.metric_names import TIMINGS
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.settings import Params
from rwp.pipeline.steps import Steps
from rwp.training import resume
from rwp.training.checkpoint import load_network, load_weights
from rwp.training.image_losses import ImageLosses, read_losses
from rwp.training.jobs import input_paths, prepare, train_run
from rwp.training.loop import Training
from rwp.training.own_network import OwnNetwork
from rwp.training.spec import OwnNetworkSpec, TrainSpec
from rwp.training.start import _check_network, _check_normalization, _fitted, begin
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of
from tests.training.outcomes import rows, weights
from tests.training.test_resume import Noting

FINGERPRINT = "0123456789abcdef"
PARENT = {"recipe": "at", "epoch": 1}
RECIPES: dict[str, Any] = {
    "at-on": {"objective": "at", "start": PARENT},
    "at-on-rwp": {"objective": "at", "perturbation": "rwp", "start": PARENT},
    "at-on-decay": {"objective": "at", "start": PARENT, "change": {"weight_decay": 0.05}},
    "at-on-ema": {"objective": "at", "start": PARENT, "average_decay": 0.9},
    "pretrained": {"objective": "at", "start": {"file": "weights.pt"}},
}


TEMPERED = """
import torch
from torch.nn import functional as F


class Tempered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(2.0))

    def losses(self, model, images, adversarial, labels):
        logits = model(adversarial) / self.temperature
        return F.cross_entropy(logits, labels, reduction="none"), logits
"""


def branched(committed: dict[str, Any], **recipes: Any) -> Params:
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["recipes"] |= RECIPES | recipes
    demo |= {"keep_losses": True, "held_out_fraction": 0.6}
    return check_params(content)


def brief(spec: TrainSpec) -> TrainSpec:
    return spec.replace(keep_epochs=())


@pytest.fixture(scope="module")
def trunk(
    committed: dict[str, Any], shared_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Params, Path]:
    """A project in which AT is trained to its end and has kept its state after an epoch."""
    root = tmp_path_factory.mktemp("trunk")
    (root / "data").symlink_to(shared_root / "data")
    params = branched(committed)
    spec = spec_of(params, "at")
    assert spec.keep_starts == (1,)
    train_run(brief(spec), root=root, fingerprint="parent")
    return params, root


def train(trunk: tuple[Params, Path], recipe: str, output: Path, **options: Any) -> Path:
    params, root = trunk
    spec = brief(spec_of(params, recipe))
    return train_run(spec, root=root, fingerprint=FINGERPRINT, output=output, **options)


def same(first: Path, second: Path) -> bool:
    ours, theirs = weights(first), weights(second)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_at_continued_as_at_is_at_without_a_break(
    trunk: tuple[Params, Path], tmp_path: Path
) -> None:
    params, root = trunk
    whole = root / spec_of(params, "at").key.directory
    parts = train(trunk, "at-on", tmp_path)
    for name in ("last", "best", "best_on_test"):
        assert same(parts / f"{name}.pt", whole / f"{name}.pt"), name
    assert rows(parts) == rows(whole)
    assert len(rows(parts)) == 3
    assert (parts / "losses.npz").read_bytes() == (whole / "losses.npz").read_bytes()
    records = [json.loads((folder / "run.json").read_text()) for folder in (parts, whole)]
    for name in ("best", "best_on_test", "passes"):
        found = [{k: v for k, v in record[name].items() if k not in TIMINGS} for record in records]
        assert found[0] == found[1], name


def test_another_recipe_leaves_the_trunk_after_its_epoch(
    trunk: tuple[Params, Path], tmp_path: Path
) -> None:
    params, root = trunk
    whole = root / spec_of(params, "at").key.directory
    for recipe in ("at-on-rwp", "at-on-decay"):
        folder = train(trunk, recipe, tmp_path / recipe)
        assert rows(folder)[:1] == rows(whole)[:1]
        assert rows(folder)[1:] != rows(whole)[1:]
    assert rows(tmp_path / "at-on-rwp")[1]["norm_ratio"] > 0
    averaged = train(trunk, "at-on-ema", tmp_path / "ema")
    losses = [row["train_loss"] for row in rows(averaged)]
    assert losses == [row["train_loss"] for row in rows(whole)]  # its training is that of AT
    assert not same(averaged / "last.pt", whole / "last.pt")


def test_a_branch_with_an_objective_that_remembers_begins_its_memory(
    trunk: tuple[Params, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trunk has another objective, so there is nothing to take over."""
    (tmp_path / "tempered.py").write_text(TEMPERED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    params, root = trunk
    spec = brief(spec_of(params, "at-on"))
    spec = spec.replace(objective=spec.objective.replace(loss="tempered:Tempered"))
    found = train_run(spec, root=root, fingerprint=FINGERPRINT, output=tmp_path / "branch")
    assert len(rows(found)) == len(rows(train(trunk, "at-on", tmp_path / "plain")))


def test_a_branch_that_is_killed_goes_on_to_the_bit(
    trunk: tuple[Params, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(trunk, "at-on-rwp", tmp_path / "whole")
    original, count = Training._step, iter(range(100))

    def step(self: Training, indices: Any) -> None:
        if next(count) == 9:
            raise KeyboardInterrupt
        original(self, indices)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "_step", step)
        patched.setattr(resume, "CHECKPOINT_SECONDS", 0)  # saved amid the epoch
        with pytest.raises(KeyboardInterrupt):
            train(trunk, "at-on-rwp", tmp_path / "parts")
    parts = train(trunk, "at-on-rwp", tmp_path / "parts")
    assert rows(parts) == rows(whole)
    assert same(parts / "last.pt", whole / "last.pt")
    assert (parts / "losses.npz").read_bytes() == (whole / "losses.npz").read_bytes()


def test_a_branch_that_diverges_at_once_goes_back_to_its_trunk(
    trunk: tuple[Params, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Training._step

    def step(self: Training, indices: Any) -> None:
        original(self, indices)
        next(self.model.parameters()).data.fill_(math.inf)

    monkeypatch.setattr(Training, "_step", step)
    monkeypatch.setattr(resume, "LOOK_SECONDS", -1)
    folder = train(trunk, "at-on", tmp_path)
    assert json.loads((folder / "run.json").read_text())["status"] == "diverged"
    for name in ("last", "best", "best_on_test"):
        assert load_network(folder / f"{name}.pt")[1]["epoch"] == 0


def test_a_listener_hears_of_the_trunk_once(trunk: tuple[Params, Path], tmp_path: Path) -> None:
    noting = Noting()
    train(trunk, "at-on", tmp_path, recorder=noting)
    assert noting.said == [0, 1, 2, "finished"]


def test_weights_from_a_file(trunk: tuple[Params, Path], tmp_path: Path) -> None:
    """A checkpoint of this project or a state_dict; the training begins at epoch 0."""
    params, root = trunk
    last = root / spec_of(params, "at").key.directory / "last.pt"
    (root / "weights.pt").write_bytes(last.read_bytes())
    first = train(trunk, "pretrained", tmp_path / "a")
    torch.save(weights(last), root / "weights.pt")
    second = train(trunk, "pretrained", tmp_path / "b")
    assert same(first / "last.pt", second / "last.pt")
    assert rows(first)[0]["epoch"] == 0
    assert len(rows(first)) == 3
    fresh = rows(root / spec_of(params, "at").key.directory)[0]["train_loss"]
    assert rows(first)[0]["train_loss"] < fresh  # it had learned before
    content = torch.load(last, weights_only=True)
    of_another = content | {"network": content["network"] | {"mean": [0.1]}}
    torch.save(of_another, root / "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt: expected the network .*got mean \[0.1\]"):
        train(trunk, "pretrained", tmp_path / "c")
    moved = content["weights"] | {"normalize.std": torch.full((1, 1, 1, 1), 0.5)}
    torch.save(moved, root / "weights.pt")
    with pytest.raises(UserError, match=r"with the std \[.*\] of .*, got \[0.5\]; write theirs"):
        train(trunk, "pretrained", tmp_path / "c")
    for strange, told in (
        ({0: torch.zeros(3)}, "table of tensors, got something else"),
        ({0: torch.zeros(3), "x": torch.zeros(3)}, r"weights of .* and 1 unknown \(x\)"),
    ):
        torch.save(strange, root / "weights.pt")
        with pytest.raises(UserError, match=rf"weights.pt: expected .*{told}"):
            train(trunk, "pretrained", tmp_path / "c")
    torch.save({"linear.weight": torch.zeros(3).to_sparse()}, root / "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt: expected a table of tensors, got something"):
        train(trunk, "pretrained", tmp_path / "c")
    torch.save({"linear.weight": torch.zeros(3)}, root / "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt: expected the weights of PreActResNet"):
        train(trunk, "pretrained", tmp_path / "c")
    (root / "weights.pt").unlink()
    with pytest.raises(UserError, match=r"weights.pt: expected what .* starts from, found no file"):
        train(trunk, "pretrained", tmp_path / "d")


def test_what_says_nothing_of_the_weights_refuses_no_start(trunk: tuple[Params, Path]) -> None:
    """A setting that is newer than the file; code of one's own that was edited since."""
    spec, path = spec_of(trunk[0], "pretrained"), Path("weights.pt")
    shape = {"num_classes": 10, "in_channels": 1, "mean": None, "std": None}
    older = {"family": "preact_resnet", "blocks": [1], "width": 8}
    now = shape | {"architecture": older | {"activation": "relu"}}
    _check_network(shape | {"architecture": older}, spec, now, path)
    other = shape | {"architecture": older | {"activation": "silu"}}
    with pytest.raises(UserError, match=r"got architecture .*silu"):
        _check_network(other, spec, now, path)
    own = OwnNetworkSpec(family="own.methods:net", source="today")
    edited = {"family": "own.methods:net", "options": {}, "source": "then"}
    mine = spec.replace(architecture=own)
    network = shape | {"architecture": own.document()}
    _check_network(shape | {"architecture": edited}, mine, network, path)
    other = shape | {"architecture": edited | {"options": {"width": 2}}}
    with pytest.raises(UserError, match=r"got architecture .*width"):
        _check_network(other, mine, network, path)


def test_weights_of_a_network_of_ones_own_need_no_names_of_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stands before it is that of the settings; no prefix counts, and no table around."""
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3))
    model = OwnNetwork(Normalization([0.5], [0.2]), inner)
    theirs = copy.deepcopy(inner)
    theirs[1].weight.data.fill_(7.0)
    bare = theirs.state_dict()
    prefixed = {f"module.{name}": value for name, value in bare.items()}
    whole = OwnNetwork(Normalization([0.5], [0.2]), theirs).state_dict()
    network = {"mean": [0.5], "std": [0.2]}
    unused: Any = None

    def holding(network: nn.Module) -> Any:
        spec = SimpleNamespace(start=None, key=SimpleNamespace(name="mine", dataset="pets"))
        return SimpleNamespace(model=network, spec=spec, average=None, group=ALONE)

    def saved(content: Any) -> Path:
        torch.save(content, tmp_path / "theirs.pt")
        return tmp_path / "theirs.pt"

    for given in (bare, {"state_dict": prefixed, "epoch": 3}, whole):
        begin(holding(model), unused, network, saved(given))
        told = capsys.readouterr().err
        assert (": weights without a normalization" in told) == (given is not whole)
        part, weights = _fitted(model, given, Path("theirs.pt"))
        load_weights(part, weights, source="theirs.pt")
        assert part is (model if given is whole else inner)
        assert bool((inner[1].weight == 7).all())
        inner[1].weight.data.zero_()
    more = {"network.more": torch.zeros(1)}
    for given in (whole | more, {f"module.{n}": v for n, v in (whole | more).items()}):
        fitted = _fitted(model, given, Path("theirs.pt"))
        with pytest.raises(UserError, match=r"got 0 missing .* and 1 unknown \(network.more\)"):
            load_weights(*fitted, source="theirs.pt")
    two = {"model": bare, "ema": {name: value + 1 for name, value in bare.items()}}
    with pytest.raises(UserError, match=r"^theirs.pt: expected .* of one network, got"):
        _fitted(model, two, Path("theirs.pt"))


def test_a_network_of_ones_own_may_normalize_inside(trunk: tuple[Params, Path]) -> None:
    spec, path = spec_of(trunk[0], "pretrained"), Path("weights.pt")
    inner = nn.Sequential(Normalization([0.5], [0.2]), nn.Flatten())
    plain: dict[str, Any] = {"mean": None, "std": None}
    _check_normalization(OwnNetwork(nn.Identity(), inner), spec, plain, path)
    outer = OwnNetwork(Normalization([0.3], [0.2]), inner)
    _check_normalization(outer, spec, {"mean": [0.3], "std": [0.2]}, path)
    with pytest.raises(UserError, match=r"the mean \[0.4\] of .*, got \[0.3"):
        _check_normalization(outer, spec, {"mean": [0.4], "std": [0.2]}, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 7}, r"expected the network of .* \(num_classes 10\), got num_classes 7"),
        ({"mean": [0.1]}, r"\(mean \[0.305\]\), got mean \[0.1\]; start from a run of the same n"),
        ({"architecture": {"family": "x"}}, r"got architecture \{'family': 'x'\}"),
    ],
)
def test_a_parent_that_does_not_fit(
    change: dict[str, Any], message: str, trunk: tuple[Params, Path], tmp_path: Path
) -> None:
    params, root = trunk
    path = root / spec_of(params, "at").key.directory / "checkpoints" / "start1.pt"
    kept = path.read_bytes()
    content = torch.load(path, weights_only=True)
    content["network"] |= change
    torch.save(content, path)
    try:
        with pytest.raises(UserError, match=message):
            train(trunk, "at-on", tmp_path)
        torch.save({"format": "rwp.checkpoint/1"}, path)
        with pytest.raises(UserError, match="expected the state of a training to start from"):
            train(trunk, "at-on", tmp_path)
    finally:
        path.write_bytes(kept)


def test_the_parent_is_part_of_the_fingerprint(committed: dict[str, Any]) -> None:
    params = branched(committed)
    place = {"dataset": "digits", "threat": "linf", "seed": 0}
    step = Steps(params).train(run_key(params, "demo", recipe="at-on-rwp", **place))
    path = "results/demo/runs/digits/linf/small/at/seed0/checkpoints/start1.pt"
    assert path in step.inputs
    assert step.inputs[path].kind == "train"
    assert path in step.inputs[path].outputs
    content = tiny_settings(committed)
    content["suites"]["demo"]["recipes"] |= RECIPES
    content["suites"]["demo"] |= {"keep_losses": True, "held_out_fraction": 0.6}
    content["suites"]["demo"]["training"]["attack_num_steps"] = {"default": 2}
    assert Steps(check_params(content)).train(step.settings.key).fingerprint == step.fingerprint
    content["suites"]["demo"]["recipes"]["at"]["change"] = {"weight_decay": 0.1}
    assert Steps(check_params(content)).train(step.settings.key).fingerprint != step.fingerprint


def test_a_sweep_over_the_epoch_of_the_branch(committed: dict[str, Any]) -> None:
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["recipes"] |= RECIPES
    demo["sweeps"]["when"] = {"recipe": "at-on-rwp", "vary": {"start_epoch": [1, 2]}}
    params = check_params(content)
    assert spec_of(params, "at").keep_starts == (1, 2)
    assert spec_of(params, "at-on-rwp-start_epoch-2").first_epoch == 2
    again = spec_of(params, "at-on-rwp-start_epoch-1").canonical()
    assert again.replace("-start_epoch-1", "") == spec_of(params, "at-on-rwp").canonical()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown parent": (
        {"recipe": "ta", "epoch": 1},
        r"start\.recipe: expected a recipe .*'ta'",
    ),
    "a circle": (
        {"recipe": "mine", "epoch": 1},
        r"another recipe, got a circle \(mine from",
    ),
    "no epoch": ({"recipe": "at"}, "expected an epoch with a recipe and with nothing else, got"),
    "nothing": ({}, r"expected a recipe \(with an epoch\) or a file, got none"),
    "both": ({"recipe": "at", "epoch": 1, "file": "a.pt"}, "or a file, got both"),
    "after the end": (
        {"recipe": "at", "epoch": 3},
        "expected an epoch from 1 to 2, which at",
    ),
    "before its own start": ({"recipe": "at-on", "epoch": 1}, "expected an epoch from 2 to 2"),
    "another measure": ({"recipe": "natural", "epoch": 1}, "measured as mine is, got natural"),
}


def test_a_branch_keeps_no_network_of_its_trunk(committed: dict[str, Any]) -> None:
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["recipes"] |= RECIPES
    demo["figures"]["fig2"] |= {"recipe": "at-on", "epochs": [2, 3]}
    assert spec_of(check_params(content), "at-on").keep_epochs == (2, 3)
    demo["figures"]["fig2"]["epochs"] = [1, 3]
    with pytest.raises(UserError, match=r"fig2\.epochs: expected epochs after the 1 that at-on"):
        spec_of(check_params(content), "at-on")


def test_epochs_that_are_measured_otherwise_are_no_common_curve(
    committed: dict[str, Any],
) -> None:
    """And `best` would be chosen among numbers of two kinds."""
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["recipes"]["mine"] = {"objective": "trades", "start": PARENT}
    assert spec_of(check_params(content), "mine").first_epoch == 1
    demo["training"]["monitor_random_start"] = {"trades": "gaussian"}
    with pytest.raises(UserError, match=r"mine\.start: expected .* at with another random_start"):
        spec_of(check_params(content), "mine")
    demo["training"]["monitor_random_start"]["at"] = "gaussian"
    assert spec_of(check_params(content), "mine").first_epoch == 1


def test_an_average_is_not_gone_on_from_as_if_it_were_raw(committed: dict[str, Any]) -> None:
    """`best` of the child could be the average of its parent."""
    content = tiny_settings(committed)
    recipes = content["suites"]["demo"]["recipes"]
    recipes["averaged"] = {"objective": "at", "average_decay": 0.9}
    recipes["mine"] = {"objective": "at", "start": {"recipe": "averaged", "epoch": 1}}
    with pytest.raises(UserError, match=r"mine\.start: expected a recipe whose raw weights are"):
        spec_of(check_params(content), "mine")
    recipes["mine"]["average_decay"] = 0.9
    assert spec_of(check_params(content), "mine").first_epoch == 1
    recipes["averaged"]["change"] = {"precision": "bf16"}
    with pytest.raises(UserError, match=r"epochs are measured in fp32, .* got averaged in bf16"):
        spec_of(check_params(content), "mine")


@pytest.mark.parametrize("name", BAD)
def test_one_line_before_anything_is_trained(name: str, committed: dict[str, Any]) -> None:
    start, message = BAD[name]

    def resolved() -> TrainSpec:
        return spec_of(branched(committed, mine={"objective": "at", "start": start}), "mine")

    with pytest.raises(UserError, match=message):
        resolved()


def test_weights_that_are_not_there_are_missed_while_planning(
    committed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = branched(committed)
    place = {"dataset": "digits", "threat": "linf", "seed": 0}
    key = run_key(params, "demo", recipe="pretrained", **place)
    with pytest.raises(UserError, match=r"weights.pt: expected the weights that .* found no file"):
        Steps(params).train(key)
    (tmp_path / "weights.pt").write_bytes(b"one")
    one = Steps(params).train(key).fingerprint
    (tmp_path / "weights.pt").write_bytes(b"two")
    assert Steps(params).train(key).fingerprint != one


def test_the_losses_of_every_image(trunk: tuple[Params, Path]) -> None:
    params, root = trunk
    folder = root / spec_of(params, "at").key.directory
    found = read_losses(folder / "losses.npz")
    num_images = len(found["image"])
    assert num_images == 402  # of 1,005 images, three fifths held out
    assert {name: (array.shape, str(array.dtype)) for name, array in found.items()} == {
        "image": ((num_images,), "int32"),
        "label": ((num_images,), "int16"),
        "clean_loss": ((3, num_images), "float16"),
        "adversarial_loss": ((3, num_images), "float16"),
        "clean_correct": ((3, num_images), "bool"),
        "adversarial_correct": ((3, num_images), "bool"),
    }
    train_set = torch.load(root / "data/digits/train.pt", weights_only=True)
    labels = train_set["labels"][torch.from_numpy(found["image"]).long()]
    assert found["label"].tolist() == labels.tolist()
    assert len(set(found["image"].tolist())) == num_images
    for epoch, row in enumerate(rows(folder)):
        # AT takes its outer pass at w: what the history says of the epoch is the mean over images
        loss = found["adversarial_loss"][epoch].astype(np.float64).mean()
        assert loss == pytest.approx(row["train_loss"], rel=2e-3)
        accuracy = found["adversarial_correct"][epoch].mean()
        assert accuracy == pytest.approx(row["train_robust_accuracy"])
        assert found["clean_loss"][epoch].mean() < found["adversarial_loss"][epoch].mean()


def test_looking_changes_nothing_of_the_training(
    trunk: tuple[Params, Path], tmp_path: Path
) -> None:
    params, root = trunk
    spec = brief(spec_of(params, "at")).replace(keep_losses=False, keep_starts=())
    folder = train_run(spec, root=root, fingerprint="without", output=tmp_path)
    whole = root / spec.key.directory
    assert same(folder / "last.pt", whole / "last.pt")
    assert rows(folder) == rows(whole)
    assert not (folder / "losses.npz").exists()
    assert "keep_losses" not in spec.canonical()


def test_an_image_that_no_step_had_is_nan(
    trunk: tuple[Params, Path], shared_root: Path, tmp_path: Path
) -> None:
    """RST takes a part of the labeled images in an epoch, and others beside them."""
    params, _ = trunk
    spec = brief(spec_of(params, "rst"))
    assert spec.unlabeled is not None
    mix = spec.unlabeled.replace(epoch_size=256)
    optimization = spec.optimization.replace(epochs=1)
    spec = spec.replace(unlabeled=mix, optimization=optimization, keep_starts=())
    folder = train_run(spec, root=shared_root, fingerprint="rst", output=tmp_path)
    found = read_losses(folder / "losses.npz")
    seen = np.isfinite(found["adversarial_loss"][0])
    assert seen.sum() == 128  # half of each of four batches of 64
    assert not found["adversarial_correct"][0][~seen].any()


def test_an_image_that_several_steps_had_has_their_mean(
    trunk: tuple[Params, Path], shared_root: Path
) -> None:
    """An epoch of RST may be longer than its labeled images, which then come again."""
    params, _ = trunk
    spec = brief(spec_of(params, "rst"))
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    count = training.batches.num_labeled
    losses = ImageLosses(count, torch.device("cpu"))
    images = training.batches.images[:4].float() / 255
    labels, model = training.batches.labels[:4], training.model.eval()
    with torch.no_grad():
        answers = model(images).argmax(dim=1)
    labels = torch.where(torch.arange(4) < 2, answers, (answers + 1) % 10)
    for places in ([0, 1, 2, count], [0, 2, 1, 3]):  # the second and the third change places
        losses.look(model, model, images, images, labels, torch.tensor(places))
    losses.finish_epoch()
    row = losses.epochs[0]
    each = functional.cross_entropy(model(images), labels, reduction="none").detach()
    both = (each[1] + each[2]) / 2
    expected = torch.stack([each[0], both, both, each[3]])
    torch.testing.assert_close(row["clean_loss"][:4].float(), expected, rtol=2e-3, atol=1e-4)
    assert row["adversarial_correct"][:4].tolist() == [True, False, False, False]
    assert bool(row["clean_loss"][4:].isnan().all())
    assert not row["clean_correct"][4:].any()
