"""Models as others build them: each is right, or one line that says what to do; left as found."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import rwp
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.clean import UNDERFLOW
from rwp.evaluation.external import evaluate_external
from rwp.evaluation.external_models import ExternalModel
from rwp.evaluation.records import read_record
from tests.evaluation.samples import attack, linear_model

LINF = ("linf", "0.1")
Build = Callable[[nn.Module], Any]


class Around(nn.Module):
    """A model whose forward is a function of another model and the images."""

    def __init__(self, inner: nn.Module, function: Callable[[Around, Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, images: Tensor) -> Any:
        return self.function(self, images)


def around(function: Callable[[Around, Tensor], Any]) -> Build:
    return lambda model: Around(copy.deepcopy(model), function).eval()


def linear(change: Callable[[nn.Linear], object]) -> Build:
    def build(model: nn.Module) -> nn.Module:
        made = linear_model()
        change(made[1])
        return made.eval()

    return build


@dataclass
class Output:
    logits: Tensor
    more: int


Named = namedtuple("Named", "features scores")


def _counts_calls(self: Around, images: Tensor) -> Tensor:
    self.register_buffer("last", images.detach().mean())
    self.inner.readout.weight.data.mul_(1.0)
    return self.inner(images)


def _makes_a_weight(self: Around, images: Tensor) -> Tensor:
    if not hasattr(self, "scale"):
        self.scale = nn.Parameter(torch.ones(1))
    return self.inner(images) * self.scale


def _in_two_types(self: Around, images: Tensor) -> Tensor:
    return self.inner.readout.double()(self.inner.features(images).double())


def _another_type_first(model: nn.Module) -> nn.Module:
    made = Around(copy.deepcopy(model), lambda self, images: self.inner(images))
    made.temperature = nn.Parameter(torch.ones((), dtype=torch.float64))
    return made.eval()


def _half_behind_a_mean_of_32_bits(model: nn.Module) -> nn.Module:
    made = Around(
        copy.deepcopy(model).bfloat16(),
        lambda self, images: self.inner((images - self.mean).bfloat16()),
    )
    made.register_buffer("mean", torch.zeros(1, 1, 1, 1))
    return made.eval()


class WithExtraState(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def get_extra_state(self) -> dict[str, Any]:
        return {"step": 3, "names": ["a"]}

    def set_extra_state(self, state: dict[str, Any]) -> None: ...

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)


def _autocast(self: Around, images: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.inner(images)


# With how many of 40 images the outcome may differ, as these compute in fewer bits.
SAME: dict[str, tuple[Build, int]] = {
    "of 64 bits": (lambda model: copy.deepcopy(model).double(), 0),
    "of 16 bits": (lambda model: copy.deepcopy(model).half(), 2),
    "bfloat16": (lambda model: copy.deepcopy(model).bfloat16(), 3),
    "autocast": (around(_autocast), 3),
    "two types": (around(_in_two_types), 0),
    "a weight of another type first": (_another_type_first, 0),
    "few bits behind a buffer of 32": (_half_behind_a_mean_of_32_bits, 3),
    "a tuple": (around(lambda self, x: (self.inner(x), x.flatten(1))), 0),
    "features first": (around(lambda self, x: [x.flatten(1), self.inner(x)]), 0),
    "beside nothing": (around(lambda self, x: (None, self.inner(x))), 0),
    "a table": (around(lambda self, x: {"more": x, "logits": self.inner(x)}), 0),
    "another key": (around(lambda self, x: {"prediction": self.inner(x)}), 0),
    "a data class": (around(lambda self, x: Output(self.inner(x), 1)), 0),
    "a named tuple": (around(lambda self, x: Named(x.flatten(1), self.inner(x))), 0),
    "writes into its input": (around(lambda self, x: self.inner(x.sub_(0.0).mul_(1.0))), 0),
    "writes buffers and weights": (around(_counts_calls), 0),
    "makes a weight when called": (around(_makes_a_weight), 0),
    "compiled": (lambda model: torch.compile(copy.deepcopy(model), backend="eager"), 0),
    "parallel": (lambda model: nn.DataParallel(copy.deepcopy(model)).eval(), 0),
    "traced": (lambda model: torch.jit.trace(copy.deepcopy(model), torch.rand(2, 1, 8, 8)), 0),
    "frozen TorchScript": (
        lambda m: torch.jit.freeze(torch.jit.trace(copy.deepcopy(m), torch.rand(2, 1, 8, 8))),
        0,
    ),
    "symbolic": (lambda model: torch.fx.symbolic_trace(copy.deepcopy(model)), 0),
    "frozen": (lambda model: copy.deepcopy(model).requires_grad_(False), 0),
    "channels last": (lambda m: copy.deepcopy(m).to(memory_format=torch.channels_last), 0),
    "state of its own": (lambda model: WithExtraState(copy.deepcopy(model)).eval(), 0),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_network_in_another_form_has_the_same_numbers(
    robust_model: nn.Module, images: ImageSet, name: str
) -> None:
    build, off = SAME[name]
    expected = rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF)
    found = evaluated(build(robust_model), images)
    for kind in ("natural", "pgd-20"):
        ours, theirs = found.records[kind].num_robust, expected.records[kind].num_robust
        assert abs(ours - theirs) <= off, (kind, ours, theirs)
    assert found.warnings == ((UNDERFLOW,) if name == "of 16 bits" else ())


FORMS: dict[str, Build] = {
    "spectral norm": linear(parametrizations.spectral_norm),
    "spectral norm by hooks": linear(nn.utils.spectral_norm),
    "weight norm": linear(parametrizations.weight_norm),
    "weight norm by hooks": linear(nn.utils.weight_norm),
    "orthogonal": linear(parametrizations.orthogonal),
    "pruned": linear(lambda layer: torch.nn.utils.prune.l1_unstructured(layer, "weight", 0.3)),
}


@pytest.mark.parametrize("name", FORMS)
def test_layers_that_compute_their_weight_are_evaluated_and_left(
    robust_model: nn.Module, images: ImageSet, name: str
) -> None:
    model = FORMS[name](robust_model)
    answers = model(pixels(images)).argmax(dim=1)
    found = evaluated(model, images)
    assert found.records["natural"].num_robust == int((answers == images.labels).sum())
    assert found.records["pgd-20"].num_robust < found.records["natural"].num_robust
    assert torch.equal(model(pixels(images)).argmax(dim=1), answers)


def _quantized(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})


def _overwrites(self: Around, images: Tensor) -> Tensor:
    once = images.sigmoid()
    logits: Tensor = self.inner(images) + 0 * once.flatten(1).sum(1, keepdim=True)
    once += 1  # what its backward pass needs
    return logits


WITHOUT_GRADIENT: dict[str, Build] = {
    "no_grad": around(lambda self, x: torch.no_grad()(self.inner)(x)),
    "inference_mode": around(lambda self, x: torch.inference_mode()(self.inner)(x)),
    "detach": around(lambda self, x: self.inner(x.detach())),
    "numpy": around(lambda self, x: self.inner(torch.from_numpy(x.numpy() * 1))),
    "whole numbers": around(lambda self, x: (1000 * self.inner(x)).long()),
    "quantized": _quantized,
    "no way back": around(_overwrites),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_a_model_without_a_gradient_has_clean_accuracy_and_no_other(
    robust_model: nn.Module, images: ImageSet, name: str
) -> None:
    model = WITHOUT_GRADIENT[name](robust_model)
    expected = rwp.evaluate(
        robust_model, pixels(images), images.labels, threat=LINF, attacks=["natural"]
    )
    found = evaluated(model, images, attacks=["natural"])
    assert found.records["natural"].num_robust == expected.records["natural"].num_robust
    with pytest.raises(UserError, match=r"pgd-20: expected a model with a gradient .*take"):
        evaluated(model, images)


def _of_inference_mode(model: nn.Module) -> nn.Module:
    with torch.inference_mode():
        return copy.deepcopy(model)


def _fails(error: BaseException) -> Build:
    def forward(self: Around, images: Tensor) -> Tensor:
        raise error

    return around(forward)


def _takes_only(count: int) -> Build:
    def forward(self: Around, images: Tensor) -> Tensor:
        if len(images) != count:
            raise ValueError(f"batches of {count}, please")
        return self.inner(images)

    return around(forward)


REFUSED: dict[str, tuple[Build, str]] = {
    "lazy": (
        lambda model: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval(),
        r"expected weights, got none yet in 1\.weight .* call it once on an image",
    ),
    "lazy buffers": (
        lambda model: nn.Sequential(nn.LazyBatchNorm2d(affine=False), model).eval(),
        r"expected weights, got none yet in 0\.running_mean",
    ),
    "no values": (lambda model: copy.deepcopy(model).to("meta"), "lies on the device meta"),
    "weights of inference mode": (_of_inference_mode, "outside of torch.inference_mode"),
    "weights alone": (lambda model: model.state_dict(), "call load_state_dict, and give that"),
    "a class": (lambda model: type(model), r"this is a class: give an instance, RandomFeatures\("),
    "a function": (lambda model: model.forward, "wrap a function in one whose forward calls it"),
    "numbers that are no tensor": (
        around(lambda self, x: self.inner(x).detach().numpy()),
        "got ndarray with 0 of that shape; wrap the model",
    ),
    "nothing": (around(lambda self, x: None), "got NoneType with 0 of that shape"),
    "two of one shape": (around(lambda self, x: (self.inner(x),) * 2), "with 2 of that shape"),
    "complex": (around(lambda self, x: self.inner(x) * 1j), "as real numbers in a dense tensor"),
    "sparse": (around(lambda self, x: self.inner(x).to_sparse()), "as real numbers in a dense"),
    "classes": (around(lambda self, x: self.inner(x).argmax(1)), r"got \(1,\); wrap it so that"),
    "one number": (around(lambda self, x: self.inner(x)[:, :1]), r"return torch\.cat\(\(0 \* z, z"),
    "not finite": (around(lambda self, x: self.inner(x) / 0), "expected finite logits"),
    "an error": (_fails(KeyError("no")), r"got KeyError: 'no'; choose the images it was made for"),
    "an exit": (_fails(SystemExit(0)), "got SystemExit: 0; choose the images it was made for"),
    "an assertion": (_fails(AssertionError("224")), "got AssertionError: 224"),
    "an error of the system": (_fails(OSError("no file")), "got OSError: no file"),
    "one batch size": (_takes_only(1), r"shape \(16, 1, 8, 8\) .* got ValueError: batches of 1, p"),
    "no forward": (lambda model: nn.Module().eval(), "got NotImplementedError: Module"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_evaluated_is_one_line(
    robust_model: nn.Module, images: ImageSet, name: str
) -> None:
    build, message = REFUSED[name]
    model = build(robust_model)
    with pytest.raises(UserError, match=message) as caught:
        rwp.evaluate(model, pixels(images), images.labels, threat=LINF)
    assert "\n" not in str(caught.value)
    if isinstance(model, nn.Module):
        assert not any(part.training for part in model.modules())
        asking = [value.requires_grad for value in model.parameters()]
        assert asking == [True] * len(asking)


def test_modes_flags_gradients_and_chance_are_left(
    robust_model: nn.Module, images: ImageSet
) -> None:
    model = nn.Sequential(copy.deepcopy(robust_model), nn.Dropout(0.5), nn.BatchNorm1d(10))
    model.train()
    model[2].eval()
    model[0].convolution.requires_grad_(False)
    model(pixels(images)).sum().backward()
    before = copy.deepcopy(model)
    for one, other in zip(before.parameters(), model.parameters(), strict=True):
        one.grad = None if other.grad is None else other.grad.clone()
    state = torch.random.get_rng_state()
    rwp.evaluate(model, pixels(images), images.labels, threat=LINF)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()
    modes = ([part.training for part in one.modules()] for one in (before, model))
    assert len(set(map(tuple, modes))) == 1
    for one, other in zip(before.parameters(), model.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad
        assert torch.equal(one, other)
        same = one.grad is other.grad is None
        assert same or torch.equal(one.grad, other.grad)
    for one, other in zip(before.buffers(), model.buffers(), strict=True):
        assert torch.equal(one, other)


KINDS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


@pytest.mark.parametrize("kind", ["natural", "fgsm", "pgd-5", "cw-5", "autoattack"])
def test_every_attack_takes_the_same_labels_and_modes(
    robust_model: nn.Module, images: ImageSet, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rwp.evaluation.autoattack import VERSIONS

    monkeypatch.setitem(VERSIONS, "standard", ("apgd-ce",))
    some = images.select(torch.arange(6))

    def robust(labels: Any) -> str:
        found = rwp.evaluate(robust_model, pixels(some), labels, threat=LINF, attacks=[kind])
        return found.records[kind].robust_bits

    expected = robust(some.labels)
    given: list[Any] = [some.labels.to(dtype) for dtype in KINDS]
    given += [some.labels.numpy(), some.labels.tolist()]
    assert {robust(labels) for labels in given} == {expected}
    with torch.inference_mode():
        assert robust(some.labels + 0) == expected
    with torch.no_grad():
        assert robust(some.labels) == expected
    for wrong in (some.labels.float(), some.labels.bool(), torch.eye(10)[some.labels]):
        with pytest.raises(UserError, match="labels: expected class indices"):
            robust(wrong)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own word on its quantization
def test_records_of_forms_that_hold_no_tensors_are_recognized(
    robust_model: nn.Module, images: ImageSet, tmp_path: Any
) -> None:
    """Quantized layers and state of one's own: the hash tells equal from different ones."""
    images.save(tmp_path / "test.pt")

    def done(model: nn.Module, out: str) -> Any:
        from rwp.evaluation.identity import weights_sha256

        external = ExternalModel(model, "theirs", weights_sha256(model))
        (path,) = evaluate_external(
            external,
            data=tmp_path / "test.pt",
            attacks=(attack("natural"),),
            out=tmp_path / out,
            state=tmp_path / "state",
            batch_size=16,
            seed=0,
        )
        return read_record(path).checkpoint_sha256

    other = copy.deepcopy(robust_model)
    other.readout.weight.data.mul_(2)
    assert done(_quantized(robust_model), "a") == done(_quantized(robust_model), "b")
    assert done(_quantized(robust_model), "a") != done(_quantized(other), "c")
    first, second = (WithExtraState(copy.deepcopy(model)).eval() for model in (robust_model, other))
    assert done(first, "d") != done(second, "e")


def pixels(images: ImageSet) -> Tensor:
    return images.images.float() / 255


def evaluated(
    model: nn.Module, images: ImageSet, attacks: tuple[str, ...] = ("natural", "pgd-20")
) -> rwp.Evaluation:
    """The evaluation of a model that must come back as it was."""
    before = {name: _kept(value) for name, value in model.state_dict().items()}
    flags = [value.requires_grad for value in model.parameters()]
    modes = [getattr(part, "training", False) for part in model.modules()]
    given = pixels(images)
    try:
        return rwp.evaluate(
            model, given, images.labels, threat=LINF, attacks=attacks, num_classes=10
        )
    finally:
        after = model.state_dict()
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert not isinstance(value, Tensor) or torch.equal(value, after[name]), name
            assert not isinstance(value, Tensor) or value.dtype == after[name].dtype
        assert [value.requires_grad for value in model.parameters()] == flags
        assert [getattr(part, "training", False) for part in model.modules()] == modes
        assert torch.equal(given, pixels(images))


def _kept(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


@pytest.mark.filterwarnings("ignore")
def test_a_program_of_torch_export_is_refused(robust_model: nn.Module, images: ImageSet) -> None:
    """It has one mode alone, and does not say which."""
    batch = {0: torch.export.Dim("batch")}
    given = (torch.rand(2, 1, 8, 8),)
    program = torch.export.export(copy.deepcopy(robust_model), given, dynamic_shapes=(batch,))
    with pytest.raises(UserError, match=r"one that can be put into eval mode, got .*; give the"):
        rwp.evaluate(program.module(), pixels(images), images.labels, threat=LINF)


def test_images_that_a_model_rejects_have_a_gradient_of_zero(
    robust_model: nn.Module, images: ImageSet
) -> None:
    """It answers dark batches by constants, which no attack can change; others it can."""
    given = pixels(images).clone()
    given[20:] = 0.0

    def answer(self: Around, x: Tensor) -> Tensor:
        return self.inner(x) if x.mean() > 0.2 else torch.eye(10)[torch.zeros(len(x)).long()]

    model = around(answer)(robust_model)
    labels = images.labels.clone()
    labels[20:] = 0
    found = rwp.evaluate(
        model,
        given,
        labels,
        threat=LINF,
        attacks=["natural", "pgd-20", "autoattack"],
        batch_size=20,
    )
    usual = rwp.evaluate(robust_model, given[:20], labels[:20], threat=LINF, attacks=["pgd-20"])
    number = found.records["pgd-20"].num_robust
    assert number == usual.records["pgd-20"].num_robust + len(images) - 20
    assert found.records["autoattack"].num_robust <= number
    assert any("gradient" in text for text in found.warnings)
