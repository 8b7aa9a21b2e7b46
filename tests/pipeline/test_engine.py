"""A killed Snakemake: what its jobs have finished counts, and no lock of a living one is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from snakemake.io import IOFile
from snakemake.persistence import MetadataRecord
from snakemake.persistence.file import FilePersistence

from rwp.errors import UserError
from rwp.pipeline.engine import be_at_work, finished_jobs, notes_due, refuse_if_at_work
from rwp.pipeline.load import load_params
from rwp.pipeline.steps import Step, Steps
from tests.conftest import Project

WORKING = """
import time
from rwp.pipeline.engine import be_at_work
be_at_work()
print("at work", flush=True)
time.sleep(600)
"""
RUN = "results/demo/runs/digits/linf/small/at/seed0"


@pytest.fixture
def step(project_with_data: Project, monkeypatch: pytest.MonkeyPatch) -> Step:
    """A training that has ended, whose outputs still have the marks of a job that has begun."""
    monkeypatch.chdir(project_with_data.folder)
    found = Steps(load_params()).find(f"{RUN}/last.pt")
    for path in map(Path, found.outputs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"fingerprint": found.fingerprint, "inputs": {}}))
    notes = FilePersistence()
    for path in (*found.outputs, "results/of/no/step.json", "results/" + "long" * 100):
        notes._mark_incomplete(str(IOFile(path)), None)
    return found


def test_what_is_done_is_known_by_its_fingerprint(step: Step) -> None:
    steps = Steps(load_params())
    assert sorted(finished_jobs(steps)) == sorted(step.outputs)
    best, record = Path(f"{RUN}/best.pt"), Path(f"{RUN}/run.json")
    best.rename("elsewhere")
    assert finished_jobs(steps) == []
    Path("elsewhere").rename(best)
    for text in ('{"fingerprint": "of other settings"}', '{"cut'):
        record.write_text(text)
        assert finished_jobs(steps) == []


def test_the_next_snakemake_leaves_what_is_done(project_with_data: Project, step: Step) -> None:
    for fingerprint, planned in ((step.fingerprint, False), ("of other code", True)):
        notes = FilePersistence()
        for path in step.outputs:
            notes._mark_incomplete(path, None)
        Path(f"{RUN}/run.json").write_text(json.dumps({"fingerprint": fingerprint}))
        if not planned:  # while another one works, marks may be of jobs that run
            process = subprocess.Popen([sys.executable, "-c", WORKING], stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            assert "train_demo" in project_with_data.snakemake("-n", f"{RUN}/last.pt").stdout
            process.kill()
            process.wait()
        said = project_with_data.snakemake("-n", f"{RUN}/last.pt")
        assert said.returncode == 0, said.stderr
        assert ("Nothing to be done" in said.stdout + said.stderr) != planned


def _would_do(project: Project, target: str) -> str:
    said = project.snakemake("-n", target)
    assert said.returncode == 0, said.stderr
    return "nothing" if "Nothing to be done" in said.stdout + said.stderr else said.stdout


def test_results_made_by_hand_count_as_what_they_say_they_are(
    project_with_data: Project, step: Step
) -> None:
    """Snakemake has no note of them, and once took any for current."""
    for path in step.outputs:
        FilePersistence().cleanup_metadata(IOFile(path))
    record = Path(f"{RUN}/run.json")
    today = record.read_text()
    assert _would_do(project_with_data, str(record)) == "nothing"
    record.write_text(json.dumps({"fingerprint": "of other settings"}))
    assert "train_demo_kept0" in _would_do(project_with_data, str(record))
    # Trained again by hand, they count at once, whatever was noted of those before.
    record.write_text(today)
    assert _would_do(project_with_data, str(record)) == "nothing"
    others = {"inputs": {"train": "of other images"}, "key": {"dataset": "digits"}}
    record.write_text(json.dumps(json.loads(today) | others))
    assert "train_demo_kept0" in _would_do(project_with_data, str(record))


def test_images_fetched_by_hand_under_other_settings_are_fetched_again(
    project_with_data: Project,
) -> None:
    images = "data/digits/train.pt"
    assert _would_do(project_with_data, images) == "nothing"
    passport = project_with_data.folder / "data/digits/passport.json"
    document = json.loads(passport.read_text()) | {"fingerprint": "of another test_share"}
    passport.write_text(json.dumps(document))
    assert "jobs: fetch" in _would_do(project_with_data, images)


def test_of_files_without_a_fingerprint_and_a_note_nothing_is_known(step: Step) -> None:
    steps = Steps(load_params())
    table = steps.find("results/demo/table1.csv")
    for path in map(Path, table.outputs):
        path.write_text("of any settings")
    assert dict(notes_due([table], lambda _: None)) == {
        path: ["'unknown'"] for path in table.outputs
    }
    assert dict(notes_due([table], lambda _: ["'noted'"])) == {}
    today = repr(step.fingerprint)
    assert dict(notes_due([step], lambda _: [today])) == {}
    assert dict(notes_due([step], lambda _: ["'of before'"])) == {
        path: [today] for path in step.outputs
    }
    # Neither is today's: the job runs anyway, and with the settings put back the note is right.
    Path(f"{RUN}/run.json").write_text(json.dumps({"fingerprint": "another"}))
    assert dict(notes_due([step], lambda _: ["'of before'"])) == {}
    assert dict(notes_due([step], lambda _: [today])) == {
        path: ["'another'"] for path in step.outputs
    }
    Path(step.outputs[0]).unlink()  # it is made again anyway
    assert dict(notes_due([step], lambda _: ["'another'"])) == {}


@pytest.mark.slow
def test_a_lock_of_a_living_snakemake_is_not_taken_away(
    project_with_data: Project,
) -> None:
    project = project_with_data
    for path in (project.folder / "data/digits").iterdir():
        path.unlink()
    locks = project.folder / "data/.locks"
    locks.mkdir(exist_ok=True)
    with FileLock(locks / "digits.lock"):  # the job waits for it
        process = subprocess.Popen(
            [Path(sys.executable).parent / "snakemake", "--cores", "1", "data/digits/train.pt"],
            cwd=project.folder,
            env=project.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (project.folder / "logs/fetch/digits.log").exists():
            assert process.poll() is None
            time.sleep(0.05)
        said = project.snakemake("--unlock")
        assert said.returncode == 2
        assert "Traceback" not in said.stderr
        line = said.stderr.strip().splitlines()[-1]
        assert line.startswith("error: snakemake --unlock: ")
        assert "expected no other snakemake at work in this folder, found one" in line
        assert list((project.folder / ".snakemake/locks").iterdir())
        assert project.snakemake("-n", f"{RUN}/last.pt").returncode == 0
    assert process.wait() == 0
    assert project.snakemake("--unlock").returncode == 0


def test_several_may_be_at_work(tmp_path: Path) -> None:
    refuse_if_at_work(tmp_path)
    assert be_at_work(tmp_path)
    assert not be_at_work(tmp_path)
    with pytest.raises(UserError, match="found one; wait for it or stop it"):
        refuse_if_at_work(tmp_path)


def test_a_note_that_is_set_right_keeps_what_inputs_were_then(
    project_with_data: Project, step: Step
) -> None:
    """By it inputs that were only touched are known; without it AutoAttack would run again."""
    for output in step.outputs:
        FilePersistence().cleanup_metadata(IOFile(output))
    path = IOFile(step.outputs[0])
    sums = {"data/digits/train.pt": "sha256:of-then"}
    note = MetadataRecord(record_format_version=6, params=["'of before'"], input_checksums=sums)
    FilePersistence()._write_record(str(path), note)
    assert _would_do(project_with_data, step.outputs[0]) == "nothing"
    found = FilePersistence().metadata(path)
    assert found is not None
    assert (found.params, found.input_checksums) == ([repr(step.fingerprint)], sums)
