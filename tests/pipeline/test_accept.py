"""A change of code that moves no number is accepted once; one that moves a bit never is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.repository import CopiedProject, new_repository, small_settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),  # on a machine that does much else
    pytest.mark.xdist_group("accepted"),
]
RUN = "results/demo/runs/digits/linf/small/at-rwp/seed0/run.json"


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any], digits: Path
) -> CopiedProject:
    content = small_settings(committed)
    # Above all losses, so that the first steps perturb the weights, too.
    content["suites"]["demo"]["perturbations"]["rwp"]["c_min"] = {"digits": 5.0}
    project = new_repository(tmp_path_factory.mktemp("trained"), content)
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


LABELS = "results/demo/pseudo_labels/digits/digits-holdout-seed0.pt"
EDITED = (
    "data/fetch.py",
    "evaluation/jobs.py",
    "evaluation/diagnosis.py",
    "training/pseudo_labels.py",  # trainings read the labels by it
)
KINDS = ("fetch", "train", "evaluate", "judge", LABELS)  # no report of the suite has the labels


def test_every_kind_of_step(unchanged: CopiedProject) -> None:
    best = str(Path(RUN).with_name("best.pt"))
    for words in (
        ("train", "--recipe", "natural", "--no-tracking"),
        ("train", "--recipe", "at", "--no-tracking"),
        ("pseudo-label",),
        ("evaluate", "--checkpoint", best),
        ("diagnose", best),
    ):
        result = unchanged.run("rwp", *words)
        assert result.returncode == 0, result.stderr
    assert verified(unchanged)[0] == 0
    for name in EDITED:
        path = unchanged.folder / "src/rwp" / name
        path.write_text(path.read_text(encoding="utf-8") + "\n_NOT_USED = 3\n", encoding="utf-8")
    for step in KINDS:
        assert verified(unchanged)[0] == 1 or step == LABELS
        result = unchanged.run("rwp", "accept", step, "--because", "a name that nothing reads")
        assert result.returncode == 0, f"{step}: {result.stderr}"
    assert verified(unchanged)[0] == 0
    assert verified(unchanged, "--why", LABELS)[0] == 0
    entries = (unchanged.folder / "accepted.jsonl").read_text().splitlines()
    # The labels' unlabeled images are fetched by a module of their own, on data/fetch.
    assert [json.loads(entry)["step"] for entry in entries] == [*KINDS[:-1], "fetch", "label"]


@pytest.mark.parametrize("name", ["table", "report", "results/demo/table2.csv"])
def test_what_takes_seconds_is_made_again(name: str, unchanged: CopiedProject) -> None:
    result = unchanged.run("rwp", "accept", name, "--because", "nothing")
    assert result.returncode == 2
    assert "let snakemake make them again" in result.stderr
    assert "\n" not in result.stderr.strip()


def test_a_training_that_was_stopped_goes_on(unchanged: CopiedProject) -> None:
    words = ["rwp", "train", "--recipe", "at-rwp", "--seed", "1", "--no-tracking"]
    content = unchanged.settings
    content["suites"]["demo"]["seeds"] = [0, 1]  # decides about no training
    unchanged.write(content)
    process = subprocess.Popen(
        [str(Path(sys.executable).parent / "rwp"), *words[1:]],
        cwd=unchanged.folder,
        env=unchanged.environment(),
        stderr=subprocess.DEVNULL,
    )
    states = unchanged.folder / ".state/demo/digits/linf/small/at-rwp/seed1"
    while not list(states.glob("*/")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)
    process.terminate()
    assert process.wait() == 143
    (state,) = states.glob("*/")
    assert (state / "checkpoint.pt").exists()
    edit(unchanged, "training/loop.py", "class Training", "_NOT_USED = 3\n\n\nclass Training")
    result = unchanged.run("rwp", "accept", "train", "--because", "a name that nothing reads")
    assert result.returncode == 0, result.stderr
    assert unchanged.run(*words).returncode == 0
    assert not state.exists()  # used up, and the run carries its fingerprint
    record = json.loads((unchanged.folder / RUN.replace("seed0", "seed1")).read_text())
    assert record["fingerprint"] == state.name


OWN = """
from torch.nn import functional as F


def plain():
    def losses(model, images, adversarial, labels):
        logits = model(adversarial)
        return F.cross_entropy(logits, labels, reduction="none"), logits

    return losses
"""


def test_a_training_with_code_of_ones_own(unchanged: CopiedProject) -> None:
    """Its modules are found where the step is repeated, too."""
    (unchanged.folder / "own").mkdir()
    (unchanged.folder / "own" / "losses.py").write_text(OWN)
    content = unchanged.settings
    suite = content["suites"]["demo"]
    suite["objectives"]["mine"] = {"loss": "own.losses:plain"}
    suite["recipes"]["mine"] = {"objective": "mine", "perturbation": "rwp"}
    suite["table2"]["recipes"].append("mine")
    unchanged.write(content)
    trained = unchanged.run("rwp", "train", "--recipe", "mine", "--no-tracking")
    assert trained.returncode == 0, trained.stderr
    edit(unchanged, "training/loop.py", "class Training", "_NOT_USED = 3\n\n\nclass Training")
    run = RUN.replace("at-rwp", "mine")
    assert verified(unchanged, "--why", run)[0] == 1
    result = unchanged.run("rwp", "accept", run, "--because", "a name that nothing reads")
    assert result.returncode == 0, result.stderr
    assert verified(unchanged, "--why", run)[0] == 0


MOVED = {
    "training/optimization.py": ("spec.decay_factor**drops", "spec.decay_factor**drops * 1.000001"),
    "core/weight_perturbation.py": ("SMALLEST_NORM = 1e-20", "SMALLEST_NORM = 1e-3"),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_change_that_moves_a_bit(name: str, unchanged: CopiedProject) -> None:
    """Also where another training, which has no weight perturbation, is as it was."""
    assert unchanged.run("rwp", "train", "--recipe", "at", "--no-tracking").returncode == 0
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
    assert "code" not in text  # which is the same
    result = unchanged.run("rwp", "accept", "train", "--because", "why not")
    assert result.returncode == 2
    assert "no commit whose code fits" in result.stderr


def test_words_and_how_often_is_saved_make_nothing_stale(unchanged: CopiedProject) -> None:
    edit(unchanged, "training/resume.py", "CHECKPOINT_SECONDS = 300", "CHECKPOINT_SECONDS = 7")
    edit(unchanged, "core/threat.py", "expected a radius in", "expected some radius in")
    assert verified(unchanged)[0] == 0
