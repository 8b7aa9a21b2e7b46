import pytest
import torch

from rwp.data.sampling import epoch_batches, mixed_batches
from rwp.errors import UserError

RST = {"batch_size": 256, "unlabeled_fraction": 0.5, "epoch_size": 50_000, "seed": 0}


def test_an_epoch_shows_every_image_once_and_keeps_the_short_batch():
    batches = epoch_batches(300, batch_size=128, seed=0, epoch=4)
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert torch.equal(torch.cat(batches).sort().values, torch.arange(300))


def test_seed_and_epoch_alone_decide_the_order():
    def order(**change: int) -> torch.Tensor:
        return torch.cat(epoch_batches(64, **{"batch_size": 16, "seed": 0, "epoch": 0, **change}))

    assert torch.equal(order(), order())
    assert torch.equal(order(), order(batch_size=10))
    assert not torch.equal(order(), order(epoch=1))
    assert not torch.equal(order(), order(seed=1))


def test_an_epoch_of_self_training_is_the_published_one():
    """196 batches of 128 + 128: 25,088 labeled images a pass, none of them twice."""
    batches = mixed_batches(50_000, 500_000, **RST, epoch=1)
    labeled = torch.cat([pair[0] for pair in batches])
    drawn = torch.cat([pair[1] for pair in batches])
    assert len(batches) == 196
    assert {(len(a), len(b)) for a, b in batches} == {(128, 128)}
    assert len(labeled.unique()) == 25_088
    assert len(drawn.unique()) < 25_088  # with replacement, some come twice
    assert drawn.max() > 499_000
    assert abs(drawn.double().mean() / 250_000 - 1) < 0.02


def test_a_small_labeled_set_is_passed_over_again():
    batches = mixed_batches(
        30, 7, batch_size=20, unlabeled_fraction=0.7, epoch_size=110, seed=0, epoch=0
    )
    labeled = torch.cat([pair[0] for pair in batches])
    assert [(len(a), len(b)) for a, b in batches] == [(6, 14)] * 6
    assert torch.equal(labeled[:30].sort().values, torch.arange(30))


def test_mixed_batches_replay_and_differ_by_epoch():
    first, again = (mixed_batches(500, 900, **RST, epoch=3) for _ in range(2))
    other = mixed_batches(500, 900, **RST, epoch=4)
    assert all(torch.equal(a[i], b[i]) for a, b in zip(first, again, strict=True) for i in (0, 1))
    assert not torch.equal(first[0][0], other[0][0])
    assert not torch.equal(first[0][1], other[0][1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.001])
def test_a_batch_needs_both_kinds(fraction):
    with pytest.raises(UserError, match="unlabeled_fraction: expected a share"):
        mixed_batches(500, 900, **{**RST, "unlabeled_fraction": fraction}, epoch=0)


def test_empty_sets_are_refused():
    with pytest.raises(UserError, match="num_labeled: expected at least 1, got 0"):
        epoch_batches(0, batch_size=2, seed=0, epoch=0)
    with pytest.raises(UserError, match="num_unlabeled: expected at least 1, got 0"):
        mixed_batches(5, 0, **RST, epoch=0)
