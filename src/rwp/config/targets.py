"""What stands behind a target of the workflow: trainings, evaluations and landscapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rwp.config.evaluations import DiagnosisSpec, diagnosis_spec, evaluation_spec
from rwp.config.figures import BEYOND, beyond_runs, figure_runs
from rwp.config.lookup import run_key
from rwp.config.schema import Params
from rwp.config.specs import EvaluationSpec, RunKey, suite_directory
from rwp.config.tables import get_suite, table1_runs, table2_runs
from rwp.errors import UserError

TABLES = ("table1", "table2")
REPORT = ("report", "metrics")  # written together
COMPARISONS = "comparisons"  # written with table 2
CHECKPOINTS = ("best", "best_on_test", "last")
_SUFFIXES = (".csv", ".svg", ".png", ".html", ".json")


@dataclass(frozen=True)
class Needs:
    """What a target reads, directly or not; steps upstream of a training are not listed."""

    trainings: tuple[RunKey, ...] = ()
    evaluations: tuple[EvaluationSpec, ...] = ()  # their trainings are among the others
    landscapes: tuple[tuple[str, str], ...] = ()  # suite, figure
    verdicts: tuple[DiagnosisSpec, ...] = ()  # their evaluations are among the others


def together(several: Iterable[Needs]) -> Needs:
    """What several targets need, each thing once."""
    parts = list(several)
    return Needs(
        tuple(dict.fromkeys(key for part in parts for key in part.trainings)),
        tuple(dict.fromkeys(spec for part in parts for spec in part.evaluations)),
        tuple(dict.fromkeys(item for part in parts for item in part.landscapes)),
        tuple(dict.fromkeys(spec for part in parts for spec in part.verdicts)),
    )


def suite_needs(params: Params, suite_name: str) -> Needs:
    """What a suite's report stands on: all that the suite builds."""
    reported = get_suite(params, suite_name).reported
    return together(part_needs(params, suite_name, part) for part in (*TABLES, *reported))


def part_needs(params: Params, suite_name: str, part: str) -> Needs:
    """What one table or figure of a suite stands on.

    Raises:
        UserError: the suite has no such table or figure.
    """
    suite = get_suite(params, suite_name)
    if part == "table1":
        return Needs(tuple(table1_runs(params, suite_name)))
    if part == "table2":
        return _judged(params, table2_runs(params, suite_name), checkpoint="best")
    if part == BEYOND and suite.beyond is not None:
        return _evaluated(params, beyond_runs(params, suite_name), suite.beyond.attacks)
    runs = tuple(figure_runs(params, suite_name, part))
    landscape = suite.figures[part].kind == "landscape"
    return Needs(runs, (), ((suite_name, part),) if landscape else ())


def target_needs(params: Params, target: str) -> Needs:
    """What a file of the workflow stands on, such as results/demo/table2.csv.

    Raises:
        UserError: it is no table, figure, report, landscape or run of params.yaml.
    """
    path = PurePosixPath(target)
    for name, suite in params.suites.items():
        base = suite_directory(name)
        parts = {*TABLES, *suite.figures, *([BEYOND] if suite.beyond else [])}
        part = path.stem.removesuffix("_details")
        if path.parent == base and path.suffix in _SUFFIXES:
            if part in REPORT:
                return suite_needs(params, name)
            if part == COMPARISONS:
                return part_needs(params, name, "table2")
            if part in parts:
                return part_needs(params, name, part)
        if path.parent == base / "landscapes" and part in parts:
            return part_needs(params, name, part)
        if path.is_relative_to(base / "runs"):
            return _run_needs(params, name, target, path.relative_to(base / "runs").parts)
    raise UserError(
        f"{target}: expected a table, figure, report or run of params.yaml, got another file;"
        f" try results/demo/table2.csv"
    )


def _evaluated(params: Params, keys: Sequence[RunKey], attacks: tuple[str, ...] | None) -> Needs:
    return Needs(tuple(keys), tuple(evaluation_spec(params, key, attacks=attacks) for key in keys))


def _judged(params: Params, keys: Sequence[RunKey], *, checkpoint: str) -> Needs:
    verdicts = tuple(diagnosis_spec(params, key, checkpoint=checkpoint) for key in keys)
    twins = tuple(spec.twin for spec in verdicts if spec.twin is not None)
    evaluations = tuple(spec.evaluation for spec in verdicts)
    return Needs((*keys, *twins), evaluations, verdicts=verdicts)


def _run_needs(params: Params, suite_name: str, target: str, parts: Sequence[str]) -> Needs:
    """A run's folder, one of its files, or the record of one attack."""
    seed = re.fullmatch(r"seed(\d+)", parts[4]) if len(parts) > 4 else None
    if seed is None:
        raise UserError(
            f"{target}: expected .../runs/DATA/THREAT/NETWORK/RECIPE/seedN, got another path;"
            f" check it"
        )
    names = dict(zip(("dataset", "threat", "network", "recipe"), parts[:4], strict=True))
    key = run_key(params, suite_name, seed=int(seed[1]), **names)
    if len(parts) == 8 and parts[5] == "evaluation" and parts[6] in CHECKPOINTS:
        if parts[7] == "diagnosis.json":
            return _judged(params, [key], checkpoint=parts[6])
        attacks = (parts[7].removesuffix(".json"),)
        spec = evaluation_spec(params, key, checkpoint=parts[6], attacks=attacks)
        return Needs((key,), (spec,))
    return Needs((key,))
