"""What all tests share: the committed settings, and a small project to run commands in."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# As in a job of the workflow. The networks here are too small for more threads, and tests that run
# side by side would wait for each other's. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import yaml

from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params

ROOT = Path(__file__).resolve().parents[1]
COLLECTED = pytest.StashKey[list[tuple[str, frozenset[str]]]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note all tests with their markers, before any is left out; those of faults/ get theirs."""
    for item in items:
        if ROOT / "tests" / "faults" in item.path.parents:
            item.add_marker("faults")
            item.add_marker(pytest.mark.timeout(2400))
    config.stash[COLLECTED] = [
        (item.nodeid, frozenset(mark.name for mark in item.iter_markers())) for item in items
    ]


def pytest_runtest_logreport(report: Any) -> None:
    """Note a failure as it happens where CI asks for it, lest it is lost when time runs out."""
    place = os.environ.get("RWP_FAILURES")
    if place and report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with Path(place).open("a", encoding="utf-8") as stream:
            stream.write(f"{report.nodeid} ({report.when})\n")


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> Iterator[None]:
    """Trainings flush them to zero for the whole process; other tests need them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def committed() -> dict[str, Any]:
    """params.yaml, parsed; tests that change it work on a copy."""
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def settings(committed: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(committed)


@pytest.fixture(scope="session")
def params(committed: dict[str, Any]) -> Params:
    return check_params(committed)


def tiny_settings(committed: dict[str, Any]) -> dict[str, Any]:
    """The demo suite with networks and schedules that train in a second or two."""
    content = copy.deepcopy(committed)
    content["networks"]["small"]["width"] = 4
    demo = content["suites"]["demo"]
    demo["training"] |= {"epochs": 3, "batch_size": 64, "decay_epochs": [2]}
    demo["training"]["attack_num_steps"] = 2
    demo["monitor_num_steps"] = 2
    demo["objectives"]["rst"]["unlabeled"]["epoch_size"] = 768
    for perturbation in demo["perturbations"].values():
        perturbation["warmup_epochs"] = 1
    demo["perturbations"]["rwp"] |= {"num_weight_steps": 2, "c_min": {"digits": 2.3}}
    demo["figures"]["fig2"] |= {"epochs": [1, 3], "num_directions": 2, "num_points": 3}
    demo["evaluation"]["num_examples"] = 40
    demo["evaluation"]["attacks"] = {
        "natural": {"kind": "natural"},
        "fgsm": {"kind": "fgsm"},
        "pgd-20": {"kind": "pgd", "num_steps": 20},
        "pgd-100": {"kind": "pgd", "num_steps": 100},
        "cw-100": {"kind": "cw", "num_steps": 100, "kappa": 0},
        "autoattack": {"kind": "autoattack", "version": "standard"},
    }
    return content


class Project:
    """A folder with settings of its own, in which commands run as a user runs them."""

    def __init__(self, folder: Path, content: dict[str, Any]) -> None:
        self.folder = folder
        self.write(content)

    def write(self, content: dict[str, Any]) -> None:
        text = yaml.safe_dump(content, sort_keys=False)
        (self.folder / "params.yaml").write_text(text, encoding="utf-8")

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment here; standard output and error are captured."""
        return subprocess.run(
            [str(Path(sys.executable).parent / words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment(),
            text=True,
            capture_output=True,
            timeout=options.pop("timeout", 600),
            check=False,
            **options,
        )

    def environment(self) -> dict[str, str]:
        bin_folder = str(Path(sys.executable).parent)
        return os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
        }

    def snakemake(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", "--cores", "2", *words, **options)


@pytest.fixture
def project(tmp_path: Path, committed: dict[str, Any]) -> Project:
    """A project with tiny settings and the workflow of this checkout."""
    for name in ("Snakefile", "workflow", "profiles", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    return Project(tmp_path, tiny_settings(committed))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """A data folder with the digits and their unlabeled share."""
    from rwp.data.fetch import fetch_dataset
    from rwp.data.unlabeled import fetch_unlabeled

    folder = tmp_path_factory.mktemp("digits") / "data"
    fetch_dataset("digits", params.datasets["digits"], folder)
    fetch_unlabeled("digits-holdout", params.unlabeled["digits-holdout"], folder)
    return folder


@pytest.fixture
def project_with_data(project: Project, digits: Path) -> Project:
    shutil.copytree(digits, project.folder / "data")
    return project
