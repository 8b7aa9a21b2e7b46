"""A full disk, a forbidden folder, cut and damaged files: named, never used, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp import files
from rwp.commands.app import main
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.records import read_record
from rwp.pipeline.code import ScanNotes
from rwp.reporting.runs import read_run_folder
from rwp.training.checkpoint import load_network
from rwp.training.pseudo_labels import load_pseudo_labeled
from rwp.training.resume import RunState
from tests.conftest import Project
from tests.faults.ledger import attempt
from tests.faults.processes import Result, Undisturbed, finish, leftovers, rwp, start
from tests.faults.sample import sample
from tests.faults.victim import plant_in_writes

SEED = 20221
ERRORS = {
    "no space (ENOSPC)": (errno.ENOSPC, "written"),
    "no permission (EACCES)": (errno.EACCES, "begun"),
    "a disk that fails (EIO)": (errno.EIO, "named"),
}


@pytest.fixture
def call(
    place: Project,
    undisturbed: Undisturbed,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str]]:
    """Run a command in this process, in a project where everything before it is done."""
    shutil.rmtree(place.folder / "data")
    for name in ("data", "results"):
        shutil.copytree(undisturbed.project.folder / name, place.folder / name)
    monkeypatch.chdir(place.folder)
    # Once a process, and done without where it cannot be written: no write of the command's.
    monkeypatch.setattr(ScanNotes, "save", lambda notes: None)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rwp", *words])
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
            return code, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): files.sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }


BEST = "results/demo/runs/digits/linf/small/at/seed0/best.pt"
COMMANDS = {
    "data": ("data", "fetch", "digits"),
    "unlabeled": ("data", "fetch", "digits-holdout"),
    "training": ("train", "--recipe", "at-rwp", "--no-tracking"),
    "labels": ("pseudo-label",),
    "evaluation": ("evaluate", "--checkpoint", BEST, "--attack", "pgd-20", "--attack", "fgsm"),
    "table": ("table", "table1"),
    "figure": ("figure", "fig3c"),
    "report": ("report",),
}
MADE = {
    "data": "data/digits",
    "unlabeled": "data/unlabeled",
    "training": "results/demo/runs/digits/linf/small/at-rwp/seed0",
}


def without_clocks(folder: Path) -> dict[str, str]:
    """What a command leaves, but for files that hold times of day or durations."""
    clocks = (
        "run.json",
        "history.jsonl",
        "fgsm.json",
        "pgd-20.json",
        "report.html",
        ".png",
        ".svg",
    )
    return {name: value for name, value in digests(folder).items() if not name.endswith(clocks)}


@pytest.mark.parametrize("step", COMMANDS)
def test_every_write_may_fail(
    step: str, call: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, folder = COMMANDS[step], Path.cwd()
    if step in MADE:  # what is there with the same bytes is not written again
        shutil.rmtree(folder / MADE[step])
    shutil.copytree(folder, folder.with_name("before"), symlinks=True)

    def start_over() -> None:
        for name in ("data", "results", ".state"):
            shutil.rmtree(folder / name, ignore_errors=True)
            if (folder.with_name("before") / name).exists():
                shutil.copytree(folder.with_name("before") / name, folder / name)

    with monkeypatch.context() as patch:
        count = _plan(patch, 0, "", lambda: None)
        assert call(*words)[0] == 0
    whole = without_clocks(folder)
    assert count
    for fault, (number, moment) in ERRORS.items():
        places = range(1, len(count) + 1)
        for place in sample(f"{step} {fault}", places, 1):
            start_over()

            def fail(number: int = number) -> None:
                raise OSError(number, os.strerror(number))

            with attempt(f"{fault} at each write"):
                with monkeypatch.context() as patch:
                    _plan(patch, place, moment, fail)
                    code, said = call(*words)
                assert code == 2, said
                assert said.strip().splitlines()[-1].startswith("error: ")
                assert "Traceback" not in said
                assert leftovers(folder) == []
                assert call(*words)[0] == 0
                assert without_clocks(folder) == whole


def _plan(
    patch: pytest.MonkeyPatch, number: int, moment: str, action: Callable[[], None]
) -> list[str]:
    """`plant_in_writes`, taken back when the patch is."""
    for name in ("_locked_temporary", "_to_disk"):
        patch.setattr(files, name, getattr(files, name))
    return plant_in_writes(number, moment, action)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("kilobytes", sample("disks", [150, 300, 450, 600, 900, 1300], 2))
def test_a_disk_that_is_really_full(
    kilobytes: int, place: Project, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """A small file system: state, results and MLflow's store fill it wherever they do."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for name in (".state", "results"):
            (disk / name).mkdir()
            (place.folder / name).symlink_to(disk / name)
        (place.folder / "mlflow.db").symlink_to(disk / "mlflow.db")
        with attempt("a small disk that is really full"):
            process = start(place.folder, rwp("train", "--recipe", "at"))
            _, said = process.communicate()
            assert process.returncode in (0, 2), said
            assert "Traceback" not in said
            if process.returncode:
                assert "no space is left there" in said.strip().splitlines()[-1]
            assert leftovers(disk) == []
            grow = ["mount", "-o", "remount,size=64m", str(disk)]
            subprocess.run(grow, check=True, capture_output=True)
            finish(start(place.folder, rwp("train", "--recipe", "at")))
            folder = place.folder / undisturbed.spec("at").key.directory
            Result.read(folder).assert_equals(undisturbed.results["at"])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def lengths(size: int, count: int) -> list[int]:
    """Where to cut: every byte at both ends, and at random between."""
    draw = random.Random(SEED)
    ends = [*range(min(32, size)), *range(max(size - 32, 0), size)]
    return sorted({*ends, *(draw.randrange(size) for _ in range(count))})


def refused(read: Callable[[], Any], path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def readers(undisturbed: Undisturbed) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    folder = undisturbed.project.folder
    run = folder / undisturbed.spec("at").key.directory
    (labels,) = (folder / "results/demo/pseudo_labels").rglob("*.pt")
    images = folder / "data/unlabeled/digits-holdout.pt"
    return {
        "a network": (run / "best.pt", load_network),
        "images": (folder / "data/digits/test.pt", ImageSet.load),
        "pseudo-labels": (labels, lambda path: load_pseudo_labeled(images, path, num_classes=10)),
    }


@pytest.mark.parametrize("kind", ["a network", "images", "pseudo-labels"])
def test_files_cut_anywhere(kind: str, undisturbed: Undisturbed, tmp_path: Path) -> None:
    source, read = readers(undisturbed)[kind]
    whole, path = source.read_bytes(), tmp_path / source.name
    for length in lengths(len(whole), 100):
        path.write_bytes(whole[:length])
        with attempt(f"{kind} cut at any byte"):
            refused(lambda: read(path), path)


def test_resume_checkpoints_cut_anywhere(tmp_path: Path) -> None:
    """The one before is taken, and the cut one is set aside and named."""
    state = RunState(tmp_path / "fingerprint")
    for epoch in (1, 2):
        state.save({"weights": torch.arange(5000.0), "history": [{"epoch": epoch}]})
    whole, before = state.checkpoint.read_bytes(), state.previous.read_bytes()
    for length in lengths(len(whole), 150):
        state.checkpoint.write_bytes(whole[:length])
        state.previous.write_bytes(before)
        with attempt("a resume checkpoint cut at any byte") as tried:
            found = state.load(torch.device("cpu"))
            assert found is not None
            assert found["history"] == [{"epoch": 1}]
            assert not state.checkpoint.exists()
            tried.lost("the time since the checkpoint before (5 minutes or an epoch)")


def test_resume_checkpoints_with_a_wrong_byte(tmp_path: Path) -> None:
    """Either the byte does not matter, or the file is not used."""
    state = RunState(tmp_path / "fingerprint")
    content = {"weights": torch.arange(5000.0), "history": [{"epoch": 1}], "step": 3}
    state.save(content)
    whole, draw = state.checkpoint.read_bytes(), random.Random(SEED)
    for _ in range(400):
        place = draw.randrange(len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        state.checkpoint.write_bytes(damaged)
        with attempt("a resume checkpoint with one wrong bit"):
            found = state.load(torch.device("cpu"))
            if found is not None:
                assert torch.equal(found.pop("weights"), content["weights"]), place
                assert found == {"history": [{"epoch": 1}], "step": 3}, place


def test_records_cut_anywhere(undisturbed: Undisturbed, tmp_path: Path) -> None:
    source = undisturbed.project.folder / undisturbed.spec("at").key.directory
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    for name in ("run.json", "history.jsonl"):
        path, whole = folder / name, (source / name).read_text()
        for length in lengths(len(whole.rstrip()), 60):
            path.write_text(whole[:length])
            with attempt(f"{name} cut anywhere, also within a line"):
                refused(lambda: read_run_folder(folder), path)
        path.write_text(whole)
    assert read_run_folder(folder).finished


def test_records_of_another_version(undisturbed: Undisturbed, tmp_path: Path) -> None:
    source = undisturbed.project.folder / undisturbed.spec("at").key.directory
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    record = json.loads((source / "run.json").read_text())
    for other in ("rwp.run/2", "rwp.run/0", "", None, 7):
        (folder / "run.json").write_text(json.dumps(record | {"format": other}))
        with attempt("a record of another version"):
            refused(lambda: read_run_folder(folder), folder / "run.json")
    network = torch.load(source / "best.pt", weights_only=True)
    for other in ("rwp.checkpoint/2", "", None):
        torch.save(network | {"format": other}, folder / "best.pt")
        with attempt("a checkpoint of another version"):
            refused(lambda: load_network(folder / "best.pt"), folder / "best.pt")
    evaluation = tmp_path / "pgd-20.json"
    for content in ({"format": "rwp.evaluation/2"}, {}, [], None):
        evaluation.write_text(json.dumps(content))
        with attempt("a record of another version"):
            refused(lambda: read_record(evaluation), evaluation)
