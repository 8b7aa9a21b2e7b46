import os
import pickle
import random

import numpy as np
import pytest

from rwp.data.fetch import fetch_dataset
from rwp.data.sources.arrays import check_npz, read_npz
from rwp.data.unlabeled import fetch_unlabeled
from rwp.errors import UserError
from tests.data.samples import (
    LABELS,
    dataset,
    generated,
    image_tree,
    npz,
    pixels,
    tinyimages,
    unlabeled,
    write_tree,
)


def assert_nothing_left(root):
    assert not list((root / "unlabeled").glob("*"))
    assert not list((root / "raw").rglob("*.npz*"))


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


def test_damaged_bytes_inside_an_npz_are_found_without_a_hash(tmp_path, server):
    content = bytearray(generated())
    content[2000] ^= 255
    server.files["1m.npz"] = bytes(content)
    with pytest.raises(UserError, match=r"expected a (sound|whole) npz file"):
        fetch_unlabeled("edm-1m", unlabeled("npz", url=server.url("1m.npz")), tmp_path)
    assert_nothing_left(tmp_path)


def test_an_npz_with_any_bytes_replaced_is_read_or_refused(tmp_path):
    path, draw, refused = tmp_path / "given.npz", random.Random(0), 0
    whole = generated()
    for _ in range(150):
        start = draw.randrange(len(whole)) if draw.random() < 0.5 else -draw.randrange(1, 400)
        start %= len(whole)
        put = draw.randbytes(draw.randrange(1, 9))
        path.write_bytes(whole[:start] + put + whole[start + len(put) :])
        for read in (check_npz, lambda path: read_npz(path, 10)):
            try:
                read(path)
            except UserError:
                refused += 1
    assert refused


def test_an_npz_without_images_is_refused(tmp_path):
    path = tmp_path / "none.npz"
    np.savez(path, image=np.empty((0, 32, 32, 3), np.uint8), label=np.empty(0, np.int64))
    with pytest.raises(UserError, match=r"none\.npz: expected images, got none"):
        read_npz(path, 10)


@pytest.mark.parametrize("content", ["[]", "{}", '{"license": "x", "shape": [1, 8]}'])
def test_the_passport_of_the_data_set_has_to_be_one(tmp_path, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "passport.json").write_text(content)
    with pytest.raises(UserError, match=r"passport\.json: expected .*; (fetch|delete)"):
        fetch_unlabeled("more", unlabeled("npz", dataset="mine", path="more.npz"), tmp_path)


def test_a_wrong_hash_is_refused(tmp_path, server):
    server.files["1m.npz"] = generated()
    definition = unlabeled("npz", url=server.url("1m.npz"), sha256="0" * 64)
    with pytest.raises(UserError, match=r"1m\.npz: expected sha256 0{64}, got"):
        fetch_unlabeled("edm-1m", definition, tmp_path)
    assert_nothing_left(tmp_path)


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


def test_what_is_missing_in_a_definition_is_named(tmp_path):
    for kind in ("tinyimages-500k", "npz"):
        with pytest.raises(UserError, match=rf"unlabeled\.x: expected path or url for {kind}"):
            fetch_unlabeled("x", unlabeled(kind), tmp_path)
    with pytest.raises(ValueError, match=r"dataset: expected one for image_folder, got none"):
        unlabeled("image_folder", path="x")
    with pytest.raises(UserError, match=r"x\.npz: expected a file, found none"):
        fetch_unlabeled("x", unlabeled("npz", path="x.npz"), tmp_path)
