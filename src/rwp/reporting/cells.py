"""Which runs and attacks stand behind each cell of the tables, and how people write them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from rwp.pipeline.settings import Params, Suite, get_suite
from rwp.pipeline.suites import table1_keys, table2_keys
from rwp.training.spec import RunKey

PAPER_SUITE = "paper"

# The attacks of the paper's Table 2 and their columns; any other attack keeps its own name.
PAPER_COLUMNS = {
    "natural": "natural",
    "fgsm": "fgsm",
    "pgd-20": "pgd20",
    "pgd-100": "pgd100",
    "cw-100": "cw",
    "autoattack": "aa",
}
COLUMN_LABELS = {
    "natural": "Natural",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "cw": "CW-100",
    "aa": "AutoAttack",
}
NORM_LABELS = {"linf": "Linf", "l2": "L2"}
DATASET_LABELS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}


def method_label(recipe: str) -> str:
    """A recipe as the paper writes it: at-rwp is AT-RWP."""
    return "Natural" if recipe == "natural" else recipe.upper()


# The settings that a sweep may vary, as a label names them.
_CHANGES = {
    "gamma": "gamma {}",
    "num_weight_steps": "K2 = {}",
    "norm_scope": "norm per {}",
    "mask": "mask {}",
    "c_min": "c_min {}",
    "loss_range": "losses in {}",
    "criterion": "masked on {}",
    "remove_below": "losses below {} removed",
}


def recipe_label(suite: Suite, recipe: str) -> str:
    """As `method_label`; a recipe of a sweep by its base and what is changed in it."""
    for sweep in suite.sweeps.values():
        for change in sweep.changes():
            if sweep.name_of(change) == recipe:
                return f"{method_label(sweep.recipe)}: {change_label(change)}"
    return method_label(recipe)


def change_label(change: dict[str, Any]) -> str:
    """Changed settings in words: mask all, K2 = 1, norm per layer."""
    return ", ".join(
        _CHANGES.get(name, f"{name} {{}}").format(value_label(value))
        for name, value in change.items()
    )


def value_label(value: Any) -> str:
    """A setting's value as it stands on an axis: a range as 0.5-1."""
    if isinstance(value, list | tuple):
        return "-".join(map(value_label, value))
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def threat_label(suite: Suite, threat: str) -> str:
    """Linf or L2, or the threat model's own name where two of the table share a norm."""
    norm = suite.threat_models[threat].norm
    same = [name for name in suite.table1.threat_models if suite.threat_models[name].norm == norm]
    return NORM_LABELS[norm] if len(same) <= 1 else threat


def dataset_label(params: Params, suite: Suite, dataset: str) -> str:
    """CIFAR-10 and its like as the paper writes them; any other data set by its own name."""
    source = params.datasets[dataset].source
    same = [name for name in suite.table1.datasets if params.datasets[name].source == source]
    return DATASET_LABELS.get(source, dataset) if len(same) <= 1 else dataset


def attack_columns(suite: Suite) -> dict[str, str]:
    """Attack -> column of Table 2: the paper's six in the paper's order, then the suite's own."""
    extra = {name: name for name in suite.evaluation.attacks if name not in PAPER_COLUMNS}
    return PAPER_COLUMNS | extra


def table1_rows(params: Params, suite_name: str) -> Iterator[tuple[dict[str, str], list[RunKey]]]:
    """The rows of Table 1: their labels, and the runs behind each, one per seed."""
    suite = get_suite(params, suite_name)
    table = suite.table1
    for threat, recipe, dataset in product(table.threat_models, table.recipes, table.datasets):
        labels = {
            "threat_model": threat_label(suite, threat),
            "method": method_label(recipe),
            "dataset": dataset_label(params, suite, dataset),
        }
        place = {"threat": threat, "recipe": recipe, "dataset": dataset}
        yield labels, table1_keys(params, suite_name, **place)


def table2_rows(params: Params, suite_name: str) -> Iterator[tuple[str, list[RunKey]]]:
    """The rows of Table 2, the reference last: defense, and the runs behind it, one per seed."""
    table = get_suite(params, suite_name).table2
    for recipe in dict.fromkeys([*table.recipes, *filter(None, [table.reference_recipe])]):
        yield method_label(recipe), table2_keys(params, suite_name, recipe)
