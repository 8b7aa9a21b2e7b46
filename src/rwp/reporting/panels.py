"""Figures of several panels: removal of low-loss examples, and the weight-loss landscape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from rwp.reporting.style import LINES, figure_style, looks, marker_spacing, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def removal_curves(frame: pd.DataFrame) -> Figure:
    """Training without low-loss examples: accuracy above, share removed below, a column per panel.

    `frame`: panel, epoch (from 0), series, value (percent). The series "removed" is the share of
    examples left out; all others are accuracies.
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
        axes[0].legend()
    return figure


# About what guessing among ten classes costs: above it a network is broken, however it was
# trained, and the differences that matter would be flat lines.
CUT = 2.5


def landscape_panels(frame: pd.DataFrame) -> Figure:
    """Loss along a random direction of the weights, by loss group, one panel per checkpoint.

    `frame`: panel (a checkpoint), group (a range of the loss, such as "0.5-1"), offset (mu),
    change (mean loss at w + mu d minus that at w, nats), num_examples of the group. The picture
    is cut at `CUT` nats, and at the offset from which on all curves are above.
    """
    panels = list(frame["panel"].drop_duplicates())
    groups = list(frame["group"].drop_duplicates())
    group_looks = looks(groups)
    columns = min(3, len(panels))
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
        known: dict[str, Any] = {}
        for place in axes[: len(panels)]:
            handles, labels = place.get_legend_handles_labels()
            known |= dict(zip(labels, handles, strict=True))
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
