"""Which results a target needs, under which fingerprint, and which of them are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rwp.evaluation.spec import DiagnosisSpec, EvaluationSpec, LandscapeSpec
from rwp.files import read_object
from rwp.pipeline import state as chain
from rwp.pipeline.resolve import landscape_spec, train_spec
from rwp.pipeline.settings import Params
from rwp.pipeline.suites import Needs
from rwp.training.spec import AttackSpec, PseudoLabelSpec, TrainSpec

Kind = Literal["training", "labeling", "landscape", "record", "verdict"]
State = Literal["done", "stale", "to do"]


@dataclass(frozen=True)
class Expected:
    """One file that carries a fingerprint, and what it should be."""

    kind: Kind
    path: str  # relative to the project
    fingerprint: str
    spec: TrainSpec | PseudoLabelSpec | LandscapeSpec | EvaluationSpec | DiagnosisSpec
    attack: AttackSpec | None = None  # of a record

    def state(self, root: Path) -> State:
        """Whether the file is there, and made under today's settings and code."""
        if not (root / self.path).exists():
            return "to do"
        found = read_object(root / self.path).get("fingerprint")
        return "done" if found == self.fingerprint else "stale"


def expected_results(params: Params, needs: Needs) -> list[Expected]:
    """All results below a target, each once, in the order in which they are made."""
    found = [
        *_trainings(params, needs),
        *(
            Expected("landscape", path, chain.landscape_fingerprint(spec, params), spec)
            for spec, path in _landscapes(params, needs)
        ),
        *(result for spec in needs.evaluations for result in _records(params, spec)),
        *(
            Expected("verdict", str(spec.path), chain.diagnosis_fingerprint(spec, params), spec)
            for spec in needs.verdicts
        ),
    ]
    return list({result.path: result for result in found}.values())


def _trainings(params: Params, needs: Needs) -> Iterator[Expected]:
    """Teachers first, then what they label, then all others."""
    keys = [*needs.trainings, *(spec.key for spec in needs.evaluations)]
    specs = [train_spec(params, key) for key in dict.fromkeys(keys)]
    mixes = dict.fromkeys(spec.unlabeled for spec in specs if spec.unlabeled is not None)
    teachers = [train_spec(params, mix.teacher) for mix in mixes]
    for spec in dict.fromkeys(teachers):
        yield _training(params, spec)
    for labeling in dict.fromkeys(mix.labeling for mix in mixes):
        path = str(labeling.path.with_suffix(".json"))
        fingerprint = chain.pseudo_label_fingerprint(labeling, params)
        yield Expected("labeling", path, fingerprint, labeling)
    for spec in specs:
        yield _training(params, spec)


def _training(params: Params, spec: TrainSpec) -> Expected:
    path = str(spec.key.directory / "run.json")
    return Expected("training", path, chain.training_fingerprint(spec, params), spec)


def _landscapes(params: Params, needs: Needs) -> Iterator[tuple[LandscapeSpec, str]]:
    for suite, figure in needs.landscapes:
        spec = landscape_spec(params, suite, figure)
        yield spec, str(spec.result(figure).with_suffix(".json"))


def _records(params: Params, spec: EvaluationSpec) -> Iterator[Expected]:
    evaluation = chain.evaluation_fingerprint(spec, params)
    for attack in spec.attacks:
        path, fingerprint = spec.record(attack.name), chain.record_fingerprint(evaluation, attack)
        yield Expected("record", str(path), fingerprint, spec, attack)
