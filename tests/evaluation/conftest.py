"""A small robust network, its images, and a project folder that holds both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rwp.data.images import ImageSet
from rwp.data.spec import DatasetSpec
from rwp.evaluation.spec import EvaluationSpec
from rwp.training.checkpoint import save_network
from rwp.training.spec import RunKey
from tests.evaluation.samples import NETWORK, RandomFeatures, attack, digits_part, small_network

_KEY = RunKey(suite="demo", dataset="digits", threat="linf", network="small", recipe="at", seed=0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images() -> ImageSet:
    """40 digits that the network was not trained on."""
    return digits_part(slice(0, 40))


@pytest.fixture(scope="session")
def robust_model() -> nn.Module:
    """Ridge regression on random features: robust by its small weights, and fitted at once."""
    training = digits_part(slice(300, 1797))
    model = RandomFeatures().eval()
    with torch.no_grad():
        features = model.features(training.images.float() / 255)
        targets = F.one_hot(training.labels, 10).float()
        gram = features.T @ features + 300 * torch.eye(features.shape[1])
        model.readout.weight.copy_(10 * torch.linalg.solve(gram, features.T @ targets).T)
    return model


@dataclass(frozen=True)
class Project:
    """A folder with one trained run, and the spec of a cheap evaluation of it."""

    root: Path
    spec: EvaluationSpec

    @property
    def checkpoint(self) -> Path:
        return self.root / self.spec.key.directory / "best.pt"


@pytest.fixture
def trained(tmp_path: Path, images: ImageSet) -> Project:
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
    save_network(project.checkpoint, small_network(), network=NETWORK, epoch=7)
    return project
