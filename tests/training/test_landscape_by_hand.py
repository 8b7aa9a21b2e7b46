"""The losses around one checkpoint are what the definition says, written down once more."""

from __future__ import annotations

import copy
import csv
import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rwp.core import ThreatModel, pgd
from rwp.core.landscape import filter_normalized_direction
from rwp.core.models import build_network
from rwp.data.images import ImageSet
from rwp.data.parts import take_part
from rwp.data.splits import held_out_split
from rwp.evaluation import landscape
from rwp.evaluation.landscape import measure_landscape
from rwp.pipeline.resolve_evaluation import landscape_spec
from rwp.pipeline.settings import Params
from rwp.rng import generator_for
from rwp.training.checkpoint import save_network
from rwp.training.spec import RunKey, kept_checkpoint
from tests.training.conftest import spec_of


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def save_weights(root: Path, params: Params, key: RunKey, seed: int) -> nn.Module:
    """Random weights of that seed as a run's checkpoint after its first epoch."""
    description = {
        "architecture": spec_of(params, "at").architecture.document(),
        **{"num_classes": 10, "in_channels": 1, "mean": None, "std": None},
    }
    shape = {**description, **description["architecture"]}
    del shape["architecture"]
    torch.manual_seed(seed)
    model = build_network(shape.pop("family"), **shape).eval()
    save_network(root / kept_checkpoint(key, 1), model, network=description, epoch=0)
    return model


def each_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def test_a_landscape_is_what_its_definition_says(
    digits: Path, tmp_path: Path, tiny: Params
) -> None:
    spec = landscape_spec(tiny, "demo", "fig2")
    spec = spec.replace(
        epochs=(1,),
        attack=spec.attack.replace(num_steps=3),
        edges=(0.0, 2.3, 2.4, 5.0),
        batch_size=64,
        held_out_fraction=0.9,
        radius=0.5,
    )
    assert (spec.num_directions, spec.num_points) == (2, 3)
    model = save_weights(tmp_path, tiny, spec.key, 0)
    (tmp_path / "data").symlink_to(digits)
    output = tmp_path / "found.csv"
    measure_landscape(spec, root=tmp_path, fingerprint="f", output=output)
    found = rows_of(output)

    labeled = ImageSet.load(tmp_path / "data/digits/train.pt")
    kept, _ = held_out_split(labeled.labels, fraction=0.9, seed=0)
    assert 64 < len(kept) < 256
    images, labels = labeled.images[kept].float() / 255, labeled.labels[kept]
    threat, attacked = spec.attack.threat, []
    for place, (batch, truth) in enumerate(zip(images.split(64), labels.split(64), strict=True)):
        options = {"step_size": spec.attack.step, "num_steps": 3, "bn_mode": "eval"}
        draw = generator_for(spec.seed, "landscape", place)
        model_of = ThreatModel(threat.norm, threat.radius)
        attacked.append(pgd(model, batch, truth, threat=model_of, generator=draw, **options))
    adversarial = torch.cat(attacked)
    at_w = each_loss(model, adversarial, labels)

    changes = torch.zeros(3, len(labels))
    for number in range(2):
        draw = generator_for(spec.seed, "direction", number)
        direction = filter_normalized_direction(model, generator=draw)
        for row, offset in enumerate((-0.5, 0.0, 0.5)):
            moved = copy.deepcopy(model)
            for name, step in direction.items():
                moved.get_parameter(name).data += offset * step
            changes[row] += (each_loss(moved, adversarial, labels) - at_w) / 2

    expected = []
    for low, high in pairwise(spec.edges):
        inside = [i for i, loss in enumerate(at_w.tolist()) if low <= loss < high]
        assert inside, "a group is empty: the test would look at less"
        for row, offset in enumerate((-0.5, 0.0, 0.5)):
            change = math.fsum(changes[row, inside].tolist()) / len(inside)
            at_group = math.fsum(at_w[inside].tolist()) / len(inside)
            expected.append((f"{low:g}-{high:g}", offset, at_group + change, change, len(inside)))
    assert [(row["group"], float(row["offset"])) for row in found] == [e[:2] for e in expected]
    assert [int(row["num_examples"]) for row in found] == [e[4] for e in expected]
    for place, name in ((2, "loss"), (3, "change")):
        numbers = [float(row[name]) for row in found]
        assert numbers == pytest.approx([e[place] for e in expected], abs=1e-4)


def test_each_seed_has_its_own_network_and_images(
    digits: Path, tmp_path: Path, tiny: Params
) -> None:
    spec = landscape_spec(tiny, "demo", "fig2")
    spec = spec.replace(
        epochs=(1,),
        attack=spec.attack.replace(num_steps=1),
        edges=(0.0, 5.0),
        data=spec.data.replace(per_class=10),
        num_directions=1,
        more_seeds=(1,),
    )
    (tmp_path / "data").symlink_to(digits)
    together = tmp_path / "together.csv"
    for key in spec.keys:
        save_weights(tmp_path, tiny, key, key.seed)
    measure_landscape(spec, root=tmp_path, fingerprint="f", output=together)
    losses = []
    for key in spec.keys:
        alone = tmp_path / f"seed{key.seed}.csv"
        measure_landscape(
            spec.replace(key=key, more_seeds=()), root=tmp_path, fingerprint="f", output=alone
        )
        own = [row for row in rows_of(together) if row["seed"] == str(key.seed)]
        assert own == rows_of(alone)
        losses.append([row["loss"] for row in own])
    assert losses[0] != losses[1]


def test_the_start_and_the_part_are_those_of_the_settings(
    digits: Path, tmp_path: Path, tiny: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = landscape_spec(tiny, "demo", "fig2")
    changes = {"epochs": (1,), "edges": (0.0, 5.0), "num_directions": 1, "test_images": True}
    changes |= {"held_out_fraction": 0.5, "num_examples": 40, "part_seed": 1}
    attack = spec.attack.replace(num_steps=1, random_start="none")
    spec = spec.replace(attack=attack, **changes)
    (tmp_path / "data").symlink_to(digits)
    save_weights(tmp_path, tiny, spec.key, 0)
    starts: list[str] = []

    def unmoved(_: nn.Module, images: Tensor, *given: Tensor, **options: object) -> Tensor:
        starts.append(str(options["random_start"]))
        return images

    monkeypatch.setattr(landscape, "pgd", unmoved)
    output = tmp_path / "found.csv"
    measure_landscape(spec, root=tmp_path, fingerprint="f", output=output)
    assert set(starts) == {"none"}
    labeled = ImageSet.load(tmp_path / "data/digits/train.pt")
    kept, _ = held_out_split(labeled.labels, fraction=0.5, seed=0)
    test = ImageSet.load(tmp_path / "data/digits/test.pt")
    sets = {"train": labeled.select(kept), "test": test}
    parts = json.loads(output.with_suffix(".json").read_text())["parts"]
    for split, images in sets.items():
        part = take_part(images, num_examples=40, seed=1, source="here")[1]
        assert parts[f"{split} of seed 0"] == part.identity()
