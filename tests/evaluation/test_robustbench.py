"""The export, loaded by the network classes of the robustbench package itself.

Its pins clash with ours, so it lives in an environment of its own: `make test-robustbench`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.core.models import build_network
from rwp.evaluation.export import export_robustbench
from rwp.files import sha256_file
from rwp.training.checkpoint import save_network
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import autoattack_spec, record
from tests.evaluation.test_export import KEY, SUBMISSION

PYTHON = os.environ.get("RWP_ROBUSTBENCH_PYTHON")
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
RAW = {"mean": None, "std": None}

pytestmark = [
    pytest.mark.robustbench,
    pytest.mark.skipif(PYTHON is None, reason="needs robustbench; run `make test-robustbench`"),
]


@pytest.mark.parametrize(
    ("architecture", "normalization", "module"),
    [
        ({"family": "preact_resnet", "blocks": (2, 2, 2, 2), "width": 64}, CIFAR10, "resnet"),
        ({"family": "preact_resnet", "blocks": (2, 2, 2, 2), "width": 64}, RAW, "resnet"),
        ({"family": "wide_resnet", "depth": 28, "widen_factor": 10}, RAW, "wide_resnet"),
        ({"family": "wide_resnet", "depth": 34, "widen_factor": 10}, CIFAR10, "wide_resnet"),
    ],
    ids=["preact-resnet-18", "preact-resnet-18-raw", "wrn-28-10", "wrn-34-10"],
)
def test_robustbench_gets_the_same_logits(
    architecture: dict[str, Any], normalization: dict[str, Any], module: str, tmp_path: Path
) -> None:
    network = {"num_classes": 10, "in_channels": 3} | normalization
    shape = {name: value for name, value in architecture.items() if name != "family"}
    torch.manual_seed(0)
    model = build_network(architecture["family"], **network, **shape)
    images = torch.rand(6, 3, 32, 32)
    model(images)  # in train mode, so that running statistics are not the initial ones
    model.eval()
    checkpoint = tmp_path / "best.pt"
    save_network(checkpoint, model, network=network | {"architecture": architecture}, epoch=3)
    attack = autoattack_spec(threat=ThreatSpec(norm="linf", epsilon="8/255"))
    sha256 = sha256_file(checkpoint)
    done = record([True] * 3, key=KEY, attack=attack, checkpoint_sha256=sha256)
    paths = export_robustbench(checkpoint, done, SUBMISSION, folder=tmp_path / "out")
    weights, source = paths[:2]
    torch.save(images, tmp_path / "images.pt")
    script = Path(__file__).with_name("robustbench_logits.py")
    words = [PYTHON, "-W", "ignore", script, source, SUBMISSION.name, weights]
    result = subprocess.run(
        [*map(str, words), str(tmp_path / "images.pt"), str(tmp_path / "logits.pt")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"robustbench.model_zoo.architectures.{module}"
    theirs = torch.load(tmp_path / "logits.pt", weights_only=True)
    with torch.no_grad():
        ours = model(images)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    assert ours.std() > 0.01
