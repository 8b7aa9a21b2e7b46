"""The Merkle chain: the fingerprint of each step holds those of the steps it stands on.

Snakemake alone would call a table done whose retraining failed; with the fingerprint among a
job's parameters, everything below a changed step is known to be stale until it has run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rwp.evaluation.spec import record_fingerprint
from rwp.pipeline.code import code_hash
from rwp.spec import merkle

if TYPE_CHECKING:
    from rwp.data.spec import DatasetSpec, UnlabeledSpec
    from rwp.evaluation.spec import DiagnosisSpec, EvaluationSpec, LandscapeSpec
    from rwp.pipeline.settings import Frozen, Params
    from rwp.training.spec import PseudoLabelSpec, RunKey, TrainSpec


def dataset_fingerprint(name: str, definition: DatasetSpec) -> str:
    """Of the files under data/<name>. Where they are copied from does not count: bytes do."""
    settings = definition.canonical(without=("mirror", "mean", "std"))
    return merkle("dataset", name, settings, code_hash("rwp.data.fetch"))


def unlabeled_fingerprint(name: str, definition: UnlabeledSpec, params: Params) -> str:
    """Of data/unlabeled/<name>.pt."""
    upstream = ""
    if definition.dataset is not None:
        upstream = dataset_fingerprint(definition.dataset, params.datasets[definition.dataset])
    settings = definition.canonical(without=("license",))
    return merkle("unlabeled", name, settings, code_hash("rwp.data.unlabeled"), upstream)


def training_fingerprint(spec: TrainSpec, params: Params) -> str:
    """Of a run's checkpoints and history."""
    return _training_fingerprint(spec, _Hashable(params))


def pseudo_label_fingerprint(spec: PseudoLabelSpec, params: Params) -> str:
    """Of a file of pseudo-labels; it holds the teacher's training."""
    from rwp.pipeline.resolve import train_spec

    return merkle(
        "pseudo-labels",
        spec.canonical(),
        code_hash("rwp.training.pseudo_labels"),
        training_fingerprint(train_spec(params, spec.teacher), params),
        unlabeled_fingerprint(spec.source, spec.definition, params),
    )


def evaluation_fingerprint(spec: EvaluationSpec, params: Params) -> str:
    """Of an evaluation, whichever attacks share its job; it holds the training it looks at."""
    from rwp.pipeline.resolve import train_spec

    training = training_fingerprint(train_spec(params, spec.key), params)
    settings = spec.replace(attacks=()).canonical()
    return merkle("evaluation", settings, code_hash("rwp.evaluation.jobs"), training)


def diagnosis_fingerprint(spec: DiagnosisSpec, params: Params) -> str:
    """Of the verdict on an evaluation; it holds all records, and the twin's training."""
    from rwp.pipeline.resolve import train_spec

    evaluation = evaluation_fingerprint(spec.evaluation, params)
    twin = spec.twin and training_fingerprint(train_spec(params, spec.twin), params)
    return merkle(
        "diagnosis",
        spec.objective,
        code_hash("rwp.evaluation.diagnosis"),
        *(record_fingerprint(evaluation, attack) for attack in spec.evaluation.attacks),
        twin or "",
    )


def _text(entry: Frozen) -> str:
    return entry.model_dump_json(exclude_defaults=True)


class _Hashable:
    """Params by identity, so that results can be kept while one set of settings is in use."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def __hash__(self) -> int:
        return id(self.params)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and other.params is self.params


@lru_cache(maxsize=4096)
def _training_fingerprint(spec: TrainSpec, hashable: _Hashable) -> str:

    params = hashable.params
    parts = [
        "training",
        spec.canonical(),
        code_hash("rwp.training.jobs"),
        dataset_fingerprint(spec.key.dataset, spec.data),
    ]
    if spec.unlabeled is not None:
        parts.append(pseudo_label_fingerprint(spec.unlabeled.labeling, params))
    return merkle(*parts)


def landscape_fingerprint(spec: LandscapeSpec, params: Params) -> str:
    """Of a weight-loss landscape; it holds the training whose checkpoints it looks at."""
    from rwp.pipeline.resolve import train_spec

    training = training_fingerprint(train_spec(params, spec.key), params)
    return merkle("landscape", spec.canonical(), code_hash("rwp.evaluation.landscape"), training)


# What is drawn or written from runs, by the module that does it; all else is a figure.
_MAKERS = {
    "table1": "rwp.reporting.tables",
    "table2": "rwp.reporting.pairs",  # which stands on the tables
    "beyond": "rwp.reporting.tables",
    "report": "rwp.reporting.report",
}
_FIGURES = "rwp.reporting.figures"


def table_fingerprint(params: Params, suite_name: str, name: str) -> str:
    """Of a table, figure or the report of a suite: it holds all runs and evaluations below."""
    from rwp.pipeline.suites import table1_runs, table2_runs

    suite = params.suites[suite_name]
    parts = [name, suite_name, code_hash(_MAKERS.get(name, _FIGURES))]
    if name == "report":
        shown = ("table1", "table2", *suite.reported)
        return merkle(*parts, *(table_fingerprint(params, suite_name, part) for part in shown))
    if name == "table1":
        runs = table1_runs(params, suite_name)
        return merkle(*parts, _text(suite.table1), *_trainings(params, runs))
    if name == "table2":
        runs = table2_runs(params, suite_name)
        return merkle(*parts, _text(suite.table2), *_verdicts(params, runs))
    if name == "beyond":
        return merkle(*parts, *_beyond(params, suite_name))
    return merkle(*parts, *_figure(params, suite_name, name))


def _trainings(params: Params, keys: list[RunKey]) -> list[str]:
    from rwp.pipeline.resolve import train_spec

    return [training_fingerprint(train_spec(params, key), params) for key in keys]


def _verdicts(params: Params, keys: list[RunKey]) -> list[str]:
    """Each of them holds the records that it judges."""
    from rwp.pipeline.suites import diagnosis_spec

    return [diagnosis_fingerprint(diagnosis_spec(params, key), params) for key in keys]


def _records(params: Params, keys: list[RunKey], attacks: tuple[str, ...] | None) -> list[str]:
    from rwp.pipeline.resolve import evaluation_spec

    return [
        record_fingerprint(evaluation_fingerprint(spec, params), attack)
        for spec in (evaluation_spec(params, key, attacks=attacks) for key in keys)
        for attack in spec.attacks
    ]


def _beyond(params: Params, suite_name: str) -> list[str]:
    from rwp.pipeline.suites import beyond_runs

    entry, keys = params.suites[suite_name].beyond, beyond_runs(params, suite_name)
    if entry is None:
        return []
    return [
        _text(entry),
        *_trainings(params, keys),
        *_records(params, keys, entry.attacks),
    ]


def _figure(params: Params, suite_name: str, name: str) -> list[str]:
    from rwp.pipeline.resolve import landscape_spec
    from rwp.pipeline.suites import figure_runs

    figure = params.suites[suite_name].figures[name]
    parts = [
        _text(figure),
        *_trainings(params, figure_runs(params, suite_name, name)),
    ]
    if figure.kind == "landscape":
        parts.append(landscape_fingerprint(landscape_spec(params, suite_name, name), params))
    return parts
