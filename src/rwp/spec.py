"""Settings as frozen dataclasses: what one step needs, with every choice made.

Only the standard library is imported here, so that settings stand beside their owners and a bare
machine with PyTorch can train. pydantic, where it is there, checks them by the same annotations
when they are read back from text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from fractions import Fraction
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from rwp.errors import UserError
from rwp.factories import is_own

LARGEST_SEED = 2**63 - 1  # as PyTorch's generators take them, and numpy's integers


@dataclass(frozen=True)
class Check:
    """A check of a field's value, which pydantic calls after its own or, if `before`, ahead."""

    function: Callable[[Any], Any]
    before: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        make = (
            core_schema.no_info_before_validator_function
            if self.before
            else core_schema.no_info_after_validator_function
        )
        return make(self.function, handler(source))


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LONGEST_NAME = 64  # characters
_SHOWN = 80  # characters of a wrong value
_LONGEST_RADIUS = 64  # characters
_LONG_EXPONENT = re.compile(r"[eE][+-]?\d{3}")  # a fraction of such integers takes forever
# Fraction takes 8_0 and digits of other scripts, too.
_RADIUS = re.compile(r" *[-+.0-9eE]+( */ *[-+.0-9eE]+)? *")


def is_name(text: str) -> bool:
    """Whether a text can be the name of a suite, data set, recipe, ..."""
    return len(text) <= _LONGEST_NAME and _NAME.fullmatch(text) is not None


def _name(value: str) -> str:
    if len(value) > _LONGEST_NAME:
        raise ValueError(
            f"expected a name of at most {_LONGEST_NAME} characters, got {len(value)} ({value}); "
            "shorten it, or if a sweep made it, vary fewer settings at once"
        )
    if not _NAME.fullmatch(value):
        raise ValueError(
            f"expected a name of lower-case letters, digits, '.', '_' and '-', got {short(value)}"
        )
    return value


def short(value: Any) -> str:
    """A wrong value, cut to what fits a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


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


def radius_value(text: str) -> float:
    """The number behind "8/255", "0.031" or "0.5".

    Raises:
        ValueError: it is no such text; one with an exponent of many digits is not tried.
    """
    return float(radius_fraction(text))


def radius_fraction(text: str) -> Fraction:
    """The same as a fraction, which products and quotients of radii are exact with.

    Raises:
        ValueError: as `radius_value`.
    """
    if len(text) > _LONGEST_RADIUS or _LONG_EXPONENT.search(text) or not _RADIUS.fullmatch(text):
        raise ValueError(f"expected a radius such as 8/255, got {text[:_LONGEST_RADIUS]!r}")
    return Fraction(text.replace(" ", ""))


def radius_text(value: Fraction) -> str:
    """As it is written; rounded to a float where the fraction would be too long to be read."""
    text = str(value)
    return text if len(text) <= _LONGEST_RADIUS else repr(float(value))


def refuse_equal_radii(where: str, texts: Sequence[str]) -> None:
    """Each radius once, however it is written; what is no radius is told by whoever reads it.

    Raises:
        UserError: one is there twice.
    """
    seen: set[float | str] = set()
    for text in texts:
        try:
            value: float | str = radius_value(text)
        except (ValueError, ArithmeticError):
            value = text
        if value in seen:
            raise UserError(f"{where}: expected each once, got {', '.join(texts)}; remove {text}")
        seen.add(value)


def _radius_text(value: Any) -> str:
    """Keep a radius or step as it was written; a bare number becomes its shortest text."""
    text = repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    try:
        number = radius_value(text)
    except (ValueError, TypeError, AttributeError, ArithmeticError):
        raise ValueError(f"expected a radius such as 8/255, got {short(value)}") from None
    if number <= 0:
        raise ValueError(f"expected a radius above 0, got {text}")
    return text.replace(" ", "")


def _own_name(value: str) -> str:
    if not is_own(value):
        raise ValueError(f"expected package.module:factory, got {value!r}; name both")
    return value


def word_or_own(*words: str) -> Check:
    """One of these words, or a factory of the user's own."""

    def check(value: Any) -> Any:
        if value in words or is_own(value):
            return value
        raise ValueError(
            f"expected {', '.join(words)} or package.module:factory, got {value!r}; "
            "check the spelling"
        )

    return Check(check, before=True)


# Names become folders and words of a command line, so they are kept to harmless characters.
Name = Annotated[str, Check(_name)]
OwnName = Annotated[str, Check(_own_name)]
# A radius or step on [0, 1] pixels; how large it may be depends on the norm.
Radius = Annotated[str, Check(_radius_text, before=True)]
PositiveInt = Annotated[int, Check(_positive)]
PositiveFloat = Annotated[float, Check(_positive)]
Count = Annotated[int, Check(_not_negative)]
Amount = Annotated[float, Check(_not_negative)]
Share = Annotated[float, Check(_share)]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of all settings of a step."""

    # For pydantic: no unknown keys, no silent conversion of strings.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {
        "extra": "forbid",
        "strict": True,
        "allow_inf_nan": False,
    }

    def __init_subclass__(cls, **more: Any) -> None:
        """Keep `dataclass`, which comes next, from writing a comparison of its own."""
        super().__init_subclass__(**more)
        cls.__eq__ = Spec.__eq__  # type: ignore[method-assign]

    def __eq__(self, other: object) -> bool:
        """Whether all settings are equal; of options 1, 1.0 and true are three values."""
        if type(self) is not type(other):
            return NotImplemented
        return not self.differing(other)

    def canonical(self, *, without: tuple[str, ...] = ()) -> str:
        """One line of JSON with sorted keys: equal settings give equal text.

        What has its default is left out, so that a setting which is new to the program changes
        no text, and so no fingerprint, where nobody uses it.
        """
        kept = {name: value for name, value in _changed(self).items() if name not in without}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    def document(self) -> dict[str, Any]:
        """All settings, as a record holds them: tables, lists, texts and numbers."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def differing(self, other: Self) -> list[str]:
        """The settings in which another of the same kind differs, by name."""
        theirs = vars(other)
        return [name for name, value in vars(self).items() if _differ(value, theirs[name])]

    def replace(self, **changes: Any) -> Self:
        """The same settings but for `changes`."""
        return replace(self, **changes)

    @classmethod
    def parse(cls, content: str | Any, *, where: str) -> Self:
        """Read settings back, from their line of JSON or from a parsed part of a record.

        Raises:
            UserError: it is another kind of text or lacks a part; `where` says whose it was.
        """
        try:
            return cls.validated(content)
        except SettingsError as fault:
            raise UserError(
                f"{where}: expected a complete {cls.__name__}, got a fault at "
                f"{fault.place or 'the text'} ({fault}); build it again"
            ) from fault

    @classmethod
    def validated(cls, content: str | Any) -> Self:
        """The same; on a bare machine without pydantic only as far as the classes check.

        Raises:
            SettingsError: where it is not as it should be.
        """
        try:
            from pydantic import ValidationError
        except ImportError:
            return cls.rebuilt(json.loads(content) if isinstance(content, str) else content)
        text = content if isinstance(content, str) else json.dumps(content)
        try:
            found: Self = _reader(cls).validate_json(text)  # type: ignore[arg-type]
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise SettingsError(place, first["msg"].removeprefix("Value error, ")) from error
        return found

    @classmethod
    def rebuilt(cls, document: Any) -> Self:
        """Settings from what `document` made of them, which was checked when it was made.

        Raises:
            SettingsError: it is of other settings.
        """
        try:
            found: Self = _rebuilt(cls, document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingsError("", str(error)) from error
        return found


class SettingsError(ValueError):
    """What is wrong with settings that were read, and at which of them."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place


def _rebuilt(kind: Any, value: Any) -> Any:
    """The value in the terms of a field's annotation."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _rebuilt_choice(arguments, value)
    if origin is Literal and value not in arguments:
        raise ValueError(f"expected one of {', '.join(map(repr, arguments))}, got {value!r}")
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_rebuilt(one, item) for one, item in zip(kinds, value, strict=True))
    if origin is dict:
        return {key: _rebuilt(arguments[1], item) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{name: _rebuilt(hints[name], item) for name, item in value.items()})
    return float(value) if kind is float and type(value) is int else value


def _rebuilt_choice(kinds: tuple[Any, ...], value: Any) -> Any:
    """The value in the terms of the first of several annotations that it fits."""
    if value is None and NoneType in kinds:
        return None
    faults = []
    for kind in kinds:
        if isinstance(value, dict) != (is_dataclass(kind) or get_origin(kind) is dict):
            continue
        try:
            return _rebuilt(kind, value)
        except (KeyError, TypeError, ValueError) as error:
            faults.append(str(error))
    raise ValueError("; ".join(faults) or f"expected other settings, got {value!r}")


@cache
def _reader(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _differ(ours: Any, theirs: Any) -> bool:
    """Whether two values of a setting differ; those of own code as they are written."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return json.dumps(ours, sort_keys=True) != json.dumps(theirs, sort_keys=True)
    return bool(ours != theirs)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.document()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _changed(value: Any) -> Any:
    """The value in JSON's terms, without those fields that have their defaults."""
    if isinstance(value, tuple):
        return [_changed(item) for item in value]
    if not is_dataclass(value):
        return value
    return {
        field.name: _changed(getattr(value, field.name))
        for field in fields(value)
        if getattr(value, field.name) != _default(field)
    }


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def merkle(*parts: str) -> str:
    """Hash an ordered list of texts (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:16]
