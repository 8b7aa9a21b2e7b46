"""Models from elsewhere, evaluated like our own: published weights, or what a function builds."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.core.models import build_network
from rwp.core.models.converters import COUNT, LAYOUTS, bare_state, convert_state
from rwp.data.images import ImageSet
from rwp.data.parts import Part, take_part
from rwp.errors import UserError, in_one_line
from rwp.evaluation.adapted import (
    AdaptedModel,
    left_as_it_was,
    refuse_unusable,
    require_module,
)
from rwp.evaluation.api import as_threat
from rwp.evaluation.attacks import AttackResult
from rwp.evaluation.clean import batch_of, borrowed, checked_logits, clean_outcomes
from rwp.evaluation.diagnosis import followed_up, judge_further, write_diagnosis
from rwp.evaluation.followup import follow_up
from rwp.evaluation.identity import function_sha256, weights_sha256
from rwp.evaluation.jobs import (
    by_part,
    differs,
    is_done,
    part_record,
    record_of,
    run_attacks,
    state_name,
)
from rwp.evaluation.records import EvaluationRecord, read_record, unpack, write_record
from rwp.evaluation.verdict import FollowUp, Verdict, judge
from rwp.files import sha256_file
from rwp.spec import radius_fraction
from rwp.training.checkpoint import (
    FORMAT as CHECKPOINT,
    load_network,
    load_weights,
    read_weights_file,
    require_fit,
)
from rwp.training.own import OwnNetwork, own_network
from rwp.training.spec import AttackSpec, NetworkSpec, OwnNetworkSpec

_UNKNOWN = "unknown"  # what was minimized
_FINGERPRINT = "external"  # nothing of ours stands behind these models
_NO_STATISTICS: dict[str, Any] = {"mean": None, "std": None}  # of images: not normalized


@dataclass(frozen=True)
class ExternalModel:
    """A model from elsewhere, under the name and hash that its records carry."""

    model: nn.Module
    name: str
    sha256: str


def load_checkpoint(
    path: Path,
    *,
    architecture: NetworkSpec | None,
    layout: str | None,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    image_size: Sequence[int] = (),
    device: torch.device | str = "cpu",
    known: Mapping[str, NetworkSpec] | None = None,
) -> ExternalModel:
    """Load a checkpoint of ours, or one in a published layout.

    Args:
        path: the file.
        architecture: which network the weights belong to; not needed for a file of ours.
        layout: the program that wrote the file, a name of `rwp.core.models.converters.LAYOUTS`.
        num_classes: number of logits.
        in_channels: 3 for color, 1 for gray.
        mean: normalization of the layouts that keep it outside the network.
        std: likewise.
        image_size: height and width, which a network of the user's own may ask for.
        device: where the model goes.
        known: networks by name, of which those that fit are named where none was.

    Raises:
        UserError: no architecture or layout for a foreign file, or weights that do not fit.
    """
    content = read_weights_file(path)
    if isinstance(content, dict) and content.get("format") == CHECKPOINT:
        if architecture is not None or layout is not None:
            raise UserError(
                f"{path}: expected no --arch and no --layout, as this file says itself what "
                "network it is of, got one; leave them out"
            )
        model, description = load_network(path, device=device)
        require_fit(description, in_channels, num_classes, source=path)
        return ExternalModel(model, path.stem, sha256_file(path))
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a table of weights, got {type(content).__name__}; "
            "save the state_dict alone"
        )
    if architecture is None or layout not in LAYOUTS:
        lacking = "--arch" if architecture is None else "--layout"
        try:
            advice = _advice(content, known or {}, num_classes, in_channels, image_size)
        except ValueError as error:
            raise UserError(f"{path}: {str(error).removeprefix('checkpoint: ')}") from error
        raise UserError(
            f"{path}: expected the network and the layout of a foreign checkpoint, got no "
            f"{lacking}; {advice}"
        )
    facts: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels}
    statistics: dict[str, Any] = {"mean": mean, "std": std}
    try:
        if isinstance(architecture, OwnNetworkSpec):
            if LAYOUTS[layout].normalization != "outside":
                statistics = _NO_STATISTICS
            own = _own_network(architecture, image_size, **facts, **statistics)
            model, network = own, own.network
            weights = _by_own_names(content, network)
        else:
            if not _is_normalized(content, layout):
                statistics = _NO_STATISTICS
            with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
                model = network = build_network(**vars(architecture), **facts, **statistics)
            weights = convert_state(content, layout=layout, model=model)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: {str(error).removeprefix('checkpoint: ')}") from error
    load_weights(network, weights, source=path)
    return ExternalModel(model.to(device).eval(), path.stem, sha256_file(path))


def _is_normalized(content: dict[str, Any], layout: str) -> bool:
    """Whether a network of this layout normalizes its images, by what the file holds."""
    normalization = LAYOUTS[layout].normalization
    return normalization == "outside" or (
        normalization == "buffers" and _has_normalization(content)
    )


def _own_network(spec: OwnNetworkSpec, image_size: Sequence[int], **facts: Any) -> OwnNetwork:
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        model = own_network(spec.family, spec.options, image_size=image_size, **facts)
    assert isinstance(model, OwnNetwork)
    return model


def _by_own_names(content: dict[str, Any], network: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a file under the names of a network of the user's own.

    Names are compared without what all of them begin with, in the file and in the network.
    """
    own = {n: value for n, value in network.state_dict().items() if isinstance(value, torch.Tensor)}
    names = dict(zip(bare_state(own), own, strict=True))
    state = {names.get(name, name): value for name, value in bare_state(content).items()}
    return {name: value for name, value in own.items() if name.endswith(COUNT)} | state


def _advice(
    content: dict[str, Any],
    known: Mapping[str, NetworkSpec],
    num_classes: int,
    in_channels: int,
    image_size: Sequence[int],
) -> str:
    """What to add, by the names and shapes of the tensors."""
    layouts = f"--layout {', '.join(LAYOUTS)}"
    shapes = {name: value.shape for name, value in bare_state(content).items()}

    def fitting(classes: int, channels: int) -> str:
        facts = (classes, channels, image_size)
        found = [name for name, spec in known.items() if _fits(shapes, spec, *facts)]
        return " or ".join(found)

    if names := fitting(num_classes, in_channels):
        if _has_normalization(content):
            return f"its tensors fit --arch {names} with --layout robustbench"
        return (
            f"its tensors fit --arch {names}; take --layout awp if its program normalized the "
            "images, --layout trades if it did not"
        )
    classes = [shape[0] for shape in shapes.values() if len(shape) == 2][-1:]
    channels = [shape[1] for shape in shapes.values() if len(shape) == 4][:1]
    if classes and channels and (names := fitting(classes[0], channels[0])):
        return (
            f"its tensors fit --arch {names} for {classes[0]} classes and images of {channels[0]} "
            f"channels, and the data set has {num_classes} and {in_channels}; choose with "
            "--dataset the one it was trained on"
        )
    return (
        "its tensors fit no network of params.yaml: name a factory that builds it and loads "
        f"them with --model package.module:factory, or a network with --arch and {layouts}"
    )


def _fits(
    shapes: Mapping[str, torch.Size],
    spec: NetworkSpec,
    num_classes: int,
    in_channels: int,
    image_size: Sequence[int],
) -> bool:
    facts = {"num_classes": num_classes, "in_channels": in_channels, **_NO_STATISTICS}
    try:
        if isinstance(spec, OwnNetworkSpec):
            state = bare_state(_own_network(spec, image_size, **facts).network.state_dict())
        else:
            with torch.device("meta"):
                state = build_network(**vars(spec), **facts).state_dict()
    except (UserError, ValueError, AttributeError, RuntimeError):
        return False
    own = {name: value.shape for name, value in state.items()}
    # counts may be missing, normalization may be there
    needed = {name for name in own if not name.endswith(COUNT)}
    return needed <= shapes.keys() and all(shapes[name] == own[name] for name in needed)


def _has_normalization(content: Any) -> bool:
    tables = [content, *(value for value in content.values() if isinstance(value, dict))]
    return any(name.rpartition(".")[2] == "mu" for table in tables for name in table)


def load_factory(text: str, *, device: torch.device | str = "cpu") -> ExternalModel:
    """Call `package.module:factory`, which returns a model from [0, 1] images to logits.

    Modules of the current folder are found too. This runs the code it names.

    Raises:
        UserError: no such module or function, or one that returns no torch module.
    """
    module_name, _, factory_name = text.partition(":")
    if not module_name or not factory_name:
        raise UserError(f"--model: expected package.module:factory, got {text!r}; name both")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # it stays: a factory may import more when it is called
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--model: expected {factory_name!r} in the module {module_name!r}, got {error}; "
            "check both names and the current folder"
        ) from error
    except (Exception, SystemExit) as error:  # somebody else's code may fail in any way
        raise UserError(
            f"--model: expected to import {module_name}, got {in_one_line(error)}; run it alone"
        ) from error
    try:
        made = isinstance(factory, nn.Module) or not callable(factory)
        model = factory if made else factory()
    except (Exception, SystemExit) as error:
        raise UserError(
            f"--model: expected {text} to return a model when called without arguments, got "
            f"{in_one_line(error)}; call it alone"
        ) from error
    require_module(model, f"--model: what {text} returns")
    refuse_unusable(model)
    return ExternalModel(model.to(device), factory_name, weights_sha256(model))


def evaluate_external(
    external: ExternalModel,
    *,
    data: Path,
    attacks: Sequence[AttackSpec],
    out: Path,
    state: Path,
    batch_size: int,
    seed: int,
    num_examples: int | None = None,
    first_examples: int | None = None,
    part_seed: int = 0,
    device: torch.device | str = "cpu",
    on_clean: Callable[[float], None] | None = None,
) -> list[Path]:
    """Evaluate a model from elsewhere; `on_clean` gets the clean accuracy before any attack.

    A record that is there already, of the same model, images and settings, is left alone, and
    AutoAttack goes on with the batch it was at.

    Returns:
        The records, `<out>/<attack>.json`; they have no run key.

    Raises:
        UserError: a model that does not take these images, or what the attacks refuse.
    """
    chosen = {"num_examples": num_examples, "first_examples": first_examples, "seed": part_seed}
    with _looked_at(external, data, device, **chosen) as seen:
        jobs = [
            _Job(
                external.name,
                out,
                seen.hashes | {"part": part_record(own)},
                seen.hashes | {"part": part_record(own), "seed": seed, "batch_size": batch_size},
                device,
                same,
                some,
            )
            for same, some, own in _parts(attacks, seen, part_seed, data)
        ]
        _refuse_others(out, external.name, [job.identity for job in jobs], attacks)
        clean, _ = clean_outcomes(seen.model, seen.images, batch_size=batch_size, device=device)
        if on_clean is not None:
            on_clean(float(clean.mean()))
        for job in jobs:
            run_attacks(
                seen.model,
                job.images,
                [attack for attack in job.attacks if job.is_needed(attack)],
                batch_size=batch_size,
                seed=seed,
                device=device,
                state=job.state(state),
                on_result=job.write,
                is_needed=job.is_needed,
            )
    return [out / f"{attack.name}.json" for attack in attacks]


@dataclass(frozen=True)
class _Seen:
    """A model made fit for attacks, the images, and what both are known by."""

    model: AdaptedModel
    whole: ImageSet
    images: ImageSet  # those of them that are attacked
    part: Part
    hashes: dict[str, Any]


@contextmanager
def _looked_at(
    external: ExternalModel, data: Path, device: torch.device | str, **chosen: int | None
) -> Iterator[_Seen]:
    """A model that was tried on one image; left as it was."""
    whole = ImageSet.load(data)
    images, part = take_part(whole, source=data, **chosen)  # type: ignore[arg-type]
    model = AdaptedModel(external.model, num_classes=images.num_classes)
    with left_as_it_was(external.model):
        _try_one_image(external.name, model, images, device)
        hashes = {
            "checkpoint_sha256": external.sha256,
            "function_sha256": function_sha256(model, whole, device=device),
            "data_sha256": sha256_file(data),
        }
        yield _Seen(model, whole, images, part, hashes)


def _parts(
    attacks: Sequence[AttackSpec], seen: _Seen, part_seed: int, source: Path
) -> Iterator[tuple[list[AttackSpec], ImageSet, Part]]:
    """Attacks that look at the same images, with these; some look at fewer."""
    for same in by_part(attacks):
        size = same[0].num_examples
        if size is None:
            yield same, seen.images, seen.part
        else:
            some, own = take_part(seen.whole, num_examples=size, seed=part_seed, source=source)
            yield same, some, own


def at_radius(attack: AttackSpec, epsilon: str) -> AttackSpec:
    """The same attack at another radius, its step in proportion.

    Raises:
        UserError: the radius is none on [0, 1] pixels.
    """
    threat = as_threat((attack.threat.norm, epsilon), where=f"--epsilons {epsilon}")
    if attack.step_size is None:
        return attack.replace(threat=threat)
    share = radius_fraction(attack.step_size) / radius_fraction(attack.threat.epsilon)
    return attack.replace(threat=threat, step_size=str(share * radius_fraction(epsilon)))


def verdict_on(paths: Sequence[Path], *, dataset: str, data: Path) -> Verdict:
    """The verdict on the records of a model whose training nobody knows; `data` has the classes."""
    images = ImageSet.load(data)
    records = [read_record(path) for path in paths]
    part = records[0].part
    if part is not None and part.rule != "all":  # the first images may be of other shares
        images = images.select(torch.from_numpy(unpack(part.mask, part.of).nonzero()[0]))
    chance = max(images.class_counts()) / len(images)
    return judge(records, dataset=dataset, objective=_UNKNOWN, chance=chance)


def diagnose_external(
    external: ExternalModel,
    *,
    data: Path,
    attacks: Sequence[AttackSpec],
    dataset: str,
    out: Path,
    batch_size: int,
    seed: int,
    num_examples: int | None = None,
    first_examples: int | None = None,
    part_seed: int = 0,
    device: torch.device | str = "cpu",
) -> Path:
    """Judge the records in `out` as those of our own runs, with further attacks where in doubt.

    Returns:
        The verdict, `<out>/diagnosis.json`.

    Raises:
        UserError: a record is missing or of another model.
    """
    chosen = {"num_examples": num_examples, "first_examples": first_examples, "seed": part_seed}
    with _looked_at(external, data, device, **chosen) as seen:
        records = [_record_there(out / f"{attack.name}.json", seen.hashes) for attack in attacks]

        def further(attack: AttackSpec) -> FollowUp:
            some = followed_up(seen.images, seed=part_seed, source=data)
            return follow_up(
                seen.model, some, attack, batch_size=batch_size, seed=seed, device=device
            )

        verdict, found = judge_further(
            records,
            further,
            dataset=dataset,
            objective=_UNKNOWN,
            chance=max(seen.images.class_counts()) / len(seen.images),
        )
    path = out / "diagnosis.json"
    write_diagnosis(path, verdict, found, records, fingerprint=_FINGERPRINT)
    return path


def _record_there(path: Path, identity: dict[str, Any]) -> EvaluationRecord:
    if not path.exists():
        raise UserError(
            f"{path}: expected the record of an attack, found none; run `rwp evaluate` with the "
            "same options first, or name the attacks with --attack"
        )
    record = read_record(path)
    other = [_DIFFERENT[name] for name in identity if differs(record, identity, name)]
    if other:
        raise UserError(f"{path}: expected a record of this model, got one {other[0]}; evaluate it")
    return record


@dataclass(frozen=True)
class _Job:
    """The records of one model on one set of images."""

    name: str
    out: Path
    hashes: dict[str, Any]
    identity: dict[str, Any]
    device: torch.device | str
    attacks: Sequence[AttackSpec]
    images: ImageSet

    def path(self, attack: AttackSpec) -> Path:
        return self.out / f"{attack.name}.json"

    def is_needed(self, attack: AttackSpec) -> bool:
        # A model that answers differently each time cannot be recognized.
        known = self.hashes["function_sha256"] is not None
        return not (known and is_done(self.path(attack), attack, _FINGERPRINT, self.identity))

    def state(self, folder: Path) -> Path | None:
        """A folder for this evaluation alone: what decides its bits is in the name."""
        if self.hashes["function_sha256"] is None:
            return None
        return folder / state_name(self.identity)

    def write(self, result: AttackResult) -> None:
        record = record_of(
            result,
            fingerprint=_FINGERPRINT,
            key=None,
            checkpoint=self.name,
            hashes=self.hashes,
            seed=self.identity["seed"],
            batch_size=self.identity["batch_size"],
            device=self.device,
        )
        write_record(self.path(result.attack), record)


_DIFFERENT = {
    "data_sha256": "on other images",
    "part": "on another part of the images",
    "checkpoint_sha256": "of another model",
    "function_sha256": "of a model of the same weights that computes something else",
    "seed": "with another seed",
    "batch_size": "in batches of another size",
}


def _refuse_others(
    out: Path, name: str, identities: Sequence[dict[str, Any]], attacks: Sequence[AttackSpec]
) -> None:
    """A folder holds the records of one evaluation: those of another may have taken hours."""
    threats = {attack.threat for attack in attacks if attack.kind != "natural"}
    asked = {attack.num_examples for attack in attacks}  # another one's part is its own
    for path in sorted(out.glob("*.json")):
        try:
            found = read_record(path)
        except UserError:
            continue  # damaged ones are made again
        same = [one for one in identities if one["part"] == found.part] or identities[:1]
        other = [
            text
            for field, text in _DIFFERENT.items()
            if differs(found, same[0], field)
            and (field != "part" or found.attack.num_examples in asked)
        ]
        if found.attack.kind != "natural" and threats and found.attack.threat not in threats:
            other.append("under another threat model")
        if other:
            raise UserError(
                f"{path}: expected a record of {name} as it is evaluated now, got one {other[0]}; "
                "name another folder with --output"
            )


def _try_one_image(
    name: str, model: nn.Module, images: ImageSet, device: torch.device | str
) -> None:
    batch, labels = batch_of(images, 0, 1, device)
    try:
        with borrowed(model, device):
            num_classes = checked_logits(model, batch, labels * 0).shape[1]
    except UserError as error:
        raise UserError(f"{name}: {str(error).removeprefix('model: ')}") from error
    if num_classes < images.num_classes:
        raise UserError(
            f"{name}: expected logits of {images.num_classes} classes, got {num_classes}; "
            "choose the data set it was trained on"
        )
