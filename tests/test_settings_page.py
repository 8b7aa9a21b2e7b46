"""docs/settings.md has a row for every setting, and none for what is no setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from rwp.core.settings import Loss, Mask
from rwp.data.spec import DatasetSpec, UnlabeledSpec
from rwp.evaluation.spec import WITHOUT_EFFECT
from rwp.pipeline import settings
from rwp.pipeline.extends import EXTENDS
from rwp.training.spec import OwnNetworkSpec, PreActResNetSpec, WideResNetSpec
from tests.conftest import ROOT

PAGE = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\bRWP_[A-Z0-9_]+\b")
SECTIONS: dict[type, str] = {
    settings.Params: "Top level",
    DatasetSpec: "datasets",
    UnlabeledSpec: "unlabeled",
    PreActResNetSpec: "networks: preact_resnet",
    WideResNetSpec: "networks: wide_resnet",
    OwnNetworkSpec: "networks: your own",
    settings.Suite: "suites",
    settings.ThreatModelEntry: "threat_models",
    settings.TrainingEntry: "training",
    settings.ObjectiveEntry: "objectives",
    settings.UnlabeledEntry: "objectives: unlabeled",
    settings.PerturbationEntry: "perturbations",
    settings.RecipeEntry: "recipes",
    settings.StartEntry: "recipes: start",
    settings.Change: "recipes: change",
    settings.SweepEntry: "sweeps",
    settings.Table1Entry: "table1",
    settings.Table2Entry: "table2",
    settings.AlsoAttacked: "also_attacked",
    settings.BeyondEntry: "beyond",
    settings.BeyondGroup: "beyond: groups",
    settings.Setting: "Setting of a figure or group",
    settings.CurvesFigure: "figures: curves",
    settings.SweepFigure: "figures: sweep",
    settings.RemovalFigure: "figures: removal",
    settings.LandscapeFigure: "figures: landscape",
    settings.MovementFigure: "figures: movement",
    settings.SearchFigure: "figures: search",
    settings.EvaluationEntry: "evaluation",
    settings.AttackEntry: "evaluation: attacks",
}
# Words of settings that may also be a factory, which no Literal lists.
WORDS: dict[tuple[type, str], tuple[str, ...]] = {
    (settings.ObjectiveEntry, "loss"): get_args(Loss),
    (settings.PerturbationEntry, "mask"): get_args(Mask),
    (settings.AttackEntry, "kind"): tuple(WITHOUT_EFFECT),
}
Fields = dict[str, tuple[Any, Any]]  # by name: annotation and default


def parts_of(kind: Any) -> Iterator[Any]:
    """An annotation and all that it is made of, but for the words of a Literal."""
    yield kind
    if get_origin(kind) is not Literal:
        for part in get_args(kind):
            yield from parts_of(part)


def fields_of(model: type) -> Fields:
    """The fields that a table has rows for; those of a table that it extends have theirs there."""
    if issubclass(model, BaseModel):
        inherited = {
            name
            for base in model.__mro__[1:]
            for name in getattr(base, "model_fields", {})
            if base in SECTIONS or name in settings.CHANGEABLE
        }
        return {
            name: ((one.annotation, *one.metadata), {} if one.default_factory else one.default)
            for name, one in model.model_fields.items()
            if name not in inherited
        }
    assert is_dataclass(model)
    hints = get_type_hints(model, include_extras=True)
    found: Fields = {}
    for one in fields(model):
        default: Any = PydanticUndefined if one.default_factory is MISSING else {}
        default = default if one.default is MISSING else one.default
        found[one.name] = ((hints[one.name],), default)
    return found


@cache
def models() -> dict[type, Fields]:
    """All tables below the whole of the settings, with the fields that are their own."""
    found: dict[type, Fields] = {}
    todo: list[type] = [settings.Params]
    while todo:
        model = todo.pop()
        if model in found:
            continue
        found[model] = fields_of(model)
        todo += [base for base in model.__bases__ if base is settings.Setting]
        kinds = [
            part for kind, _ in found[model].values() for one in kind for part in parts_of(one)
        ]
        todo += [
            kind
            for kind in kinds
            if isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))
        ]
    return found


@cache
def rows(section: str) -> dict[str, list[str]]:
    """By setting: the cells of its row in a section."""
    text = re.search(rf"^##+ {re.escape(section)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert text is not None, f"docs/settings.md: expected the section {section!r}, found none"
    found: dict[str, list[str]] = {}
    for block in re.findall(r"^\| setting \|.*\n\|[-|]+\n((?:\|.*\n)+)", text[1], re.M):
        for line in block.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found |= dict.fromkeys(re.findall(r"`(\w+)`", cells[0]), cells)
    return found


@pytest.mark.parametrize("model", sorted(models(), key=str))
def test_each_setting_has_a_row_that_says_what_it_takes(model: type) -> None:
    assert model in SECTIONS, f"{model.__name__}: expected a section in docs/settings.md, got none"
    section, own = SECTIONS[model], models()[model]
    found = rows(section)
    named = set(own) | ({EXTENDS} if model is settings.Suite else set())
    assert sorted(named - set(found)) == [], f"settings without a row in the section {section!r}"
    assert sorted(set(found) - named) == [], f"rows of {section!r} that are no settings"
    wrong: list[str] = []
    for name, (kinds, default) in own.items():
        _, values, said, does = found[name]
        parts = [part for kind in kinds for part in parts_of(kind)]
        words = [w for part in parts if get_origin(part) is Literal for w in get_args(part)]
        words += WORDS.get((model, name), ())
        wrong += [f"{name}: `{w}`" for w in words if f"`{w}`" not in values.replace('"', "")]
        by_run = any(
            getattr(getattr(p, "func", None), "__name__", "") == "_settings_table" for p in parts
        )
        wrong += [f"{name}: or a table"] * (by_run != ("or a table" in values))
        expected = said_of(default)
        wrong += [f"{name}: default {expected}"] * (not said.startswith(expected) or not does)
        wrong += [f"{name}: required"] * (said.startswith("required") != (expected == "required"))
    assert wrong == [], f"rows of {section!r} that lack a word, or say another default"


def said_of(default: Any) -> str:
    """How the third cell of a row begins."""
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int | float):
        return f"`{default:g}`"
    return f"`{default or chr(34) * 2}`" if isinstance(default, str) else "empty"


def test_each_variable_of_the_environment_is_on_the_page_and_exists() -> None:
    found: dict[bool, set[str]] = {True: set(), False: set()}
    for place in ("src", "workflow", "profiles", "Makefile", "Snakefile", "tests"):
        for path in [ROOT / place, *sorted((ROOT / place).rglob("*"))]:
            if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".npz":
                names = VARIABLE.findall(path.read_text(encoding="utf-8", errors="replace"))
                found[place != "tests"] |= set(names)
    named = set(re.findall(r"^\| .*", PAGE.partition("## Environment variables")[2], re.M))
    shown = {name for line in named for name in VARIABLE.findall(line.split(" | ")[0])}
    assert sorted(found[True] - shown) == [], "variables that docs/settings.md lacks"
    assert sorted(shown - found[True] - found[False]) == [], "variables that nothing reads"
