"""Figures drawn from tidy frames: learning curves, attacks, and a curve over another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from rwp.reporting.curves import CurveComparison
from rwp.reporting.style import LINES, figure_style, looks, marker_spacing, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curves(frame: pd.DataFrame, *, title: str = "") -> Figure:
    """Robust accuracy by epoch.

    `frame`: method, split ("test", "held-out", "train"), seed, epoch (from 0), accuracy (percent).
    Methods differ in color and marker, splits in line style; with several seeds the line is their
    mean, the shade their range.
    """
    methods, splits = names_in(frame["method"]), names_in(frame["split"])
    method_looks = looks(methods)
    split_lines: dict[str, Any] = dict(zip(splits, LINES, strict=False))
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 4.0))
        for method in methods:
            for split in splits:
                chosen = frame[(frame["method"] == method) & (frame["split"] == split)]
                if len(chosen):
                    style = method_looks[method] | {"linestyle": split_lines[split]}
                    line_over_seeds(axes, chosen, "epoch", "accuracy", style)
        _epochs(axes)
        axes.set(ylabel="robust accuracy (%)", title=title)
        keys = [Line2D([], [], label=method, **method_looks[method]) for method in methods]
        keys += [
            Line2D([], [], color="#555555", linestyle=split_lines[split], label=split)
            for split in splits
        ]
        axes.legend(handles=keys, ncols=2)
    return figure


def attacks(frame: pd.DataFrame, *, title: str = "") -> Figure:
    """Accuracy of each defense under each attack, one row per defense.

    `frame`: defense, attack, accuracy (percent); rows without a number are left out.
    """
    defenses, names = names_in(frame["defense"]), names_in(frame["attack"])
    attack_looks = looks(names)
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 0.34 * len(defenses) + 1.5))
        for name in names:
            chosen = frame[(frame["attack"] == name)].dropna(subset="accuracy")
            rows = [defenses.index(defense) for defense in chosen["defense"]]
            axes.plot(chosen["accuracy"], rows, linestyle="", label=name, **attack_looks[name])
        axes.set_yticks(range(len(defenses)), defenses)
        axes.set_ylim(len(defenses) - 0.5, -0.5)  # the first on top, no marker on the edge
        axes.set(xlabel="accuracy (%)", title=title)
        figure.legend(loc="outside lower center", ncols=min(6, max(1, len(names))))
    return figure


def curve_overlay(comparison: CurveComparison) -> Figure:
    """A run's curve over the published one and its band."""
    frame = comparison.frame
    every = marker_spacing(len(frame))
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 4.0))
        axes.fill_between(
            frame["epoch"], frame["low"], frame["high"], color="#cccccc", alpha=0.6, label="band"
        )
        for name, (label, line) in {
            "published": (f"published: {comparison.setting}", "--"),
            "ours": (comparison.run, "-"),
        }.items():
            style = looks(("ours", "published"))[name]
            axes.plot(
                frame["epoch"], frame[name], linestyle=line, label=label, markevery=every, **style
            )
        first = comparison.first_outside
        if first is not None:
            axes.axvline(first, color="#555555", linestyle=":", label=f"leaves at epoch {first}")
        _epochs(axes)
        axes.set(ylabel="robust test accuracy (%)")
        axes.legend()
    return figure


def _epochs(axes: Axes) -> None:
    """Label an axis of epochs, which are whole."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")


def names_in(column: pd.Series) -> list[str]:
    """Distinct values in the order of the frame."""
    return [str(value) for value in column.drop_duplicates()]


def line_over_seeds(
    axes: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    style: dict[str, object],
    *,
    every: int | None = None,
) -> None:
    """The mean over seeds as a line; their range as a shade, where there are several."""
    grouped = frame.groupby(x, sort=True)[y]
    mean = grouped.mean()
    spacing = every or marker_spacing(len(mean))
    axes.plot(mean.index, mean, markevery=spacing, **style)  # type: ignore[arg-type]
    if (grouped.size() > 1).any():
        axes.fill_between(
            mean.index.to_numpy(), grouped.min(), grouped.max(), color=style["color"], alpha=0.15
        )
