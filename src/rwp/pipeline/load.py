"""Read params.yaml, have it checked, and say in one line what is wrong."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rwp.errors import UserError
from rwp.factories import is_own
from rwp.files import SETTINGS_FILE, write_text
from rwp.pipeline.checks import check_images, check_names
from rwp.pipeline.extends import expanded
from rwp.pipeline.settings import Params, known_keys
from rwp.spec import short
from rwp.strict_yaml import read_yaml, written_yaml
from rwp.studies import in_its_file, read_settings

# JSON's words in the messages of pydantic, and those for YAML.
_YAML_WORDS = {
    **{"array": "a list", "tuple": "a list", "string": "a text"},
    **{"an object": "a table", "dictionary": "a table"},
}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's words for such a key


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check params.yaml."""
    content = read_settings(path)
    try:
        params = check_params(content, where=str(path))
        check_images(params, Path(path).parent, str(path))
    except UserError as error:
        raise UserError(in_its_file(str(error), path)) from error
    return params


def keep_settings(content: Any, folder: Path | str = ".state/settings") -> str:
    """Keep settings for the jobs that are planned with them; returns the path of the file.

    Queued jobs read this file (its path travels as `SETTINGS_FILE` in their environment), so that
    an edit of params.yaml changes no job that waits.
    """
    # Through JSON, as Snakemake's tables are of types of its own.
    text = written_yaml(json.loads(json.dumps(content)))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(folder) / f"{digest}.yaml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return str(path)


def kept_settings() -> Any:
    """The settings that a queued job was planned with; none where they did not travel with it.

    Raises:
        UserError: they did, and the file is gone: those of today may be others.
    """
    path = os.environ.get(SETTINGS_FILE, "")
    if path and not Path(path).is_file():
        raise UserError(
            f"{SETTINGS_FILE}: expected the settings that this job was planned with, found no file "
            f"{path}; start Snakemake again, which plans its jobs anew"
        )
    return read_yaml(path) if path else None


def check_params(content: Any, *, where: str = "params.yaml") -> Params:
    """Check parsed settings.

    Raises:
        UserError: with the key, what was expected, what was found.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a table of settings, got {type(content).__name__}")
    try:
        content = expanded(content, where)
        # Through JSON, so that lists are tuples under pydantic's strict rules.
        params = Params.model_validate_json(json.dumps(content))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            raise UserError(f"{where}: {first_error(error, content)}") from error
        raise UserError(f"{where}: expected numbers, texts, lists and tables: {error}") from error
    check_names(params, where)
    return params


def first_error(
    error: ValidationError, content: dict[str, Any], known: Iterable[str] | None = None
) -> str:
    """What is wrong first with `content`, in our words: key, what was expected, what was found.

    `known` are the keys that a misspelled one may mean; by default those of the settings.
    """
    # A misspelled key is also missing under its right name; what is written there helps more.
    first = min(error.errors(), key=lambda entry: entry["type"] not in _UNKNOWN)
    parts = _as_written([str(part) for part in first["loc"]], content)
    got = short(first.get("input"))
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if kind in _UNKNOWN:
        advice = (
            "; put it under options"
            if _is_of_own_network(parts, content)
            else _similar(parts, known)
        )
        return f"{'.'.join(parts)}: expected a known key, got {parts[-1]!r}{advice}{more}"
    key = ".".join(part for part in parts if part != "[key]")
    if kind == "family":
        found = first["input"].get("family") if isinstance(first.get("input"), dict) else None
        return f"{key}.family: expected {message}, got {found!r}; check the spelling{more}"
    if kind == "missing":
        return f"{key}: expected a value, got none; add it{more}"
    if kind == "value_error":
        return f"{key}: {message}{more}" if key else f"{message}{more}"
    if kind == "string_pattern_mismatch":
        return (
            f"{key}: expected a name of lower-case letters, digits, '.', '_' and '-', got {got}"
            f"{more}"
        )
    if kind == "union_tag_not_found":
        return f"{key}.kind: expected a value, got none; add it{more}"
    if kind == "union_tag_invalid":
        context = first["ctx"]
        expected, got = context["expected_tags"].replace("'", ""), repr(context["tag"])
        return f"{key}.kind: expected {expected}, got {got}; check the spelling{more}"
    if kind == "too_short":
        least = first["ctx"]["min_length"]
        return f"{key}: expected at least {least}, got {len(first['input'])}; add one{more}"
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    expected = _YAML_WORDS.get(expected, expected)
    return f"{key}: expected {expected}, got {got}{_way_to_write(kind, first.get('input'))}{more}"


def _is_of_own_network(parts: list[str], content: dict[str, Any]) -> bool:
    table, *names = parts
    found = content.get(table) if table == "networks" else None
    entry = found.get(names[0]) if isinstance(found, dict) and len(names) > 1 else None
    return isinstance(entry, dict) and is_own(entry.get("family"))


def _as_written(parts: list[str], content: Any) -> list[str]:
    """The keys that lead to a value as the file has them; `dvc exp run -S` takes these."""
    written = []
    for part in parts:
        if part == "default" and not isinstance(content, dict):
            continue  # a plain value, kept as a table
        if isinstance(content, dict) and part in (content.get("kind"), content.get("family")):
            continue  # which of several tables it is, no key
        if part == "own" and isinstance(content, dict) and is_own(content.get("family")):
            continue
        inner = part.split("/") if "/" in part and part not in (content or ()) else [part]
        for key in inner:
            written.append(key)
            content = content.get(key) if isinstance(content, dict) else None
    return written


def _way_to_write(kind: str, value: Any) -> str:
    """What to do about a value of another type than was asked for, where it is known."""
    if kind.startswith("bool"):
        return "; write true or false"
    if kind.startswith(("int", "float")):
        if isinstance(value, str):
            try:
                finite = math.isfinite(number := float(value))
                return f"; write {number:g} without quotes" if finite else "; write a finite number"
            except ValueError:
                word = value.strip().lower() in ("none", "null", "")
                return "; write null, or leave the key out" if word else "; write a number"
        if isinstance(value, float) and kind.startswith("int"):
            return "; write a whole number"
        return "; write a number"
    if kind.startswith("string") and isinstance(value, float):  # 20.0, where 2e1 was written
        return "; put it in quotes if the text is meant"
    if kind.startswith("string") and isinstance(value, bool | int):
        return f'; write "{value}" in quotes if the text is meant'
    if kind.startswith("tuple") and not isinstance(value, list | dict | None):
        return f"; write it as a list: [{value}]"
    return ""


def _similar(parts: list[str], known: Iterable[str] | None) -> str:
    """A guess at the key that was meant, among the fields of all tables that people write."""
    known = sorted(known_keys() if known is None else known)
    if parts[-1] in known:
        return ", which is a key of other tables; move or remove it"
    close = difflib.get_close_matches(parts[-1], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; remove it"
