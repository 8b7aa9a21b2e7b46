import io
import json
import os
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
    dataset,
    image_tree,
    official_svhn,
    pixels,
    sha256,
    unlabeled,
    write_tree,
)

LABELS = np.array([0, 3, 9, 2])


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def generated(side: int = 32) -> bytes:
    return npz(image=pixels(4, 1, side), label=LABELS)


def tinyimages(**change) -> bytes:
    content = {"data": pixels(4, 2), "extrapolated_targets": LABELS, "prediction_model": "a name"}
    return pickle.dumps({**content, **change})


def fetched(root, name):
    passport = json.loads((root / "unlabeled" / f"{name}.json").read_text())
    return ImageSet.load(root / "unlabeled" / f"{name}.pt"), passport


def assert_nothing_left(root):
    assert not list((root / "unlabeled").glob("*"))
    assert not list((root / "raw").rglob("*.npz"))


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
    with pytest.raises(UserError, match=r"unlabeled\.none: expected dataset for holdout"):
        fetch_unlabeled("none", unlabeled("holdout"), tmp_path)


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


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (generated()[:-100], "expected a whole npz file"),
        (b"<html>", "got a web page"),
        (npz(image=pixels(4)), "expected an npz file with the arrays image and label"),
        (npz(image=pixels(4).astype(float), label=LABELS), "expected images as uint8"),
        (npz(image=pixels(4)[0], label=LABELS), "expected images as uint8"),
        (npz(image=pixels(4)[..., :2], label=LABELS), "1 or 3"),
        (npz(image=pixels(4), label=LABELS[:2]), r"expected int64 \(4,\)"),
        (npz(image=pixels(4), label=LABELS * 0.5), "expected labels as integers"),
        (npz(image=pixels(4), label=LABELS - 5), r"expected 0\.\..* got -5"),
        (npz(image=np.array([{}] * 4), label=LABELS), "expected an npz file with the arrays"),
    ],
)
@pytest.mark.parametrize("way", ["url", "path"])
def test_a_bad_npz_is_refused(tmp_path, server, content, message, way):
    server.files["1m.npz"] = content
    (tmp_path / "given.npz").write_bytes(content)
    place = {"url": server.url("1m.npz"), "path": str(tmp_path / "given.npz")}[way]
    with pytest.raises(UserError, match=message) as caught:
        fetch_unlabeled("edm-1m", unlabeled("npz", **{way: place}), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "unlabeled").glob("*"))


@pytest.mark.faults
def test_damaged_bytes_inside_an_npz_are_found_without_a_hash(tmp_path, server):
    content = bytearray(generated())
    content[2000] ^= 255
    server.files["1m.npz"] = bytes(content)
    with pytest.raises(UserError, match=r"expected a (sound|whole) npz file"):
        fetch_unlabeled("edm-1m", unlabeled("npz", url=server.url("1m.npz")), tmp_path)
    assert_nothing_left(tmp_path)


@pytest.mark.faults
def test_a_wrong_hash_is_refused(tmp_path, server):
    server.files["1m.npz"] = generated()
    definition = unlabeled("npz", url=server.url("1m.npz"), sha256="0" * 64)
    with pytest.raises(UserError, match=r"1m\.npz: expected sha256 0{64}, got"):
        fetch_unlabeled("edm-1m", definition, tmp_path)
    assert_nothing_left(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("side", [16, 8], ids=["size", "classes"])
def test_a_source_must_fit_its_data_set(tmp_path, side):
    tree = write_tree(tmp_path / "tree", image_tree(side=8))
    fetch_dataset("pets", dataset("image_folder", path=str(tree)), tmp_path)
    labels = LABELS % 3 if side == 16 else LABELS
    (tmp_path / "x.npz").write_bytes(npz(image=pixels(4, 0, side), label=labels))
    definition = unlabeled("npz", path=str(tmp_path / "x.npz"), dataset="pets")
    message = (
        r"\[3, 8, 8\] as in pets, got 3 and \[3, 16, 16\]" if side == 16 else r"expected 0\.\.2"
    )
    with pytest.raises(UserError, match=message):
        fetch_unlabeled("x", definition, tmp_path)


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["RWP_TEST_BOMB"],))


@pytest.mark.faults
@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("hidden", ["plain", "in an array"])
def test_a_pickle_that_would_execute_code_does_not(tmp_path, monkeypatch, protocol, hidden):
    bomb = tmp_path / "exploded"
    monkeypatch.setenv("RWP_TEST_BOMB", str(bomb))
    array = np.empty(1, dtype=object)
    array[0] = _Bomb()
    content = {"data": _Bomb() if hidden == "plain" else array, "extrapolated_targets": LABELS}
    path = tmp_path / "ti.pickle"
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(
        UserError, match=r"asks for posix\.mkdir\); do not trust this file"
    ) as error:
        fetch_unlabeled("ti", unlabeled("tinyimages-500k", path=str(path)), tmp_path)
    assert "ddpm-1m or edm-1m" in str(error.value)
    assert not bomb.exists()
    pickle.loads(path.read_bytes())  # the bomb is real
    assert bomb.exists()


@pytest.mark.faults
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tinyimages()[:-30], "expected a whole pickle, got a truncated"),
        (b"<!doctype html><html>Google Drive can't scan this file", "got a web page"),
        (b"", "expected a whole pickle"),
        (pickle.dumps([1, 2]), "expected the arrays data and extrapolated_targets"),
        (tinyimages(data=[1, 2]), "expected images as uint8"),
        (tinyimages(extrapolated_targets=LABELS + 1), r"expected 0\.\.9 .* got 10"),
        (b"\x80\x04garbage.", "expected a pickle of NumPy arrays only"),
    ],
)
def test_a_bad_pickle_is_refused_with_a_way_out(tmp_path, content, message):
    path = tmp_path / "ti.pickle"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        fetch_unlabeled("ti", unlabeled("tinyimages-500k", path=str(path)), tmp_path)
    assert "ddpm-1m or edm-1m" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "unlabeled").glob("*"))


@pytest.mark.faults
def test_what_is_missing_in_a_definition_is_named(tmp_path):
    for kind in ("tinyimages-500k", "npz"):
        with pytest.raises(UserError, match=rf"unlabeled\.x: expected path or url for {kind}"):
            fetch_unlabeled("x", unlabeled(kind), tmp_path)
    with pytest.raises(UserError, match=r"unlabeled\.x: expected dataset for image_folder"):
        fetch_unlabeled("x", unlabeled("image_folder", path="x"), tmp_path)
    with pytest.raises(UserError, match=r"x\.npz: expected a file, found none"):
        fetch_unlabeled("x", unlabeled("npz", path="x.npz"), tmp_path)
