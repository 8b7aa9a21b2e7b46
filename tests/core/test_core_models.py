"""Networks: sizes, published names, normalization, published checkpoints."""

import pytest
import torch
from tests.core.helpers import generator
from torch import nn
from torch.nn.functional import conv2d, relu, silu

from rwp.core import build_network
from rwp.core.models import Normalization
from rwp.core.models.converters import convert_state
from rwp.core.models.preact_resnet import PreActBlock
from rwp.core.models.wide_resnet import WideBlock

RGB = {"in_channels": 3, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
PLAIN = {"in_channels": 3, "mean": None, "std": None}
SMALL_PREACT = {"num_classes": 5, "blocks": (1, 2), "width": 4}
SMALL_WIDE = {"num_classes": 5, "depth": 10, "widen_factor": 1}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("family", "shape", "parameters"),
    [
        ("preact_resnet", {}, 11_172_170),
        ("wide_resnet", {"depth": 28, "widen_factor": 10}, 36_479_194),
        ("wide_resnet", {"depth": 34, "widen_factor": 10}, 46_160_474),
    ],
)
def test_parameter_counts(family, shape, parameters):
    with torch.device("meta"):
        assert count(build_network(family, num_classes=10, **PLAIN, **shape)) == parameters


def test_the_perturbed_tensors_of_preact_resnet_18():
    from rwp.core.weights import perturbed_tensors

    with torch.device("meta"):
        tensors = perturbed_tensors(build_network("preact_resnet", num_classes=10, **PLAIN))
    assert len(tensors) == 21
    assert sum(tensor.numel() for tensor in tensors.values()) == 11_164_352


def test_published_names():
    preact = build_network("preact_resnet", **SMALL_PREACT, **PLAIN).state_dict()
    wide = build_network("wide_resnet", **SMALL_WIDE, **PLAIN).state_dict()
    assert {"conv1.weight", "layer2.0.shortcut.0.weight", "bn.running_var", "linear.bias"} <= set(
        preact
    )
    assert {"block2.layer.0.convShortcut.weight", "block1.layer.0.bn1.weight", "bn1.bias"} <= set(
        wide
    )
    assert "layer1.0.shortcut.0.weight" not in preact
    assert {"fc.weight", "fc.bias"} <= set(wide)


@pytest.mark.parametrize("family", ["preact_resnet", "wide_resnet"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32])
def test_any_image_from_8_pixels(family, channels, size):
    shape = SMALL_PREACT if family == "preact_resnet" else SMALL_WIDE
    model = build_network(family, in_channels=channels, mean=None, std=None, **shape)
    assert model(torch.rand(3, channels, size, size)).shape == (3, 5)


def test_initial_weights_follow_the_global_seed():
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_network("wide_resnet", **SMALL_WIDE, **PLAIN).conv1.weight)
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_normalization_is_a_layer_of_the_model():
    torch.manual_seed(0)
    inside = build_network("preact_resnet", **SMALL_PREACT, **RGB).eval()
    outside = build_network("preact_resnet", **SMALL_PREACT, **PLAIN).eval()
    state = {k: v for k, v in inside.state_dict().items() if not k.startswith("normalize.")}
    outside.load_state_dict(state)
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(RGB[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(inside(images), outside((images - mean) / std))
    assert isinstance(inside.normalize, Normalization)
    assert {"normalize.mean", "normalize.std"} <= set(inside.state_dict())


def _affine(norm: nn.BatchNorm2d, images: torch.Tensor) -> torch.Tensor:
    """What a BatchNorm layer in eval mode does."""
    shape = (1, -1, 1, 1)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (images - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("planes", [3, 5])
@pytest.mark.parametrize("block", [PreActBlock, WideBlock])
def test_a_block_by_hand(block, planes):
    """Where it projects, its shortcut sees the activated input; otherwise the input itself."""
    torch.manual_seed(0)
    found = block(3, planes, 1).eval()
    for norm in (found.bn1, found.bn2):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.uniform_(0.3, 1.0)
    images = torch.randn(2, 3, 6, 6)
    activated = _affine(found.bn1, images).clamp_min(0)
    hidden = _affine(found.bn2, conv2d(activated, found.conv1.weight, padding=1)).clamp_min(0)
    expected = conv2d(hidden, found.conv2.weight, padding=1)
    projections = [w for name, w in found.named_parameters() if "hortcut" in name]
    if planes == 3:
        assert not projections
        expected = expected + images
    else:
        expected = expected + conv2d(activated, projections[0])
    torch.testing.assert_close(found(images), expected)


@pytest.mark.parametrize("activation", [relu, silu])
@pytest.mark.parametrize("family", ["preact_resnet", "wide_resnet"])
def test_a_whole_network_by_hand(family, activation):
    """Strides, shortcuts, and the activation of every block and before the pooling."""
    torch.manual_seed(0)
    deep = {"num_classes": 5, "depth": 16, "widen_factor": 1}
    shape = SMALL_PREACT if family == "preact_resnet" else deep
    model = build_network(family, **shape, **PLAIN, activation=activation.__name__).double()
    images = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    model.train()(images)  # statistics other than 0 and 1
    model.eval()
    if family == "preact_resnet":
        groups, last, head = [model.layer1, model.layer2], model.bn, model.linear
    else:
        groups = [group.layer for group in (model.block1, model.block2, model.block3)]
        last, head = model.bn1, model.fc
    hidden = conv2d(images, model.conv1.weight, padding=1)
    for number, group in enumerate(groups):
        for place, block in enumerate(group):
            stride = 2 if number and not place else 1
            activated = activation(_affine(block.bn1, hidden))
            inner = conv2d(activated, block.conv1.weight, stride=stride, padding=1)
            inner = activation(_affine(block.bn2, inner))
            inner = conv2d(inner, block.conv2.weight, padding=1)
            projections = [w for name, w in block.named_parameters() if "hortcut" in name]
            if projections:
                hidden = conv2d(activated, projections[0], stride=stride)
            hidden = inner + hidden
    pooled = activation(_affine(last, hidden)).mean((2, 3))
    torch.testing.assert_close(model(images), pooled @ head.weight.T + head.bias)


@pytest.mark.parametrize("normalization", [PLAIN, RGB], ids=["plain", "normalized"])
def test_a_wide_resnet_by_hand(normalization):
    torch.manual_seed(0)
    model = build_network("wide_resnet", **SMALL_WIDE, **normalization)
    assert not model.fc.bias.any()
    model.train()(torch.rand(8, 3, 8, 8))  # statistics other than 0 and 1
    model.eval()
    torch.nn.init.uniform_(model.bn1.bias, -1, 1)
    images = torch.rand(2, 3, 8, 8)
    inner = images
    if normalization is RGB:
        mean, std = (torch.tensor(RGB[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
        inner = (images - mean) / std
    hidden = model.block3(model.block2(model.block1(conv2d(inner, model.conv1.weight, padding=1))))
    pooled = _affine(model.bn1, hidden).clamp_min(0).mean((2, 3))
    torch.testing.assert_close(model(images), pooled @ model.fc.weight.T + model.fc.bias)


def test_the_kernels_of_a_wide_resnet_start_at_the_published_size():
    """Normal numbers of variance 2 / (9 times the channels that leave the convolution)."""
    torch.manual_seed(0)
    model = build_network("wide_resnet", num_classes=5, depth=10, widen_factor=4, **PLAIN)
    first, wider = model.conv1.weight.detach(), model.block1.layer[0].conv1.weight.detach()
    assert (first.shape[:2], wider.shape[:2]) == ((16, 3), (64, 16))
    assert float(first.std()) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)
    assert float(wider.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)


def random_state(family: str, shape: dict, **others):
    torch.manual_seed(7)
    state = build_network(family, **shape, **PLAIN).state_dict()
    state = {
        k: torch.rand(v.shape, generator=generator(len(k))) if v.is_floating_point() else v + 5
        for k, v in state.items()
    }
    return state | others


DEAD = {"sub_block1.layer.0.conv1.weight": torch.rand(4, 4, 3, 3)}
BUFFERS = {
    "mu": torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1),
    "sigma": torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1),
}
PREACT, WIDE = ("preact_resnet", SMALL_PREACT), ("wide_resnet", SMALL_WIDE)


@pytest.mark.parametrize(
    ("layout", "network", "images", "extra", "prefix", "wrapper"),
    [
        ("rice", PREACT, RGB, {}, "module.", "state_dict"),
        ("awp", PREACT, RGB, {}, "module.", None),
        ("awp", WIDE, RGB, {}, "", "state_dict"),
        ("trades", WIDE, PLAIN, DEAD, "module.", None),
        ("trades", WIDE, PLAIN, {}, "", None),
        ("rst", WIDE, PLAIN, DEAD, "module.", "state_dict"),
        ("robustbench", WIDE, PLAIN, DEAD, "", None),
        ("robustbench", WIDE, RGB, DEAD | BUFFERS, "", None),
        ("robustbench", PREACT, RGB, BUFFERS, "", "model"),
    ],
)
def test_published_checkpoints_load(layout, network, images, extra, prefix, wrapper):
    state = random_state(*network)
    stored = {prefix + name: value for name, value in (state | extra).items()}
    checkpoint = {wrapper: stored, "epoch": 7} if wrapper else stored
    torch.manual_seed(0)
    model = build_network(network[0], **network[1], **images)
    model.load_state_dict(convert_state(checkpoint, layout=layout, model=model))
    loaded = model.state_dict()
    for name, value in state.items():
        assert torch.equal(loaded[name], value), name
    if "mu" in extra:
        assert torch.equal(loaded["normalize.mean"], BUFFERS["mu"])
        assert torch.equal(loaded["normalize.std"], BUFFERS["sigma"])
    elif images is RGB:
        torch.testing.assert_close(loaded["normalize.mean"].flatten(), torch.tensor(RGB["mean"]))


@pytest.mark.parametrize(
    ("layout", "images", "change", "text"),
    [
        ("awp", PLAIN, {}, "layout 'awp': expected a model with input normalization"),
        ("trades", RGB, {}, "layout 'trades': expected a model without input normalization"),
        ("robustbench", RGB, {}, "layout 'robustbench': expected a model without input norm"),
        ("tensorflow", RGB, {}, "layout: expected one of rice, awp, trades, rst, robustbench"),
    ],
)
def test_a_layout_that_cannot_be(layout, images, change, text):
    model = build_network(PREACT[0], **PREACT[1], **images)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=text):
        convert_state(random_state(*PREACT) | change, layout=layout, model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_something_else_than_a_state_dict():
    model = build_network(PREACT[0], **PREACT[1], **PLAIN)
    with pytest.raises(ValueError, match=r"expected tensors by name, got \['epoch'\]"):
        convert_state({"epoch": 7}, layout="trades", model=model)


@pytest.mark.wrong_type
@pytest.mark.parametrize(
    ("family", "options", "named"),
    [
        ("preact_resnet", {"blocks": 2}, "blocks: expected a list"),
        ("preact_resnet", {"blocks": (1, 1.5)}, "blocks: expected a whole number, got 1.5"),
        ("preact_resnet", {"blocks": (1,), "width": 8.5}, "width: expected a whole number"),
        ("wide_resnet", {"depth": 10.0, "widen_factor": 1}, "depth: expected a whole number"),
        ("wide_resnet", {"depth": 10, "widen_factor": True}, "widen_factor: expected a whole"),
    ],
)
def test_a_shape_of_another_type_is_refused(family, options, named):
    with pytest.raises(ValueError, match=named):
        build_network(family, num_classes=3, in_channels=3, mean=None, std=None, **options)
