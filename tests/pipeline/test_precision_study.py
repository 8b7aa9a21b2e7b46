"""The study that ships compares precisions, and nothing but precisions."""

from __future__ import annotations

from rwp.pipeline.load import load_params
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.suites import runs_of
from tests.conftest import ROOT


def test_the_study_varies_precision_alone() -> None:
    params = load_params(ROOT / "params.yaml")
    keys = runs_of(params, "precision", "beyond")
    specs = [train_spec(params, key) for key in keys]
    kinds = {
        (spec.perturbation and spec.perturbation.num_weight_steps, spec.key.seed) for spec in specs
    }
    assert len(specs) == 27 == 3 * len(kinds)
    for kind in kinds:
        same = [
            spec
            for spec in specs
            if (spec.perturbation and spec.perturbation.num_weight_steps, spec.key.seed) == kind
        ]
        assert {spec.optimization.precision for spec in same} == {"fp32", "tf32", "bf16"}
        alike = [
            spec.replace(
                key=same[0].key,
                keep_epochs=(),
                optimization=spec.optimization.replace(precision="fp32"),
                perturbation=spec.perturbation and spec.perturbation.replace(name="any"),
            )
            for spec in same
        ]
        assert alike[0] == alike[1] == alike[2]
    attacks = {attack for key in keys for attack in evaluation_spec(params, key).attacks}
    assert {attack.draft for attack in attacks} == {None}
