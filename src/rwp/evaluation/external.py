"""Anyone's model, evaluated like our own: published weights, or whatever a function builds."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.core.models import build_network
from rwp.core.models.converters import LAYOUTS, convert_state
from rwp.data.images import ImageSet
from rwp.data.parts import take_part
from rwp.errors import UserError
from rwp.evaluation.forward import batch_of, borrowed, checked_logits, clean_outcomes
from rwp.evaluation.jobs import is_done, part_record, record_of, run_attacks
from rwp.evaluation.records import read_record, write_record
from rwp.evaluation.suite import AttackResult
from rwp.files import sha256_file
from rwp.training.checkpoint import FORMAT, load_network, load_weights, read_weights_file
from rwp.training.spec import AttackSpec, NetworkSpec

_FINGERPRINT = "external"  # nothing of ours stands behind these models


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
    device: torch.device | str = "cpu",
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
        device: where the model goes.

    Raises:
        UserError: no architecture or layout for a foreign file, or weights that do not fit.
    """
    content = read_weights_file(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        if architecture is not None or layout is not None:
            raise UserError(
                f"{path}: expected no --arch and no --layout, as this file says itself what "
                "network it is of, got one; leave them out"
            )
        model, _ = load_network(path, device=device)
        return ExternalModel(model, path.stem, sha256_file(path))
    if architecture is None or layout not in LAYOUTS:
        raise UserError(
            f"{path}: expected the network and the layout ({', '.join(LAYOUTS)}) of a foreign "
            f"checkpoint, got {layout}; name them with --arch and --layout"
        )
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a table of weights, got {type(content).__name__}; "
            "save the state_dict alone"
        )
    normalized = LAYOUTS[layout].normalization == "outside" or (
        LAYOUTS[layout].normalization == "buffers" and _has_normalization(content)
    )
    shape = dict(vars(architecture))
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_network(
                shape.pop("family"),
                num_classes=num_classes,
                in_channels=in_channels,
                mean=mean if normalized else None,
                std=std if normalized else None,
                **shape,
            )
        weights = convert_state(content, layout=layout, model=model)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: {error}") from error
    load_weights(model, weights, source=path)
    return ExternalModel(model.to(device).eval(), path.stem, sha256_file(path))


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
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"--model: expected {factory_name!r} in the module {module_name!r}, got {error}; "
            "check both names and the current folder"
        ) from error
    except Exception as error:  # somebody else's code may fail in any way
        raise UserError(
            f"--model: expected to import {module_name}, got {_in_one_line(error)}; run it alone"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    try:
        model = factory() if callable(factory) else factory
    except Exception as error:
        raise UserError(
            f"--model: expected {text} to return a model when called without arguments, got "
            f"{_in_one_line(error)}; call it alone"
        ) from error
    if not isinstance(model, nn.Module):
        raise UserError(
            f"--model: expected {text} to return a torch.nn.Module, got {type(model).__name__}; "
            "return the model itself"
        )
    return ExternalModel(model.to(device), factory_name, _hash_of(model))


def _in_one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _hash_of(model: nn.Module) -> str:
    """SHA-256 over names, types and bytes of a model's tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    images, part = take_part(
        ImageSet.load(data),
        num_examples=num_examples,
        first_examples=first_examples,
        seed=part_seed,
        source=data,
    )
    _try_one_image(external, images, device)
    clean, _ = clean_outcomes(external.model, images, batch_size=batch_size, device=device)
    if on_clean is not None:
        on_clean(float(clean.mean()))
    hashes: dict[str, Any] = {
        "checkpoint_sha256": external.sha256,
        "data_sha256": sha256_file(data),
        "part": part_record(part),
    }
    identity = hashes | {"seed": seed, "batch_size": batch_size}

    def is_needed(attack: AttackSpec) -> bool:
        return not is_done(out / f"{attack.name}.json", attack, _FINGERPRINT, identity)

    def write(result: AttackResult) -> None:
        record = record_of(
            result,
            fingerprint=_FINGERPRINT,
            key=None,
            checkpoint=external.name,
            hashes=hashes,
            seed=seed,
            batch_size=batch_size,
            device=device,
        )
        write_record(out / f"{result.attack.name}.json", record)

    _refuse_others(out, external)
    words = (external.sha256, hashes["data_sha256"], seed, batch_size, part.identity()["sha256"])
    folder = "-".join(str(word)[:16] for word in words)
    run_attacks(
        external.model,
        images,
        [attack for attack in attacks if is_needed(attack)],
        batch_size=batch_size,
        seed=seed,
        device=device,
        state=state / folder,
        on_result=write,
        is_needed=is_needed,
    )
    return [out / f"{attack.name}.json" for attack in attacks]


def _refuse_others(out: Path, external: ExternalModel) -> None:
    """A folder holds the records of one model: those of another may have taken hours."""
    for path in sorted(out.glob("*.json")):
        try:
            found = read_record(path)
        except UserError:
            continue  # damaged ones are made again
        if found.checkpoint_sha256 != external.sha256:
            raise UserError(
                f"{path}: expected a record of {external.name}, got one of another model; "
                "name another folder with --output"
            )


def _try_one_image(external: ExternalModel, images: ImageSet, device: torch.device | str) -> None:
    batch, labels = batch_of(images, 0, 1, device)
    try:
        with borrowed(external.model, device):
            num_classes = checked_logits(external.model, batch, labels * 0).shape[1]
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"{external.name}: expected a model of images of shape {images.shape} in [0, 1], "
            f"got an error on the first one ({_in_one_line(error)}); choose the data set it was "
            "trained on"
        ) from error
    if num_classes < images.num_classes:
        raise UserError(
            f"{external.name}: expected logits of {images.num_classes} classes, got {num_classes}; "
            "choose the data set it was trained on"
        )
