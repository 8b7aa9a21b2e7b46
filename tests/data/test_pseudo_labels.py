import pytest
import torch
from torch import nn

from rwp.errors import UserError
from rwp.training.pseudo_labels import agreement, pseudo_label, select_pseudo_labels

LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 1])
CONFIDENCES = torch.tensor([0.9, 0.5, 0.7, 0.8, 0.6, 0.9, 0.4, 0.6])


def teacher() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(144, 5)]
    return nn.Sequential(*layers)


def images(count: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def test_labels_are_the_softmax_maximum_in_eval_mode():
    model = teacher()
    labels, confidences = pseudo_label(model, images(), batch_size=7, device="cpu")
    probabilities = model.eval()(images() / 255).softmax(1)
    assert torch.equal(labels, probabilities.argmax(1))
    assert torch.allclose(confidences, probabilities.amax(1))


def test_the_teacher_is_left_as_found_and_answers_the_same_again():
    model = teacher().train()
    model[3].eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    first, again = (pseudo_label(model, images(), batch_size=7, device="cpu") for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert [module.training for module in model] == [True, True, True, False, True]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_broken_teacher_is_refused():
    model = teacher()
    nn.init.constant_(model[4].bias, float("nan"))
    with pytest.raises(UserError, match=r"expected finite logits, got NaN"):
        pseudo_label(model, images(), batch_size=7, device="cpu")


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"min_confidence": 0.6}, [0, 2, 3, 4, 5, 7]),
        ({"per_class": 2}, [0, 3, 4, 5, 6, 7]),
        ({"per_class": 1}, [0, 3, 4]),  # ties go to the earlier image
        ({"per_class": 1, "min_confidence": 0.6}, [0, 3, 4]),
    ],
)
def test_selection_by_confidence_and_by_class(rules, kept):
    given = {"min_confidence": None, "per_class": None, "num_classes": 3, **rules}
    assert select_pseudo_labels(LABELS, CONFIDENCES, **given).tolist() == kept


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_confidence": 0.95}, r"at or above 0\.95, got none; lower it"),
        ({"per_class": 3}, "at least 3 pseudo-labels of every class, got 2 of class 2"),
        ({"per_class": 2, "min_confidence": 0.6}, "got 1 of class 2"),
    ],
)
def test_a_selection_that_cannot_be_met_is_refused(rules, message):
    given = {"min_confidence": None, "per_class": None, "num_classes": 3, **rules}
    with pytest.raises(UserError, match=message):
        select_pseudo_labels(LABELS, CONFIDENCES, **given)


def test_agreement_counts_only_images_with_a_label():
    shipped = torch.tensor([0, 1, -1, 2, 0, -1, 1, 1])
    assert agreement(LABELS, shipped) == (6, 4)
    assert agreement(LABELS, torch.full((8,), -1)) == (0, 0)


def test_labels_are_made_in_full_precision_by_fixed_algorithms():
    seen = set()

    class Watched(nn.Module):
        def forward(self, batch):
            flags = torch.backends.cudnn
            seen.add((flags.allow_tf32, flags.benchmark, flags.deterministic))
            return torch.zeros(len(batch), 5)

    pseudo_label(Watched(), images(), batch_size=7, device="cpu")
    assert seen == {(False, False, True)}
