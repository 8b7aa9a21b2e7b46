import pytest
import torch
from hypothesis import given, strategies as st

from rwp.data.splits import held_out_split, stratified_split
from rwp.errors import UserError

LABELS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[
    torch.randperm(100, generator=torch.Generator().manual_seed(0))
]


def test_every_class_gives_its_share():
    train, held_out = held_out_split(LABELS, fraction=0.1, seed=0)
    assert torch.bincount(LABELS[held_out]).tolist() == [5, 3, 2]
    assert torch.equal(torch.cat([train, held_out]).sort().values, torch.arange(100))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(held_out, held_out.sort().values)


def test_labels_and_seed_fix_the_split():
    first = held_out_split(LABELS, fraction=0.1, seed=1)[1]
    assert torch.equal(first, held_out_split(LABELS.clone(), fraction=0.1, seed=1)[1])
    assert not torch.equal(first, held_out_split(LABELS, fraction=0.1, seed=2)[1])
    assert not torch.equal(first, stratified_split(LABELS, 0.1, 1, "test")[1])


def test_the_split_does_not_follow_the_order_of_classes():
    """Each class draws from its own generator: more images of one leave the others' choice."""
    more = torch.cat([LABELS, torch.full((40,), 2)])
    before = held_out_split(LABELS, fraction=0.1, seed=0)[1]
    after = held_out_split(more, fraction=0.1, seed=0)[1]
    assert set(before[LABELS[before] < 2].tolist()) == set(after[more[after] < 2].tolist())


@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 99),
)
def test_totals_and_shares_hold_for_any_counts(counts, fraction, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    kept, taken = held_out_split(labels, fraction=fraction, seed=seed)
    assert len(taken) == round(sum(count * fraction for count in counts))
    assert len(kept) + len(taken) == sum(counts)
    per_class = torch.bincount(labels[taken], minlength=len(counts)).tolist()
    for count, got in zip(counts, per_class, strict=True):
        assert abs(got - count * fraction) < 1


def test_small_classes_give_whatever_their_place_in_the_alphabet():
    """A held-out part of the first classes alone would choose `best` for them."""
    labels = torch.arange(1000).repeat_interleave(24)
    taken = labels[held_out_split(labels, fraction=0.02, seed=0)[1]]
    assert len(taken) == len(taken.unique()) == 480
    assert 200 < int((taken < 500).sum()) < 280
    again = labels[held_out_split(labels, fraction=0.02, seed=0)[1]]
    assert torch.equal(taken, again)


def test_what_is_left_over_comes_from_classes_that_can_give_it():
    labels = torch.tensor([0] * 80 + [1] * 80 + [2, 3, 4, 5, 6, 7])
    taken = labels[held_out_split(labels, fraction=0.1, seed=0)[1]]
    assert torch.bincount(taken).tolist() in ([9, 8], [8, 9])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_share_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(UserError, match=r"held_out share: expected a number in \(0, 1\)"):
        held_out_split(LABELS, fraction=fraction, seed=0)


def test_a_class_cannot_be_taken_whole():
    with pytest.raises(UserError, match="class 1 to keep an image, got all 1"):
        held_out_split(torch.tensor([0] * 9 + [1]), fraction=0.9, seed=0)


def test_unlabeled_images_cannot_be_split():
    with pytest.raises(UserError, match="without a label"):
        held_out_split(torch.tensor([0, -1, 1]), fraction=0.5, seed=0)
