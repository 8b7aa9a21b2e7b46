"""The wheel alone is the library: what it says it needs is enough, in an environment of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

NAME = "robust-weight-perturbation"
PIPELINE = ("typer", "snakemake", "mlflow", "pandas", "dvc", "sklearn", "matplotlib", "yaml")
CODE = """
import torch
import rwp
from rwp.core import WeightPerturbation, pgd

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
images, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
names = ["natural", "fgsm", "pgd-5", "autoattack-few-classes"]
found = rwp.evaluate(model, images, labels, threat=("linf", "8/255"), attacks=names)
assert list(found.records) == names, found
print(found)
print(found.verdict.level)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):  # setuptools builds beside the source
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src" / "rwp", source / "src" / "rwp")
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *words], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it needs, and nothing else of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in _needed(_requirements(wheel)):
        _link(metadata.distribution(name), site)
    return folder / "bin" / "python"


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        place = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        text = archive.read(place).decode()
    assert re.search(rf"^Name: {NAME}$", text, re.M)
    return re.findall(r"^Requires-Dist: (.*)$", text, re.M)


def _needed(requirements: list[str]) -> set[str]:
    """The names of all distributions behind some requirements, extras left out."""
    found: set[str] = set()
    todo = list(requirements)
    while todo:
        requirement = Requirement(todo.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found.add(requirement.name)
            todo += metadata.requires(requirement.name) or []
    return found


def _link(distribution: metadata.Distribution, site: Path) -> None:
    for name in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
        target = Path(str(distribution.locate_file(name)))
        place = site / name
        if name != "__pycache__" and target.exists() and not place.exists():
            place.symlink_to(target)


def _run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(python), *words], env=environment, cwd="/", text=True, capture_output=True, check=False
    )


@pytest.mark.slow
def test_the_library_works_on_what_the_wheel_asks_for(python: Path) -> None:
    done = _run(python, "-c", CODE)
    assert done.returncode == 0, done.stderr
    assert "pgd-5" in done.stdout


@pytest.mark.slow
def test_the_pipeline_is_an_extra_and_its_command_says_so(python: Path) -> None:
    for name in PIPELINE:
        assert _run(python, "-c", f"import {name}").returncode != 0, name
    done = _run(python, "-m", "rwp", "train")
    assert done.returncode == 2
    assert f"pip install '{NAME}[pipeline]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_example_of_the_readme_needs_no_more(python: Path) -> None:
    from tests.test_readme import example

    assert _run(python, "-c", example()).returncode == 0
