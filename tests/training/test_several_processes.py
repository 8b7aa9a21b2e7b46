"""What several processes cannot do together is refused, and what they draw is told apart."""

from __future__ import annotations

import copy
import dataclasses
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import Tensor, nn
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.nn.modules.batchnorm import _BatchNorm

from rwp import processes
from rwp.commands.train import _one_voice
from rwp.core import ALONE, ExampleLosses, Group, WeightPerturbation, normalize_together
from rwp.core.geometry import NormBall, random_point
from rwp.core.mask import select
from rwp.core.process_group import GroupError
from rwp.errors import OwnCodeError, UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.training import loop, measure
from rwp.training.batches import attack_start
from rwp.training.jobs import input_paths, prepare
from rwp.training.loop import Training
from rwp.training.recipe import objective_of
from rwp.training.several_processes import check_layers, check_same_weights
from rwp.training.spec import TrainSpec
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of
from tests.training.ranks import Drifted, Several, run_ranks

OWN = """
import torch
from torch.nn import functional as F


def each(model, adversarial, labels):
    logits = model(adversarial)
    return F.cross_entropy(logits, labels, reduction="none"), logits


class Attacking:
    def __init__(self):
        self.given = []

    def losses(self, model, images, adversarial, labels):
        return each(model, adversarial, labels)

    def attack(self, model, images, labels, *, start=None, generator=None, **options):
        self.given.append((start, torch.rand(3, generator=generator)))
        return images


def weighted():
    def losses(model, images, adversarial, labels):
        found, logits = each(model, adversarial, labels)
        weights = found.detach().softmax(0) * len(found)
        return weights * found, logits
    return losses


def noisy():
    def losses(model, images, adversarial, labels):
        return each(model, adversarial + 0.3 * torch.randn_like(adversarial), labels)
    return losses


class Tempered(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.ones(()), persistent=False)

    def losses(self, model, images, adversarial, labels):
        logits = model(adversarial) / self.temperature
        return F.cross_entropy(logits, labels, reduction="none"), logits


class Filling:
    def __init__(self):
        self.seen = {}

    def losses(self, model, images, adversarial, labels):
        self.seen["batches"] = self.seen.get("batches", 0) + 1
        return each(model, adversarial, labels)

    def state_dict(self):
        return dict(self.seen)

    def load_state_dict(self, state):
        self.seen = dict(state)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "several_own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "several_own"
    sys.modules.pop("several_own", None)


def with_objective(committed: dict[str, Any], loss: str) -> TrainSpec:
    content = tiny_settings(committed)
    content["suites"]["demo"]["objectives"]["mine"] = {"loss": loss}
    content["suites"]["demo"]["recipes"]["mine"] = {"objective": "mine"}
    return spec_of(check_params(content), "mine")


def training(spec: TrainSpec, root: Path, group: Group) -> Training:
    return prepare(spec, input_paths(spec, root), torch.device("cpu"), group)[0]


def test_an_attack_of_ones_own_chooses_its_start_and_draws_for_its_own_images(
    own: str, committed: dict[str, Any], shared_root: Path
) -> None:
    spec = with_objective(committed, f"{own}:Attacking")
    drawn = []
    for group in (ALONE, Several(2), Several(2, rank=1)):
        found = training(spec, shared_root, group)
        batch = found.batches.load(found.batches.plan(0)[0])
        images = batch.images.float() / 255
        found._attack(batch.part(images, group), images)
        ((start, noise),) = found.objective.inner.given  # type: ignore[attr-defined]
        assert start is None
        drawn.append(noise)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_loss_that_depends_on_the_batch_is_refused(
    own: str, committed: dict[str, Any], shared_root: Path
) -> None:
    spec = with_objective(committed, f"{own}:weighted")
    training(spec, shared_root, ALONE)
    with pytest.raises(
        UserError, match="to give each image its loss whatever else is in the batch"
    ):
        training(spec, shared_root, Several(2))
    for name in ("Attacking", "noisy"):  # one that draws cannot be told
        training(with_objective(committed, f"{own}:{name}"), shared_root, Several(2))


def test_a_memory_that_fills_on_the_way_is_refused_too(
    own: str, committed: dict[str, Any], shared_root: Path
) -> None:
    found = training(with_objective(committed, f"{own}:Filling"), shared_root, Several(2))
    found.objective.inner.seen["batches"] = 1  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="expected an objective without state_dict in 2 processes"):
        found.check_together()


class Using(Several):
    """The other process has a gradient of one at each of its weights."""

    def add_up_(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor += 1


def test_weights_that_one_process_leaves_out_get_the_others_gradient(
    own: str, committed: dict[str, Any], shared_root: Path
) -> None:
    found = training(with_objective(committed, f"{own}:Attacking"), shared_root, Using(2))
    first, *others = found.model.parameters()
    first.grad = torch.full_like(first, 0.5)
    found._add_up_gradients()
    assert bool((first.grad == 1.5).all())
    assert all(bool((weight.grad == 1).all()) for weight in others if weight.grad is not None)
    assert all(weight.grad is not None for weight in others)


@pytest.mark.parametrize(("recipe", "kind"), [("at", "uniform"), ("trades", "gaussian")])
def test_each_process_begins_where_the_whole_batch_is_attacked_from(
    recipe: str, kind: Any, tiny: Params
) -> None:
    spec = spec_of(tiny, recipe)
    assert spec.attack is not None
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = random_point(
        NormBall(images, spec.attack.threat.model), kind, torch.Generator().manual_seed(5)
    )
    for rank in (0, 1):
        draw = torch.Generator().manual_seed(5)
        start = attack_start(images, objective_of(spec, 10), spec.attack, draw, Several(2, rank))
        assert start is not None
        assert torch.equal(start, whole[rank::2])


def sharing(committed: dict[str, Any], gpus: int | None) -> TrainSpec:
    content = tiny_settings(committed)
    content["suites"]["demo"]["training"]["batch_statistics"] = "share"
    if gpus:
        content["suites"]["demo"]["training"]["gpus"] = gpus
    return spec_of(check_params(content), "at")


def test_with_statistics_of_shares_their_number_is_part_of_the_method(
    committed: dict[str, Any], shared_root: Path
) -> None:
    alone, one, two = (sharing(committed, gpus) for gpus in (None, 1, 2))
    assert alone == one
    assert "processes" not in alone.canonical()  # a fingerprint of before stays
    assert alone != two
    assert two.optimization.processes == 2
    training(alone, shared_root, ALONE)
    for layer in training(two, shared_root, Several(2)).model.modules():
        assert type(layer) is nn.BatchNorm2d or not isinstance(layer, _BatchNorm)  # not together
    for spec, group, words in (
        (alone, Several(2), "expected 1 processes, as `gpus` says.* got 2"),
        (two, ALONE, "expected 2 processes, as `gpus` says.* got 1"),
        (two, Several(3), "expected 2 processes, as `gpus` says.* got 3"),
    ):
        with pytest.raises(UserError, match=words):
            training(spec, shared_root, group)


@pytest.mark.parametrize("statistics", ["batch", "share"])
def test_statistics_of_shares_are_averaged_after_each_step(
    statistics: str,
    committed: dict[str, Any],
    shared_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = sharing(committed, 2)
    if statistics == "batch":
        spec = spec.replace(optimization=spec.optimization.replace(batch_statistics="batch"))
    found = training(spec, shared_root, Using(2))
    averaged: list[nn.Module] = []
    monkeypatch.setattr(loop, "average_statistics", lambda model, _: averaged.append(model))
    found._add_up_gradients()
    assert averaged == [found.model] * (statistics == "share")


def test_gpus_are_no_part_of_the_settings_otherwise(committed: dict[str, Any]) -> None:
    content = tiny_settings(committed)
    before = spec_of(check_params(content), "at")
    content["suites"]["demo"]["training"]["gpus"] = 2
    assert spec_of(check_params(content), "at") == before


def test_one_process_on_each_machine_says_why_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, local, error in ((0, "0", UserError), (4, "0", UserError), (5, "1", typer.Exit)):
        monkeypatch.setenv("LOCAL_RANK", local)
        with pytest.raises(error), _one_voice(Several(8, rank)):
            raise UserError("train.pt: expected the train images, found none")


def test_a_process_says_what_it_alone_may_have_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(typer.Exit), _one_voice(Several(8, 2)):
        raise OwnCodeError("own.x:F: expected to give losses, got ValueError: a rare label")
    told = capsys.readouterr().err
    assert told.startswith("error: process 2 of 8: own.x:F: expected to give losses, got ValueErr")
    for lost in (GroupError("it went"), DistError("it went")):
        for rank in (0, 3):
            with pytest.raises(typer.Exit), _one_voice(Several(8, rank)):
                raise lost
            assert capsys.readouterr().err == ("" if rank else "error: it went\n")
    with pytest.raises(ConnectionRefusedError), _one_voice(Several(8, 0)):
        raise ConnectionRefusedError


def test_ctrl_c_on_the_launcher_is_the_same_as_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> object:
        raise SignalException("stopped", signal.SIGINT)

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: stopped)
    assert processes.launch(2, ["train"]) == 143


class ScaledNorm(nn.BatchNorm2d):
    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


def test_batch_normalization_of_ones_own_is_not_replaced(tiny: Params) -> None:
    spec, model = spec_of(tiny, "at"), nn.Sequential(nn.Conv2d(1, 3, 1), ScaledNorm(3))
    check_layers(spec, model, ALONE)
    check_layers(spec, nn.Sequential(nn.BatchNorm2d(3)), Several(2))
    with pytest.raises(UserError, match=r"expected batch normalization of torch .*ScaledNorm at 1"):
        check_layers(spec, model, Several(2))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)).to(
        memory_format=torch.channels_last
    )


def test_processes_that_drift_apart_are_found() -> None:
    model = network()
    check_same_weights(model, ALONE, name="run")
    check_same_weights(model, Several(2), name="run")
    check_same_weights(model.double(), Several(2), name="run")
    with pytest.raises(UserError, match="expected the same weights in all 2 processes"):
        check_same_weights(model, Drifted(2), name="run")


def drifting_buffers(group: Group) -> str:
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.InstanceNorm2d(3, track_running_stats=True))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(0.0)
        model[1].running_mean.fill_(float(group.rank))
    try:
        check_same_weights(model, group, name="run")
    except UserError as error:
        return str(error)
    return ""


def quiet_statistics(group: Group) -> int:
    """Normalization without running statistics looks at unequal numbers of batches in eval mode."""
    model = normalize_together(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), group)
    model.eval()
    for _ in range(1 + 2 * group.rank):
        model(torch.rand(4, 3, 2, 2))
    return group.total(1)


def drawn_mask(group: Group) -> Tensor:
    """A mask that draws from torch's own stream, which differs between the processes."""
    torch.manual_seed(group.rank)
    perturbation = WeightPerturbation(
        0.1, 1, "layer", lambda losses, _: torch.rand_like(losses) < 0.5
    )
    return group.gathered(select(torch.ones(32 // group.size), perturbation, None, group).float())


def refused(group: Group, text: str, root: Path) -> str:
    """What is said of an objective in a training of real processes, each with its share."""
    try:
        training(TrainSpec.parse(text, where="test"), root, group)
    except UserError as error:
        return str(error)
    return ""


def looked_at(
    group: Group, folder: Path, root: Path, *texts: str
) -> tuple[str, int, Tensor, list[str]]:
    sys.path.insert(0, str(folder))
    said = [refused(group, text, root) for text in texts]
    return drifting_buffers(group), quiet_statistics(group), drawn_mask(group), said


def test_what_two_processes_see_of_each_other(
    own: str, committed: dict[str, Any], shared_root: Path, tmp_path: Path
) -> None:
    names = ("weighted", "Attacking", "noisy", "Tempered")
    texts = [with_objective(committed, f"{own}:{name}").canonical() for name in names]
    first, second = run_ranks(looked_at, 2, tmp_path / "meeting", tmp_path, shared_root, *texts)
    assert first[3] == second[3]
    assert "whatever else is in the batch" in first[3][0]
    assert first[3][1:] == ["", "", ""]
    for words, count, *_ in (first, second):
        assert (
            "expected the same buffers in all 2 processes, got different ones of 1.running_m"
            in words
        )
        assert count == 2
    assert torch.equal(first[2], second[2])
    torch.manual_seed(0)
    assert torch.equal(first[2] > 0, torch.rand(32) < 0.5)  # the first one's


def of_one_batch(group: Group, text: str, root: Path) -> dict[str, Tensor]:
    """What is done with shares of a batch, put together again; measured in batches of 64 images."""
    found = training(TrainSpec.parse(text, where="test"), root, group)
    model, losses = found.model.eval(), found.losses
    assert losses is not None
    whole = found.batches.load(found.batches.plan(0)[0])
    count = len(whole.labels)
    whole = dataclasses.replace(whole, weights=torch.arange(count) / count)
    batch = whole.part(whole.images.float() / 255, group)
    assert batch.weights is not None
    losses.look(model, model, batch.images, batch.images, batch.labels, batch.places)
    saved = losses.state()["now"]
    losses.finish_epoch()
    brightness = batch.images.mean((1, 2, 3))
    kept = found._kept(ExampleLosses(brightness, brightness, brightness))
    assert kept is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_BATCH", 64)
        measured = found._measure("test", lambda: None)
    return {
        "weights": group.gathered(batch.weights),
        "removed": group.gathered((kept == 0).float()),
        "dark": group.gathered((brightness < 0.3).float()),
        "measured": torch.tensor(list(measured.values()), dtype=torch.float64),
        **{f"saved {name}": values for name, values in saved.items()},
        **{name: values.float().nan_to_num(-1) for name, values in losses.epochs[0].items()},
    }


def test_the_shares_of_a_batch_add_up_to_the_whole(
    committed: dict[str, Any], shared_root: Path, tmp_path: Path
) -> None:
    """Weights, losses of each image, removal at random, and the batches of what is measured."""
    content = tiny_settings(committed)
    content["suites"]["demo"]["keep_losses"] = True
    spec = spec_of(check_params(content), "at").replace(remove_below=0.3, remove_at_random=True)
    text = spec.canonical()
    alone = of_one_batch(ALONE, text, shared_root)
    ranks = run_ranks(of_one_batch, 2, tmp_path / "meeting", text, shared_root)
    assert alone["saved looks"].sum() == len(alone["weights"])
    assert 0 < alone["removed"].sum() == alone["dark"].sum() < len(alone["dark"])
    assert not torch.equal(alone["removed"], alone["dark"])
    for rank in ranks:
        assert rank.keys() == alone.keys()
        torch.testing.assert_close(rank, alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.5, None])
def test_a_layers_own_numbers_stay_where_statistics_are_of_all_processes(
    momentum: float | None,
) -> None:
    alone = nn.Sequential(nn.BatchNorm2d(3, eps=0.1, momentum=momentum))
    together = normalize_together(copy.deepcopy(alone), Several(2))
    for _ in range(2):
        images = torch.randn(4, 3, 5, 5)
        torch.testing.assert_close(together(images), alone(images))
    torch.testing.assert_close(together.state_dict(), alone.state_dict())
