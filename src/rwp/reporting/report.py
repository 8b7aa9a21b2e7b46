"""One page that holds everything: tables, verdicts, figures, settings, costs, origins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import t

from rwp.evaluation.alarms import blind_note
from rwp.evaluation.verdict import MEANING, Level
from rwp.files import object_in, write_text
from rwp.pipeline.suites import BEYOND, TABLES
from rwp.reporting.claim_verdicts import FAILS, HOLDS, counted
from rwp.reporting.figures import own_figures, reported_figures
from rwp.reporting.gaps import Gap, figure_gaps, table_gaps
from rwp.reporting.labels import COLUMN_LABELS, NORM_TEXTS, column_label, norm_text
from rwp.reporting.lines import measured_otherwise
from rwp.reporting.pairs import headline, p_text, pairs
from rwp.reporting.paper import (
    ABOVE,
    BELOW,
    NOT_COMPARABLE,
    PAPER_MEASURES,
    PLACE,
    WITHIN,
    table1_beside_paper,
    table2_beside_paper,
)
from rwp.reporting.results import (
    MEASURES,
    TOO_MANY,
    Results,
    Row,
    records,
    records_by,
    worst_level,
)
from rwp.reporting.runs import OK
from rwp.reporting.tables import (
    BEYOND_LABELS,
    COSTS,
    FROM_TRAINING,
    NUM_SEEDS,
    SEPARATOR,
    STD,
    WORST_CASE,
    Table,
    averages,
    beyond,
    other_checkpoints,
    table1,
    table2,
)
from rwp.training.spec import RunKey

SIGNS = {WITHIN: "✓", ABOVE: "▲", BELOW: "▼"}
ORIGIN_SIGNS = {"imported": "†", "unclear": "‡"}
# Tints: what chance allows, what it does not, what is not there, what cannot be true.
KINDS = {WITHIN: "within", ABOVE: "outside", BELOW: "outside"}
LEVEL_SIGNS: dict[Level, str] = {
    "green": "✓",
    "weak": "○",
    "undecided": "?",
    "amber": "!",
    "red": "✗",
}
LEVEL_KINDS: dict[Level, str] = {
    "green": "within",
    "weak": "missing",
    "undecided": "missing",
    "amber": "doubtful",
    "red": "outside",
}
NO_NUMBER = "\N{EN DASH}"
BROKEN = ("inconsistent", "stale", "collapsed", "diverged")
_TRAINING_LABELS = {
    "best": "Best",
    "last": "Last",
    "best_on_test": "Best on test",
    "robust_overfitting_gap": "Gap",
}
_PLACE = ("dataset", "threat_model", "network")


def write_report(
    results: Results, *, judged: Sequence[Row] = (), path: Path | str | None = None
) -> Path:
    """Write the report of a suite (report.html in its folder, unless a path is given)."""
    target = Path(path or results.folder / "report.html")
    write_text(target, render_report(results, judged=judged))
    return target


def render_report(results: Results, *, judged: Sequence[Row] = ()) -> str:
    """The report as HTML that needs no other file and no network.

    `judged` are the claims, as `rwp.reporting.claim_verdicts.told` gives them.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rwp.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"norm": norm_text, "p_value": p_text}
    # In a zero no minus stands before it.
    environment.filters |= {"signed": "{:+z.2f}".format, "decimals": "{:z.2f}".format}
    context = _context(results, judged)
    return environment.get_template("report.html.j2").render(context) + "\n"


def _is_told(claim: Row) -> bool:
    """Whether there is something to read off: an outcome, or how far the seeds spread."""
    return claim["outcome"] in (HOLDS, FAILS) or claim["low"] is not None


def _context(results: Results, judged: Sequence[Row]) -> dict[str, Any]:
    suite = results.suite
    first, second = table1(results), table2(results)
    third = beyond(results) if BEYOND in suite.reported else None
    columns, undrawn = results.columns, list(figure_gaps(results))
    found, warnings = records(pairs(results)), _warnings(second)
    page = _claims_context(judged) | _paper_context(results, first, second)
    return (
        page
        | {
            "name": results.suite_name,
            "headline": headline(results),
            "suite": suite,
            "marked_seeds": _marked_seeds(second, columns),
            "beyond": beyond_groups(third) if third else None,
            "judged": _verdict_rows(second),
            "levels": [
                {
                    "name": level,
                    "meaning": text,
                    "sign": LEVEL_SIGNS[level],
                    "kind": LEVEL_KINDS[level],
                }
                for level, text in MEANING.items()
            ],
            "others": other_checkpoints(results),
            "pairs": found,
            "tested": [row for row in found if row["p_value"] is not None],
            "untested": [row for row in found if row["p_value"] is None],
            "columns": _column_titles(results, columns),
            "together": _together(second, columns),
            "counts": _counts(first, second, third),
            "otherwise": measured_otherwise(
                suite,
                (
                    line
                    for name in (*TABLES, BEYOND)
                    if name in results.parts
                    for line in results.parts[name].lines
                ),
            ),
            "kinds": KINDS | dict.fromkeys(BROKEN, "broken"),
            "broken": BROKEN,
            "gaps": [*table_gaps(first, second, third), *undrawn],
            "warnings": [*results.notes, *_mixed_versions(results), *_blind(results), *warnings],
            "alarms": [text for text in warnings if TOO_MANY in text],
            "accepted": results.accepted,
            "runs": list(_origin_rows(results, _evaluated(second, third))),
            "details": second.seeds,
            "beyond_details": third.seeds if third else [],
            "settings": list(_flat(suite.model_dump(mode="json", exclude_none=True))),
            "protocol": _protocol(results, second),
        }
        | _figures_context(results, second, undrawn)
    )


def _claims_context(judged: Sequence[Row]) -> dict[str, Any]:
    """The first section: what became of each claim."""
    return {
        "claims": judged,
        "claim_counts": counted(judged),
        "told_claims": [row for row in judged if _is_told(row)],
        "untold_claims": [row for row in judged if not _is_told(row)],
        "claim_kinds": {HOLDS: "within", FAILS: "outside"},
    }


def _paper_context(results: Results, first: Table, second: Table) -> dict[str, Any]:
    """Both tables of the paper, and each number beside the published one."""
    paper1, paper2 = table1_beside_paper(results, first), table2_beside_paper(results, second)
    return {
        "table1": _table1_rows(first, paper1),
        "table2": _table2_rows(second, paper2, results.columns),
        "paper1": records(paper1),
        "paper2": records(paper2),
        "not_comparable1": _not_comparable(paper1),
        "not_comparable2": _not_comparable(paper2),
        "verdicts": pd.concat([paper1, paper2])["verdict"].value_counts().to_dict(),
        "signs": SIGNS,
    }


def _figures_context(results: Results, second: Table, undrawn: Sequence[Gap]) -> dict[str, Any]:
    """The figures, those that the tables come with first; some wait for runs."""
    shown = list(reported_figures(results, undrawn))
    drawn = sum(figure["uri"] is not None for figure in shown)
    return {
        "figures": [*own_figures(results, second), *shown],
        "figure_counts": {"drawn": drawn, "all": len(shown)},
    }


def _column_titles(results: Results, attacks: Iterable[str]) -> list[str]:
    """Those of Table 2's columns; with the numbers of images where these differ."""
    runs = [str(key.directory) for key in results.parts["table2"].keys]
    of_table = results.attacks["run"].isin(runs)
    seen = results.attacks[of_table].dropna(subset="num_examples").groupby("attack")["num_examples"]
    counts = {name: sorted(set(found.astype(int))) for name, found in seen}
    titles = {name: column_label(results.suite, name) for name in attacks}
    if len({count for name in titles for count in counts.get(name, ())}) > 1:
        for name in titles.keys() & counts.keys():
            numbers = " or ".join(f"{count:,}" for count in counts[name])
            titles[name] += f", {numbers} images"
    return list(titles.values())


def _evaluated(second: Table, third: Table | None) -> dict[str, float]:
    """Run -> seconds of its evaluations; those of Table 2 hold the attacks of the table beyond."""
    found = third.details.set_index("run")["evaluation_seconds"].to_dict() if third else {}
    return found | second.details.groupby("run")["seconds"].sum().to_dict()


def _counts(*tables: Table | None) -> dict[str, int]:
    status = pd.concat([table.details["status"] for table in tables if table])
    return {"filled": int((status == OK).sum()), "all": len(status)}


def _not_comparable(beside: pd.DataFrame) -> str:
    """Why a table is not compared with the paper, where no cell of it is."""
    reasons = beside[beside["verdict"] == NOT_COMPARABLE]["reason"].unique()
    judged = beside["band"].notna().any()
    return "" if judged else "; ".join(reasons)


def _mixed_versions(results: Results) -> Iterator[str]:
    """Whether trainings or evaluations of several versions of torch stand side by side."""
    runs = [
        object_in(made_by, "versions")
        for run in results.runs.values()
        if run.finished
        for made_by in run.made_by
    ]
    records = [outcome.versions for outcome in results.attacks["outcome"] if outcome]
    for what, versions in (("trainings", runs), ("evaluations", records)):
        found = sorted({str(each["torch"]) for each in versions if "torch" in each})
        if len(found) > 1:
            yield f"{what} with torch {' and '.join(found)} stand side by side; their bits differ"


def _blind(results: Results) -> Iterator[str]:
    """Trainings whose epochs were measured by an attack without a gradient to follow."""
    for run in results.runs.values():
        epochs = (run.best_epoch, len(run.history) - 1) if run.finished else ()
        note = next(filter(None, (blind_note(run.history[epoch]) for epoch in epochs)), "")
        if note:
            yield f"{run.name}: {note}; what a training measures of itself is too high there"


def _warnings(table: Table) -> list[str]:
    warned = table.details[table.details["warning"] != ""]
    return [
        f"{row['defense']}, {row['attack']}, seed {row['seed']}: {row['warning']}"
        for row in warned.to_dict("records")
    ]


def _protocol(results: Results, table: Table) -> str:
    """What a reader must know to quote a number of Table 2."""
    suite = results.suite
    entry = suite.table2
    threat = suite.threat_models[entry.threat_model]
    counts = sorted({int(count) for count in table.details["num_examples"].dropna()})
    images = " or ".join(f"{count:,}" for count in counts) or "the"
    outcomes = [record for record in results.attacks["outcome"] if record and record.part]
    rules = {record.part.rule for record in outcomes}
    part = {"stratified": " (each class in proportion)", "first": " (the first in their order)"}
    drawn = " and".join(part[rule] for rule in sorted(rules) if rule in part)
    chosen = "a held-out split" if suite.selection == "held_out" else "the test split, as published"
    radius = ", ".join(f"{key} {value}" for key, value in threat.epsilon.items())
    return (
        f"{images} test images of {entry.dataset}{drawn}; {NORM_TEXTS[threat.norm]} with radius"
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


# Cells: every number with its interval and verdict


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown; `kind` picks its tint, the notes stand below in small print.

    `mark` is "best" for the best of its column, "tied" where its interval overlaps with that one's.
    """

    text: str
    kind: str = ""
    notes: tuple[str, ...] = ()
    mark: str = ""


def _table1_rows(table: Table, beside: pd.DataFrame) -> list[Row]:
    """Per row its labels and a cell for each measure; the paper stands below its own two."""
    seeds = records_by(table.details, *PLACE)
    against = records_by(beside, *PLACE, "measure")
    judged = bool(beside["band"].notna().any())
    paper = {ours: name for name, ours in PAPER_MEASURES.items()}
    rows = []
    for row in table.rows:
        place = tuple(row[name] for name in PLACE)
        cells = [
            _cell(
                row[name],
                seeds[place],
                name,
                against[*place, paper[name]][0] if name in paper else None,
                judged=judged,
            )
            for name in MEASURES
        ]
        rows.append(dict(zip(PLACE, place, strict=True)) | {"cells": cells})
    return rows


def _table2_rows(table: Table, beside: pd.DataFrame, columns: Mapping[str, str]) -> list[Row]:
    """Per row the defense and a cell for each attack; the natural reference comes last."""
    seeds = records_by(table.details, "defense", "attack")
    against = records_by(beside, "defense", "attack")
    judged = bool(beside["band"].notna().any())
    own = set(table.frame["defense"])
    marks = {
        attack: _marks({name: seeds[name, attack] for name in table.frame["defense"]})
        for attack in columns
    }
    rows = []
    for defense, numbers in averages(table).items():
        cells = [
            replace(
                _cell(
                    numbers[column],
                    seeds[defense, attack],
                    "accuracy",
                    against[defense, attack][0],
                    judged=judged,
                ),
                mark=marks[attack].get(defense, ""),
            )
            for attack, column in columns.items()
        ]
        networks = seeds[defense, next(iter(columns))]
        together = [_shared(networks, "all_attacks")]
        if WORST_CASE in table.frame:
            together.append(_shared(networks, WORST_CASE))
        if {"pgd20", "aa"} <= numbers.keys():
            together.append(_gap_cell(seeds[defense, "pgd-20"], seeds[defense, "autoattack"]))
        rows.append(
            {
                "defense": defense,
                "cells": [*cells, *together],
                "verdict": _verdict_cell(networks),
                "cost": _cost_cell(networks),
                "reference": defense not in own,
            }
        )
    return rows


def _together(table: Table, columns: Mapping[str, str]) -> list[Row]:
    """What Table 2 shows beside the attacks: heading, and what it means."""
    found = [
        ("All attacks", "Images that are right under every attack of the network's own threat")
    ]
    if WORST_CASE in table.frame:
        found.append(("Worst case", "Images that are right under every attack of any threat model"))
    if {"pgd20", "aa"} <= set(columns.values()):
        meaning = "PGD-20 less AutoAttack, in points: a wide gap hints at masked gradients"
        found.append(("PGD-20 \N{MINUS SIGN} AA", meaning))
    return [{"name": name, "meaning": meaning} for name, meaning in found]


def _marks(column: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Defense -> best or tied, for one attack: ties overlap with the best one's 95 % interval.

    Compared over the seeds that all have: the first ones.
    """
    found = {}
    whole = _whole(column)
    shared = min(map(len, whole.values()), default=0)
    for defense, seeds in ((name, rows[:shared]) for name, rows in whole.items()):
        values = [row["accuracy"] for row in seeds]
        mean, half = statistics.fmean(values), 0.0
        if len(values) > 1:
            half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values)
            half /= math.sqrt(len(values))
        # The images are the same for all seeds, so more seeds make their error no smaller.
        low = min(mean - half, mean - statistics.fmean(_below(row) for row in seeds))
        high = max(mean + half, mean + statistics.fmean(_above(row) for row in seeds))
        found[defense] = (mean, low, high)
    if len(found) < 2:
        return {}
    best = max(found, key=lambda name: found[name][0])
    tied = {name: "tied" for name, (_, _, high) in found.items() if high >= found[best][1]}
    return tied | {name: "best" for name in found if found[name][0] == found[best][0]}


def _whole(column: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """The defenses that have a number of each of their seeds."""
    return {n: rows for n, rows in column.items() if all(r["accuracy"] is not None for r in rows)}


def _marked_seeds(table: Table, columns: Iterable[str]) -> int:
    """How many seeds the marks compare, where some defense has more; else 0."""
    seeds = records_by(table.details, "defense", "attack")
    for attack in columns:
        whole = _whole({name: seeds[name, attack] for name in table.frame["defense"]})
        counts = sorted({len(rows) for rows in whole.values()})
        if len(counts) > 1:
            return counts[0]
    return 0


def _below(row: Row) -> float:
    return float(row["accuracy"] - row["interval_low"])


def _above(row: Row) -> float:
    return float(row["interval_high"] - row["accuracy"])


def _shared(networks: Sequence[Row], name: str) -> Cell:
    """The share of images right under several attacks at once, image by image."""
    values = [row[name] for row in networks]
    return Cell(NO_NUMBER) if None in values else Cell(f"{statistics.fmean(values):z.2f}")


def _gap_cell(pgd: Sequence[Row], autoattack: Sequence[Row]) -> Cell:
    """PGD-20 less AutoAttack; where they saw other images, the verdicts', on those of both."""
    both, same = list(zip(pgd, autoattack, strict=True)), ("num_examples", "norm", "epsilon")
    if any(row["accuracy"] is None for rows in both for row in rows):
        return Cell(NO_NUMBER)
    gaps = [row["accuracy"] - other["accuracy"] for row, other in both]
    if any(row[name] != other[name] for row, other in both for name in same):
        gaps = [row["gap"] for row, _ in both]
    return Cell(NO_NUMBER) if None in gaps else Cell(f"{statistics.fmean(gaps):z.2f}")


def _verdict_cell(networks: Sequence[Row]) -> Cell:
    """The worst verdict over seeds, in words, with what speaks against the numbers."""
    for row in networks:
        if row["verdict_status"] != OK:
            status = row["verdict_status"]
            return Cell(status, "broken" if status in BROKEN else "missing")
    level = worst_level([row["verdict"] for row in networks])
    if level is None:
        return Cell(NO_NUMBER, "missing")
    doubts = [
        f"seed {row['seed']}: {reason}" if len(networks) > 1 else reason
        for row in networks
        for reason in row["verdict_reasons"].split(SEPARATOR)
        if reason and not reason.startswith("green")
    ]
    return Cell(f"{LEVEL_SIGNS[level]} {level}", LEVEL_KINDS[level], tuple(doubts))


def _cell(
    value: float | None, seeds: Sequence[Row], column: str, against: Row | None, *, judged: bool
) -> Cell:
    for row in seeds:
        if row["status"] != OK:
            return Cell(row["status"], "broken" if row["status"] in BROKEN else "missing")
    if value is None:
        return Cell(NO_NUMBER, "missing")
    notes = [spread] if (spread := _spread(seeds, column)) else []
    too_strong = any(TOO_MANY in row.get("warning", "") for row in seeds)
    kind = "broken" if too_strong else ""
    if any(row.get("warning") for row in seeds):
        kind = kind or "doubtful"
        notes.append("! see the remarks")
    if against is not None and against["verdict"] != NOT_COMPARABLE:
        kind = kind or KINDS[against["verdict"]]
        notes += _against_paper(against)
    elif against is not None and judged:
        notes.append("not comparable")
    return Cell(f"{value:z.2f}", kind, tuple(notes))


def _against_paper(row: Row) -> list[str]:
    logged = f", log {row['log']:.2f}" if row.get("log") is not None else ""
    difference = row["difference"]
    return [
        f"{SIGNS[row['verdict']]} {row['verdict']}",
        f"paper{ORIGIN_SIGNS.get(row['origin'], '')} {row['paper']:.2f}{logged}",
        f"{difference:+z.2f} ± {row['band']:.2f}",
    ]


def _spread(seeds: Sequence[Row], column: str) -> str:
    """What chance makes of a cell: deviation over seeds, or one evaluation's interval."""
    if len(seeds) > 1:
        deviation = statistics.stdev(row[column] for row in seeds)
        return f"± {deviation:.2f} over {len(seeds)} seeds"
    if "interval_low" in seeds[0]:
        return f"{seeds[0]['interval_low']:.1f} to {seeds[0]['interval_high']:.1f}"
    return ""


def _verdict_rows(table: Table) -> list[Row]:
    """One row per judged network: every reason, and what the usual gap rests on."""
    rows = {row["run"]: row for row in table.seeds if row["verdict"] is not None}
    return [
        {
            **{name: row[name] for name in ("defense", "seed", "gap", "band_source")},
            "cell": _verdict_cell([row]),
            "reasons": list(filter(None, row["verdict_reasons"].split(SEPARATOR))),
        }
        for row in rows.values()
    ]


def _cost_cell(seeds: Sequence[Row]) -> Cell:
    """Forward and backward passes of a training, and its time below; means over seeds."""
    known = [row for row in seeds if all(row[name] is not None for name in COSTS)]
    if not known:
        return Cell(NO_NUMBER)
    passes = statistics.fmean(row["forward_passes"] + row["backward_passes"] for row in known)
    hours = statistics.fmean(row["training_hours"] for row in known)
    return Cell(f"{passes:,.0f}", "", (_duration(hours),))


def _duration(hours: float) -> str:
    """A length of time with a unit that suits it: 12.5 s, 8.1 min, 3.20 h."""
    seconds = 3600 * hours
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if hours < 1.7 else f"{hours:,.2f} h"


# Sections


def beyond_groups(table: Table) -> dict[str, Any]:
    """Column labels, and per group its title, its place where rows share one, and its rows."""
    columns = [
        str(name)
        for name in table.frame
        if name not in ("group", "method", *_PLACE, *COSTS, NUM_SEEDS)
        and not str(name).endswith(STD)
    ]
    seeds = records_by(table.details, *BEYOND_LABELS)
    groups: dict[str, dict[str, Any]] = {}
    for row in table.rows:
        place = ", ".join(norm_text(row[name]) for name in _PLACE)
        group = groups.setdefault(row["group"], {"title": row["group"], "places": {}, "rows": []})
        group["places"][place] = None
        own = seeds[tuple(row[name] for name in BEYOND_LABELS)]
        cells = [_beyond_cell(row, name, own) for name in columns]
        shown = {"method": row["method"], "num_seeds": row[NUM_SEEDS]}
        group["rows"].append(shown | {"cells": cells, "cost": _cost_cell(own)})
    for group in groups.values():
        group["place"] = "; ".join(group["places"])
    labels = [_TRAINING_LABELS.get(name) or COLUMN_LABELS.get(name, name) for name in columns]
    num_seeds = table.details["seed"].nunique()
    return {
        "columns": labels,
        "num_training": len(FROM_TRAINING),
        "num_seeds": num_seeds,
        "groups": list(groups.values()),
    }


def _beyond_cell(row: Row, name: str, seeds: list[Row]) -> Cell:
    """A mean with its deviation; where a seed has no number, why."""
    if row[name] is None:
        for seed in seeds:
            if seed["status"] != OK:
                return Cell(seed["status"], "broken" if seed["status"] in BROKEN else "missing")
        return Cell(NO_NUMBER, "missing")
    deviation = row.get(f"{name}{STD}")
    notes = () if deviation is None else (f"± {deviation:.2f}",)
    return Cell(f"{row[name]:z.2f}", "", notes)


def _origin_rows(results: Results, seconds: Mapping[str, float]) -> Iterator[Row]:
    """Costs and origin of every shown run; `seconds`: what its evaluations took, by its name."""
    shown: dict[RunKey, list[str]] = {}
    methods: dict[RunKey, str] = {}
    for name, part in results.parts.items():
        for line in part.lines if name in (*TABLES, *results.suite.reported) else ():
            for key in line.keys:
                methods[key] = line.method
                shown.setdefault(key, []).append(part.label)
    for key, parts in shown.items():
        run = results.runs[key]
        document = run.document
        yield {
            "method": methods[key],
            "key": key,
            "shown": ", ".join(dict.fromkeys(parts)),
            "status": run.status,
            "epochs": len(run.history),
            "device": run.device,
            "passes": object_in(document, "passes"),
            "evaluation_seconds": float(seconds.get(run.name, 0.0)),
            **{
                name: document.get(name)
                for name in ("seconds", "parameters", "commit", "fingerprint")
            },
            "run": run.name,
        }
