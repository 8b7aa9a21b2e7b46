import json
import pickle

import numpy as np
import pytest
import torch

from rwp.data.fetch import fetch_dataset
from rwp.data.images import ImageSet
from rwp.data.safe_pickle import load_arrays
from rwp.data.unlabeled import fetch_unlabeled
from rwp.errors import UserError
from tests.data.samples import (
    LABELS,
    dataset,
    generated,
    image_file,
    image_tree,
    npz,
    official_svhn,
    pixels,
    sha256,
    tinyimages,
    unlabeled,
    write_tree,
)


def fetched(root, name):
    passport = json.loads((root / "unlabeled" / f"{name}.json").read_text())
    return ImageSet.load(root / "unlabeled" / f"{name}.pt"), passport


def test_a_holdout_is_the_unlabeled_share_with_its_labels_for_comparison(tmp_path):
    fetch_dataset("digits", dataset("digits", unlabeled_share=0.4), tmp_path)
    fetch_unlabeled("digits-holdout", unlabeled("holdout", dataset="digits"), tmp_path)
    images, passport = fetched(tmp_path, "digits-holdout")
    share = ImageSet.load(tmp_path / "digits" / "unlabeled.pt")
    assert torch.equal(images.images, share.images)
    assert torch.equal(images.labels, share.labels)
    assert passport["origin"] == "the unlabeled share of digits"
    assert "CC BY" in passport["license"]


def test_a_holdout_needs_a_share(tmp_path):
    fetch_dataset("digits", dataset("digits"), tmp_path)
    with pytest.raises(UserError, match=r"datasets\.digits\.unlabeled_share above 0"):
        fetch_unlabeled("none", unlabeled("holdout", dataset="digits"), tmp_path)
    with pytest.raises(ValueError, match=r"dataset: expected one for holdout, got none; add it"):
        unlabeled("holdout")


def test_npz_comes_over_http_is_resumed_and_pinned(tmp_path, server):
    server.files["1m.npz"] = generated()
    server.drop_after = 5000
    definition = unlabeled(
        "npz", url=server.url("1m.npz"), sha256=sha256(generated()), license="CC BY 4.0"
    )
    fetch_unlabeled("edm-1m", definition, tmp_path)
    images, passport = fetched(tmp_path, "edm-1m")
    assert torch.equal(images.images, torch.from_numpy(pixels(4, 1)).permute(0, 3, 1, 2))
    assert images.labels.tolist() == LABELS.tolist()
    assert images.num_classes == 10
    assert passport["license"] == "CC BY 4.0"
    assert [asked for _, asked in server.requests] == [None, "bytes=5000-"]


def test_a_users_own_file_and_a_mirror(tmp_path):
    mirror = write_tree(tmp_path / "mirror", {"1m.npz": generated()})
    given = unlabeled("npz", path=str(mirror / "1m.npz"))
    fetch_unlabeled("given", given, tmp_path)
    gone = unlabeled("npz", url="http://127.0.0.1:9/gone/1m.npz")
    fetch_unlabeled("folder", gone, tmp_path, origin=str(mirror))
    fetch_unlabeled("file", gone, tmp_path, origin=str(mirror / "1m.npz"))
    assert {fetched(tmp_path, name)[0].num_classes for name in ("given", "folder", "file")} == {10}
    assert not list((tmp_path / "raw").rglob("given*"))  # not copied


def test_the_500k_pickle_by_file_or_link(tmp_path, server):
    server.files["ti.pickle"] = tinyimages()
    definition = unlabeled("tinyimages-500k", url=server.url("ti.pickle"))
    fetch_unlabeled("tinyimages-500k", definition, tmp_path)
    images, _ = fetched(tmp_path, "tinyimages-500k")
    assert torch.equal(images.images, torch.from_numpy(pixels(4, 2)).permute(0, 3, 1, 2))
    assert images.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_any_protocol_are_read(tmp_path, protocol):
    content = {"data": pixels(2), "scalar": np.int64(3), "order": np.asfortranarray(pixels(2))}
    (tmp_path / "new").write_bytes(pickle.dumps(content, protocol))
    assert_same_arrays(load_arrays(tmp_path / "new"), content)


@pytest.mark.parametrize("protocol", [2, 3])  # what Python wrote when NumPy 1 was new
def test_arrays_of_numpy_1_are_read(tmp_path, protocol):
    content = {"data": pixels(2), "scalar": np.int64(3), "order": np.asfortranarray(pixels(2))}
    old = pickle.dumps(content, protocol).replace(b"cnumpy._core.", b"cnumpy.core.")
    (tmp_path / "old").write_bytes(old)
    assert_same_arrays(load_arrays(tmp_path / "old"), content)


def assert_same_arrays(loaded, content):
    assert np.array_equal(loaded["data"], content["data"])
    assert np.array_equal(loaded["order"], content["order"])
    assert loaded["scalar"] == 3


def test_svhn_extra_ships_its_labels(tmp_path, server, monkeypatch):
    server.files |= official_svhn(monkeypatch, server.address, (10, 1, 9))
    fetch_unlabeled("svhn-extra", unlabeled("svhn-extra"), tmp_path)
    images, passport = fetched(tmp_path, "svhn-extra")
    assert images.labels.tolist() == [0, 1, 9]
    assert torch.equal(images.images, torch.from_numpy(pixels(3, 2)).permute(0, 3, 1, 2))
    assert [path for path, _ in server.requests] == ["/extra_32x32.mat"]
    assert "non-commercial" in passport["license"]


def test_a_folder_of_images_has_no_labels(tmp_path):
    tree = write_tree(tmp_path / "tree", image_tree(side=8))
    fetch_dataset("pets", dataset("image_folder", path=str(tree)), tmp_path)
    more = write_tree(tmp_path / "more", {"x.png": image_tree(side=8)["train/cat/000.png"]})
    definition = unlabeled("image_folder", path=str(more), dataset="pets")
    fetch_unlabeled("more", definition, tmp_path)
    images, passport = fetched(tmp_path, "more")
    assert images.labels.tolist() == [-1]
    assert images.num_classes == 3
    assert passport["files"]["more.pt"]["unlabeled"] == 1


def test_unlabeled_images_that_are_labeled_ones_are_counted(tmp_path):
    files = image_tree(side=8)
    tree = write_tree(tmp_path / "tree", files)
    fetch_dataset("pets", dataset("image_folder", path=str(tree)), tmp_path)
    names = ("train/cat/000.png", "test/cat/000.png", "test/dog/001.png")
    more = write_tree(tmp_path / "more", {name.replace("/", "-"): files[name] for name in names})
    definition = unlabeled("image_folder", path=str(more), dataset="pets")
    fetch_unlabeled("more", definition, tmp_path)
    _, passport = fetched(tmp_path, "more")
    assert passport["notes"] == [
        "2 of 12 test images are also among these, byte for byte",
        "1 of 12 training images is also among these, byte for byte, so that held-out images may "
        "be trained on",
    ]
    write_tree(more, {"dark.png": image_file(np.ones((8, 8, 3), dtype=np.uint8))})
    for name in names:
        (more / name.replace("/", "-")).unlink()
    with pytest.raises(UserError, match="more: expected bytes up to 255, got none above 1"):
        fetch_unlabeled("more", definition, tmp_path)


def test_unlabeled_images_that_are_most_test_images_are_refused(tmp_path):
    files = image_tree(side=8)
    tree = write_tree(tmp_path / "tree", files)
    fetch_dataset("pets", dataset("image_folder", path=str(tree)), tmp_path)
    tests = [name for name in files if name.startswith("test/")]
    definition = unlabeled("image_folder", path=str(tmp_path / "more"), dataset="pets")
    write_tree(tmp_path / "more", {f"{at}.png": files[name] for at, name in enumerate(tests[:6])})
    fetch_unlabeled("more", definition, tmp_path)
    before = fetched(tmp_path, "more")[1]
    write_tree(tmp_path / "more", {"one-more.png": files[tests[6]]})
    message = r"more: expected other images than the test images of pets, got 7 of these 12, byte"
    with pytest.raises(UserError, match=message):
        fetch_unlabeled("more", definition, tmp_path)
    assert fetched(tmp_path, "more")[1] == before


def test_files_of_another_place_are_other_files(tmp_path, server):
    """Without a sha256 nothing says that a download of before is the one that is asked for."""
    first, second = generated(), npz(image=pixels(6, 5), label=np.arange(6) % 10)
    server.files.update({"v1/gen.npz": first, "v2/gen.npz": second})
    sizes = []
    for version in ("v1", "v2"):
        definition = unlabeled("npz", url=server.url(f"{version}/gen.npz"))
        fetch_unlabeled("gen", definition, tmp_path / "data")
        sizes.append(len(fetched(tmp_path / "data", "gen")[0]))
        write_tree(tmp_path / version, {"gen.npz": server.files[f"{version}/gen.npz"]})
    gone = unlabeled("npz", url="http://127.0.0.1:9/gone/gen.npz")
    for place in ("v1", "v2/gen.npz"):
        fetch_unlabeled("mirrored", gone, tmp_path / "data", origin=str(tmp_path / place))
        images, passport = fetched(tmp_path / "data", "mirrored")
        sizes.append(len(images))
        assert passport["origin"].endswith(f"{place[:2]}/gen.npz")
    assert sizes == [4, 6, 4, 6]


def test_images_of_ones_own_have_one_place(tmp_path):
    place = write_tree(tmp_path / "own", image_tree())
    other = write_tree(tmp_path / "other", image_tree())
    with pytest.raises(UserError, match=r"--from: expected none for images of your own, which lie"):
        fetch_dataset("pets", dataset("image_folder", path=str(place)), tmp_path, origin=str(other))
    with pytest.raises(UserError, match=r"change unlabeled\.more\.path"):
        fetch_unlabeled(
            "more",
            unlabeled("image_folder", path=str(place), dataset="pets"),
            tmp_path,
            origin=str(other),
        )


def test_an_unlabeled_share_is_some_images(tmp_path):
    with pytest.raises(UserError, match=r"digits\.unlabeled_share: expected some of .*, got none"):
        fetch_dataset("digits", dataset("digits", unlabeled_share=0.0001), tmp_path)
