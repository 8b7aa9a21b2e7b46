import errno
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rwp.data.fetch import fetch_dataset, fetch_lock
from rwp.data.images import ImageSet
from rwp.data.passport import read_dataset_passport
from rwp.data.spec import DatasetSpec, data_size
from rwp.data.unlabeled import fetch_unlabeled
from rwp.errors import UserError
from rwp.pipeline.new_study import images_of_dataset
from tests.data.samples import (
    CIFAR10_ARCHIVE,
    dataset,
    md5,
    official_cifar10,
    official_svhn,
    passport,
    sha256,
    split,
    unlabeled,
    write_tree,
)


@pytest.mark.parametrize("fault", ["flipped", "short", "html", "missing"])
def test_a_bad_official_file_is_refused_and_leaves_nothing(tmp_path, server, monkeypatch, fault):
    archive = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    bad = {
        "flipped": (archive[:50] + b"\0" + archive[51:], "expected md5"),
        "short": (archive[:-20], "expected md5"),
        "html": (b"\n<!DOCTYPE html><html>quota exceeded</html>", "got a web page"),
        "missing": (None, "HTTP 404"),
    }
    content, message = bad[fault]
    if content is not None:
        server.files[CIFAR10_ARCHIVE] = content
    with pytest.raises(UserError, match=message) as caught:
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cifar10").glob("*"))
    assert not list((tmp_path / "raw" / "cifar10").glob("*"))
    server.files[CIFAR10_ARCHIVE] = archive
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert len(split(tmp_path, "cifar10")) == 10


@pytest.mark.parametrize("mirrored", [b"<html>not here</html>", b"another file", None])
def test_a_mirror_is_checked_like_the_official_address(tmp_path, monkeypatch, mirrored):
    official_cifar10(monkeypatch, "http://127.0.0.1:9/unreachable")
    mirror = write_tree(tmp_path / "mirror", {CIFAR10_ARCHIVE: mirrored} if mirrored else {})
    with pytest.raises(UserError, match=r"web page|expected md5|expected a file, found none"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path, origin=str(mirror))
    assert not list((tmp_path / "raw" / "cifar10").glob("*"))


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_each_set_has_its_own_file(tmp_path, source):
    (tmp_path / "mirror").mkdir()
    file = {"cifar10": "cifar-10-python", "cifar100": "cifar-100-python"}[source]
    with pytest.raises(UserError, match=rf"{file}\.tar\.gz: expected a file, found none"):
        fetch_dataset("mine", dataset(source), tmp_path, origin=str(tmp_path / "mirror"))


def test_a_damaged_file_from_an_earlier_day_is_fetched_again(tmp_path, server, monkeypatch):
    server.files[CIFAR10_ARCHIVE] = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    write_tree(tmp_path / "raw" / "cifar10", {CIFAR10_ARCHIVE: server.files[CIFAR10_ARCHIVE][:100]})
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert md5((tmp_path / "raw" / "cifar10" / CIFAR10_ARCHIVE).read_bytes()) == md5(
        server.files[CIFAR10_ARCHIVE]
    )


def test_a_failed_fetch_leaves_what_was_there(tmp_path, server, monkeypatch):
    server.files[CIFAR10_ARCHIVE] = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    shutil.rmtree(tmp_path / "raw")
    server.status = 403
    before = {path.name: path.read_bytes() for path in (tmp_path / "cifar10").iterdir()}
    with pytest.raises(UserError, match=r"HTTP 403"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cifar10").iterdir()} == before
    assert "passport.json" in before


def test_files_that_are_not_whole_have_no_passport(tmp_path, monkeypatch):
    """Not that of the files before them, which would call them done."""
    shares = [dataset("digits", unlabeled_share=share) for share in (0.5, 0.4)]
    rest = unlabeled("holdout", dataset="digits")
    fetch_dataset("digits", shares[0], tmp_path)
    fetch_unlabeled("rest", rest, tmp_path)
    real = ImageSet.save

    def save(images: ImageSet, path: Path) -> None:
        if path.name in ("test.pt", "rest.pt"):
            raise OSError(errno.EIO, "as planted")
        real(images, path)

    monkeypatch.setattr(ImageSet, "save", save)
    with pytest.raises(OSError, match="as planted"):
        fetch_unlabeled("rest", rest, tmp_path)
    assert not (tmp_path / "unlabeled" / "rest.json").exists()
    with pytest.raises(OSError, match="as planted"):
        fetch_dataset("digits", shares[1], tmp_path)
    assert not (tmp_path / "digits" / "passport.json").exists()


def test_labels_outside_the_class_range_are_refused(tmp_path, server, monkeypatch):
    labels = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10)
    server.files[CIFAR10_ARCHIVE] = official_cifar10(
        monkeypatch, server.url(CIFAR10_ARCHIVE), labels=labels
    )
    with pytest.raises(UserError, match=r"cifar-10-python.*expected 0\.\.9 .* got 10 at image 9"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    server.files |= official_svhn(monkeypatch, server.address, (1, 2, 11))
    with pytest.raises(UserError, match=r"train_32x32\.mat: labels: expected 0\.\.9 .* got 11"):
        fetch_dataset("svhn", dataset("svhn"), tmp_path)
    assert not (tmp_path / "svhn").exists()


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_disk_while_downloading(tmp_path, server, monkeypatch):
    server.files[CIFAR10_ARCHIVE] = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    part = tmp_path / "raw" / "cifar10" / f"{CIFAR10_ARCHIVE}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # the kernel's own "no space left on device"
    with pytest.raises(
        UserError, match=rf"{CIFAR10_ARCHIVE}: .*[Nn]o space.*run the same command again"
    ):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert [path.name for path in part.parent.iterdir()] == [part.name]


def test_a_download_that_cannot_fit_is_not_begun(tmp_path, server, monkeypatch):
    server.files[CIFAR10_ARCHIVE] = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"expected \d+ free bytes .* got 10; free some"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)


def _fetch_cifar10(root, barrier, name):
    barrier.wait()
    fetch_dataset(name, dataset("cifar10"), root)


@pytest.mark.parametrize("names", [("cifar10", "cifar10"), ("cifar10", "cifar10-too")])
def test_two_jobs_at_once_download_once_and_end_with_a_whole_set(
    tmp_path, server, monkeypatch, names
):
    server.files[CIFAR10_ARCHIVE] = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    context = multiprocessing.get_context("fork")  # the children inherit the tiny official files
    barrier = context.Barrier(2)
    jobs = [
        context.Process(target=_fetch_cifar10, args=(tmp_path, barrier, name), daemon=True)
        for name in names
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(server.requests) == 1
    for fetched in names:
        for name, content in passport(tmp_path, fetched)["files"].items():
            assert sha256((tmp_path / fetched / name).read_bytes()) == content["sha256"]


def test_jobs_for_one_set_wait_for_each_other_and_for_no_other(tmp_path):
    from filelock import FileLock, Timeout

    with fetch_lock(tmp_path, "digits"):
        with pytest.raises(Timeout):
            FileLock(tmp_path / ".locks" / "digits.lock").acquire(timeout=0.05)
        fetch_dataset("another", dataset("digits"), tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"data: expected a writable folder for data"):
        fetch_dataset("digits", dataset("digits"), tmp_path / "data")


def _broken(root: Path, how: str) -> None:
    """A passport as a full disk, a hand or another program may leave it."""
    path = root / "mine" / "passport.json"
    content = json.loads(path.read_text())
    if how == "cut":
        path.write_text(path.read_text()[:200])
    elif how == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        place, key = (content, how) if how in content else (content["files"]["test.pt"], how)
        place[key] = {"shape": [8, 8], "files": {}, "notes": "none"}.get(how, "many")
        path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "how", ["cut", "bytes", "shape", "files", "num_classes", "class_names", "notes", "count"]
)
def test_a_passport_that_says_something_else_is_one_line_to_whoever_reads_it(
    tmp_path: Path, how: str
) -> None:
    definition = DatasetSpec(source="digits", test_share=0.3)
    fetch_dataset("mine", definition, tmp_path / "data")
    _broken(tmp_path / "data", how)
    line = r"^[^\n]*passport\.json: expected [^\n]*, got [^\n]*(fetch|build|delete)[^\n]*$"
    readers: list[Callable[[], object]] = [
        lambda: data_size("mine", definition, tmp_path),
        lambda: images_of_dataset("mine", tmp_path / "data"),
        lambda: read_dataset_passport(tmp_path / "data" / "mine"),
    ]
    for read in readers:
        with pytest.raises(UserError, match=line):
            read()
    fetch_dataset("mine", definition, tmp_path / "data")  # and a fetch writes it anew
    for read in readers:
        read()
