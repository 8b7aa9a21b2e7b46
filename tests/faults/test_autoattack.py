"""AutoAttack as a user runs it, killed with -9 and shared: the package's flags.

Each of its attacks takes fewer steps here; a slow test of tests/evaluation runs them in full.
"""

from __future__ import annotations

import copy
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rwp.data.images import ImageSet
from rwp.data.spec import DatasetSpec
from rwp.evaluation.autoattack import VERSIONS
from rwp.evaluation.records import read_record, robust_flags
from rwp.evaluation.spec import EvaluationSpec
from rwp.files import write_json
from rwp.training.checkpoint import save_network
from rwp.training.spec import RunKey, ThreatSpec
from tests.evaluation.samples import (
    NETWORK,
    ShortAutoAttack,
    autoattack_spec,
    digits_part,
    small_network,
)
from tests.faults.forks import Fork
from tests.faults.ledger import attempt
from tests.faults.processes import finish, start, victim

BATCH, SEED, EPSILON = 8, 0, "0.02"
KEY = RunKey(suite="demo", dataset="digits", threat="linf", network="small", recipe="at", seed=0)
SPEC = EvaluationSpec(
    key=KEY,
    checkpoint="best",
    data=DatasetSpec(source="digits", test_share=0.2),
    attacks=(autoattack_spec(threat=ThreatSpec(norm="linf", epsilon=EPSILON)),),
    batch_size=BATCH,
    num_examples=None,
    seed=SEED,
)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A small network after a short life: 100 steps against FGSM."""
    training, model = digits_part(slice(300, 1797)), small_network()
    pixels, draw = training.images.float() / 255, torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        index = torch.randint(len(training), (64,), generator=draw)
        images, labels = pixels[index].requires_grad_(), training.labels[index]
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), labels), images)
        adversarial = (images.detach() + float(EPSILON) * gradient.sign()).clamp(0, 1)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(adversarial), labels).backward()
        optimizer.step()
        model.eval()
    return model


@pytest.fixture(scope="module")
def predicted(network: nn.Module) -> ImageSet:
    """40 images labeled by the network itself, so that all are right at first."""
    images = digits_part(slice(0, 40))
    with torch.no_grad():
        return ImageSet(images.images, network(images.images.float() / 255).argmax(dim=1), 10)


@pytest.fixture(scope="module")
def expected(network: nn.Module, predicted: ImageSet) -> np.ndarray:
    """The package's own loop: unsharded, uninterrupted, on the network as it comes."""
    attack = ShortAutoAttack(
        copy.deepcopy(network), norm="Linf", eps=float(EPSILON), version="standard", seed=SEED
    )
    with torch.random.fork_rng():
        _, found = attack.run_standard_evaluation(
            predicted.images.float() / 255, predicted.labels, batch_size=BATCH
        )
    flags = (found == predicted.labels).numpy()
    assert 2 * BATCH < flags.sum() < len(flags)  # three batches in every attack
    return flags


@pytest.fixture
def root(tmp_path: Path, network: nn.Module, predicted: ImageSet) -> Path:
    run = tmp_path / KEY.directory
    save_network(run / "best.pt", network, network=NETWORK, epoch=7)
    write_json(run / "run.json", {})
    predicted.save(tmp_path / "data" / "digits" / "test.pt")
    return tmp_path


def short(root: Path, *words: str, **plan: Any) -> Fork:
    command = ("evaluate", "--resolved", SPEC.canonical(), "--fingerprint", "f", *words)
    return start(root, victim({"short_autoattack": True} | plan, *command))


def batches(root: Path) -> set[str]:
    """Those that are finished."""
    return {path.stem for path in (root / ".state").rglob("*.pt")}


def assert_same(root: Path, expected: np.ndarray) -> None:
    record = read_record(root / SPEC.record("autoattack"))
    assert np.array_equal(robust_flags(record), expected)
    assert list(record.parts) == list(VERSIONS["standard"])
    assert batches(root) == set()


MOMENTS = ("begun", "written", "named", "begun")


def test_killed_in_each_of_the_four_attacks(root: Path, expected: np.ndarray) -> None:
    for name, moment in zip(VERSIONS["standard"], MOMENTS, strict=True):
        with attempt(f"kill -9 during AutoAttack: {name}"):
            finish(short(root, kill_at_write=f"{name}-1.pt", moment=moment), code=-signal.SIGKILL)
            assert not (root / SPEC.record("autoattack")).exists()
            assert f"{name}-0" in batches(root)
            assert (f"{name}-1" in batches(root)) == (moment == "named")
            assert f"{name}-2" not in batches(root)
    finish(short(root))
    assert_same(root, expected)


def test_two_processes_share_and_one_is_killed(root: Path, expected: np.ndarray) -> None:
    with attempt("kill -9 of one of two processes that share an AutoAttack"):
        # It holds a batch until the other one has done the next, and waits for this one.
        first = short(root, kill_at_write="apgd-ce-2.pt", moment="begun", once="apgd-ce-3.pt")
        while "apgd-ce-1" not in batches(root):
            assert first.poll() is None
            time.sleep(0.02)
        second = short(root)
        finish(first, code=-signal.SIGKILL)
        finish(second)
        assert_same(root, expected)


@pytest.mark.timeout(600)  # it waits for the second one
def test_workers_divide_the_work(root: Path, expected: np.ndarray) -> None:
    second = {"wait_at_write": "apgd-ce-1.pt", "moment": "begun", "once": "worker-1.lock"}
    finish(short(root, "--workers", "2", **second))
    assert_same(root, expected)
