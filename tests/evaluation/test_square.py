from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from rwp.errors import UserError
from rwp.evaluation import square
from rwp.evaluation.spec import check_square_size
from rwp.evaluation.square import OwnPaceSquare

Shape = tuple[int, int, int]


class SameBitsInAnyBatch(nn.Module):
    """Two layers whose sums do not depend on the other images of a batch; counts images."""

    def __init__(self, shape: Shape, *, digits: int | None = None) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(24, *shape, generator=draw))
        self.second = torch.randn(10, 24, generator=draw)
        self.digits, self.seen = digits, 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        hidden = torch.stack([(images * part).flatten(1).sum(dim=1) for part in self.first], dim=1)
        logits = torch.stack([(hidden.tanh() * part).sum(dim=1) for part in self.second], dim=1)
        return logits if self.digits is None else logits.round(decimals=self.digits)


@dataclass
class Outcome:
    images: Tensor
    queries: Tensor  # gone through per image, in a run on all of them
    asked: int


def pictures(count: int, shape: Shape) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def both(
    model: SameBitsInAnyBatch,
    images: Tensor,
    *,
    epsilon: float,
    queries: int = 400,
    **settings: Any,
) -> tuple[Outcome, Outcome]:
    """What the package does and what we do."""
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    settings = {"norm": "Linf", "seed": 3, "resc_schedule": False, "device": "cpu"} | settings
    package = SquareAttack(model, n_queries=queries, eps=epsilon, **settings)
    found = []
    for attack in (package, OwnPaceSquare.like(package)):
        model.seen = 0
        adversarial = attack.perturb(images.clone(), labels)
        torch.manual_seed(3)
        counts, _ = attack.attack_single_run(images.clone(), labels)
        found.append(Outcome(adversarial, counts.long(), model.seen))
    return found[0], found[1]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few queries hardly recur, so that the package would be compared with itself."""
    monkeypatch.setattr(square, "_WORTH", 1.0)


@pytest.mark.parametrize(
    ("shape", "epsilon"),
    [
        ((1, 8, 8), 0.01),  # about half of the images resist
        ((1, 8, 8), 0.0001),  # all resist
        ((1, 8, 8), 0.5),  # the stripes of the start fool most
        ((3, 12, 12), 0.006),
        ((3, 12, 9), 0.006),
        ((3, 12, 4), 0.01),  # narrower than the first windows would be
        ((1, 2, 2), 0.02),  # as wide as the first windows
    ],
)
@pytest.mark.usefixtures("always")
def test_images_are_the_packages_bit_for_bit(shape: Shape, epsilon: float):
    model, images = SameBitsInAnyBatch(shape), pictures(40, shape)
    labels = model(images).argmax(dim=1)
    theirs, ours = both(model, images, epsilon=epsilon)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.queries, theirs.queries)
    assert ours.asked < theirs.asked
    fooled = (model(ours.images).argmax(dim=1) != labels).sum()
    assert fooled == 0 if epsilon == 0.0001 else fooled > 0
    assert float((ours.images - images).abs().max()) <= epsilon + 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"p_init": 0.005},  # windows that would round to nothing
        {"resc_schedule": True},
        {"queries": 1},
        {"queries": 0},
        {"n_restarts": 3},
        {"loss": "ce"},
        {"targeted": True},
        {"norm": "L2", "epsilon": 0.1},
    ],
    ids=str,
)
@pytest.mark.usefixtures("always")
def test_any_setting_is_the_packages(settings: dict[str, Any]):
    model, images = SameBitsInAnyBatch((1, 10, 10)), pictures(12, (1, 10, 10))
    theirs, ours = both(model, images, **{"epsilon": 0.01, "queries": 150} | settings)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.queries, theirs.queries)


@pytest.mark.usefixtures("always")
def test_an_image_on_the_boundary_counts_as_fooled():
    model = SameBitsInAnyBatch((1, 8, 8), digits=0)  # whole logits, many of them equal
    theirs, ours = both(model, pictures(60, (1, 8, 8)), epsilon=0.01)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.queries, theirs.queries)


@pytest.mark.usefixtures("always")
def test_a_restart_begins_where_the_package_stopped_drawing():
    model = SameBitsInAnyBatch((1, 8, 8), digits=-1)  # so coarse that margins of zero are usual
    for seed in range(5):
        theirs, ours = both(
            model, pictures(2, (1, 8, 8)), epsilon=0.05, queries=20, n_restarts=3, seed=seed
        )
        assert torch.equal(ours.images, theirs.images)


@pytest.mark.usefixtures("always")
def test_one_image_alone():
    theirs, ours = both(SameBitsInAnyBatch((1, 8, 8)), pictures(1, (1, 8, 8)), epsilon=0.01)
    assert torch.equal(ours.images, theirs.images)


@pytest.mark.slow
def test_on_digits_one_query_in_eight_is_asked():
    model = SameBitsInAnyBatch((1, 8, 8))
    theirs, ours = both(model, pictures(20, (1, 8, 8)), epsilon=0.0001, queries=5000)
    assert ours.asked < 0.125 * theirs.asked


def test_colored_photographs_are_left_to_the_package():
    model = SameBitsInAnyBatch((3, 16, 16))
    theirs, ours = both(model, pictures(12, (3, 16, 16)), epsilon=0.006, queries=200)
    assert ours.asked == theirs.asked
    assert torch.equal(ours.images, theirs.images)
    assert not torch.equal(ours.images, pictures(12, (3, 16, 16)))


@pytest.mark.usefixtures("always")
def test_no_graph_is_kept():
    model, images = SameBitsInAnyBatch((1, 8, 8)), pictures(4, (1, 8, 8))
    _, ours = both(model, images, epsilon=0.01, queries=50)
    assert not ours.images.requires_grad
    labels = model(images).argmax(dim=1)
    attack = OwnPaceSquare(model, eps=0.01, n_queries=50, seed=0, device="cpu")
    attack.init_hyperparam(images)
    counts, found = attack.attack_single_run(images, labels)
    assert counts.grad_fn is None
    assert found.grad_fn is None


TAKEN = [(8, 8), (16, 16), (32, 32), (28, 28), (64, 64), (8, 40)]
REFUSED = [(24, 24), (12, 12), (4, 4), (1, 1), (12, 5), (19, 19)]


@pytest.mark.parametrize(
    ("size", "fits"), [*((one, True) for one in TAKEN), *((one, False) for one in REFUSED)]
)
def test_sizes_at_which_the_package_cannot_start_are_refused_first(
    size: tuple[int, int], fits: bool
) -> None:
    """Its own start is tried at each: the last square must not lie across the edge."""
    attack = SquareAttack(
        nn.Flatten(), norm="L2", n_queries=1, eps=0.5, p_init=0.8, seed=0, device="cpu"
    )
    images, labels = torch.rand(2, 1, *size), torch.zeros(2, dtype=torch.int64)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(size[0] * size[1], 3))
    attack.predict = wide
    attack.init_hyperparam(images)
    if fits:
        check_square_size("aa", "standard", "l2", *size)
        attack.attack_single_run(images, labels)
        return
    with pytest.raises(UserError, match=rf"under L2 and L1, got {size[0]}x{size[1]}; take"):
        check_square_size("aa", "standard", "l2", *size)
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        attack.attack_single_run(images, labels)
