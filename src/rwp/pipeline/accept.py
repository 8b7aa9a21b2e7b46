"""Accept a change of code that changes no number: tried on the step itself, listed under git.

The step is repeated on a small scale by the old and the new code: a training of two short epochs,
an evaluation of a few images, and so on, with the settings, checkpoints and images of a result
that the change has made stale. What differs in a bit is refused.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rwp.data.passport import PASSPORT, read_passport
from rwp.data.spec import DatasetSpec, UnlabeledSpec
from rwp.errors import UserError
from rwp.evaluation.spec import DiagnosisSpec, EvaluationSpec, LandscapeSpec
from rwp.factories import own_folders
from rwp.files import read_object, write_text
from rwp.metric_names import TIMINGS
from rwp.pipeline.code import HERE, LEDGER, PACKAGE_FOLDER, Code, read_ledger
from rwp.pipeline.settings import Params
from rwp.pipeline.state import Result, results
from rwp.pipeline.steps import Step, Steps, below
from rwp.pipeline.why import checked_out, maker
from rwp.spec import Spec
from rwp.studies import FOLDER as STUDIES
from rwp.training.spec import PseudoLabelSpec, TrainSpec

_ABOVE_FIRST_LOSSES = 5.0  # nats; of 100 classes they are near 4.6, and a mask selects none
_STEPS = 3  # of a training, in each of two epochs
_IMAGES = 64  # for attacks and landscapes
# What two runs of the same code do not share either, or what tells them apart.
_OWN = {*TIMINGS, "fingerprint", "commit", "versions", "performance", "mlflow_run_id"}
_OWN |= {"gpu", "time", "earlier", "networks"}


def accept(params: Params, name: str, *, because: str, root: Path) -> list[dict[str, str]]:
    """Note that the code of a step computes what the code before it did.

    Args:
        params: the settings.
        name: a kind of step, such as train, or a file that is stale, with all it stands on.
        because: why nothing has changed, for those who read the ledger.
        root: the project.

    Returns:
        The new entries of the ledger, one for each module that does such a step.

    Raises:
        UserError: nothing is stale for the code's sake, git does not have the old code, or the
            two do not agree in every bit.
    """
    if not because.strip():
        raise UserError("--because: expected why no number changes, got nothing; say it")
    entries: dict[tuple[str, str], dict[str, str]] = {}
    for step, commit, old in _changed_steps(params, name, root):
        with checked_out(commit) as source, tempfile.TemporaryDirectory(prefix="rwp-") as folder:
            before = _repeat(step, root, Path(folder) / "old", source)
            after = _repeat(step, root, Path(folder) / "new", PACKAGE_FOLDER.parent)
            _check_same(before, after, step)
        entry = {
            "step": step.kind,
            "module": step.code,
            "old": old.hash(step.code),
            "new": HERE.own_hash(step.code),
            "commit": commit,
            "compared": step.outputs[0],
            "because": because.strip(),
        }
        known = entries.setdefault((entry["module"], entry["old"]), entry)
        if known is not entry:
            known["compared"] += f", {entry['compared']}"
    lines = [json.dumps(item, ensure_ascii=False) for item in (*read_ledger(), *entries.values())]
    write_text(LEDGER, "\n".join(lines) + "\n")
    return list(entries.values())


_IN_SECONDS = ("table", "figure", "report")


def _changed_steps(params: Params, name: str, root: Path) -> list[tuple[Step, str, Code]]:
    """The steps that are meant, one for each way through the code, behind results that only the
    code has made stale; with the commit of the old code, and that code.
    """
    steps = Steps(params)
    ends: list[Step] = []
    for suite in params.suites:
        with suppress(UserError):  # it has no tables (drafts), or starts at weights that lack
            ends.append(steps.report(suite))
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
    meant = [step for step in every if step.kind == name] if asked is None else below([asked])
    compared: set[tuple[str, str]] = set()
    changed: list[tuple[Step, str, Code]] = []
    tried = 0
    for result, recorded in _outdated(results(every if asked is None else [*every, asked]), root):
        stands_on = set(below([result.step]))
        left = [step for step in meant if step in stands_on and _way(step) not in compared]
        if asked not in stands_on and (asked or not left):
            continue
        tried += 1
        found = maker(params, result, recorded, root=root)
        if found is None:
            continue
        for step in left:
            if _way(step) not in compared and found[1].hash(step.code) != step.code_hash:
                compared.add(_way(step))
                changed.append((step, *found))
        if asked and changed:
            break
    if changed:
        return changed
    raise UserError(
        f"{name}: expected a kind of step ({', '.join(kinds)}) or a file that only the code has"
        f" made stale, got {tried} stale results and no commit whose code fits them and differs;"
        f" see `rwp verify` and `rwp verify --why FILE`"
    )


def _way(step: Step) -> tuple[str, str]:
    """Which way a step takes through its module: trainings and attacks differ in more than numbers.

    A change of the weight perturbation moves no bit of a training that has none.
    """
    settings = step.settings
    if isinstance(settings, TrainSpec | EvaluationSpec):
        return step.code, repr(_words(settings.document()))
    return step.code, ""


def _words(value: Any) -> Any:
    """Settings without numbers, and without the names of runs, data and files."""
    if isinstance(value, dict):
        return {name: _words(part) for name, part in value.items() if name not in ("key", "data")}
    if isinstance(value, list | tuple):
        return sorted({repr(_words(part)) for part in value})
    if value is None or isinstance(value, bool):
        return value
    return value if isinstance(value, str) and not re.search(r"\d|/", value) else ""


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
