"""What a name or a table of the settings means for one run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from rwp.errors import UserError
from rwp.pipeline.settings import Params, Setting, Suite
from rwp.spec import LARGEST_SEED
from rwp.training.spec import RunKey

T = TypeVar("T")

_NAMES_SHOWN = 24  # in a message; and the most similar one, where there are more


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


def choose(table: dict[str, T], name: str, what: str, where: str = "params.yaml") -> T:
    """Look up a name that a person typed.

    Raises:
        UserError: the name is unknown; the message lists those that exist.
    """
    if name not in table:
        names = list(table)
        close = difflib.get_close_matches(str(name), names, n=1)
        more = ", ..." if len(names) > _NAMES_SHOWN else ""
        known = ", ".join([*names[:_NAMES_SHOWN], *close] if more else names) + more or "nothing"
        article = "an" if what[0] in "aeiou" else "a"
        raise UserError(
            f"{where}: expected {article} {what} ({known}), got {str(name)[:80]!r};"
            f" check the spelling"
        )
    return table[name]


def get_suite(params: Params, name: str) -> Suite:
    """The suite of that name.

    Raises:
        UserError: there is none; the message lists the others.
    """
    return choose(params.suites, name, "suite", "params.yaml: suites")


class Lookup:
    """Reads tables of settings for one run and names the key when a value is missing."""

    def __init__(self, suite: str, *names: str) -> None:
        self.suite, self.names = suite, names

    @classmethod
    def of(cls, key: RunKey, *more: str) -> Lookup:
        """Of a run, by what names it; `more` is its objective, where tables may name that, too."""
        return cls(key.suite, key.dataset, key.threat, key.network, *more)

    def optional(self, table: dict[str, T] | None, key: str) -> T | None:
        """The value for this run, or none; a UserError where two keys contradict each other."""
        try:
            return pick(table, self.names)
        except ValueError as error:
            raise UserError(f"params.yaml: suites.{self.suite}.{key}: {error}") from error

    def __call__(self, table: dict[str, T] | None, key: str) -> T:
        """The value for this run; a UserError that names `key` where there is none."""
        value = self.optional(table, key)
        if value is None:
            raise UserError(
                f"params.yaml: suites.{self.suite}.{key}: expected a value for"
                f" {'/'.join(self.names)}, got none; add one, or a default"
            )
        return value


def is_natural(suite: Suite, recipe: str) -> bool:
    """Whether a recipe trains without an attack."""
    return suite.objectives[suite.recipes[recipe].objective].loss == "natural"


def run_key(
    params: Params,
    suite_name: str,
    *,
    recipe: str,
    dataset: str,
    threat: str,
    seed: int,
    network: str | None = None,
) -> RunKey:
    """The coordinates of a run; names are checked, the network is the suite's unless given.

    Raises:
        UserError: a name is unknown.
    """
    suite = get_suite(params, suite_name)
    where = f"params.yaml: suites.{suite_name}"
    entry = choose(suite.recipes, recipe, "recipe", f"{where}.recipes")
    choose(params.datasets, dataset, "data set", "params.yaml: datasets")
    natural = is_natural(suite, recipe)
    if not natural or threat != "none":
        choose(suite.threat_models, threat, "threat model", f"{where}.threat_models")
    threat = "none" if natural else threat
    if seed > LARGEST_SEED:
        raise UserError(f"seed: expected at most {LARGEST_SEED}, got {seed}; choose a smaller one")
    look = Lookup(suite_name, dataset, threat, entry.objective)
    network = network or look(suite.network, "network")
    choose(params.networks, network, "network", "params.yaml: networks")
    return RunKey(
        suite=suite_name, dataset=dataset, threat=threat, network=network, recipe=recipe, seed=seed
    )


def refuse_unknown(params: Params, key: RunKey, *, where: str) -> None:
    """A run that lies there is of names that the settings have.

    Raises:
        UserError: they lack one of them, or have it with an attack where the run has none.
    """
    suite = params.suites.get(key.suite)
    tables: dict[str, Iterable[str]] = {"suite": params.suites}
    if suite is not None:
        tables |= {"recipe": suite.recipes, "dataset": params.datasets, "network": params.networks}
        tables |= {"threat": (*suite.threat_models, "none")}
    for name, known in tables.items():
        if getattr(key, name) not in known:
            what = {"dataset": "data set", "threat": "threat model"}.get(name, name)
            raise UserError(
                f"{where}: expected a run of the {what}s in the settings, got one of "
                f"{getattr(key, name)!r}, which is gone; bring it back, or leave the run out"
            )
    if suite is not None and is_natural(suite, key.recipe) != (key.threat == "none"):
        now = "without" if key.threat != "none" else "with"
        raise UserError(
            f"{where}: expected a run of today's {key.recipe}, which trains {now} an attack, got "
            f"one under {key.threat!r}; bring the recipe back, or leave the run out"
        )


def setting_key(
    suite: Suite, suite_name: str, setting: Setting, recipe: str, *, seed: int
) -> RunKey:
    """The run of a recipe in a figure's or table's setting; what is not given is Table 2's."""
    dataset = setting.dataset or suite.table2.dataset
    threat = setting.threat_model or suite.table2.threat_model
    if is_natural(suite, recipe):
        threat = "none"
    look = Lookup(suite_name, dataset, threat, suite.recipes[recipe].objective)
    return RunKey(
        suite=suite_name,
        dataset=dataset,
        threat=threat,
        network=setting.network or look(suite.network, "network"),
        recipe=recipe,
        seed=seed,
    )
