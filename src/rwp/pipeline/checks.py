"""What settings name is there, and each of them has an effect: the settings as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

from pydantic import BaseModel

from rwp.data.passport import PASSPORT, read_passport
from rwp.data.spec import (
    DatasetSpec,
    DataSize,
    data_size,
    images_trained_on,
    num_classes_known,
    size_by_source,
)
from rwp.errors import UserError
from rwp.evaluation.spec import check_num_classes, check_square_size
from rwp.factories import is_own
from rwp.pipeline.lookup import choose, is_natural
from rwp.pipeline.own_code import own_options
from rwp.pipeline.resolve import refuse_decays
from rwp.pipeline.settings import (
    OF_PERTURBATION,
    OPTIONS,
    Change,
    FigureEntry,
    LandscapeFigure,
    MovementFigure,
    Params,
    RecipeEntry,
    Setting,
    Suite,
    SweepEntry,
)
from rwp.pipeline.steps import Steps
from rwp.spec import short
from rwp.training.spec import WITHOUT_STEPS

# Below `results`, where the folders of suites lie too.
_FOLDERS = ("runs", "pseudo_labels", "landscapes", "metrics", "plots", "external")
_ENDINGS = (".csv", ".html", ".json", ".png", ".svg")
_FILES = ("table1", "table2", "beyond", "comparisons", "claims", "report")  # of a suite's folder


def check_names(params: Params, where: str) -> None:
    """Every name that refers to something refers to something that is there."""
    for name in params.build:
        choose(params.suites, name, "suite", f"{where}: build")
    for name in params.datasets:
        if name in params.unlabeled or name == "unlabeled":  # the folder of these
            raise UserError(
                f"{where}: datasets.{name}: expected a name that no source under unlabeled and not"
                f" their folder has, got {name!r}; rename one of them"
            )
    for name, source in params.unlabeled.items():
        at = f"{where}: unlabeled.{name}.dataset"
        of = source.dataset and choose(params.datasets, source.dataset, "data set", at)
        if source.kind == "holdout" and of and not of.unlabeled_share:
            raise UserError(
                f"{at}: expected a data set with an unlabeled_share, got {source.dataset}"
                f" without; add datasets.{source.dataset}.unlabeled_share"
            )
    for name, suite in params.suites.items():
        if name in _FOLDERS or PurePath(name).suffix in _ENDINGS:
            raise UserError(
                f"{where}: suites.{name}: expected a name that is no folder of results"
                f" ({', '.join(_FOLDERS)}) and no file, got {name!r}; choose another"
            )
        _check_suite(params, suite, f"{where}: suites.{name}")


def _check_suite(params: Params, suite: Suite, where: str) -> None:
    for name, recipe in suite.recipes.items():
        at = f"{where}.recipes.{name}"
        choose(suite.objectives, recipe.objective, "objective", f"{at}.objective")
        if recipe.perturbation is not None:
            choose(suite.perturbations, recipe.perturbation, "perturbation", f"{at}.perturbation")
    for name, objective in suite.objectives.items():
        if objective.unlabeled is not None:
            teacher = objective.unlabeled.teacher_recipe
            at = f"{where}.objectives.{name}.unlabeled"
            choose(suite.recipes, teacher, "recipe", f"{at}.teacher_recipe")
            taught = suite.objectives.get(suite.recipes[teacher].objective)
            if taught is not None and taught.loss != "natural":
                raise UserError(
                    f"{at}.teacher_recipe: expected a recipe that trains without an attack, got "
                    f"{teacher}; name one whose objective has the loss natural"
                )
            if taught is not None and taught.unlabeled is not None:
                raise UserError(
                    f"{at}.teacher_recipe: expected a recipe that trains on labeled images alone, "
                    f"got {teacher}, which needs a teacher itself; name another"
                )
            for network in objective.unlabeled.teacher_network.values():
                choose(params.networks, network, "network", f"{at}.teacher_network")
            for source in objective.unlabeled.source.values():
                choose(params.unlabeled, source, "unlabeled source", f"{at}.source")
    _check_shared_labels(params, suite, where)
    for network in suite.network.values():
        choose(params.networks, network, "network", f"{where}.network")
    _check_results(params, suite, where)
    for table, datasets, threats in (
        ("table1", suite.table1.datasets, suite.table1.threat_models),
        ("table2", (suite.table2.dataset,), (suite.table2.threat_model,)),
    ):
        for dataset in datasets:
            choose(params.datasets, dataset, "data set", f"{where}.{table}")
        for threat in threats:
            choose(suite.threat_models, threat, "threat model", f"{where}.{table}")
        for recipe_name in getattr(suite, table).recipes:
            choose(suite.recipes, recipe_name, "recipe", f"{where}.{table}.recipes")
            if table == "table1":
                _refuse_natural(suite, recipe_name, f"{where}.{table}.recipes")
        for network in getattr(suite, table).network.values():
            choose(params.networks, network, "network", f"{where}.{table}.network")
    _check_reference(suite, f"{where}.table2.reference_recipe")
    _check_settings(params, suite, where)


def _check_reference(suite: Suite, where: str) -> None:
    """What table 2 is compared with trains without an attack."""
    name = suite.table2.reference_recipe
    if name is None:
        return
    loss = suite.objectives[choose(suite.recipes, name, "recipe", where).objective].loss
    if loss != "natural":
        raise UserError(
            f"{where}: expected a recipe that trains without an attack, got {name} with the loss "
            f"{loss}; name it under table2.recipes"
        )


_OF_LABELS = ("teacher_recipe", "teacher_network", "min_confidence", "per_class")


def _check_shared_labels(params: Params, suite: Suite, where: str) -> None:
    """All that trains on a data set and an unlabeled source shares the pseudo-labels' teacher."""
    found = {n: entry.unlabeled for n, entry in suite.objectives.items() if entry.unlabeled}
    for name, entry in found.items():
        for part in "/".join(entry.teacher_network).split("/"):
            if part != "default" and part not in params.datasets:
                raise UserError(
                    f"{where}.objectives.{name}.unlabeled.teacher_network: expected data sets, as "
                    f"all that trains on one shares its pseudo-labels, got {part!r}; name one "
                    "teacher for each data set"
                )
    for (first, one), (name, other) in combinations(found.items(), 2):
        shared = set(one.source.values()) & set(other.source.values())
        differing = [word for word in _OF_LABELS if getattr(one, word) != getattr(other, word)]
        if shared and differing:
            word = differing[0]
            raise UserError(
                f"{where}.objectives.{name}.unlabeled.{word}: expected that of {first}, whose "
                f"pseudo-labels of {min(shared)} it shares ({short(getattr(one, word))}), got "
                f"{short(getattr(other, word))}; give the source a second name under `unlabeled`"
            )


def _check_settings(params: Params, suite: Suite, where: str) -> None:
    """The keys of every table of settings name things that exist, and each name one thing."""
    owners = {"default": "any other name", "none": "training without an attack"}
    for kind, names in (
        ("a data set", params.datasets),
        ("a network", params.networks),
        ("a threat model", suite.threat_models),
        ("an objective", suite.objectives),
    ):
        for name in names:
            if name in owners:
                raise UserError(
                    f"{where}: expected names that tell data sets, networks, threat models and "
                    f"objectives apart in tables of settings, got {name!r}, {kind}, which means "
                    f"{owners[name]} there; rename one of them"
                )
            owners[name] = kind
    for path, table in _settings_tables(suite):
        mine = _of_one_name(path)
        unseen = [kind for start, kind in _LOOKED_UP_WITHOUT.items() if path.startswith(start)]
        for key in table:
            _require_possible(key, owners, f"{where}.{path}")
            for part in key.split("/"):
                if part not in owners:
                    raise UserError(
                        f"{where}.{path}: expected a data set, threat model, network, objective"
                        f" or 'default', got {part!r}; check the spelling"
                    )
                if owners[part] in unseen:
                    raise UserError(
                        f"{where}.{path}: expected no name of {owners[part]}, which changes nothing"
                        f" here, got {part!r}; {_INSTEAD[owners[part]]}"
                    )
                if mine is not None and owners[part] == mine[0] and part != mine[1]:
                    raise UserError(
                        f"{where}.{path}: expected no name of {mine[0]} but {mine[1]}, whose own "
                        f"table this is, got {part!r}, which changes nothing here; remove it"
                    )


def _of_one_name(path: str) -> tuple[str, str] | None:
    """The kind and the name that all runs have which look at a table of settings."""
    kinds = {"threat_models": "a threat model", "objectives": "an objective"}
    above, _, below = path.partition(".")
    return (kinds[above], below.partition(".")[0]) if above in kinds else None


def _require_possible(key: str, owners: dict[str, str], where: str) -> None:
    """A key of several names is looked up where all of them are the run's."""
    owners = owners | {"none": "a threat model"}  # as which a training without an attack counts
    kinds = [owners.get(part, part) for part in key.split("/")]
    if len(kinds) > 1 and owners["default"] in kinds:
        raise UserError(
            f"{where}: expected names joined by '/', got {key!r} with 'default', which no run is "
            "called; leave it out"
        )
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice is not None:
        raise UserError(
            f"{where}: expected names that one run can have all of, got {key!r}, which names "
            f"{twice} twice; write a key for each"
        )


# Tables below these are the same whatever the network or the objective is.
_LOOKED_UP_WITHOUT = {
    "threat_models.": "an objective",
    "evaluation.attacks.": "an objective",
    "network": "a network",
    "table1.network": "a network",
    "table2.network": "a network",
}
_INSTEAD = {
    "an objective": "training has attack_epsilon, attack_step_size and monitor_* for an objective",
    "a network": "name data sets, threat models or objectives",
}


def _settings_tables(model: BaseModel, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All `By` fields below a model, with the keys that lead there."""
    if isinstance(model, SweepEntry):
        return  # what it varies are settings themselves
    for name in type(model).model_fields:
        value, at = getattr(model, name), f"{path}.{name}".lstrip(".")
        if name == "options":
            continue  # of a factory of the user's own
        if isinstance(value, BaseModel):
            yield from _settings_tables(value, at)
        elif isinstance(value, dict):
            if any(isinstance(entry, BaseModel) for entry in value.values()):
                for key, entry in value.items():
                    yield from _settings_tables(entry, f"{at}.{key}")
            else:
                yield at, value


def _check_results(params: Params, suite: Suite, where: str) -> None:
    """Look up every name in a suite's sweeps, figures and table `beyond`.

    Raises:
        UserError: with the key, what was expected, what was found.
    """
    for name, sweep in suite.sweeps.items():
        at = f"{where}.sweeps.{name}"
        choose(suite.recipes, sweep.recipe, "recipe", f"{at}.recipe")
        for setting, values in sweep.vary.items():
            if not setting.startswith(OPTIONS):
                choose(dict(Change.model_fields), setting, "setting", f"{at}.vary")
            if not values:
                raise UserError(f"{at}.vary.{setting}: expected values, got none; add one")
    for name, recipe in suite.recipes.items():
        at = f"{where}.recipes.{name}"
        _check_start(at, suite, name, recipe)
        _check_change(at, suite, recipe)
        _check_mask(suite, at, recipe)
    for name, figure in suite.figures.items():
        at = f"{where}.figures.{name}"
        if name.removesuffix("_details") in _FILES:
            raise UserError(
                f"{at}: expected a name that no other file of the suite has ({', '.join(_FILES)}), "
                f"got {name!r}; choose another"
            )
        _check_setting(params, suite, figure, at)
        if figure.kind in ("sweep", "removal"):
            choose(suite.sweeps, figure.sweep, "sweep", f"{at}.sweep")
        for sweep in getattr(figure, "sweeps", ()):
            choose(suite.sweeps, sweep, "sweep", f"{at}.sweeps")
        for role in ("recipes", "references"):
            for recipe_name in getattr(figure, role, ()):
                choose(suite.recipes, recipe_name, "recipe", f"{at}.{role}")
        _check_measured(suite, figure, at)
        if figure.kind == "landscape":
            choose(suite.recipes, figure.recipe, "recipe", f"{at}.recipe")
            if is_natural(suite, figure.recipe):
                raise UserError(
                    f"{at}.recipe: expected a recipe that trains with an attack, whose images a "
                    f"landscape looks at, got {figure.recipe}; name another"
                )
            _check_epochs(suite, figure.recipe, figure.epochs, at)
        if figure.kind == "movement":
            _check_movement(suite, figure, at)
    _check_beyond(params, suite, where)


def _check_change(where: str, suite: Suite, recipe: RecipeEntry) -> None:
    """A recipe changes only what it has.

    Raises:
        UserError: the setting has no effect on this recipe, or is given twice.
    """
    given = recipe.change.model_dump(exclude_none=True, exclude_defaults=True)
    own_options(suite, recipe, where)  # refuses options that nobody takes
    _check_change_of_perturbation(where, suite, recipe, given)
    _check_change_of_objective(where, suite, recipe, given)
    if "remove_at_random" in given and "remove_below" not in given:
        raise UserError(
            f"{where}.change.remove_at_random: expected remove_below beside it, got none; say below"
            " which loss as many are to be removed"
        )
    schedules = (recipe.change.schedule or suite.training.schedule).values()
    if WITHOUT_STEPS.issuperset(schedules):
        refuse_decays(where, recipe.change, got=" and ".join(dict.fromkeys(schedules)))
    try:
        suite.training.model_copy(update=recipe.change.of_training).check_decays()
    except ValueError as error:
        raise UserError(f"{where}.change: {error}") from error
    for name in ("attack_num_steps", "average_decay"):
        if name in given and getattr(recipe, name) is not None:
            raise UserError(
                f"{where}: expected {name} once, got it in the recipe and in its change;"
                f" remove one of them"
            )


def _check_change_of_perturbation(
    where: str, suite: Suite, recipe: RecipeEntry, given: dict[str, Any]
) -> None:
    changed = [name for name in given if name in (*OF_PERTURBATION, "loss_range")]
    if recipe.perturbation is None:
        if "remove_below" in given:  # looks at the criterion, too
            changed = [name for name in changed if name != "criterion"]
        if changed:
            raise UserError(
                f"{where}: expected a perturbation to change {', '.join(changed)} of, got none;"
                f" name one"
            )
        return
    factory = suite.perturbations[recipe.perturbation].factory
    vain = [name for name in changed if name not in ("criterion", "warmup_epochs")]
    if factory is not None and vain:
        raise UserError(
            f"{where}.change.{vain[0]}: expected none with the perturbation {factory}, whose "
            f"settings stand under its options, got {given[vain[0]]}; remove it"
        )


def _check_change_of_objective(
    where: str, suite: Suite, recipe: RecipeEntry, given: dict[str, Any]
) -> None:
    loss = suite.objectives[recipe.objective].loss
    own = is_own(loss)
    refused = {
        "beta": "an objective with beta (trades, mart)"
        if own or loss in ("natural", "at")
        else None,
        "label_smoothing": "another objective" if own or loss == "mart" else None,
        "attack_": "an objective with an attack" if loss == "natural" else None,
        "monitor_": "an objective with an attack" if loss == "natural" else None,
    }
    for name in given:
        for prefix, expected in refused.items():
            if expected and name.startswith(prefix):
                raise UserError(
                    f"{where}.change.{name}: expected {expected}, got {loss}; remove {name}"
                )
    if loss == "natural" and recipe.attack_num_steps is not None:
        raise UserError(
            f"{where}.attack_num_steps: expected an objective with an attack, got natural; remove"
            " attack_num_steps"
        )
    smoothing = recipe.change.label_smoothing
    if smoothing is None:
        smoothing = suite.objectives[recipe.objective].label_smoothing
    if given.get("criterion") == "adversarial_ce" and loss in ("natural", "at") and not smoothing:
        raise UserError(
            f"{where}.change.criterion: expected none with {loss}, which minimizes that very "
            "cross-entropy, got adversarial_ce; leave it out"
        )


def _check_start(where: str, suite: Suite, name: str, recipe: RecipeEntry) -> None:
    """The recipes that one starts from are there, and the first of them starts at random weights.

    Raises:
        UserError: one is unknown, or they go in a circle; an epoch of nothing.
    """
    if recipe.change.start_epoch is not None and not (recipe.start and recipe.start.recipe):
        raise UserError(
            f"{where}.change.start_epoch: expected a recipe to start from, got none; add start"
        )
    seen, current = [name], recipe
    while current.start is not None and current.start.recipe is not None:
        parent = current.start.recipe
        current = choose(suite.recipes, parent, "recipe", f"{where}.start.recipe")
        if parent in seen:
            raise UserError(
                f"{where}.start.recipe: expected another recipe, got a circle "
                f"({' from '.join([*seen, parent])}); let one of them start at random weights"
            )
        seen.append(parent)


def _check_mask(suite: Suite, where: str, recipe: RecipeEntry) -> None:
    """What a mask does not look at changes nothing: bounds of the loss, the loss they are of."""
    if recipe.perturbation is None:
        return
    if recipe.change.loss_range is not None:
        for name in ("mask", "c_min", "c_min_quantile", "c_max_quantile"):
            if getattr(recipe.change, name) is not None:
                raise UserError(
                    f"{where}.change.loss_range: expected no {name} beside it, which sets both "
                    f"ends of the mask `range`, got {getattr(recipe.change, name)}; leave one of "
                    "them out"
                )
        return
    mask = recipe.change.mask or suite.perturbations[recipe.perturbation].mask
    unseen = ["c_min", "c_min_quantile", "c_max_quantile"] if is_own(mask) else ["c_min"]
    if mask == "all" and recipe.change.remove_below is None:  # by it is removed, too
        unseen.append("criterion")
    for name in unseen:
        value = getattr(recipe.change, name)
        if value is not None and (mask == "all" or is_own(mask)):
            raise UserError(
                f"{where}.change.{name}: expected none with mask {mask}, where it would have no "
                f"effect, got {value}; leave it out or choose another mask"
            )


def _check_setting(params: Params, suite: Suite, setting: Setting, where: str) -> None:
    if setting.dataset is not None:
        choose(params.datasets, setting.dataset, "data set", f"{where}.dataset")
    if setting.threat_model is not None:
        choose(suite.threat_models, setting.threat_model, "threat model", f"{where}.threat_model")
    if setting.network is not None:
        choose(params.networks, setting.network, "network", f"{where}.network")


def _check_measured(suite: Suite, figure: FigureEntry, where: str) -> None:
    """A figure shows what trainings of the suite measure: else it would wait for them in vain."""
    sweeps = [getattr(figure, "sweep", None), *getattr(figure, "sweeps", ())]
    recipes = {
        **dict.fromkeys(getattr(figure, "recipes", ()), "recipes"),
        **dict.fromkeys(getattr(figure, "references", ()), "references"),
        **{suite.sweeps[sweep].recipe: f"sweep {sweep}" for sweep in sweeps if sweep is not None},
    }
    for recipe, role in recipes.items() if figure.kind != "movement" else ():  # of losses
        _refuse_natural(suite, recipe, f"{where}.{role}")
    splits = _SPLITS_OF.get(figure.kind, getattr(figure, "splits", ()))
    if "held-out" in splits and suite.selection == "test":
        raise UserError(
            f"{where}: expected a suite that holds images out, got selection test; choose "
            "selection held_out, or look at another split"
        )
    if "test" in splits and not suite.test_curve:
        raise UserError(
            f"{where}: expected a suite that measures test images in each epoch, got test_curve "
            "false; write test_curve: true, look at another split, or remove the figure (null "
            "where it is inherited)"
        )
    if figure.kind == "removal" and "remove_below" not in suite.sweeps[figure.sweep].vary:
        raise UserError(
            f"{where}.sweep: expected a sweep that varies remove_below, got {figure.sweep}, which "
            f"varies {', '.join(suite.sweeps[figure.sweep].vary)}; name another, or take kind sweep"
        )


# What the images of figures without `splits` are, where these are looked at after each epoch.
_SPLITS_OF = {"search": ("held-out",), "sweep": ("test",), "removal": ("test", "train")}


def _refuse_natural(suite: Suite, recipe: str, where: str) -> None:
    """A training without an attack measures clean accuracy alone."""
    if is_natural(suite, recipe):
        raise UserError(
            f"{where}: expected recipes that train with an attack, as robust accuracy is measured "
            f"of these alone, got {recipe}; name another"
        )


def _check_movement(suite: Suite, figure: MovementFigure, where: str) -> None:
    if not suite.keep_losses:
        raise UserError(
            f"{where}: expected a suite that keeps every image's losses, got keep_losses false;"
            " write keep_losses: true, or remove the figure"
        )
    edges = figure.edges
    if not edges or list(edges) != sorted(set(edges)) or edges[0] != 0:
        raise UserError(
            f"{where}.edges: expected losses that rise from 0, got {list(edges)}; order them, and "
            "begin at 0, as images below all edges would be left out"
        )
    last = max(map(partial(_longest, suite), figure.recipes)) - 1
    if figure.epoch > last:
        raise UserError(
            f"{where}.epoch: expected at most {last}, the last of a training from 0, got"
            f" {figure.epoch}; lower it"
        )


def _longest(suite: Suite, recipe: str) -> int:
    """The most epochs that a training may have; each run's own are looked at while planning."""
    changed = suite.recipes[recipe].change.epochs or {}
    return max([*suite.training.epochs.values(), *changed.values()])


def _check_epochs(suite: Suite, recipe: str, epochs: tuple[int, ...], where: str) -> None:
    longest = _longest(suite, recipe)
    for epoch in epochs:
        if epoch > longest:
            raise UserError(
                f"{where}.epochs: expected at most the {longest} epochs of a training, got {epoch};"
                f" lower it"
            )


def _check_beyond(params: Params, suite: Suite, where: str) -> None:
    known = dict.fromkeys([*suite.figures, *(["beyond"] if suite.beyond else [])])
    for name in suite.reported:
        choose(known, name, "figure", f"{where}.reported")
    in_table2 = dict.fromkeys(suite.table2.recipes)
    for recipe in (*suite.also_attacked.last, *suite.also_attacked.best_on_test):
        choose(in_table2, recipe, "recipe of Table 2", f"{where}.also_attacked")
    if suite.beyond is None:
        return
    for name in suite.beyond.attacks:
        choose(suite.evaluation.attacks, name, "attack", f"{where}.beyond.attacks")
    for group in suite.beyond.groups:
        at = f"{where}.beyond.groups ({group.title})"
        _check_setting(params, suite, group, at)
        for recipe in group.recipes:
            choose(suite.recipes, recipe, "recipe", f"{at}.recipes")
        for sweep in group.sweeps:
            choose(suite.sweeps, sweep, "sweep", f"{at}.sweeps")
        rows = (*group.recipes, *(suite.sweeps[sweep].recipe for sweep in group.sweeps))
        usual = suite.table2.threat_model
        for recipe in rows if group.threat_model not in (None, usual) else ():
            if is_natural(suite, recipe):
                raise UserError(
                    f"{at}.threat_model: expected {usual} with {recipe}, which has no threat model "
                    f"of its own and is attacked under that of table 2, got {group.threat_model}; "
                    "put it into another group"
                )


def check_images(params: Params, root: Path, where: str) -> None:
    """What cannot be run on so few images or classes is refused before anything is trained.

    As far as both are known before the images are fetched.
    """
    for name, suite in params.suites.items():
        at = f"{where}: suites.{name}"
        for dataset, threat in _evaluated(suite):
            with _believed_if_current(params, dataset, root):
                _check_evaluation(params, suite, dataset, threat, root, at)
        for dataset in _trained_on(suite):
            definition, folder = params.datasets[dataset], root / "data" / dataset
            size = _size(dataset, definition, root)
            with _believed_if_current(params, dataset, root):
                if size is not None:
                    count = num_classes_known(definition, folder)
                    _require_part(
                        f"{at}.curve_examples", suite.curve_examples, size, count, dataset
                    )
                    _check_landscapes(suite, size, dataset, at)


def _size(name: str, definition: DatasetSpec, root: Path) -> DataSize | None:
    """Of a data set, as its source has it, or as its images were when they were fetched."""
    try:
        return size_by_source(definition, root / "data" / name) or data_size(name, definition, root)
    except UserError:  # a passport that is cut; a fetch writes it anew
        return None


@contextmanager
def _believed_if_current(params: Params, dataset: str, root: Path) -> Iterator[None]:
    """What a passport says of images that will be fetched anew refuses nothing."""
    try:
        yield
    except UserError:
        if params.datasets[dataset].path is None:
            raise
        try:
            mark = read_passport(root / "data" / dataset / PASSPORT).fingerprint
        except (OSError, UserError):  # none, or cut: it is not what refused
            mark = ""
        if not mark or mark == Steps(params).fetch(dataset).fingerprint:
            raise


def _evaluated(suite: Suite) -> dict[tuple[str, str], None]:
    """The data sets with the threat models that networks are attacked on and under."""
    usual = (suite.table2.dataset, suite.table2.threat_model)
    groups = suite.beyond.groups if suite.beyond else ()
    settings = [(group.dataset or usual[0], group.threat_model or usual[1]) for group in groups]
    return dict.fromkeys([usual, *settings])


def _trained_on(suite: Suite) -> dict[str, None]:
    figures = (figure.dataset for figure in suite.figures.values())
    evaluated = (dataset for dataset, _ in _evaluated(suite))
    return dict.fromkeys(filter(None, [*suite.table1.datasets, *evaluated, *figures]))


def _check_evaluation(
    params: Params, suite: Suite, dataset: str, threat: str, root: Path, where: str
) -> None:
    definition, folder = params.datasets[dataset], root / "data" / dataset
    count, size = num_classes_known(definition, folder), _size(dataset, definition, root)
    evaluation, at = suite.evaluation, f"{where}.evaluation"
    in_table2 = (dataset, threat) == (suite.table2.dataset, suite.table2.threat_model)
    for name, entry in evaluation.attacks.items():
        if entry.kind == "autoattack" and not (in_table2 or _goes_beyond(suite, name)):
            continue  # a job of its own, which nothing asks for there
        own = f"{at}.attacks.{name}"
        if size is not None:
            _require_part(f"{own}.num_examples", entry.num_examples, size, count, dataset)
        if entry.kind == "autoattack":
            norm = entry.norm or suite.threat_models[threat].norm
            if count is not None:
                check_num_classes(own, entry.version, count)
            side = definition.image_size
            if size is not None or side is not None:
                image = size.image if size is not None else f"{side}x{side}x3"
                height, width, _ = map(int, image.split("x"))
                check_square_size(own, entry.version, norm, height, width)
    first = evaluation.first_examples
    part = first is not None and (size is None or first < size.num_test)
    if part and definition.source == "image_folder":
        raise UserError(
            f"{at}.first_examples: expected num_examples for {dataset}, whose images lie class by "
            f"class, got {first}; write num_examples, which takes some of each"
        )
    if size is not None:
        _require_part(f"{at}.num_examples", evaluation.num_examples, size, count, dataset)
        _require_part(f"{at}.first_examples", evaluation.first_examples, size, count, dataset)


def _goes_beyond(suite: Suite, attack: str) -> bool:
    return suite.beyond is not None and attack in suite.beyond.attacks


def _require_part(
    where: str, wanted: int | None, size: DataSize, num_classes: int | None, dataset: str
) -> None:
    """A part of the test images has no more than there are, and one of each class."""
    if wanted is not None and wanted > size.num_test:
        raise UserError(
            f"{where}: expected at most the {size.num_test} test images of {dataset}, got "
            f"{wanted}; lower it, or leave it out to take all"
        )
    if wanted is not None and wanted < (num_classes or 0):
        raise UserError(
            f"{where}: expected at least one test image of each of the {num_classes} classes of "
            f"{dataset}, got {wanted}; raise it, or leave it out to take all"
        )


def _check_landscapes(suite: Suite, size: DataSize, dataset: str, where: str) -> None:
    most = images_trained_on(size.num_train, size.num_drawn, suite.held_out_fraction)
    for name, figure in suite.figures.items():
        if not isinstance(figure, LandscapeFigure):
            continue
        wanted = figure.num_examples or 0
        if (figure.dataset or suite.table2.dataset) == dataset and wanted > most:
            raise UserError(
                f"{where}.figures.{name}.num_examples: expected at most the {most} images of "
                f"{dataset} that a training has, got {wanted}; lower it"
            )
