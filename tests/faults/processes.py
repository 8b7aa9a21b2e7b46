"""Processes of ours with planted faults, and what an undisturbed training comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rwp.pipeline.load import load_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Params
from rwp.training.spec import TrainSpec
from tests.conftest import ROOT, Project
from tests.faults.forks import Fork
from tests.training.outcomes import rows, weights

BASES = ("at", "trades", "rst")
DEFENSES = ["-".join((base, *more)) for base in BASES for more in ((), ("awp",), ("rwp",))]
RECIPES = ["natural", *DEFENSES]  # the teacher first


@dataclass(frozen=True)
class Result:
    """What a run's folder holds, without clocks."""

    weights: dict[str, dict[str, torch.Tensor]]
    rows: list[dict[str, Any]]
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Result:
        networks = {name: weights(folder / f"{name}.pt") for name in ("last", "best")}
        return cls(networks, rows(folder), json.loads((folder / "run.json").read_text()))

    def assert_equals(self, other: Result) -> None:
        """The same bits in both networks, the same history without gap or duplicate."""
        assert [row["epoch"] for row in self.rows] == list(range(len(self.rows)))
        assert self.rows == other.rows
        assert self.record["passes"] == other.record["passes"]
        for name, mine in self.weights.items():
            theirs = other.weights[name]
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[key], theirs[key]) for key in mine), name


@dataclass(frozen=True)
class Undisturbed:
    """A project in which all recipes were trained one after another, and its results."""

    project: Project
    params: Params
    results: dict[str, Result]
    num_steps: dict[str, int]

    def spec(self, recipe: str) -> TrainSpec:
        return spec_of(self.params, recipe)


def spec_of(params: Params, recipe: str) -> TrainSpec:
    table = params.suites["demo"].table2
    place = {"dataset": table.dataset, "threat": table.threat_model, "seed": 0}
    return train_spec(params, run_key(params, "demo", recipe=recipe, **place))


_TRAIN_ALL = """
import json, sys
from pathlib import Path
sys.path.append(sys.argv[2])
from rwp.pipeline.load import load_params
from rwp.pipeline.steps import Steps
from rwp.training.jobs import train_run
from rwp.training.loop import Training
from rwp.training.pseudo_labels import write_pseudo_labels
from tests.faults.processes import spec_of
original, steps = Training._step, {}
def step(self, batch):
    steps[self.spec.key.recipe] = steps.get(self.spec.key.recipe, 0) + 1
    original(self, batch)
Training._step = step
params, root = load_params(), Path.cwd()
for recipe in json.loads(sys.argv[1]):
    spec = spec_of(params, recipe)
    if spec.unlabeled is not None:
        labels = spec.unlabeled.labeling
        if not (root / labels.path).exists():
            fingerprint = Steps(params).label(labels).fingerprint
            write_pseudo_labels(labels, root=root, fingerprint=fingerprint)
    train_run(spec, root=root, fingerprint=Steps(params).train(spec.key).fingerprint)
print(json.dumps(steps))
"""


def train_undisturbed(project: Project) -> Undisturbed:
    """Train the teacher, label, and train all recipes, in one process without any fault."""
    words = ("python", "-c", _TRAIN_ALL, json.dumps(RECIPES), str(ROOT))
    done = project.run(*words, timeout=None)
    assert done.returncode == 0, done.stderr
    (project.folder / "steps.json").write_text(done.stdout.splitlines()[-1])
    undisturbed = read_undisturbed(project)
    assert {run.record["status"] for run in undisturbed.results.values()} == {"finished"}
    return undisturbed


def read_undisturbed(project: Project) -> Undisturbed:
    """What `train_undisturbed` left, perhaps in another process."""
    params = load_params(project.folder / "params.yaml")
    results = {
        recipe: Result.read(project.folder / spec_of(params, recipe).key.directory)
        for recipe in RECIPES
    }
    return Undisturbed(
        project, params, results, json.loads((project.folder / "steps.json").read_text())
    )


@dataclass(frozen=True)
class Command:
    """One of ours, as a person types it, perhaps with a fault in it."""

    words: list[str]
    plan: dict[str, Any] = field(default_factory=dict)


def rwp(*words: str) -> Command:
    """A sound command of ours."""
    return Command([*words])


def victim(plan: dict[str, Any], *words: str) -> Command:
    """The same command with a fault in it; see `tests.faults.victim`."""
    return Command([*words], plan)


def start(folder: Path, command: Command, **environment: str) -> Fork:
    """A process in a project's folder."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PYTHONPATH": paths, "PATH": path, "OMP_NUM_THREADS": "1"}
    return Fork(folder, command.words, command.plan, os.environ | own | environment)


def finish(process: Fork, *, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Wait for a process and check how it ended."""
    out, err = process.communicate()
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return subprocess.CompletedProcess(process.args, code, out, err)


def leftovers(folder: Path) -> list[str]:
    """Temporary files below a folder."""
    return [str(path) for path in folder.rglob("*") if path.suffix in (".tmp", ".part")]
