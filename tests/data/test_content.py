"""The user's own images are an input: what was added, removed, renamed or edited is seen."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rwp.commands.data import fetch
from rwp.data import content, fetch as fetching
from rwp.data.content import content_of
from rwp.data.fetch import fetch_dataset
from rwp.data.passport import read_passport
from rwp.data.spec import DatasetSpec, UnlabeledSpec
from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.pipeline.state import changed_sources
from rwp.pipeline.steps import Steps
from tests.data.samples import npz, pixels


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            folder = root / split / kind
            folder.mkdir(parents=True)
            for number in range(3):
                color = (40 * number, 80 if kind == "cat" else 160, 10 if split == "test" else 90)
                Image.new("RGB", (8, 8), color).save(folder / f"{number}.png")
    return root


def _add(tree: Path) -> None:
    shutil.copy(tree / "train/cat/0.png", tree / "train/cat/9.png")


def _remove(tree: Path) -> None:
    (tree / "train/cat/0.png").unlink()


def _rename(tree: Path) -> None:
    (tree / "train/cat/0.png").rename(tree / "train/cat/7.png")


def _move_to_another_class(tree: Path) -> None:
    (tree / "train/cat/0.png").rename(tree / "train/dog/00.png")


def _edit(tree: Path) -> None:
    file = tree / "train/cat/0.png"
    size = file.stat().st_size
    file.write_bytes(bytes(size))  # of the same size


@pytest.mark.parametrize("change", [_add, _remove, _rename, _move_to_another_class, _edit])
def test_a_change_is_seen(change: Callable[[Path], None], tree: Path, tmp_path: Path) -> None:
    before = content_of(tree, tmp_path / "cache")
    change(tree)
    assert content_of(tree, tmp_path / "cache") != before


def test_no_change_is_none(tree: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = content_of(tree, cache)
    for file in tree.rglob("*.png"):
        os.utime(file, (1, 1))
    assert content_of(tree, cache) == before  # touched
    shutil.copytree(tree, tmp_path / "copy")
    assert content_of(tmp_path / "copy", cache) == before  # copied
    (tree / ".DS_Store").write_text("left by an operating system")
    assert content_of(tree, cache) == before  # not an image, and never read
    assert content_of(tmp_path / "nowhere", cache) == ""


def test_a_file_is_read_again_only_where_size_or_time_has_moved(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = content.sha256_file
    monkeypatch.setattr(content, "sha256_file", lambda path: read.append(path.name) or real(path))
    first = content_of(tree, tmp_path / "cache")
    assert len(read) == 12
    assert content_of(tree, tmp_path / "cache") == first
    assert len(read) == 12
    os.utime(tree / "test/dog/2.png", (1, 1))
    assert content_of(tree, tmp_path / "cache") == first
    assert read[12:] == ["2.png"]
    for damaged in (tmp_path / "cache").iterdir():
        damaged.write_text("{")
    assert content_of(tree, tmp_path / "cache") == first


def test_images_behind_a_link_count(tree: Path, tmp_path: Path) -> None:
    """As the reader follows links to folders."""
    before = content_of(tree, tmp_path / "cache")
    (tree / "train/cat").rename(tmp_path / "cats")
    (tree / "train/cat").symlink_to(tmp_path / "cats")
    assert content_of(tree, tmp_path / "cache") == before
    _edit(tree)
    assert content_of(tree, tmp_path / "cache") != before


def test_a_folder_may_lie_where_a_name_is_no_text(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "caf\udce9"
    try:
        place.mkdir()
    except OSError:
        pytest.skip("no such name on this file system")
    shutil.copytree(tree, place / "own")
    cache = tmp_path / "cache"
    assert content_of(place / "own", cache) == content_of(tree, cache)


def test_names_are_the_same_however_a_system_writes_them(tmp_path: Path) -> None:
    """macOS gives é as e and an accent; copied to another system the images are no others."""
    found = []
    for form in ("NFC", "NFD"):
        folder = tmp_path / form / "train" / unicodedata.normalize(form, "café")
        folder.mkdir(parents=True)
        for name in ("é.png", "f.png", "e.png"):
            (folder / unicodedata.normalize(form, name)).write_bytes(name.encode())
        found.append(content_of(tmp_path / form, tmp_path / "cache"))
    assert found[0] == found[1]


def test_a_file_is_content_too(tmp_path: Path) -> None:
    archive = tmp_path / "own.npz"
    archive.write_bytes(b"one")
    before = content_of(archive, tmp_path / "cache")
    archive.write_bytes(b"two")
    assert before not in ("", content_of(archive, tmp_path / "cache"))


@pytest.fixture
def own(settings: dict[str, Any], tree: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings with a data set and an unlabeled source of one's own; in a folder of their own."""
    monkeypatch.chdir(tree.parent)
    settings["datasets"]["own"] = {"source": "image_folder", "path": "own"}
    settings["unlabeled"]["more"] = {"kind": "npz", "dataset": "own", "path": "more.npz"}
    (tree.parent / "more.npz").write_bytes(b"arrays")
    return check_params(settings)


def test_a_fetch_and_all_below_it_stand_on_the_images(own: Params, tree: Path) -> None:
    def marks() -> tuple[str, str]:
        steps = Steps(own)
        return steps.fetch("own").fingerprint, steps.fetch_unlabeled("more").fingerprint

    first = marks()
    digits = Steps(own).fetch("digits").fingerprint
    assert marks() == first
    Path("more.npz").write_bytes(b"others")
    second = marks()
    assert second[0] == first[0]
    assert second[1] != first[1]
    _add(tree)
    assert marks()[0] != first[0]
    assert marks()[1] != second[1]  # it is fitted to the data set
    assert Steps(own).fetch("digits").fingerprint == digits


def test_fetched_again_to_the_same_bytes(own: Params, tree: Path) -> None:
    def fetch() -> list[str]:
        mark = Steps(own).fetch("own").fingerprint
        fetch_dataset("own", own.datasets["own"], "data", fingerprint=mark)
        return changed_sources([Steps(own).fetch("own")], Path())

    assert fetch() == []
    files = [Path("data/own") / name for name in ("train.pt", "test.pt")]
    for file in files:
        os.utime(file, (1, 1))
    passport = Path("data/own/passport.json").read_bytes()
    assert fetch() == []
    assert [file.stat().st_mtime for file in files] == [1, 1]
    assert Path("data/own/passport.json").read_bytes() == passport
    _add(tree)
    assert changed_sources([Steps(own).fetch("own")], Path()) == ["data/own/passport.json"]
    assert fetch() == []
    assert files[0].stat().st_mtime != 1
    assert files[1].stat().st_mtime == 1


def test_a_fetch_by_hand_notes_what_it_stands_on(
    own: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rwp.pipeline.load.load_params", lambda _: own)
    Path("more.npz").write_bytes(npz(image=pixels(2, 1, 8), label=np.arange(2)))
    for name, passport in (("own", "own/passport.json"), ("more", "unlabeled/more.json")):
        fetch(name)
        steps = Steps(own)
        step = steps.fetch(name) if name == "own" else steps.fetch_unlabeled(name)
        assert read_passport(Path("data", passport)).fingerprint == step.fingerprint


def test_a_clone_with_the_fetched_data_alone(own: Params, tree: Path) -> None:
    before = Steps(own).fetch("own").fingerprint
    fetch_dataset("own", own.datasets["own"], "data", fingerprint=before)
    shutil.rmtree(tree)
    assert Steps(own).fetch("own").fingerprint == before


def test_images_that_change_while_they_are_read(
    own: Params, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fetching.load_image_folder

    def load(*arguments: Any) -> Any:
        found = real(*arguments)
        _add(tree)
        return found

    monkeypatch.setattr(fetching, "load_image_folder", load)
    with pytest.raises(UserError, match="expected images that stay as they are"):
        fetch_dataset("own", own.datasets["own"], "data")
    assert not Path("data/own/passport.json").exists()


def test_settings_without_effect_on_own_images() -> None:
    with pytest.raises(ValueError, match="expected no mirror for image_folder"):
        DatasetSpec(source="image_folder", path="own", mirror="elsewhere")
    assert UnlabeledSpec(kind="image_folder", path="own", dataset="mine").path == "own"
