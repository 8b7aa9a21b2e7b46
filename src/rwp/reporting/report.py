"""One page that holds everything: tables, verdicts, figures, settings, costs, origins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.files import write_text
from rwp.pipeline.settings import Params, Suite, get_suite
from rwp.pipeline.suites import BEYOND
from rwp.reporting.beyond import beyond
from rwp.reporting.beyond_view import beyond_view
from rwp.reporting.cells import COLUMN_LABELS, NORM_LABELS, attack_columns
from rwp.reporting.checkpoints import other_checkpoints
from rwp.reporting.compare import NOT_COMPARABLE, compare_table1, compare_table2
from rwp.reporting.comparisons import comparisons
from rwp.reporting.gaps import figure_gaps, table_gaps
from rwp.reporting.images import given_figures, own_figures, reported_figures
from rwp.reporting.measurements import OK
from rwp.reporting.origins import origin_rows
from rwp.reporting.tables import Table, records, table1, table2
from rwp.reporting.views import (
    BROKEN,
    KINDS,
    SIGNS,
    comparison_rows,
    table1_view,
    table2_view,
    verdict_rows,
)
from rwp.training.spec import suite_directory


def write_report(
    params: Params,
    suite_name: str,
    *,
    root: Path | str = ".",
    path: Path | str | None = None,
    figures: Sequence[Path] | None = None,
) -> Path:
    """Write the report of a suite (report.html in its folder, unless a path is given).

    `figures` are SVG files to show; by default those that the suite reports or has drawn.
    """
    target = Path(path or Path(root) / suite_directory(suite_name) / "report.html")
    write_text(target, render_report(params, suite_name, root=root, figures=figures))
    return target


def render_report(
    params: Params,
    suite_name: str,
    *,
    root: Path | str = ".",
    figures: Sequence[Path] | None = None,
) -> str:
    """The report as HTML that needs no other file and no network."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rwp.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = _context(params, suite_name, root, figures)
    return environment.get_template("report.html.j2").render(context) + "\n"


def _context(
    params: Params, suite_name: str, root: Path | str, figures: Sequence[Path] | None
) -> dict[str, Any]:
    suite = get_suite(params, suite_name)
    first, second = table1(params, suite_name, root=root), table2(params, suite_name, root=root)
    third = beyond(params, suite_name, root=root) if BEYOND in suite.reported else None
    compared1 = compare_table1(params, suite_name, first)
    compared2 = compare_table2(params, suite_name, second)
    columns = attack_columns(suite)
    missing_figures = list(figure_gaps(params, suite_name, root=root))
    shown = list(
        reported_figures(params, suite_name, missing_figures, root=root)
        if figures is None
        else given_figures(figures)
    )
    drawn = [figure for figure in shown if figure["uri"]]
    return {
        "name": suite_name,
        "suite": suite,
        "table1": table1_view(first, compared1),
        "table2": table2_view(second, compared2, columns),
        "beyond": beyond_view(third) if third else None,
        "judged": verdict_rows(second),
        "others": other_checkpoints(params, suite_name, root=root),
        "pairs": comparison_rows(comparisons(params, suite_name, root=root)),
        "columns": [COLUMN_LABELS.get(column, column) for column in columns.values()],
        "counts": _counts(first, second, third),
        "figure_counts": {"drawn": len(drawn), "all": len(shown)},
        "verdicts": pd.concat([compared1, compared2])["verdict"].value_counts().to_dict(),
        "elsewhere1": _not_comparable(compared1),
        "elsewhere2": _not_comparable(compared2),
        "signs": SIGNS,
        "kinds": KINDS | dict.fromkeys(BROKEN, "broken"),
        "broken": BROKEN,
        "compared1": records(compared1),
        "compared2": records(compared2),
        "gaps": [*table_gaps(first, second, third), *missing_figures],
        "warnings": _warnings(second),
        "figures": [*own_figures(params, suite_name, second, root=root), *shown],
        "runs": list(origin_rows(params, suite_name, _evaluated(second, third), root=root)),
        "details": records(second.details),
        "beyond_details": records(third.details) if third else [],
        "settings": list(_flat(suite.model_dump(mode="json", exclude_none=True))),
        "protocol": _protocol(params, suite, second),
    }


def _evaluated(second: Table, third: Table | None) -> dict[str, float]:
    """Run -> seconds of its evaluations; those of Table 2 hold the attacks of the table beyond."""
    found = third.details.set_index("run")["evaluation_seconds"].to_dict() if third else {}
    return found | second.details.groupby("run")["seconds"].sum().to_dict()


def _counts(*tables: Table | None) -> dict[str, int]:
    status = pd.concat([table.details["status"] for table in tables if table])
    return {"filled": int((status == OK).sum()), "all": len(status)}


def _not_comparable(compared: pd.DataFrame) -> str:
    """Why a table is not compared with the paper, where no cell of it is."""
    reasons = compared[compared["verdict"] == NOT_COMPARABLE]["reason"].unique()
    judged = compared["band"].notna().any()
    return "" if judged else "; ".join(reasons)


def _warnings(table: Table) -> list[str]:
    warned = table.details[table.details["warning"] != ""]
    return [
        f"{row['defense']}, {row['attack']}, seed {row['seed']}: {row['warning']}"
        for row in warned.to_dict("records")
    ]


def _protocol(params: Params, suite: Suite, table: Table) -> str:
    """What a reader must know to quote a number of Table 2."""
    entry = suite.table2
    threat = suite.threat_models[entry.threat_model]
    counts = sorted({int(count) for count in table.details["num_examples"].dropna()})
    images = " or ".join(f"{count:,}" for count in counts) or "the"
    chosen = "a held-out split" if suite.selection == "held_out" else "the test split, as published"
    radius = ", ".join(f"{key} {value}" for key, value in threat.epsilon.items())
    return (
        f"{images} test images of {entry.dataset}; {NORM_LABELS[threat.norm]} with radius"
        f" {radius.removeprefix('default ')} on [0, 1] pixels; checkpoint chosen on {chosen};"
        f" training seeds {', '.join(map(str, suite.seeds))}; attack seed {suite.evaluation.seed}"
    )


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted key, text), tables of plain values in one line."""
    if not isinstance(value, dict):
        yield path, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    elif value and not any(isinstance(entry, dict | list) for entry in value.values()):
        default = set(value) == {"default"}
        pairs = ", ".join(f"{key}: {entry}" for key, entry in value.items())
        yield path, str(value["default"]) if default else pairs
    else:
        for key, entry in value.items():
            yield from _flat(entry, f"{path}.{key}".lstrip("."))
