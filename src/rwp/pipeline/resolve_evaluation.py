"""From params.yaml to the settings of an evaluation or a landscape of one run."""

from __future__ import annotations

from dataclasses import fields

from rwp.errors import UserError
from rwp.evaluation.spec import EvaluationSpec, LandscapeSpec
from rwp.factories import is_own
from rwp.pipeline.lookup import Lookup, choose, get_suite
from rwp.pipeline.resolve import (
    checked_attack,
    dataset_spec,
    landscape_keys,
    own_source,
    step_size,
    threat_spec,
    train_spec,
    written_threat,
)
from rwp.pipeline.settings import AttackEntry, LandscapeFigure, Params, Suite
from rwp.training.spec import AttackSpec, RunKey


def attacks_under_network_threat(suite: Suite) -> tuple[str, ...]:
    """The attacks under a network's own threat model, which verdicts and pairs look at."""
    attacks = suite.evaluation.attacks.items()
    return tuple(name for name, entry in attacks if not entry.has_other_threat)


def attack_jobs(suite: Suite) -> list[tuple[str, ...]]:
    """The attacks of each job on a network: the cheap ones share one, each AutoAttack has its own.

    What a job makes is lost when it is begun again.
    """
    attacks = suite.evaluation.attacks.items()
    cheap = tuple(name for name, entry in attacks if entry.kind != "autoattack")
    slow = ((name,) for name, entry in attacks if entry.kind == "autoattack")
    return [names for names in (cheap, *slow) if names]


def attack_spec(
    suite: Suite, key: RunKey, name: str, entry: AttackEntry, threat_name: str
) -> AttackSpec:
    """Resolve one attack of the evaluation under a threat model of the suite."""
    at = key.replace(threat=threat_name)
    look = Lookup(key.suite, key.dataset, threat_name, key.network)
    steps = entry.kind not in ("natural", "fgsm", "autoattack") and not is_own(entry.kind)
    own = look.optional(entry.step_size, f"evaluation.attacks.{name}.step_size")
    threat = threat_spec(suite, at)
    if entry.epsilon is not None:
        epsilon = look(entry.epsilon, f"evaluation.attacks.{name}.epsilon")
        where = f"suites.{key.suite}.evaluation.attacks.{name}.epsilon"
        threat = written_threat(entry.norm or threat.norm, epsilon, where)
    spec = AttackSpec(
        name=name,
        kind=entry.kind,
        threat=threat,
        step_size=(own or step_size(suite, at)) if steps else None,
        num_steps=entry.num_steps,
        num_restarts=entry.num_restarts,
        kappa=entry.kappa,
        version=entry.version,
        num_examples=entry.num_examples,
        options=entry.options,
        source=own_source(entry.kind, key.suite, f"evaluation.attacks.{name}.kind"),
        draft=entry.draft,
    )
    return checked_attack(spec, f"suites.{key.suite}.evaluation.attacks")


def attacked_under(suite: Suite, key: RunKey) -> str:
    """The threat model that a run is attacked under: its own, or table 2's if it has none."""
    return suite.table2.threat_model if key.threat == "none" else key.threat


def evaluation_spec(
    params: Params,
    key: RunKey,
    *,
    checkpoint: str = "best",
    attacks: tuple[str, ...] | None = None,
) -> EvaluationSpec:
    """Resolve the attacks on one checkpoint (all of the suite's, unless named)."""
    suite = params.suites[key.suite]
    table = suite.evaluation.attacks
    threat_name = attacked_under(suite, key)
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


def landscape_spec(params: Params, suite_name: str, name: str) -> LandscapeSpec:
    """The measurement behind a landscape figure.

    Its attack is PGD on cross-entropy with the sizes of the training's, in eval mode, from the
    start that the settings name, or else a uniform one.
    """
    suite = get_suite(params, suite_name)
    figure = suite.figures[name]
    if not isinstance(figure, LandscapeFigure):
        raise ValueError(f"{name}: expected a landscape, got {figure.kind}")
    keys = landscape_keys(suite, suite_name, figure)
    training = train_spec(params, keys[0])
    if training.attack is None:
        raise ValueError(f"{name}: expected an adversarially trained recipe, got {figure.recipe}")
    epochs = training.optimization.epochs
    if figure.epochs and figure.epochs[-1] > epochs:
        raise UserError(
            f"params.yaml: suites.{suite_name}.figures.{name}.epochs: expected at most the {epochs}"
            f" epochs of {training.key.name}, got {figure.epochs[-1]}; lower it"
        )
    names = [f.name for f in fields(LandscapeSpec) if f.name in LandscapeFigure.model_fields]
    copied = {name: getattr(figure, name) for name in names}
    return LandscapeSpec(
        key=training.key,
        data=training.data,
        attack=training.attack.replace(bn_mode="eval"),
        held_out_fraction=training.held_out_fraction,
        batch_size=suite.evaluation.batch_size,
        seed=suite.evaluation.seed,
        part_seed=suite.evaluation.part_seed,
        more_seeds=tuple(key.seed for key in keys[1:]),
        **copied,
    )
