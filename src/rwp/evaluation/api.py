"""Attacks on a model in memory: one call, and records as a table would have them."""

from __future__ import annotations

import hashlib
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from rwp.core.attacks import class_indices
from rwp.core.threat import AnyNorm, ThreatModel
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.adapted import AdaptedModel, left_as_it_was, require_module
from rwp.evaluation.attacks import AttackResult
from rwp.evaluation.clean import batch_of, borrowed, checked_logits
from rwp.evaluation.float_images import FloatImages, check_range
from rwp.evaluation.identity import function_sha256, weights_sha256
from rwp.evaluation.jobs import record_of, run_attacks
from rwp.evaluation.records import EvaluationRecord
from rwp.evaluation.spec import check_attack
from rwp.evaluation.statistics import Interval, interval
from rwp.evaluation.verdict import Verdict, judge
from rwp.spec import LARGEST_SEED, SettingsError, refuse_equal_radii
from rwp.training.spec import AttackSpec, ThreatSpec

_ROUNDING = 1e-6  # of a pixel in [0, 1] after some arithmetic in 32 bits
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
        """Share of images right before and after the attack, with its 95 % interval (Wilson).

        Raises:
            UserError: no such attack was asked for.
        """
        if attack not in self.records:
            known = ", ".join(self.records)
            raise UserError(f"attack: expected one of {known}, got {attack!r}; add it to attacks")
        record = self.records[attack]
        return interval(record.num_robust, record.num_examples)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is odd about the model or an attack on it, each once."""
        found = (text for record in self.records.values() for text in record.warnings)
        return tuple(dict.fromkeys(found))

    @property
    def verdict(self) -> Verdict:
        """Whether the records contradict each other: signs of masked gradients.

        Raises:
            UserError: no attack was run.
        """
        records = list(self.records.values())
        if {record.attack.kind for record in records} == {"natural"}:
            raise UserError(
                "verdict: expected an attack, got natural alone; ask for pgd-20 and autoattack, too"
            )
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
    batch_size = _whole("batch_size", batch_size, 1)
    seed = _whole("seed", seed, 0)
    num_classes = None if num_classes is None else _whole("num_classes", num_classes, 2)
    require_module(model)
    place = _checked_device(device) if device is not None else _place(model)
    chosen = _chosen(attacks, threat)
    found: list[AttackResult] = []
    with left_as_it_was(model), torch.inference_mode(mode=False):
        images, labels = _pixels(images), _class_numbers(labels)
        if device is not None:
            model.to(place)
        adapted, data = _fitting(model, images, labels, num_classes, place)
        hashes: dict[str, Any] = {
            "checkpoint_sha256": weights_sha256(model),
            "function_sha256": function_sha256(adapted, data, device=place),
            "data_sha256": _data_sha256(data),
        }
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
    if adapted.guess:
        found = [replace(one, warnings=(*one.warnings, adapted.guess)) for one in found]
    order = [attack.name for attack in chosen]
    found.sort(key=lambda result: order.index(result.attack.name))
    made: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "device": place}
    made |= {"fingerprint": "external", "key": None, "checkpoint": type(model).__name__}
    records = {one.attack.name: record_of(one, hashes=hashes, **made) for one in found}
    kept = {one.attack.name: one.adversarial for one in found if one.adversarial is not None}
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
    one = isinstance(epsilons, str) or getattr(epsilons, "ndim", 1) == 0
    if one or not isinstance(epsilons, Iterable):
        raise UserError(f"epsilons: expected a list, got {epsilons!r}; e.g. ['4/255', '8/255']")
    radii = list(epsilons)
    # As they were written; numpy's and torch's numbers are cut when they are printed.
    texts = [str(r.item() if isinstance(r, np.generic | Tensor) else r) for r in radii]
    if not texts:
        raise UserError("epsilons: expected one radius or more, got none; e.g. ['4/255', '8/255']")
    refuse_equal_radii("epsilons", texts)
    asked = options.get("attacks")
    if isinstance(asked, Iterable) and not isinstance(asked, str):
        options["attacks"] = asked = list(asked)  # for each radius
    for attack in asked if isinstance(asked, list) else ():
        if isinstance(attack, AttackSpec):
            raise UserError(
                f"attacks: expected names, which take the radius of each evaluation, got "
                f"{attack.name} with a radius of its own ({attack.threat.epsilon}); pass its name, "
                "or call `evaluate` at each radius"
            )
    if "threat" in options:
        raise UserError("threat: expected norm and epsilons in its place, got both; leave it out")
    return {
        text: evaluate(model, images, labels, threat=(norm, epsilon), **options)
        for text, epsilon in zip(texts, radii, strict=True)
    }


def _class_numbers(labels: Any) -> Tensor:
    """Labels (n,) of any integer type, as 64-bit class numbers on the CPU.

    Raises:
        UserError: another shape or type.
    """
    ordinary = _tensor("labels", labels).detach().cpu().clone()
    try:
        return class_indices(ordinary, ordinary)
    except ValueError as error:
        raise UserError(str(error)) from error


def _pixels(images: Any) -> Tensor:
    """Images (n, 1 or 3, height, width) on the CPU, as bytes or floats.

    Raises:
        UserError: another shape or type.
    """
    images = _tensor("images", images).detach().cpu()
    shape = tuple(images.shape)
    advice = ""
    if images.ndim == 4 and shape[1] not in (1, 3) and shape[3] in (1, 3):
        advice = "put the channels first: images.permute(0, 3, 1, 2)"
    elif images.ndim == 3 and shape[0] in (1, 3):
        advice = "put a single image into a batch: images[None]"
    elif 0 in shape:
        advice = "look at how they were loaded, for there are none"
    elif images.is_complex():
        advice = "take their real part"
    if advice:
        raise UserError(
            "images: expected floats in [0, 1] or bytes, (n, 1 or 3, height, width), got "
            f"{images.dtype} {shape}; {advice}"
        )
    if images.dtype in (torch.uint16, torch.uint32, torch.uint64):
        images = images.long()  # torch can do little with those
    whole = not images.is_floating_point() and images.dtype != torch.bool
    if whole and int(images.max()) <= 1:
        raise UserError(
            f"images: expected bytes up to 255, got none above {int(images.max())}; "
            "pass images.float() where 0 and 1 are black and white"
        )
    if images.dtype == torch.uint8:
        return images.clone()
    pixels = images.float()
    inside = pixels.clamp(0.0, 1.0)  # resizing leaves some that rounding put outside
    if bool(((pixels - inside).abs() <= _ROUNDING).all()):
        check_range(inside)
        return inside
    check_range(pixels)
    return pixels.clone()


def _tensor(name: str, given: Any) -> Tensor:
    if isinstance(given, np.ndarray) and given.dtype.kind in "biuf":
        # torch takes neither another byte order nor a view backwards, as of flipped images
        given = np.ascontiguousarray(given, dtype=given.dtype.newbyteorder("="))
    try:
        tensor = torch.as_tensor(given)
    except (RuntimeError, TypeError, ValueError) as error:
        kind = f" of {given.dtype}" if isinstance(given, np.ndarray) else ""
        several = isinstance(given, list | tuple) and any(torch.is_tensor(one) for one in given)
        advice = f"torch.stack({name})" if several else "pass a tensor of numbers"
        if not several and not isinstance(given, str | np.ndarray) and hasattr(given, "__iter__"):
            advice = f"stack what it yields: torch.cat([{name} of each batch])"
        raise UserError(
            f"{name}: expected a tensor or an array, got {type(given).__name__}{kind}; {advice}"
        ) from error
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        found = "meta" if tensor.is_meta else f"{tensor.layout}, {tensor.dtype}"
        raise UserError(
            f"{name}: expected a dense tensor with its values, got {found}; load or convert it"
        )
    return tensor


def _chosen(attacks: Sequence[str | AttackSpec], threat: Any) -> list[AttackSpec]:
    """Attacks as they were asked for, each once."""
    if isinstance(attacks, str) or not isinstance(attacks, Iterable):
        raise UserError(
            f"attacks: expected a list of names, got {attacks!r}; e.g. ['natural', 'pgd-20']"
        )
    spec = as_threat(threat)
    chosen = [check_attack(_attack(item, spec)) for item in attacks]
    names = [attack.name for attack in chosen]
    if not names or len(set(names)) < len(names):
        raise UserError(
            f"attacks: expected one or more, each once, got {', '.join(names) or 'none'}; fix them"
        )
    return chosen


def _whole(name: str, value: Any, least: int) -> int:
    """A whole number of any integer type, numpy's included."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= LARGEST_SEED:
        limits = f"from {least}" if number < least else f"of at most {LARGEST_SEED}"
        raise UserError(f"{name}: expected a whole number {limits}, got {value!r}; correct it")
    return number


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


def _attack(item: str | AttackSpec, threat: ThreatSpec) -> AttackSpec:
    if isinstance(item, AttackSpec):
        try:
            # what an attack of one's own takes is its own
            read = AttackSpec.validated(item.replace(options={}).document())
        except SettingsError as fault:
            raise UserError(f"attacks: {item.name}: {fault.place}: {fault}") from fault
        except TypeError as error:
            raise UserError(
                f"attacks: {item.name}: expected plain numbers and texts, got {error}; convert them"
            ) from error
        item = read.replace(options=item.options)
        if item.num_examples is not None:
            raise UserError(
                f"{item.name}: expected no num_examples, as all images that are passed are "
                f"attacked, got {item.num_examples}; pass fewer"
            )
        if item.bn_mode != "eval":
            raise UserError(
                f"{item.name}: expected bn_mode eval, as in every evaluation, got {item.bn_mode}; "
                "leave it out"
            )
        return item
    if not isinstance(item, str):
        raise UserError(f"attacks: expected names or AttackSpecs, got {item!r}; e.g. 'pgd-20'")
    if item in _FIXED:
        return AttackSpec(name=item, threat=threat, **_FIXED[item])  # type: ignore[arg-type]
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
        threat=threat,
        num_steps=int(match[2]),
        step_size=repr(threat.radius / _STEPS_PER_RADIUS),
        kappa=0.0 if kind == "cw" else None,
    )


def as_threat(given: Any, *, where: str = "threat") -> ThreatSpec:
    """A threat model as `evaluate` takes it.

    Raises:
        UserError: no norm and radius; `where` says who named them.
    """
    if isinstance(given, ThreatSpec):
        return given
    if isinstance(given, ThreatModel):
        given = (given.norm, given.epsilon)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UserError(f"{where}: expected (norm, radius), got {given!r}; e.g. ('linf', '8/255')")
    norm, epsilon = given
    norms = get_args(AnyNorm)
    if norm not in norms:
        raise UserError(
            f"{where}: expected the norm {', '.join(norms)}, got {norm!r}; e.g. ('linf', '8/255')"
        )
    try:
        return ThreatSpec.validated({"norm": norm, "epsilon": _radius_text(epsilon, where)})
    except SettingsError as fault:
        text = str(fault).removeprefix("epsilon: ")
        advice = "" if ";" in text else "; write one on [0, 1] pixels"
        raise UserError(f"{where}: {text}{advice}") from fault


def _radius_text(epsilon: Any, where: str) -> str:
    """A radius as it was written; that of a number with all its digits."""
    if isinstance(epsilon, str):
        return epsilon
    try:
        number = math.nan if isinstance(epsilon, bool) else float(epsilon)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: expected a radius such as '8/255', got {epsilon!r}; write one")
    return f"{number:.17g}"


def _fitting(
    model: nn.Module, images: Tensor, labels: Tensor, num_classes: int | None, place: torch.device
) -> tuple[AdaptedModel, ImageSet]:
    """The model as attacks see it, tried on one image, and the images with its classes."""
    data = _image_set(images, labels, num_classes)
    adapted = AdaptedModel(model, num_classes=data.num_classes, at_least=num_classes is None)
    batch, one = batch_of(data, 0, 1, place)
    with borrowed(adapted, place):
        width = checked_logits(adapted, batch, one * 0).shape[1]
    if num_classes is None:
        return adapted, _image_set(images, labels, width)
    if width < num_classes:
        raise UserError(
            f"model: expected logits of {num_classes} classes, got {width}; choose the "
            "images it was trained for, or correct num_classes"
        )
    return adapted, data


def _image_set(images: Tensor, labels: Tensor, num_classes: int | None) -> ImageSet:
    count = num_classes or max(2, int(labels.max()) + 1 if len(labels) else 2)
    kind = ImageSet if images.dtype == torch.uint8 else FloatImages
    return kind(images, labels, count)


def _data_sha256(data: ImageSet) -> str:
    digest = hashlib.sha256()
    for tensor in (data.images, data.labels):
        array: np.ndarray = tensor.contiguous().numpy()
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
