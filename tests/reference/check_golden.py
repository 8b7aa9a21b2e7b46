"""Compare rwp.core with what the authors' AWP and RWP programs computed.

    python tests/reference/check_golden.py FILE [--dtype float64|float32] [--tolerance T]

FILE is an archive laid out like weight_perturbation.npz (README.md beside it); batch size,
number of steps, seed and layer sizes may differ. Prints the worst relative deviation per case
and the array it is found in. Exits 1 where one is over the tolerance, 2 where FILE cannot be
checked.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from rwp.core import WeightPerturbation, make_objective, perturb_weights, shifted_weights

Archive = Mapping[str, np.ndarray]

TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
CASES = (
    "at",
    "at_awp",
    "at_rwp_partial",
    "at_rwp_all",
    "at_rwp_none",
    "trades",
    "trades_awp",
)
# The published settings the archives were made with.
GAMMA = {"at": 0.01, "trades": 0.005}
BETA, NUM_WEIGHT_STEPS = 6.0, 10
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


@dataclass(frozen=True)
class Deviation:
    """The worst relative deviation of a case: the largest difference over the largest value."""

    value: float
    array: str


def build_model(archive: Archive, dtype: torch.dtype) -> nn.Sequential:
    """The small network of the archive, with its initial weights, in train mode."""
    first, second, last = (archive[f"init/{n}.weight"].shape for n in ("conv1", "conv2", "fc"))
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(first[1], first[0], 3, padding=1, bias=False))
    model.add_module("bn1", nn.BatchNorm2d(first[0]))
    model.add_module("relu1", nn.ReLU())
    model.add_module("conv2", nn.Conv2d(second[1], second[0], 3, 2, padding=1, bias=False))
    model.add_module("bn2", nn.BatchNorm2d(second[0]))
    model.add_module("relu2", nn.ReLU())
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(last[1], last[0]))
    state = {
        key.removeprefix("init/"): torch.from_numpy(np.array(archive[key]))
        for key in archive
        if key.startswith("init/")
    }
    model.to(dtype).load_state_dict(state)
    return model.train()


def perturbation_of(case: str, archive: Archive) -> WeightPerturbation:
    """The weight perturbation of a case."""
    family, _, variant = case.partition("_")
    if not variant:
        return WeightPerturbation.none()
    if variant == "awp":
        return WeightPerturbation.awp(gamma=GAMMA[family])
    thresholds = {"rwp_all": 1e9, "rwp_none": 0.0}
    if variant == "rwp_partial":
        thresholds["rwp_partial"] = float(archive["c_min_partial"])
    return WeightPerturbation.rwp(
        gamma=GAMMA[family], c_min=thresholds[variant], num_weight_steps=NUM_WEIGHT_STEPS
    )


def replay(archive: Archive, case: str, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Train the small network as the case says; arrays under the archive's keys."""
    model = build_model(archive, dtype)
    trades = case.startswith("trades")
    objective = make_objective("trades", beta=BETA) if trades else make_objective("at")
    perturbation = perturbation_of(case, archive)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    found: dict[str, np.ndarray] = {}
    for step in range(len(archive["y"])):
        clean, adversarial, labels = (
            torch.from_numpy(archive[name][step]) for name in ("x_clean", "x_adv", "y")
        )
        batch = (model, clean.to(dtype), adversarial.to(dtype), labels)
        result = perturb_weights(model, lambda batch=batch: objective.losses(*batch), perturbation)
        if step == 0:
            found |= {f"{case}/v/{name}": v.numpy() for name, v in result.offset.items()}
        with shifted_weights(model, result.offset):
            loss = objective.losses(*batch).objective.mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[f"{case}/loss/{step}"] = loss.detach().numpy()
    return found | {f"{case}/final/{key}": v.numpy() for key, v in model.state_dict().items()}


def deviation(expected: np.ndarray, found: np.ndarray | None) -> float:
    """Largest difference over the largest expected value; infinity where there is no comparing.

    An expected zero array must be matched exactly; an absent array stands for zeros, as an
    empty offset does.
    """
    found = np.zeros_like(expected) if found is None else found
    if expected.shape != found.shape or not np.isfinite(found).all():
        return math.inf
    difference = float(np.abs(expected - found).max(initial=0.0))
    scale = float(np.abs(expected).max(initial=0.0))
    return 0.0 if difference == 0 else difference / scale if scale else math.inf


def check_case(archive: Archive, case: str, dtype: torch.dtype) -> Deviation:
    """The worst deviation over all arrays of a case."""
    found = replay(archive, case, dtype)
    expected = {key: archive[key] for key in archive if key.startswith(f"{case}/")}
    surplus = sorted(found.keys() - expected.keys())
    if surplus:
        return Deviation(math.inf, f"{surplus[0]} (not in the archive)")
    required = {key for key in expected if "/v/" not in key}
    missing = sorted(required - found.keys())
    if missing:
        return Deviation(math.inf, f"{missing[0]} (not computed)")
    worst = max(expected, key=lambda key: deviation(expected[key], found.get(key)))
    return Deviation(deviation(expected[worst], found.get(worst)), worst)


def read_archive(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the archive.

    Raises:
        ValueError: not such an archive.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            archive = {key: stored[key] for key in stored.files}
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: expected a .npz archive, got {error}; pass one") from error
    needed = ["x_clean", "x_adv", "y", "init/conv1.weight", "init/fc.weight"]
    missing = [key for key in needed if key not in archive]
    cases = [case for case in CASES if f"{case}/loss/0" in archive]
    if missing or not cases:
        lacking = ", ".join(missing) or "every case"
        raise ValueError(f"{path}: expected golden arrays, got none of {lacking}; see README.md")
    return archive


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--dtype", choices=sorted(TOLERANCES), default="float64")
    parser.add_argument("--tolerance", type=float, help="default: 1e-9 in float64, 1e-4 in float32")
    options = parser.parse_args(arguments)
    tolerance = TOLERANCES[options.dtype] if options.tolerance is None else options.tolerance
    try:
        archive = read_archive(options.file)
        cases = [case for case in CASES if f"{case}/loss/0" in archive]
        worst = {c: check_case(archive, c, getattr(torch, options.dtype)) for c in cases}
    except (ValueError, KeyError, RuntimeError) as error:
        print(f"check_golden: {error}", file=sys.stderr)
        return 2
    for case, found in worst.items():
        verdict = "ok" if found.value <= tolerance else "OVER"
        print(f"{case:16} {found.value:9.2e}  {verdict:4}  {found.array}")
    return 0 if all(found.value <= tolerance for found in worst.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
