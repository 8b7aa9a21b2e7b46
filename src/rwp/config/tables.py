"""Which runs stand behind which table: the workflow builds them, the reporting reads them."""

from __future__ import annotations

from rwp.config.lookup import Lookup, choose, is_natural, run_key
from rwp.config.schema import Params, Suite
from rwp.config.specs import RunKey


def get_suite(params: Params, name: str) -> Suite:
    """The suite of that name.

    Raises:
        UserError: there is none; the message lists the others.
    """
    return choose(params.suites, name, "suite", "params.yaml: suites")


def table1_keys(
    params: Params, suite_name: str, *, threat: str, recipe: str, dataset: str
) -> list[RunKey]:
    """The runs behind one row of Table 1, one per seed."""
    return _row_keys(params, suite_name, "table1", recipe=recipe, dataset=dataset, threat=threat)


def table2_keys(params: Params, suite_name: str, recipe: str) -> list[RunKey]:
    """The runs behind one row of Table 2, one per seed."""
    table = get_suite(params, suite_name).table2
    return _row_keys(
        params,
        suite_name,
        "table2",
        recipe=recipe,
        dataset=table.dataset,
        threat=table.threat_model,
    )


def table1_runs(params: Params, suite_name: str) -> list[RunKey]:
    """All runs behind Table 1."""
    table = get_suite(params, suite_name).table1
    return [
        key
        for threat in table.threat_models
        for recipe in table.recipes
        for dataset in table.datasets
        for key in table1_keys(params, suite_name, threat=threat, recipe=recipe, dataset=dataset)
    ]


def table2_runs(params: Params, suite_name: str) -> list[RunKey]:
    """All runs behind Table 2, those of the naturally trained reference last."""
    table = get_suite(params, suite_name).table2
    recipes = [*table.recipes, *filter(None, [table.reference_recipe])]
    return [key for recipe in recipes for key in table2_keys(params, suite_name, recipe)]


def _row_keys(
    params: Params, suite_name: str, table: str, *, recipe: str, dataset: str, threat: str
) -> list[RunKey]:
    """One run per seed; the network may differ by data set, threat model and objective."""
    suite = get_suite(params, suite_name)
    shown = "none" if is_natural(suite, recipe) else threat
    look = Lookup(suite_name, dataset, shown, suite.recipes[recipe].objective)
    network = look(getattr(suite, table).network, f"{table}.network")
    place = {"recipe": recipe, "dataset": dataset, "threat": threat, "network": network}
    return [run_key(params, suite_name, seed=seed, **place) for seed in suite.seeds]
