"""Every training behind what a report shows: where it is shown, what it cost, where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rwp.pipeline.settings import Params, get_suite
from rwp.pipeline.suites import BEYOND, beyond_runs, figure_runs, table1_runs, table2_runs
from rwp.reporting.cells import recipe_label
from rwp.reporting.runs import read_run
from rwp.training.spec import RunKey

BEYOND_TITLE = "Beyond the paper"


def part_label(part: str) -> str:
    """A table or figure as people call it: table1 is Table 1, fig3a is Figure 3a."""
    if part == BEYOND:
        return BEYOND_TITLE
    for prefix, word in (("table", "Table"), ("fig", "Figure")):
        number = part.removeprefix(prefix)
        if number != part and number[:1].isdigit():
            return f"{word} {number}"
    return part


def runs_of(params: Params, suite_name: str, part: str) -> list[RunKey]:
    """The runs behind one table or figure."""
    found = {"table1": table1_runs, "table2": table2_runs, BEYOND: beyond_runs}.get(part)
    keys = found(params, suite_name) if found else figure_runs(params, suite_name, part)
    return list(dict.fromkeys(keys))


def shown_runs(params: Params, suite_name: str) -> dict[RunKey, list[str]]:
    """Run -> the tables and figures of the report that show it."""
    shown: dict[RunKey, list[str]] = {}
    for part in ("table1", "table2", *get_suite(params, suite_name).reported):
        for key in runs_of(params, suite_name, part):
            shown.setdefault(key, []).append(part_label(part))
    return shown


def origin_rows(
    params: Params, suite_name: str, seconds: Mapping[str, float], *, root: Path | str
) -> Iterator[dict[str, Any]]:
    """Costs and origin of every shown run; `seconds`: what its evaluations took, by its name."""
    suite = get_suite(params, suite_name)
    for key, shown in shown_runs(params, suite_name).items():
        run = read_run(params, key, root=root)
        document = run.document
        yield {
            "method": recipe_label(suite, key.recipe),
            "key": key,
            "shown": ", ".join(shown),
            "status": run.status,
            "epochs": len(run.history),
            "passes": document.get("passes") or {},
            "evaluation_seconds": float(seconds.get(run.name, 0.0)),
            **{
                name: document.get(name)
                for name in ("seconds", "parameters", "device", "commit", "fingerprint")
            },
            "run": run.name,
        }
