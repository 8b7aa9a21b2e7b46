"""Train AT-RWP on scikit-learn's digits in fp32 and in bf16 and draw both (docs/precision.svg).

    python benchmarks/precision_curves.py [--epochs N] [--seeds N]

Prints the final figures. The curves of one precision differ by seed alone; the two precisions
should differ by no more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch
from torch import Tensor

from rwp.core import (
    ThreatModel,
    WeightPerturbation,
    build_network,
    evaluation_mode,
    flush_denormals,
    make_objective,
    perturb_weights,
    pgd,
    precision_context,
    shifted_weights,
)
from rwp.rng import generator_for

ROOT = Path(__file__).resolve().parents[1]
THREAT, STEP_SIZE, NUM_STEPS = ThreatModel("linf", 0.1), 0.04, 5
BATCH_SIZE, LEARNING_RATE = 64, 0.1
RWP = WeightPerturbation.rwp(gamma=0.01, c_min=1.2, num_weight_steps=5)
COLORS = {"fp32": "#3b6fb6", "bf16": "#d1663b"}


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, then those for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=generator_for(0, "split"))
    train, test = order[360:], order[:360]
    return images[train], labels[train], images[test], labels[test]


def train(data: tuple[Tensor, ...], *, precision: str, seed: int, epochs: int) -> list[float]:
    """Robust test accuracy in percent after each epoch, measured in fp32."""
    images, labels, test_images, test_labels = data
    torch.manual_seed(seed)
    model = build_network(
        "preact_resnet",
        num_classes=10,
        in_channels=1,
        mean=(0.3,),
        std=(0.37,),
        blocks=(1, 1),
        width=8,
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4
    )
    curve = []
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (0.1 if epoch >= epochs * 3 // 4 else 1)
        order = torch.randperm(len(labels), generator=generator_for(seed, "order", epoch))
        model.train()
        for number, index in enumerate(order.split(BATCH_SIZE)):
            draw = generator_for(seed, "attack", epoch, number)
            with precision_context(precision, "cpu"):
                step(model, optimizer, images[index], labels[index], draw)
        curve.append(robust_accuracy(model, test_images, test_labels))
    return curve


def step(model, optimizer, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    """One step of AT-RWP."""
    objective = make_objective("at")
    adversarial = objective.attack(
        model,
        images,
        labels,
        threat=THREAT,
        step_size=STEP_SIZE,
        num_steps=NUM_STEPS,
        generator=generator,
        bn_mode="train",
    )

    def losses():
        return objective.losses(model, images, adversarial, labels)

    found = perturb_weights(model, losses, RWP)
    with shifted_weights(model, found.offset):
        outer = losses()
        optimizer.zero_grad()
        outer.objective.mean().backward()
        optimizer.step()


def robust_accuracy(model, images: Tensor, labels: Tensor) -> float:
    """In percent, after PGD-5 from the images themselves."""
    schedule = {"step_size": STEP_SIZE, "num_steps": NUM_STEPS, "random_start": "none"}
    adversarial = pgd(model, images, labels, threat=THREAT, **schedule)
    with torch.no_grad(), evaluation_mode(model):
        return 100 * (model(adversarial).argmax(1) == labels).float().mean().item()


def draw(curves: dict[str, list[list[float]]], path: Path) -> None:
    """One thin line per run, one color per precision."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "precision"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.4), layout="constrained")
    for precision, runs in curves.items():
        for number, run in enumerate(runs):
            label = precision if number == 0 else None
            epochs = range(1, len(run) + 1)
            axes.plot(epochs, run, color=COLORS[precision], lw=1.2, alpha=0.8, label=label)
    axes.set(xlabel="epoch", ylabel="robust test accuracy [%]")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    flush_denormals()
    data = digits()
    curves = {
        precision: [
            train(data, precision=precision, seed=seed, epochs=options.epochs)
            for seed in range(options.seeds)
        ]
        for precision in COLORS
    }
    for precision, runs in curves.items():
        last = [run[-1] for run in runs]
        values = ", ".join(f"{value:.1f}" for value in last)
        print(f"{precision}: mean {statistics.mean(last):.1f} % robust at the end ({values})")
    draw(curves, ROOT / "docs" / "precision.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
