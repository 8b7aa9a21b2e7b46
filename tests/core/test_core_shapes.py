"""The annotated shapes are checked, and importing the core brings in nothing heavy."""

import os
import subprocess
import sys
from pathlib import Path

import jaxtyping
import pytest
import torch

from rwp.core import cross_entropy

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PLUGIN = "tests.core.typechecker"

CHECKED = """
import jaxtyping
jaxtyping.install_import_hook("rwp.core", "beartype.beartype")
import torch
from rwp.core import *
from rwp.core.lsc import loss_groups
threat = ThreatModel("linf", 0.1)
logits, labels = torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64)
trades_loss(logits, logits, labels, beta=6.0)
flat = torch.nn.Flatten()
refused = [
    lambda: cross_entropy(logits, labels[:4]),
    lambda: cross_entropy(logits, labels.float()),
    lambda: trades_loss(logits, logits[:, :3], labels, beta=6.0),
    lambda: kl_divergence(logits.T, logits),
    lambda: margin_loss(logits, labels[:, None], kappa=0.0),
    lambda: loss_groups(logits, [0.0, 1.0]),
    lambda: fgsm(flat, torch.zeros(6, 4), labels, threat=threat),
    lambda: fgsm(flat, torch.zeros(6, 1, 2, 2), labels[:5], threat=threat),
    lambda: build_network("preact_resnet", num_classes=4, in_channels=1, mean=None, std=None,
                          blocks=(1,), width=2)(torch.zeros(6, 8, 8)),
]
for number, call in enumerate(refused):
    try:
        call()
    except jaxtyping.TypeCheckError:
        continue
    raise SystemExit(f"call {number} was let through")
print("checked")
"""

LIGHT = """
import sys
import rwp.core, rwp.core.landscape, rwp.core.lsc, rwp.core.models.converters
heavy = ["mlflow", "snakemake", "dvc", "typer", "pydantic", "pandas", "sklearn", "torchvision",
         "matplotlib", "yaml", "beartype", "foolbox"]
print([name for name in heavy if name in sys.modules])
print(sorted(name for name in sys.modules if name.startswith("rwp.") and "core" not in name))
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wrong_shapes_are_refused():
    assert run(CHECKED) == "checked\n"


def test_wrong_shapes_of_these_tests_are_refused(request):
    """By the checker where the plugin is loaded, else by torch."""
    by_checker = request.config.pluginmanager.has_plugin(PLUGIN)
    with pytest.raises(jaxtyping.TypeCheckError if by_checker else ValueError):
        cross_entropy(torch.zeros(6, 4), torch.zeros(4, dtype=torch.int64))


def checked(*words: str) -> str:
    """What pytest says of tests of the core that pass with the plugin."""
    usual = ("-q", "-p", "no:cacheprovider", "-m", "not slow and not gpu and not wrong_type")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *usual, "-p", PLUGIN, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    return done.stdout


def test_the_plugin_checks_what_tests_call():
    assert "1 passed" in checked(__file__, "-k", "test_wrong_shapes_of_these_tests_are_refused")


@pytest.mark.slow
def test_all_calls_of_the_cores_tests_have_the_annotated_shapes():
    checked("tests/core", "--deselect", "tests/core/test_core_shapes.py")


def test_importing_the_core_is_light():
    assert run(LIGHT) == "[]\n[]\n"


def test_settings_come_without_torch():
    """A plan of all trainings is made of them, and importing torch takes seconds."""
    script = "import sys, rwp.core.settings, rwp.core.threat; print('torch' in sys.modules)"
    assert run(script) == "False\n"


def test_every_name_of_the_core_is_there():
    script = "from rwp import core; print(all(getattr(core, name) for name in core.__all__))"
    assert run(script) == "True\n"
    assert run("from rwp import core\ntry: core.fgms\nexcept AttributeError as e: print(e)") == (
        "module 'rwp.core' has no attribute 'fgms'\n"
    )
