"""Seconds per image of one forward pass, one backward pass and AutoAttack, per network.

    python benchmarks/scale_rates.py [NETWORK ...] [--threads N] [--device cpu|cuda] [--output FILE]

A training step, an epoch and a whole suite are sums of these passes; docs/scaling.md has the sum.
The shortest of several repetitions counts, and on one CPU thread the process's own time: what
other programs take meanwhile does not count.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.run import describe
from rwp.core import build_network, flush_denormals
from rwp.data.images import ImageSet
from rwp.training.spec import AttackSpec, ThreatSpec

ROOT = Path(__file__).resolve().parents[1]
RATES = ROOT / "src" / "rwp" / "reporting" / "rates.csv"
# Name: (family, shape, images as (channels, side), batch on a CPU).
NETWORKS = {
    "small": ("preact_resnet", {"blocks": (1, 1), "width": 8}, (1, 8), 64),
    "preact-resnet-18": ("preact_resnet", {}, (3, 32), 16),
    "wrn-28-10": ("wide_resnet", {"depth": 28, "widen_factor": 10}, (3, 32), 8),
    "wrn-34-10": ("wide_resnet", {"depth": 34, "widen_factor": 10}, (3, 32), 8),
}
STAND_IN = "stand-in"  # passes do not depend on the network, so a small one counts them
NETWORKS_AND_STAND_IN = {
    **NETWORKS,
    STAND_IN: ("preact_resnet", {"blocks": (1, 1), "width": 8}, (3, 32), 8),
}
FIELDS = (
    "device",
    "network",
    "image_size",
    "forward_seconds",
    "backward_seconds",  # to the weights: a pair of passes less the forward pass
    "autoattack_seconds",  # of an image that survives all four attacks
    "command",
    "attack_backward_seconds",  # to the images alone, as attacks need it
)
COUNTED = 16  # images that the passes are counted on
TINY = "1/1000000"  # a radius in which no image is lost, so that all run the whole length


def network(name: str, device: torch.device) -> nn.Module:
    """An untrained network; speed does not depend on the weights."""
    family, shape, (channels, _), _ = NETWORKS_AND_STAND_IN[name]
    torch.manual_seed(0)
    model = build_network(
        family, num_classes=10, in_channels=channels, mean=None, std=None, **shape
    )
    if device.type == "cuda":
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)


def pictures(name: str, count: int) -> Tensor:
    """Random uint8 pictures of the network's size."""
    channels, side = NETWORKS_AND_STAND_IN[name][2]
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=draw, dtype=torch.uint8)


def pass_seconds(
    model: nn.Module, images: Tensor, labels: Tensor, *, seconds: float
) -> tuple[float, float, float]:
    """Per image: forward; backward to the weights; backward to the images alone."""
    weights = list(model.parameters())

    def loss() -> Tensor:
        return F.cross_entropy(model(images), labels)

    def to_weights() -> None:
        torch.autograd.grad(loss(), weights)

    def to_images() -> None:
        images.requires_grad_(True)
        torch.autograd.grad(loss(), images)
        images.requires_grad_(False)

    model.train()
    best = _shortest([loss, to_weights, to_images], images.device, seconds)
    forward, full, attack = (value / len(images) for value in best)
    return forward, full - forward, attack - forward


def _shortest(
    functions: list[Callable[[], object]], device: torch.device, seconds: float
) -> list[float]:
    clock = _clock(device)
    best, begun = [float("inf")] * len(functions), clock()
    rounds = 0
    while rounds < 4 or clock() - begun < seconds:
        for index, function in enumerate(functions):
            _wait(device)
            start = clock()
            function()
            _wait(device)
            best[index] = min(best[index], clock() - start)
        rounds += 1
    return best


def _clock(device: torch.device) -> Callable[[], float]:
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PassCounter(nn.Module):
    """A model that counts the images it is asked about, by kind of pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_images = self.backward_images = 0

    def forward(self, images: Tensor) -> Tensor:
        """The model's logits."""
        self.forward_images += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            # APGD takes one gradient per forward pass, FAB one per class: each call counts.
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward_images += len(gradient)


def autoattack_passes(name: str, count: int, device: torch.device) -> tuple[float, float, float]:
    """Forward and backward passes, and seconds, per image that survives AutoAttack."""
    from rwp.evaluation.autoattack import autoattack

    model = PassCounter(network(name, device)).eval()
    images = pictures(name, count)
    with torch.no_grad():
        labels = model(images.to(device).float() / 255).argmax(dim=1).cpu()
    attack = AttackSpec(
        name="autoattack",
        kind="autoattack",
        threat=ThreatSpec(norm="linf", epsilon=TINY),
        version="standard",
    )
    model.forward_images = 0
    clock = _clock(device)
    start = clock()
    result = autoattack(
        model, ImageSet(images, labels, 10), attack, batch_size=count, seed=0, device=device
    )
    elapsed = clock() - start
    if not result.robust.all():
        raise SystemExit(f"{name}: expected all images to survive radius {TINY}, got fewer")
    return model.forward_images / count, model.backward_images / count, elapsed / count


def autoattack_seconds(
    name: str, options: argparse.Namespace, forward: float, attack_backward: float
) -> tuple[float, str]:
    """Per image that survives, and how it was found: by running it, or as a sum of passes."""
    device, measured = torch.device(options.device), name in options.autoattack
    count = options.autoattack_images if measured else COUNTED
    counted = name if measured else STAND_IN
    forwards, backwards, seconds = autoattack_passes(counted, count, device)
    law = forwards * forward + backwards * attack_backward
    print(
        f"{counted}: AutoAttack {forwards:.0f} forward, {backwards:.0f} backward passes,"
        f" {seconds:.4g} s"
    )
    print(f"{name}: AutoAttack {law:.4g} s by its passes", end="", flush=True)
    print(f", {seconds:.4g} s measured" if measured else "", flush=True)
    if measured:
        return seconds, f"AutoAttack on {count} images"
    return law, f"AutoAttack: {forwards:.0f} forward and {backwards:.0f} attack backward passes"


def measure(name: str, options: argparse.Namespace) -> dict[str, str]:
    """One line of the file."""
    device = torch.device(options.device)
    batch = options.batch or NETWORKS[name][3]
    images = pictures(name, batch).to(device).float() / 255
    labels = torch.arange(batch, device=device) % 10
    numbers = pass_seconds(network(name, device), images, labels, seconds=options.seconds)
    print(name, *(f"{1000 * value:.4g} ms" for value in numbers), f"batch {batch}", flush=True)
    forward, backward, attack_backward = numbers
    survivor, how = autoattack_seconds(name, options, forward, attack_backward)
    channels, side = NETWORKS[name][2]
    command = f"benchmarks/scale_rates.py {name} --device {device} --threads {options.threads}"
    values = (
        machine(device),
        name,
        f"{side}x{side}x{channels}",
        f"{forward:.4g}",
        f"{backward:.4g}",
        f"{survivor:.4g}",
        f"{command} (batch {batch}; {how})",
        f"{attack_backward:.4g}",
    )
    return dict(zip(FIELDS, values, strict=True))


def machine(device: torch.device) -> str:
    """What the rates are of."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    processor = describe(device).split(",")[0]
    return f"{processor}, {threads} thread{'s' if threads > 1 else ''}"


def merged(path: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The file's rows with these in place of those on the same device and network."""
    fresh = {(row["device"], row["network"]) for row in rows}
    old: list[dict[str, str]] = []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            old = list(csv.DictReader(file))
    return [row for row in old if (row["device"], row["network"]) not in fresh] + rows


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seconds", type=float, default=20, help="at least, per network")
    parser.add_argument("--autoattack", nargs="*", default=["small"], metavar="NETWORK")
    parser.add_argument("--autoattack-images", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RATES)
    options = parser.parse_args()
    unknown = sorted({*options.names, *options.autoattack} - NETWORKS.keys())
    if unknown:
        parser.error(f"{unknown[0]}: expected one of {', '.join(NETWORKS)}")
    torch.set_num_threads(options.threads)
    flush_denormals()
    rows = [measure(name, options) for name in options.names or NETWORKS]
    content = merged(options.output, rows)
    with options.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
