"""Field types of params.yaml: names, radii written as people write them, values per setting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, StringConstraints

T = TypeVar("T")


class Frozen(BaseModel):
    """Base of every model here: immutable, no unknown keys, no silent conversion of strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# Names become folders and words of a command line, so they are kept to harmless characters.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


_LONGEST_RADIUS = 64  # characters
_LONG_EXPONENT = re.compile(r"[eE][+-]?\d{3}")  # a fraction of such integers takes forever


def radius_value(text: str) -> float:
    """The number behind "8/255", "0.031" or "0.5".

    Raises:
        ValueError: it is no such text; one with an exponent of many digits is not tried.
    """
    if len(text) > _LONGEST_RADIUS or _LONG_EXPONENT.search(text):
        raise ValueError(f"expected a radius such as 8/255, got {text[:_LONGEST_RADIUS]!r}")
    return float(Fraction(text.replace(" ", "")))


def _radius_text(value: Any) -> str:
    """Keep a radius as it was written; a bare number becomes its shortest text."""
    text = repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    try:
        number = radius_value(text)
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        raise ValueError(f"expected a radius such as 8/255, got {value!r}") from None
    if not 0 < number <= 1:
        hint = f"; did you mean {text}/255?" if 1 < number <= 255 else ""
        raise ValueError(f"expected a radius in (0, 1] on [0, 1] pixels, got {text}{hint}")
    return text.replace(" ", "")


Radius = Annotated[str, BeforeValidator(_radius_text)]


def _settings_table(value: Any) -> Any:
    """Write a plain value as the table {"default": value}."""
    return value if isinstance(value, dict) else {"default": value}


# A value, or a table from settings to values: {default: 0.1, svhn: 0.01, at/cifar10: 0.2}.
# A key names a data set, threat model, network or objective, or several joined by "/".
By = Annotated[dict[str, T], BeforeValidator(_settings_table)]


def pick(table: dict[str, T] | None, names: Iterable[str]) -> T | None:
    """The value of the most specific key whose parts are all among `names`, else the default.

    Raises:
        ValueError: two keys of equal length fit and say different things.
    """
    present = set(names)
    fits = [key for key in table or {} if key != "default" and set(key.split("/")) <= present]
    if not fits:
        return (table or {}).get("default")
    length = max(key.count("/") for key in fits)
    longest = [key for key in fits if key.count("/") == length]
    values = [table[key] for key in longest]  # type: ignore[index]
    if any(value != values[0] for value in values):
        raise ValueError(
            f"expected one value, got {' and '.join(longest)} which both fit;"
            f" add a key that joins them with '/'"
        )
    return values[0]


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError(f"expected a number above 0, got {value}")
    return value


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError(f"expected 0 or more, got {value}")
    return value


def _share(value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"expected a share in [0, 1), got {value}")
    return value


PositiveInt = Annotated[int, AfterValidator(_positive)]
PositiveFloat = Annotated[float, AfterValidator(_positive)]
Count = Annotated[int, AfterValidator(_not_negative)]
Amount = Annotated[float, AfterValidator(_not_negative)]
Share = Annotated[float, AfterValidator(_share)]
