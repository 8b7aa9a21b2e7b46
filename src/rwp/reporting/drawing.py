"""Pictures of tidy frames, and how they look and are written: data, vector and raster.

Series differ in color, line style and marker, so that none is told apart by color alone. Colors
are those of Okabe and Ito (2008), which people with color vision deficiencies can tell apart; the
yellow is left out, being too faint on white.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from rwp.files import atomic_write
from rwp.reporting.labels import value_label
from rwp.reporting.runs import OK
from rwp.reporting.tables import write_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rwp.reporting.published_curves import BesidePublished

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

LOG_SPAN = 20  # values that span more than this many times are shown on a logarithmic axis
_LONG = 7  # letters from which labels of texts are slanted
_HALF = 40  # letters that fit beside as many in a legend
# About what guessing among ten classes costs: above it a network is broken, however it was
# trained, and the differences that matter would be flat lines.
CUT = 2.5

_SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # looks the same where the font is not installed
    "svg.hashsalt": "rwp",  # the same frame gives the same bytes
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw in the project's style; matplotlib's own settings are restored on exit."""
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]
        yield


def new_figure(*, columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of panels that fits a page's width, and its panels row by row."""
    size = options.pop("size", (3.4 * columns + 2.2 * (columns == 1), 2.9 * rows + 0.6))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(panels.flat)


def looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Name -> color and marker, in a fixed order; no pair twice among 49 names."""
    count = len(COLORS)
    return {
        name: {"color": COLORS[i % count], "marker": MARKERS[(i + i // count) % count]}
        for i, name in enumerate(names)
    }


def marker_spacing(count: int) -> int:
    """Mark about ten points of a long line, every point of a short one."""
    return max(1, count // 10)


def write_figure(figure: Figure, frame: pd.DataFrame, stem: Path | str) -> list[Path]:
    """Write STEM.csv (the data), STEM.svg and STEM.png; equal frames give equal bytes."""
    stem = Path(stem)
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "svg", "png")]
    write_frame(paths[0], frame, float_format="%.6g")
    for path in paths[1:]:
        with atomic_write(path) as temporary:
            temporary.write_bytes(picture(figure, path.suffix[1:]))
    return paths


def picture(figure: Figure, kind: str) -> bytes:
    """The figure as "svg" or "png"; equal figures give equal bytes."""
    silent: dict[str, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}}
    with figure_style(), io.BytesIO() as stream:
        figure.savefig(stream, format=kind, dpi=160, metadata=silent[kind])
        return stream.getvalue()


# Curves


def learning_curves(frame: pd.DataFrame, *, notes: Sequence[str] = ()) -> Figure:
    """Robust accuracy by epoch.

    `frame`: method, split ("test", "held-out", "train"), seed, epoch (from 0), accuracy (percent).
    Methods differ in color and marker, splits in line style; with several seeds the line is their
    mean, the shade their range. Where methods have different numbers of seeds, the legend says so.
    `notes` stand in the legend, too: of trainings that ended early.
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
        told = _with_seeds(frame)
        keys = [Line2D([], [], label=told[name], **method_looks[name]) for name in methods]
        where = ""
        if len(splits) > 1:
            keys += [
                Line2D([], [], color="#555555", linestyle=split_lines[split], label=split)
                for split in splits
            ]
        elif splits:
            where = f" on {splits[0]} images"
        axes.set(ylabel=f"robust accuracy{where} (%)")
        long = [text for name, text in told.items() if text != name] + list(notes)
        if long:  # they would hang out of the axes, or hide the curves
            handles = [*keys, *map(_note, notes)]
            columns = 2 if max(map(len, long)) < _HALF else 1
            figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        else:
            axes.legend(handles=keys, ncols=2)
    return figure


def _with_seeds(frame: pd.DataFrame) -> dict[str, str]:
    """Method -> its name, with its seeds where not all methods have the same.

    How many they are says it, where each method has the first ones of the seeds.
    """
    seeds = {
        str(name): sorted(set(one)) for name, one in frame.groupby("method", sort=False)["seed"]
    }
    every = sorted(set().union(*seeds.values()))
    if all(one == every for one in seeds.values()):
        return {name: name for name in seeds}
    nested = all(one == every[: len(one)] for one in seeds.values())
    return {
        name: f"{name} ({len(one)} seed{'s' * (len(one) > 1)})"
        if nested
        else f"{name} (seed{'s' * (len(one) > 1)} {_ranges(one)})"
        for name, one in seeds.items()
    }


def _ranges(numbers: Sequence[int]) -> str:
    """0, 1, 3 to 9: three or more in a row as a range."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else list(map(str, run)) for run in runs]
    return ", ".join(part for run in parts for part in run)


def attacks(frame: pd.DataFrame) -> Figure:
    """Accuracy of each defense under each attack, one row per defense.

    `frame`: defense, attack, accuracy (percent); rows without a number are left out.
    """
    defenses, names = names_in(frame["defense"]), names_in(frame["attack"])
    attack_looks = looks(names)
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 0.46 * len(defenses) + 1.5))
        for place, name in enumerate(names):
            chosen = frame[(frame["attack"] == name)].dropna(subset="accuracy")
            beside = 0.6 * (place / max(1, len(names) - 1) - 0.5)  # so that no marker hides another
            rows = [defenses.index(defense) + beside for defense in chosen["defense"]]
            axes.plot(chosen["accuracy"], rows, linestyle="", label=name, **attack_looks[name])
        axes.set_yticks(range(len(defenses)), defenses)
        axes.set_ylim(len(defenses) - 0.5, -0.5)  # the first on top, no marker on the edge
        axes.set(xlabel="accuracy (%)")
        figure.legend(loc="outside lower center", ncols=min(6, max(1, len(names))))
    return figure


def curve_overlay(beside: BesidePublished) -> Figure:
    """A run's curve over the published one and its band."""
    frame = beside.frame
    every = marker_spacing(len(frame))
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 4.0))
        axes.fill_between(
            frame["epoch"], frame["low"], frame["high"], color="#cccccc", alpha=0.6, label="band"
        )
        for name, (label, line) in {
            "published": (f"published: {beside.setting}", "--"),
            "ours": (beside.run, "-"),
        }.items():
            style = looks(("ours", "published"))[name]
            axes.plot(
                frame["epoch"], frame[name], linestyle=line, label=label, markevery=every, **style
            )
        first = beside.first_outside
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
    tried: Sequence[float] | None = None,
) -> None:
    """The mean over seeds as a line, where all of them are; their range as a shade.

    Seeds that go further than others are thin lines there: a mean of fewer seeds would look like a
    rise or a fall. Of values of a sweep `tried` has all: at one that lacks a seed the line breaks,
    as it would tell a number that nobody measured, and the other seeds are small marks.
    """
    mean = mean_of_all(frame, x, y)
    known = mean.index
    if tried is not None:
        mean = mean.reindex(sorted(set(tried)))
    spacing = every or marker_spacing(len(mean))
    axes.plot(mean.index, mean, markevery=spacing, **style)  # type: ignore[arg-type]
    grouped = frame.groupby(x, sort=True)[y]
    if (grouped.size() > 1).any():
        low, high = (
            ends.where(ends.index.isin(known)).reindex(mean.index)
            for ends in (grouped.min(), grouped.max())
        )
        axes.fill_between(mean.index.to_numpy(), low, high, color=style["color"], alpha=0.15)
    beyond = frame[~frame[x].isin(known)]
    thin = style | {"marker": None, "linewidth": 0.5, "label": None}
    if tried is not None:
        thin |= {"marker": ".", "linestyle": "none"}
    for _, alone in beyond.groupby("seed"):
        axes.plot(alone[x], alone[y], **thin)  # type: ignore[arg-type]


def mean_of_all(frame: pd.DataFrame, x: str, y: str) -> pd.Series:
    """The mean over seeds at each place where every seed of the frame has a value, in order."""
    grouped = frame.groupby(x, sort=True)[y]
    return grouped.mean()[grouped.size() == frame["seed"].nunique()]


def keys_of(axes: Iterable[Axes]) -> dict[str, Any]:
    """What a legend shows, by name, of whichever panels have it."""
    known: dict[str, Any] = {}
    for place in axes:
        handles, labels = place.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    return known


# Sweeps of a setting


def draw_sweep(
    frame: pd.DataFrame,
    *,
    x_label: str,
    y_label: str = "robust accuracy (%)",
    references: pd.DataFrame | None = None,
    notes: Sequence[str] = (),
) -> Figure:
    """Best and last by value.

    `frame`: value (a number, or a text such as a loss range, in the order of the frame), measure
    ("best", "last"), seed, accuracy (percent), and, where runs may have none, status: those that
    are not "ok" are crosses on the axis, with the status in words. `references`: name, measure,
    accuracy: other recipes, drawn as level lines in the line style of the measure. `notes` stand
    in the legend: what is not drawn.
    """
    places = frame.assign(place=_places(frame["value"]))
    fine = places["status"] == OK if "status" in places else places["accuracy"].notna()
    measures = names_in(places[fine]["measure"])
    others = [] if references is None else names_in(references["name"])
    styles = looks([*measures, *others])
    lines = dict(zip(measures, cycle(LINES), strict=False))
    with figure_style():
        figure, (axes,) = new_figure(size=(6.6, 4.3))
        for measure in measures:
            chosen = places[fine & (places["measure"] == measure)]
            style = styles[measure] | {"linestyle": lines[measure], "label": measure}
            own = places["measure"].eq(measure) | places["measure"].isna()  # of a failed run
            tried = list(places[own]["place"])
            line_over_seeds(axes, chosen, "place", "accuracy", style, every=1, tried=tried)
        for row in [] if references is None else references.to_dict("records"):
            _level(axes, row["accuracy"], styles[row["name"]], lines.get(row["measure"], "-"))
        _label_values(axes, frame["value"])
        _mark_failed(axes, places[~fine])
        axes.set(xlabel=x_label, ylabel=y_label)
        keys: list[Any] = axes.get_legend_handles_labels()[0]
        keys += [Line2D([], [], linewidth=1.1, label=name, **styles[name]) for name in others]
        keys += map(_note, notes)
        columns = max(1, min(2 if notes else 4, len(keys)))  # notes are long
        figure.legend(handles=keys, loc="outside lower center", ncols=columns)
    return figure


def _note(text: str) -> Line2D:
    """A text in a legend, of something that is not drawn."""
    return Line2D([], [], linestyle="none", label=text)


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


# Several panels


def removal_curves(frame: pd.DataFrame, *, notes: Mapping[str, str] | None = None) -> Figure:
    """Training without low-loss examples: accuracy above, share removed below, a column per panel.

    `frame`: panel, epoch (from 0), series, value (percent). The series "removed" is the share of
    examples left out; all others are accuracies. `notes` say of a panel what is not drawn there.
    """
    panels = list(frame["panel"].drop_duplicates())
    accuracies = [name for name in frame["series"].drop_duplicates() if name != "removed"]
    accuracy_looks = looks(accuracies)
    with figure_style():
        figure, axes = new_figure(
            rows=2, columns=len(panels), sharex="col", sharey="row", height_ratios=(2, 1)
        )
        for column, panel in enumerate(panels):
            chosen = frame[frame["panel"] == panel]
            upper, lower = axes[column], axes[len(panels) + column]
            for name, line in zip(accuracies, LINES * len(accuracies), strict=False):
                curve = chosen[chosen["series"] == name]
                upper.plot(
                    curve["epoch"],
                    curve["value"],
                    linestyle=line,
                    markevery=marker_spacing(len(curve)),
                    label=name,
                    **accuracy_looks[name],
                )
            removed = chosen[chosen["series"] == "removed"]
            lower.fill_between(removed["epoch"], removed["value"], color="#999999", step="mid")
            upper.set_title(str(panel))
            lower.set(xlabel="epoch")
            lower.set_ylim(bottom=0)
        axes[0].set_ylabel("robust accuracy (%)")
        axes[len(panels)].set_ylabel("removed (%)")
        for place, panel in zip(axes, panels, strict=False):
            keys: list[Any] = place.get_legend_handles_labels()[0] if place is axes[0] else []
            text = (notes or {}).get(str(panel))
            keys += [_note(text)] if text else []
            if keys:
                place.legend(handles=keys)
    return figure


def movement_panels(frame: pd.DataFrame, *, since: int) -> Figure:
    """Share of the images of each loss group that is in the lowest one, a panel per recipe.

    `frame`: panel, group (a range of the loss at epoch `since`), seed, epoch (from 0), images,
    share (percent).
    """
    panels, groups = names_in(frame["panel"]), names_in(frame["group"])
    group_looks = looks(groups)
    with figure_style():
        figure, axes = new_figure(columns=len(panels), sharey="row")
        for axis, panel in zip(axes, panels, strict=True):
            part = frame[frame["panel"] == panel]
            for group in groups:
                chosen = part[part["group"] == group]
                if len(chosen):
                    style = {**group_looks[group], "label": group}
                    line_over_seeds(axis, chosen, "epoch", "share", style)
            axis.axvline(since, color="#888888", linewidth=0.8)
            axis.set_title(panel)
            _epochs(axis)
        axes[0].set_ylabel("in the lowest loss group (%)")
        known = keys_of(axes)
        shown = [group for group in groups if group in known]
        axes[-1].legend([known[group] for group in shown], shown, title="loss (nats)")
    return figure


def landscape_panels(frame: pd.DataFrame) -> Figure:
    """Loss along a random direction of the weights, by loss group, one panel per checkpoint.

    `frame`: panel (a checkpoint), split where there are several (each is a row of panels), group (a
    range of the loss, such as "0.5-1"), offset (mu), change (mean loss at w + mu d minus that at w,
    nats), num_examples of the group. The picture is cut at `CUT` nats, and at the offset from which
    on all curves are above.
    """
    panels = list(frame["panel"].drop_duplicates())
    groups = list(frame["group"].drop_duplicates())
    group_looks = looks(groups)
    splits = (
        [part["panel"].nunique() for _, part in frame.groupby("split")] if "split" in frame else []
    )
    columns = max(splits) if len(splits) > 1 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    with figure_style():
        figure, axes = new_figure(rows=rows, columns=columns, sharex=True, sharey=True)
        for place, panel in zip(axes, panels, strict=False):
            chosen = frame[frame["panel"] == panel]
            for group, line in zip(groups, LINES * len(groups), strict=False):
                curve = chosen[chosen["group"] == group].sort_values("offset")
                place.plot(
                    curve["offset"],
                    curve["change"],
                    linestyle=line,
                    markevery=marker_spacing(len(curve)),
                    label=group,
                    **group_looks[group],
                )
            place.set_title(str(panel))
        _cut(axes[0], frame)
        for place in axes[max(0, len(panels) - columns) : len(panels)]:
            place.tick_params(labelbottom=True)
        for place in axes[len(panels) :]:
            place.set_axis_off()
        figure.supxlabel("offset along the direction, in lengths of each filter")
        figure.supylabel("change of the mean loss (nats)")
        known = keys_of(axes[: len(panels)])
        # Above: below stands the label that the panels share.
        title = "loss group (nats)"
        figure.legend(
            [known[group] for group in groups],
            groups,
            loc="outside upper center",
            ncols=min(6, len(groups)),
            title=title,
        )
    return figure


def _cut(axes: Axes, frame: pd.DataFrame) -> None:
    """Show where curves differ; all panels share these limits."""
    shown = frame[frame["change"] <= CUT]
    if len(shown) == len(frame) or shown.empty:
        return
    widest = 1.02 * shown["offset"].abs().max()
    axes.set_xlim(-widest, widest)
    axes.set_ylim(min(0.0, shown["change"].min()) - 0.05 * CUT, CUT)
