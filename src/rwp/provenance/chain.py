"""The Merkle chain: the fingerprint of each step holds those of the steps it stands on.

Snakemake alone would call a table done whose retraining failed; with the fingerprint among a
job's parameters, everything below a changed step is known to be stale until it has run.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from rwp.provenance.codehash import code_hash

if TYPE_CHECKING:
    from rwp.config.definitions import DatasetSpec, UnlabeledSpec
    from rwp.config.schema import Params
    from rwp.config.specs import (
        AttackSpec,
        DiagnosisSpec,
        EvaluationSpec,
        PseudoLabelSpec,
        TrainSpec,
    )


def merkle(*parts: str) -> str:
    """Hash an ordered list of texts (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()[:16]


def dataset_fingerprint(name: str, definition: DatasetSpec) -> str:
    """Of the files under data/<name>. Where they are copied from does not count: bytes do."""
    settings = definition.model_dump_json(exclude={"mirror", "mean", "std"})
    return merkle("dataset", name, settings, code_hash("rwp.data.fetch"))


def unlabeled_fingerprint(name: str, definition: UnlabeledSpec, params: Params) -> str:
    """Of data/unlabeled/<name>.pt."""
    upstream = ""
    if definition.dataset is not None:
        upstream = dataset_fingerprint(definition.dataset, params.datasets[definition.dataset])
    settings = definition.model_dump_json(exclude={"license"})
    return merkle("unlabeled", name, settings, code_hash("rwp.data.unlabeled"), upstream)


def training_fingerprint(spec: TrainSpec, params: Params) -> str:
    """Of a run's checkpoints and history."""
    return _training_fingerprint(spec, _Hashable(params))


def pseudo_label_fingerprint(spec: PseudoLabelSpec, params: Params) -> str:
    """Of a file of pseudo-labels; it holds the teacher's training."""
    from rwp.config.trainings import train_spec

    return merkle(
        "pseudo-labels",
        spec.canonical(),
        code_hash("rwp.training.pseudo_labels"),
        training_fingerprint(train_spec(params, spec.teacher), params),
        unlabeled_fingerprint(spec.source, spec.definition, params),
    )


def evaluation_fingerprint(spec: EvaluationSpec, params: Params) -> str:
    """Of an evaluation, whichever attacks share its job; it holds the training it looks at."""
    from rwp.config.trainings import train_spec

    training = training_fingerprint(train_spec(params, spec.key), params)
    settings = spec.model_copy(update={"attacks": ()}).canonical()
    return merkle("evaluation", settings, code_hash("rwp.evaluation.jobs"), training)


def record_fingerprint(evaluation: str, attack: AttackSpec) -> str:
    """Of the record of one attack of an evaluation with that fingerprint."""
    return merkle("record", evaluation, attack.canonical())


def diagnosis_fingerprint(spec: DiagnosisSpec, params: Params) -> str:
    """Of the verdict on an evaluation; it holds all records, and the twin's training."""
    from rwp.config.trainings import train_spec

    evaluation = evaluation_fingerprint(spec.evaluation, params)
    twin = spec.twin and training_fingerprint(train_spec(params, spec.twin), params)
    return merkle(
        "diagnosis",
        spec.objective,
        code_hash("rwp.evaluation.diagnosis"),
        *(record_fingerprint(evaluation, attack) for attack in spec.evaluation.attacks),
        twin or "",
    )


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
    from rwp.config.trainings import pseudo_label_spec

    params = hashable.params
    parts = [
        "training",
        spec.canonical(),
        code_hash("rwp.training.jobs"),
        dataset_fingerprint(spec.key.dataset, spec.data),
    ]
    if spec.unlabeled is not None:
        parts.append(pseudo_label_fingerprint(pseudo_label_spec(spec.unlabeled), params))
    return merkle(*parts)


# What is drawn or written from runs, by the module that does it.
_MAKERS = {
    "table1": "rwp.reporting.tables",
    "table2": "rwp.reporting.comparisons",  # which stands on the tables
    "fig1b": "rwp.reporting.learning",
    "fig3c": "rwp.reporting.learning",
    "report": "rwp.reporting.report",
}


def table_fingerprint(params: Params, suite: str, name: str) -> str:
    """Of a table, figure or the report of a suite: it holds all runs and evaluations below."""
    from rwp.config.evaluations import diagnosis_spec
    from rwp.config.tables import table1_runs, table2_runs
    from rwp.config.trainings import train_spec

    parts = [name, suite, code_hash(_MAKERS[name])]
    if name != "table2":
        parts.append(params.suites[suite].table1.model_dump_json())
        runs = table1_runs(params, suite)
        parts += [training_fingerprint(train_spec(params, key), params) for key in runs]
    if name in ("table2", "report"):
        parts.append(params.suites[suite].table2.model_dump_json())
        # A verdict's fingerprint holds those of the records that it judges.
        verdicts = [diagnosis_spec(params, key) for key in table2_runs(params, suite)]
        parts += [diagnosis_fingerprint(spec, params) for spec in verdicts]
    return merkle(*parts)
