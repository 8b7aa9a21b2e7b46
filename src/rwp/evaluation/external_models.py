"""Models from elsewhere, loaded: published weights, or what a function builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.core.models import build_network
from rwp.core.models.converters import COUNT, LAYOUTS, bare_state, convert_state
from rwp.errors import UserError, in_one_line
from rwp.evaluation.adapted import refuse_unusable, require_module
from rwp.evaluation.identity import weights_sha256
from rwp.factories import load, torch_as_it_was
from rwp.files import sha256_file
from rwp.training.checkpoint import (
    FORMAT as CHECKPOINT,
    load_network,
    load_weights,
    read_weights_file,
    require_fit,
)
from rwp.training.own_network import OwnNetwork, by_own_names, own_network
from rwp.training.spec import NetworkSpec, OwnNetworkSpec

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
            weights = by_own_names(content, network)
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
        return own_network(spec.family, spec.options, image_size=image_size, **facts)


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
            "images (by the mean and std of the data set here), --layout trades if it did not"
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
    return any(str(name).rpartition(".")[2] == "mu" for table in tables for name in table)


def load_factory(text: str, *, device: torch.device | str = "cpu") -> ExternalModel:
    """Call `package.module:factory`, which returns a model from [0, 1] images to logits.

    Modules are looked for where all of one's own are (`rwp.factories`). This runs their code.

    Raises:
        UserError: no such module or function, or one that returns no torch module.
    """
    factory = load(text, where="--model")
    try:
        made = isinstance(factory, nn.Module) or not callable(factory)
        with torch_as_it_was():
            model = factory if made else factory()
    except (Exception, SystemExit) as error:  # somebody else's code may fail in any way
        raise UserError(
            f"--model: expected {text} to return a model when called without arguments, got "
            f"{in_one_line(error)}; call it alone"
        ) from error
    require_module(model, f"--model: what {text} returns")
    refuse_unusable(model)
    return ExternalModel(model.to(device), text.partition(":")[2], weights_sha256(model))
