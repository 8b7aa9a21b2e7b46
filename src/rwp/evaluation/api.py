"""Attacks on a model in memory: one call, and records as a table would have them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.adapted import AdaptedModel, left_as_it_was, require_module
from rwp.evaluation.attacks import AttackResult
from rwp.evaluation.jobs import record_of, run_attacks
from rwp.evaluation.models import (
    FloatImages,
    batch_of,
    borrowed,
    checked_logits,
    function_sha256,
    weights_sha256,
)
from rwp.evaluation.records import EvaluationRecord
from rwp.evaluation.spec import check_attack
from rwp.evaluation.statistics import Interval, interval
from rwp.evaluation.verdict import Verdict, judge
from rwp.training.spec import AttackSpec, ThreatSpec

_STEPS_PER_RADIUS = 4  # 2/255 at 8/255, as most papers have it
_NAMED = re.compile(r"(pgd|cw)-([1-9][0-9]*)")
_FIXED = {
    "natural": {"kind": "natural"},
    "fgsm": {"kind": "fgsm"},
    "autoattack": {"kind": "autoattack", "version": "standard"},
    "autoattack-few-classes": {"kind": "autoattack", "version": "few-classes"},
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What several attacks under one threat model did to one model.

    Attributes:
        records: by attack; counts, outcomes per image, warnings.
        adversarial: by attack, if asked for: (n, channels, height, width) on the CPU, the clean
            image where AutoAttack found none.
        chance: share of the most frequent class among the images.
    """

    records: Mapping[str, EvaluationRecord]
    adversarial: Mapping[str, Tensor] = field(default_factory=dict)
    chance: float = field(kw_only=True)

    def accuracy(self, attack: str) -> Interval:
        """Share of images right before and after the attack, with its 95 % interval (Wilson)."""
        record = self.records[attack]
        return interval(record.num_robust, record.num_examples)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the model or an attack on it, each once."""
        found = (text for record in self.records.values() for text in record.warnings)
        return tuple(dict.fromkeys(found))

    @property
    def verdict(self) -> Verdict:
        """Whether the records contradict each other: signs of masked gradients."""
        records = list(self.records.values())
        return judge(records, dataset="unknown", objective="unknown", chance=self.chance)

    def __str__(self) -> str:
        lines = []
        for name in self.records:
            found = (100 * value for value in vars(self.accuracy(name)).values())
            lines.append("{:>24}  {:6.2f} %  [{:.2f}, {:.2f}]".format(name, *found))
        return "\n".join([*lines, *(f"warning: {text}" for text in self.warnings)])


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatModel | ThreatSpec | tuple[str, str | float],
    attacks: Sequence[str | AttackSpec] = ("natural", "pgd-20"),
    batch_size: int = 128,
    seed: int = 0,
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    keep_adversarial: bool = False,
) -> Evaluation:
    """Attack a model and say how sure the numbers are. The model is left as it was.

    Args:
        model: images in [0, 1] to logits; of 16, 32 or 64 bits. A tuple or table that it returns
            is searched for its logits. It runs in eval mode.
        images: (n, 1 or 3, height, width), floats in [0, 1] or bytes 0..255.
        labels: (n,) class numbers of any integer type.
        threat: norm ("linf" or "l2") and radius on [0, 1] pixels, e.g. ("linf", "8/255").
        attacks: "natural", "fgsm", "pgd-N" and "cw-N" with N steps of a quarter of the radius
            from a uniform start, "autoattack", for two or three classes
            "autoattack-few-classes"; or an `AttackSpec`, which has its own threat model.
        batch_size: images per batch; random starts are drawn batch by batch.
        seed: of all starts; the same seed gives the same numbers on the same machine.
        num_classes: of the task; the model's number of logits unless given.
        device: where to run; where the model is unless given.
        keep_adversarial: return the adversarial images too.

    Raises:
        UserError: images, labels, attacks or outputs that cannot be used; the message says what
            to do.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("seed", seed, 0)):
        _require_whole(name, value, least)
    if num_classes is not None:
        _require_whole("num_classes", num_classes, 2)
    require_module(model)
    place = _checked_device(device) if device is not None else _place(model)
    chosen = _chosen(attacks, threat)
    labels = class_numbers(labels)
    found: list[AttackResult] = []
    with left_as_it_was(model), torch.inference_mode(mode=False):
        data = _image_set(images, labels, num_classes)
        adapted = AdaptedModel(model, num_classes=data.num_classes)
        if device is not None:
            model.to(place)
        width = _try_one_image(adapted, data, place)
        if num_classes is not None and width < num_classes:
            raise UserError(
                f"model: expected logits of {num_classes} classes, got {width}; choose the "
                "images it was trained for, or correct num_classes"
            )
        if num_classes is None:
            data = _image_set(images, labels, width)
        run_attacks(
            adapted,
            data,
            chosen,
            batch_size=batch_size,
            seed=seed,
            device=place,
            state=None,
            on_result=found.append,
            keep_adversarial=keep_adversarial,
        )
        hashes: dict[str, Any] = {
            "checkpoint_sha256": weights_sha256(model),
            "function_sha256": function_sha256(adapted, data, device=place),
            "data_sha256": _data_sha256(data),
        }
    order = [attack.name for attack in chosen]
    records = {
        result.attack.name: record_of(
            result,
            fingerprint="external",
            key=None,
            checkpoint=type(model).__name__,
            hashes=hashes,
            seed=seed,
            batch_size=batch_size,
            device=place,
        )
        for result in sorted(found, key=lambda result: order.index(result.attack.name))
    }
    kept = {r.attack.name: r.adversarial for r in found if r.adversarial is not None}
    return Evaluation(records, kept, chance=max(data.class_counts()) / len(data))


def evaluate_radii(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: str,
    epsilons: Sequence[str | float],
    **options: Any,
) -> dict[str, Evaluation]:
    """`evaluate` at several radii of one norm; the evaluations by radius as it was written.

    Raises:
        UserError: as `evaluate`, or no radius.
    """
    if not epsilons:
        raise UserError("epsilons: expected one radius or more, got none; e.g. ['4/255', '8/255']")
    return {
        str(epsilon): evaluate(model, images, labels, threat=(norm, epsilon), **options)
        for epsilon in epsilons
    }


def class_numbers(labels: Tensor) -> Tensor:
    """Labels (n,) of any integer type as 64-bit class numbers.

    Raises:
        UserError: another shape or type.
    """
    labels = _tensor("labels", labels)
    advice = "cast them"
    if labels.ndim == 2:
        column = labels.shape[1] == 1  # whose argmax would be class 0 throughout
        advice = "flatten them" if column else "pass labels.argmax(dim=1) of one-hot ones"
    kind = labels.dtype
    if labels.ndim != 1 or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise UserError(
            f"labels: expected class numbers (n,) of an integer type, got {kind} "
            f"{tuple(labels.shape)}; {advice}"
        )
    return labels.detach().cpu().long()


def _tensor(name: str, given: Any) -> Tensor:
    try:
        return torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: expected a tensor or an array, got {type(given).__name__}; pass a tensor"
        ) from error


def _chosen(attacks: Sequence[str | AttackSpec], threat: Any) -> list[AttackSpec]:
    """Attacks as they were asked for, each once."""
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        raise UserError(
            f"attacks: expected a list of names, got {attacks!r}; e.g. ['natural', 'pgd-20']"
        )
    chosen = [check_attack(_attack(item, threat)) for item in attacks]
    names = [attack.name for attack in chosen]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"attacks: expected one or more, each once, got {', '.join(names) or 'none'}; fix them"
        )
    return chosen


def _require_whole(name: str, value: Any, least: int) -> None:
    if type(value) is not int or value < least:
        raise UserError(f"{name}: expected a whole number from {least}, got {value!r}; correct it")


def _place(model: nn.Module) -> torch.device:
    tensors = (*model.parameters(), *model.buffers())
    return next((value.device for value in tensors), torch.device("cpu"))


def _checked_device(given: torch.device | str) -> torch.device:
    """The device, if something can be computed there."""
    try:
        place = torch.device(given)
        torch.zeros(1, device=place).item()
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise UserError(
            f"device: expected one of this machine ({', '.join(['cpu', *cuda])}), got {given!r}; "
            "name another or leave it out"
        ) from error
    return place


def _attack(item: str | AttackSpec, threat: Any) -> AttackSpec:
    if isinstance(item, AttackSpec):
        if item.bn_mode != "eval":
            raise UserError(
                f"{item.name}: expected bn_mode eval, as in every evaluation, got {item.bn_mode}; "
                "leave it out"
            )
        return item
    spec = _threat(threat)
    if not isinstance(item, str):
        raise UserError(f"attacks: expected names or AttackSpecs, got {item!r}; e.g. 'pgd-20'")
    if item in _FIXED:
        return AttackSpec(name=item, threat=spec, **_FIXED[item])  # type: ignore[arg-type]
    match = _NAMED.fullmatch(item)
    if match is None:
        raise UserError(
            f"attacks: expected {', '.join(_FIXED)}, pgd-N or cw-N with N steps, got {item!r}; "
            "fix its name or pass an AttackSpec"
        )
    kind = match[1]
    return AttackSpec(
        name=item,
        kind=kind,
        threat=spec,
        num_steps=int(match[2]),
        step_size=repr(spec.radius / _STEPS_PER_RADIUS),
        kappa=0.0 if kind == "cw" else None,
    )


def _threat(given: Any) -> ThreatSpec:
    if isinstance(given, ThreatSpec):
        return given
    if isinstance(given, ThreatModel):
        given = (given.norm, given.epsilon)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UserError(f"threat: expected (norm, radius), got {given!r}; e.g. ('linf', '8/255')")
    norm, epsilon = given
    if isinstance(epsilon, bool):
        raise UserError(f"threat: expected a radius such as '8/255', got {epsilon}; write a number")
    text = epsilon if isinstance(epsilon, str) else f"{float(epsilon):.17g}"
    return ThreatSpec.parse({"norm": norm, "epsilon": text}, where=f"threat {given!r}")


def _try_one_image(model: nn.Module, data: ImageSet, device: torch.device) -> int:
    """The number of logits."""
    batch, labels = batch_of(data, 0, 1, device)
    with borrowed(model, device):
        return checked_logits(model, batch, labels * 0).shape[1]


def _image_set(images: Tensor, labels: Tensor, num_classes: int | None) -> ImageSet:
    count = num_classes or max(2, int(labels.max()) + 1 if len(labels) else 2)
    images, labels = _tensor("images", images).detach().cpu(), labels.clone()
    whole = not (images.is_floating_point() or images.is_complex() or images.dtype == torch.bool)
    if whole and images.numel() and int(images.max()) <= 1:
        raise UserError(
            f"images: expected bytes up to 255, got none above {int(images.max())}; "
            "pass images.float() where 0 and 1 are black and white"
        )
    if images.dtype == torch.uint8:
        return ImageSet(images.clone(), labels, count)
    return FloatImages(images.float().clone(), labels, count)


def _data_sha256(data: ImageSet) -> str:
    digest = hashlib.sha256()
    for tensor in (data.images, data.labels):
        array: np.ndarray = tensor.contiguous().numpy()
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
