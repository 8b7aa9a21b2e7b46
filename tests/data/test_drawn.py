"""Smaller images of any source, and training images drawn anew for each seed."""

import numpy as np
import pytest
import torch

from rwp.data.fetch import fetch_dataset
from rwp.data.parts import draw_per_class
from rwp.data.sizes import box_average
from rwp.data.splits import training_split
from rwp.errors import UserError
from tests.data.samples import (
    CIFAR10_ARCHIVE,
    dataset,
    image_file,
    image_tree,
    official_cifar10,
    split,
    write_tree,
)


def by_hand(pixels: np.ndarray, size: int) -> np.ndarray:
    """Each new pixel from the areas of the old ones that it covers, one by one."""
    side = pixels.shape[-1]
    found = np.zeros((*pixels.shape[:-2], size, size))
    for row in range(size):
        for column in range(size):
            for y in range(side):
                for x in range(side):
                    high = min((y + 1) / side, (row + 1) / size) - max(y / side, row / size)
                    wide = min((x + 1) / side, (column + 1) / size) - max(x / side, column / size)
                    if high > 0 and wide > 0:
                        share = high * wide * size * size
                        found[..., row, column] += share * pixels[..., y, x]
    return found


@pytest.mark.parametrize(("side", "size"), [(8, 4), (6, 3), (7, 3), (5, 5), (9, 1)])
def test_a_new_pixel_is_the_mean_of_its_area(side: int, size: int):
    pixels = np.random.default_rng(side).integers(0, 256, (2, 3, side, side)).astype(np.uint8)
    found = box_average(pixels, size)
    assert found.dtype == np.uint8
    assert found.shape == (2, 3, size, size)
    assert np.abs(found - by_hand(pixels, size)).max() <= 0.5 + 1e-9


def test_halves_are_rounded_up():
    assert box_average(np.array([[[0, 1], [1, 0]]], dtype=np.uint8), 1).item() == 1
    assert box_average(np.array([[[255, 254], [254, 255]]], dtype=np.uint8), 1).item() == 255


def test_the_official_files_and_a_tree_of_the_same_pictures_are_alike(tmp_path, monkeypatch):
    archive = official_cifar10(monkeypatch, "http://127.0.0.1:9/unreachable")
    (tmp_path / "official").mkdir()
    (tmp_path / "official" / CIFAR10_ARCHIVE).write_bytes(archive)
    whole = dataset("cifar10", mirror=str(tmp_path / "official"))
    fetch_dataset("whole", whole, tmp_path / "data")
    fetch_dataset("small", whole.replace(image_size=10), tmp_path / "data")
    pictures = split(tmp_path / "data", "whole")
    small = split(tmp_path / "data", "small")
    assert small.shape == (3, 10, 10)
    assert small.labels.equal(pictures.labels)
    others = split(tmp_path / "data", "whole", "test").images
    tree = {
        f"{part}/{name}/x.png": image_file(images[place].permute(1, 2, 0).numpy())
        for part, images in (("train", pictures.images), ("test", others))
        for name, place in (("a", 3), ("b", 4))
    }
    write_tree(tmp_path / "tree", tree)
    folder = dataset("image_folder", path=str(tmp_path / "tree"), image_size=10)
    fetch_dataset("folder", folder, tmp_path / "data")
    assert split(tmp_path / "data", "folder").images.equal(small.images[3:5])


def test_digits_get_smaller_too(tmp_path):
    fetch_dataset("whole", dataset("digits"), tmp_path)
    fetch_dataset("small", dataset("digits", image_size=4), tmp_path)
    whole, small = split(tmp_path, "whole", "test"), split(tmp_path, "small", "test")
    assert small.shape == (1, 4, 4)
    means = whole.images.double().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert (small.images - means).abs().max() <= 0.5


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("digits", {"image_size": 9}, "image_size: expected at most 8, .* digits has, got 9; low"),
        ("cifar10", {"image_size": 33}, "image_size: expected at most 32, .*got 33; lower it"),
        ("svhn", {"image_size": 64}, "image_size: expected at most 32, .*got 64; lower it"),
        ("cifar10", {"per_class": 5001}, "per_class: expected at most 5000, .*got 5001; lower it"),
        ("cifar100", {"per_class": 501}, "per_class: expected at most 500, .*got 501; lower it"),
        ("svhn", {"per_class": 4660}, "per_class: expected at most 4659, .*got 4660; lower it"),
    ],
)
def test_more_than_the_official_files_have_is_refused_at_once(source, settings, message):
    with pytest.raises(ValueError, match=message):
        dataset(source, **settings)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_more_of_a_class_than_there_are_is_refused_when_fetched(tmp_path, share):
    settings = {"per_class": 160, "unlabeled_share": share}
    with pytest.raises(UserError, match=r"datasets.few.per_class: expected at most \d+, .*got 160"):
        fetch_dataset("few", dataset("digits", **settings), tmp_path)
    write_tree(tmp_path / "tree", image_tree())
    folder = dataset("image_folder", path=str(tmp_path / "tree"), per_class=999)
    with pytest.raises(UserError, match=r"mine.per_class: expected at most \d+, .*got 999"):
        fetch_dataset("mine", folder, tmp_path)


LABELS = torch.arange(5).repeat(40)


def drawn(seed: int, per_class: int | None = 6):
    settings = {"held_out_fraction": 0.25, "where": "datasets.x.per_class"}
    return training_split(LABELS, per_class=per_class, seed=seed, **settings)


def test_training_images_are_drawn_class_by_class_from_what_is_not_held_out():
    kept, held_out = drawn(3)
    assert torch.bincount(LABELS[kept]).tolist() == [6] * 5
    assert torch.bincount(LABELS[held_out]).tolist() == [10] * 5
    assert not set(kept.tolist()) & set(held_out.tolist())
    assert (kept.diff() > 0).all()


def test_seeds_draw_other_images_and_hold_out_the_same():
    (first, held), (again, _), (other, held_again) = drawn(0), drawn(0), drawn(1)
    assert first.equal(again)
    assert held.equal(held_again)
    assert len(set(first.tolist()) & set(other.tolist())) < 20  # 6 of 30 are expected


def test_every_image_is_drawn_as_often_as_any_other():
    kept, held_out = drawn(0, None)
    counts = torch.bincount(torch.cat([drawn(seed)[0] for seed in range(400)]), minlength=200)
    assert counts[held_out].sum() == 0
    assert (counts[kept] - 80).abs().max() < 40  # five standard deviations


def test_without_the_setting_all_that_is_not_held_out_is_trained_on():
    kept, held_out = drawn(7, None)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(200))


def test_what_is_held_out_is_not_drawn_from():
    with pytest.raises(UserError, match=r"x\.per_class: expected at most 30, .*got 31; lower it"):
        drawn(0, 31)
    with pytest.raises(UserError, match="at most 40"):
        draw_per_class(LABELS, 41, seed=0, where="x")
