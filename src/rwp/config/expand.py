"""Written out before anything is checked: suites that extend another, and the recipes of sweeps."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from rwp.config.results import SweepEntry
from rwp.errors import UserError

EXTENDS = "extends"


def expanded(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings with every suite complete and with a recipe for each combination of a sweep.

    A suite that `extends` another has that one's settings; tables are merged key by key, all
    else is replaced. What is malformed is left for the check of the settings to name.

    Raises:
        UserError: a suite extends one that is not there, or itself in the end.
    """
    suites = content.get("suites")
    if not isinstance(suites, dict):
        return content
    complete = {name: _complete(suites, name, (), where) for name in suites}
    return content | {
        "suites": {name: _with_sweep_recipes(suite) for name, suite in complete.items()}
    }


def _complete(suites: dict[str, Any], name: str, below: tuple[str, ...], where: str) -> Any:
    own = suites[name]
    if not isinstance(own, dict) or EXTENDS not in own:
        return own
    parent, at = own[EXTENDS], f"{where}: suites.{name}.{EXTENDS}"
    if not isinstance(parent, str) or parent not in suites:
        known = ", ".join(map(str, suites))
        raise UserError(f"{at}: expected a suite ({known}), got {parent!r}; check the spelling")
    if parent in (*below, name):
        raise UserError(f"{at}: expected another suite, got a circle; remove one `{EXTENDS}`")
    inherited = _complete(suites, parent, (*below, name), where)
    return _merged(inherited, {key: value for key, value in own.items() if key != EXTENDS})


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}


def _with_sweep_recipes(suite: Any) -> Any:
    if not isinstance(suite, dict) or not isinstance(suite.get("recipes"), dict):
        return suite
    sweeps = suite.get("sweeps")
    recipes = dict(suite["recipes"])
    for entry in sweeps.values() if isinstance(sweeps, dict) else ():
        try:
            sweep = SweepEntry.model_validate_json(json.dumps(entry))
        except (ValidationError, TypeError, ValueError):
            continue
        base = recipes.get(sweep.recipe)
        if not isinstance(base, dict) or not isinstance(base.get("change", {}), dict):
            continue
        for change in sweep.changes():
            both = base.get("change", {}) | change
            recipes.setdefault(sweep.name_of(change), base | {"change": both})
    return suite | {"recipes": recipes}
