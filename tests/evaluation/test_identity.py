import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from rwp.core.models import Normalization
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import autoattack as module
from rwp.evaluation.external import evaluate_external
from rwp.evaluation.external_models import ExternalModel
from rwp.evaluation.identity import function_sha256, weights_sha256
from rwp.evaluation.records import read_record
from rwp.streams import kept_streams
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import (
    Dropping,
    Quantized,
    Returning,
    ShortAutoAttack,
    WithoutGradient,
    attack,
    autoattack_spec,
)


def identity(model: nn.Module, images: ImageSet) -> str | None:
    return function_sha256(model.eval(), images, device="cpu")


def test_a_model_is_what_it_computes(robust_model: nn.Module, images: ImageSet):
    plain = identity(robust_model, images)
    assert plain is not None
    assert identity(copy.deepcopy(robust_model), images) == plain
    assert identity(nn.Sequential(robust_model), images) == plain  # under other names
    others = [
        nn.Sequential(Normalization((0.3,), (0.4,)), robust_model),
        Returning(robust_model, lambda logits: 2 * logits),
        Returning(robust_model, lambda logits: logits.flip(1)),
        Quantized(robust_model, 6),
        WithoutGradient(robust_model),  # equal logits, other gradients
        Returning(robust_model, torch.Tensor.detach),
    ]
    assert len({identity(model, images) for model in others} | {plain}) == len(others) + 1


def test_rounding_is_no_other_model(robust_model: nn.Module, images: ImageSet):
    model = copy.deepcopy(robust_model)
    plain = identity(model, images)
    with torch.no_grad():
        model.readout.weight *= 1 + 1e-9  # nothing in 32 bits
    assert identity(model, images) == plain
    # another order of summation
    order = torch.randperm(model.readout.in_features)
    model.readout.weight.data = model.readout.weight.data[:, order]
    mixed = nn.Sequential(
        model.convolution, nn.ReLU(), nn.Flatten(), Reordered(order), model.readout
    )
    assert identity(mixed, images) == plain


class Reordered(nn.Module):
    def __init__(self, order: torch.Tensor) -> None:
        super().__init__()
        self.order = order

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, self.order]


def test_chance_has_no_identity_unless_it_is_torchs_own(robust_model, images):
    counter = iter(range(1, 1000))
    assert identity(Returning(robust_model, lambda logits: logits * next(counter)), images) is None
    assert identity(Dropping(robust_model), images) == identity(Dropping(robust_model), images)


def test_what_torch_makes_by_default_elsewhere_changes_nothing(robust_model, images):
    """A notebook may have `torch.set_default_device("cuda")`."""
    usual = identity(robust_model, images)
    with torch.device("meta"):
        assert identity(robust_model, images) == usual


def test_work_on_the_cpu_keeps_the_stream_of_a_gpu(monkeypatch: pytest.MonkeyPatch):
    """A seed for torch is one for all devices: a caller's training would draw the same again."""
    kept: list[range] = []
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices, enabled: kept.append(devices))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for initialized in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda found=initialized: found)
        kept_streams(torch.device("cpu"))
        kept_streams(torch.device("cuda:1"))
    assert [list(gpus) for gpus in kept] == [[], [0, 1], [0, 1], [0, 1]]


class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(_, logits):
        return logits.clone()


def test_a_model_without_a_way_back_is_what_it_answers(robust_model, images):
    assert identity(Returning(robust_model, OneWay.apply), images) is not None


def test_model_is_left_as_it_was(robust_model: nn.Module, images: ImageSet):
    before, state = weights_sha256(robust_model), torch.random.get_rng_state()
    robust_model.train()
    function_sha256(robust_model, images, device="cpu")
    assert robust_model.training
    robust_model.eval()
    assert weights_sha256(robust_model) == before
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(value.requires_grad for value in robust_model.parameters())


def evaluate(model: nn.Module, images: ImageSet, folder: Path, *attacks, **options) -> list[Path]:
    images.save(folder / "test.pt")
    settings = {"out": folder / "out", "batch_size": 16, "seed": 0} | options
    return evaluate_external(
        ExternalModel(model.eval(), "theirs", weights_sha256(model)),
        data=folder / "test.pt",
        attacks=attacks or (attack("natural"),),
        state=folder / "state",
        **settings,
    )


class Scaled(nn.Module):
    """A front without weights of its own: two of them have equal weights."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(self.scale * images)


def test_equal_weights_share_no_record(robust_model, images, tmp_path: Path):
    first = read_record(evaluate(Scaled(robust_model, 1.0), images, tmp_path)[0])
    with pytest.raises(UserError, match="of the same weights that computes something else"):
        evaluate(Scaled(robust_model, 0.1), images, tmp_path)
    assert read_record(tmp_path / "out" / "natural.json") == first
    other = evaluate(Scaled(robust_model, 0.1), images, tmp_path, out=tmp_path / "other")
    second = read_record(other[0])
    assert second.checkpoint_sha256 == first.checkpoint_sha256
    assert second.num_robust != first.num_robust


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "with another seed"),
        ({"batch_size": 8}, "in batches of another size"),
        ({"num_examples": 20}, "on another part of the images"),
    ],
)
def test_other_settings_share_no_record(robust_model, images, tmp_path: Path, changes, message):
    path = evaluate(robust_model, images, tmp_path)[0]
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        evaluate(robust_model, images, tmp_path, **changes)
    assert path.read_bytes() == before


def test_other_images_and_threats_share_no_record(robust_model, images, tmp_path: Path):
    pgd = attack("pgd-5", "pgd", num_steps=5, step_size="0.03")
    evaluate(robust_model, images, tmp_path, pgd)
    wider = pgd.replace(threat=pgd.threat.replace(epsilon="0.2"), name="pgd-wide")
    with pytest.raises(UserError, match="under another threat model"):
        evaluate(robust_model, images, tmp_path, wider)
    others = ImageSet(images.images.flip(3), images.labels, 10)
    with pytest.raises(UserError, match="got one on other images"):
        evaluate(robust_model, others, tmp_path, pgd)


def test_killed_autoattack_is_not_continued_by_a_model_of_equal_weights(
    robust_model, images, tmp_path: Path, monkeypatch
):
    some = images.select(torch.arange(12))
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    right = read_record(evaluate(Scaled(robust_model, 1.0), some, tmp_path, autoattack_spec())[0])
    other = tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.setattr(module, "recheck", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(Scaled(robust_model, 0.5), some, tmp_path, autoattack_spec(), out=other)
    assert list((tmp_path / "state").rglob("*.pt"))  # of the one that was stopped
    again = tmp_path / "again"
    found = evaluate(Scaled(robust_model, 1.0), some, tmp_path, autoattack_spec(), out=again)
    assert read_record(found[0]).robust_bits == right.robust_bits


def stop(*_, **__):
    raise KeyboardInterrupt


def test_killed_autoattack_is_not_continued_at_another_radius(
    robust_model, images, tmp_path: Path, monkeypatch
):
    some = images.select(torch.arange(12))
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    wide = autoattack_spec()
    narrow = autoattack_spec(threat=ThreatSpec(norm="linf", epsilon="0.001"))
    right = read_record(evaluate(robust_model, some, tmp_path, wide, out=tmp_path / "right")[0])
    assert right.num_robust < right.num_clean_correct
    with monkeypatch.context() as patch:
        patch.setattr(module, "recheck", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(robust_model, some, tmp_path, narrow, out=tmp_path / "narrow")
    assert list((tmp_path / "state").rglob("*.pt"))
    found = evaluate(robust_model, some, tmp_path, wide, out=tmp_path / "again")
    assert read_record(found[0]).robust_bits == right.robust_bits
