"""YAML read as people mean it: what YAML 1.1 and 1.2 read differently is refused.

PyYAML follows YAML 1.1, DVC's reader and writer 1.2. A number such as 010 is 8 for one and 10 for
the other; `no` is false for one and a text for the other. Only 1e-5, a text in YAML 1.1, is taken
as the number that everybody means, since DVC writes small numbers so.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from rwp.errors import UserError, in_one_line

_SHOWN = 80  # characters of a wrong value
_MOST_VALUES = 1_000_000  # aliases of aliases grow without bounds
_OPEN = 0  # the size of what is being looked at

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)?\.[0-9]*([eE][-+][0-9]+)?")
_EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
_LEADING_ZEROS = re.compile(r"([-+]?)0+([0-9]+)")
_OCTAL = re.compile(r"([-+]?)0[oO]([0-7]+)")
_TAG = "tag:yaml.org,2002:"


def read_yaml(path: Path | str) -> Any:
    """Parse a YAML file.

    Raises:
        UserError: the file is missing, is not YAML, or holds what can be read in two ways; the
            message names the line and the way to write it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: expected a YAML file, found none; run from the project's root"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: expected a settings file, got one that cannot be read ({error.strerror}); "
            "check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected YAML, got {_problem(error)}; save it as UTF-8"
        ) from error
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, *, where: str) -> Any:
    """Parse YAML that stands in `where`.

    Raises:
        UserError: it is not YAML, or holds what can be read in two ways; as `read_yaml`.
    """
    import yaml

    try:
        return _parse(text)
    except _TwoReadingsError as error:
        raise UserError(f"{where}: {error}") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # PyYAML's own constructors raise plain errors, for 2022-13-45 for instance.
        place = getattr(error, "problem_mark", None)
        line = f" at line {place.line + 1}" if place else ""
        problem = getattr(error, "problem", None) or _problem(error)
        tabs = place is not None and "\t" in "".join(text.splitlines()[place.line : place.line + 1])
        hint = "indent with spaces instead of tabs" if tabs else "correct that line"
        raise UserError(f"{where}: expected YAML, got {_got(problem)}{line}; {hint}") from error


class _TwoReadingsError(Exception):
    """What is wrong with a value, in one line."""


def _parse(text: str) -> Any:
    import yaml

    # The C parser, where libyaml is there, takes a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _problem(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are no text"
    if isinstance(error, RecursionError):
        return "lists or tables in one another too deep to read"
    return in_one_line(error, named=False) or type(error).__name__


def _got(problem: str) -> str:
    """A parser's complaint as what was found: `found X` is X, `expected X` an error of its own."""
    text = re.sub(r"^(but )?found ", "", problem)
    spoken = ("expected ", "could not ", "did not ", "mapping values are ", "mapping keys are ")
    return f"an error ({text})" if text.startswith(spoken) else text


def _check(node: Any, sizes: dict[int, int], what: str = "") -> int:
    """Refuse what can be read in two ways; the number of values below a node."""
    if sizes.get(id(node)) == _OPEN:
        raise _TwoReadingsError(
            f"expected values that end, got one that holds itself by an alias at {_line(node)}; "
            "write it out"
        )
    if id(node) in sizes:
        return sizes[id(node)]
    sizes[id(node)], size = _OPEN, 1
    if node.id != "scalar" and node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
        kind = node.tag.removeprefix(_TAG)
        raise _TwoReadingsError(
            f"expected a list or a table without a tag, got one tagged as {kind} at "
            f"{_line(node)}; write it without the tag"
        )
    if node.id == "scalar":
        _check_scalar(node, what)
    elif node.id == "sequence":
        what = "an entry of the list" if node.flow_style else ""
        size += sum(_check(value, sizes, what) for value in node.value)
    else:
        _check_keys(node)
        for key, value in node.value:
            what = f"the value of {key.value!r}" if node.flow_style else ""
            size += _check(value, sizes, what)
    if size > _MOST_VALUES:
        raise _TwoReadingsError(
            f"expected at most {_MOST_VALUES} values, got more by aliases at {_line(node)}; "
            "write fewer of them"
        )
    sizes[id(node)] = size
    return size


def _check_keys(node: Any) -> None:
    """Each key is a text and is given once."""
    import yaml

    seen: set[str] = set()
    for key, _ in node.value:
        if key.id != "scalar" or key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            got = _shown(key) if key.id == "scalar" else f"a {key.id}"
            quoted = f': "{key.value}"' if key.id == "scalar" else ""
            raise _TwoReadingsError(
                f"expected a text as key, got {got} at {_line(key)}; put it in quotes{quoted}"
            )
        if key.value in seen:
            problem = f"the key {key.value!r} twice"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        seen.add(key.value)
        _check_scalar(key, "a key")


def written_yaml(content: Any) -> str:
    """YAML that `parse_yaml` reads as this content: numbers as numbers, quoted texts as texts."""
    import yaml

    class Quoting(yaml.SafeDumper):
        """Puts every text in quotes, as PyYAML would leave out those of 1e5 and 089."""

    def quoted(dumper: Any, text: str) -> Any:
        return dumper.represent_scalar(f"{_TAG}str", text, style='"')

    Quoting.add_representer(str, quoted)
    return str(yaml.dump(content, Dumper=Quoting, sort_keys=False, allow_unicode=True))


def with_exponents(content: Any) -> Any:
    """Content that another reader of YAML 1.1 has read, with the numbers that it took for texts.

    It no longer tells 1e5 from "1e5", so only what was not read by `read_yaml` is to be given.
    """
    if isinstance(content, dict):
        return {key: with_exponents(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [with_exponents(value) for value in content]
    return float(content) if isinstance(content, str) and _has_exponent(content) else content


def _has_exponent(text: str) -> bool:
    return _EXPONENT.fullmatch(text) is not None and math.isfinite(float(text))


def _check_scalar(node: Any, what: str) -> None:
    is_text = not node.style and node.tag == f"{_TAG}str"
    if is_text and what != "a key" and _has_exponent(node.value):
        node.tag = f"{_TAG}float"
        return
    text, kind = node.value, node.tag.removeprefix(_TAG)
    plain = not node.style
    if not plain and kind == "str":
        return
    checks = {"int": _about_integer, "float": _about_float, "bool": _about_bool, "str": _about_text}
    if kind == "null" and plain:
        found = _about_null(text, what)
    elif kind == "timestamp":
        import yaml

        yaml.safe_load(text)  # says so where it is none
        expected = "numbers, texts, lists and tables"
        found = (expected, "which YAML 1.1 reads as a date", f'"{text}" in quotes')
    elif kind in checks and plain:
        found = checks[kind](text)
    elif kind in ("merge", "value") and plain:
        found = None if kind == "merge" else ("a value", "which is a sign of YAML's", '"="')
    else:
        found = ("a value without a tag", f"tagged as {kind}", "it without the tag")
    if found is not None:
        expected, because, advice = found
        raise _TwoReadingsError(
            f"expected {expected}, got {_shown(node)} at {_line(node)}, {because}; write {advice}"
        )


# What is wrong with a value: what was expected, how it is read, the way to write it.
_Fault = tuple[str, str, str] | None


def _about_integer(text: str) -> _Fault:
    if _INTEGER.fullmatch(text):
        return None
    import yaml

    value = yaml.safe_load(text)
    read = f"which YAML 1.1 reads as {value}"
    if found := _LEADING_ZEROS.fullmatch(text):
        decimal = int(found[1] + found[2])
        return "a number without leading zeros", read, f"{decimal}, or {value} if that is meant"
    if ":" in text:
        return "a number", f"{read} (base 60)", f'"{text}" in quotes, or {value}'
    return "a decimal number", read, str(value)


def _about_float(text: str) -> _Fault:
    if _NUMBER.fullmatch(text):
        return None
    import yaml

    value = yaml.safe_load(text)
    if "n" in text.lower():  # .inf, .nan
        return "a finite number", f"which YAML reads as {value}", "a number"
    if ":" in text:
        read = f"which YAML 1.1 reads as {value} (base 60)"
        return "a number", read, f'"{text}" in quotes, or {value}'
    return "a decimal number", f"which YAML 1.1 reads as {value}", str(value)


def _about_bool(text: str) -> _Fault:
    if text.lower() in ("true", "false"):
        return None
    meant = "true" if text.lower() in ("yes", "on") else "false"
    read = f"which YAML 1.1 reads as {meant} and YAML 1.2 as a text"
    return "true or false", read, f'{meant}, or "{text}" in quotes'


def _about_null(text: str, what: str) -> _Fault:
    if text.lower() == "null" or not (text or what):  # so DVC writes null, on a line of its own
        return None
    if text:
        return "a value", "which YAML reads as null", "null, or leave the key out"
    advice = "a space after the colon" if ":" in what else "one, or leave the key out"
    return f"{what} to be written", "which YAML reads as null", advice


def _about_text(text: str) -> _Fault:
    read = "which YAML 1.1 reads as a text"
    if found := _OCTAL.fullmatch(text):
        value = int(found[1] + found[2], 8)
        return "a decimal number", f"{read} and YAML 1.2 as {value}", f"{value} (or in quotes)"
    if found := _LEADING_ZEROS.fullmatch(text):
        value = int(found[1] + found[2])
        return "a number without leading zeros", read, f"{value} (or in quotes)"
    if text == "None":
        return "a value", "which YAML reads as a text", "null, or leave the key out"
    return None


def _shown(node: Any) -> str:
    return str(node.value)[:_SHOWN] or "nothing"


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1}"
