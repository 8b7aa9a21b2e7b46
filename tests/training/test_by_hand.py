"""A training is what its settings say: the same network from a loop written out by hand.

Attacks, losses and weight perturbations are those of `rwp.core`, which has tests of its own. What
puts them together stands here once more, plainly: the learning rate of each step, SGD's momentum
and weight decay at w + v, what is drawn from which seed, what is measured after each epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rwp.core import ThreatModel, cross_entropy, kl_attack, pgd, trades_loss
from rwp.core.modes import repeated_statistics
from rwp.core.objectives.base import ExampleLosses
from rwp.core.weight_perturbation import (
    adversarial_weight_perturbation,
    robust_weight_perturbation,
)
from rwp.data.augmentation import augment
from rwp.data.images import ImageSet
from rwp.data.splits import held_out_split
from rwp.pipeline.settings import Params
from rwp.rng import derived_seed, generator_for
from rwp.training import guards
from rwp.training.checkpoint import new_network
from rwp.training.jobs import train_run
from rwp.training.pseudo_labels import load_pseudo_labeled
from rwp.training.spec import TrainSpec
from tests.training.conftest import spec_of

SEED = 3
RECIPES = {
    "at": {},
    "at-awp": {},
    "at-rwp": {},
    "trades-rwp": {"schedule": "piecewise_by_epoch"},
    "rst-awp": {"schedule": "cosine_by_epoch", "nesterov": True},
}


def brief(spec: TrainSpec, **optimization: Any) -> TrainSpec:
    """Three epochs of a few steps, the second and third perturbed, the rate lower in the last."""
    few = {"epochs": 3, "batch_size": 64, "decay_epochs": (2,), "momentum": 0.8}
    few |= {"schedule": "piecewise_by_step"}
    changes: dict[str, Any] = {
        "key": spec.key.replace(seed=SEED),
        "optimization": spec.optimization.replace(**few | {"weight_decay": 0.02} | optimization),
        "held_out_fraction": 0.85,
        "keep_epochs": (),
    }
    if spec.unlabeled is not None:
        changes["unlabeled"] = spec.unlabeled.replace(epoch_size=192, weight=0.5)
    return spec.replace(**changes)


class ByHand:
    """The training of a spec, without anything that can be switched."""

    def __init__(self, spec: TrainSpec, root: Path, network: dict[str, Any]) -> None:
        self.spec, self.settings = spec, spec.optimization
        labeled = ImageSet.load(root / "data/digits/train.pt")
        kept, taken = held_out_split(labeled.labels, fraction=spec.held_out_fraction, seed=0)
        self.train, self.held_out = labeled.select(kept), labeled.select(taken)
        self.test = ImageSet.load(root / "data/digits/test.pt")
        self.unlabeled = None
        if spec.unlabeled is not None:
            images = root / "data/unlabeled" / f"{spec.unlabeled.source}.pt"
            labels = root / spec.unlabeled.labeling.path
            self.unlabeled = load_pseudo_labeled(images, labels, num_classes=10)
        torch.manual_seed(derived_seed(SEED, "init"))
        self.model = new_network(network)
        self.velocity = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        assert spec.threat is not None
        self.threat = ThreatModel(spec.threat.norm, spec.threat.radius)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Bytes, labels and weights of each step."""
        if self.unlabeled is None:
            draw = generator_for(SEED, "batches", epoch)
            for index in torch.randperm(len(self.train), generator=draw).split(64):
                yield self.train.images[index], self.train.labels[index], torch.ones(len(index))
            return
        draw = generator_for(SEED, "mixed_batches", epoch)
        assert len(self.train) > 96
        labeled = torch.randperm(len(self.train), generator=draw)[:96].split(32)
        pseudo = torch.randint(len(self.unlabeled), (3, 32), generator=draw)
        for ours, theirs in zip(labeled, pseudo, strict=True):
            images = [self.train.images[ours], self.unlabeled.images[theirs]]
            labels = [self.train.labels[ours], self.unlabeled.labels[theirs]]
            weights = torch.cat([torch.ones(32), torch.full((32,), 0.5)])
            yield torch.cat(images), torch.cat(labels), weights

    def rate(self, epoch: int, step: int, num_steps: int) -> float:
        rate = self.settings.learning_rate
        if self.settings.schedule == "cosine_by_epoch":
            return rate * (0.75 if epoch == 1 else 0.25 if epoch == 2 else 1.0)
        if self.settings.schedule == "piecewise_by_epoch":  # from the epoch before the milestone
            return rate if epoch == 0 else rate * 0.1
        last = step == num_steps - 1
        return rate if epoch == 0 or (epoch == 1 and not last) else rate * 0.1

    def losses(self, images: Tensor, adversarial: Tensor, labels: Tensor) -> ExampleLosses:
        logits = self.model(adversarial)
        if self.spec.objective.loss == "at":
            losses = cross_entropy(logits, labels)
        else:
            updates = 1 if self.spec.unlabeled else 2
            with repeated_statistics(self.model, updates):
                losses = trades_loss(self.model(images), logits, labels, beta=6.0)
        return ExampleLosses(losses, losses.detach(), logits)

    def attacked(self, images: Tensor, labels: Tensor, where: tuple[int, int]) -> Tensor:
        attack = self.spec.attack
        assert attack is not None
        options: dict[str, Any] = {"threat": self.threat, "step_size": attack.step, "num_steps": 2}
        options["generator"] = generator_for(SEED, "attack", *where)
        if self.spec.objective.loss == "at":
            return pgd(self.model, images, labels, bn_mode="train", **options)
        return kl_attack(self.model, images, labels, bn_mode="eval", **options)

    def step(
        self, bytes_: Tensor, labels: Tensor, weights: Tensor, where: tuple[int, int], rate: float
    ) -> tuple[float, int]:
        """One step; the sum of the losses and the number of right answers at w + v."""
        policy = self.spec.augmentation
        images = augment(bytes_, policy, generator=generator_for(SEED, "augment", *where))
        images = images.float() / 255
        adversarial = self.attacked(images, labels, where)
        offset: dict[str, Tensor] = {}
        perturbation = self.spec.perturbation
        if perturbation is not None and where[0] >= 1:

            def closure() -> ExampleLosses:
                found = self.losses(images, adversarial, labels)
                return found._replace(objective=found.objective * weights)

            if perturbation.name == "awp":
                found = adversarial_weight_perturbation(
                    self.model, closure, gamma=perturbation.gamma
                )
            else:
                assert perturbation.c_min is not None
                options = {"gamma": perturbation.gamma, "c_min": perturbation.c_min}
                found = robust_weight_perturbation(self.model, closure, num_steps=2, **options)
            offset = found.offset
            assert offset, "no example was under c_min: the test would look at nothing"
        named = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, value in offset.items():
                named[name] += value
        outer = self.losses(images, adversarial, labels)
        gradients = torch.autograd.grad((outer.objective * weights).mean(), list(named.values()))
        with torch.no_grad():
            for (name, weight), gradient in zip(named.items(), gradients, strict=True):
                # The order of the operations is torch's: TRADES' attack, which starts where the
                # gradient is smallest, makes much of a rounding error.
                gradient = gradient.add(weight, alpha=self.settings.weight_decay)
                direction = self.velocity[name].mul_(self.settings.momentum).add_(gradient)
                if self.settings.nesterov:
                    direction = gradient.add(direction, alpha=self.settings.momentum)
                weight.add_(direction, alpha=-rate)
            for name, value in offset.items():
                named[name] -= value
        right = int((outer.logits.argmax(1) == labels).sum())
        return float(outer.objective.detach().sum()), right

    def accuracies(self, name: str, split: ImageSet, epoch: int) -> dict[str, float]:
        """Of a split; what is wrong without an attack is not robust."""
        monitor = self.spec.monitor
        assert monitor is not None
        clean = robust = 0
        for place, start in enumerate(range(0, len(split), 512)):
            images = split.images[start : start + 512].float() / 255
            labels = split.labels[start : start + 512]
            with torch.no_grad():
                right = self.model(images).argmax(1) == labels
            clean += int(right.sum())
            if not right.any():
                continue
            options = {"step_size": monitor.step, "num_steps": monitor.num_steps}
            draw = generator_for(SEED, "measure", name, epoch, place)
            images, labels = images[right], labels[right]
            found = pgd(self.model, images, labels, threat=self.threat, generator=draw, **options)
            with torch.no_grad():
                robust += int((self.model(found).argmax(1) == labels).sum())
        total = len(split)
        return {f"{name}_clean_accuracy": clean / total, f"{name}_robust_accuracy": robust / total}

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """The history's row."""
        self.model.train()
        steps = list(self.batches(epoch))
        total, right = 0.0, 0
        for number, (images, labels, weights) in enumerate(steps):
            rate = self.rate(epoch, number, len(steps))
            found = self.step(images, labels, weights, (epoch, number), rate)
            total, right = total + found[0], right + found[1]
        count = sum(len(labels) for _, labels, _ in steps)
        self.model.eval()
        row = {"learning_rate": rate, "train_loss": total / count}
        row["train_robust_accuracy"] = right / count
        for name, split in (("held_out", self.held_out), ("test", self.test)):
            row |= self.accuracies(name, split, epoch)
        return row


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_training_is_what_its_settings_say(
    recipe: str,
    shared_root: Path,
    tmp_path: Path,
    tiny: Params,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guards, "PATIENCE_SHARE", 9)  # few steps learn little
    spec = brief(spec_of(tiny, recipe, "l2" if recipe == "at" else "linf"), **RECIPES[recipe])
    folder = train_run(spec, root=shared_root, fingerprint=recipe, output=tmp_path)
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    weights = {
        name: torch.load(folder / f"{name}.pt", weights_only=True)["weights"]
        for name in ("last", "best", "best_on_test")
    }
    network = torch.load(folder / "last.pt", weights_only=True)["network"]
    loop, states = ByHand(spec, shared_root, network), []
    for epoch, row in enumerate(rows):
        expected = loop.train_epoch(epoch)
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
        states.append({name: value.clone() for name, value in loop.model.state_dict().items()})
    chosen = {"last": len(rows) - 1}
    for name, split in (("best", "held_out"), ("best_on_test", "test")):
        curve = [row[f"{split}_robust_accuracy"] for row in rows]
        chosen[name] = curve.index(max(curve))  # the first of equals
    for name, epoch in chosen.items():
        for key, value in weights[name].items():
            torch.testing.assert_close(value, states[epoch][key], rtol=1e-4, atol=1e-5)
