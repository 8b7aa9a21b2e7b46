"""Names for readers, by the short ones of params.yaml: defenses, attacks, data, figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwp.evaluation.spec import PAPER_COLUMNS
from rwp.pipeline.settings import OPTIONS, Params, Suite

COLUMN_LABELS = {
    "natural": "Natural",
    "fgsm": "FGSM",
    "pgd20": "PGD-20",
    "pgd100": "PGD-100",
    "cw": "CW-100",
    "aa": "AutoAttack",
}
NORM_LABELS = {"linf": "Linf", "l2": "L2", "l1": "L1"}  # in files
NORM_TEXTS = {"linf": "L-inf", "l2": "L2", "l1": "L1"}  # on the page
DATASET_LABELS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}
BEYOND_TITLE = "Beyond the paper"

# The settings that a sweep may vary, as a label names them.
_CHANGES = {
    "gamma": "gamma {}",
    "num_weight_steps": "K2 = {}",
    "norm_scope": "norm per {}",
    "mask": "mask {}",
    "c_min": "c_min {}",
    "c_min_quantile": "c_min at the quantile {}",
    "layers": "layers {}",
    "direction": "{} direction",
    "climbs": "raises {}",
    "step_at": "optimizer at {} weights",
    "loss_range": "losses in {}",
    "criterion": "masked on {}",
    "remove_below": "losses below {} removed",
    "as_many_at_random": "as many as below {} removed at random",
}
_AS_MANY = "as_many_at_random"  # what remove_below is with remove_at_random


def method_label(recipe: str) -> str:
    """A recipe as the paper writes it: at-rwp is AT-RWP."""
    return "Natural" if recipe == "natural" else recipe.upper()


def recipe_label(suite: Suite, recipe: str) -> str:
    """As `method_label`; a recipe of a sweep by its base and what is changed in it."""
    for sweep in suite.sweeps.values():
        for change in sweep.changes():
            if sweep.name_of(change) == recipe:
                return f"{method_label(sweep.recipe)}: {change_label(change)}"
    return method_label(recipe)


def change_label(change: Mapping[str, Any]) -> str:
    """Changed settings in words: mask all, K2 = 1, norm per layer."""
    at_random = change.get("remove_at_random")
    if at_random is not None:
        change = {name: value for name, value in change.items() if name != "remove_at_random"}
    if at_random:
        change = {_AS_MANY if name == "remove_below" else name: v for name, v in change.items()}
    return ", ".join(
        _CHANGES.get(name, f"{name.removeprefix(OPTIONS).replace('_', ' ')} {{}}").format(
            value_label(value)
        )
        for name, value in change.items()
    )


def value_label(value: Any) -> str:
    """A setting's value as it stands on an axis: a range as 0.5-1."""
    if isinstance(value, list | tuple):
        return "-".join(map(value_label, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, int | float) else str(value).replace("_", " ")


def threat_label(suite: Suite, threat: str) -> str:
    """Linf or L2, or the threat model's own name where two of the table share a norm."""
    norm = suite.threat_models[threat].norm
    same = [name for name in suite.table1.threat_models if suite.threat_models[name].norm == norm]
    return NORM_LABELS[norm] if len(same) <= 1 else threat


def norm_text(name: str) -> str:
    """A threat model as the page writes it: both linf and Linf are L-inf."""
    return NORM_TEXTS.get(name.lower(), name)


def dataset_label(params: Params, suite: Suite, dataset: str) -> str:
    """CIFAR-10 and its like as the paper writes them; any other data set by its own name.

    Of which are those with smaller or fewer images.
    """
    definition = params.datasets[dataset]
    source, whole = definition.source, not (definition.per_class or definition.unlabeled_share)
    same = [name for name in suite.table1.datasets if params.datasets[name].source == source]
    as_published = whole and definition.image_size is None and len(same) <= 1
    return DATASET_LABELS.get(source, dataset) if as_published else dataset


def attack_columns(suite: Suite) -> dict[str, str]:
    """Attack -> column of Table 2: the paper's attacks in its order, then the suite's own."""
    attacks = suite.evaluation.attacks
    extra = {name: name for name in attacks if name not in PAPER_COLUMNS}
    return {name: column for name, column in PAPER_COLUMNS.items() if name in attacks} | extra


def column_label(suite: Suite, attack: str) -> str:
    """An attack as a heading: PGD-20; with norm and radius where they are its own."""
    entry = suite.evaluation.attacks.get(attack)
    column = PAPER_COLUMNS.get(attack, attack)
    if entry is None or not entry.has_other_threat or entry.epsilon is None:
        return COLUMN_LABELS.get(column, column)
    radius = " or ".join(dict.fromkeys(map(str, entry.epsilon.values())))
    return f"{attack} ({NORM_TEXTS[entry.norm]} {radius})" if entry.norm else f"{attack} ({radius})"


def part_label(part: str) -> str:
    """A table or figure as people call it: table1 is Table 1, fig3a is Figure 3a."""
    if part == "beyond":
        return BEYOND_TITLE
    for prefix, word in (("table", "Table"), ("fig", "Figure")):
        number = part.removeprefix(prefix)
        if number != part and number[:1].isdigit():
            return f"{word} {number}"
    return part
