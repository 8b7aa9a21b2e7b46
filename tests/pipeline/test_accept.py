"""A change of code that moves no number is accepted once; one that moves a bit never is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.repository import CopiedProject, new_repository, small_settings

pytestmark = pytest.mark.timeout(1200)  # on a machine that does much else
RUN = "results/demo/runs/digits/linf/small/at-rwp/seed0/run.json"


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any], digits: Path
) -> CopiedProject:
    project = new_repository(tmp_path_factory.mktemp("trained"), small_settings(committed))
    shutil.copytree(digits, project.folder / "data", dirs_exist_ok=True)
    result = project.run("rwp", "train", "--recipe", "at-rwp", "--no-tracking")
    assert result.returncode == 0, result.stderr
    return project


def edit(project: CopiedProject, name: str, old: str, new: str) -> None:
    path = project.folder / "src" / "rwp" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def unchanged(trained: CopiedProject) -> Any:
    yield trained
    trained.git("checkout", "-q", "--", "src", "params.yaml")
    (trained.folder / "accepted.jsonl").unlink(missing_ok=True)


def verified(project: CopiedProject, *words: str) -> tuple[int, str]:
    result = project.run("rwp", "verify", *words)
    assert "Traceback" not in result.stderr
    return result.returncode, result.stdout + result.stderr


def test_a_change_that_moves_nothing(unchanged: CopiedProject) -> None:
    assert verified(unchanged)[0] == 0
    edit(unchanged, "training/loop.py", "class Training", "_NOT_USED = 3\n\n\nclass Training")
    code, text = verified(unchanged)
    assert code == 1
    assert f"stale: {RUN}" in text
    code, text = verified(unchanged, "--why", RUN)
    assert code == 1
    assert "code rwp.training.loop of the step train" in text
    assert "core" not in text

    result = unchanged.run("rwp", "accept", "train", "--because", "a name that nothing reads")
    assert result.returncode == 0, result.stderr
    assert verified(unchanged)[0] == 0
    (line,) = (unchanged.folder / "accepted.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["step"], entry["because"]) == ("train", "a name that nothing reads")
    # What comes after an accepted change counts again.
    edit(unchanged, "training/loop.py", "_NOT_USED = 3", "_NOT_USED = 4")
    assert verified(unchanged)[0] == 1


MOVED = {
    "training/schedules.py": ("spec.decay_factor**drops", "spec.decay_factor**drops * 1.000001"),
    "core/weight_perturbation.py": ("SMALLEST_NORM = 1e-20", "SMALLEST_NORM = 1e-3"),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_change_that_moves_a_bit(name: str, unchanged: CopiedProject) -> None:
    edit(unchanged, name, *MOVED[name])
    result = unchanged.run("rwp", "accept", "train", "--because", "only a little")
    assert result.returncode == 2
    assert "expected the same bits of old and new code" in result.stderr
    assert "\n" not in result.stderr.strip()
    assert not (unchanged.folder / "accepted.jsonl").exists()


def test_another_setting_is_not_accepted(unchanged: CopiedProject) -> None:
    content = unchanged.settings
    content["suites"]["demo"]["training"]["momentum"] = 0.8
    unchanged.write(content)
    code, text = verified(unchanged, "--why", RUN)
    assert code == 1
    assert "setting optimization.momentum: from 0.9 to 0.8" in text
    result = unchanged.run("rwp", "accept", "train", "--because", "why not")
    assert result.returncode == 2
    assert "no commit whose code fits" in result.stderr


def test_words_and_how_often_is_saved_make_nothing_stale(unchanged: CopiedProject) -> None:
    edit(unchanged, "training/watch.py", "CHECKPOINT_SECONDS = 300", "CHECKPOINT_SECONDS = 7")
    edit(unchanged, "core/threat.py", "expected a radius in", "expected some radius in")
    assert verified(unchanged)[0] == 0
