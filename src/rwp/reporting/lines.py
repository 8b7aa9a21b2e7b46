"""What a suite shows: each table and figure, line by line, with the runs behind each line.

Tables, figures and the comparison with the paper use these lines, and the files that
`rwp.reporting.results` has read; which runs they are of `rwp.pipeline.suites` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rwp.evaluation.spec import EvaluationSpec
from rwp.pipeline.lookup import get_suite
from rwp.pipeline.resolve import step_size, train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.settings import (
    CurvesFigure,
    LandscapeFigure,
    MovementFigure,
    Params,
    SearchFigure,
    Suite,
)
from rwp.pipeline.steps import Step, Steps
from rwp.pipeline.suites import BEYOND, TABLES, Row, rows_of
from rwp.reporting.labels import (
    NORM_TEXTS,
    change_label,
    dataset_label,
    method_label,
    norm_text,
    part_label,
    recipe_label,
    threat_label,
    value_label,
)
from rwp.training.spec import AttackSpec, RunKey, TrainSpec


@dataclass(frozen=True)
class Line:
    """A row of a table or a curve of a figure: its labels, and the runs behind it."""

    labels: Mapping[str, Any]  # by column
    keys: tuple[RunKey, ...]  # one per seed
    method: str  # the recipe as people name it, with what a sweep changes in it
    training: TrainSpec  # of the first seed
    attacked: Mapping[str, EvaluationSpec]  # attack -> what is done to the best network; in Table 2

    @property
    def recipe(self) -> str:
        """The recipe of all its runs."""
        return self.keys[0].recipe

    @property
    def dataset(self) -> str:
        """The data set of all its runs."""
        return self.keys[0].dataset


@dataclass(frozen=True)
class Part:
    """A table or figure: what people call it, the step that makes it, and its lines."""

    label: str
    step: Step
    lines: tuple[Line, ...]
    place: str  # data sets, threat models and networks of its runs

    @property
    def keys(self) -> list[RunKey]:
        """The runs behind it, each once."""
        return list(dict.fromkeys(key for line in self.lines for key in line.keys))

    @property
    def references(self) -> tuple[Line, ...]:
        """Of a figure of a sweep: the recipes beside it."""
        return tuple(line for line in self.lines if line.labels["name"])

    @property
    def swept(self) -> tuple[Line, ...]:
        """Of a figure of a sweep: a line for each of its values."""
        return tuple(line for line in self.lines if not line.labels["name"])


def part_of(steps: Steps, suite_name: str, name: str) -> Part:
    """A table or figure of a suite.

    Raises:
        UserError: the suite has no such table or figure, or a table of upper bounds.
    """
    params = steps.params
    table = name in (*TABLES, BEYOND)
    step = steps.table(suite_name, name) if table else steps.figure(suite_name, name)
    lines = tuple(lines_of(params, suite_name, name))
    suite, keys = params.suites[suite_name], [key for line in lines for key in line.keys]
    norms = [suite.threat_models[key.threat].norm for key in keys if key.threat != "none"]
    place = (
        [dataset_label(params, suite, key.dataset) for key in keys],
        [NORM_TEXTS.get(norm, norm) for norm in norms] or ["none"],
        [key.network for key in keys],
    )
    words = ", ".join(" and ".join(dict.fromkeys(each)) for each in place)
    return Part(part_label(name), step, lines, words)


def lines_of(params: Params, suite_name: str, name: str) -> Iterator[Line]:
    """The lines of a table or figure, in its order."""
    suite = get_suite(params, suite_name)
    for row in rows_of(params, suite_name, name):
        labels = _labels(params, suite, name, row)
        method, training = recipe_label(suite, row.recipe), train_spec(params, row.keys[0])
        names = suite.evaluation.attacks if name == "table2" else ()
        attacked = {name: evaluation_spec(params, row.keys[0], attacks=(name,)) for name in names}
        yield Line(labels, row.keys, method, training, attacked)


def _labels(params: Params, suite: Suite, name: str, row: Row) -> dict[str, Any]:
    """What a row is called, by the columns of its table or figure."""
    key = row.keys[0]
    if name == "table1":
        return {
            "threat_model": threat_label(suite, row.group),
            "method": method_label(row.recipe),
            "dataset": dataset_label(params, suite, key.dataset),
        }
    if name == "table2":
        return {"defense": method_label(row.recipe)}
    if name == BEYOND:
        return {
            "group": row.group,
            "method": recipe_label(suite, row.recipe),
            "dataset": key.dataset,
            "threat_model": key.threat,
            "network": key.network,
        }
    entry = suite.figures[name]
    if isinstance(entry, LandscapeFigure):
        return {}
    if isinstance(entry, CurvesFigure | MovementFigure):
        return {"method": method_label(row.recipe)}
    if isinstance(entry, SearchFigure) and row.sweep is not None:
        value = change_label(row.change)
        return {"measure": method_label(row.sweep.recipe), "value": value, "recipe": row.recipe}
    if row.sweep is None:
        return {"name": method_label(row.recipe), "value": None, "panel": ""}
    return {"name": "", "value": _value(row.change), "panel": change_label(row.change)}


def measured_otherwise(suite: Suite, lines: Iterable[Line]) -> list[str]:
    """Rows and curves whose epochs are measured in another way than the usual one.

    That is PGD at the radius and with the steps of the threat model, from a uniform start, where
    the last image counts. One text each, such as "RST (epsilon 0.031)"; a method that is measured
    so at some places alone is named with them: "AT on svhn, L2 (random start off_ball)".
    """
    found: dict[str, dict[str, dict[str, None]]] = {}  # method -> what differs -> where
    for line in lines:
        own, key = line.training.monitor, line.keys[0]
        if own is not None:
            differing = ", ".join(monitors_differ(_usual_monitor(suite, line, own), own))
            place = f"{key.dataset}, {norm_text(key.threat)}"
            found.setdefault(line.method, {}).setdefault(differing, {})[place] = None
    return [
        f"{method}{' on ' + ' and '.join(places) if len(ways) > 1 else ''} ({differing})"
        for method, ways in found.items()
        for differing, places in ways.items()
        if differing
    ]


def _usual_monitor(suite: Suite, line: Line, own: AttackSpec) -> AttackSpec:
    """By what a training's epochs are measured where the settings do not say otherwise."""
    threat, step = line.training.threat or own.threat, step_size(suite, line.keys[0])
    return own.replace(threat=threat, step_size=step, random_start=None, keep="last")


def monitors_differ(usual: AttackSpec, own: AttackSpec) -> list[str]:
    """What another way of measuring each epoch does, setting by setting; empty where it is one."""
    usual, own = (s.replace(random_start=s.random_start or "uniform") for s in (usual, own))
    return [
        f"epsilon {own.threat.epsilon}"
        if name == "threat"
        else f"{name.replace('_', ' ')} {getattr(own, name)}"
        for name in own.differing(usual)
    ]


def _value(change: Mapping[str, Any]) -> float | str:
    """One number as it is; a range or several settings as a text."""
    values = list(change.values())
    if len(values) == 1 and isinstance(values[0], int | float):
        return values[0]
    return ", ".join(map(value_label, values))
