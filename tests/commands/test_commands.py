"""The commands as a person calls them: help at once, bad input in one line."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import filelock
import pytest

import rwp
from rwp.commands.common import named_or_demo, spec_of
from rwp.commands.train import ending
from rwp.errors import UserError
from rwp.evaluation import landscape
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.training import pseudo_labels
from tests.conftest import ROOT, Project

COMMANDS = ("data fetch", "pseudo-label", "train", "evaluate", "table", "report", "plan", "verify")


def assert_one_line(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    line = result.stderr.strip()
    assert line.startswith("error: ")
    assert "\n" not in line
    for part in parts:
        assert part in line


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys; sys.argv = ['rwp', *sys.argv[1:], '--help']\n"
        "from rwp.commands.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "ours = 'rwp.pipeline.settings'\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'sklearn', ours} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Usage: rwp" in result.stdout


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_disk_under_the_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:  # the kernel's own "no space left on device"
        result = subprocess.run(
            [sys.executable, "-m", "rwp", "--version"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert_one_line(result, "disk: expected space for what is written, got No space left")


def test_a_closed_output_is_no_error() -> None:
    command = f"exec {sys.executable} -m rwp --version >&-"
    result = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_code_of_another_checkout_is_told(tmp_path: Path) -> None:
    """A second checkout with the environment of the first would train the first's code."""
    (tmp_path / "src/rwp").mkdir(parents=True)
    (tmp_path / "src/rwp/__init__.py").touch()
    command = [sys.executable, "-m", "rwp", "--version"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    for folder, words in ((tmp_path, "warning: this is the rwp of "), (ROOT, "")):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr.startswith(words)
        assert bool(done.stderr) == bool(words)


def test_a_training_that_was_stopped_says_why_and_what_may_help(tmp_path: Path) -> None:
    for status, helps in (("collapsed", "more epochs"), ("diverged", "lower learning rate")):
        record = {"status": status, "reason": "the loss is nan in epoch 3"}
        (tmp_path / "run.json").write_text(json.dumps(record))
        words = ending(tmp_path)
        assert words.startswith(f"stopped: {status}: the loss is nan in epoch 3; ")
        assert "tables leave this training out" in words
        assert helps in words
    (tmp_path / "run.json").write_text('{"status": "finished", "reason": null}')
    assert ending(tmp_path) == ""
    for place in ("best", "last"):
        row = {"epoch": 3, "test_robust_accuracy": 0.9, "test_blind_share": 0.5}
        (tmp_path / "run.json").write_text(json.dumps({"status": "finished", place: row}))
        assert ending(tmp_path).startswith("warning: after epoch 3 (from 0) 50.0 % of the images c")


@pytest.mark.slow
def test_bad_names_and_files_are_one_line_each(project: Project) -> None:
    cases = [
        (
            "train --suite dmeo",
            "expected a suite (demo, demo-full, quick, ",
            "got 'dmeo'",
        ),
        ("train --recipe at-rpw", "expected a recipe", "'at-rpw'"),
        ("train --dataset mnist", "expected a data set", "'mnist'"),
        ("train", "data/digits/train.pt: expected the train images, found none"),
        ("data fetch digits --from nope", "--from: expected none for digits, whose digits come"),
        ("export nope --name A --output b", "nope: expected a run's best.pt, found no file"),
        ("plan --suite=", "--suite: expected a value after it, got an empty one"),
        ("verify --suite=", "--suite: expected a value after it, got an empty one"),
        ("data fetch mnist", "expected a data set or unlabeled source", "'mnist'"),
        ("pseudo-label --recipe at", "expected one with unlabeled data, got 'at'"),
        ("evaluate --checkpoint nowhere/best.pt", "expected a checkpoint, found no file"),
        ("evaluate --checkpoint a/best.pt --suite paper", "--suite: expected none for a run"),
        ("evaluate --checkpoint a/best.pt --output b", "--output: expected none for a run"),
        ("evaluate --checkpoint a.pt --model b:c", "expected either --model or --checkpoint"),
        ("table --suite papr", "expected a suite", "'papr'"),
        ("table tabel2", "'tabel2' is not one of 'table1'", "see `rwp table --help`"),
        ("ui --port abc", "valid integer", "see `rwp ui --help`"),
        ("watch --nope", "--nope", "see `rwp watch --help`"),
        ("tabel", "'tabel'", "see `rwp --help`"),
        ("data audit nowhere --against digits", "got 'nowhere'", "rwp data fetch nowhere"),
        ("rates nofile.tar.gz", "expected an archive that `make bench-gpu` wrote, found no file"),
        ("landscape fig3a", "fig3a: expected a landscape, got"),
        ("landscape fig9", "expected a landscape (fig2), got 'fig9'"),
    ]
    for words, *parts in cases:
        assert_one_line(project.run("rwp", *words.split()), *parts)
    left = {path.name for path in project.folder.iterdir()} - {".state"}  # notes on the code
    assert left == {"Snakefile", "workflow", "profiles", "src", "params.yaml"}


def test_plan_lists_the_devices_it_knows(project: Project) -> None:
    for words in (["plan", "--device"], ["plan", "--device", "--params", "params.yaml"]):
        result = project.run("rwp", *words)
        assert result.returncode == 0, result.stderr
        assert "1 thread: measured, small at 8x8x1" in result.stdout
        assert "NVIDIA A100 SXM: estimated" in result.stdout


@pytest.mark.slow
def test_a_file_where_results_should_be(project_with_data: Project) -> None:
    project = project_with_data
    (project.folder / "results").write_text("in the way")
    result = project.run("rwp", "train", "--no-tracking")
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert "a file stands where a folder is needed; move it away" in last
    assert (project.folder / "results").read_text() == "in the way"


@pytest.mark.slow
def test_a_study_that_holds_nothing_out_is_refused_under_its_own_file(
    project_with_data: Project,
) -> None:
    """Nothing would choose `best`; the message is the same from the plan and from the training."""
    project = project_with_data
    studies = project.folder / "studies"
    studies.mkdir()
    (studies / "mine.yaml").write_text(
        "suites:\n  mine: {extends: demo, description: d, held_out_fraction: 1.0e-6}\n"
    )
    for command in ("plan results/mine/table2.csv", "train --suite mine --no-tracking"):
        assert_one_line(
            project.run("rwp", *command.split()),
            "error: studies/mine.yaml: suites.mine.held_out_fraction: expected some of the ",
            "and not all, got 0 at 1e-06; raise it",
        )


def test_settings_that_are_no_yaml(project: Project) -> None:
    (project.folder / "params.yaml").write_text("build: [demo\n")
    assert_one_line(project.run("rwp", "plan"), "params.yaml: expected YAML")
    result = project.snakemake("-n")
    assert result.returncode == 2
    assert "error: params.yaml: expected YAML" in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_steps_by_hand_write_where_the_pipeline_would(project: Project) -> None:
    steps = [
        "data fetch digits",
        "data fetch digits-holdout",
        "train --suite demo --recipe natural --no-tracking",
        "pseudo-label --suite demo",
        "train --suite demo --recipe rst-rwp --seed 0",
    ]
    for step in steps:
        result = project.run("rwp", *step.split())
        assert result.returncode == 0, result.stderr
    run = project.folder / "results/demo/runs/digits/linf/small/rst-rwp/seed0"
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    checkpoint = str(run.relative_to(project.folder) / "best.pt")
    result = project.run("rwp", "evaluate", "--checkpoint", checkpoint, "--attack", "pgd-20")
    assert result.returncode == 0, result.stderr
    record = json.loads((run / "evaluation/best/pgd-20.json").read_text())
    assert record["num_examples"] == 40
    result = project.run("rwp", "verify")
    assert result.returncode == 0
    # teacher, labels, run and record stand on today's settings and code
    assert "4 results are up to date, 0 stale" in result.stdout
    rewritten = project.folder / "params.yaml"
    rewritten.write_text(rewritten.read_text().replace("digits: 2.3", "digits: 2.2"))
    result = project.run("rwp", "verify")
    assert result.returncode == 1
    assert "stale: results/demo/runs/digits/linf/small/rst-rwp/seed0/run.json" in result.stdout


def test_a_command_without_words_shows_its_help(project: Project) -> None:
    for words in ([], ["data"]):
        result = project.run("rwp", *words)
        assert "Usage: rwp" in result.stdout + result.stderr
        assert "error:" not in result.stderr


@pytest.mark.slow
def test_records_that_are_none_are_one_line_each(project: Project) -> None:
    run = project.folder / "results/demo/runs/digits/linf/small/at/seed0"
    run.mkdir(parents=True)
    (run / "run.json").write_text('{"format": "rwp.run/1"}')
    (run / "best.pt").write_bytes(b"")
    checkpoint = str(run.relative_to(project.folder) / "best.pt")
    cases = [
        ("train --resolved {} --fingerprint f", "--resolved: expected a complete TrainSpec"),
        ("evaluate --resolved x --fingerprint f", "--resolved: expected a complete Eval"),
        (f"evaluate --checkpoint {checkpoint}", "run.json: expected a complete RunKey"),
        ("track sync", "run.json: expected the status finished, collapsed or diverged"),
    ]
    for words, part in cases:
        assert_one_line(project.run("rwp", *words.split()), part)
    assert "stale" in project.run("rwp", "plan").stdout


BASELINE = ROOT / "docs/results/mini-jpeg/runs/cifar10-jpeg-16/linf/mini/at/seed0"


def told_by(
    *words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The one line of a command that is refused."""
    from rwp.commands.app import main

    monkeypatch.setattr(sys, "argv", ["rwp", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    return line


@pytest.mark.parametrize(
    ("words", "ending", "record_format"),
    [
        (["pseudo-label"], ".pt", pseudo_labels.FORMAT),
        (["landscape", "fig2"], ".csv", landscape.FORMAT),
    ],
)
@pytest.mark.parametrize("there", ["result", "record", "both"])
def test_only_a_result_of_its_kind_is_replaced(
    words: list[str],
    ending: str,
    record_format: str,
    there: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A network, a table or somebody's JSON of the same name would be lost."""
    monkeypatch.chdir(tmp_path)
    if there != "record":
        Path(f"x{ending}").touch()
    if there != "result":
        content = {"format": record_format if there == "both" else "other"}
        Path("x.json").write_text(json.dumps(content))
    told = told_by(*words, "--output", f"x{ending}", capsys=capsys, monkeypatch=monkeypatch)
    wanted = f"expected a new file, or one to replace whose record x.json is of {record_format}"
    assert (wanted in told) == (there != "both")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("train", "--fingerprint", "f"), "--resolved: expected it beside the other"),
        (("evaluate", "--resolved", "{}"), "--fingerprint: expected it beside the other"),
        (("diagnose", "--resolved", "{}"), "--fingerprint: expected it beside the other"),
        (("landscape", "--fingerprint", "f"), "--resolved: expected it beside the other"),
        (("pseudo-label", "--resolved", "{}"), "--fingerprint: expected it beside the other"),
        (("new", "mine", "--images", ""), "--images: expected a value after it, got an empty one"),
        (("evaluate", "--output="), "--output: expected a value after it, got an empty one"),
        (("",), "rwp: expected a value after it, got an empty one"),
        (("accept", "tran", "--because", "x"), "expected a kind of step (fetch, train, "),
        (("diagnose",), "expected a run's network such as results/.../best.pt, got nothing"),
        (("train", "--dataset", "cifar10"), "--suite: expected a suite beside --dataset cifar10"),
        (("train", "--network", "wrn-34-10"), "got none; name one of paper"),
        (("pseudo-label", "--dataset", "svhn"), "--suite: expected a suite beside --dataset svhn"),
        (
            ("evaluate", "--model", "a:b", "--dataset", "cifar10"),
            "--suite: expected a suite beside --dataset cifar10, as radii, attacks and schedules",
        ),
        (
            ("diagnose", "--model", "a:b", "--dataset", "cifar10"),
            "got none; name one of quick, paper",
        ),
        (("train", "--dataset", "cifra10"), "expected a data set (digits, "),
        (
            ("diagnose", "results/x/best.pt", "--dataset", "digits"),
            "--dataset: expected none for a run of this project",
        ),
        (
            ("diagnose", "results/x/best.pt", "--suite", "demo"),
            "--suite: expected none for a run of this project",
        ),
        (
            ("diagnose", "--model", "a:b", "--twin", "best.pt"),
            "--twin: expected none for a model from elsewhere, which has no twin, got best.pt",
        ),
        (("table", "metrics", "--show"), "--show: expected a table, got metrics"),
        (("table", "metrics", "--output", "x.csv"), "--output: expected none with metrics"),
        (("table", "table1", "--show", "--output", "x.csv"), "--output: expected none with --show"),
        (("table", "table2", "--output", str(ROOT / "LICENSE")), "--output: expected a new file, "),
        (("report", "--output", str(ROOT / "LICENSE")), "to replace that ends in .html, got "),
        (("losses", "x", "--output", str(ROOT / "LICENSE")), "to replace that ends in .csv, got "),
        (("landscape", "--output", str(ROOT / "LICENSE")), "LICENSE, which is there; name another"),
        (
            ("evaluate", "--checkpoint", f"{BASELINE}/best.pt", "--params", "x.yaml"),
            "--params: expected none for a run of this project",
        ),
        (("figure", "table1"), "expected a figure (fig1a, "),
        (("figure", "beyond", "--suite", "demo"), "expected a figure (fig1a, "),
        (("check", "a.b:c", "-o", "d=2022-13-45"), "--option d: expected YAML, got "),
        (("check", "a.b:c", "-o", "width=010"), "--option width: "),
        (("train", "--recipe", "natural", "--threat", "bogus"), "expected a threat model ("),
        (("landscape", "fig2", "--output", "x.json"), "--output: expected another ending than"),
        (("pseudo-label", "--output", "a/x.JSON"), "--output: expected another ending than .json"),
        (("train", "--recipe", "natural", "--threat", "l2"), "--threat: expected none with natura"),
        (("verify", "--why", "results/table2.csv", "--suite", "demo"), "--suite: expected none wi"),
        (("plan", "results/table2.csv", "--device"), "--device: expected a name beside targets, "),
        (("plan", "--suite", "demo", "--device"), "--device: expected a name beside targets, "),
        (("plan", "--device", "--detail"), "--device: expected a name beside targets, "),
        (("check", "a.b:c", "-o", "d=1", "-o", "d=2"), "--option: expected d once, got it twice"),
        (("evaluate", "--suite", "demo"), "--checkpoint: expected a network, got none; "),
        (("evaluate", "--layout", "awp"), "--checkpoint: expected a network, got none; "),
        (
            ("evaluate", "--model", "a:b", "--workers", "8", "--attack", "pgd-20"),
            "--workers: expected 1 without AutoAttack, which alone is divided, got 8",
        ),
        (("train", "--seed", str(2**70)), "seed: expected at most 9223372036854775807, got"),
    ],
)
def test_what_is_half_said_is_one_line(
    words: tuple[str, ...],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert part in told_by(*words, capsys=capsys, monkeypatch=monkeypatch)


def test_another_run_is_not_trained_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rwp.commands.app import main

    coordinates = {"dataset": "digits", "threat": "linf", "network": "small", "seed": 0}
    for recipe, told in (
        ("at-rwp", "with demo/digits/linf/small/at-rwp/seed0; name another folder"),
        ("at", "train.pt: expected the train images, found none"),  # the same run: it goes on
    ):
        record = {"key": {"suite": "demo", "recipe": recipe, **coordinates}}
        (tmp_path / "run.json").write_text(json.dumps(record))
        words = ["--params", str(ROOT / "params.yaml"), "--output", str(tmp_path), "--no-tracking"]
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["rwp", "train", "--recipe", "at", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert told in capsys.readouterr().err


@pytest.fixture
def full_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run of demo-full, with nothing but its record and two networks' names."""
    folder = tmp_path / "results/demo-full/runs/digits/l2/small/at/seed0"
    (folder / "checkpoints").mkdir(parents=True)
    key = {"suite": "demo-full", "dataset": "digits", "threat": "l2", "network": "small"}
    record = {"key": key | {"recipe": "at", "seed": 0}}
    (folder / "run.json").write_text(json.dumps(record))
    for name in ("best.pt", "checkpoints/epoch12.pt"):
        (folder / name).touch()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_kept_network_is_attacked_as_its_own_suite_says(
    full_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not at the radius of demo, which the name of its folder does not say."""
    seen = []
    monkeypatch.setattr(
        "rwp.commands.evaluate._evaluate_external", lambda found, *_: seen.append(found)
    )
    from rwp.commands.app import main

    kept = str(full_run / "checkpoints/epoch12.pt")
    monkeypatch.setattr(sys, "argv", ["rwp", "evaluate", "--checkpoint", kept])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert (seen[0].suite, seen[0].dataset, seen[0].threat) == ("demo-full", "digits", "l2")
    tools = {"capsys": capsys, "monkeypatch": monkeypatch}
    line = told_by("evaluate", "--checkpoint", kept, "--suite", "demo", **tools)
    assert "--suite: expected none for a run of this project" in line
    for path in (kept, str(full_run / "best.pt")):
        line = told_by("evaluate", "--checkpoint", path, "--arch", "small", **tools)
        assert "--suite: expected a suite beside the network of a run" in line
        assert "name demo-full, or leave --arch out" in line


def test_records_are_of_the_network_that_was_named(full_run: Path, params: Params) -> None:
    (full_run / "last.pt").touch()
    for name in ("best", "last"):
        assert spec_of(params, full_run / f"{name}.pt", ()).checkpoint == name


@pytest.mark.parametrize(
    ("old", "what"),
    [
        ("demo-full", "suites"),
        ("digits", "data sets"),
        ("small", "networks"),
        ("l2", "threat models"),
        ("at", "recipes"),
    ],
)
def test_a_run_of_names_that_are_gone_is_one_line(
    full_run: Path,
    old: str,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = full_run / "run.json"
    record.write_text(record.read_text().replace(f'"{old}"', '"gone"'))
    for command in (["evaluate", "--checkpoint"], ["diagnose"]):
        words = [*command, str(full_run / "best.pt")]
        line = told_by(*words, capsys=capsys, monkeypatch=monkeypatch)
        assert f"expected a run of the {what} in the settings, got one of 'gone'" in line
        assert line.endswith("which is gone; bring it back, or leave the run out")


def test_images_without_a_test_split_are_no_data_set_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mine/train.pt", "mine/test.pt", "unlabeled/rest.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    words = ("data", "audit", "mine", "--against", "rest", "--data", str(tmp_path))
    line = told_by(*words, capsys=capsys, monkeypatch=monkeypatch)
    assert "--against: expected a data set, whose test images are compared with, got rest" in line


UNREAD = {
    "Permission denied": PermissionError(errno.EACCES, "Permission denied"),
    "Input/output error": OSError(errno.EIO, "Input/output error"),
    "Cannot allocate memory": RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"),
}


@pytest.mark.parametrize("reason", UNREAD)
@pytest.mark.parametrize("kind", ["images", "network", "labels"])
def test_a_file_that_cannot_be_read_is_not_called_damaged(
    kind: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rwp.commands.app import _advice
    from rwp.data.images import ImageSet
    from rwp.training.checkpoint import load_network
    from rwp.training.pseudo_labels import load_pseudo_labeled

    path = tmp_path / "file.pt"
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    ImageSet(images, torch.tensor([0, 1]), 2).save(path)
    original = torch.load

    def load(*arguments: object, **options: object) -> object:
        if kind != "labels" or options.get("mmap"):
            raise UNREAD[reason]
        return original(*arguments, **options)  # type: ignore[arg-type]

    read = {
        "images": ImageSet.load,
        "network": load_network,
        "labels": lambda path: load_pseudo_labeled(path, path, num_classes=2),
    }
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(UserError) as error:
        read[kind](path)
    line = _advice(error.value)
    assert line is not None
    assert line.startswith(f"{path}: expected a file that can be read, got ")
    assert reason in line
    assert "so keep it" in line
    assert "delete" not in line


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_is_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Marker files in the place of locks would stay for ever where a job was killed."""
    from rwp.commands import app

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def work(**_: object) -> None:
        with filelock.FileLock(tmp_path / "lock"):
            raise AssertionError("no lock, and it went on")

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(app, "app", work)
    monkeypatch.setattr(sys, "argv", ["rwp"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        app.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("error: locks: expected a file system whose locks work, got ")


def test_demo_is_meant_where_any_figure_of_it_shows_the_data(committed: dict[str, Any]) -> None:
    content = copy.deepcopy(committed)
    content["datasets"]["more-digits"] = {"source": "digits", "test_share": 0.3}
    with pytest.raises(UserError, match="expected a suite beside --dataset more-digits"):
        named_or_demo(check_params(content), None, dataset="more-digits")
    figure = {"kind": "curves", "recipes": ["at"], "splits": ["test"]}
    figure["dataset"] = "more-digits"
    content["suites"]["demo"]["figures"]["mine"] = figure
    assert named_or_demo(check_params(content), None, dataset="more-digits") == "demo"


@pytest.mark.slow
def test_determinism_is_recorded_and_changes_no_fingerprint(project_with_data: Project) -> None:
    project = project_with_data
    path = project.folder / "results/demo/runs/digits/linf/small/at/seed0/run.json"
    records = []
    for words in ((), ("--deterministic",)):
        result = project.run("rwp", "train", "--no-tracking", *words)
        assert result.returncode == 0, result.stderr
        records.append(json.loads(path.read_text()))
    written = path.stat().st_mtime_ns
    done = project.run("rwp", "train", "--no-tracking")
    assert "this run is done; --again trains it once more" in done.stderr
    assert done.stdout.strip() == str(path.parent.relative_to(project.folder))
    assert path.stat().st_mtime_ns == written
    assert project.run("rwp", "train", "--no-tracking", "--again").returncode == 0
    assert path.stat().st_mtime_ns > written
    path.with_name("best.pt").unlink()  # what is not whole is made again
    assert project.run("rwp", "train", "--no-tracking").returncode == 0
    assert path.with_name("best.pt").exists()
    usual, asked = records
    assert (usual["deterministic"], asked["deterministic"]) == (False, True)
    assert usual["fingerprint"] == asked["fingerprint"]
    assert usual["best"]["test_robust_accuracy"] == asked["best"]["test_robust_accuracy"]


@pytest.mark.slow
def test_another_networks_checkpoint_is_refused(project_with_data: Project) -> None:
    project = project_with_data
    assert project.run("rwp", "train", "--no-tracking").returncode == 0
    run = project.folder / "results/demo/runs/digits/linf/small/at/seed0"
    (run / "best.pt").write_bytes((run / "best.pt").read_bytes()[:2000])
    checkpoint = str(run.relative_to(project.folder) / "best.pt")
    result = project.run("rwp", "evaluate", "--checkpoint", checkpoint, "--attack", "fgsm")
    assert_one_line(result, "best.pt: expected a checkpoint, got a truncated or foreign file")
    assert not (run / "evaluation").exists()
    assert Path(run / "last.pt").exists()


def test_help_lists_what_can_be_named() -> None:
    def shown(*words: str) -> str:
        command = [sys.executable, "-m", "rwp", *words]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        return " ".join(found.stdout.replace("│", " ").split())

    training, evaluation = shown("train", "--help"), shown("evaluate", "--help")
    assert "One of: demo, demo-full, quick, quick-jpeg, mini, " in evaluation
    assert re.search(r"One of: [^.]*\bprecision\b", evaluation)  # a study's suite
    assert "autoattack" in evaluation
    assert {"trades-rwp,", "wrn-28-10,"} <= set(training.split())
    assert "--resolved" not in training + evaluation
    assert "--fingerprint" not in training
    assert shown("--version") == f"rwp {rwp.__version__}"


def test_the_pages_are_at_a_port_at_which_nobody_else_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The links would lead to another program's, or another person's, pages."""
    from rwp.commands import ui

    with socket.create_server(("127.0.0.1", 0)) as theirs:
        taken = theirs.getsockname()[1]
        monkeypatch.setattr(ui, "_FIRST", taken)
        assert taken < ui._free(None) < taken + 20
        with pytest.raises(UserError, match=f"--port: expected a free port, got {taken}"):
            ui._free(taken)
    assert ui._free(taken) == taken


HELPED = """
import sys, time
from rwp.commands.workers import helpers
sys.executable = sys.argv[1]
with helpers(2, ["evaluate"]):
    print("begun", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.timeout(50)  # the helpers would sleep for longer
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_helpers_end_with_the_command(number: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "helper"
    program.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 60\n")
    program.chmod(0o755)
    command = [sys.executable, "-c", HELPED, str(program)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pids: list[str] = []
    while len(pids) < 2:
        assert process.poll() is None
        pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate()
    while any(map(_sleeps, pids)):
        time.sleep(0.02)


def _sleeps(pid: str) -> bool:
    try:
        return "sleep" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("value", ["0", "abc", "1.5", "2,x", "-1"])
def test_a_number_of_threads_that_is_none_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of the processor's would be taken: other last digits, without a word."""
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    line = told_by("--help", capsys=capsys, monkeypatch=monkeypatch)
    assert f"OMP_NUM_THREADS: expected a number of threads, such as 1, got {value!r}" in line


@pytest.mark.parametrize(("value", "taken"), [("", "1"), ("  ", "1"), ("2,1", "2,1"), ("3", "3")])
def test_without_a_number_of_threads_it_is_one(
    value: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwp.commands.app import _set_threads

    monkeypatch.setenv("OMP_NUM_THREADS", value)
    _set_threads()
    assert os.environ["OMP_NUM_THREADS"] == taken
