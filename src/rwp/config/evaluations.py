"""From params.yaml to the spec of an evaluation."""

from __future__ import annotations

from rwp.config.lookup import Lookup, choose, dataset_spec, step_size, threat_spec
from rwp.config.schema import AttackEntry, Params, Suite
from rwp.config.specs import AttackSpec, EvaluationSpec, RunKey


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
        seed=suite.evaluation.seed,
    )
