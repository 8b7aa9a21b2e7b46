"""A part of a data set has every class in proportion, and is the same for all who ask."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch

from rwp.data.images import ImageSet
from rwp.data.parts import stratified_order, take_part
from rwp.errors import UserError


def by_class(*counts: int) -> ImageSet:
    """Images that lie class by class, as folders do; the first pixel tells the place."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels)) % 256
    return ImageSet(images, labels, len(counts))


def take(images: ImageSet, **settings):
    return take_part(images, **{"seed": 0, "source": "test.pt", **settings})


def test_classes_of_equal_size_give_equally():
    taken, part = take(by_class(40, 40, 40, 40), num_examples=40)
    assert taken.class_counts() == [10, 10, 10, 10]
    assert (part.rule, part.of, len(part.index)) == ("stratified", 160, 40)
    assert (part.index.diff() > 0).all()  # the data set's order is kept
    assert torch.equal(taken.images[:, 0, 0, 0].long(), part.index)


@pytest.mark.parametrize(("size", "expected"), [(10, [3, 1, 6]), (50, [15, 5, 30])])
def test_classes_give_in_proportion(size: int, expected: list[int]):
    assert take(by_class(30, 10, 60), num_examples=size)[0].class_counts() == expected


def test_no_share_is_off_by_more_than_an_image():
    counts = torch.tensor([700, 90, 13, 197])
    images = by_class(*counts.tolist())
    for size in range(20, 1001, 49):
        found = torch.tensor(take(images, num_examples=size)[0].class_counts())
        assert found.sum() == size
        assert ((found - size * counts / 1000).abs() < 1.01).all()


def test_a_rare_class_is_never_missed():
    taken, _ = take(by_class(1, 5000), num_examples=2)
    assert taken.class_counts() == [1, 1]
    with pytest.raises(UserError, match="one image of each of 2 classes, got num_examples: 1; rai"):
        take(by_class(1, 5000), num_examples=1)


def test_a_smaller_part_lies_in_a_larger_one():
    images = by_class(50, 20, 70)
    parts = [take(images, num_examples=size)[1].flags() for size in (5, 30, 100, 140)]
    for small, large in pairwise(parts):
        assert not (small & ~large).any()
    assert parts[-1].all()


def test_the_draw_is_random_within_a_class_and_hangs_on_the_seed_alone():
    images = by_class(100, 100)
    first, again, other = (take(images, num_examples=20, seed=s)[1] for s in (3, 3, 4))
    assert first.identity() == again.identity()
    assert first.identity()["sha256"] != other.identity()["sha256"]
    assert first.index[:10].max() > 30  # not the first ten of the class
    assert torch.equal(stratified_order(images.labels, 3), stratified_order(images.labels, 3))


def test_the_identity_is_that_of_the_places():
    images = by_class(10, 10)
    assert take(images)[1].identity()["rule"] == "all"
    assert take(images)[0] is images
    whole = take(images, num_examples=20)[1].identity()
    assert whole["sha256"] == take(images)[1].identity()["sha256"]
    # written out once, so that records of today can be read by whoever comes later
    places = np.arange(20, dtype="<i8").tobytes()
    assert whole["sha256"] == hashlib.sha256(places).hexdigest()


def test_the_first_in_the_published_order():
    mixed = ImageSet(
        torch.zeros(6, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 0, 1]), 3
    )
    taken, part = take(mixed, first_examples=3)
    assert taken.labels.tolist() == [0, 1, 2]
    assert part.identity() | {"sha256": ""} == {
        "rule": "first", "seed": None, "size": 3, "of": 6, "sha256": ""
    }  # fmt: skip
    with pytest.raises(UserError, match=r"among first_examples: 2, got none of class 2; .*num_ex"):
        take(mixed, first_examples=2)


def test_more_than_there_are():
    with pytest.raises(UserError, match=r"test.pt: expected at least 9 images, got 4; lower num"):
        take(by_class(2, 2), num_examples=9)
    with pytest.raises(UserError, match="got 4; lower first_examples"):
        take(by_class(2, 2), first_examples=9)
