"""Published checkpoints, by the program that wrote them, as state dicts of our networks.

"rice" (Rice et al.) and "awp" (AT-AWP, and AT-RWP after it) normalize outside the network.
"trades" (also TRADES-AWP) and "rst" (also RST-AWP) do not normalize, and some of their networks
hold a block that no forward pass uses. "robustbench" has networks with and without normalization,
which it keeps as buffers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rwp.core.settings import check_choice

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")  # of parallel and of compiled training, in any order
COUNT = "num_batches_tracked"  # what old versions of torch do not save, and no eval pass reads
_DEAD_BLOCK = "sub_block1."
_NORMALIZATION = {"mu": "normalize.mean", "sigma": "normalize.std"}
_SHOWN = 3
_MOST = 0.75  # of the weights of one network, in another table


@dataclass(frozen=True)
class Layout:
    """How a program lays out its checkpoints.

    Attributes:
        normalization: "outside" the network, so that ours must have been built with the mean
            and std of that program; "none"; "buffers" `mu` and `sigma`, where there is any.
    """

    normalization: Literal["outside", "none", "buffers"]


LAYOUTS = {
    "rice": Layout("outside"),
    "awp": Layout("outside"),
    "trades": Layout("none"),
    "rst": Layout("none"),
    "robustbench": Layout("buffers"),
}


def convert_state(
    checkpoint: Mapping[str, Any], *, layout: str, model: nn.Module
) -> dict[str, Tensor]:
    """The published checkpoint as a state dict for `model`, not yet compared with it.

    Takes the state out of its wrapping, strips the prefix of parallel training, drops the dead
    block, renames normalization buffers; where normalization was outside the network, the
    model's own stands in.

    Raises:
        ValueError: an unknown layout, no state in the checkpoint, or a model built with
            normalization where the layout has none, or without where it has some.
    """
    check_choice("layout", layout, tuple(LAYOUTS))
    state = {
        _NORMALIZATION.get(name, name): tensor
        for name, tensor in bare_state(checkpoint).items()
        if not name.startswith(_DEAD_BLOCK)
    }
    expected = model.state_dict()
    if any(name.endswith("running_mean") for name in state):
        counts = {name: tensor for name, tensor in expected.items() if name.endswith(COUNT)}
        state = counts | state
    own = {name: tensor for name, tensor in expected.items() if name in _NORMALIZATION.values()}
    normalization = LAYOUTS[layout].normalization
    if normalization == "outside":
        if not own:
            raise ValueError(
                f"layout {layout!r}: expected a model with input normalization, got one "
                "without; build it with the mean and std its program used"
            )
        return own | state
    if own and "normalize.mean" not in state:
        raise ValueError(
            f"layout {layout!r}: expected a model without input normalization, got one with; "
            "build it with mean=None and std=None"
        )
    return state


def _bare_name(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def bare_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint without wrapping: tables around them, and prefixes.

    Prefixes are those of parallel and of compiled training, and what all names begin with, as in
    a module that holds the network.

    Raises:
        ValueError: there is no tensor, or there are those of several networks.
    """
    state: dict[str, Tensor] = {}
    for name, value in _innermost(checkpoint).items():
        if isinstance(name, str) and isinstance(value, Tensor):
            known = state.setdefault(_bare_name(name), value)
            if known is not value and not _equal(known, value):
                raise ValueError(
                    f"checkpoint: expected each weight once, got two of {_bare_name(name)} with "
                    "and without a prefix; save those that are meant in a file of their own"
                )
    if not state:
        names = sorted(map(str, checkpoint))[:_SHOWN]
        raise ValueError(
            f"checkpoint: expected tensors by name, got {names}; pass the file's state dict"
        )
    return _without_common_prefix(state)


def _innermost(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The table that holds the tensors, of those in which programs wrap it."""
    for wrapper in _WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            found = _innermost(checkpoint[wrapper])
            others = [
                str(name)
                for name, value in checkpoint.items()
                if name != wrapper and isinstance(value, Mapping)
                if _is_another(_innermost(value), found)
            ]
            if _is_another(checkpoint, found):
                others.append("tensors beside it")
            if others:
                raise ValueError(
                    f"checkpoint: expected the weights of one network, got {wrapper} and "
                    f"{' and '.join(others)}; save those that are meant in a file of their own"
                )
            return found
    if any(isinstance(value, Tensor) for value in checkpoint.values()):
        return checkpoint
    inner = [_innermost(value) for value in checkpoint.values() if isinstance(value, Mapping)]
    tables = [table for table in inner if any(isinstance(v, Tensor) for v in table.values())]
    return tables[0] if len(tables) == 1 else checkpoint


def _is_another(table: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    """Whether a table holds other weights of the same network, or most of them.

    A moving average may have other prefixes, no running statistics, and its parameters in a list.
    """
    weights = {name: v for name, v in _named(first).items() if not name.endswith(COUNT)}
    for tensors in (value for value in table.values() if isinstance(value, list | tuple)):
        listed = [value for value in tensors if isinstance(value, Tensor) and value.ndim]
        left = [value.shape for value in weights.values()]
        own = [left.pop(left.index(v.shape)) for v in listed if v.shape in left]
        if len(own) == len(listed) >= _MOST * len([v for v in weights.values() if v.ndim > 1]) > 0:
            return True
    ours = _named(table)
    shared = [name for name in ours if name in weights and ours[name].shape == weights[name].shape]
    if not shared or len(shared) < _MOST * min(len(ours), len(weights)):
        return False
    return not all(_equal(ours[name], weights[name]) for name in shared)


def _named(table: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a table by their names in the network, without what only a program reads."""
    found = {
        _bare_name(str(name)): value
        for name, value in table.items()
        if isinstance(value, Tensor) and name != "n_averaged"
    }
    return _without_common_prefix(found)


def _without_common_prefix(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """As in a module that holds the network, whose name all of them begin with."""
    while len({name.partition(".")[0] for name in found}) == 1 < len(found):
        found = {name.partition(".")[2]: value for name, value in found.items()}
    return found


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are the same; without values nobody can tell them apart."""
    return first.is_meta or second.is_meta or torch.equal(first, second)
