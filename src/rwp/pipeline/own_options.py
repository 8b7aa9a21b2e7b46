"""Options of a recipe's own factories: as declared, with what the recipe itself changes."""

from __future__ import annotations

from typing import Any

from rwp.errors import UserError
from rwp.factories import is_own
from rwp.pipeline.settings import RecipeEntry, Suite

Options = dict[str, Any]


def own_options(suite: Suite, recipe: RecipeEntry, where: str) -> tuple[Options, Options]:
    """The options of a recipe's objective, and of its mask or perturbation.

    A changed option belongs to the one factory that the recipe has; of two, to the one that
    declares it.

    Raises:
        UserError: there is no such factory, or both or neither of two declare the option.
    """
    objective = suite.objectives[recipe.objective]
    declared: dict[str, Options] = {}
    if is_own(objective.loss):
        declared[objective.loss] = dict(objective.options)
    factory = _perturbing(suite, recipe)
    if factory is not None:
        declared[factory] = dict(_perturbing_options(suite, recipe))
    owners = {
        name: _owner(declared, name, f"{where}.change.options.{name}")
        for name in recipe.change.options
    }
    changed = {
        text: options | {n: v for n, v in recipe.change.options.items() if owners[n] == text}
        for text, options in declared.items()
    }
    return changed.get(objective.loss, {}), changed.get(factory or "", {})


def _perturbing(suite: Suite, recipe: RecipeEntry) -> str | None:
    """The factory of a recipe's perturbation or mask, if one of the user's own is at work."""
    if recipe.perturbation is None:
        return None
    entry = suite.perturbations[recipe.perturbation]
    mask = "range" if recipe.change.loss_range else recipe.change.mask or entry.mask
    return entry.factory or (mask if is_own(mask) else None)


def _perturbing_options(suite: Suite, recipe: RecipeEntry) -> Options:
    """Those declared; a mask that the recipe puts in another's place has none of them."""
    entry = suite.perturbations[recipe.perturbation or ""]
    replaced = entry.factory is None and recipe.change.mask not in (None, entry.mask)
    return {} if replaced else entry.options


def _owner(declared: dict[str, Options], name: str, where: str) -> str:
    if not declared:
        raise UserError(
            f"{where}: expected an objective, mask or perturbation of your own "
            "(package.module:factory), which options are for, got none; remove it"
        )
    having = [text for text, options in declared.items() if name in options]
    if len(declared) > 1 and len(having) != 1:
        both = " and ".join(declared)
        found = "both" if having else "neither"
        raise UserError(
            f"{where}: expected one of {both} to have it among its options, got {found}; "
            "declare it beside the factory that takes it, under a name of its own"
        )
    return next(iter(having or declared))
