"""What a report lacks, and the command that fills it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rwp.reporting.labels import BEYOND_TITLE
from rwp.reporting.results import Results, Row, records_by
from rwp.reporting.runs import FAILED, NO_TEST_CURVE, OK
from rwp.reporting.tables import Table


@dataclass(frozen=True)
class Gap:
    """Cells without a number that share a reason, and the command that fills them."""

    where: str
    status: str
    reason: str
    command: str

    @property
    def otherwise(self) -> str:
        """What it takes where no command fills it."""
        if NO_TEST_CURVE in self.reason:
            return "`test_curve: true` in the suite, which trains again"
        return "the training itself has to go well first"


def table_gaps(table1: Table, table2: Table, beyond: Table | None) -> list[Gap]:
    """All cells without a number, grouped by run and reason."""
    found = []
    for row in table1.seeds:
        if row["status"] != OK:
            where = f"Table 1: {row['method']}, {row['dataset']}, {row['threat_model']}"
            command = fill([f"{row['run']}/run.json"], row["status"])
            found.append(_gap(where, row, command))
    for (_, status, _), rows in records_by(table2.details, "run", "status", "reason").items():
        if status != OK:
            names = ", ".join(row["attack"] for row in rows)
            command = fill([row["record"] for row in rows if row["record"]], status)
            found.append(_gap(f"Table 2: {rows[0]['defense']}: {names}", rows[0], command))
    for row in {row["run"]: row for row in table2.seeds}.values():
        status = row["verdict_status"]
        if status not in (OK, row["status"]):
            unjudged = row | {"status": status, "reason": row["verdict_reasons"]}
            where = f"Table 2: {row['defense']}: verdict"
            found.append(_gap(where, unjudged, fill([row["diagnosis"]], status)))
    for row in beyond.seeds if beyond else ():
        if row["status"] != OK:
            where = f"{BEYOND_TITLE}: {row['method']}, {row['dataset']}"
            found.append(_gap(where, row, fill(row["records"].split(), row["status"])))
    return found


def figure_gaps(results: Results) -> Iterator[Gap]:
    """Reported figures that are not drawn or lack runs, and the runs that have no curve."""
    for part in (results.parts[name] for name in results.waited):
        drawing = next(path for path in part.step.outputs if path.endswith(".svg"))
        label, command = part.label, fill([drawing], "missing")
        methods_of = {key: line.method for line in part.lines for key in line.keys}
        runs = [(key, results.runs[key]) for key in part.keys]
        for status in dict.fromkeys(run.status for _, run in runs if not run.finished):
            rest = [(key, run) for key, run in runs if run.status == status]
            methods = ", ".join(dict.fromkeys(methods_of[key] for key, _ in rest))
            reasons = "; ".join(dict.fromkeys(run.reason for _, run in rest))
            where = f"{label}: {len(rest)} of {len(runs)} trainings ({methods})"
            yield Gap(where, status, reasons, "" if status in FAILED else command)
        if all(run.finished for _, run in runs) and not (results.root / drawing).exists():
            awaited = {
                other.kind
                for path, other in part.step.inputs.items()
                if not (results.root / path).exists()
            }
            reason = "the landscape is not measured yet" if "landscape" in awaited else ""
            yield Gap(label, "missing", reason or "not drawn yet", command)


def fill(targets: Sequence[str], status: str) -> str:
    """What builds the files, in the braces of a shell where they lie side by side."""
    if not targets or status in FAILED:  # no command mends these
        return ""
    folder, _, first = targets[0].rpartition("/")
    stems = [target.rpartition("/")[2].removesuffix(".json") for target in targets]
    short = f"{folder}/{{{','.join(stems)}}}.json" if len(stems) > 1 else f"{folder}/{first}"
    # Changed settings are noticed without force, a damaged file is not.
    force = " --force" if status == "inconsistent" else ""
    return f"snakemake --cores all{force} {short}"


def _gap(where: str, row: Row, command: str) -> Gap:
    if row["reason"] == NO_TEST_CURVE:  # the same training again would measure no more
        command = ""
    return Gap(f"{where}, seed {row['seed']}", row["status"], row["reason"], command)
