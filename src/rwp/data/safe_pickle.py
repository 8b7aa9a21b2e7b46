"""Pickles of arrays, read without running what else a pickle may hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from rwp.errors import UserError

# All that plain arrays need, under NumPy 1's and NumPy 2's module names. `_codecs.encode`
# carries bytes in protocol 2.
_ADMITTED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def load_arrays(path: Path) -> Any:
    """Load a pickle that holds nothing but NumPy arrays and plain containers.

    Raises:
        UserError: the file is no pickle, is truncated, or names any other object (nothing of
            which is imported or called).
    """
    try:
        with path.open("rb") as stream:
            return _ArrayUnpickler(stream, encoding="latin1").load()
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a pickle, found no file; check the path") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise UserError(
            f"{path}: expected a pickle of NumPy arrays only, got something else "
            f"({' '.join(str(error).split())}); do not trust this file"
        ) from error
