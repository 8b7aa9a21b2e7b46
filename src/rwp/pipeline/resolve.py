"""From params.yaml to the settings of one training: its tables of settings looked up, once."""

from __future__ import annotations

import weakref
from typing import Any

from rwp.core.settings import WITH_LOSSES
from rwp.core.threat import AnyNorm
from rwp.data.official import OFFICIAL
from rwp.data.spec import AugmentationSpec, DatasetSpec, side_known
from rwp.errors import UserError
from rwp.evaluation.spec import check_attack
from rwp.factories import is_own
from rwp.pipeline.lookup import (
    Lookup,
    choose,
    is_natural,
    run_key,
    setting_key,
)
from rwp.pipeline.own_code import own_options, source_of
from rwp.pipeline.settings import (
    FAMILY,
    OF_PERTURBATION,
    Change,
    LandscapeFigure,
    Params,
    PerturbationEntry,
    RecipeEntry,
    Suite,
    TrainingEntry,
)
from rwp.training.spec import (
    WITHOUT_STEPS,
    AttackSpec,
    NetworkSpec,
    ObjectiveSpec,
    OptimizationSpec,
    OwnNetworkSpec,
    PerturbationSpec,
    RunKey,
    StartSpec,
    ThreatSpec,
    TrainSpec,
    UnlabeledMix,
)


def dataset_spec(params: Params, key: RunKey) -> DatasetSpec:
    """The data set of a run, without its mirror: where bytes are copied from decides nothing."""
    return params.datasets[key.dataset].replace(mirror=None)


def threat_spec(suite: Suite, key: RunKey) -> ThreatSpec:
    """The threat model of a run, as it is evaluated."""
    entry = suite.threat_models[key.threat]
    look = Lookup.of(key)
    epsilon = look(entry.epsilon, f"threat_models.{key.threat}.epsilon")
    return ThreatSpec(norm=entry.norm, epsilon=epsilon)


def step_size(suite: Suite, key: RunKey) -> str:
    """The usual attack step under the threat model of a run, as written."""
    look = Lookup.of(key)
    where = f"threat_models.{key.threat}.step_size"
    return look(suite.threat_models[key.threat].step_size, where)


_RESOLVED: dict[int, dict[RunKey, TrainSpec]] = {}  # by the identity of settings in use


def train_spec(params: Params, key: RunKey) -> TrainSpec:
    """Resolve one training; once for the same settings, which are never changed in place."""
    if id(params) not in _RESOLVED:
        _RESOLVED[id(params)] = {}
        weakref.finalize(params, _RESOLVED.pop, id(params), None)
    known = _RESOLVED[id(params)]
    if key not in known:
        known[key] = _train_spec(params, key)
    return known[key]


def _train_spec(params: Params, key: RunKey) -> TrainSpec:
    suite = params.suites[key.suite]
    recipe = suite.recipes[key.recipe]
    training = training_entry(suite, key)
    look = Lookup.of(key, recipe.objective)
    threat = None if key.threat == "none" else threat_spec(suite, key)
    perturbation = perturbation_spec(suite, key)
    _check_layers(params.networks[key.network], perturbation, key)
    _check_momentum(training, look, key)
    _check_schedule(training, look, key, recipe.change)
    _check_warmup(training, look, key, perturbation)
    return TrainSpec(
        key=key,
        data=dataset_spec(params, key),
        architecture=network_spec(params, key.network),
        normalize=look(training.normalize, "training.normalize"),
        threat=threat,
        objective=_objective_spec(suite, key),
        perturbation=perturbation,
        attack=None if threat is None else _training_attack(suite, key, look),
        optimization=_optimization(training, look),
        augmentation=_augmentation(training, look, key, params.datasets[key.dataset]),
        unlabeled=_unlabeled_mix(params, key, look),
        selection=suite.selection,
        held_out_fraction=suite.held_out_fraction,
        test_curve=suite.test_curve,
        monitor=None if threat is None else _monitor(suite, key, threat, look),
        remove_below=recipe.change.remove_below,
        remove_at_random=bool(recipe.change.remove_at_random),
        average_decay=recipe.average_decay or recipe.change.average_decay,
        keep_epochs=kept_epochs(suite, key),
        keep_losses=suite.keep_losses,
        start=start_spec(params, key),
        keep_starts=kept_starts(suite, key.recipe),
        curve_examples=suite.curve_examples,
        selection_every=suite.selection_every,
        selection_monitor=None if threat is None else _selection_monitor(suite, key, threat, look),
    )


def _objective_spec(suite: Suite, key: RunKey) -> ObjectiveSpec:
    """The objective of a recipe, with what the recipe changes of it."""
    recipe = suite.recipes[key.recipe]
    entry, change = suite.objectives[recipe.objective], recipe.change
    criterion, smoothing = change.criterion, change.label_smoothing
    if criterion is None and recipe.perturbation is not None:
        criterion = suite.perturbations[recipe.perturbation].criterion
    twice = entry.loss == "trades" and entry.unlabeled is None  # as its program does
    return ObjectiveSpec(
        loss=entry.loss,
        beta=entry.beta if change.beta is None else change.beta,
        clean_updates=entry.clean_updates or (2 if twice else 1),
        criterion=criterion or "objective",
        label_smoothing=entry.label_smoothing if smoothing is None else smoothing,
        options=own_options(suite, recipe, f"suites.{key.suite}.recipes.{key.recipe}")[0],
        source=own_source(entry.loss, key.suite, f"objectives.{recipe.objective}.loss"),
    )


def _check_schedule(entry: TrainingEntry, look: Lookup, key: RunKey, change: Change) -> None:
    schedule = look(entry.schedule, "training.schedule")
    if schedule in WITHOUT_STEPS:
        where = f"params.yaml: suites.{key.suite}.recipes.{key.recipe}"
        refuse_decays(where, change, got=f"{schedule} for {key.name}")


def _check_warmup(
    entry: TrainingEntry, look: Lookup, key: RunKey, perturbation: PerturbationSpec | None
) -> None:
    epochs = look(entry.epochs, "training.epochs")
    if perturbation is not None and perturbation.warmup_epochs >= epochs:
        raise UserError(
            f"params.yaml: suites.{key.suite}.perturbations.{perturbation.name}.warmup_epochs: "
            f"expected fewer than the {epochs} epochs of {key.name}, got "
            f"{perturbation.warmup_epochs}, so that nothing would be perturbed; lower it"
        )


def _check_momentum(entry: TrainingEntry, look: Lookup, key: RunKey) -> None:
    if look(entry.nesterov, "training.nesterov") and not look(entry.momentum, "training.momentum"):
        raise UserError(
            f"params.yaml: suites.{key.suite}.training.nesterov: expected a momentum above 0 with "
            f"it, got 0 for {key.name}; raise momentum or write nesterov: false"
        )


def refuse_decays(where: str, change: Change, *, got: str) -> None:
    """Decays that a recipe changes under a schedule without steps change nothing.

    Raises:
        UserError: it changes one.
    """
    for name in ("decay_epochs", "decay_factor"):
        if getattr(change, name) is not None:
            raise UserError(
                f"{where}.change.{name}: expected a schedule with steps, got {got}; remove {name}"
            )


def start_spec(params: Params, key: RunKey) -> StartSpec | None:
    """Where the training of a run begins, checked as far as settings tell.

    Raises:
        UserError: the parent is measured in another way, or has not so many epochs before the end.
    """
    suite = params.suites[key.suite]
    recipe = suite.recipes[key.recipe]
    if recipe.start is None:
        return None
    epoch = started_after(recipe)
    start = StartSpec(recipe=recipe.start.recipe, epoch=epoch or 0, file=recipe.start.file)
    parent, at = start.parent(key), f"params.yaml: suites.{key.suite}.recipes.{key.recipe}.start"
    if parent is None or epoch is None:
        return start
    if is_natural(suite, parent.recipe) != is_natural(suite, key.recipe):
        raise UserError(
            f"{at}: expected a recipe that is measured as {key.recipe} is, got {parent.recipe}, "
            "and one of the two trains without an attack; start from another, or from a file"
        )
    spec = train_spec(params, parent)
    _check_measured_alike(suite, key, spec, at)
    own = Lookup.of(key, recipe.objective)
    entry = training_entry(suite, key)
    last = min(spec.optimization.epochs, own(entry.epochs, "training.epochs") - 1)
    if not spec.first_epoch < epoch <= last:
        raise UserError(
            f"{at}: expected an epoch from {spec.first_epoch + 1} to {last}, which {parent.recipe} "
            f"reaches and {key.recipe} does not end with, got {epoch}; name one of these"
        )
    if spec.normalize != own(entry.normalize, "training.normalize"):
        raise UserError(
            f"{at}: expected a recipe with the network of {key.recipe}, got {parent.recipe}, where "
            f"normalize is {str(spec.normalize).lower()}; set it alike for both objectives"
        )
    return start


def _check_measured_alike(suite: Suite, key: RunKey, parent: TrainSpec, at: str) -> None:
    """The curve goes on from the parent's, and `best` is chosen among the epochs of both."""
    recipe = suite.recipes[key.recipe]
    average = recipe.average_decay or recipe.change.average_decay
    if parent.average_decay not in (None, average):
        raise UserError(
            f"{at}: expected a recipe whose raw weights are measured, or average_decay: "
            f"{parent.average_decay} here too, got {parent.key.recipe}, whose moving average is "
            f"measured, and {average or 'none'} for {key.recipe}; start from another"
        )
    precision = training_entry(suite, key).precision
    if parent.optimization.precision != precision:
        raise UserError(
            f"{at}: expected a recipe whose epochs are measured in {precision}, as those of "
            f"{key.recipe} are, got {parent.key.recipe} in {parent.optimization.precision}; set "
            "precision alike for both"
        )
    if parent.threat is None:
        return
    objective = suite.recipes[key.recipe].objective
    look = Lookup.of(key, objective)
    ours = (
        _monitor(suite, key, parent.threat, look),
        _selection_monitor(suite, key, parent.threat, look),
    )
    for mine, its in zip(ours, (parent.monitor, parent.selection_monitor), strict=True):
        if mine is None or its is None or mine == its:
            continue
        names = " and ".join(mine.differing(its))
        raise UserError(
            f"{at}: expected a recipe whose epochs are measured as those of {key.recipe} are, got "
            f"{parent.key.recipe} with another {names}; set `monitor_*` of training "
            "(or attack_random_start) alike for both objectives, or start from a file"
        )


def started_after(recipe: RecipeEntry) -> int | None:
    """Epochs of the other recipe that a recipe starts from, if it does."""
    if recipe.start is None or recipe.start.recipe is None:
        return None
    return recipe.change.start_epoch or recipe.start.epoch


def kept_starts(suite: Suite, recipe: str) -> tuple[int, ...]:
    """The epochs after which trainings of a recipe keep their state, as others start from it."""
    children = (r for r in suite.recipes.values() if r.start and r.start.recipe == recipe)
    return tuple(sorted({epoch for child in children if (epoch := started_after(child))}))


def own_source(text: str | None, suite: str, key: str) -> str:
    """A hash of the code behind a factory of the user's own; empty for our own words."""
    if text is None or not is_own(text):
        return ""
    return source_of(text, named=key.rpartition(".")[2], where=f"params.yaml: suites.{suite}.{key}")


def network_spec(params: Params, name: str) -> NetworkSpec:
    """A network by name; that of the user's own with a hash of its code."""
    network = params.networks[name]
    if not isinstance(network, OwnNetworkSpec):
        return network
    return network.replace(
        source=source_of(
            network.family, named="family", where=f"params.yaml: networks.{name}.family"
        )
    )


def training_entry(suite: Suite, key: RunKey) -> TrainingEntry:
    """How a run is trained: as its suite says, but for what its recipe changes."""
    return suite.training.model_copy(update=suite.recipes[key.recipe].change.of_training)


def num_gpus(params: Params, key: RunKey) -> int:
    """How many GPUs share the training; part of its settings where each normalizes its share."""
    suite = params.suites[key.suite]
    return _gpus(suite.training, Lookup.of(key, suite.recipes[key.recipe].objective))


def _gpus(entry: TrainingEntry, look: Lookup) -> int:
    return look.optional(entry.gpus, "training.gpus") or 1


def kept_epochs(suite: Suite, key: RunKey) -> tuple[int, ...]:
    """The epochs after which a run keeps its network: those that a landscape looks at.

    Raises:
        UserError: one of them is of the run that this one starts from.
    """
    kept: set[int] = set()
    first = started_after(suite.recipes[key.recipe]) or 0
    for name, figure in suite.figures.items():
        if figure.kind == "landscape" and key in landscape_keys(suite, key.suite, figure):
            kept |= set(figure.epochs)
            if figure.epochs and figure.epochs[0] <= first:
                raise UserError(
                    f"params.yaml: suites.{key.suite}.figures.{name}.epochs: expected epochs after "
                    f"the {first} that {key.recipe} starts from, got {figure.epochs[0]}; look at "
                    f"{suite.recipes[key.recipe].start.recipe} there"  # type: ignore[union-attr]
                )
    return tuple(sorted(kept))


def landscape_keys(suite: Suite, suite_name: str, figure: LandscapeFigure) -> list[RunKey]:
    """The trainings whose checkpoints a landscape looks at: of the recipe's first seeds."""
    seeds = suite.seeds[: suite.recipes[figure.recipe].num_seeds][: figure.num_seeds]
    return [setting_key(suite, suite_name, figure, figure.recipe, seed=seed) for seed in seeds]


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
    look = Lookup.of(key, recipe.objective)
    needs_min = entry.mask in WITH_LOSSES and entry.c_min_quantile is None
    needs_max = entry.mask == "range" and entry.c_max_quantile is None
    own = entry.factory or (entry.mask if is_own(entry.mask) else None)
    spec = PerturbationSpec(
        name=name,
        gamma=look(entry.gamma, f"{where}.gamma"),
        num_weight_steps=look(entry.num_weight_steps, f"{where}.num_weight_steps"),
        norm_scope=entry.norm_scope,
        mask=entry.mask,
        c_min=look(entry.c_min, f"{where}.c_min") if needs_min else None,
        c_max=look(entry.c_max, f"{where}.c_max") if needs_max else None,
        warmup_epochs=look(entry.warmup_epochs, f"{where}.warmup_epochs"),
        **{name: getattr(entry, name) for name in FAMILY},
        factory=entry.factory,
        own_options=own_options(suite, recipe, f"suites.{key.suite}.recipes.{key.recipe}")[1],
        source=own_source(own, key.suite, f"{where}.{'factory' if entry.factory else 'mask'}"),
    )
    try:
        spec.options  # noqa: B018 (refuses what cannot be)
        if spec.climbs != "objective" and entry.criterion != "objective":
            raise ValueError(
                f"climbs: expected objective with criterion {entry.criterion}, got {spec.climbs}, "
                "where the mask looks at the loss that is raised; remove one of them"
            )
    except ValueError as error:
        at = f"params.yaml: suites.{key.suite}.recipes.{key.recipe} ({where})"
        raise UserError(f"{at}: {error}") from error
    return spec


def _check_layers(network: NetworkSpec, perturbation: PerturbationSpec | None, key: RunKey) -> None:
    """A layer that the network does not have is refused before anything is trained."""
    if isinstance(network, OwnNetworkSpec):
        return  # what it has shows when it is built
    count, layers = network.num_layers, perturbation and perturbation.layers
    for layer in layers or ():
        if not -count <= layer < count:
            raise UserError(
                f"params.yaml: suites.{key.suite}.recipes.{key.recipe}: layers: expected numbers "
                f"from {-count} to {count - 1}, as {key.network} has {count} layers, got {layer}; "
                "name others"
            )
    if layers and layers[1] % count < layers[0] % count:
        raise UserError(
            f"params.yaml: suites.{key.suite}.recipes.{key.recipe}: layers: expected the first and "
            f"the last layer, got {list(layers)}, which are {layers[0] % count} and "
            f"{layers[1] % count} of {key.network}'s; swap them"
        )
    if perturbation is not None and perturbation.factory is None:
        first, last = layers or (0, -1)
        try:
            perturbation.options.depth_factors(last % count - first % count + 1)
        except ValueError as error:
            at = f"params.yaml: suites.{key.suite}.recipes.{key.recipe}"
            raise UserError(f"{at}: {error}") from error


def _changed(entry: PerturbationEntry, change: Change) -> PerturbationEntry:
    """A perturbation with a recipe's own settings in place of its own."""
    tables = ("gamma", "num_weight_steps", "c_min", "warmup_epochs")
    given = {name: getattr(change, name) for name in OF_PERTURBATION}
    for bound in ("c_min", "c_max"):  # in nats or as a quantile: the change has the last word
        quantile = f"{bound}_quantile"
        free = change.mask is not None and (change.mask == "all" or is_own(change.mask))
        unused = free or (change.mask is not None and bound == "c_max")
        if unused and change.mask != "range" and getattr(change, quantile) is None:
            entry = entry.model_copy(update={quantile: None})
        if getattr(change, quantile) is not None:
            entry = entry.model_copy(update={bound: None})
        elif change.loss_range is not None or given.get(bound) is not None:
            entry = entry.model_copy(update={quantile: None})
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
    threat, training = threat_spec(suite, key), training_entry(suite, key)
    epsilon = look.optional(training.attack_epsilon, "training.attack_epsilon")
    own_step = look.optional(training.attack_step_size, "training.attack_step_size")
    attack = AttackSpec(
        name="training",
        kind=suite.objectives[suite.recipes[key.recipe].objective].loss,
        threat=threat
        if epsilon is None
        else written_threat(threat.norm, epsilon, f"suites.{key.suite}.training.attack_epsilon"),
        step_size=own_step or step_size(suite, key),
        num_steps=suite.recipes[key.recipe].attack_num_steps
        or look(training.attack_num_steps, "training.attack_num_steps"),
        random_start=look.optional(training.attack_random_start, "training.attack_random_start"),
        bn_mode=look(training.attack_bn_mode, "training.attack_bn_mode"),
    )
    if (attack.kind, attack.random_start) == ("trades", "none"):
        raise UserError(
            f"params.yaml: suites.{key.suite}.recipes.{key.recipe}: expected a start beside the "
            "image, where the divergence that TRADES raises has a gradient, got "
            "attack_random_start: none; write gaussian or uniform"
        )
    return checked_attack(attack, f"suites.{key.suite}.recipes.{key.recipe}", trains=True)


def _monitor(suite: Suite, key: RunKey, threat: ThreatSpec, look: Lookup) -> AttackSpec:
    """PGD on the test or held-out images; where training starts off the ball, so does this."""
    training = training_entry(suite, key)
    epsilon = look.optional(training.monitor_epsilon, "training.monitor_epsilon")
    own_step = look.optional(training.monitor_step_size, "training.monitor_step_size")
    start = look.optional(training.monitor_random_start, "training.monitor_random_start")
    if start is None:
        start = look.optional(training.attack_random_start, "training.attack_random_start")
    attack = AttackSpec(
        random_start=start,
        name=f"pgd-{suite.monitor_num_steps}",
        kind="pgd",
        threat=threat
        if epsilon is None
        else written_threat(threat.norm, epsilon, f"suites.{key.suite}.training.monitor_epsilon"),
        step_size=own_step or step_size(suite, key),
        num_steps=suite.monitor_num_steps,
        keep=look.optional(training.monitor_keep, "training.monitor_keep") or "last",
    )
    return checked_attack(attack, f"suites.{key.suite}.monitor")


def _selection_monitor(
    suite: Suite, key: RunKey, threat: ThreatSpec, look: Lookup
) -> AttackSpec | None:
    """The attack on the held-out images, where it is another than on the test images."""
    own_step = look.optional(suite.selection_step_size, "selection_step_size")
    if suite.selection_num_steps is None and own_step is None:
        return None
    usual = _monitor(suite, key, threat, look)
    steps = suite.selection_num_steps or usual.num_steps
    attack = usual.replace(
        name=f"pgd-{steps}", num_steps=steps, step_size=own_step or usual.step_size
    )
    return checked_attack(attack, f"suites.{key.suite}.selection_monitor")


def _optimization(entry: TrainingEntry, look: Lookup) -> OptimizationSpec:
    tables = ("epochs", "batch_size", "learning_rate", "schedule", "momentum", "nesterov")
    values: dict[str, Any] = {n: look(getattr(entry, n), f"training.{n}") for n in tables}
    if values["schedule"].startswith("piecewise"):
        try:
            entry.check_end(values["epochs"])
        except ValueError as error:
            at = f"params.yaml: suites.{look.suite}.training ({'/'.join(look.names)})"
            raise UserError(f"{at}: {error}") from error
    return OptimizationSpec(
        **values,
        weight_decay=look(entry.weight_decay, "training.weight_decay"),
        decay_epochs=entry.decay_epochs,
        decay_factor=entry.decay_factor,
        precision=entry.precision,
        batch_statistics=entry.batch_statistics,
        processes=_processes(entry, look),
        compile=entry.compile,
    )


def _processes(entry: TrainingEntry, look: Lookup) -> int | None:
    """How many normalize their shares of a batch; none where their number decides nothing."""
    if entry.batch_statistics != "share":
        return None
    count = _gpus(entry, look)
    return count if count > 1 else None


def _augmentation(
    entry: TrainingEntry, look: Lookup, key: RunKey, data: DatasetSpec
) -> AugmentationSpec:
    names = ("crop_padding", "padding_mode", "flip", "rotation_degrees")
    found = AugmentationSpec(
        **{name: look(getattr(entry, name), f"training.{name}") for name in names}
    )
    side = side_known(data)
    if found.padding_mode == "reflect" and side is not None and found.crop_padding >= side:
        raise UserError(
            f"params.yaml: suites.{key.suite}.training.crop_padding: expected less than the image"
            f" side {side} when reflecting, got {found.crop_padding} for {key.name}; lower it"
        )
    return found


def _unlabeled_mix(params: Params, key: RunKey, look: Lookup) -> UnlabeledMix | None:
    suite = params.suites[key.suite]
    objective_name = suite.recipes[key.recipe].objective
    entry = suite.objectives[objective_name].unlabeled
    if entry is None:
        return None
    where = f"objectives.{objective_name}.unlabeled"
    source = look(entry.source, f"{where}.source")
    definition = choose(params.unlabeled, source, "unlabeled source", "params.yaml: unlabeled")
    at = f"params.yaml: suites.{key.suite}.{where}"
    _check_source(params, key, source, f"{at}.source")
    batch_size = look(training_entry(suite, key).batch_size, "training.batch_size")
    _check_fraction(entry.fraction, batch_size, f"{at}.fraction")
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
        definition=definition,
        fraction=entry.fraction,
        weight=entry.weight,
        epoch_size=look(entry.epoch_size, f"{where}.epoch_size"),
        teacher=teacher,
        min_confidence=entry.min_confidence,
        per_class=entry.per_class,
    )


# Kinds of unlabeled images that resemble those of one published data set.
_RESEMBLING = {"tinyimages-500k": "cifar10", "svhn-extra": "svhn"}


def _check_source(params: Params, key: RunKey, source: str, at: str) -> None:
    """Unlabeled images are for the data set of the run: others may hold its held-out images.

    Raises:
        UserError: they are for another one. A folder of images is what its owner says it is.
    """
    definition, data = params.unlabeled[source], params.datasets[key.dataset]
    if definition.dataset not in (None, key.dataset):
        raise UserError(
            f"{at}: expected a source whose dataset is {key.dataset}, on which {key.name} trains, "
            f"got {source}, whose dataset is {definition.dataset}; name a source for each"
        )
    like = _RESEMBLING.get(definition.kind)
    if like is None or data.source == "image_folder":
        return
    side = OFFICIAL[like].side
    if data.source != like or data.image_size not in (None, side):
        size = "" if data.image_size is None else f" at {data.image_size} pixels"
        raise UserError(
            f"{at}: expected images for {key.dataset} ({data.source}{size}), got {source} of the "
            f"kind {definition.kind}, which is for {like} at {side} pixels; name another source"
        )


def _check_fraction(fraction: float, batch_size: int, at: str) -> None:
    """A batch holds images of both kinds."""
    if not 0 < round(batch_size * fraction) < batch_size:
        raise UserError(
            f"{at}: expected a share that gives a batch of {batch_size} both labeled and unlabeled "
            f"images, got {fraction:g}; {'raise' if fraction < 0.5 else 'lower'} it"
        )


def declared(params: Params, key: RunKey) -> RunKey:
    """The run of an earlier recipe that has the very settings of this one, so is the same run.

    So a sweep of c_min shares its run at 1.7 with AT-RWP, and the corners of a grid between AWP
    and RWP are AWP's and RWP's own.
    """
    suite = params.suites[key.suite]
    objective = suite.recipes[key.recipe].objective
    settings = _settings(train_spec(params, key))
    for recipe, entry in suite.recipes.items():
        if recipe == key.recipe:
            return key
        if entry.objective == objective:
            other = key.replace(recipe=recipe)
            try:
                found = _settings(train_spec(params, other))
            except UserError:  # that recipe has no such run, and nobody asked for one
                continue
            if found == settings:
                return other
    return key


def _settings(spec: TrainSpec) -> TrainSpec:
    perturbation = spec.perturbation and spec.perturbation.replace(name="any")
    key = spec.key.replace(recipe="any")
    return spec.replace(key=key, keep_epochs=(), keep_starts=(), perturbation=perturbation)


def checked_attack(attack: AttackSpec, where: str, *, trains: bool = False) -> AttackSpec:
    """An attack whose sizes are what they seem (`check_attack`); what refuses it names the key."""
    try:
        return check_attack(attack, trains=trains)
    except UserError as error:
        raise UserError(f"params.yaml: {where}.{error}") from error


def written_threat(norm: AnyNorm, epsilon: str, where: str) -> ThreatSpec:
    """A threat model as it is written; what refuses it names the key."""
    try:
        return ThreatSpec(norm=norm, epsilon=epsilon)
    except ValueError as error:
        raise UserError(f"params.yaml: {where}{str(error).removeprefix('epsilon')}") from error
