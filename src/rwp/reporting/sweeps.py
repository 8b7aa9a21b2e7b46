"""Accuracy against a setting that is varied, other recipes as level lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from rwp.reporting.cells import value_label
from rwp.reporting.figures import line_over_seeds, names_in
from rwp.reporting.measurements import OK
from rwp.reporting.style import LINES, figure_style, looks, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_SPAN = 20  # values that span more than this many times are shown on a logarithmic axis
_LONG = 7  # letters from which labels of texts are slanted


def draw_sweep(
    frame: pd.DataFrame,
    *,
    x_label: str,
    y_label: str = "robust accuracy (%)",
    references: pd.DataFrame | None = None,
) -> Figure:
    """Best and last by value.

    `frame`: value (a number, or a text such as a loss range, in the order of the frame), measure
    ("best", "last"), seed, accuracy (percent), and, where runs may have none, status: those that
    are not "ok" are crosses on the axis, with the status in words. `references`: name, measure,
    accuracy: other recipes, drawn as level lines in the line style of the measure.
    """
    places = frame.assign(place=_places(frame["value"]))
    fine = places["status"] == OK if "status" in places else places["accuracy"].notna()
    measures = names_in(places[fine]["measure"])
    others = [] if references is None else names_in(references["name"])
    styles = looks([*measures, *others])
    lines = dict(zip(measures, LINES, strict=False))
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 4.3))
        for measure in measures:
            chosen = places[fine & (places["measure"] == measure)]
            style = styles[measure] | {"linestyle": lines[measure], "label": measure}
            line_over_seeds(axes, chosen, "place", "accuracy", style, every=1)
        for row in [] if references is None else references.to_dict("records"):
            _level(axes, row["accuracy"], styles[row["name"]], lines.get(row["measure"], "-"))
        _label_values(axes, frame["value"])
        _mark_failed(axes, places[~fine])
        axes.set(xlabel=x_label, ylabel=y_label)
        keys: list[Any] = axes.get_legend_handles_labels()[0]
        keys += [Line2D([], [], linewidth=1.1, label=name, **styles[name]) for name in others]
        figure.legend(handles=keys, loc="outside lower center", ncols=max(1, min(4, len(keys))))
    return figure


def _places(values: pd.Series) -> pd.Series:
    """Numbers are their own place on an axis; texts stand one after the other."""
    if pd.api.types.is_numeric_dtype(values):
        return values
    return values.astype(str).map({name: place for place, name in enumerate(names_in(values))})


def _label_values(axes: Axes, values: pd.Series) -> None:
    """A tick for each value that was tried, and none between them."""
    if not pd.api.types.is_numeric_dtype(values):
        names = names_in(values)
        axes.set_xticks(range(len(names)), names)
        if max(map(len, names)) > _LONG:
            axes.tick_params(axis="x", labelrotation=30)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")
        return
    if values.min() > 0 and values.max() > LOG_SPAN * values.min():
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    tried: Sequence[float] = sorted(values.unique())
    axes.set_xticks(tried, [value_label(value) for value in tried])


def _level(axes: Axes, accuracy: float, style: dict[str, Any], line: str) -> None:
    """A level line, marked at both ends so that it is not told by its color alone."""
    axes.plot(
        [0, 1],
        [accuracy, accuracy],
        transform=axes.get_yaxis_transform(),
        linestyle=line,
        linewidth=1.1,
        clip_on=False,
        **style,
    )


def _mark_failed(axes: Axes, failed: pd.DataFrame) -> None:
    """A cross at the foot of the axis for each value whose run has no number, and why."""
    for _, rows in failed.groupby("place"):
        place = float(rows["place"].iloc[0])
        axes.plot(
            place, 0.04, "x", color="#8c1414", markersize=7, transform=axes.get_xaxis_transform()
        )
        axes.annotate(
            ", ".join(names_in(rows["status"])),
            (place, 0.08),
            xycoords=axes.get_xaxis_transform(),
            rotation=90,
            color="#8c1414",
            fontsize=8,
            ha="center",
            va="bottom",
        )
