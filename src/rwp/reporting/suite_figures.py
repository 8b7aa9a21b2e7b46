"""The figures that a suite names, from what trainings and landscapes left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rwp.errors import UserError
from rwp.pipeline.resolve import landscape_spec
from rwp.pipeline.settings import (
    CurvesFigure,
    LandscapeFigure,
    Params,
    RemovalFigure,
    SweepFigure,
    choose,
    get_suite,
)
from rwp.pipeline.suites import setting_keys, sweep_rows
from rwp.reporting import figures as draw
from rwp.reporting.cells import change_label, method_label, value_label
from rwp.reporting.learning import curve_frame
from rwp.reporting.measurements import OK
from rwp.reporting.panels import landscape_panels, removal_curves
from rwp.reporting.runs import read_run
from rwp.reporting.style import write_figure
from rwp.reporting.sweeps import draw_sweep
from rwp.reporting.tables import LAST_EPOCHS, run_numbers
from rwp.training.spec import RunKey, suite_directory

# What a sweep shows of each run, by its name in the tables.
_SWEEP_COLUMNS = ["name", "value", "measure", "seed", "accuracy", "status", "run"]
SHOWN = {"best": "best", "last_epochs_mean": f"mean of the last {LAST_EPOCHS} epochs"}


def write_suite_figure(
    params: Params, suite_name: str, name: str, *, root: Path | str = "."
) -> list[Path]:
    """Write NAME.csv, NAME.svg and NAME.png into the suite's folder.

    Raises:
        UserError: the suite has no such figure, or nothing of it is there yet.
    """
    suite = get_suite(params, suite_name)
    entry = choose(suite.figures, name, "figure", f"params.yaml: suites.{suite_name}.figures")
    if isinstance(entry, CurvesFigure):
        frame, figure = _curves(params, suite_name, entry, root)
    elif isinstance(entry, SweepFigure):
        frame, figure = _sweep(params, suite_name, entry, root)
    elif isinstance(entry, RemovalFigure):
        frame, figure = _removal(params, suite_name, entry, root)
    else:
        frame, figure = _landscape(params, suite_name, name, entry, root)
    return write_figure(figure, frame, Path(root) / suite_directory(suite_name) / name)


def _need(frame: pd.DataFrame, keys: Sequence[RunKey]) -> None:
    if frame.empty:
        folders = ", ".join(str(key.directory) for key in keys)
        raise UserError(f"figure: expected trained runs, got none; train {folders} first")


def _curves(
    params: Params, suite_name: str, entry: CurvesFigure, root: Path | str
) -> tuple[pd.DataFrame, Figure]:
    keys = [
        key for recipe in entry.recipes for key in setting_keys(params, suite_name, entry, recipe)
    ]
    frame = curve_frame(params, keys, root=root, splits=entry.splits)
    _need(frame, keys)
    return frame, draw.learning_curves(frame)


def _sweep(
    params: Params, suite_name: str, entry: SweepFigure, root: Path | str
) -> tuple[pd.DataFrame, Figure]:
    """Best and last by value; other recipes beside them as the rows that have a name."""
    rows: list[dict[str, Any]] = []
    keys: list[RunKey] = []
    for change, runs in sweep_rows(params, suite_name, entry, entry.sweep):
        keys += runs
        rows += _numbers(params, runs, root, value=_value(change), name="")
    for recipe in entry.references:
        runs = setting_keys(params, suite_name, entry, recipe)
        rows += _numbers(params, runs, root, value=None, name=method_label(recipe))
    frame = pd.DataFrame(rows, columns=_SWEEP_COLUMNS)
    swept = frame[frame["name"] == ""].drop(columns="name")
    _need(swept[swept["status"] != "missing"], keys)  # failed ones are shown as such
    known = frame[(frame["name"] != "") & (frame["status"] == OK)]
    references = known.groupby(["name", "measure"], sort=False)["accuracy"].mean()
    figure = draw_sweep(
        swept.assign(value=swept["value"].infer_objects()),
        x_label=entry.label,
        references=references.reset_index() if len(references) else None,
    )
    return frame, figure


def _value(change: dict[str, Any]) -> float | str:
    """One number as it is; a range or several settings as a text."""
    values = list(change.values())
    if len(values) == 1 and isinstance(values[0], int | float):
        return values[0]
    return ", ".join(map(value_label, values))


def _numbers(
    params: Params, keys: Sequence[RunKey], root: Path | str, *, value: Any, name: str
) -> list[dict[str, Any]]:
    """Both measures of each run; a run without numbers is one row that says why."""
    rows = []
    for key in keys:
        run = read_run(params, key, root=root)
        numbers = run_numbers(run)
        place = {"name": name, "value": value, "seed": key.seed, "run": run.name}
        found = [
            place | {"measure": label, "accuracy": numbers[measure], "status": OK}
            for measure, label in SHOWN.items()
            if numbers.get(measure) is not None
        ]
        rows += found or [place | {"status": numbers.get("status") or run.status}]
    return rows


def _removal(
    params: Params, suite_name: str, entry: RemovalFigure, root: Path | str
) -> tuple[pd.DataFrame, Figure]:
    """Per threshold: test and train curves of the run, that of plain training, share removed."""
    sweep = get_suite(params, suite_name).sweeps[entry.sweep]
    plain = setting_keys(params, suite_name, entry, sweep.recipe)
    rows: list[dict[str, Any]] = []
    keys = [*plain]
    for change, runs in sweep_rows(params, suite_name, entry, entry.sweep):
        keys += runs
        panel = change_label(change)
        shown = {"test": runs, "train": runs, f"{method_label(sweep.recipe)}, test": plain}
        for series, series_keys in shown.items():
            split = series.rpartition(", ")[2]
            curve = curve_frame(params, series_keys, root=root, splits=[split])
            mean = curve.groupby("epoch")["accuracy"].mean()
            rows += [
                {"panel": panel, "series": series, "epoch": e, "value": v} for e, v in mean.items()
            ]
        rows += _removed(params, runs, root, panel)
    frame = pd.DataFrame(rows, columns=["panel", "epoch", "series", "value"])
    _need(frame, keys)
    return frame, removal_curves(frame)


def _removed(
    params: Params, keys: Sequence[RunKey], root: Path | str, panel: str
) -> list[dict[str, Any]]:
    shares = pd.DataFrame(
        [
            {"epoch": row["epoch"], "value": 100 * row["share_removed"]}
            for run in (read_run(params, key, root=root) for key in keys)
            if run.status not in ("stale", "inconsistent")
            for row in run.history
            if "share_removed" in row
        ],
        columns=["epoch", "value"],
    )
    mean = shares.groupby("epoch")["value"].mean()
    return [
        {"panel": panel, "series": "removed", "epoch": epoch, "value": value}
        for epoch, value in mean.items()
    ]


def _landscape(
    params: Params, suite_name: str, name: str, entry: LandscapeFigure, root: Path | str
) -> tuple[pd.DataFrame, Figure]:
    spec = landscape_spec(params, suite_name, name)
    path = Path(root) / spec.result(name)
    if not path.exists():
        raise UserError(
            f"{path}: expected measured losses, found none; run: rwp landscape {name}"
            f" --suite {suite_name}"
        )
    measured = pd.read_csv(path)
    run = read_run(params, spec.key, root=root)
    mark = "" if run.finished else f" ({run.status})"
    frame = measured.assign(panel=[f"after epoch {epoch}{mark}" for epoch in measured["epoch"]])
    columns = ["panel", "epoch", "group", "offset", "change", "loss", "num_examples"]
    return frame[columns], landscape_panels(frame)
