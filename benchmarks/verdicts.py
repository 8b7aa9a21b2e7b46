"""Judge networks that had no part in the limits of the verdicts, honest ones and broken ones.

    python benchmarks/verdicts.py [NAME ...] [--output FILE] [--docs docs/evaluation.md]

Trains small networks on digits, breaks copies of them in known ways, attacks all of them, and
counts the verdicts. `--docs` writes the counts between the marks of that page. Networks that
`--output` holds are not judged again.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "src"))

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from rwp.core.models import build_network
from rwp.core.objectives import make_objective
from rwp.core.settings import WeightPerturbation
from rwp.core.threat import ThreatModel
from rwp.core.weight_perturbation import perturb_weights, shifted_weights
from rwp.data.images import ImageSet
from rwp.evaluation import autoattack as packaged
from rwp.evaluation.attacks import AttackResult
from rwp.evaluation.diagnosis import judge_further
from rwp.evaluation.followup import follow_up
from rwp.evaluation.jobs import record_of, run_attacks
from rwp.evaluation.records import EvaluationRecord
from rwp.evaluation.verdict import LEVELS, Verdict
from rwp.files import read_json, write_json
from rwp.training.spec import AttackSpec, ThreatSpec

Truth = Literal["honest", "weak", "broken"]
EXPECTED: dict[Truth, tuple[str, ...]] = {
    "honest": ("green",),
    "weak": ("weak",),
    "broken": ("amber", "red"),
}
MARKS = ("<!-- verdicts -->", "<!-- /verdicts -->")
_THREAT = ThreatSpec(norm="linf", epsilon="0.12")
_ATTACKS = (
    AttackSpec(name="fgsm", kind="fgsm", threat=_THREAT),
    AttackSpec(name="pgd-20", kind="pgd", threat=_THREAT, num_steps=20, step_size="0.03"),
    AttackSpec(name="autoattack", kind="autoattack", threat=_THREAT, version="standard"),
)
_TRAINING, _TESTED, _EPOCHS, _BATCH = 1200, 252, 12, 100
_SEED = 1  # the demo, at which the limits were set, has seed 0


@dataclass(frozen=True)
class Subject:
    """One network: what is known of it, and how to make it."""

    name: str
    truth: Truth
    build: Callable[[], nn.Module]
    objective: str = "at"


# Honest networks.


@cache
def digits() -> tuple[ImageSet, ImageSet]:
    """Images to train on, and others to judge on."""
    found = load_digits()
    order = torch.randperm(len(found.target), generator=torch.Generator().manual_seed(_SEED))
    pixels = torch.tensor(found.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)[order]
    labels = torch.tensor(found.target)[order]
    parts = (slice(0, _TRAINING), slice(_TRAINING, _TRAINING + _TESTED))
    training, tested = (ImageSet(pixels[part], labels[part], 10) for part in parts)
    return training, tested


def network(kind: str = "dense", width: int = 128) -> nn.Module:
    """An untrained network for digits: two dense layers, or a small convolutional one."""
    if kind == "dense":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )
    return build_network(
        "preact_resnet",
        num_classes=10,
        in_channels=1,
        mean=None,
        std=None,
        blocks=(1,),
        width=8,
    )


def untrained() -> nn.Module:
    """The same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        return network().eval()


@cache
def trained(recipe: str, seed: int = _SEED, kind: str = "dense", width: int = 128) -> nn.Module:
    """A network of one of the nine defenses or `natural`, in eval mode."""
    loss, _, perturbation = recipe.partition("-")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(kind, width)
        generator = torch.Generator().manual_seed(seed)
        images, labels = _training_set(loss, seed)
        _fit(model.train(), images, labels, loss, perturbation, generator)
    return model.eval()


def _training_set(loss: str, seed: int) -> tuple[Tensor, Tensor]:
    """All images; for RST half of them with the labels that a natural network gives them."""
    training = digits()[0]
    images, labels = training.images.float() / 255, training.labels.clone()
    half = len(labels) // 2
    if loss == "half":  # the teacher of RST
        return images[:half], labels[:half]
    if loss == "rst":
        teacher = trained("half", seed)
        with torch.no_grad():
            labels[half:] = teacher(images[half:]).argmax(dim=1)
    return images, labels


def _fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: str,
    perturbation: str,
    generator: torch.Generator,
) -> None:
    options = {} if loss in ("natural", "half", "at") else {"beta": 6.0}
    kind = {"rst": "trades", "half": "natural"}.get(loss, loss)
    objective = make_objective(kind, **options)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for epoch in range(_EPOCHS):
        optimizer.param_groups[0]["lr"] = 0.2 if epoch < 0.65 * _EPOCHS else 0.02
        weights = _perturbation(perturbation, loss) if epoch >= 3 else None
        for rows in torch.randperm(len(labels), generator=generator).split(_BATCH):
            _step(model, objective, images[rows], labels[rows], optimizer, weights, generator)


def _perturbation(name: str, loss: str) -> WeightPerturbation | None:
    gamma = 0.01 if loss == "at" else 0.005
    if name == "awp":
        return WeightPerturbation.awp(gamma=gamma)
    return WeightPerturbation.rwp(gamma=gamma, c_min=1.7, num_weight_steps=5) if name else None


def _step(
    model: nn.Module,
    objective: Any,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    perturbation: WeightPerturbation | None,
    generator: torch.Generator,
) -> None:
    adversarial = objective.attack(
        model,
        images,
        labels,
        threat=ThreatModel(_THREAT.norm, _THREAT.radius),
        step_size=0.04,
        num_steps=5,
        generator=generator,
        bn_mode="eval",
    )

    def losses() -> Any:
        return objective.losses(model, images, adversarial, labels)

    found = perturb_weights(model, losses, perturbation) if perturbation else None
    with shifted_weights(model, found.offset if found else {}):
        losses().objective.mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


# Ways to break one.


class Front(nn.Module):
    """A model that sees another image than the one it is given."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.model(self.change(images))


class Back(nn.Module):
    """A model whose logits are changed."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.change(self.model(images))


class Detached(nn.Module):
    """The network itself is cut off; what gradient there is comes from another one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        with torch.random.fork_rng():
            torch.manual_seed(9)
            self.other = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.model(images.detach()) + 1e-3 * self.other(images.flatten(1))


class BatchStatistics(nn.Module):
    """Batch norm with the statistics of the batch at hand, whatever the mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        if len(images) == 1:
            return self.model(images)  # one image has no spread
        layers = [
            one for one in self.model.modules() if isinstance(one, (nn.BatchNorm1d, nn.BatchNorm2d))
        ]
        kept = [(one.running_mean, one.running_var, one.training) for one in layers]
        for layer in layers:
            layer.running_mean = layer.running_var = None
            layer.training = True
        try:
            return self.model(images)
        finally:
            for layer, (mean, var, mode) in zip(layers, kept, strict=True):
                layer.running_mean, layer.running_var, layer.training = mean, var, mode


class _Exploding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 1e38 * 1e10


def _broken_fronts() -> Mapping[str, Callable[[Tensor], Tensor]]:
    return {
        "quantized input": lambda x: (6 * x).round() / 6,
        "stochastic input": lambda x: x + 0.2 * torch.randn_like(x),
        "shattered gradients": lambda x: x + 0.03 * torch.sin(500 * x),
        "gradients that are not finite": lambda x: x + 0 * (x - x.detach()).sqrt(),
        "exploding gradients": _Exploding.apply,
        "hard threshold": lambda x: (x > 0.5).float() + 0 * x,
    }


def subjects() -> list[Subject]:
    """All networks that are judged."""
    nine = [f"{loss}{kind}" for loss in ("at", "trades", "rst") for kind in ("", "-awp", "-rwp")]
    found = [Subject(name, "honest", _maker(name)) for name in nine]
    found += [
        Subject("at, four times as wide", "honest", _maker("at", width=512)),
        Subject("trades, four times as wide", "honest", _maker("trades", width=512)),
        Subject("at, convolutional", "honest", _maker("at", kind="convolutional")),
        Subject("at, another seed", "honest", _maker("at", seed=2)),
        Subject("at, in 64 bits", "honest", lambda: Wide(trained("at"))),
        Subject("natural", "honest", _maker("natural"), "natural"),
        Subject("natural, claimed to be robust", "honest", _maker("natural")),
        Subject("untrained", "weak", untrained),
    ]
    for base in ("at", "natural"):
        for name, change in _broken_fronts().items():
            found.append(_broken(name, base, lambda model, change=change: Front(model, change)))
        found += [
            _broken("saturated logits", base, lambda model: Back(model, lambda out: 1e4 * out)),
            _broken("detached layers", base, Detached),
            _broken("batch statistics", base, BatchStatistics),
        ]
    found.append(_broken("probabilities", "at", lambda model: Back(model, _softmax)))
    return found


class Wide(nn.Module):
    """The same network with other rounding, as on another processor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).double()

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.model(images.double()).float()


def _softmax(logits: Tensor) -> Tensor:
    return F.softmax(logits, dim=1)


def _maker(recipe: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: trained(recipe, **options)


def _broken(name: str, base: str, change: Callable[[nn.Module], nn.Module]) -> Subject:
    return Subject(f"{base}, {name}", "broken", lambda: change(trained(base)).eval())


# Judging.


@contextmanager
def short_autoattack() -> Iterator[None]:
    """The package's four attacks with fewer steps and queries."""

    class Short(packaged.AutoAttack):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.apgd.n_iter = self.apgd_targeted.n_iter = self.fab.n_iter = 20
            self.square.n_queries = 500

    with mock.patch.object(packaged, "AutoAttack", Short):
        yield


def attacked(model: nn.Module, images: ImageSet, *, seed: int = 0) -> list[EvaluationRecord]:
    """The records of all attacks on one network."""
    results: list[AttackResult] = []
    with short_autoattack():
        run_attacks(
            model,
            images,
            _ATTACKS,
            batch_size=len(images),
            seed=seed,
            device="cpu",
            state=None,
            on_result=results.append,
        )
    identity = {"checkpoint_sha256": "", "data_sha256": ""}
    shared: dict[str, Any] = {"key": None, "checkpoint": "judged", "hashes": identity}
    shared |= {"fingerprint": "", "seed": seed, "batch_size": len(images), "device": "cpu"}
    return [record_of(result, **shared) for result in results]


def judged(subject: Subject, *, seed: int = 0) -> tuple[list[EvaluationRecord], Verdict]:
    """Attack a network and judge it, as the workflow does."""
    images, model = digits()[1], subject.build()
    records = attacked(model, images, seed=seed)
    twin = trained("at", 3)

    def further(attack: AttackSpec) -> Any:
        return follow_up(
            model,
            images,
            attack,
            batch_size=len(images),
            seed=seed,
            device="cpu",
            twin=twin,
        )

    verdict, _ = judge_further(
        records,
        further,
        dataset="digits",
        objective=subject.objective,
        chance=max(images.class_counts()) / len(images),
    )
    return records, verdict


def outcome(subject: Subject, *, seed: int = 0) -> dict[str, Any]:
    """What is known of a network, and what the verdict says."""
    began = time.perf_counter()
    records, verdict = judged(subject, seed=seed)
    left = {record.attack.name: record.num_robust for record in records}
    return {
        "name": subject.name,
        "truth": subject.truth,
        "level": verdict.level,
        "clean": records[0].num_clean_correct,
        "of": records[0].num_examples,
        "robust": left,
        "reasons": [f"{reason.level}: {reason.text}" for reason in verdict.reasons],
        "seconds": round(time.perf_counter() - began, 1),
    }


def as_markdown(found: list[dict[str, Any]]) -> str:
    """The confusion matrix, and every network that was not judged as it is."""
    counts = {(row["truth"], row["level"]): 0 for row in found}
    for row in found:
        counts[row["truth"], row["level"]] += 1
    lines = ["| what it is | " + " | ".join(LEVELS) + " |", "|---" * (1 + len(LEVELS)) + "|"]
    for truth in EXPECTED:
        cells = [str(counts.get((truth, level), 0)) for level in LEVELS]
        lines.append(f"| {truth} | " + " | ".join(cells) + " |")
    lines += ["", "| network | is | verdict | clean | PGD-20 | AutoAttack |", "|---" * 6 + "|"]
    for row in found:
        right = row["level"] in EXPECTED[row["truth"]]
        level = row["level"] if right else f"**{row['level']}**"
        shares = (row["clean"], row["robust"]["pgd-20"], row["robust"]["autoattack"])
        numbers = " | ".join(f"{100 * count / row['of']:.1f}" for count in shares)
        lines.append(f"| {row['name']} | {row['truth']} | {level} | {numbers} |")
    return "\n".join(lines)


def write_docs(page: Path, found: list[dict[str, Any]]) -> None:
    """Put the tables between the marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    text = f"{before}{MARKS[0]}\n{as_markdown(found)}\n{MARKS[1]}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Judge what is named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("results/verdicts.json"))
    parser.add_argument("--docs", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = read_json(chosen.output) if chosen.output.exists() else []
    done = {row["name"] for row in found}
    for subject in subjects():
        if subject.name in done or (chosen.names and subject.name not in chosen.names):
            continue
        found.append(outcome(subject))
        print(found[-1]["name"], found[-1]["level"], f"{found[-1]['seconds']} s", flush=True)
        write_json(chosen.output, found)
    order = [subject.name for subject in subjects()]
    known = [row for row in found if row["name"] in order]
    found = sorted(known, key=lambda row: order.index(row["name"]))
    if chosen.docs:
        write_docs(chosen.docs, found)


if __name__ == "__main__":
    main()
