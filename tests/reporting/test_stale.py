"""What is stale says why, and nothing is made of it by hand."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.main import get_command

from rwp.commands.app import app
from rwp.commands.common import refuse_stale
from rwp.commands.diagnose import _by_hand
from rwp.commands.train import _is_done
from rwp.commands.verify import verify
from rwp.errors import UserError
from rwp.files import sha256_file
from rwp.pipeline.accept import _in_little, _moved, _way
from rwp.pipeline.load import check_params
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.settings import Setting
from rwp.pipeline.state import Result
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import setting_keys
from rwp.pipeline.why import reasons
from rwp.training.spec import TrainSpec
from tests.data.samples import write_passport

from .conftest import Project
from .settings import PARAMS


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_by_hand_nothing_is_made_of_stale_files(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.root)
    (key,) = demo.table2_keys("rst")
    steps = Steps(demo.params)
    mix = steps.train(key).settings_as(TrainSpec).unlabeled
    assert mix is not None
    label = steps.label(mix.labeling)
    refuse_stale(label)  # what is not there is missed by the command itself
    teacher = demo.write_run(mix.teacher, [0.5] * 6) / "run.json"
    refuse_stale(label)
    changed(teacher, fingerprint="0" * 16)
    with pytest.raises(UserError, match=r"natural/seed0/run\.json: .* got an older one; `rwp v"):
        refuse_stale(label)
    write_passport(demo.root / "data", "digits", fingerprint="of other images")
    with pytest.raises(UserError, match=r"data/digits/passport\.json: expected it as today's"):
        refuse_stale(steps.train(key))


def test_by_hand_nothing_is_made_of_images_whose_fetch_ended_early(
    demo: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its passport is written last: without it train.pt may be new and test.pt old."""
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    (key,) = demo.table2_keys("at")
    passport = demo.root / "data" / "digits" / "passport.json"
    passport.parent.mkdir(parents=True, exist_ok=True)
    step = Steps(demo.params).train(key)
    refuse_stale(step)
    passport.with_name("train.pt").touch()
    with pytest.raises(UserError, match=r"passport\.json: .* ended early, .* data fetch digits`$"):
        refuse_stale(step)
    for why in (None, Path("data/digits/train.pt")):
        with pytest.raises(typer.Exit):
            verify(suite="demo" if why is None else None, why=why, params_file=Path("params.yaml"))
        assert "stale: data/digits/passport.json\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train --no-tracking", "pseudo-label", "landscape fig2"])
def test_by_hand_nothing_is_made_of_images_of_other_settings(
    command: str, shown: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shown.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: shown.params)
    write_passport(shown.root / "data", "digits", fingerprint="of other images")
    with pytest.raises(UserError, match=r"data/digits/passport\.json: expected it as today's"):
        get_command(app)(command.split(), standalone_mode=False)


def test_by_hand_nothing_is_trained_with_stale_labels(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.root)
    (key,) = demo.table2_keys("rst")
    step = Steps(demo.params).train(key)
    refuse_stale(step)
    mix = step.settings_as(TrainSpec).unlabeled
    assert mix is not None
    labels = demo.root / mix.labeling.path.with_suffix(".json")
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps({"fingerprint": "0" * 16}))
    with pytest.raises(UserError, match=r"rest-seed0\.json: .* got an older one; `rwp verify"):
        refuse_stale(step)


def test_a_teacher_whose_training_failed_labels_nothing(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    (key,) = demo.table2_keys("rst")
    mix = Steps(demo.params).train(key).settings_as(TrainSpec).unlabeled
    assert mix is not None
    demo.write_run(mix.teacher, [0.5] * 6, status="diverged", reason="the loss is no number")
    with pytest.raises(UserError, match=r"whose training finished, got diverged \(the loss is no"):
        get_command(app)(["pseudo-label"], standalone_mode=False)


def test_a_training_is_done_where_nothing_of_it_is_stale_begun_or_missing(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.root)
    (key,) = demo.table2_keys("at")
    step = Steps(demo.params).train(key)
    folder = demo.write_run(key, [0.5] * 8)
    for name in ("best.pt", "last.pt"):
        (folder / name).touch()

    def done(*, deterministic: bool = False) -> bool:
        return _is_done(step, key, deterministic=deterministic)

    assert done()
    assert not done(deterministic=True)
    begun = demo.root / ".state" / key.name / step.fingerprint / "checkpoint.pt"
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert not done()
    begun.unlink()
    changed(folder / "run.json", fingerprint="0" * 16)
    assert not done()
    changed(folder / "run.json", fingerprint=step.fingerprint)
    (folder / "last.pt").unlink()
    assert not done()


@pytest.mark.parametrize("command", ["evaluate --checkpoint", "diagnose"])
def test_by_hand_a_stale_network_is_not_judged(
    command: str, demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one whose records are stale."""
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    (key,) = demo.table2_keys("at")
    folder = demo.write_run(key, [0.5] * 6)
    (folder / "best.pt").touch()  # nothing of it is read
    record = demo.write_record(key, "pgd-20", 200)
    words = [*command.split(), str((folder / "best.pt").relative_to(demo.root))]
    if command == "diagnose":
        mark = json.loads(record.read_text())["fingerprint"]
        changed(record, fingerprint="0" * 16)
        with pytest.raises(UserError, match=r"best/pgd-20\.json: .* got an older one; `rwp v"):
            get_command(app)(words, standalone_mode=False)
        changed(record, fingerprint=mark)
        demo.write_record(key, "fgsm", 200)
        changed(record.with_name("fgsm.json"), fingerprint="0" * 16)  # of the same job, not read
    changed(folder / "run.json", fingerprint="0" * 16)
    with pytest.raises(UserError, match=r"at/seed0/run\.json: .* got an older one; `rwp v"):
        get_command(app)(words, standalone_mode=False)


def test_a_record_of_other_images_or_another_network_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not blame the code, which did not change."""
    monkeypatch.setattr("rwp.pipeline.why.maker", lambda *_, **__: None)  # it searches git
    content = copy.deepcopy(PARAMS)
    project = Project(tmp_path, check_params(content), "demo")
    (key,) = project.table2_keys("at")
    folder = project.write_run(key, [0.5] * 6)
    part = {"rule": "stratified", "size": 400, "of": 400, "seed": 0, "sha256": "a" * 64, "mask": ""}
    path = project.write_record(key, "pgd-20", 200, part=part)
    content["suites"]["demo"]["evaluation"] |= {"num_examples": 300, "part_seed": 1}
    steps = Steps(check_params(content))
    result = Result(steps.evaluate(key, "best", "pgd-20"), str(path.relative_to(tmp_path)))
    assert list(reasons(steps.params, result, root=tmp_path)) == [
        "setting num_examples: from 400 to 300",
        "setting part_seed: from 0 to 1",
    ]
    (folder / "best.pt").write_bytes(b"another")
    found = list(reasons(steps.params, result, root=tmp_path))
    now = sha256_file(folder / "best.pt")[:12]
    name = str((folder / "best.pt").relative_to(tmp_path))
    assert found[-1] == f"file {name}: from SHA-256 {'0' * 12} to {now}"


def test_a_stale_passport_says_what_is_another(
    demo: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    write_passport(demo.root / "data", "digits", fingerprint="of other images")
    with pytest.raises(Exception, match="1"):
        verify(suite=None, why=Path("data/digits/passport.json"), params_file=Path("params.yaml"))
    told = ["stale: data/digits/passport.json", "  settings or code of the fetch"]
    assert capsys.readouterr().out.splitlines() == told


def test_where_anything_is_stale_a_check_of_all_results_fails(
    demo: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    (key,) = demo.table2_keys("at")
    record = demo.write_run(key, [0.5] * 8) / "run.json"
    everything = {"suite": "demo", "why": None, "params_file": Path("params.yaml")}
    verify(**everything)
    assert capsys.readouterr().out.startswith("1 results are up to date, 0 stale, ")
    changed(record, fingerprint="0" * 16)
    with pytest.raises(typer.Exit) as ended:
        verify(**everything)
    assert ended.value.exit_code == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"stale: {record.relative_to(demo.root)}"
    assert last.startswith("0 results are up to date, 1 stale, ")


def test_one_other_number_is_no_agreement() -> None:
    before = {"weights": {"stem": torch.zeros(3)}}
    after = {"weights": {"stem": torch.tensor([0.0, 0.0, 1e-7])}}
    assert list(_moved({"last.pt": before}, {"last.pt": copy.deepcopy(before)}, "")) == []
    assert list(_moved({"last.pt": before}, {"last.pt": after}, "")) == ["last.pt.weights.stem"]


def test_a_layer_under_another_name_is_no_agreement() -> None:
    before, after = {"weights": {"stem": 1, "head": 2}}, {"weights": {"stem": 1, "linear": 2}}
    assert list(_moved({"last.pt": before}, {"last.pt": before}, "")) == []
    assert list(_moved({"last.pt": before}, {"last.pt": after}, "")) == ["last.pt.weights"]


def test_a_verdict_with_another_twin_is_not_the_workflows(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    (key,) = demo.table2_keys("at-rwp")
    best = demo.write_run(key, [0.5] * 8) / "best.pt"
    best.touch()
    named = best.relative_to(demo.root)
    usual = Steps(demo.params).judge(key, "best").fingerprint
    marks = [_by_hand(Path("params.yaml"), named, twin)[1] for twin in (None, Path("other.pt"))]
    assert marks[0] == usual != marks[1]


def test_in_little_a_training_perturbs_its_weights() -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["perturbations"]["rwp"]["warmup_epochs"] = 5
    params = check_params(content)
    key = setting_keys(params, "demo", Setting(), "at-rwp")[0]
    little = _in_little(train_spec(params, key))
    assert isinstance(little, TrainSpec)
    assert little.perturbation is not None
    assert little.perturbation.warmup_epochs < little.optimization.epochs == 2
    assert (little.perturbation.c_min or 0) > 2 * math.log(10)  # of losses at random weights


def test_trainings_that_take_other_code_are_compared_apart(demo: Project) -> None:
    names = ("at", "at-awp", "at-rwp", "trades")
    ways = {_way(demo.steps.train(demo.table2_keys(name)[0])) for name in names}
    assert len(ways) == len(names)


def test_images_of_other_settings_fail_the_check_of_all_results(
    demo: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo.root)
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: demo.params)
    write_passport(demo.root / "data", "digits", fingerprint="of other images")
    with pytest.raises(typer.Exit):
        verify(suite="demo", why=None, params_file=Path("params.yaml"))
    first, last = capsys.readouterr().out.splitlines()
    assert first == "stale: data/digits/passport.json"
    assert last.startswith("0 results are up to date, 1 stale, ")
