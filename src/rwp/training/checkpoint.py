"""Networks on disk: weights, and which network they belong to; read without running code."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rwp.core.models import build_network
from rwp.errors import UserError
from rwp.factories import is_own
from rwp.files import atomic_write

FORMAT = "rwp.checkpoint/1"
_DESCRIPTION = ("architecture", "num_classes", "in_channels", "mean", "std")
_SIZE = "image_size"  # (height, width), which a network of the user's own may ask for
_SHOWN = 3  # tensor names in a message


def save_network(
    path: Path | str, model: nn.Module, *, network: Mapping[str, Any], epoch: int
) -> None:
    """Write a network's weights and description in one move.

    Args:
        path: the file.
        model: what `network` describes.
        network: architecture (a network spec as a dictionary), num_classes, in_channels, mean,
            std, for one of the user's own image_size; what `load_network` needs to build it.
        epoch: the epoch (from 0) after which these weights were taken.

    Raises:
        UserError: there is no space or no permission at `path`.
        ValueError: `network` lacks a part of the description.
    """
    missing = [name for name in _DESCRIPTION if name not in network]
    if missing:
        raise ValueError(f"network: expected {', '.join(_DESCRIPTION)}, got no {missing[0]}")
    content = {
        "format": FORMAT,
        "weights": {name: value.detach().cpu() for name, value in model.state_dict().items()},
        "epoch": epoch,
        "network": {n: _plain(network[n]) for n in (*_DESCRIPTION, _SIZE) if n in network},
    }
    # torch names the archive inside after the file unless it is handed a stream.
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def new_network(network: Mapping[str, Any]) -> nn.Module:
    """Build the network of a description; weights are drawn from torch's global generator."""
    shape = dict(network["architecture"])
    family = shape.pop("family")
    try:
        if is_own(family):
            from rwp.training.own_network import own_network

            return own_network(
                family,
                shape["options"],
                image_size=network[_SIZE],
                **{name: network[name] for name in _DESCRIPTION if name != "architecture"},
            )
        return build_network(
            family,
            num_classes=network["num_classes"],
            in_channels=network["in_channels"],
            mean=network["mean"],
            std=network["std"],
            **shape,
        )
    except (MemoryError, RuntimeError) as error:  # torch's word for too little memory
        raise UserError(
            f"network: expected one that fits into memory, got {network['architecture']}"
            f" ({_first_line(error)}); make it smaller"
        ) from error


def load_network(
    path: Path | str, *, device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network that a checkpoint describes and give it the checkpoint's weights.

    Returns:
        The network, in eval mode on `device`, and the rest of the file: "epoch", "network".

    Raises:
        UserError: the file is missing, cut short, of another kind, holds anything but plain
            data and tensors, or its weights are not finite or not of the network it names; it
            names a factory that params.yaml does not.
    """
    content = read_weights_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path}: expected a checkpoint of this project ({FORMAT}), got another kind of file; "
            "for published weights use `rwp evaluate --checkpoint FILE --arch NAME`"
        )
    try:
        weights, network = content["weights"], content["network"]
        description = {"epoch": int(content["epoch"]), "network": network}
        _refuse_undeclared(str(path), network["architecture"]["family"])
        with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
            model = new_network(network)
    except UserError:
        raise
    except Exception as error:  # a damaged description may raise anything
        raise UserError(
            f"{path}: expected the description of a network, got one that cannot be built "
            f"({_first_line(error)}); train it again"
        ) from error
    load_weights(model, weights, source=path)
    return model.to(device).eval(), description


def _refuse_undeclared(path: str, family: str) -> None:
    """A file must not decide which code is run: the user's settings do."""
    if not is_own(family):
        return
    from rwp.studies import declared_factories

    if family not in declared_factories():
        raise UserError(
            f"{path}: expected a network that params.yaml declares, got one of {family}, which was "
            f"not run; if you trust it, add it: networks: {{mine: {{family: {family}}}}}"
        )


def read_weights_file(path: Path | str) -> Any:
    """Read a file of `torch.save` without running any code it may hold.

    Raises:
        UserError: the file is missing, cut short, or holds more than plain data and tensors.
    """
    try:
        with warnings.catch_warnings():  # torch asks to file an issue about other pickles
            warnings.simplefilter("ignore")
            return torch.load(Path(path), map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a checkpoint, found no file; train it first") from error
    except pickle.UnpicklingError as error:
        if _is_foreign(Path(path)):
            other = "another kind of file (a web page, perhaps); delete it and get it again"
            kind = _other_kind(Path(path)) or other
            raise UserError(f"{path}: expected a checkpoint, got {kind}") from error
        raise UserError(
            f"{path}: expected tensors and plain data, got a file with other objects or code, "
            "which was not run; save the state_dict alone"
        ) from error
    except Exception as error:  # a damaged file may raise anything
        other = "a truncated or foreign file; delete it and make it again"
        kind = _other_kind(Path(path)) or other
        raise UserError(f"{path}: expected a checkpoint, got {kind}") from error


def _other_kind(path: Path) -> str:
    """What a file is that is no checkpoint, and what to do; empty where neither is known."""
    if path.is_dir():
        return "a folder; name the file in it"
    try:
        names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
    except Exception:  # a damaged archive may raise anything
        return ""
    kinds = {
        "a TorchScript program": any(name.endswith("constants.pkl") for name in names),
        "arrays of numpy": any(name.endswith(".npy") for name in names),
        f"a file of kind {path.suffix}": path.suffix in (".safetensors", ".onnx", ".h5", ".gguf"),
    }
    for kind, found in kinds.items():
        if found:
            return (
                f"{kind}; load it in a function that returns the model, and name that with "
                "--model package.module:function"
            )
    return ""


def _is_foreign(path: Path) -> bool:
    """Whether a file starts neither like a zip archive nor like a pickle."""
    with path.open("rb") as stream:
        return stream.read(1) not in (b"P", b"\x80", b"")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: Path | str) -> None:
    """Give a network all of its weights, no more and no less.

    Raises:
        UserError: names or shapes differ from the network's, or a value is not finite.
    """
    if not isinstance(weights, Mapping) or not all(
        isinstance(name, str) and torch.is_tensor(value) and value.layout == torch.strided
        for name, value in weights.items()
    ):
        raise UserError(
            f"{source}: expected a table of tensors, got something else; save the state_dict alone"
        )
    own = model.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        raise UserError(
            f"{source}: expected the weights of {type(model).__name__}, got "
            f"{len(missing)} missing ({_some(missing)}) and {len(extra)} unknown ({_some(extra)}); "
            "name the network they belong to"
        )
    for name, value in own.items():
        if weights[name].shape != value.shape:
            raise UserError(
                f"{source}: expected {name} of shape {tuple(value.shape)}, got "
                f"{tuple(weights[name].shape)}; name the network the weights belong to"
            )
        if value.is_floating_point() and not weights[name].is_floating_point():
            raise UserError(
                f"{source}: expected {name} of {value.dtype}, got {weights[name].dtype};"
                " save the state_dict as the network has it"
            )
        if weights[name].is_meta:
            raise UserError(
                f"{source}: expected weights, got none in {name}, which was saved from the device "
                "meta; save the network after its weights were loaded"
            )
        if not bool(torch.isfinite(weights[name]).all()):
            raise UserError(
                f"{source}: expected finite weights, got NaN or infinity in {name}; "
                "the training diverged, so choose an earlier checkpoint or train again"
            )
    model.load_state_dict(dict(weights), strict=True)


def require_fit(
    description: Mapping[str, Any], in_channels: int, num_classes: int, *, source: Path | str
) -> None:
    """A network is attacked on images such as it was trained on.

    Raises:
        UserError: its description names another number of channels or classes.
    """
    network = description["network"]
    found = (network["in_channels"], network["num_classes"])
    if found != (in_channels, num_classes):
        raise UserError(
            f"{source}: expected a network of {in_channels} channels and {num_classes} classes, "
            f"got {found[0]} and {found[1]}; take the data set it was trained on"
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "none"


def _plain(value: Any) -> Any:
    """Tuples as lists, so that equal networks are described equally."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
