"""Suites that extend others, and recipes of sweeps, written out before settings are checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from rwp.errors import UserError
from rwp.pipeline.settings import SweepEntry, nested

EXTENDS = "extends"


def expanded(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings with every suite complete and with a recipe for each combination of a sweep.

    A suite that `extends` another has that one's settings; tables are merged key by key, all
    else is replaced, and null takes away. What is malformed is left for the check of the settings
    to name.

    Raises:
        UserError: a suite extends one that is not there, or itself in the end.
    """
    suites = content.get("suites")
    if not isinstance(suites, dict):
        return content
    complete = {name: _complete(suites, name, (), where) for name in suites}
    return content | {
        "suites": {
            name: _with_sweep_recipes(suite, f"{where}: suites.{name}")
            for name, suite in complete.items()
        }
    }


def _complete(suites: dict[str, Any], name: str, below: tuple[str, ...], where: str) -> Any:
    own = suites[name]
    if not isinstance(own, dict) or EXTENDS not in own:
        _check_null_changes(own, {}, f"{where}: suites.{name}")
        return own
    parent, at = own[EXTENDS], f"{where}: suites.{name}.{EXTENDS}"
    if not isinstance(parent, str) or parent not in suites:
        known = ", ".join(map(str, suites))
        raise UserError(f"{at}: expected a suite ({known}), got {parent!r}; check the spelling")
    if parent in (*below, name):
        raise UserError(f"{at}: expected another suite, got a circle; remove one `{EXTENDS}`")
    inherited = _complete(suites, parent, (*below, name), where)
    if not isinstance(inherited, dict):
        return inherited
    own = {key: value for key, value in own.items() if key != EXTENDS}
    _check_removed(own, inherited, f"{where}: suites.{name}", parent)
    _check_null_changes(own, inherited, f"{where}: suites.{name}")
    return _without_removed(_merged(inherited, own), own)


_TABLES = (
    "recipes",
    "sweeps",
    "figures",
    "objectives",
    "perturbations",
    "threat_models",
    "evaluation.attacks",
)


def _check_removed(own: Any, inherited: Any, where: str, parent: str) -> None:
    """What is taken away by its name has to be there: a typo would take away nothing."""
    for place in _TABLES:
        ours, theirs = own, inherited
        for key in place.split("."):
            ours, theirs = _table(ours, key), _table(theirs, key)
        for name, value in ours.items():
            if value is None and name not in theirs:
                known = ", ".join(map(str, theirs)) or "none"
                raise UserError(
                    f"{where}.{place}.{name}: expected one that `{parent}` has, to take it away "
                    f"({known}), got {name}; check the spelling, or leave the line out"
                )


def _check_null_changes(own: Any, inherited: Any, where: str) -> None:
    """Null in a recipe's change takes an inherited change away; another one changes nothing."""
    for name, recipe in _table(own, "recipes").items():
        there = _table(_table(_table(inherited, "recipes"), name), "change")
        for key, value in _table(recipe, "change").items():
            if value is None and key not in there:
                raise UserError(
                    f"{where}.recipes.{name}.change.{key}: expected a value, got null, which "
                    "changes nothing; write one, or leave the line out"
                )


def _merged(base: Any, change: Any) -> Any:
    """What is inherited with what differs; null takes an inherited entry away.

    A null that takes nothing away stays, for the check of the settings to name a key that is
    misspelled or of another table.
    """
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    both = base | {key: _merged(base.get(key), value) for key, value in change.items()}
    return {key: value for key, value in both.items() if value is not None or key not in base}


def _without_removed(suite: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """An inherited list names nothing that was taken away: what is reported, attacks of beyond."""
    gone = {name for name, value in _table(own, "figures").items() if value is None}
    gone |= {"beyond"} if "beyond" in own and own["beyond"] is None else set()
    if "figures" in own and own["figures"] is None:
        gone |= {name for name in suite.get("reported", ()) if name != "beyond"}
    if "reported" not in own and isinstance(suite.get("reported"), list):
        suite = suite | {"reported": [name for name in suite["reported"] if name not in gone]}
    attacks = _table(_table(own, "evaluation"), "attacks")
    gone = {name for name, value in attacks.items() if value is None}
    beyond = _table(suite, "beyond")
    if gone and beyond and "attacks" not in _table(own, "beyond"):
        kept = [name for name in beyond.get("attacks", ()) if name not in gone]
        suite = suite | {"beyond": beyond | {"attacks": kept}}
    return suite


def _table(owner: Any, key: str) -> dict[str, Any]:
    """The table under a key, empty where there is none."""
    found = owner.get(key) if isinstance(owner, dict) else None
    return found if isinstance(found, dict) else {}


def _sweeps(suite: dict[str, Any]) -> Iterator[SweepEntry]:
    """Those that are well-formed."""
    for entry in _table(suite, "sweeps").values():
        try:
            yield SweepEntry.model_validate_json(json.dumps(entry))
        except (ValidationError, TypeError, ValueError):
            continue


def _in_order(sweeps: list[SweepEntry], recipes: Iterable[str]) -> Iterator[SweepEntry]:
    """A sweep over another sweep's recipe comes after that one, wherever it is listed."""
    known, waiting = set(recipes), sweeps
    while ready := [sweep for sweep in waiting if sweep.recipe in known]:
        for sweep in ready:
            yield sweep
            known |= {sweep.name_of(change) for change in sweep.changes()}
        waiting = [sweep for sweep in waiting if sweep not in ready]


def _with_sweep_recipes(suite: Any, where: str) -> Any:
    if not isinstance(suite, dict) or not isinstance(suite.get("recipes"), dict):
        return suite
    recipes = dict(suite["recipes"])
    for sweep in _in_order(list(_sweeps(suite)), recipes):
        base = recipes[sweep.recipe]
        if not isinstance(base, dict) or not isinstance(base.get("change", {}), dict):
            continue
        for change in sweep.changes():
            own_change, given = nested(change), base.get("change", {})
            both = given | own_change
            if "options" in own_change and isinstance(given.get("options"), dict):
                both["options"] = given["options"] | own_change["options"]
            own = {} if sweep.num_seeds is None else {"num_seeds": sweep.num_seeds}
            name, made = sweep.name_of(change), base | own | {"change": both}
            if recipes.setdefault(name, made) != made:
                raise UserError(
                    f"{where}.recipes.{name}: expected the settings of the sweep over "
                    f"{', '.join(change)}, which has a recipe of that name, got others; rename it, "
                    "or let both sweeps have the same num_seeds"
                )
    return suite | {"recipes": recipes}
