"""A recipe of one's own against gathered results: image by image and seed by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord, robust_flags
from rwp.evaluation.spec import record_path
from rwp.files import object_in, read_object
from rwp.pipeline.lookup import choose
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.settings import Params, Setting
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import setting_keys
from rwp.reporting.gathered import Opened, opened
from rwp.reporting.labels import method_label
from rwp.reporting.pairs import (
    ALL_SEEDS,
    ONE_START,
    doubt,
    finding,
    holm,
    images_of,
    p_text,
    pair,
)
from rwp.reporting.results import decided_by_start, read_attack, read_level
from rwp.reporting.runs import FAILED, Run, read_run
from rwp.reporting.tables import write_frame
from rwp.training.spec import OwnNetworkSpec, RunKey, TrainSpec, suite_directory

_COMPARED = ("best", "last")
SAME_NETWORKS = "the same networks: not tested"
COLUMNS = (
    *("recipe", "against", "checkpoint", "attack", "seed", "num_seeds", "num_examples"),
    *("difference", "low", "high", "p_value", "p_holm", "finding"),
)
_WORDS = {"architecture": "network", "threat": "threat model", "unlabeled": "unlabeled images"}
Seen = dict[tuple[str, str, int], EvaluationRecord]  # checkpoint, attack, seed


def against(
    params: Params, suite: str, recipe: str, folder: Path, *, root: Path | str = "."
) -> tuple[pd.DataFrame, list[str]]:
    """Each of Table 1's recipes in a gathered folder, taken from a recipe of this project.

    Also which seeds were left out, and why. `difference` is the recipe less the gathered one, in
    points, with its 95 % interval: per seed over images, and over seeds and images in the row of
    all seeds that both have. Where there is one seed alone the test is McNemar's, of these two
    networks, and there is none under an attack that a random start decides. `p_holm` is corrected
    for all tests of the frame. A finding is preliminary while seeds of the recipe are to come: a
    test that is made again as seeds arrive finds more than there is. Under attack, nothing is found
    of networks whose verdict is red or that answer differently each time. Nothing of the folder is
    trained or attacked again.

    Raises:
        UserError: no such recipe; nothing of it is attacked; it was trained or attacked on other
            images, or with another attack of the same name.
    """
    choose(params.suites, suite, "suite", "--suite")
    choose(params.suites[suite].recipes, recipe, "recipe", f"suites.{suite}.recipes")
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    waiting = Counter[tuple[str, ...]]()  # seeds to come, by opponent, checkpoint and attack
    own = _side(params, suite, recipe, Path(root))
    if not own.seen:
        first = ": ".join(next(iter(own.missing.values())))
        raise UserError(
            f"{recipe}: expected records of its runs, found none ({first}); build "
            f"them: snakemake --cores all {' '.join(_targets(params, suite, recipe))}"
        )
    doubts = {method_label(recipe): own.doubt}
    with opened(folder) as place:
        for other in place.params.suites[place.suite].table1.recipes:
            theirs = _side(place.params, place.suite, other, place.root)
            _check_images(recipe, own.runs, theirs.runs, folder)
            names = {"recipe": method_label(recipe), "against": _their_label(recipe, other, place)}
            doubts[names["against"]] = theirs.doubt
            rows += [names | row for row in _rows(own.seen, theirs.seen, recipe, place)]
            to_come = own.to_come & theirs.seen.keys()
            waiting.update((names["against"], *where[:2]) for where in to_come)
            left_out += _left_out(own, theirs, names["recipe"], to_come=True)
            left_out += _left_out(theirs, own, names["against"])
    if not rows:
        why = f" ({left_out[0]})" if left_out else ""
        raise UserError(
            f"{folder}: expected records of the attacks and seeds that {recipe} has, found none"
            f"{why}; {recipe} has {', '.join(dict.fromkeys(f'{c} {a}' for c, a, _ in own.seen))}"
            f" of {_seeds(dict.fromkeys(seed for _, _, seed in own.seen))}"
        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["p_holm"] = holm(frame["p_value"].astype(float))
    doubts = {name: why for name, why in doubts.items() if why}
    frame["finding"] = [
        finding(row, doubts, name="recipe") + _preliminary(row, waiting)
        for row in frame.to_dict("records")
    ]
    return frame, list(dict.fromkeys(left_out))


def _preliminary(row: Mapping[Any, Any], waiting: Counter[tuple[str, ...]]) -> str:
    """What a finding is called while the recipe lacks seeds; empty where nothing was tested."""
    count = waiting[row["against"], row["checkpoint"], row["attack"]]
    if not count or pd.isna(row["p_value"]):
        return ""
    return f" (preliminary: {count} seed{'s' if count > 1 else ''} to come)"


def _left_out(side: Side, other: Side, label: str, *, to_come: bool = False) -> Iterator[str]:
    """Seeds that this side cannot be compared under though the other has them, by reason.

    With `to_come` an attack that no seed has is still to come, and no seed of it is left out.
    """
    found: dict[tuple[str, str], dict[int, None]] = {}
    for where, (_, reason) in side.missing.items():
        checkpoint, attack, seed = where
        compared = any(place[:2] == where[:2] for place in side.seen.keys() & other.seen.keys())
        if where in other.seen and (compared or not to_come):
            found.setdefault((f"{checkpoint}, {attack}", reason), {})[seed] = None
    for (what, reason), seeds in found.items():
        yield f"{label}, {what}: left out {_seeds(seeds)}: {reason}"


def _seeds(seeds: Collection[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _their_label(recipe: str, other: str, place: Opened) -> str:
    """The gathered method's, with its suite where ours has the same."""
    label = method_label(other)
    return label if label != method_label(recipe) else f"{label} ({place.suite})"


@dataclass(frozen=True)
class Side:
    """What is known of one recipe's runs."""

    seen: Seen
    runs: dict[int, Run]  # the finished ones, by seed
    missing: dict[tuple[str, str, int], tuple[str, str]]  # like `seen`: which file, and why
    to_come: set[tuple[str, str, int]]  # of these, those whose training did not fail
    doubt: str  # why nothing is found of it; often empty


def _side(params: Params, suite: str, recipe: str, root: Path) -> Side:
    seen: Seen = {}
    runs: dict[int, Run] = {}
    missing: dict[tuple[str, str, int], tuple[str, str]] = {}
    to_come: set[tuple[str, str, int]] = set()
    doubts = []
    steps = Steps(params)
    for key in setting_keys(params, suite, Setting(), recipe):
        run = read_run(steps, key, root=root)
        if run.finished:
            runs[key.seed] = run
        warnings: list[str] = []
        for checkpoint in _COMPARED:
            for attack in params.suites[suite].evaluation.attacks:
                row = read_attack(steps, key, run, attack, root, checkpoint)
                record: EvaluationRecord | None = row["outcome"]
                if record is None:
                    missing[checkpoint, attack, key.seed] = (
                        row["record"] or row["run"],
                        row["reason"],
                    )
                    if run.status not in FAILED:
                        to_come.add((checkpoint, attack, key.seed))
                else:
                    seen[checkpoint, attack, key.seed] = record
                    warnings += record.warnings
        doubts.append(doubt(read_level(root / steps.judge(key, "best").outputs[0]), warnings))
    return Side(seen, runs, missing, to_come, next(filter(None, doubts), ""))


def _targets(params: Params, suite: str, recipe: str) -> Iterator[str]:
    """The records of `best` that would be compared."""
    for key in setting_keys(params, suite, Setting(), recipe):
        names = ",".join(params.suites[suite].evaluation.attacks)
        yield str(record_path(key.directory, "best", f"{{{names}}}"))


def _check_images(
    recipe: str, own: Mapping[int, Run], theirs: Mapping[int, Run], folder: Path
) -> None:
    """Seeds are paired: both runs of a seed draw their training images from the same file."""
    for seed in sorted(own.keys() & theirs.keys()):
        files = [object_in(runs[seed].document, "inputs").get("train") for runs in (own, theirs)]
        if files[0] != files[1]:
            raise UserError(
                f"{recipe}, seed {seed}: expected a run on the training images of {folder}, got "
                "others; fetch the data set that its settings name, and train again"
            )


def _rows(own: Seen, theirs: Seen, recipe: str, place: Opened) -> Iterator[dict[str, Any]]:
    """Every checkpoint and attack that both have, over the seeds that both have."""
    for checkpoint, attack in dict.fromkeys((c, a) for c, a, _ in own):
        seeds = [
            seed for c, a, seed in own if (c, a) == (checkpoint, attack) and (c, a, seed) in theirs
        ]
        if not seeds:
            continue
        pairs = [(own[checkpoint, attack, s], theirs[checkpoint, attack, s]) for s in seeds]
        for one, other in pairs:
            _check_same(one, other, recipe, place)
        first, second = (
            {(attack, seed): _outcome(both[side]) for seed, both in zip(seeds, pairs, strict=True)}
            for side in (0, 1)
        )
        # One network under one random start tells nothing of the recipe, the same networks nothing.
        start = pairs[0][0].attack
        by_start = len(seeds) == 1 and decided_by_start(start.kind, start.random_start)
        same = all(_of_one_network(one, other) for one, other in pairs)
        untold = SAME_NETWORKS if same else ONE_START if by_start else ""
        for row in pair(first, second, attack, seeds, test=not untold):
            count = len(seeds) if row["seed"] == ALL_SEEDS else 1
            names = {"checkpoint": checkpoint, "attack": attack, "num_seeds": count}
            yield names | ({"finding": untold} if untold else {}) | row


def trained_otherwise(params: Params, suite: str, recipe: str, folder: Path) -> Iterator[str]:
    """What else trainings and attacks differ in, so that a difference is of that, too."""
    own_key = setting_keys(params, suite, Setting(), recipe)[0]
    own, ours = train_spec(params, own_key), evaluation_spec(params, own_key)
    with opened(folder) as place:
        for other in place.params.suites[place.suite].table1.recipes:
            key = setting_keys(place.params, place.suite, Setting(), other)[0]
            theirs = evaluation_spec(place.params, key)
            differing = {
                "trained": list(_differing(own, _as_trained(place, key))),
                "attacked": list(_others(ours, theirs, "seed", "batch_size")),
            }
            for done, names in differing.items():
                if names:
                    yield (
                        f"{method_label(recipe)} was {done} with another {', '.join(names)} than "
                        f"{_their_label(recipe, other, place)}: their difference is of these, too"
                    )


def _as_trained(place: Opened, key: RunKey) -> TrainSpec:
    """The settings of a gathered run; its network by the code of its time."""
    spec, path = train_spec(place.params, key), place.root / key.directory / "run.json"
    trained = object_in(read_object(path), "spec") if path.exists() else {}
    source = object_in(trained, "architecture").get("source")
    if source is None or not isinstance(spec.architecture, OwnNetworkSpec):
        return spec
    return spec.replace(architecture=spec.architecture.replace(source=source))


def _differing(own: TrainSpec, theirs: TrainSpec) -> Iterator[str]:
    """Settings that are no method's own: network, images, length, batches, learning rates."""
    yield from _others(own, theirs, "architecture", "normalize", "threat", "augmentation")
    yield from _others(own, theirs, "selection", "held_out_fraction", "unlabeled", "start")
    if own.attack is not None and theirs.attack is not None:
        names = ["threat", "step_size", "num_steps"]
        if own.objective.loss == theirs.objective.loss:  # else these are the objectives' own
            names += ["random_start", "bn_mode"]
        start = "uniform" if own.objective.loss == "at" else None  # where none is named
        ours, others = (
            one.replace(random_start=one.random_start or start)
            for one in (own.attack, theirs.attack)
        )
        if differing := list(_others(ours, others, *names)):
            yield f"training attack ({', '.join(differing)})"
    if own.selection == theirs.selection and _chosen_by(own) != _chosen_by(theirs):
        yield "choice of the best epoch"
    yield from _others(own.data, theirs.data, "per_class", "image_size")
    normalized = own.normalize and theirs.normalize
    if normalized and None not in (own.data.mean, theirs.data.mean):
        yield from _others(own.data, theirs.data, "mean", "std")
    yield from _others(own.optimization, theirs.optimization, *vars(own.optimization))


def _chosen_by(spec: TrainSpec) -> tuple[Any, ...]:
    """What `best` was chosen by: the attack, how often it is looked at, on how many test images."""
    images = spec.curve_examples if spec.selection == "test" else None
    return spec.monitor_of(spec.selection), spec.selection_every, images


def _others(own: Any, theirs: Any, *names: str) -> Iterator[str]:
    """Those of some settings that differ, in words."""
    for name in names:
        if getattr(own, name) != getattr(theirs, name):
            yield _WORDS.get(name, name.replace("_", " "))


def _of_one_network(one: EvaluationRecord, other: EvaluationRecord) -> bool:
    return (one.checkpoint_sha256, one.robust_bits) == (other.checkpoint_sha256, other.robust_bits)


def _outcome(record: EvaluationRecord) -> Any:
    return images_of(record), robust_flags(record)


def _check_same(one: EvaluationRecord, other: EvaluationRecord, recipe: str, place: Opened) -> None:
    where = f"{recipe}: {one.attack.name}"
    if one.attack != other.attack:
        names = one.attack.differing(other.attack)
        raise UserError(
            f"{where}: expected the attack of {place.suite}, got one with another "
            f"{', '.join(names)}; take its settings, or give yours another name"
        )
    if images_of(one) != images_of(other):
        raise UserError(
            f"{where}: expected the test images of {place.suite}, got others; take its data set "
            "and its num_examples"
        )


def sentences(frame: pd.DataFrame) -> Iterator[str]:
    """The rows that were tested, as a person reads them."""
    for row in frame[frame["p_holm"].notna()].to_dict("records"):
        seeds = f"{row['num_seeds']} seed{'s' if row['num_seeds'] > 1 else ''}"
        yield (
            f"{row['recipe']} - {row['against']}, {row['checkpoint']}, {row['attack']}: "
            f"{row['difference']:+z.2f} points ({row['low']:+z.2f} to {row['high']:+z.2f}; "
            f"p {row['p_value']:.2g}, corrected {p_text(row['p_holm'])}), {seeds}, "
            f"{row['num_examples']:,} images: {row['finding']}"
        )


def write_against(frame: pd.DataFrame, suite: str, recipe: str, *, root: Path | str = ".") -> Path:
    """Write against-RECIPE.csv into the suite's folder."""
    path = Path(root) / suite_directory(suite) / f"against-{recipe}.csv"
    write_frame(path, frame, float_format="%.4g")
    return path
