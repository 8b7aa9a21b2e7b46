"""AWP beside the trainer of the Adversarial Robustness Toolbox: the same steps, and their time.

The toolbox is no requirement of this project. Install it somewhere and name the place:

    pip install --no-deps --target /tmp/art adversarial-robustness-toolbox
    PYTHONPATH=/tmp/art python benchmarks/beside_art.py [--write tests/reference/art_awp.npz]

Both sides get the same network, batches and adversarial images. What differs, and why, stands in
docs/algorithm.md, "Comparison with the Adversarial Robustness Toolbox".
"""

from __future__ import annotations

import argparse
import sys
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    build_network,
    make_objective,
    perturb_weights,
    shifted_weights,
)
from rwp.files import atomic_write

GAMMA, BETA, RATE, MOMENTUM, DECAY = 0.01, 6.0, 0.05, 0.9, 5e-4
BATCH, STEPS, CLASSES = 32, 3, 10
THREAT, STEP_SIZE, NUM_STEPS = ThreatModel("linf", 0.12), 0.03, 10


def network() -> nn.Module:
    """A small PreAct ResNet on gray images of 8x8 pixels, the same weights every time."""
    torch.manual_seed(0)
    return build_network(
        "preact_resnet",
        num_classes=CLASSES,
        in_channels=1,
        mean=None,
        std=None,
        blocks=(1, 1),
        width=8,
    ).train()


def pictures(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, perturbed ones and labels, drawn at random."""
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 8, 8, generator=draw)
    noise = torch.rand(images.shape, generator=draw) * 2 - 1
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    return images, (images + 0.12 * noise).clamp(0, 1), labels


class _Given:
    """In the place of an attack: the adversarial images that both sides shall use."""

    def __init__(self, adversarial: dict[bytes, np.ndarray[Any, Any]]) -> None:
        self.adversarial = adversarial

    def generate(self, x: np.ndarray[Any, Any], y: Any = None) -> np.ndarray[Any, Any]:
        """The images that belong to these."""
        return self.adversarial[x.tobytes()]


def sgd(model: nn.Module, *, plain: bool = False) -> torch.optim.SGD:
    """The optimizer of both sides; that of a proxy has neither momentum nor decay."""
    if plain:
        return torch.optim.SGD(model.parameters(), lr=0.01)
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)


def toolbox_trainer(model: nn.Module, attack: Any, mode: str) -> Any:
    """The toolbox's AWP on this network."""
    from art.defences.trainer import AdversarialTrainerAWPPyTorch

    proxy = deepcopy(model)
    return AdversarialTrainerAWPPyTorch(
        classifier(model, sgd(model)),
        classifier(proxy, sgd(proxy, plain=True)),
        attack,
        mode=mode,
        gamma=GAMMA,
        beta=BETA,
        warmup=0,
    )


def classifier(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """A network as the toolbox takes it."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        input_shape=(1, 8, 8),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def toolbox_steps(mode: str) -> dict[str, np.ndarray[Any, Any]]:
    """Weights and running statistics after the toolbox's steps."""
    images, adversarial, labels = pictures(BATCH * STEPS)
    parts = [tensor.split(BATCH) for tensor in (images, adversarial, labels)]
    given = {x.numpy().tobytes(): moved.numpy() for x, moved in zip(*parts[:2], strict=True)}
    model = network()
    trainer = toolbox_trainer(model, _Given(given), mode)
    trainer._apply_wp = True
    for x, _, y in zip(*parts, strict=True):
        trainer._batch_process(x.numpy(), y.numpy())
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def our_steps(mode: str) -> dict[str, np.ndarray[Any, Any]]:
    """The same of ours."""
    model = network()
    optimizer = sgd(model)
    objective = make_objective("at") if mode == "PGD" else _trades()
    perturbation = WeightPerturbation.awp(gamma=GAMMA)
    images, adversarial, labels = pictures(BATCH * STEPS)
    for x, moved, y in zip(*(t.split(BATCH) for t in (images, adversarial, labels)), strict=True):
        _step(model, optimizer, objective, perturbation, x, moved, y)
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def _trades() -> Any:
    return make_objective("trades", beta=BETA, clean_updates=1)


def _step(model, optimizer, objective, perturbation, images, adversarial, labels) -> None:
    def losses():
        return objective.losses(model, images, adversarial, labels)

    found = perturb_weights(model, losses, perturbation)
    with shifted_weights(model, found.offset):
        optimizer.zero_grad()
        losses().objective.mean().backward()
        optimizer.step()


def times(count: int, repetitions: int) -> tuple[float, float]:
    """CPU seconds of an epoch of PGD-10 and AWP on `count` images, ours and theirs; medians."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch

    images, _, labels = pictures(count)
    ours, theirs = network(), network()
    optimizer, objective = sgd(ours), make_objective("at")
    perturbation, draw = WeightPerturbation.awp(gamma=GAMMA), torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"threat": THREAT, "step_size": STEP_SIZE, "num_steps": NUM_STEPS}

    def our_epoch() -> None:
        ours.train()
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            moved = objective.attack(ours, x, y, generator=draw, bn_mode="eval", **options)
            _step(ours, optimizer, objective, perturbation, x, moved, y)

    attack = ProjectedGradientDescentPyTorch(
        classifier(theirs, sgd(theirs)),
        norm=np.inf,
        eps=THREAT.epsilon,
        eps_step=STEP_SIZE,
        max_iter=NUM_STEPS,
        num_random_init=1,
        batch_size=BATCH,
        verbose=False,
    )
    trainer = toolbox_trainer(theirs, attack, "PGD")

    def their_epoch() -> None:
        trainer.fit(images.numpy(), labels.numpy(), batch_size=BATCH, nb_epochs=1)

    our_epoch(), their_epoch()
    pairs = [(_seconds(our_epoch), _seconds(their_epoch)) for _ in range(repetitions)]
    return tuple(float(np.median(side)) for side in zip(*pairs, strict=True))  # type: ignore


def _seconds(call: Any) -> float:
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Compare steps and time; write the toolbox's numbers where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    parser.add_argument("--images", type=int, default=1005)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for mode in ("PGD", "TRADES"):
        theirs, ours = toolbox_steps(mode), our_steps(mode)
        largest = max(float(np.abs(theirs[n] - ours[n]).max()) for n in theirs)
        print(f"{mode}: largest difference after {STEPS} steps {largest:.2e}")
        arrays |= {f"{mode.lower()}/{name}": value for name, value in theirs.items()}
    if arguments.write:
        with atomic_write(arguments.write) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
    ours_s, theirs_s = times(arguments.images, arguments.repetitions)
    print(f"an epoch of {arguments.images} images: ours {ours_s:.2f}, toolbox {theirs_s:.2f} CPU s")


if __name__ == "__main__":
    main()
