"""The settings as a whole: params.yaml and the studies beside it, one file each."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.factories import is_own, search_in
from rwp.files import SETTINGS_FILE
from rwp.strict_yaml import read_yaml

FOLDER = "studies"
TABLES = ("datasets", "unlabeled", "networks", "suites")
_last_read: Path | None = None


def study_files(params: Path | str) -> list[Path]:
    """The studies beside a settings file, in alphabetical order; hidden files are none.

    Raises:
        UserError: one has another ending of YAML files, and would be left out in silence.
    """
    files = (Path(params).parent / FOLDER).glob("*")
    found = [p for p in files if p.name[0] != "." and p.suffix.lower() in (".yaml", ".yml")]
    for path in found:
        if path.suffix != ".yaml":
            raise UserError(
                f"{path}: expected a study named {path.stem}.yaml, got {path.suffix}; rename it"
            )
    return sorted(found)


def read_settings(path: Path | str) -> Any:
    """params.yaml with the entries of all studies in its tables.

    Raises:
        UserError: as `read_yaml`; a study has another key, or a name that is there already.
    """
    global _last_read
    _last_read = Path(path).resolve()
    return _read(path)


def _read(path: Path | str) -> Any:
    content = read_yaml(path)
    search_in(Path(path).parent)
    if not isinstance(content, dict):
        return content
    owners = {
        (table, name): str(path)
        for table in TABLES
        if isinstance(content.get(table), dict)
        for name in content[table]
    }
    for study in study_files(path):
        content = _with_study(content, study, owners)
    return content


def _with_study(
    content: dict[str, Any], study: Path, owners: dict[tuple[str, str], str]
) -> dict[str, Any]:
    found = read_yaml(study)
    if not isinstance(found, dict):
        raise UserError(
            f"{study}: expected tables ({', '.join(TABLES)}), got {type(found).__name__}; "
            "`rwp new` writes one"
        )
    for table, entries in found.items():
        if table not in TABLES:
            more = "; add its suite to `build` in params.yaml" if table == "build" else ""
            raise UserError(f"{study}: expected {', '.join(TABLES)}, got {table!r}{more}")
        if not isinstance(entries, dict):
            raise UserError(
                f"{study}: {table}: expected a table of names, got {type(entries).__name__}"
            )
        for name in entries:
            owner = owners.setdefault((table, name), str(study))
            if owner != str(study):
                raise UserError(
                    f"{study}: {table}.{name}: expected a name of its own, got one that is in "
                    f"{owner} already; rename it"
                )
        whole = content.get(table) or {}
        if isinstance(whole, dict):  # else the check of the settings names it
            content = content | {table: whole | entries}
    return content


def in_its_file(message: str, params: Path | str) -> str:
    """A message about a key of the settings, under the name of the study that has the key."""
    start, tables = re.escape(f"{params}: "), "|".join(TABLES)
    found = re.match(rf"((?:.*: )?){start}({tables})\.(.*)", message, re.DOTALL)
    if found is None:
        return message
    before, table, rest = found.groups()
    for study in study_files(params):
        try:
            names = read_yaml(study).get(table) or {}
        except UserError:  # a study that cannot be read is told of by itself
            continue
        if any(re.match(rf"{re.escape(str(name))}[.:]", rest) for name in names):
            return f"{before}{study}: {table}.{rest}"
    return message


def declared_factories() -> set[str]:
    """Every `package.module:factory` in the settings of the working folder, or of this job.

    And in those that were read last: a command may be given others with --params.
    """
    here = Path(os.environ.get(SETTINGS_FILE, "") or "params.yaml").resolve()
    found: set[str] = set()
    todo = [_read(path) for path in {here, _last_read or here} if path.is_file()]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif is_own(value):
            found.add(value)
    return found
