"""One page that holds everything: tables, verdicts, figures, settings, costs, origins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.config.schema import Params, Suite
from rwp.config.specs import suite_directory
from rwp.config.tables import get_suite
from rwp.files import write_text
from rwp.reporting.cells import (
    COLUMN_LABELS,
    NORM_LABELS,
    attack_columns,
    method_label,
    table1_rows,
    table2_rows,
)
from rwp.reporting.checkpoints import other_checkpoints
from rwp.reporting.compare import NOT_COMPARABLE, compare_table1, compare_table2
from rwp.reporting.comparisons import comparisons
from rwp.reporting.images import CAPTIONS, own_figures, stored_figures
from rwp.reporting.measurements import OK
from rwp.reporting.runs import read_run
from rwp.reporting.tables import Table, records, table1, table2
from rwp.reporting.views import (
    BROKEN,
    KINDS,
    SIGNS,
    comparison_rows,
    gaps,
    table1_view,
    table2_view,
    verdict_rows,
)


def write_report(
    params: Params,
    suite_name: str,
    *,
    root: Path | str = ".",
    path: Path | str | None = None,
    figures: Sequence[Path] | None = None,
) -> Path:
    """Write the report of a suite (report.html in its folder, unless a path is given).

    `figures` are SVG files to show; by default those of the paper's figures that exist there.
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
    compared1 = compare_table1(params, suite_name, first)
    compared2 = compare_table2(params, suite_name, second)
    columns = attack_columns(suite)
    runs = _runs(params, suite_name, second, root)
    folder = Path(root) / suite_directory(suite_name)
    stored = figures if figures is not None else [folder / f"{name}.svg" for name in CAPTIONS]
    return {
        "name": suite_name,
        "suite": suite,
        "folder": str(suite_directory(suite_name)),
        "table1": table1_view(first, compared1),
        "table2": table2_view(second, compared2, columns),
        "judged": verdict_rows(second),
        "others": other_checkpoints(params, suite_name, root=root),
        "pairs": comparison_rows(comparisons(params, suite_name, root=root)),
        "columns": [COLUMN_LABELS.get(column, column) for column in columns.values()],
        "counts": _counts(first, second),
        "verdicts": pd.concat([compared1, compared2])["verdict"].value_counts().to_dict(),
        "elsewhere1": _not_comparable(compared1),
        "elsewhere2": _not_comparable(compared2),
        "signs": SIGNS,
        "kinds": KINDS | dict.fromkeys(BROKEN, "broken"),
        "broken": BROKEN,
        "compared1": records(compared1),
        "compared2": records(compared2),
        "gaps": gaps(first, second),
        "warnings": _warnings(second),
        "figures": [
            *own_figures(params, suite_name, second, root=root),
            *stored_figures([path for path in stored if path.exists()]),
        ],
        "runs": runs,
        "details": records(second.details),
        "settings": list(_flat(suite.model_dump(mode="json", exclude_none=True))),
        "protocol": _protocol(params, suite, second),
    }


def _counts(first: Table, second: Table) -> dict[str, int]:
    status = pd.concat([first.details["status"], second.details["status"]])
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


def _runs(params: Params, suite_name: str, second: Table, root: Path | str) -> list[dict[str, Any]]:
    """Costs and origin of every training behind the tables."""
    groups = [keys for _, keys in table1_rows(params, suite_name)]
    groups += [keys for _, keys in table2_rows(params, suite_name)]
    spent = second.details.groupby("run")["seconds"].sum()
    rows = {}
    for key in (key for keys in groups for key in keys):
        run = read_run(params, key, root=root)
        document = run.document
        rows[run.name] = {
            "method": method_label(key.recipe),
            "key": key,
            "status": run.status,
            "epochs": len(run.history),
            "passes": document.get("passes") or {},
            "evaluation_seconds": float(spent.get(run.name, 0.0)),
            **{
                name: document.get(name)
                for name in ("seconds", "parameters", "device", "commit", "fingerprint")
            },
            "run": run.name,
        }
    return list(rows.values())


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
