import sys

import pytest
import torch

from rwp.data.fetch import fetch_dataset
from rwp.data.images import ImageSet
from rwp.errors import UserError
from tests.data.samples import (
    CIFAR10_ARCHIVE,
    CLASSES,
    dataset,
    image_file,
    image_tree,
    official_cifar10,
    official_svhn,
    passport,
    pixels,
    sha256,
    split,
    write_tree,
)


def test_digits_need_no_network_and_keep_their_values(tmp_path):
    fetch_dataset("digits", dataset("digits"), tmp_path)
    train, test = split(tmp_path, "digits"), split(tmp_path, "digits", "test")
    from sklearn.datasets import load_digits

    every = torch.cat([train.images, test.images]).flatten(1)
    assert len(train) + len(test) == 1797
    assert train.shape == (1, 8, 8)
    assert every.unique().tolist() == [round(255 * ink / 16) for ink in range(17)]
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
    server.files[CIFAR10_ARCHIVE] = official_cifar10(monkeypatch, server.url(CIFAR10_ARCHIVE))
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert torch.equal(
        split(tmp_path, "cifar10").images, torch.from_numpy(pixels(10, 1)).permute(0, 3, 1, 2)
    )
    assert split(tmp_path, "cifar10", "test").labels.tolist() == list(range(10))
    assert passport(tmp_path, "cifar10")["class_names"][3] == "class 3"
    assert passport(tmp_path, "cifar10")["origin"] == server.url(CIFAR10_ARCHIVE)
    fetch_dataset("cifar10", dataset("cifar10"), tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["folder", "address", "definition"])
def test_a_mirror_replaces_the_official_address(tmp_path, server, monkeypatch, kind):
    archive = official_cifar10(monkeypatch, "http://127.0.0.1:9/unreachable")
    mirror = write_tree(tmp_path / "mirror", {CIFAR10_ARCHIVE: archive})
    server.files[f"deep/{CIFAR10_ARCHIVE}"] = archive
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


def test_images_that_were_divided_by_255_are_refused(tmp_path):
    dark = {
        name: image_file(picture % 2)
        for name, picture in zip(image_tree(), pixels(24, 0, 12), strict=True)
    }
    tree = write_tree(tmp_path / "tree", dark)
    with pytest.raises(UserError, match="tree: expected bytes up to 255, got none above 1"):
        fetch_dataset("pets", dataset("image_folder", path=str(tree)), tmp_path)
    assert not (tmp_path / "pets").exists()


def test_test_images_that_train_are_counted_and_most_of_them_are_refused(tmp_path):
    files = image_tree()
    files["train/cat/again.png"] = files["test/cat/001.png"]
    tree = write_tree(tmp_path / "tree", files)
    definition = dataset("image_folder", path=str(tree))
    fetch_dataset("pets", definition, tmp_path)
    note = "1 of 12 test images is also in train, byte for byte"
    assert passport(tmp_path, "pets")["notes"] == [note]
    tests = [name for name in files if name.startswith("test/")]
    write_tree(tree, {f"train/{name[5:8]}/t{name[9:]}": files[name] for name in tests[:7]})
    with pytest.raises(UserError, match=r"images of their own, got 7 of 12 that are also in train"):
        fetch_dataset("pets", definition, tmp_path)


def test_training_images_that_are_there_again_are_counted(tmp_path):
    files = image_tree()
    for name in ("again", "once-more"):
        files[f"train/cat/{name}.png"] = files["train/cat/001.png"]
    tree = write_tree(tmp_path / "tree", files)
    fetch_dataset("pets", dataset("image_folder", path=str(tree)), tmp_path)
    (note,) = passport(tmp_path, "pets")["notes"]
    assert note.startswith(
        "2 training images are there more than once, byte for byte, so that held"
    )


def test_the_declared_names_are_those_of_the_configuration(tmp_path):
    definition = dataset("digits").replace(source="imagenet")
    with pytest.raises(
        UserError, match=r"datasets\.mine\.source: expected digits, .* got imagenet"
    ):
        fetch_dataset("mine", definition, tmp_path)


def test_importing_the_package_is_light(tmp_path):
    import subprocess

    heavy = "{'torchvision', 'sklearn', 'scipy', 'pydantic', 'pandas'}"
    code = f"import sys, rwp.data.fetch, rwp.data.unlabeled; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
