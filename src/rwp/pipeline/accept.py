"""Accept a change of code that changes no number: tried on the step itself, listed under git.

The step is repeated on a small scale by the old and the new code: a training of two short epochs,
an evaluation of a few images, and so on, with the settings, checkpoints and images of a result
that the change has made stale. What differs in a bit is refused.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rwp.data.passport import PASSPORT, read_passport
from rwp.data.spec import DatasetSpec, UnlabeledSpec
from rwp.errors import UserError
from rwp.evaluation.spec import DiagnosisSpec, EvaluationSpec, LandscapeSpec
from rwp.factories import own_folders
from rwp.files import read_object, write_text
from rwp.metric_names import TIMINGS
from rwp.pipeline.code import HERE, LEDGER, PACKAGE_FOLDER, read_ledger
from rwp.pipeline.settings import Params
from rwp.pipeline.state import Result, results
from rwp.pipeline.steps import Step, Steps, below
from rwp.pipeline.why import checked_out, makers
from rwp.spec import Name, Radius, Spec
from rwp.studies import FOLDER as STUDIES
from rwp.training.spec import PseudoLabelSpec, RunKey, TrainSpec

_ABOVE_FIRST_LOSSES = 5.0  # nats; of 100 classes they are near 4.6, and a mask selects none
_STEPS = 3  # of a training, in each of two epochs
_IMAGES = 64  # for attacks and landscapes
# What two runs of the same code do not share either, or what tells them apart.
_OWN = {*TIMINGS, "fingerprint", "commit", "versions", "performance", "mlflow_run_id"}
_OWN |= {"processor", "gpu", "time", "earlier", "networks"}


def accept(
    params: Params, name: str, *, because: str, root: Path
) -> tuple[list[dict[str, str]], list[str]]:
    """Note that the code of a step computes what the code before it did.

    Args:
        params: the settings.
        name: a kind of step, such as train, or a file that is stale, with all it stands on. What
            the ledger says holds for all results of a module, so other files that the same code
            made are compared, too.
        because: why nothing has changed, for those who read the ledger.
        root: the project.

    Returns:
        The new entries of the ledger, one for each module that does such a step; and lines on
        results that cannot count beside them.

    Raises:
        UserError: nothing is stale for the code's sake, git does not have the old code, another
            code was accepted before, or the two do not agree in every bit.
    """
    if not because.strip():
        raise UserError("--because: expected why no number changes, got nothing; say it")
    changed, told = _changed_steps(params, name, root)
    entries: dict[str, dict[str, str]] = {}
    for step, commit, old in changed:
        with checked_out(commit) as source, tempfile.TemporaryDirectory(prefix="rwp-") as folder:
            before = _repeat(step, root, Path(folder) / "old", source)
            after = _repeat(step, root, Path(folder) / "new", PACKAGE_FOLDER.parent)
            _check_same(before, after, step)
        entry = {
            "step": step.kind,
            "module": step.code,
            "old": old,
            "new": HERE.own_hash(step.code),
            "commit": commit,
            "compared": step.outputs[0],
            "because": because.strip(),
        }
        known = entries.setdefault(entry["module"], entry)
        if known is not entry:
            known["compared"] += f", {entry['compared']}"
    lines = [json.dumps(item, ensure_ascii=False) for item in (*read_ledger(), *entries.values())]
    write_text(LEDGER, "\n".join(lines) + "\n")
    return list(entries.values()), told


_IN_SECONDS = ("table", "figure", "report")


@dataclass(frozen=True)
class _Made:
    """A stale result, the commit that made it, and its code of the modules that are meant."""

    result: Result
    commit: str
    hashes: dict[str, str]  # by module
    changed: dict[str, str]  # those of them that are not today's

    @property
    def steps(self) -> list[Step]:
        """Its own, and those that it stands on."""
        return below([self.result.step])


def _changed_steps(
    params: Params, name: str, root: Path
) -> tuple[list[tuple[Step, str, str]], list[str]]:
    """The steps to compare, one for each way through the code, behind results that only the code
    has made stale; with the commit and the hash of the old code. And what else is to be told.
    """
    every, asked = _named(params, name)
    meant = [step for step in every if step.kind == name] if asked is None else below([asked])
    there = results(every)
    today = {step.code: step.code_hash for step in meant}
    made, tried = _made_by_others(params, there, today, root)
    first = next((item for item in made if asked in item.steps), None)
    if not made or (asked and first is None):
        kinds = ", ".join(dict.fromkeys(step.kind for step in every))
        raise UserError(
            f"{name}: expected a kind of step ({kinds}) or a file that only the code has made"
            f" stale, got {tried} stale results and no commit whose code fits them and differs;"
            f" see `rwp verify` and `rwp verify --why FILE`"
        )
    olds = _one_code([first] if first else made, name)
    compared: set[tuple[str, str]] = set()
    changed: list[tuple[Step, str, str]] = []
    for item in made:
        for step in item.steps:
            old = olds.get(step.code)
            if old is None or item.hashes[step.code] != old or _way(step) in compared:
                continue
            compared.add(_way(step))
            changed.append((step, item.commit, old))
    wanted = olds if asked else today | olds  # a file says nothing of what it does not stand on
    others = [
        item
        for item in made
        if any(wanted.get(module, old) != old for module, old in item.hashes.items())
    ]
    return changed, list(_told(others, olds, there, root))


def _named(params: Params, name: str) -> tuple[list[Step], Step | None]:
    """All steps of all suites; and that of a file, where one is named."""
    steps = Steps(params)
    ends: list[Step] = []
    for suite, entry in params.suites.items():
        with suppress(UserError):  # it has no tables (drafts), or starts at weights that lack
            ends.append(steps.report(suite))
        for figure in entry.figures:  # those that no report waits for, too
            with suppress(UserError):
                ends.append(steps.figure(suite, figure))
    every = below(ends)
    kinds = dict.fromkeys(step.kind for step in every)
    if name not in kinds and "/" not in name:
        raise UserError(
            f"STEP: expected a kind of step ({', '.join(kinds)}) or a file below results/ or data/,"
            f" got {name!r}; check the spelling"
        )
    asked = None if name in kinds else steps.find(name)
    if (asked.kind if asked else name) in _IN_SECONDS:
        raise UserError(
            f"{name}: expected fetch, train, label, evaluate, judge or landscape, or a file of one,"
            f" got a table, a figure or a report, which take seconds; let snakemake make them again"
        )
    return (below([*ends, asked]) if asked else every), asked


def _made_by_others(
    params: Params, every: list[Result], today: dict[str, str], root: Path
) -> tuple[list[_Made], int]:
    """The stale results that other code has made, of modules whose hash of today is given; and
    how many stale results stand on these modules.
    """
    stale = [
        (result, recorded)
        for result, recorded in _outdated(every, root)
        if any(step.code in today for step in below([result.step]))
    ]
    made = []
    for (result, _), found in zip(stale, makers(params, stale, root=root), strict=True):
        if found is not None:
            commit, code = found
            modules = dict.fromkeys(step.code for step in below([result.step]))
            hashes = {module: code.hash(module) for module in modules if module in today}
            changed = {module: old for module, old in hashes.items() if old != today[module]}
            if changed:
                made.append(_Made(result, commit, hashes, changed))
    return made, len(stale)


def _one_code(made: list[_Made], name: str) -> dict[str, str]:
    """Module -> the hash of the one older code that today's can stand for: that of most results.

    A fingerprint holds one hash of a module, so only one older code can count as today's. Where
    today's was accepted as another already, or the older one was, none can.
    """
    accepted = {(entry["module"], entry["new"]) for entry in read_ledger()}
    groups: Counter[frozenset[tuple[str, str]]] = Counter()
    for item in made:
        new = {(module, HERE.own_hash(module)) for module in item.changed}
        if not accepted & (new | item.changed.items()):
            groups[frozenset(item.changed.items())] += 1
    olds: dict[str, str] = {}
    for group, _ in groups.most_common():
        if all(olds.get(module, old) == old for module, old in group):
            olds |= dict(group)
    if not olds:
        raise UserError(
            f"{name}: expected results of the one older code that counts as today's by"
            f" {LEDGER.name}, got {made[0].result.path} of another (commit {made[0].commit});"
            f" build it again"
        )
    return olds


def _told(
    others: list[_Made], olds: dict[str, str], every: list[Result], root: Path
) -> Iterator[str]:
    """A line on results of a third code, which stay stale, and one on those of today's code."""
    if others:
        commits = ", ".join(dict.fromkeys(item.commit for item in others))
        yield (
            f"stale as before: {_some([item.result.path for item in others])}, made at {commits};"
            f" only one older code can count as today's, so build them again"
        )
    own = [
        result.path
        for result in every
        if any(step.code in olds for step in below([result.step])) and result.state(root) == "done"
    ]
    if own:
        yield (
            f"stale from now on: {_some(own)}, made since the change; today's code counts as the"
            f" older one, so build them again, or take the new entry out of {LEDGER.name}"
        )


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def _way(step: Step) -> tuple[str, str]:
    """Which way a step takes through its module, as far as it is taken in little.

    Words and switches count as they are, of a count whether it is none, one or several, of any
    other number whether it is zero, and of names, radii and images only whether there are any.
    A change of the weight perturbation moves no bit of a training that has none, nor one of bf16
    a bit of fp32.
    """
    return step.code, repr(_words(_in_little(step.settings)))


# Fields of these types say which, not how.
_NAMING = frozenset({Name, Radius, RunKey, DatasetSpec, UnlabeledSpec})
_SEEDS = ("seed", "part_seed", "more_seeds")


def _words(value: Any, kind: Any = None) -> Any:
    """What counts of a setting for `_way`, by its value and the type of its field."""
    if value is None or isinstance(value, bool):
        return value
    if not _NAMING.isdisjoint((kind, *get_args(kind))):
        return "any"
    if isinstance(value, Spec):
        own: Any = type(value)
        return {
            name: _words(getattr(value, name), part)
            for name, part in _types(own).items()
            if name not in _SEEDS
        }
    if isinstance(value, dict):  # options of one's own factories
        return {name: _words(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return sorted({repr(_words(part, *get_args(kind)[:1])) for part in value})
    if isinstance(value, int):
        return max(-1, min(value, 2))  # layers are counted from the end, too
    return value != 0 if isinstance(value, float) else value


@cache
def _types(kind: Any) -> dict[str, Any]:
    """The fields of settings with their types."""
    types = get_type_hints(kind, include_extras=True)
    return {part.name: types[part.name] for part in fields(kind)}


def _outdated(every: list[Result], root: Path) -> Iterator[tuple[Result, str]]:
    """Stale results and trainings that were stopped, with the fingerprints that they carry."""
    for result in every:
        if result.state(root) == "stale":
            yield result, str(read_object(root / result.path).get("fingerprint"))
        if isinstance(result.step.settings, TrainSpec):
            for folder in sorted((root / ".state" / result.step.name).glob("*/")):
                if folder.name != result.fingerprint:
                    yield result, folder.name


def _repeat(step: Step, root: Path, place: Path, source: Path) -> dict[str, Any]:
    """Do the step in little in a project of its own; returns what it left, by file."""
    words = _prepare(step, root, place)
    inputs = {path for path in place.rglob("*") if path.is_file()}
    theirs = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    environment = os.environ | {
        # The user's own modules lie where they lay; `rwp` is found in the source, before them.
        "PYTHONPATH": os.pathsep.join(map(str, (source, *own_folders(), *theirs))),
        "RWP_DETERMINISTIC": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
    }
    found = subprocess.run(
        [sys.executable, "-m", "rwp", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise UserError(
            f"{step.outputs[0]}: expected the step to run in little by the code in {source}, got"
            f" {last!r}; it cannot be accepted, so build it again"
        )
    left = [path for path in sorted(place.rglob("*")) if path.is_file() and path not in inputs]
    folders = [place / "results", place / "data"]
    return {
        str(path.relative_to(place)): _content(path)
        for path in left
        if any(folder in path.parents for folder in folders) and path.suffix != ".lock"
    }


def _prepare(step: Step, root: Path, place: Path) -> list[str]:
    """Lay out what the step reads, in little, and say how it is called."""
    settings = step.settings
    place.mkdir(parents=True)
    small = _in_little(settings)
    if isinstance(small, TrainSpec) and small.start is not None and small.data.mean is None:
        # Computed from fewer images they would be others than the run's that it starts from.
        mean, std = read_passport(root / "data" / small.key.dataset / PASSPORT).normalization()
        small = small.replace(data=small.data.replace(mean=mean, std=std))
    for settings_file in ("params.yaml", STUDIES):  # name the code of one's own that may be run
        _lay_out(root, place, settings_file)
    for path in step.inputs:
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("data/") and path.endswith(("train.pt", "test.pt")):
            _part(root / path, place / path, _num_images(settings, path))
        elif Path(path).name == "run.json":
            _lay_out_record(root, place, path)
        elif (root / path).exists():
            (place / path).symlink_to((root / path).resolve())
    if isinstance(settings, DatasetSpec | UnlabeledSpec):
        (place / "data").mkdir(exist_ok=True)
        for path in step.inputs:  # the images that it takes lie beside their passport
            for images in (root / path).parent.glob("*.pt"):
                (place / path).with_name(images.name).symlink_to(images.resolve())
        for named in ("data/raw", settings.path):
            _lay_out(root, place, named)
        return ["data", "fetch", step.name]
    if isinstance(settings, TrainSpec) and settings.start is not None:
        _lay_out(root, place, settings.start.file)
    for path in step.inputs:  # a run's record lies beside its networks
        record = str(Path(path).with_name("run.json"))
        if path.endswith(".pt") and (root / record).exists() and not (place / record).exists():
            _lay_out_record(root, place, record)
    if not isinstance(small, Spec):
        raise TypeError(f"expected the settings of a step that can be repeated, got {small!r}")
    words = ["--resolved", small.canonical(), "--fingerprint", "compared"]
    if isinstance(settings, TrainSpec):
        return ["train", *words, "--no-tracking"]
    if isinstance(settings, LandscapeSpec):
        return ["landscape", *words]
    command = {PseudoLabelSpec: "pseudo-label", EvaluationSpec: "evaluate"}
    return [command.get(type(settings), "diagnose"), *words]


def _lay_out_record(root: Path, place: Path, path: str) -> None:
    """A run's record, cut off from MLflow: what is computed here is logged nowhere."""
    document = read_object(root / path) | {"mlflow_run_id": None}
    (place / path).write_text(json.dumps(document), encoding="utf-8")


def _lay_out(root: Path, place: Path, named: str | None) -> None:
    """A file or folder that settings name, in the same place below another folder."""
    if named is None or Path(named).is_absolute() or not (root / named).exists():
        return
    (place / named).parent.mkdir(parents=True, exist_ok=True)
    if not (place / named).exists():
        (place / named).symlink_to((root / named).resolve())


def _in_little(settings: object) -> object:
    """The same settings for a few batches."""
    if isinstance(settings, TrainSpec):
        optimization = settings.optimization.replace(
            epochs=settings.first_epoch + 2, processes=None
        )
        perturbation, mix = settings.perturbation, settings.unlabeled
        if perturbation is not None and perturbation.warmup_epochs:
            perturbation = perturbation.replace(warmup_epochs=1)
        if perturbation is not None and perturbation.c_min and perturbation.mask != "above":
            raised = max(perturbation.c_min, _ABOVE_FIRST_LOSSES)
            perturbation = perturbation.replace(c_min=raised)
        if mix is not None:
            mix = mix.replace(epoch_size=_STEPS * optimization.batch_size)
        return settings.replace(
            data=settings.data.replace(per_class=None),
            optimization=optimization,
            perturbation=perturbation,
            unlabeled=mix,
            keep_epochs=(),
            # Those of the run that it starts from are of other images.
            keep_losses=settings.keep_losses and settings.start is None,
            curve_examples=None,
        )
    if isinstance(settings, EvaluationSpec | LandscapeSpec):
        whole: dict[str, Any] = {"num_examples": None}
        whole |= {"first_examples": None} if isinstance(settings, EvaluationSpec) else {}
        whole |= {"data": settings.data.replace(per_class=None)}
        if isinstance(settings, EvaluationSpec):
            whole["attacks"] = tuple(a.replace(num_examples=None) for a in settings.attacks)
        return settings.replace(**whole)
    return settings


def _num_images(settings: object, path: str) -> int | None:
    """How many images of a split are enough; none: all, as for a verdict on records."""
    if isinstance(settings, TrainSpec) and path.endswith("train.pt"):
        images = _STEPS * settings.optimization.batch_size
        return math.ceil(images / (1 - settings.held_out_fraction))
    return None if isinstance(settings, DiagnosisSpec | PseudoLabelSpec) else _IMAGES


def _part(source: Path, target: Path, count: int | None) -> None:
    from rwp.data.images import ImageSet
    from rwp.data.parts import take_part

    images = ImageSet.load(source)
    if count is not None and count < len(images):
        count = max(count, 2 * images.num_classes)
        images, _ = take_part(images, num_examples=count, seed=0, source=source)
    images.save(target)


def _content(path: Path) -> Any:
    """What a file says, as values that can be compared bit for bit."""
    if path.suffix == ".pt":
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()
        return (
            [json.loads(line) for line in lines] if path.suffix == ".jsonl" else read_object(path)
        )
    return path.read_bytes()


def _check_same(before: dict[str, Any], after: dict[str, Any], step: Step) -> None:
    if before.keys() != after.keys() or not before:
        raise UserError(
            f"{step.outputs[0]}: expected the files {', '.join(before) or 'of the step'} of the new"
            f" code too, got {', '.join(after) or 'none'}; build the step again"
        )
    place = next(_moved(before, after, ""), None)
    if place is not None:
        raise UserError(
            f"{step.outputs[0]}: expected the same bits of old and new code, got others at {place};"
            f" the change moves numbers, so build the step again"
        )


def _moved(before: Any, after: Any, at: str) -> Iterator[str]:
    """The places where two contents differ; what only one of them notes is no number of it."""
    if isinstance(before, dict) and isinstance(after, dict):
        if at.endswith("weights") and before.keys() != after.keys():
            yield at  # no checkpoint that lies there could be loaded
        for name in before.keys() & after.keys():
            if name not in _OWN:
                yield from _moved(before[name], after[name], f"{at}.{name}".lstrip("."))
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            yield from _moved(*pair, f"{at}[{number}]")
    elif hasattr(before, "dtype") and hasattr(after, "dtype"):
        same = before.dtype == after.dtype and before.shape == after.shape
        if not same or before.numpy().tobytes() != after.numpy().tobytes():
            yield at
    elif type(before) is not type(after) or repr(before) != repr(after):
        yield at
