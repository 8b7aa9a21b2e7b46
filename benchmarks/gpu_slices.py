"""What `gpu.py` measures, one function per slice: a table of numbers each.

Every comparison is with our restatement of the published loop (`reference_loop`), at the published
batch of 128. The published code names no precision, so on a GPU it would run with torch's own
defaults: TF32 in convolutions, 32 bits in matrix products.
"""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import problem, reference_loop
from benchmarks.counting import matmul_rate
from benchmarks.our_loop import OurTraining, our_training
from benchmarks.registry import Setting, measure_pair, seconds_of
from rwp.core import precision_context
from rwp.core.settings import Precision
from rwp.training.flops import forward_flops, wait_for

Numbers = dict[str, Any]

# Weight steps of a training step, which cost three forward passes each.
WEIGHT_STEPS = {"at": 0, "at_awp": 1, "all_perturbed": problem.NUM_WEIGHT_STEPS}
NAMES = {"at": "AT", "at_awp": "AT-AWP", "all_perturbed": "AT-RWP, all ten weight steps"}
# Our precision and compilation; the published loop's: torch's defaults but where bits are compared.
MODES: dict[str, tuple[Precision, str]] = {
    "fp32": ("fp32", "off"),
    "tf32": ("tf32", "off"),
    "bf16": ("bf16", "off"),
    "tf32_graphs": ("tf32", "graphs"),
    "bf16_graphs": ("bf16", "graphs"),
}


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the tiny ones are for rehearsals."""

    batch: int = 128
    train: int = 6400
    test: int = 1280
    batches: tuple[int, ...] = (64, 128, 256, 512, 1024)
    attacked: int = 512
    shorter: int = 10  # AutoAttack's lengths by this factor
    repetitions: int = 5
    workers: int = 2
    tiny: bool = False


TINY = Sizes(4, 8, 4, (2, 4), 8, 50, 1, 0, tiny=True)


@dataclass(frozen=True)
class Bench:
    """Where and how much."""

    device: torch.device
    sizes: Sizes

    def network(self) -> nn.Module:
        """PreAct ResNet-18, or a block of it in a rehearsal."""
        shape = {"blocks": (1,), "width": 8} if self.sizes.tiny else {}
        return problem.network(self.device, **shape)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels on the device."""
        pixels, labels = problem.pictures(size)
        return pixels.to(self.device).float() / 255, labels.to(self.device)

    def ours(self, variant: str, mode: str) -> OurTraining:
        """Our loop."""
        from rwp.training.optimization import compiled

        precision, how = MODES[mode]
        model = self.network()
        return our_training(
            model,
            problem.variants(model)[variant][0],
            precision=precision,
            memory_format=torch.channels_last,
            # a rehearsal would spend its time compiling
            transform=lambda model: compiled(model, "off" if self.sizes.tiny else how),
        )

    @property
    def setting(self) -> Setting:
        """For pairs."""
        return Setting(self.device, self.sizes.repetitions)


@contextmanager
def published_precision(mode: str, device: torch.device) -> Iterator[None]:
    """Equal bits on both sides in fp32; otherwise torch's defaults for whoever names nothing."""
    with precision_context("fp32" if mode == "fp32" else "tf32", device):
        if mode != "fp32":
            torch.backends.cuda.matmul.fp32_precision = "ieee"  # put back by the context
        yield


def step(bench: Bench, variant: str, mode: str) -> Numbers:
    """One training step against the published one."""
    images, labels = bench.batch(bench.sizes.batch)
    ours, reference = bench.ours(variant, mode), _published_step(bench, variant, images, labels)

    def published() -> None:
        with published_precision(mode, bench.device):
            reference()

    def step() -> None:
        ours.step(images, labels)

    seconds = measure_pair(step, published, bench.setting)
    return _pair(seconds, step, published, bench.device) | _share(bench, variant, mode, seconds[0])


def _published_step(
    bench: Bench, variant: str, images: Tensor, labels: Tensor
) -> Callable[[], None]:
    model = bench.network()
    perturbation = problem.variants(model)[variant][1]
    optimizer = _optimizer(model)

    def step() -> None:
        reference_loop.training_step(model, optimizer, perturbation, images, labels)

    return step


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def _pair(
    seconds: tuple[float, float],
    ours: Callable[[], object],
    reference: Callable[[], object],
    device: torch.device,
) -> Numbers:
    return {
        "ours_s": seconds[0],
        "reference_s": seconds[1],
        "ratio": seconds[1] / seconds[0],
        "peak_gib_ours": peak_memory(ours, device),
        "peak_gib_reference": peak_memory(reference, device),
    }


def peak_memory(function: Callable[[], object], device: torch.device) -> float | None:
    """GiB of the GPU that were reserved at most, with the pools of CUDA graphs; none of a CPU.

    A replay of a graph allocates nothing, so what is allocated meanwhile would leave it out.
    """
    if device.type != "cuda":
        function()
        return None
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    function()
    return torch.cuda.max_memory_reserved(device) / 2**30


def _share(bench: Bench, variant: str, mode: str, seconds: float) -> Numbers:
    """What the machine makes of a step, and of its own rate at matrix products."""
    images, _ = bench.batch(2)
    units = 20 + 3 * WEIGHT_STEPS[variant] + 3
    flops = units * forward_flops(bench.network(), images) * bench.sizes.batch
    return {
        "batch": bench.sizes.batch,
        "tflops": flops / seconds / 1e12,
        "share_of_matmul_rate": flops / seconds / _matmul_rate(bench, MODES[mode][0]),
    }


def _matmul_rate(bench: Bench, precision: Precision) -> float:
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    with precision_context(precision, bench.device):
        return matmul_rate(bench.device, kind, size=64 if bench.sizes.tiny else None)


def epoch(bench: Bench, variant: str, mode: str) -> Numbers:
    """A whole epoch with its measurements: the published one attacks its training set as well."""
    sizes, device = bench.sizes, bench.device
    train, test = problem.pictures(sizes.train), problem.pictures(sizes.test)
    ours = bench.ours(variant, mode)
    on_device = [tuple(part.to(device) for part in split) for split in (train, test)]
    model = bench.network()
    perturbation, optimizer = problem.variants(model)[variant][1], _optimizer(model)
    loaders = [
        DataLoader(
            reference_loop.SlowImages(*split, augment=augment),
            batch_size=sizes.batch,
            shuffle=augment,
            num_workers=sizes.workers,
            pin_memory=device.type == "cuda",
        )
        for split, augment in ((train, True), (test, False))
    ]

    def published() -> None:
        with published_precision(mode, device):
            reference_loop.epoch(model, optimizer, perturbation, *loaders, device)

    def epoch() -> None:
        ours.epoch(*on_device, sizes.batch)

    epoch()  # compiles
    seconds = measure_pair(epoch, published, Setting(device, 1), warm_up=False)
    return _pair(seconds, epoch, published, device) | {"images": sizes.train, "tested": sizes.test}


def profile(bench: Bench, variant: str, mode: str) -> Numbers:
    """One step: the share of its time in which the device is busy, and with what."""
    from torch.profiler import ProfilerActivity, profile as watch

    ours, (images, labels) = bench.ours(variant, mode), bench.batch(bench.sizes.batch)
    for _ in range(3):
        ours.step(images, labels)
    wall = statistics.median(
        seconds_of(lambda: ours.step(images, labels), bench.device) for _ in range(3)
    )
    cuda = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with watch(activities=activities) as profiled:
        ours.step(images, labels)
        wait_for(bench.device)
    wanted = torch.profiler.DeviceType.CUDA if cuda else torch.profiler.DeviceType.CPU
    events = [
        event
        for event in profiled.events()
        if event.device_type == wanted and not (cuda and event.is_user_annotation)
    ]
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    names: dict[str, float] = {}
    for event in events:
        own = event.time_range.elapsed_us() if cuda else event.self_cpu_time_total
        names[event.name] = names.get(event.name, 0.0) + own
    total = sum(names.values()) or 1.0
    longest = sorted(names.items(), key=lambda item: -item[1])[:12]
    return {
        "step_s": wall,
        "busy_share": min(1.0, covered(spans) / 1e6 / wall),
        "launches": len(events),
        "longest": {name[:80]: round(spent / total, 4) for name, spent in longest},
        **_share(bench, variant, mode, wall),
    }


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    length, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return length


def scaling(bench: Bench, mode: str) -> Numbers:
    """Images a second of AT-RWP's step, all weight steps, over the size of the batch."""
    found: Numbers = {}
    ours = bench.ours("all_perturbed", mode)
    for size in bench.sizes.batches:
        images, labels = bench.batch(size)
        ours.step(images, labels)
        repeats = [
            seconds_of(lambda: ours.step(images, labels), bench.device)  # noqa: B023
            for _ in range(bench.sizes.repetitions)
        ]
        memory = peak_memory(lambda: ours.step(images, labels), bench.device)  # noqa: B023
        seconds = statistics.median(repeats)
        found[str(size)] = {"images_per_second": size / seconds, "peak_gib": memory}
    return found


def rates(bench: Bench, name: str) -> Numbers:
    """Seconds of the passes of a network over one image, as `rwp plan` adds them up."""
    from benchmarks.scale_rates import NETWORKS, network, pass_seconds, pictures

    batch = bench.sizes.batch
    images = pictures(name, batch).to(bench.device).float() / 255
    labels = torch.arange(batch, device=bench.device) % 10
    if bench.device.type == "cuda":
        images = images.contiguous(memory_format=torch.channels_last)
    with precision_context("fp32", bench.device):
        forward, backward, attack = pass_seconds(
            network(name, bench.device), images, labels, seconds=0 if bench.sizes.tiny else 10
        )
    channels, side = NETWORKS[name][2]
    return {
        "network": name,
        "image_size": f"{side}x{side}x{channels}",
        "batch": batch,
        "forward_seconds": forward,
        "backward_seconds": backward,
        "attack_backward_seconds": attack,
    }


def autoattack(bench: Bench, survivors: str) -> Numbers:
    """AutoAttack against the package's own loop: seconds, and flags that differ.

    `survivors`: "all" (a radius in which no image is lost) or "some".
    """
    from benchmarks import bench_autoattack
    from rwp.data.images import ImageSet

    model = bench.network().eval()
    pixels, _ = problem.pictures(bench.sizes.attacked)
    with torch.no_grad():
        images = pixels.to(bench.device).float() / 255
        labels = torch.cat([model(part).argmax(dim=1) for part in images.split(256)]).cpu()
    chosen = ImageSet(pixels, labels, 10)
    epsilon = 1e-6 if survivors == "all" else _radius_of_half(model, images, labels, bench.device)
    with precision_context("fp32", bench.device):
        found = bench_autoattack.compare(
            model,
            chosen,
            bench.device,
            epsilon=epsilon,
            shorter=bench.sizes.shorter,
        )
    return found | {"epsilon": epsilon, "lengths": f"1/{bench.sizes.shorter} of the usual"}


def _radius_of_half(
    model: nn.Module, images: Tensor, labels: Tensor, device: torch.device
) -> float:
    """A radius that about half of some images survive."""
    from rwp.core import ThreatModel, pgd

    some, right = images[:128], labels[:128].to(device)
    shares: dict[float, float] = {}
    for exponent in range(-16, -5):
        radius = 2.0**exponent
        found = pgd(
            model,
            some,
            right,
            threat=ThreatModel("linf", radius),
            step_size=radius / 4,
            num_steps=10,
            random_start="none",
        )
        with torch.no_grad():
            shares[radius] = float((model(found).argmax(dim=1) == right).float().mean())
        if shares[radius] < 0.2:
            break
    return min(shares, key=lambda radius: abs(shares[radius] - 0.5))
