"""A GPU that the CPU plays: its tensors say `cuda:0` and refuse to meet those of the CPU.

Every operation is looked at. Tensors of both devices in one, or a generator of the other, is the
error that a real GPU gives. Everything else is computed by the CPU, so that the numbers can be held
against its own bits. What a GPU does by itself is not here: kernels, streams, rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CUDA = torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default, _aten.copy.default)
_PLACES = (  # these may be indexed from the CPU
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
)


class OnGpu(Tensor):
    """A tensor of the emulated GPU around one of the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        # For torch's own code it lies on `meta`, for which no driver is asked.
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )
        made.inner = inner
        return made

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.inner!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # files are read by those without a GPU, too

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Gpu(TorchDispatchMode):
    one_layout = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
    here = [value for value in tensors if isinstance(value, OnGpu)]
    on_gpu = bool(here)
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type != "cpu"
    if func is _aten.copy_.default:
        on_gpu = isinstance(args[0], OnGpu)
    elif func not in _COPIES and here:
        _refuse_other_device(func, args, tensors)
    generator = kwargs.get("generator")
    if generator is not None and (generator._cdata in _Generator.made) != on_gpu:
        raise RuntimeError(f"{func}: expected a generator on {'cuda' if on_gpu else 'cpu'}")
    inner = dict(tree_map(_unwrapped, kwargs))
    if on_gpu and inner.get("device") is not None:
        inner["device"] = torch.device("cpu")
    if "pin_memory" in inner:
        inner["pin_memory"] = False
    if _Gpu.one_layout and inner.get("memory_format") is torch.channels_last:
        inner["memory_format"] = torch.contiguous_format
    found = func(*tree_map(_unwrapped, args), **inner)
    if not on_gpu:
        return found
    given = {id(value.inner): value for value in here}  # written in place

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return given[id(value)] if id(value) in given else OnGpu(value)

    return tree_map(wrapped, found)


def _refuse_other_device(func: Any, args: Any, tensors: list[Tensor]) -> None:
    others = [value for value in tensors if not isinstance(value, OnGpu)]
    strangers = [value for value in others if value.dim() > 0]  # a number may come from anywhere
    if func in _PLACES and isinstance(args[0], OnGpu):
        values = [id(value) for value in args[2:3]]
        strangers = [value for value in strangers if id(value) in values]
    into = args[0] if func._schema.name.endswith("_") else None
    writes = isinstance(into, Tensor) and not isinstance(into, OnGpu)
    if strangers or writes:
        shapes = [tuple(value.shape) for value in others]
        raise RuntimeError(f"{func}: expected all tensors on one device, got cuda and cpu {shapes}")


def _unwrapped(value: Any) -> Any:
    return value.inner if isinstance(value, OnGpu) else value


class _OnGpuGenerator(torch.Generator):
    device = property(lambda self: CUDA)


class _Generator(type):
    """What `torch.Generator` is meanwhile: torch's own, and which of them are the GPU's."""

    made: dict[int, torch.Generator] = {}  # noqa: RUF012 (kept, so that no address is used twice)
    own = torch.Generator

    def __call__(cls, device: torch.device | str = "cpu") -> torch.Generator:
        if torch.device(device).type != "cuda":
            return cls.own(device)
        generator = _OnGpuGenerator("cpu")
        cls.made[generator._cdata] = generator  # type: ignore[attr-defined]
        return generator

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, cls.own)


class _AnyGenerator(metaclass=_Generator):
    pass


def _made(real: Any) -> Any:
    """`torch.tensor`, which asks for a driver."""

    def make(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        if device is None or torch.device(device).type != "cuda":
            return real(data, device=device, **options)
        return real(data, **options).to(CUDA)

    return make


def _loaded(real: Any) -> Any:
    """`torch.load`, which would put values on the GPU past every operation."""

    def load(*args: Any, map_location: Any = None, **options: Any) -> Any:
        if map_location is None or torch.device(map_location).type != "cuda":
            return real(*args, map_location=map_location, **options)
        found = real(*args, map_location="cpu", **options)
        return tree_map(lambda one: one.to(CUDA) if isinstance(one, Tensor) else one, found)

    return load


@contextmanager
def emulated_gpu(*, one_layout: bool = True) -> Iterator[None]:
    """One GPU inside, for `device="cuda"`; in its fastest layout the CPU's sums round otherwise."""
    import torch.distributed.tensor  # its annotations need the real torch.Generator

    torch._C._ensureCUDADeviceGuardSet()  # "cuda" without an index is cuda:0, without a driver
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    is_there = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *_: "emulated",
        "max_memory_allocated": lambda *_: 1,
        "reset_peak_memory_stats": lambda *_: None,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "_lazy_init": lambda *_: None,
    }
    changes = [(torch.cuda, name, value) for name, value in is_there.items()]
    changes += [(torch, name, _made(getattr(torch, name))) for name in ("tensor", "as_tensor")]
    changes += [(torch, "load", _loaded(torch.load)), (torch, "Generator", _AnyGenerator)]
    changes += [(Tensor, "pin_memory", lambda self: self), (_Gpu, "one_layout", one_layout)]
    try:
        with ExitStack() as stack:
            for place, name, value in changes:
                stack.enter_context(mock.patch.object(place, name, value))
            stack.enter_context(_Gpu())
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
