"""`rwp evaluate --model`, `--epsilons` and `rwp diagnose --model`, as a user types them."""

from __future__ import annotations

import pytest

from tests.conftest import Project

NET = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def tables():
    class Tables(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net().double()
        def forward(self, images):
            images.mul_(1.0)  # it writes into its input
            return {"logits": self.net(images), "more": images.flatten(1)}
    return Tables()
"""


@pytest.mark.slow
def test_a_model_of_a_module_is_evaluated_at_radii_and_judged(project_with_data: Project) -> None:
    project = project_with_data
    (project.folder / "foreign.py").write_text(NET)
    model = ["--model", "foreign:tables", "--dataset", "digits"]
    attacks = [word for name in ("natural", "pgd-20") for word in ("--attack", name)]
    done = project.run("rwp", "evaluate", *model, *attacks, "--epsilons", "0.02,0.1")
    assert done.returncode == 0, done.stderr
    for text in ("radius 0.02", "radius 0.1", "verdict: ", "clean accuracy"):
        assert text in done.stdout
    folder = project.folder / "results" / "external"
    assert (folder / "radii.svg").exists()
    assert (folder / "epsilon-0.1" / "pgd-20.json").exists()

    done = project.run("rwp", "diagnose", *model, *attacks, "--output", str(folder / "alone"))
    assert done.returncode == 2
    assert "run `rwp evaluate` with the same options first" in done.stderr
    done = project.run("rwp", "evaluate", *model, *attacks, "--output", str(folder / "alone"))
    assert done.returncode == 0, done.stderr
    done = project.run("rwp", "diagnose", *model, *attacks, "--output", str(folder / "alone"))
    assert done.returncode == 0, done.stderr
    assert (folder / "alone" / "diagnosis.json").exists()
    done = project.run("rwp", "diagnose", "--model", "foreign:nothing", "--dataset", "digits")
    assert done.returncode == 2
    assert "nothing" in done.stderr
