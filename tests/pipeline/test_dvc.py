"""Links into DVC's cache become our own files; settings that an experiment leaves are told of."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from rwp.pipeline.dvc import copy_linked_files, left_in_settings
from rwp.pipeline.load import load_params
from tests.conftest import ROOT


def test_links_become_files_and_the_cache_is_left_alone(tmp_path: Path) -> None:
    cache, metadata = tmp_path / "cache", tmp_path / "metadata"
    cache.mkdir()
    metadata.mkdir()
    for name in ("hard", "soft"):
        (cache / name).write_text("old")
        (cache / name).chmod(0o444)
    os.link(cache / "hard", metadata / "hard")
    (metadata / "soft").symlink_to(cache / "soft")
    (metadata / "own").write_text("old")
    assert copy_linked_files(metadata) == 2
    for name in ("hard", "soft", "own"):
        assert os.access(metadata / name, os.W_OK)
        (metadata / name).write_text("new")
    assert sorted(path.name for path in metadata.iterdir()) == ["hard", "own", "soft"]
    assert {path.read_text() for path in cache.iterdir()} == {"old"}
    assert copy_linked_files(metadata) == 0
    assert copy_linked_files(tmp_path / "none") == 0


def test_settings_that_an_experiment_leaves_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        me = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", *me, *words], cwd=tmp_path, check=True)

    settings = tmp_path / "params.yaml"
    settings.write_text("seeds: [0]\n")
    study = tmp_path / "studies" / "my own.yaml"
    study.parent.mkdir()
    study.write_text("suites: {}\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setenv("DVC_EXP_NAME", "tried-once")
    assert left_in_settings(tmp_path) is None
    settings.write_text("seeds: [1]\n")
    note = left_in_settings(tmp_path)
    assert note is not None
    assert "tried-once" in note
    assert "`dvc params diff` shows them, `git checkout params.yaml` takes them back" in note
    study.write_text("suites: {mine: {extends: demo}}\n")
    note = left_in_settings(tmp_path)
    assert note is not None
    assert "`git checkout params.yaml 'studies/my own.yaml'` takes them back" in note
    settings.write_text("seeds: [0]\n")
    note = left_in_settings(tmp_path)
    assert note is not None
    assert "leaves its settings in 'studies/my own.yaml'; `git diff 'studies/my own.yaml'`" in note
    monkeypatch.delenv("DVC_EXP_NAME")
    assert left_in_settings(tmp_path) is None  # an edit of one's own is nobody's business


def test_settings_as_an_experiment_writes_them_are_still_read(tmp_path: Path) -> None:
    """DVC writes the whole file anew: lists by lines, null as nothing."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(
        str(path),
        [
            "suites.demo.perturbations.rwp.c_min.digits=1.9",
            "suites.demo.training.learning_rate={default: 0.2, at: {digits: 1.0e-5}}",
            "+suites.paper.training.crop_padding.at.svhn=2",
            "suites.demo.table2.reference_recipe=null",
            "build=[demo, demo-full]",
        ],
    )
    found = load_params(path)
    before = load_params(ROOT / "params.yaml")
    demo = found.suites["demo"]
    assert demo.perturbations["rwp"].c_min == {"digits": 1.9}
    assert demo.training.learning_rate == {"default": 0.2, "at/digits": 1e-5}
    assert demo.table2.reference_recipe is None
    assert found.build == ("demo", "demo-full")
    assert found.suites["quick"] == before.suites["quick"]


@pytest.mark.slow
def test_each_setting_of_the_page_can_be_set(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    page = (ROOT / "docs" / "dvc.md").read_text(encoding="utf-8")
    page = page.replace("studies/NAME.yaml:", "")  # a study's tables are those of params.yaml
    page = page.replace("suites.NAME.", "suites.demo.")
    shown = [shlex.split(words) for words in re.findall(r"`(?:dvc exp run --temp )?(-S .*)`", page)]
    shown += [
        shlex.split(words)[-2:] for words in re.findall(r"^dvc exp run .*", page, re.MULTILINE)
    ]
    assert len(shown) == 9
    for _, setting in shown:
        path = tmp_path / "params.yaml"
        path.write_bytes((ROOT / "params.yaml").read_bytes())
        before = load_params(path)
        apply_overrides(str(path), [setting])
        assert load_params(path) != before, setting
