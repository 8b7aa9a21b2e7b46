"""`rwp verify`: do the results on disk stand on today's settings and code?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwp.commands.common import DEFAULT_PARAMS, ParamsFile

if TYPE_CHECKING:
    from rwp.config.schema import Params


def verify(
    suite: Annotated[
        str | None, typer.Option(help="Only this suite; default: those built.")
    ] = None,
    params_file: ParamsFile = DEFAULT_PARAMS,
) -> None:
    """Recompute every fingerprint and name the results that are stale; exit code 1 if any is.

    Needs neither Snakemake's nor DVC's memory. Results that are not built yet are counted only.
    """
    from rwp.config.load import load_params
    from rwp.files import read_json

    params, root = load_params(params_file), Path.cwd()
    current, stale, missing = 0, [], 0
    for name in [suite] if suite else params.build:
        for path, fingerprint in dict(expected_fingerprints(params, name)).items():
            if not (root / path).exists():
                missing += 1
            elif read_json(root / path).get("fingerprint") == fingerprint:
                current += 1
            else:
                stale.append(path)
    for path in stale:
        print(f"stale: {path}")
    print(f"{current} results are up to date, {len(stale)} stale, {missing} not built")
    if stale:
        raise typer.Exit(1)


def expected_fingerprints(params: Params, suite: str) -> Iterator[tuple[str, str]]:
    """Each file of a suite that carries a fingerprint, and what it should be."""
    from rwp.config.evaluations import diagnosis_spec, evaluation_spec
    from rwp.config.figures import (
        BEYOND,
        beyond_runs,
        figure_names,
        landscape_spec,
        reported_runs,
    )
    from rwp.config.tables import table1_runs, table2_runs
    from rwp.config.trainings import pseudo_label_spec, train_spec
    from rwp.provenance import chain

    diagnoses = [diagnosis_spec(params, key) for key in table2_runs(params, suite)]
    evaluations = [diagnosis.evaluation for diagnosis in diagnoses]
    entry = params.suites[suite].beyond
    if entry is not None and BEYOND in params.suites[suite].reported:
        keys = beyond_runs(params, suite)
        evaluations += [evaluation_spec(params, key, attacks=entry.attacks) for key in keys]
    keys = [*table1_runs(params, suite), *(spec.key for spec in evaluations)]
    specs = [train_spec(params, key) for key in keys + reported_runs(params, suite)]
    mixes = dict.fromkeys(spec.unlabeled for spec in specs if spec.unlabeled is not None)
    specs += [train_spec(params, mix.teacher) for mix in mixes]
    for spec in dict.fromkeys(specs):
        yield str(spec.key.directory / "run.json"), chain.training_fingerprint(spec, params)
    for labeling in dict.fromkeys(pseudo_label_spec(mix) for mix in mixes):
        path = str(labeling.path.with_suffix(".json"))
        yield path, chain.pseudo_label_fingerprint(labeling, params)
    for name in figure_names(params.suites[suite]):
        if params.suites[suite].figures[name].kind == "landscape":
            landscape = landscape_spec(params, suite, name)
            path = str(landscape.result(name).with_suffix(".json"))
            yield path, chain.landscape_fingerprint(landscape, params)
    for evaluation in evaluations:
        fingerprint = chain.evaluation_fingerprint(evaluation, params)
        for attack in evaluation.attacks:
            expected = chain.record_fingerprint(fingerprint, attack)
            yield str(evaluation.record(attack.name)), expected
    for diagnosis in diagnoses:
        yield str(diagnosis.path), chain.diagnosis_fingerprint(diagnosis, params)
