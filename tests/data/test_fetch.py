import json
import multiprocessing
import shutil
import sys

import pytest
import torch

from rwp.data.fetch import fetch_dataset, fetch_lock
from rwp.data.images import ImageSet
from rwp.errors import UserError
from tests.data.samples import (
    CLASSES,
    dataset,
    image_tree,
    md5,
    official_cifar10,
    official_svhn,
    pixels,
    sha256,
    write_tree,
)

ARCHIVE = "cifar-10-python.tar.gz"


def split(root, name, part="train"):
    return ImageSet.load(root / name / f"{part}.pt")


def passport(root, name):
    return json.loads((root / name / "passport.json").read_text())


def test_digits_need_no_network_and_keep_their_values(tmp_path):
    fetch_dataset("digits", dataset("digits"), tmp_path)
    train, test = split(tmp_path, "digits"), split(tmp_path, "digits", "test")
    from sklearn.datasets import load_digits

    every = torch.cat([train.images, test.images]).flatten(1)
    assert len(train) + len(test) == 1797
    assert train.shape == (1, 8, 8)
    assert every.max() == 255
    originals = {tuple(row) for row in load_digits().data.astype(int).tolist()}
    assert {tuple(row) for row in (every.double() * 16 / 255).round().int().tolist()} == originals
    shares = torch.tensor(test.class_counts()) / torch.tensor(train.class_counts())
    assert shares.min() > 0.4
    assert not (tmp_path / "digits" / "unlabeled.pt").exists()


def test_the_passport_describes_each_file(tmp_path):
    fetch_dataset("mine", dataset("digits", unlabeled_share=0.5), tmp_path)
    content = passport(tmp_path, "mine")
    assert content["num_classes"] == 10
    assert content["shape"] == [1, 8, 8]
    assert content["class_names"] == list("0123456789")
    assert "CC BY" in content["license"]
    assert list(content["files"]) == ["train.pt", "test.pt", "unlabeled.pt"]
    for name, described in content["files"].items():
        path = tmp_path / "mine" / name
        assert described["sha256"] == sha256(path.read_bytes())
        assert described["count"] == len(ImageSet.load(path)) == sum(described["class_histogram"])


def test_the_unlabeled_share_leaves_the_training_images(tmp_path):
    fetch_dataset("digits", dataset("digits", unlabeled_share=0.5), tmp_path)
    fetch_dataset("whole", dataset("digits"), tmp_path)
    train, dropped = split(tmp_path, "digits"), split(tmp_path, "digits", "unlabeled")
    assert len(train) + len(dropped) == len(split(tmp_path, "whole"))
    both = {image.numpy().tobytes() for image in train.images}
    both |= {image.numpy().tobytes() for image in dropped.images}
    assert both == {image.numpy().tobytes() for image in split(tmp_path, "whole").images}
    assert torch.equal(
        split(tmp_path, "digits", "test").images, split(tmp_path, "whole", "test").images
    )


def test_fetching_again_gives_the_same_bytes_and_drops_what_is_gone(tmp_path):
    fetch_dataset("digits", dataset("digits", unlabeled_share=0.5), tmp_path)
    fetch_dataset("digits", dataset("digits"), tmp_path)
    fetch_dataset("twin", dataset("digits"), tmp_path)
    names = {"train.pt", "test.pt", "passport.json"}
    assert {path.name for path in (tmp_path / "digits").iterdir()} == names
    for name in ("train.pt", "test.pt"):
        one, two = (tmp_path / twin / name for twin in ("digits", "twin"))
        assert one.read_bytes() == two.read_bytes()


def test_cifar10_comes_over_http_and_only_once(tmp_path, server, monkeypatch):
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE))
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert torch.equal(
        split(tmp_path, "cifar10").images, torch.from_numpy(pixels(10, 1)).permute(0, 3, 1, 2)
    )
    assert split(tmp_path, "cifar10", "test").labels.tolist() == list(range(10))
    assert passport(tmp_path, "cifar10")["class_names"][3] == "class 3"
    assert passport(tmp_path, "cifar10")["origin"] == server.url(ARCHIVE)
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["folder", "address", "definition"])
def test_a_mirror_replaces_the_official_address(tmp_path, server, monkeypatch, kind):
    archive = official_cifar10(monkeypatch, "http://127.0.0.1:9/unreachable")
    mirror = write_tree(tmp_path / "mirror", {ARCHIVE: archive})
    server.files[f"deep/{ARCHIVE}"] = archive
    origin = {"folder": str(mirror), "address": server.url("deep/")}.get(kind)
    definition = dataset("cifar10", mirror=str(mirror) if kind == "definition" else None)
    fetch_dataset("cifar10", definition, tmp_path / "data", origin=origin)
    assert len(split(tmp_path / "data", "cifar10")) == 10


def test_svhn_labels_ten_as_zero(tmp_path, server, monkeypatch):
    server.files |= official_svhn(monkeypatch, server.address, (10, 1, 9, 10))
    fetch_dataset("svhn", dataset("svhn"), tmp_path)
    train = split(tmp_path, "svhn")
    assert train.labels.tolist() == [0, 1, 9, 0]
    assert torch.equal(train.images, torch.from_numpy(pixels(4, 0)).permute(0, 3, 1, 2))
    assert [request for request, _ in server.requests] == ["/train_32x32.mat", "/test_32x32.mat"]


def test_an_image_folder_is_a_data_set_like_any_other(tmp_path):
    tree = write_tree(tmp_path / "tree", image_tree())
    definition = dataset("image_folder", path=str(tree), unlabeled_share=0.5)
    fetch_dataset("pets", definition, tmp_path)
    assert passport(tmp_path, "pets")["class_names"] == CLASSES
    assert split(tmp_path, "pets").class_counts() == [2, 2, 2]
    assert split(tmp_path, "pets", "unlabeled").class_counts() == [2, 2, 2]


def test_the_declared_names_are_those_of_the_configuration(tmp_path):
    definition = dataset("digits").model_copy(update={"source": "imagenet"})
    with pytest.raises(
        UserError, match=r"datasets\.mine\.source: expected digits, .* got imagenet"
    ):
        fetch_dataset("mine", definition, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["flipped", "short", "html", "missing"])
def test_a_bad_official_file_is_refused_and_leaves_nothing(tmp_path, server, monkeypatch, fault):
    archive = official_cifar10(monkeypatch, server.url(ARCHIVE))
    bad = {
        "flipped": (archive[:50] + b"\0" + archive[51:], "expected md5"),
        "short": (archive[:-20], "expected md5"),
        "html": (b"\n<!DOCTYPE html><html>quota exceeded</html>", "got a web page"),
        "missing": (None, "HTTP 404"),
    }
    content, message = bad[fault]
    if content is not None:
        server.files[ARCHIVE] = content
    with pytest.raises(UserError, match=message) as caught:
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cifar10").glob("*"))
    assert not list((tmp_path / "raw" / "cifar10").glob("*"))
    server.files[ARCHIVE] = archive
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert len(split(tmp_path, "cifar10")) == 10


@pytest.mark.faults
@pytest.mark.parametrize("mirrored", [b"<html>not here</html>", b"another file", None])
def test_a_mirror_is_checked_like_the_official_address(tmp_path, monkeypatch, mirrored):
    official_cifar10(monkeypatch, "http://127.0.0.1:9/unreachable")
    mirror = write_tree(tmp_path / "mirror", {ARCHIVE: mirrored} if mirrored else {})
    with pytest.raises(UserError, match=r"web page|expected md5|expected a file, found none"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path, origin=str(mirror))
    assert not list((tmp_path / "raw" / "cifar10").glob("*"))


@pytest.mark.faults
def test_a_damaged_file_from_an_earlier_day_is_fetched_again(tmp_path, server, monkeypatch):
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE))
    write_tree(tmp_path / "raw" / "cifar10", {ARCHIVE: server.files[ARCHIVE][:100]})
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert md5((tmp_path / "raw" / "cifar10" / ARCHIVE).read_bytes()) == md5(server.files[ARCHIVE])


@pytest.mark.faults
def test_a_failed_fetch_takes_the_old_passport_with_it(tmp_path, server, monkeypatch):
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE))
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    shutil.rmtree(tmp_path / "raw")
    server.status = 403
    with pytest.raises(UserError, match=r"HTTP 403"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert not (tmp_path / "cifar10" / "passport.json").exists()


@pytest.mark.faults
def test_labels_outside_the_class_range_are_refused(tmp_path, server, monkeypatch):
    labels = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10)
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE), labels=labels)
    with pytest.raises(UserError, match=r"cifar-10-python.*expected 0\.\.9 .* got 10 at image 9"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    server.files |= official_svhn(monkeypatch, server.address, (1, 2, 11))
    with pytest.raises(UserError, match=r"train_32x32\.mat: labels: expected 0\.\.9 .* got 11"):
        fetch_dataset("svhn", dataset("svhn"), tmp_path)
    assert not (tmp_path / "svhn").exists()


@pytest.mark.faults
def test_a_full_disk_while_downloading(tmp_path, server, monkeypatch):
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE))
    part = tmp_path / "raw" / "cifar10" / f"{ARCHIVE}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # the kernel's own "no space left on device"
    with pytest.raises(UserError, match=rf"{ARCHIVE}: .*[Nn]o space.*run the same command again"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert [path.name for path in part.parent.iterdir()] == [part.name]


@pytest.mark.faults
def test_a_download_that_cannot_fit_is_not_begun(tmp_path, server, monkeypatch):
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE))
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"expected \d+ free bytes .* got 10; free some"):
        fetch_dataset("cifar10", dataset("cifar10"), tmp_path)


def _fetch_cifar10(root, barrier):
    barrier.wait()
    fetch_dataset("cifar10", dataset("cifar10"), root)


@pytest.mark.faults
def test_two_jobs_at_once_download_once_and_end_with_a_whole_set(tmp_path, server, monkeypatch):
    server.files[ARCHIVE] = official_cifar10(monkeypatch, server.url(ARCHIVE))
    context = multiprocessing.get_context("fork")  # the children inherit the tiny official files
    barrier = context.Barrier(2)
    jobs = [
        context.Process(target=_fetch_cifar10, args=(tmp_path, barrier), daemon=True)
        for _ in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert len(server.requests) == 1
    for name, content in passport(tmp_path, "cifar10")["files"].items():
        assert sha256((tmp_path / "cifar10" / name).read_bytes()) == content["sha256"]


@pytest.mark.faults
def test_jobs_for_one_set_wait_for_each_other_and_for_no_other(tmp_path):
    from filelock import FileLock, Timeout

    with fetch_lock(tmp_path, "digits"):
        with pytest.raises(Timeout):
            FileLock(tmp_path / ".locks" / "digits.lock").acquire(timeout=0.05)
        fetch_dataset("another", dataset("digits"), tmp_path)


@pytest.mark.faults
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(UserError, match=r"data: expected a writable folder for data"):
        fetch_dataset("digits", dataset("digits"), tmp_path / "data")


def test_importing_the_package_is_light(tmp_path):
    import subprocess

    heavy = "{'torchvision', 'sklearn', 'scipy', 'pydantic', 'pandas'}"
    code = f"import sys, rwp.data.fetch, rwp.data.unlabeled; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
