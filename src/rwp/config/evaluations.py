"""From params.yaml to the spec of an evaluation and of the verdict on it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from rwp.config.lookup import Lookup, choose, dataset_spec, step_size, threat_spec
from rwp.config.schema import AttackEntry, Params, Suite
from rwp.config.specs import AttackSpec, EvaluationSpec, RunKey, Spec
from rwp.config.tables import table2_runs


class DiagnosisSpec(Spec):
    """The verdict on one evaluation; the twin lends adversarial images where there is doubt."""

    evaluation: EvaluationSpec  # all attacks of its suite
    objective: Literal["natural", "at", "trades", "mart"]
    twin: RunKey | None

    @property
    def path(self) -> PurePosixPath:
        """Where the verdict lies, relative to the project."""
        return self.evaluation.record("diagnosis")

    @property
    def twin_checkpoint(self) -> PurePosixPath | None:
        """The network that lends images, relative to the project."""
        return None if self.twin is None else self.twin.directory / "best.pt"


def attack_names(suite: Suite, *, slow: bool) -> tuple[str, ...]:
    """The attacks of one job: the cheap ones share a job, AutoAttack has its own."""
    attacks = suite.evaluation.attacks.items()
    return tuple(name for name, entry in attacks if (entry.kind == "autoattack") == slow)


def attack_spec(
    suite: Suite, key: RunKey, name: str, entry: AttackEntry, threat_name: str
) -> AttackSpec:
    """Resolve one attack of the evaluation under a threat model of the suite."""
    at = key.model_copy(update={"threat": threat_name})
    look = Lookup(key.suite, key.dataset, threat_name, key.network)
    steps = entry.kind not in ("natural", "fgsm", "autoattack")
    own = look.optional(entry.step_size, f"evaluation.attacks.{name}.step_size")
    return AttackSpec(
        name=name,
        kind=entry.kind,
        threat=threat_spec(suite, at),
        step_size=(own or step_size(suite, at)) if steps else None,
        num_steps=entry.num_steps,
        num_restarts=entry.num_restarts,
        kappa=entry.kappa,
        version=entry.version,
    )


def evaluation_spec(
    params: Params,
    key: RunKey,
    *,
    checkpoint: str = "best",
    attacks: tuple[str, ...] | None = None,
    threat: str | None = None,
) -> EvaluationSpec:
    """Resolve the attacks on one checkpoint (all of the suite's, unless named)."""
    suite = params.suites[key.suite]
    table = suite.evaluation.attacks
    threat_name = threat or (suite.table2.threat_model if key.threat == "none" else key.threat)
    names = tuple(table) if attacks is None else attacks
    where = f"params.yaml: suites.{key.suite}.evaluation.attacks"
    entries = {name: choose(table, name, "attack", where) for name in names}
    return EvaluationSpec(
        key=key,
        checkpoint=checkpoint,  # type: ignore[arg-type]
        data=dataset_spec(params, key),
        attacks=tuple(
            attack_spec(suite, key, name, entry, threat_name) for name, entry in entries.items()
        ),
        batch_size=suite.evaluation.batch_size,
        num_examples=suite.evaluation.num_examples,
        first_examples=suite.evaluation.first_examples,
        part_seed=suite.evaluation.part_seed,
        seed=suite.evaluation.seed,
    )


def diagnosis_spec(params: Params, key: RunKey, *, checkpoint: str = "best") -> DiagnosisSpec:
    """Resolve the verdict on one checkpoint, which stands on all attacks of its suite."""
    return DiagnosisSpec(
        evaluation=evaluation_spec(params, key, checkpoint=checkpoint),
        objective=_objective(params, key),
        twin=_twin(params, key),
    )


def _objective(params: Params, key: RunKey) -> Literal["natural", "at", "trades", "mart"]:
    suite = params.suites[key.suite]
    return suite.objectives[suite.recipes[key.recipe].objective].loss


def _twin(params: Params, key: RunKey) -> RunKey | None:
    """Plain AT of the same place, where Table 2 has it; natural and AT itself have no twin."""
    suite = params.suites[key.suite]

    def is_plain_at(other: RunKey) -> bool:
        return suite.recipes[other.recipe].perturbation is None and (
            _objective(params, other) == "at"
        )

    if is_plain_at(key) or _objective(params, key) == "natural":
        return None
    alike = (
        other
        for other in table2_runs(params, key.suite)
        if other == key.model_copy(update={"recipe": other.recipe}) and is_plain_at(other)
    )
    return next(alike, None)
