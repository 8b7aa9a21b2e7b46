"""Read params.yaml, check it as a whole, and say in one line what is wrong."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rwp.data.spec import DatasetSpec, UnlabeledSpec, num_classes_known
from rwp.errors import UserError
from rwp.evaluation.spec import check_num_classes
from rwp.factories import is_own
from rwp.files import SETTINGS_FILE, write_text
from rwp.pipeline.own_code import own_options
from rwp.pipeline.resolve import choose, pick
from rwp.pipeline.settings import (
    OF_PERTURBATION,
    OPTIONS,
    Change,
    Frozen,
    MovementFigure,
    Params,
    RecipeEntry,
    Setting,
    Suite,
    SweepEntry,
    nested,
)
from rwp.spec import short
from rwp.strict_yaml import read_yaml, with_exponents
from rwp.studies import in_its_file, read_settings
from rwp.training.spec import OwnNetworkSpec, PreActResNetSpec, WideResNetSpec

# JSON's words in the messages of pydantic, and those for YAML.
_YAML_WORDS = {"array": "a list", "an object": "a table", "string": "a text"}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")  # pydantic's words for such a key


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check params.yaml."""
    content = read_settings(path)
    try:
        params = check_params(content, where=str(path))
        check_classes(params, Path(path).parent / "data", str(path))
    except UserError as error:
        raise UserError(in_its_file(str(error), path)) from error
    return params


def keep_settings(content: Any, folder: Path | str = ".state/settings") -> str:
    """Keep settings for the jobs that are planned with them; returns the path of the file.

    Queued jobs read this file (its path travels as `SETTINGS_FILE` in their environment), so that
    an edit of params.yaml changes no job that waits.
    """
    # Through JSON, as Snakemake's tables are of types of its own.
    text = yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False, allow_unicode=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(folder) / f"{digest}.yaml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return str(path)


def kept_settings() -> Any:
    """The settings that a queued job was planned with; none where they did not travel with it.

    (On Kubernetes params.yaml travels itself, as it was when the workflow started.)
    """
    path = os.environ.get(SETTINGS_FILE, "")
    return read_yaml(path) if Path(path).is_file() else None


def check_classes(params: Params, data: Path, where: str) -> None:
    """What cannot be run on so few classes is refused before anything is trained."""
    for name, suite in params.suites.items():
        dataset = suite.table2.dataset
        count = num_classes_known(params.datasets[dataset], data / dataset)
        for attack, entry in suite.evaluation.attacks.items():
            if count is not None and entry.kind == "autoattack":
                at = f"{where}: suites.{name}.evaluation.attacks.{attack}"
                check_num_classes(at, entry.version, count)


# Below `results`, where the folders of suites lie too.
_FOLDERS = ("runs", "pseudo_labels", "landscapes", "metrics", "plots", "external")
_ENDINGS = (".csv", ".html", ".json", ".png", ".svg")
_FILES = ("table1", "table2", "beyond", "comparisons", "claims", "report")  # of a suite's folder


def check_params(content: Any, *, where: str = "params.yaml") -> Params:
    """Check parsed settings.

    Raises:
        UserError: with the key, what was expected, what was found.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected a table of settings, got {type(content).__name__}")
    try:
        content = expanded(with_exponents(content), where)
        # Through JSON, so that lists are tuples under pydantic's strict rules.
        params = Params.model_validate_json(json.dumps(content))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            raise UserError(f"{where}: {_first_error(error, content)}") from error
        raise UserError(f"{where}: expected numbers, texts, lists and tables: {error}") from error
    _check_names(params, where)
    return params


def _first_error(error: ValidationError, content: dict[str, Any]) -> str:
    # A misspelled key is also missing under its right name; what is written there helps more.
    first = min(error.errors(), key=lambda entry: entry["type"] not in _UNKNOWN)
    parts = _as_written([str(part) for part in first["loc"]], content)
    got = short(first.get("input"))
    kind, message = first["type"], first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if kind in _UNKNOWN:
        advice = "; put it under options" if _is_of_own_network(parts, content) else _similar(parts)
        return f"{'.'.join(parts)}: expected a known key, got {parts[-1]!r}{advice}{more}"
    key = ".".join(part for part in parts if part != "[key]")
    if kind == "family":
        found = first["input"].get("family") if isinstance(first.get("input"), dict) else None
        return f"{key}.family: expected {message}, got {found!r}; check the spelling{more}"
    if kind == "missing":
        return f"{key}: expected a value, got none; add it{more}"
    if kind == "value_error":
        return f"{key}: {message}{more}"
    if kind == "string_pattern_mismatch":
        return (
            f"{key}: expected a name of lower-case letters, digits, '.', '_' and '-', got {got}"
            f"{more}"
        )
    if kind == "union_tag_not_found":
        return f"{key}.kind: expected a value, got none; add it{more}"
    if kind == "union_tag_invalid":
        context = first["ctx"]
        expected, got = context["expected_tags"].replace("'", ""), repr(context["tag"])
        return f"{key}.kind: expected {expected}, got {got}; check the spelling{more}"
    if kind == "too_short":
        least = first["ctx"]["min_length"]
        return f"{key}: expected at least {least}, got {len(first['input'])}; add one{more}"
    expected = message.removeprefix("Input should be ").removeprefix("a valid ")
    expected = _YAML_WORDS.get(expected, expected)
    return f"{key}: expected {expected}, got {got}{_way_to_write(kind, first.get('input'))}{more}"


def _is_of_own_network(parts: list[str], content: dict[str, Any]) -> bool:
    table, *names = parts
    found = content.get(table) if table == "networks" else None
    entry = found.get(names[0]) if isinstance(found, dict) and len(names) > 1 else None
    return isinstance(entry, dict) and is_own(entry.get("family"))


def _as_written(parts: list[str], content: Any) -> list[str]:
    """The keys that lead to a value as the file has them; `dvc exp run -S` takes these."""
    written = []
    for part in parts:
        if part == "default" and not isinstance(content, dict):
            continue  # a plain value, kept as a table
        if isinstance(content, dict) and part in (content.get("kind"), content.get("family")):
            continue  # which of several tables it is, no key
        if part == "own" and isinstance(content, dict) and is_own(content.get("family")):
            continue
        inner = part.split("/") if "/" in part and part not in (content or ()) else [part]
        for key in inner:
            written.append(key)
            content = content.get(key) if isinstance(content, dict) else None
    return written


def _way_to_write(kind: str, value: Any) -> str:
    """What to do about a value of another type than was asked for, where it is known."""
    if kind.startswith("bool"):
        return "; write true or false"
    if kind.startswith(("int", "float")):
        if isinstance(value, str):
            try:
                finite = math.isfinite(number := float(value))
                return f"; write {number:g} without quotes" if finite else "; write a finite number"
            except ValueError:
                word = value.strip().lower() in ("none", "null", "")
                return "; write null, or leave the key out" if word else "; write a number"
        if isinstance(value, float) and kind.startswith("int"):
            return "; write a whole number"
        return "; write a number"
    if kind.startswith("string") and isinstance(value, bool | int | float):
        return f'; write "{value}" in quotes if the text is meant'
    if kind.startswith("tuple") and not isinstance(value, list | dict | None):
        return f"; write it as a list: [{value}]"
    return ""


def _similar(parts: list[str]) -> str:
    """A guess at the key that was meant, among the fields of all tables that people write."""
    if parts[-1] in _known_keys():
        return ", which is a key of other tables; move or remove it"
    close = difflib.get_close_matches(parts[-1], sorted(_known_keys()), n=1)
    return f"; did you mean {close[0]!r}?" if close else "; remove it"


@cache
def _known_keys() -> frozenset[str]:
    """The fields of all tables that people write."""
    known: set[str] = set()
    todo: list[type[BaseModel]] = [Frozen]
    while todo:
        model = todo.pop()
        todo.extend(model.__subclasses__())
        known |= set(model.model_fields)
    for spec in (DatasetSpec, UnlabeledSpec, PreActResNetSpec, WideResNetSpec, OwnNetworkSpec):
        known |= {field.name for field in fields(spec)}
    return frozenset(known)


def _check_names(params: Params, where: str) -> None:
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
        if source.dataset is not None:
            choose(
                params.datasets, source.dataset, "data set", f"{where}: unlabeled.{name}.dataset"
            )
        if source.kind == "holdout":
            at = f"{where}: unlabeled.{name}.dataset"
            if source.dataset is None:
                raise UserError(f"{at}: expected the data set it is taken from, got none; add one")
            if not choose(params.datasets, source.dataset, "data set", at).unlabeled_share:
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
    _check_shared_labels(suite, where)
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


def _check_shared_labels(suite: Suite, where: str) -> None:
    """Objectives with one unlabeled source share its pseudo-labels, and so who gives them."""
    found = {n: entry.unlabeled for n, entry in suite.objectives.items() if entry.unlabeled}
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
        unseen = [kind for start, kind in _LOOKED_UP_WITHOUT.items() if path.startswith(start)]
        for key in table:
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


# Tables below these are the same whatever the network or the objective is.
_LOOKED_UP_WITHOUT = {
    "threat_models.": "an objective",
    "evaluation.attacks.": "an objective",
    "network": "a network",
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
        if figure.kind == "landscape":
            recipe = choose(suite.recipes, figure.recipe, "recipe", f"{at}.recipe")
            if suite.objectives[recipe.objective].loss == "natural":
                raise UserError(
                    f"{at}.recipe: expected a recipe that trains with an attack, whose images a "
                    f"landscape looks at, got {figure.recipe}; name another"
                )
            _check_epochs(suite, figure.epochs, at)
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
    of_perturbation = [name for name in given if name in (*OF_PERTURBATION, "loss_range")]
    if of_perturbation and recipe.perturbation is None:
        raise UserError(
            f"{where}: expected a perturbation to change {', '.join(of_perturbation)} of, got none;"
            f" name one"
        )
    factory = suite.perturbations[recipe.perturbation].factory if recipe.perturbation else None
    vain = [name for name in of_perturbation if name not in ("criterion", "warmup_epochs")]
    if factory is not None and vain:
        raise UserError(
            f"{where}.change.{vain[0]}: expected none with the perturbation {factory}, whose "
            f"settings stand under its options, got {given[vain[0]]}; remove it"
        )
    loss = suite.objectives[recipe.objective].loss
    own = is_own(loss)
    schedule = pick(recipe.change.schedule or suite.training.schedule, [recipe.objective])
    refused = {
        "beta": "an objective with beta (trades, mart)"
        if own or loss in ("natural", "at")
        else None,
        "label_smoothing": "another objective" if own or loss == "mart" else None,
        "attack_": "an objective with an attack" if loss == "natural" else None,
        "monitor_": "an objective with an attack" if loss == "natural" else None,
        "decay_": "a schedule with steps" if schedule in ("constant", "cosine_by_epoch") else None,
    }
    for name in given:
        for prefix, expected in refused.items():
            if expected and name.startswith(prefix):
                got = schedule if prefix == "decay_" else loss
                raise UserError(
                    f"{where}.change.{name}: expected {expected}, got {got}; remove {name}"
                )
    if loss == "natural" and recipe.attack_num_steps is not None:
        raise UserError(
            f"{where}.attack_num_steps: expected an objective with an attack, got natural; remove"
            " attack_num_steps"
        )
    if "remove_at_random" in given and "remove_below" not in given:
        raise UserError(
            f"{where}.change.remove_at_random: expected remove_below beside it, got none; say below"
            " which loss as many are to be removed"
        )
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
    _check_epochs(suite, (figure.epoch + 1,), where)


def _check_epochs(suite: Suite, epochs: tuple[int, ...], where: str) -> None:
    longest = max(suite.training.epochs.values())
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
            if suite.objectives[suite.recipes[recipe].objective].loss == "natural":
                raise UserError(
                    f"{at}.threat_model: expected {usual} with {recipe}, which has no threat model "
                    f"of its own and is attacked under that of table 2, got {group.threat_model}; "
                    "put it into another group"
                )


EXTENDS = "extends"


def expanded(content: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings with every suite complete and with a recipe for each combination of a sweep.

    A suite that `extends` another has that one's settings; tables are merged key by key, all
    else is replaced, and null takes away. What is malformed is left for the check of the settings
    to name.

    Raises:
        UserError: a suite extends one that is not there, or itself in the end.
    """
    suites = content.get("suites")
    if not isinstance(suites, dict):
        return content
    complete = {name: _complete(suites, name, (), where) for name in suites}
    return content | {
        "suites": {
            name: _with_sweep_recipes(suite, f"{where}: suites.{name}")
            for name, suite in complete.items()
        }
    }


def _complete(suites: dict[str, Any], name: str, below: tuple[str, ...], where: str) -> Any:
    own = suites[name]
    if not isinstance(own, dict) or EXTENDS not in own:
        _check_null_changes(own, {}, f"{where}: suites.{name}")
        return own
    parent, at = own[EXTENDS], f"{where}: suites.{name}.{EXTENDS}"
    if not isinstance(parent, str) or parent not in suites:
        known = ", ".join(map(str, suites))
        raise UserError(f"{at}: expected a suite ({known}), got {parent!r}; check the spelling")
    if parent in (*below, name):
        raise UserError(f"{at}: expected another suite, got a circle; remove one `{EXTENDS}`")
    inherited = _complete(suites, parent, (*below, name), where)
    if not isinstance(inherited, dict):
        return inherited
    own = {key: value for key, value in own.items() if key != EXTENDS}
    _check_removed(own, inherited, f"{where}: suites.{name}", parent)
    _check_null_changes(own, inherited, f"{where}: suites.{name}")
    return _without_removed(_merged(inherited, own), own)


_TABLES = (
    "recipes",
    "sweeps",
    "figures",
    "objectives",
    "perturbations",
    "threat_models",
    "evaluation.attacks",
)


def _check_removed(own: Any, inherited: Any, where: str, parent: str) -> None:
    """What is taken away by its name has to be there: a typo would take away nothing."""
    for place in _TABLES:
        ours, theirs = own, inherited
        for key in place.split("."):
            ours, theirs = _table(ours, key), _table(theirs, key)
        for name, value in ours.items():
            if value is None and name not in theirs:
                known = ", ".join(map(str, theirs)) or "none"
                raise UserError(
                    f"{where}.{place}.{name}: expected one that `{parent}` has, to take it away "
                    f"({known}), got {name}; check the spelling, or leave the line out"
                )


def _check_null_changes(own: Any, inherited: Any, where: str) -> None:
    """Null in a recipe's change takes an inherited change away; another one changes nothing."""
    for name, recipe in _table(own, "recipes").items():
        there = _table(_table(_table(inherited, "recipes"), name), "change")
        for key, value in _table(recipe, "change").items():
            if value is None and key not in there:
                raise UserError(
                    f"{where}.recipes.{name}.change.{key}: expected a value, got null, which "
                    "changes nothing; write one, or leave the line out"
                )


def _merged(base: Any, change: Any) -> Any:
    """What is inherited with what differs; null takes an inherited entry away.

    A null that takes nothing away stays, for the check of the settings to name a misspelled key.
    """
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    both = base | {key: _merged(base.get(key), value) for key, value in change.items()}
    gone = base.keys() | _known_keys()
    return {key: value for key, value in both.items() if value is not None or key not in gone}


def _without_removed(suite: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """An inherited list names nothing that was taken away: what is reported, attacks of beyond."""
    gone = {name for name, value in _table(own, "figures").items() if value is None}
    gone |= {"beyond"} if "beyond" in own and own["beyond"] is None else set()
    if "figures" in own and own["figures"] is None:
        gone |= {name for name in suite.get("reported", ()) if name != "beyond"}
    if "reported" not in own and isinstance(suite.get("reported"), list):
        suite = suite | {"reported": [name for name in suite["reported"] if name not in gone]}
    attacks = _table(_table(own, "evaluation"), "attacks")
    gone = {name for name, value in attacks.items() if value is None}
    beyond = _table(suite, "beyond")
    if gone and beyond and "attacks" not in _table(own, "beyond"):
        kept = [name for name in beyond.get("attacks", ()) if name not in gone]
        suite = suite | {"beyond": beyond | {"attacks": kept}}
    return suite


def _table(owner: Any, key: str) -> dict[str, Any]:
    """The table under a key, empty where there is none."""
    found = owner.get(key) if isinstance(owner, dict) else None
    return found if isinstance(found, dict) else {}


def _with_sweep_recipes(suite: Any, where: str) -> Any:
    if not isinstance(suite, dict) or not isinstance(suite.get("recipes"), dict):
        return suite
    sweeps = suite.get("sweeps")
    recipes = dict(suite["recipes"])
    for entry in sweeps.values() if isinstance(sweeps, dict) else ():
        try:
            sweep = SweepEntry.model_validate_json(json.dumps(entry))
        except (ValidationError, TypeError, ValueError):
            continue
        base = recipes.get(sweep.recipe)
        if not isinstance(base, dict) or not isinstance(base.get("change", {}), dict):
            continue
        for change in sweep.changes():
            own_change, given = nested(change), base.get("change", {})
            both = given | own_change
            if "options" in own_change and isinstance(given.get("options"), dict):
                both["options"] = given["options"] | own_change["options"]
            own = {} if sweep.num_seeds is None else {"num_seeds": sweep.num_seeds}
            name, made = sweep.name_of(change), base | own | {"change": both}
            if recipes.setdefault(name, made) != made:
                raise UserError(
                    f"{where}.recipes.{name}: expected the settings of the sweep over "
                    f"{', '.join(change)}, which has a recipe of that name, got others; rename it, "
                    "or let both sweeps have the same num_seeds"
                )
    return suite | {"recipes": recipes}
