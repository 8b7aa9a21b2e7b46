"""From params.yaml to the spec of one training: every table of settings looked up, once, here."""

from __future__ import annotations

from rwp.config.lookup import (
    Lookup,
    choose,
    dataset_spec,
    run_key,
    setting_key,
    step_size,
    threat_spec,
)
from rwp.config.results import Change, LandscapeFigure
from rwp.config.schema import Params, PerturbationEntry, Suite
from rwp.config.specs import (
    AttackSpec,
    AugmentationSpec,
    ObjectiveSpec,
    OptimizationSpec,
    PerturbationSpec,
    PseudoLabelSpec,
    RunKey,
    ThreatSpec,
    TrainSpec,
    UnlabeledMix,
)


def train_spec(params: Params, key: RunKey) -> TrainSpec:
    """Resolve one training."""
    suite = params.suites[key.suite]
    recipe = suite.recipes[key.recipe]
    objective = suite.objectives[recipe.objective]
    look = Lookup(key.suite, key.dataset, key.threat, key.network, recipe.objective)
    natural = key.threat == "none"
    threat = None if natural else threat_spec(suite, key)
    perturbation = perturbation_spec(suite, key)
    criterion = recipe.change.criterion
    if criterion is None and recipe.perturbation is not None:
        criterion = suite.perturbations[recipe.perturbation].criterion
    return TrainSpec(
        key=key,
        data=dataset_spec(params, key),
        architecture=params.networks[key.network],
        normalize=look(suite.training.normalize, "training.normalize"),
        threat=threat,
        objective=ObjectiveSpec(
            loss=objective.loss,
            beta=objective.beta,
            clean_updates=objective.clean_updates,
            criterion=criterion or "objective",
        ),
        perturbation=perturbation,
        attack=None if threat is None else _training_attack(suite, key, look),
        optimization=_optimization(suite, look),
        augmentation=_augmentation(suite, look),
        unlabeled=_unlabeled_mix(params, key, look),
        selection=suite.selection,
        held_out_fraction=suite.held_out_fraction,
        test_curve=suite.test_curve,
        monitor=None if threat is None else _monitor(suite, key, threat, look),
        remove_below=recipe.change.remove_below,
        average_decay=recipe.average_decay,
        keep_epochs=kept_epochs(suite, key),
    )


def num_gpus(params: Params, key: RunKey) -> int:
    """How many GPUs share the training; no part of its settings, as it decides no number."""
    suite = params.suites[key.suite]
    objective = suite.recipes[key.recipe].objective
    look = Lookup(key.suite, key.dataset, key.threat, key.network, objective)
    return look.optional(suite.training.gpus, "training.gpus") or 1


def kept_epochs(suite: Suite, key: RunKey) -> tuple[int, ...]:
    """The epochs after which a run keeps its network: those that a landscape looks at."""
    kept: set[int] = set()
    for figure in suite.figures.values():
        if figure.kind == "landscape" and landscape_key(suite, key.suite, figure) == key:
            kept |= set(figure.epochs)
    return tuple(sorted(kept))


def landscape_key(suite: Suite, suite_name: str, figure: LandscapeFigure) -> RunKey:
    """The training whose checkpoints a landscape looks at: that of the suite's first seed."""
    return setting_key(suite, suite_name, figure, figure.recipe, seed=suite.seeds[0])


def perturbation_spec(suite: Suite, key: RunKey) -> PerturbationSpec | None:
    """The weight perturbation of a run.

    Raises:
        UserError: its mask needs a loss range that is not given for this setting.
    """
    recipe = suite.recipes[key.recipe]
    name = recipe.perturbation
    if name is None:
        return None
    entry = _changed(suite.perturbations[name], recipe.change)
    where = f"perturbations.{name}"
    look = Lookup(key.suite, key.dataset, key.threat, key.network, recipe.objective)
    needs_min, needs_max = entry.mask != "all", entry.mask == "range"
    return PerturbationSpec(
        name=name,
        gamma=look(entry.gamma, f"{where}.gamma"),
        num_weight_steps=look(entry.num_weight_steps, f"{where}.num_weight_steps"),
        norm_scope=entry.norm_scope,
        mask=entry.mask,
        c_min=look(entry.c_min, f"{where}.c_min") if needs_min else None,
        c_max=look(entry.c_max, f"{where}.c_max") if needs_max else None,
        warmup_epochs=look(entry.warmup_epochs, f"{where}.warmup_epochs"),
    )


def _changed(entry: PerturbationEntry, change: Change) -> PerturbationEntry:
    """A perturbation with a recipe's own settings in place of its own."""
    tables = ("gamma", "num_weight_steps", "c_min")
    given = {name: getattr(change, name) for name in (*tables, "norm_scope", "mask")}
    if change.loss_range is not None:
        given["mask"], (given["c_min"], c_max) = "range", change.loss_range
        entry = entry.model_copy(update={"c_max": {"default": c_max}})
    update = {
        name: {"default": value} if name in tables else value
        for name, value in given.items()
        if value is not None
    }
    return entry.model_copy(update=update)


def _training_attack(suite: Suite, key: RunKey, look: Lookup) -> AttackSpec:
    threat, training = threat_spec(suite, key), suite.training
    epsilon = look.optional(training.attack_epsilon, "training.attack_epsilon")
    own_step = look.optional(training.attack_step_size, "training.attack_step_size")
    return AttackSpec(
        name="training",
        kind=suite.objectives[suite.recipes[key.recipe].objective].loss,
        threat=ThreatSpec(norm=threat.norm, epsilon=epsilon or threat.epsilon),
        step_size=own_step or step_size(suite, key),
        num_steps=suite.recipes[key.recipe].attack_num_steps
        or look(training.attack_num_steps, "training.attack_num_steps"),
        random_start=look.optional(training.attack_random_start, "training.attack_random_start"),
        bn_mode=look(training.attack_bn_mode, "training.attack_bn_mode"),
    )


def _monitor(suite: Suite, key: RunKey, threat: ThreatSpec, look: Lookup) -> AttackSpec:
    """PGD on the test or held-out images; where training starts off the ball, so does this."""
    start = look.optional(suite.training.attack_random_start, "training.attack_random_start")
    return AttackSpec(
        random_start=start,
        name=f"pgd-{suite.monitor_num_steps}",
        kind="pgd",
        threat=threat,
        step_size=step_size(suite, key),
        num_steps=suite.monitor_num_steps,
    )


def _optimization(suite: Suite, look: Lookup) -> OptimizationSpec:
    entry = suite.training
    tables = ("epochs", "batch_size", "learning_rate", "schedule", "momentum", "nesterov")
    values = {name: look(getattr(entry, name), f"training.{name}") for name in tables}
    return OptimizationSpec(
        **values,
        weight_decay=look(entry.weight_decay, "training.weight_decay"),
        decay_epochs=entry.decay_epochs,
        decay_factor=entry.decay_factor,
        precision=entry.precision,
        batch_statistics=entry.batch_statistics,
        compile=entry.compile,
    )


def _augmentation(suite: Suite, look: Lookup) -> AugmentationSpec:
    entry = suite.training
    names = ("crop_padding", "padding_mode", "flip", "rotation_degrees")
    return AugmentationSpec(
        **{name: look(getattr(entry, name), f"training.{name}") for name in names}
    )


def _unlabeled_mix(params: Params, key: RunKey, look: Lookup) -> UnlabeledMix | None:
    suite = params.suites[key.suite]
    objective_name = suite.recipes[key.recipe].objective
    entry = suite.objectives[objective_name].unlabeled
    if entry is None:
        return None
    where = f"objectives.{objective_name}.unlabeled"
    source = look(entry.source, f"{where}.source")
    teacher = run_key(
        params,
        key.suite,
        recipe=entry.teacher_recipe,
        dataset=key.dataset,
        threat="none",
        seed=key.seed,
        network=look(entry.teacher_network, f"{where}.teacher_network"),
    )
    return UnlabeledMix(
        source=source,
        definition=choose(params.unlabeled, source, "unlabeled source", "params.yaml: unlabeled"),
        fraction=entry.fraction,
        weight=entry.weight,
        epoch_size=look(entry.epoch_size, f"{where}.epoch_size"),
        teacher=teacher,
        min_confidence=entry.min_confidence,
        per_class=entry.per_class,
    )


def pseudo_label_spec(mix: UnlabeledMix) -> PseudoLabelSpec:
    """The labeling step that a mixed training stands on."""
    shared = {name: getattr(mix, name) for name in PseudoLabelSpec.model_fields}
    return PseudoLabelSpec(**shared)
