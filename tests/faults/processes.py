"""Processes of ours with planted faults, and what an undisturbed training comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rwp.pipeline.load import load_params
from rwp.pipeline.resolve import run_key, train_spec
from rwp.pipeline.settings import Params
from rwp.training.spec import TrainSpec
from rwp.training.work import TIMINGS
from tests.conftest import ROOT, Project

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
        weights = {
            name: torch.load(folder / f"{name}.pt", weights_only=True)["weights"]
            for name in ("last", "best")
        }
        rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        for row in rows:
            for name in TIMINGS:
                row.pop(name)
        return cls(weights, rows, json.loads((folder / "run.json").read_text()))

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
from rwp.pipeline.load import load_params
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
            write_pseudo_labels(labels, root=root, fingerprint="labels")
    train_run(spec, root=root, fingerprint="undisturbed")
print(json.dumps(steps))
"""


def train_undisturbed(project: Project) -> Undisturbed:
    """Train the teacher, label, and train all recipes, in one process without any fault."""
    done = finish(start(project, [sys.executable, "-c", _TRAIN_ALL, json.dumps(RECIPES)]))
    (project.folder / "steps.json").write_text(done.stdout.splitlines()[-1])
    return read_undisturbed(project)


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


def start(project: Project, words: list[str], **environment: str) -> subprocess.Popen[str]:
    """A process in the project that finds our packages and this one."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(
        words,
        cwd=project.folder,
        env=project.environment() | {"PYTHONPATH": paths} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    process: subprocess.Popen[str], *, code: int = 0, timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """Wait for a process and check how it ended."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == code, f"{process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def rwp(*words: str) -> list[str]:
    """A command of ours, as a person types it."""
    return [str(Path(sys.executable).parent / "rwp"), *words]


def victim(plan: dict[str, Any], *words: str) -> list[str]:
    """The same command with a fault in it."""
    return [sys.executable, "-m", "tests.faults.victim", json.dumps(plan), *words]


def leftovers(folder: Path) -> list[str]:
    """Temporary files below a folder."""
    return [str(path) for path in folder.rglob("*") if path.suffix in (".tmp", ".part")]
