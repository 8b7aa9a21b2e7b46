"""Bad input is refused in words that say what to do."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.core.helpers import NUM_CLASSES, closure, generator
from torch.nn import functional as F

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    build_network,
    make_objective,
    perturb_weights,
    pgd,
    shifted_weights,
)
from rwp.core.losses import margin_loss
from rwp.core.lsc import loss_groups

SOURCE = Path(__file__).resolve().parents[2] / "src"

LINF = ThreatModel("linf", 8 / 255)
OPTIONS = {"threat": LINF, "step_size": 2 / 255, "num_steps": 2}


@pytest.mark.parametrize(
    ("norm", "epsilon", "text"),
    [
        ("linf", 8.0, r"epsilon: expected a radius in \(0, 1\].*got 8; did you mean 8/255\?"),
        ("l2", 128.0, r"\(0, 5\].*got 128; did you mean 128/255\?"),
        ("linf", 0.0, "got 0; name a positive one"),
        ("linf", -0.1, "got -0.1; name a positive one"),
        ("linf", float("nan"), "got nan"),
        pytest.param(
            *("linf", "8/255", "expected a number such as 8 / 255, got '8/255'"),
            marks=pytest.mark.wrong_type,
        ),
        ("linf", True, "expected a number such as 8 / 255, got True"),
    ],
)
def test_threat_model(norm, epsilon, text):
    with pytest.raises(ValueError, match=text):
        ThreatModel(norm, epsilon)


def spoil(images, value):
    images = images.clone()
    images[2, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "images: expected finite pixels, got NaN or infinity"),
        (float("inf"), "images: expected finite pixels, got NaN or infinity"),
        (255.0, r"images: expected pixels in \[0, 1\], got \[.*, 255\]; divide 0..255"),
        (-0.01, r"images: expected pixels in \[0, 1\], got \[-0.01"),
    ],
)
def test_images(network, batch, value, text):
    with pytest.raises(ValueError, match=text):
        pgd(network, spoil(batch.images, value), batch.labels, generator=generator(), **OPTIONS)


def test_rounding_beyond_0_and_1_is_no_error(network, batch):
    found = pgd(
        network, spoil(batch.images, 1 + 5e-7), batch.labels, generator=generator(), **OPTIONS
    )
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (-1, "labels: expected class indices from 0, got -1"),
        (NUM_CLASSES, f"below {NUM_CLASSES}, the model's number of classes, got {NUM_CLASSES}"),
    ],
)
def test_labels(network, batch, label, text):
    labels = batch.labels.clone()
    labels[-1] = label
    with pytest.raises(ValueError, match=text):
        pgd(network, batch.images, labels, generator=generator(), **OPTIONS)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"step_size": 2.0}, r"step_size: expected .*got 2; did you mean 2/255\?"),
        ({"step_size": 0.0}, "step_size: expected .*got 0"),
        ({"num_steps": 0}, "num_steps: expected at least 1, got 0"),
        ({"num_restarts": 0}, "num_restarts: expected at least 1, got 0"),
        ({"num_steps": True}, "num_steps: expected a whole number, got True"),
        pytest.param(
            *({"num_steps": 2.0}, "num_steps: expected a whole number, got 2.0"),
            marks=pytest.mark.wrong_type,
        ),
        ({"loss": F.cross_entropy}, r"loss: expected one per example, \(6,\), got \(\)"),
        ({"loss": partial(margin_loss, kappa=-5.0)}, "kappa: expected a number >= 0, got -5.0"),
        ({"loss": partial(margin_loss, kappa=math.nan)}, "kappa: expected a number >= 0, got nan"),
        ({"start": torch.full((6, 3, 8, 8), torch.nan)}, "start: expected finite pixels"),
    ],
)
def test_attack_options(network, batch, change, text):
    with pytest.raises(ValueError, match=text):
        pgd(network, *batch[::2], **{"generator": generator()} | OPTIONS | change)


# Words a type checker refuses first, so these run where none is installed.
WRONG_WORDS = {
    "make_objective('vat')": "objective: expected one of natural, at, trades, mart, got 'vat'",
    "make_objective('trades', beta=1.0, criterion='loss')": "criterion: expected one of objective",
    "pgd(net, x, y, keep='best', generator=g, **o)": "keep: expected one of last, worst",
    "pgd(net, x, y, random_start='normal', generator=g, **o)": "random_start: expected one of",
    "pgd(net, x, y, bn_mode='test', generator=g, **o)": "bn_mode: expected one of eval, train",
    "ThreatModel('l3', 0.5)": "norm: expected 'linf', 'l2' or 'l1', got 'l3'",
    "make_objective('at', criterion='loss')": "criterion: expected one of objective, adv",
    "make_objective('at', random_start='normal')": "random_start: expected one of uniform",
    "WeightPerturbation(gamma=.1, num_weight_steps=1, norm_scope='net', mask='all')": (
        "norm_scope: expected one of layer, model, got 'net'"
    ),
    "WeightPerturbation(gamma=.1, num_weight_steps=1, norm_scope='layer', mask='low')": (
        "mask: expected one of all, below, range, above, random, got 'low'"
    ),
    "precision_context('fp8', 'cpu').__enter__()": "precision: expected one of fp32, tf32, bf16",
    "pgd(net, x, y[:2], generator=g, **o)": "labels: expected one per image and at least one",
    "pgd(net, x, y, start=x[:2], **o)": "start: expected the images' shape (6, 1, 8, 8), got (2, 1",
    "pgd(net, x[:0], y[:0], generator=g, **o)": "at least one image, got 0 for 0",
}
SCRIPT = """
import json, sys, torch
from rwp.core import *
net = build_network("preact_resnet", num_classes=3, in_channels=1, mean=None, std=None,
                    blocks=(1,), width=2)
x, y, g = torch.rand(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64), torch.Generator()
o = {"threat": ThreatModel("linf", 0.1), "step_size": 0.1, "num_steps": 1}
said = {}
for expression in json.load(sys.stdin):
    try:
        eval(expression)
    except ValueError as error:
        said[expression] = str(error)
print(json.dumps(said))
"""


def test_words_without_a_type_checker():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(list(WRONG_WORDS)),
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    for expression, text in WRONG_WORDS.items():
        assert text in said.get(expression, "no error"), expression


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("trades", {}, "beta: expected a weight >= 0 for trades, got None"),
        ("mart", {"beta": -1.0}, "beta: expected a weight >= 0 for mart, got -1"),
        ("at", {"beta": 6.0}, "beta: expected none for at, got 6.0; remove it"),
        ("at", {"clean_updates": 2}, "clean_updates: expected 1 or 2, with trades, got 2 with at"),
        ("trades", {"beta": 6.0, "clean_updates": 3}, "clean_updates: expected 1 or 2"),
    ],
)
def test_objective(name, options, text):
    with pytest.raises(ValueError, match=text):
        make_objective(name, **options)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"gamma": 1.0}, r"gamma: expected a share of the weights' norm in \[0, 1\), got 1.0"),
        ({"gamma": -0.1}, "gamma: expected .*got -0.1"),
        ({"num_weight_steps": -1}, "num_weight_steps: expected at least 0, got -1"),
        ({"c_min": None}, "c_min: expected a loss in nats >= 0 for the mask 'below', got None"),
        ({"c_min": -1.0}, "c_min: expected a loss in nats >= 0"),
        ({"mask": "all"}, "c_min: expected none for the mask 'all', got 1.7; remove it"),
        ({"c_max": 2.0}, "c_max: expected none for the mask 'below', got 2.0"),
        ({"mask": "range"}, "c_max: expected a loss in nats >= 0 for the mask 'range', got None"),
        ({"mask": "range", "c_max": 1.0}, "c_max: expected more than c_min 1.7, got 1.0; swap"),
    ],
)
def test_weight_perturbation(change, text):
    options = {
        "gamma": 0.01,
        "num_weight_steps": 1,
        "norm_scope": "model",
        "mask": "below",
        "c_min": 1.7,
    }
    with pytest.raises(ValueError, match=text):
        WeightPerturbation(**options | change)


def test_nothing_to_perturb(network, batch):
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="model: expected trainable kernels"):
        perturb_weights(network, closure(network, batch), WeightPerturbation.awp(gamma=0.1))


@pytest.mark.parametrize(
    "options", [{"mask": "random", "c_min": 1.0}, {"mask": "all", "direction": "random"}]
)
def test_without_a_generator_torchs_own_draws(network, batch, options):
    chosen = WeightPerturbation(gamma=0.1, num_weight_steps=1, norm_scope="model", **options)

    def drawn(seed):
        torch.manual_seed(seed)
        losses = closure(network, batch)
        start = pgd(network, batch.images, batch.labels, **OPTIONS)
        return start, *perturb_weights(network, losses, chosen).offset.values()

    one, same, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_an_offset_of_another_model(network):
    offset = {"layer9.weight": torch.zeros(1)}
    with (
        pytest.raises(ValueError, match=r"names of parameters .* got 'layer9\.weight'"),
        shifted_weights(network, offset),
    ):
        pass


@pytest.mark.parametrize("edges", [[1.0], [1.0, 1.0], [2.0, 1.0]])
def test_group_edges(edges):
    with pytest.raises(ValueError, match="edges: expected at least two increasing losses"):
        loss_groups(torch.zeros(3), edges)


@pytest.mark.parametrize(
    ("family", "change", "text"),
    [
        ("resnet", {}, "family: expected one of preact_resnet, wide_resnet, got 'resnet'"),
        (
            "preact_resnet",
            {"depth": 18},
            "shape options activation, blocks, width, got depth",
        ),
        ("preact_resnet", {"width": 0}, "expected positive blocks and width"),
        ("wide_resnet", {}, "shape options activation, depth, widen_factor, got none"),
        ("wide_resnet", {"depth": 18, "widen_factor": 1}, r"a depth of 6n \+ 4"),
        ("preact_resnet", {"num_classes": 0}, "num_classes: expected at least 1, got 0"),
        ("preact_resnet", {"mean": (0.5,)}, "normalization: expected mean and std of 3 channels"),
        ("preact_resnet", {"mean": (0.5,) * 3, "std": (0.0,) * 3}, "expected std above 0"),
    ],
)
def test_network(family, change, text):
    options = {"num_classes": 10, "in_channels": 3, "mean": None, "std": None}
    with pytest.raises(ValueError, match=text):
        build_network(family, **options | change)
