"""Links into DVC's cache become our own files; settings that an experiment leaves are told of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rwp.pipeline.dvc import left_in_settings, own_files


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
    assert own_files(metadata) == 2
    for name in ("hard", "soft", "own"):
        assert os.access(metadata / name, os.W_OK)
        (metadata / name).write_text("new")
    assert sorted(path.name for path in metadata.iterdir()) == ["hard", "own", "soft"]
    assert {path.read_text() for path in cache.iterdir()} == {"old"}
    assert own_files(metadata) == 0
    assert own_files(tmp_path / "none") == 0


def test_settings_that_an_experiment_leaves_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> None:
        me = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", *me, *words], cwd=tmp_path, check=True)

    settings = tmp_path / "params.yaml"
    settings.write_text("seeds: [0]\n")
    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-qm", "first")
    monkeypatch.setenv("DVC_EXP_NAME", "tried-once")
    assert left_in_settings(tmp_path) is None
    settings.write_text("seeds: [1]\n")
    note = left_in_settings(tmp_path)
    assert note is not None
    assert "tried-once" in note
    assert "`git checkout params.yaml` takes them back" in note
    monkeypatch.delenv("DVC_EXP_NAME")
    assert left_in_settings(tmp_path) is None  # an edit of one's own is nobody's business
