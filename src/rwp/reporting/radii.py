"""Accuracy over the radius: one curve per attack, from the records at several radii."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from rwp.evaluation.records import EvaluationRecord, read_record
from rwp.evaluation.statistics import interval
from rwp.reporting.drawing import looks, new_figure, write_figure
from rwp.spec import radius_value


def read_radii(folder: Path, names: Sequence[str]) -> dict[str, list[EvaluationRecord]]:
    """The records of these names at all radii that one model was attacked at, by radius.

    Raises:
        UserError: one is damaged.
    """
    found: dict[str, list[EvaluationRecord]] = {}
    for path in sorted(folder.glob("epsilon-*/*.json")):
        if path.name in names:
            record = read_record(path)
            found.setdefault(record.attack.threat.epsilon, []).append(record)
    return found


def radii_frame(records: Mapping[str, Sequence[EvaluationRecord]]) -> pd.DataFrame:
    """A row per radius and attack: accuracy in percent with its 95 % interval (Wilson)."""
    rows = []
    for epsilon, found in records.items():
        for record in found:
            sure = interval(record.num_robust, record.num_examples)
            rows.append(
                {
                    "attack": record.attack.name,
                    "epsilon": epsilon,
                    "radius": radius_value(epsilon),
                    "accuracy": 100 * sure.estimate,
                    "low": 100 * sure.low,
                    "high": 100 * sure.high,
                }
            )
    return pd.DataFrame(rows).sort_values(["attack", "radius"], ignore_index=True)


def draw_radii(records: Mapping[str, Sequence[EvaluationRecord]], stem: Path) -> list[Path]:
    """Write the curves and the numbers behind them beside `stem`; the files."""
    frame = radii_frame(records)
    figure, (axes, *_) = new_figure()
    styles = looks(list(dict.fromkeys(frame["attack"])))
    for name, part in frame.groupby("attack", sort=False):
        axes.plot(part["radius"], part["accuracy"], label=name, **styles[str(name)])
        color = styles[str(name)].get("color")
        axes.fill_between(part["radius"], part["low"], part["high"], alpha=0.15, color=color)
    axes.set(xlabel="radius on [0, 1] pixels", ylabel="accuracy (%)", ylim=(0, 100))
    axes.legend()
    return write_figure(figure, frame, stem)
