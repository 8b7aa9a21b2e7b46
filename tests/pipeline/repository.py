"""A git and DVC repository of a small suite, in which the real engines work."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT, Project, tiny_settings


def small_settings(committed: dict[str, Any], *recipes: str) -> dict[str, Any]:
    """A few defenses (two unless named), one threat model."""
    chosen = list(recipes or ("at", "at-rwp"))
    content = tiny_settings(committed)
    demo = content["suites"]["demo"]
    demo["table1"] |= {"threat_models": ["linf"], "recipes": chosen}
    demo["table2"] |= {"recipes": chosen, "reference_recipe": None}
    demo["figures"]["fig3c"]["recipes"] = chosen
    without_autoattack(demo)
    return content


def without_autoattack(suite: dict[str, Any]) -> None:
    """It has tests of its own."""
    del suite["evaluation"]["attacks"]["autoattack"]
    suite["beyond"]["attacks"] = ["natural", "pgd-20"]


class CopiedProject(Project):
    """A project with code of its own, which tests may edit."""

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(self.folder / "src")}

    @property
    def settings(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def git(self, *words: str) -> None:
        subprocess.run(("git", *words), cwd=self.folder, check=True, capture_output=True)


def new_repository(folder: Path, content: dict[str, Any]) -> CopiedProject:
    """This checkout's workflow and code with other settings, committed; nothing is built."""
    for name in ("Snakefile", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("workflow", "profiles", "src"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("images", "studies"):
        (folder / name).mkdir()
        shutil.copy(ROOT / name / "README.md", folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    project = CopiedProject(folder, content)
    project.git("init", "-q")
    project.git("config", "user.email", "a@b.c")
    project.git("config", "user.name", "a")
    project.git("add", ".")
    project.git("commit", "-qm", "start")
    return project
