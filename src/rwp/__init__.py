"""Robust Weight Perturbation for adversarial training: the reference pipeline."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Evaluation", "evaluate", "evaluate_radii"]


def __getattr__(name: str) -> Any:
    """Names of the library, imported with torch only when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rwp.evaluation import api

    return getattr(api, name)
