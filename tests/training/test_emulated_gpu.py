"""What runs on a GPU, run on one that the CPU plays.

No operation meets a tensor of the other device, and the numbers are the CPU's, bit for bit.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.core import (
    ExampleLosses,
    WeightPerturbation,
    make_objective,
    perturb_weights,
    robust_weight_perturbation,
)
from rwp.core.attacks import pgd
from rwp.core.threat import ThreatModel
from rwp.evaluation.jobs import evaluate_checkpoint
from rwp.evaluation.landscape import measure_landscape
from rwp.pipeline.load import check_params
from rwp.pipeline.resolve_evaluation import evaluation_spec, landscape_spec
from rwp.pipeline.settings import Params
from rwp.training import loop
from rwp.training.image_losses import ImageLosses, read_losses
from rwp.training.jobs import train_run
from rwp.training.pseudo_labels import write_pseudo_labels
from rwp.training.resume import RunState
from tests.conftest import tiny_settings
from tests.core.helpers import small_network
from tests.emulated_gpu import OnGpu, emulated_gpu
from tests.training.conftest import spec_of
from tests.training.outcomes import rows, weights

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU: test-gpu")

DEVICES = ("cpu", "cuda")
OUTCOMES = ("attack", "clean_bits", "robust_bits", "max_perturbation", "gradients", "parts")


@pytest.fixture(autouse=True)
def _batches_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU leaves images out that are wrong already, and so draws other noise for the rest."""
    measure = loop.measure
    monkeypatch.setattr(
        loop, "measure", lambda *given, **named: measure(*given, **{**named, "one_shape": True})
    )


def on(device: str, do: Any, *given: Any, **named: Any) -> Any:
    if device == "cpu":
        return do(*given, **named)
    with emulated_gpu():
        return do(*given, device=device, **named)


@pytest.mark.parametrize(
    ("recipe", "threat"),
    [("at-rwp", "linf"), ("trades-awp", "l2"), ("rst-rwp", "l2"), ("mine", "linf")],
)
def test_a_training(
    recipe: str, threat: str, all_recipes: Params, shared_root: Path, tmp_path: Path
) -> None:
    for device in DEVICES:
        named = {"root": shared_root, "fingerprint": device, "output": tmp_path / device}
        on(device, train_run, spec_of(all_recipes, recipe, threat), **named)
    ours, theirs = (tmp_path / device for device in DEVICES)
    assert rows(ours) == rows(theirs)
    for name, value in weights(ours / "last.pt").items():
        assert torch.equal(value, weights(theirs / "last.pt")[name]), name


@pytest.fixture(scope="module")
def roots(
    all_recipes: Params, digits: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Two projects with the same runs, trained by the CPU."""
    found = {device: tmp_path_factory.mktemp(device) for device in DEVICES}
    for root in found.values():
        (root / "data").symlink_to(digits)
        for recipe in ("at", "natural"):
            train_run(spec_of(all_recipes, recipe), root=root, fingerprint=recipe)
    return found


@pytest.mark.parametrize(
    "attacks",
    [
        ("natural", "fgsm", "pgd-20", "cw-100"),
        pytest.param(("autoattack",), marks=pytest.mark.slow),
    ],
)
def test_an_evaluation(
    attacks: tuple[str, ...], all_recipes: Params, roots: dict[str, Path]
) -> None:
    spec = evaluation_spec(all_recipes, spec_of(all_recipes, "at").key, attacks=attacks)
    found = []
    for device, root in roots.items():
        named = {"root": root, "fingerprint": "f", "state": root / ".state"}
        records = [
            json.loads(p.read_text()) for p in on(device, evaluate_checkpoint, spec, **named)
        ]
        found.append([{name: record[name] for name in OUTCOMES} for record in records])
    assert len(found[0]) == len(attacks)
    assert found[0] == found[1]


def test_a_landscape_and_pseudo_labels(all_recipes: Params, roots: dict[str, Path]) -> None:
    landscape = landscape_spec(all_recipes, "demo", "fig2").replace(test_images=True)
    mix = spec_of(all_recipes, "rst").unlabeled
    assert mix is not None
    found = []
    for device, root in roots.items():
        named = {"root": root, "fingerprint": "f"}
        losses = root / "losses.csv"
        on(device, measure_landscape, landscape, output=losses, **named)
        labels = on(device, write_pseudo_labels, mix.labeling, **named)
        found.append((losses.read_text(), labels))
    assert found[0] == found[1]


VIEWING = """
from torch import nn

class Net(nn.Module):
    def __init__(self, *, num_classes, in_channels):
        super().__init__()
        self.body, self.deep = nn.Conv2d(in_channels, 4, 3), nn.Conv3d(1, 2, 2)
        self.head = nn.Linear(2 * 3 * 5 * 5, num_classes)

    def forward(self, images):
        features = self.body(images.view(len(images), -1, 8, 8))
        return self.head(self.deep(features.view(-1, 1, 4, 6, 6)).view(-1, 150))
"""


@pytest.mark.parametrize("network", ["small", "viewing"])
def test_layouts(
    network: str,
    committed: dict[str, Any],
    shared_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network of the user's own gets the CPU's: `view` refuses the other."""
    (tmp_path / "viewing.py").write_text(VIEWING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    content = tiny_settings(committed)
    content["networks"]["viewing"] = {"family": "viewing:Net"}
    content["suites"]["demo"]["network"] = network
    spec = spec_of(check_params(content), "at-rwp")
    named = {"root": shared_root, "fingerprint": network, "output": tmp_path / "run"}
    with emulated_gpu(one_layout=False):
        train_run(spec, device="cuda", **named)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


def test_what_a_gpu_refuses() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.arange(4)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    options = {"threat": ThreatModel("linf", 0.1), "step_size": 0.05, "num_steps": 2}
    with emulated_gpu():
        generator = torch.Generator("cuda").manual_seed(0)
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            pgd(model.to("cuda"), images, labels, generator=generator, **options)
        there, known = images.to("cuda"), labels.to("cuda")
        found = pgd(model, there, known, generator=generator, **options)
        assert isinstance(found, OnGpu)
        assert found.device == there.device == torch.device("cuda", 0)
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            images.add_(there)
        with pytest.raises(RuntimeError, match="expected a generator on cpu"):
            torch.rand(3, generator=generator)
        with pytest.raises(RuntimeError, match="numpy"):
            found.numpy()
    assert not torch.cuda.is_available()


def test_a_search_that_has_ended_does_not_begin_again() -> None:
    """Losses that draw, as with dropout, may fall below c_min after a step that selected nobody."""
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    found = {}
    for device in DEVICES:

        def search(device: str = "cpu") -> dict[str, torch.Tensor]:
            model = small_network(torch.float32).to(device)
            step, goal = iter((0.5, 2.0, 0.5)), make_objective("at")

            def losses() -> ExampleLosses:
                given = images.to(device), images.to(device), labels.to(device)
                batch = goal.losses(model, *given)
                return batch._replace(criterion=torch.full_like(batch.objective, next(step)))

            v = robust_weight_perturbation(model, losses, gamma=0.1, c_min=1.0, num_steps=3)
            return {name: value.cpu().clone() for name, value in v.offset.items()}

        found[device] = on(device, search)
    for name, value in found["cpu"].items():
        assert value.norm() > 0
        assert torch.equal(value, found["cuda"][name]), name


def test_no_noise_is_added_where_no_example_is_under_the_mask() -> None:
    """A CPU ends the search there; from a GPU nothing is read, and the steps add zero."""
    images, labels = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    settings = WeightPerturbation(0.1, 2, "layer", "below", c_min=0.0, direction="random")

    def search(device: str = "cpu") -> list[torch.Tensor]:
        model = small_network(torch.float32).to(device)
        given = images.to(device), images.to(device), labels.to(device)
        goal, draw = make_objective("at"), torch.Generator(device).manual_seed(0)
        v = perturb_weights(model, lambda: goal.losses(model, *given), settings, generator=draw)
        return [value.cpu().clone() for value in v.offset.values()]

    assert on("cpu", search) == []
    found = on("cuda", search)
    assert found
    assert not any(value.any() for value in found)


def test_kept_losses_go_on_after_a_break(tmp_path: Path) -> None:
    state, device = RunState(tmp_path / "state"), torch.device("cuda")
    with emulated_gpu():
        losses = ImageLosses(2, device)
        losses.finish_epoch()
        state.save({"losses": losses.state()})
        found = state.load(device)
        assert found is not None
        losses.load(found["losses"])
        places = torch.arange(2)
        losses.write(tmp_path / "losses.npz", places=places, labels=places)
    assert read_losses(tmp_path / "losses.npz")["clean_loss"].shape == (1, 2)
