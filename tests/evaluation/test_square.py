import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from rwp.evaluation.square import OwnPaceSquare


class SameBitsInAnyBatch(nn.Module):
    """Two layers whose sums do not depend on the other images of a batch; counts images."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.first = torch.randn(24, *shape, generator=draw)
        self.second = torch.randn(10, 24, generator=draw)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        hidden = torch.stack([(images * part).flatten(1).sum(dim=1) for part in self.first], dim=1)
        return torch.stack([(hidden.tanh() * part).sum(dim=1) for part in self.second], dim=1)


def both(
    model: nn.Module, images: Tensor, *, epsilon: float, norm: str = "Linf", queries: int = 400
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, the package's adversarial images and ours."""
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    attack = SquareAttack(
        model, norm=norm, n_queries=queries, eps=epsilon, seed=3, resc_schedule=False, device="cpu"
    )
    model.seen = 0
    theirs = attack.perturb(images.clone(), labels)
    model.theirs, model.seen = model.seen, 0
    return labels, theirs, OwnPaceSquare.like(attack).perturb(images.clone(), labels)


@pytest.mark.parametrize(
    ("shape", "epsilon"),
    [
        ((1, 8, 8), 0.01),  # about half of the images resist
        ((1, 8, 8), 0.0001),  # all resist
        ((1, 8, 8), 0.5),  # the stripes of the start fool most
        ((3, 12, 12), 0.006),
        ((3, 12, 9), 0.006),  # not a square
        ((1, 2, 2), 0.02),  # a first window wider than what is left beside it
    ],
)
def test_images_are_the_packages_bit_for_bit(shape: tuple[int, int, int], epsilon: float):
    model = SameBitsInAnyBatch(shape)
    images = torch.rand(40, *shape, generator=torch.Generator().manual_seed(0))
    labels, theirs, ours = both(model, images, epsilon=epsilon)
    assert torch.equal(ours, theirs)
    fooled = (model(ours).argmax(dim=1) != labels).sum()
    assert fooled == 0 if epsilon == 0.0001 else fooled > 0
    assert float((ours - images).abs().max()) <= epsilon + 1e-6


def test_queries_that_cannot_help_are_not_asked():
    model = SameBitsInAnyBatch((1, 8, 8))
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    both(model, images, epsilon=0.0001, queries=5000)
    assert model.seen < 0.25 * model.theirs


def test_one_image_alone():
    model = SameBitsInAnyBatch((1, 8, 8))
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    _, theirs, ours = both(model, images, epsilon=0.01)
    assert torch.equal(ours, theirs)


def test_l2_is_the_packages_own():
    model = SameBitsInAnyBatch((1, 10, 10))
    images = torch.rand(8, 1, 10, 10, generator=torch.Generator().manual_seed(0))
    _, theirs, ours = both(model, images, epsilon=0.1, norm="L2", queries=60)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, images)
    assert model.seen == model.theirs
