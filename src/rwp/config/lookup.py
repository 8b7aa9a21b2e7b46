"""Names that a person typed and tables of settings, looked up with clear errors."""

from __future__ import annotations

import difflib
from typing import TypeVar

from rwp.config.definitions import DatasetSpec
from rwp.config.fields import pick
from rwp.config.results import Setting
from rwp.config.schema import Params, Suite
from rwp.config.specs import RunKey, ThreatSpec
from rwp.errors import UserError

T = TypeVar("T")

_SHOWN = 24  # names in a message; and the most similar one, where there are more


class Lookup:
    """Reads tables of settings for one run and names the key when a value is missing."""

    def __init__(self, suite: str, *names: str) -> None:
        self.suite, self.names = suite, names

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


def choose(table: dict[str, T], name: str, what: str, where: str = "params.yaml") -> T:
    """Look up a name that a person typed.

    Raises:
        UserError: the name is unknown; the message lists those that exist.
    """
    if name not in table:
        names = list(table)
        close = difflib.get_close_matches(str(name), names, n=1)
        more = ", ..." if len(names) > _SHOWN else ""
        known = ", ".join([*names[:_SHOWN], *close] if more else names) + more or "nothing"
        article = "an" if what[0] in "aeiou" else "a"
        raise UserError(
            f"{where}: expected {article} {what} ({known}), got {str(name)[:80]!r};"
            f" check the spelling"
        )
    return table[name]


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
    suite = choose(params.suites, suite_name, "suite", "params.yaml: suites")
    where = f"params.yaml: suites.{suite_name}"
    entry = choose(suite.recipes, recipe, "recipe", f"{where}.recipes")
    choose(params.datasets, dataset, "data set", "params.yaml: datasets")
    if is_natural(suite, recipe):
        threat = "none"
    else:
        choose(suite.threat_models, threat, "threat model", f"{where}.threat_models")
    look = Lookup(suite_name, dataset, threat, entry.objective)
    network = network or look(suite.network, "network")
    choose(params.networks, network, "network", "params.yaml: networks")
    return RunKey(
        suite=suite_name, dataset=dataset, threat=threat, network=network, recipe=recipe, seed=seed
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


def dataset_spec(params: Params, key: RunKey) -> DatasetSpec:
    """The data set of a run, without its mirror: where bytes are copied from decides nothing."""
    return params.datasets[key.dataset].model_copy(update={"mirror": None})


def threat_spec(suite: Suite, key: RunKey) -> ThreatSpec:
    """The threat model of a run, as it is evaluated."""
    entry = suite.threat_models[key.threat]
    look = Lookup(key.suite, key.dataset, key.threat, key.network)
    epsilon = look(entry.epsilon, f"threat_models.{key.threat}.epsilon")
    return ThreatSpec(norm=entry.norm, epsilon=epsilon)


def step_size(suite: Suite, key: RunKey) -> str:
    """The usual attack step under the threat model of a run, as written."""
    look = Lookup(key.suite, key.dataset, key.threat, key.network)
    where = f"threat_models.{key.threat}.step_size"
    return look(suite.threat_models[key.threat].step_size, where)
