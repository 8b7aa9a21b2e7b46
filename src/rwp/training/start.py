"""Where a training begins: at random weights, at another run's state, or at weights in a file.

A parent leaves, after the epochs that other recipes start from, all that a training stands on:
weights, optimizer, position, what was measured, and the networks chosen so far. Every random draw
is a function of the seed, the epoch and the step, so a child of the same recipe goes on as if there
had been no break; one of another recipe differs from there on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.core.models import Normalization
from rwp.errors import UserError
from rwp.files import atomic_write
from rwp.training.checkpoint import load_weights, read_weights_file
from rwp.training.history import Row
from rwp.training.loop import Training
from rwp.training.own_network import OwnNetwork, by_own_names
from rwp.training.resume import RunState
from rwp.training.spec import TrainSpec

FORMAT = "rwp.start/1"
_CHOSEN = "chosen_networks"


def keep_start(
    training: Training, state: RunState, history: list[Row], network: Mapping[str, Any]
) -> None:
    """Save this epoch's state, if other trainings start from it; all processes call this."""
    done = training.progress.epoch
    if done not in training.spec.keep_starts:
        return
    content = training.state()
    if not training.group.leads:
        return
    chosen = {
        name: read_weights_file(state.network(name, row))
        for name, row in training.progress.chosen.items()
    }
    parts = {"network": dict(network), "history": history, _CHOSEN: chosen}
    target = state.folder / f"start{done}.pt"
    with atomic_write(target) as temporary, temporary.open("wb") as stream:
        torch.save({"format": FORMAT, **content, **parts}, stream)


def begin(training: Training, state: RunState, network: Mapping[str, Any], path: Path) -> list[Row]:
    """Take over what the training starts from; the parent's history is its own up to there.

    Raises:
        UserError: the file is damaged, or does not fit the network, the classes or the images.
    """
    start = training.spec.start
    if start is None or start.recipe is None:
        weights = _weights_of(path, training.spec, network)
        part, weights = _fitted(training.model, weights, path)
        load_weights(part, weights, source=path)
        if part is not training.model and training.group.leads:
            _tell_normalization(path, network)
        _check_normalization(training.model, training.spec, network, path)
        if training.average is not None:
            training.average.module.load_state_dict(training.model.state_dict())
        return []
    content = read_weights_file(path)
    _check(content, training.spec, network, path)
    history: list[Row] = content.pop("history")
    _take_over(training, content)
    if training.group.leads:
        for name, chosen in content[_CHOSEN].items():
            target = state.network(name, training.progress.chosen[name])
            with atomic_write(target) as temporary, temporary.open("wb") as stream:
                torch.save(chosen, stream)
    return history


def _take_over(training: Training, content: dict[str, Any]) -> None:
    """The parent's state under this training's own settings."""
    own = [
        {name: value for name, value in group.items() if name != "params"}
        for group in training.optimizer.param_groups
    ]
    if training.average is not None and content["average"] is None:
        content["average"] = training.average.state_dict()  # it begins here
    if training.losses is not None and content["losses"] is None:
        content["losses"] = training.losses.state()
    training.load_state(content)
    for group, settings in zip(training.optimizer.param_groups, own, strict=True):
        group.update(settings)


def _check(content: Any, spec: TrainSpec, network: Mapping[str, Any], path: Path) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected the state of a training to start from ({FORMAT}), got another kind "
            "of file; did the parent stop early? its run.json says so"
        )
    _check_network(content["network"], spec, network, path)


def _check_network(
    theirs: Mapping[str, Any], spec: TrainSpec, network: Mapping[str, Any], path: Path
) -> None:
    for name in ("architecture", "num_classes", "in_channels", "mean", "std"):
        own, found = network[name], theirs.get(name)
        same = _is_same(spec, own, found) if name == "architecture" else found == own
        if not same:
            raise UserError(
                f"{path}: expected the network of {spec.key.name} ({name} {own}), got "
                f"{name} {found}; start from a run of the same network and data"
            )


def _is_same(spec: TrainSpec, own: dict[str, Any], found: Any) -> bool:
    """Whether two architectures are one; a setting that came later was at its default before.

    Code of the user's own may have been edited: whether its weights fit is seen as they are loaded.
    """
    usual = {field.name: field.default for field in fields(spec.architecture)}
    alike = {"source": own.get("source")}
    return isinstance(found, dict) and usual | found | alike == usual | own | alike


def _weights_of(
    path: Path, spec: TrainSpec, network: Mapping[str, Any]
) -> Mapping[str, torch.Tensor]:
    """The weights in a checkpoint of this project, or of a file that holds a state_dict alone."""
    content = read_weights_file(path)
    if not isinstance(content, dict) or "weights" not in content:
        return content
    if isinstance(content.get("network"), dict):
        _check_network(content["network"], spec, network, path)
    return content["weights"]


def _fitted(model: nn.Module, weights: Any, path: Path) -> tuple[nn.Module, Any]:
    """The part of a model that a file is of, with its weights under that part's names.

    A file may be of a user's own network alone, without the normalization before it, and its names
    may be prefixed, as after parallel training.

    Raises:
        UserError: the file holds the weights of several networks.
    """
    if not _is_of_tensors(weights):
        return model, weights  # what it is instead is told as it is loaded
    parts = [model, model.network] if isinstance(model, OwnNetwork) else [model]
    try:
        found = [(part, by_own_names(weights, part)) for part in parts]
    except ValueError as error:
        raise UserError(f"{path}: {str(error).removeprefix('checkpoint: ')}") from error
    return max(found, key=lambda one: len(one[0].state_dict().keys() & one[1].keys()))


def _tell_normalization(path: Path, network: Mapping[str, Any]) -> None:
    """Weights of a network alone may have been trained behind another normalization."""
    if network["mean"] is not None:
        sys.stderr.write(
            f"{path}: weights without a normalization: trained on behind that of mean "
            f"{list(network['mean'])} and std {list(network['std'])}; write normalize: false if "
            "they were trained without one, or have it inside\n"
        )


def _is_of_tensors(content: Any) -> bool:
    if not isinstance(content, Mapping):
        return False
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    return any(
        isinstance(name, str) and isinstance(value, torch.Tensor)
        for table in (content, *inner)
        for name, value in table.items()
    )


def _check_normalization(
    model: nn.Module, spec: TrainSpec, network: Mapping[str, Any], path: Path
) -> None:
    """Mean and std lie among the weights: those of the file must be those of the settings.

    Layers further in are of a user's own network, which may normalize as it likes.
    """
    for layer in model.children():
        if not isinstance(layer, Normalization):
            continue
        for name in ("mean", "std"):
            found = getattr(layer, name).detach().cpu().flatten()
            if not torch.allclose(found, torch.tensor(network[name]), atol=1e-6):
                raise UserError(
                    f"{path}: expected weights that were trained with the {name} "
                    f"{list(network[name])} of {spec.key.name}, got {found.tolist()}; "
                    f"write theirs under datasets.{spec.key.dataset}"
                )
