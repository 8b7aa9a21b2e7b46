"""How figures look, and how a figure is written: its data, a vector picture, a raster picture.

Series differ in color, line style and marker, so that none is told apart by color alone. Colors
are those of Okabe and Ito (2008), which people with color vision deficiencies can tell apart; the
yellow is left out, being too faint on white.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from rwp.files import atomic_write
from rwp.reporting.tables import write_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")

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
    """Name -> color and marker, in a fixed order."""
    pairs = islice(zip(cycle(COLORS), cycle(MARKERS), strict=False), len(names))
    return {
        name: {"color": color, "marker": marker}
        for name, (color, marker) in zip(names, pairs, strict=True)
    }


def marker_spacing(count: int) -> int:
    """Mark about ten points of a long line, every point of a short one."""
    return max(1, count // 10)


def write_figure(figure: Figure, frame: pd.DataFrame, stem: Path | str) -> list[Path]:
    """Write STEM.csv (the data), STEM.svg and STEM.png; equal frames give equal bytes."""
    stem = Path(stem)
    write_frame(stem.with_name(f"{stem.name}.csv"), frame, float_format="%.6g")
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("csv", "svg", "png")]
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
