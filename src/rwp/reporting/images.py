"""The figures of the report, as pictures that lie inside the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rwp.config.schema import Params
from rwp.config.specs import RunKey
from rwp.config.tables import get_suite
from rwp.reporting import figures as draw
from rwp.reporting.cells import COLUMN_LABELS
from rwp.reporting.learning import curve_frame, table1_curve_keys
from rwp.reporting.metrics import averages
from rwp.reporting.style import picture
from rwp.reporting.tables import Table

# Figures that have a file of their own in the suite's folder, and what they show.
CAPTIONS = {
    "fig1a": "Figure 1a: robust accuracy by the size of AWP's weight perturbation",
    "fig1b": "Figure 1b: learning curve of AT",
    "fig1c": "Figure 1c: AWP restricted to one range of the loss",
    "fig2": "Figure 2: weight loss landscape by loss group",
    "fig3a": "Figure 3a: robust accuracy by c_min",
    "fig3b": "Figure 3b: robust accuracy by the number of weight steps",
    "fig3c": "Figure 3c: learning curves of AT, AT-AWP and AT-RWP",
    "fig4": "Figure 4: AT without low-loss examples, and the share removed",
    "fig4a": "Figure 4a: AT without low-loss examples, CIFAR-10, L-inf",
    "fig4b": "Figure 4b: AT without low-loss examples, CIFAR-10, L2",
    "fig4c": "Figure 4c: AT without low-loss examples, CIFAR-100, L-inf",
    "fig4d": "Figure 4d: AT without low-loss examples, CIFAR-100, Wide ResNet",
}


def own_figures(
    params: Params, suite_name: str, second: Table, *, root: Path | str
) -> Iterator[dict[str, str]]:
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
) -> Iterator[dict[str, str]]:
    frame = curve_frame(params, keys, root=root, splits=splits)
    if not frame.empty:
        yield _image(draw.learning_curves(frame), caption)


def stored_figures(paths: Sequence[Path]) -> Iterator[dict[str, str]]:
    """Figures that other steps drew: uri and caption."""
    for path in paths:
        yield {"uri": _data_uri(path.read_bytes()), "caption": CAPTIONS.get(path.stem, path.stem)}


def _image(figure: Figure, caption: str) -> dict[str, str]:
    return {"uri": _data_uri(picture(figure, "svg")), "caption": caption}


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
