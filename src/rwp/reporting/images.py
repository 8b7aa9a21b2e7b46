"""The figures of the report, as pictures that lie inside the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from rwp.pipeline.settings import Params, get_suite
from rwp.pipeline.suites import figure_names
from rwp.reporting import figures as draw
from rwp.reporting.cells import COLUMN_LABELS, NORM_LABELS, dataset_label
from rwp.reporting.gaps import Gap, fill
from rwp.reporting.learning import curve_frame, table1_curve_keys
from rwp.reporting.metrics import averages
from rwp.reporting.origins import part_label, runs_of
from rwp.reporting.style import picture
from rwp.reporting.tables import Table
from rwp.training.spec import RunKey, suite_directory

# Figures that have a file of their own in the suite's folder, and what they show.
CAPTIONS = {
    "fig1a": "Figure 1a: robust accuracy by the size of AWP's weight perturbation",
    "fig1b": "Figure 1b: learning curve of AT",
    "fig1c": "Figure 1c: AWP restricted to one range of the loss",
    "fig2": "Figure 2: weight loss landscape by loss group",
    "fig3a": "Figure 3a: robust accuracy by c_min",
    "fig3b": "Figure 3b: robust accuracy by the number of weight steps",
    "fig3c": "Figure 3c: learning curves of AT, AT-AWP and AT-RWP",
    "fig4a": "Figure 4a: AT without low-loss examples, and the share removed",
    "fig4b": "Figure 4b: AT without low-loss examples, and the share removed",
    "fig4c": "Figure 4c: AT without low-loss examples, and the share removed",
    "fig4d": "Figure 4d: AT without low-loss examples, and the share removed",
}
# How to read a picture, by the kind of figure.
READING = {
    "curves": "Robust accuracy after each epoch, under the attack of the training log.",
    "sweep": "Best epoch and mean of the last six; level lines are other recipes, in the same line"
    " styles. A cross marks a value whose training has no number.",
    "removal": "Above: accuracy without the removed examples, and test accuracy of plain training;"
    " below: the share of examples removed in each epoch.",
    "landscape": "Change of the mean loss of each loss group of the adversarial training images as"
    " the weights move along random directions; steeper means more overfitted (section 3). Large"
    " losses are cut off.",
}


def reported_figures(
    params: Params, suite_name: str, gaps: Sequence[Gap], *, root: Path | str
) -> Iterator[dict[str, Any]]:
    """The suite's figures: those that its report waits for, and others that are drawn already.

    Each has a caption, how to read it, a uri (none where it is not drawn), the command that draws
    it, and what it lacks.
    """
    suite, base = get_suite(params, suite_name), suite_directory(suite_name)
    waited = figure_names(suite)
    for name in dict.fromkeys([*waited, *suite.figures]):
        path = Path(root) / base / f"{name}.svg"
        if not path.exists() and name not in waited:
            continue
        label = part_label(name)
        yield {
            "name": name,
            "caption": f"{CAPTIONS.get(name, label)} ({_place(params, suite_name, name)})",
            "reading": READING[suite.figures[name].kind],
            "uri": _data_uri(path.read_bytes()) if path.exists() else None,
            "command": fill([str(base / f"{name}.svg")], "missing"),
            "lacks": [gap for gap in gaps if gap.where.partition(":")[0] == label],
        }


def _place(params: Params, suite_name: str, name: str) -> str:
    """Data, threat model and network of a figure's runs."""
    key = runs_of(params, suite_name, name)[0]
    suite = get_suite(params, suite_name)
    data = dataset_label(params, suite, key.dataset)
    return f"{data}, {NORM_LABELS[suite.threat_models[key.threat].norm]}, {key.network}"


def own_figures(
    params: Params, suite_name: str, second: Table, *, root: Path | str
) -> Iterator[dict[str, Any]]:
    """Table 2 as a picture, and those learning curves of Table 1 that are no figure of the paper.

    Each is a uri and a caption.
    """
    accuracies = pd.DataFrame(
        [
            {"defense": defense, "attack": COLUMN_LABELS.get(column, column), "accuracy": value}
            for defense, numbers in averages(second).items()
            for column, value in numbers.items()
        ]
    )
    if accuracies["accuracy"].notna().any():
        yield _image(
            draw.attacks(accuracies),
            "Accuracy of each defense under each attack; the numbers are those of Table 2",
        )
    table = get_suite(params, suite_name).table1
    shown = table1_curve_keys(params, suite_name)  # figure 3c
    for threat, dataset in product(table.threat_models, table.datasets):
        keys = table1_curve_keys(params, suite_name, threat=threat, dataset=dataset)
        if keys == shown:
            continue
        yield from _curves(
            params,
            keys,
            root,
            ("test", "held-out"),
            f"Robust accuracy by epoch and method ({dataset}, {threat})",
        )


def _curves(
    params: Params, keys: Sequence[RunKey], root: Path | str, splits: Sequence[str], caption: str
) -> Iterator[dict[str, Any]]:
    frame = curve_frame(params, keys, root=root, splits=splits)
    if not frame.empty:
        yield _image(draw.learning_curves(frame), caption)


def given_figures(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """SVG files that a caller wants to see, as `reported_figures` gives them."""
    for path in paths:
        caption = CAPTIONS.get(path.stem, path.stem)
        yield _shown(_data_uri(path.read_bytes()), caption) | {"name": path.stem}


def _image(figure: Figure, caption: str) -> dict[str, Any]:
    return _shown(_data_uri(picture(figure, "svg")), caption)


def _shown(uri: str, caption: str) -> dict[str, Any]:
    return {
        "name": "",
        "caption": caption,
        "reading": "",
        "uri": uri,
        "command": "",
        "lacks": [],
    }


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
