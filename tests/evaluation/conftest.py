"""A small robust network, its images, and a project folder that holds both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from tests.evaluation.samples import NETWORK, THREAT, attack
from torch import nn

from rwp.config.definitions import DatasetSpec
from rwp.config.specs import EvaluationSpec, RunKey
from rwp.core.attacks import pgd
from rwp.core.models import build_network
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.training.checkpoint import save_network

_KEY = RunKey(suite="demo", dataset="digits", threat="linf", network="small", recipe="at", seed=0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _digits(part: slice) -> ImageSet:
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(0))[part]
    pixels = torch.tensor(found.images[order] * 15).round().to(torch.uint8)
    return ImageSet(pixels.unsqueeze(1), torch.tensor(found.target[order]), 10)


@pytest.fixture(scope="session")
def images() -> ImageSet:
    """40 digits that the network was not trained on."""
    return _digits(slice(0, 40))


@pytest.fixture(scope="session")
def robust_model() -> nn.Module:
    """A network of 4 channels, adversarially trained for two seconds; tests must not change it."""
    training, generator = _digits(slice(300, 1500)), torch.Generator().manual_seed(0)
    threat = ThreatModel(THREAT.norm, THREAT.radius)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_network("preact_resnet", **_build(NETWORK))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    for _ in range(4):
        for index in torch.randperm(len(training), generator=generator).split(64):
            batch, labels = training.images[index].float() / 255, training.labels[index]
            found = pgd(
                model,
                batch,
                labels,
                threat=threat,
                step_size=0.04,
                num_steps=2,
                generator=generator,
            )
            loss = F.cross_entropy(model.train()(found), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def _build(network: dict) -> dict:
    shape = {name: value for name, value in network["architecture"].items() if name != "family"}
    rest = {name: value for name, value in network.items() if name != "architecture"}
    return rest | shape


@dataclass(frozen=True)
class Project:
    """A folder with one trained run, and the spec of a cheap evaluation of it."""

    root: Path
    spec: EvaluationSpec

    @property
    def checkpoint(self) -> Path:
        return self.root / self.spec.key.directory / "best.pt"


@pytest.fixture
def trained(tmp_path: Path, images: ImageSet, robust_model: nn.Module) -> Project:
    images.save(tmp_path / "data" / "digits" / "test.pt")
    spec = EvaluationSpec(
        key=_KEY,
        checkpoint="best",
        data=DatasetSpec(source="digits", test_share=0.2),
        attacks=(attack("natural"), attack("pgd-20", "pgd", num_steps=20, step_size="0.03")),
        batch_size=16,
        num_examples=None,
        seed=0,
    )
    project = Project(tmp_path, spec)
    save_network(project.checkpoint, robust_model, network=NETWORK, epoch=7)
    return project
