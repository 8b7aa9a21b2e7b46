import pytest
import torch
from torch import nn

from rwp.evaluation import memory
from rwp.evaluation.memory import RememberingModel
from tests.evaluation.samples import linear_model


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.model(images)


def test_known_images_are_not_computed_again():
    counting = Counting(linear_model())
    model = RememberingModel(counting)
    images = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        first = model(images)
        again = model(images[[3, 1, 1]])
        mixed = model(torch.cat([images[:2], torch.rand(1, 1, 8, 8)]))
    assert counting.seen == 6 + 1
    assert torch.equal(again, first[[3, 1, 1]])
    assert torch.equal(mixed[:2], first[:2])
    assert (model.asked, model.computed) == (12, 7)


@pytest.mark.parametrize(("new", "computed"), [(7, 7), (9, 10), (33, 40), (65, 80), (200, 208)])
def test_few_sizes_of_batches_occur(new: int, computed: int):
    counting = Counting(linear_model())
    model = RememberingModel(counting)
    with torch.no_grad():
        model(torch.rand(1, 1, 8, 8))
        model(torch.rand(new, 1, 8, 8))
    assert counting.seen == 1 + computed


def test_answers_belong_to_the_caller():
    model = RememberingModel(linear_model())
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        first = model(images)
        kept = first.clone()
        first.fill_(-torch.inf)
        second = model(images)
        second.fill_(-torch.inf)
        assert torch.equal(model(images), kept)


def test_black_image_is_no_empty_slot():
    reference = linear_model()
    model = RememberingModel(reference)
    black = torch.zeros(1, 1, 8, 8)
    with torch.no_grad():
        model(torch.rand(2, 1, 8, 8))
        assert torch.equal(model(black), reference(black))


def test_crowded_table_stays_right(monkeypatch):
    monkeypatch.setattr(memory, "_SLOTS", 4)
    reference = linear_model()
    model = RememberingModel(reference)
    pool = torch.rand(20, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(15):
            images = pool[torch.randint(0, 20, (12,), generator=generator)]
            torch.testing.assert_close(model(images), reference(images))


def test_gradients_go_to_the_model_itself():
    reference = linear_model()
    model = RememberingModel(reference)
    images = torch.rand(3, 1, 8, 8, requires_grad=True)
    (found,) = torch.autograd.grad(model(images).sum(), images)
    (wanted,) = torch.autograd.grad(reference(images).sum(), images)
    assert torch.equal(found, wanted)
    assert model.asked == 0
