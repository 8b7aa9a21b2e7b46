"""Results without weights, in a folder of their own: what is committed, and read without a project.

The folder holds what a suite left (run.json, history.jsonl, records, landscapes), the settings and
claims that it was made with, and tables and figures made of these; of one seed also the networks.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rwp import __version__
from rwp.data.passport import PASSPORT
from rwp.errors import UserError
from rwp.evaluation.diagnosis_file import NAME as DIAGNOSIS, read_diagnosis
from rwp.files import (
    RESULTS_MANIFEST as MANIFEST,
    atomic_write,
    object_in,
    read_json,
    read_object,
    sha256_file,
    write_json,
)
from rwp.pipeline.extends import EXTENDS
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import choose, refuse_unknown
from rwp.pipeline.own_code import code_may_lack, sources_in
from rwp.pipeline.settings import Params, Setting
from rwp.pipeline.steps import Steps
from rwp.pipeline.suites import BEYOND, setting_keys
from rwp.reporting import tables
from rwp.reporting.claim_verdicts import judge_claims, write_claims
from rwp.reporting.claims import FILE as CLAIMS, read_claims
from rwp.reporting.figures import write_suite_figure
from rwp.reporting.pairs import write_pairs
from rwp.reporting.results import read_attack, read_results
from rwp.reporting.runs import (
    FAILED,
    OK,
    SOMETHING_ELSE,
    Run,
    check_format,
    of_its_time_below,
    read_run,
    why_landscape_stale,
)
from rwp.training.spec import RunKey, suite_directory

FORMAT = "rwp.results/1"
SETTINGS = "settings.json"
RESULTS = "results"  # of a project, with the folders of all suites
NETWORKS = ("best.pt", "last.pt")


BRING_BACK = "bring the folder back as it was gathered"
# What a project's user is told to do about files that are not as they should be.
_MADE_ANEW = (
    "train this run again",
    "delete it and build it again",
    "delete it and make it again",
    "delete it and evaluate again",
    "measure the landscape again",
    "build it first",
    "run from the project's root",
)


@dataclass(frozen=True)
class Opened:
    """A gathered folder as a project: `root` has its results and claims in their places."""

    params: Params
    suite: str
    root: Path


@contextmanager
def opened(folder: Path) -> Iterator[Opened]:
    """Read a gathered folder; nothing in it is changed.

    Raises:
        UserError: it is none, or of another version.
    """
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise UserError(
            f"{folder}: expected gathered results with a {MANIFEST}, found none; "
            "`rwp gather` makes such a folder"
        )
    with _bring_back():
        document = read_object(manifest)
        check_format(manifest, document, FORMAT)
        settings = read_json(folder / SETTINGS)
    params = check_params(settings, where=str(folder / SETTINGS))
    suite = str(document.get("suite"))
    choose(params.suites, suite, "suite", f"{manifest}: suite")
    with _bring_back():
        _check_runs(folder, suite)
        _check_own_code(folder)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        results = root / suite_directory(suite)
        results.parent.mkdir(parents=True, exist_ok=True)
        results.symlink_to(folder.resolve())
        for name in ("data", CLAIMS):
            if (folder / name).exists():
                (root / name).symlink_to((folder / name).resolve())
        try:
            with _bring_back(), of_its_time_below(root), code_may_lack():
                yield Opened(params, suite, root)
        except UserError as error:
            raise UserError(_in_its_place(str(error), root, results, folder)) from error
        except OSError as error:
            place = _in_its_place(str(error.filename), root, results, folder)
            raise OSError(error.errno, error.strerror, place) from error


def _check_own_code(folder: Path) -> None:
    """All that a factory of the user's own made is of one version of its code.

    Which of today's does not matter: results of two versions would be averaged.
    """
    if not any(sources_in(read_json(folder / SETTINGS))):
        return
    known: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder.glob("runs/**/*.json")):
        for text, source in sources_in(read_object(path)):
            if source is None:
                continue
            first, place = known.setdefault(text, (source, path))
            if source != first:
                raise UserError(
                    f"{path}: expected results of one version of {text}, got another than that of "
                    f"{place.relative_to(folder)}; remove what is older, or make it again and "
                    "gather it"
                )


def _check_runs(folder: Path, suite: str) -> None:
    """One run of another suite shows that the folder's files do not belong together."""
    path = next(iter(sorted(folder.glob("runs/*/*/*/*/seed*/run.json"))), None)
    if path is None:
        return
    found = RunKey.parse(read_object(path).get("key"), where=str(path)).suite
    if found != suite:
        raise UserError(
            f"{folder / MANIFEST}: expected the suite of its runs, {found}, got {suite}; "
            f"{BRING_BACK}"
        )


def _in_its_place(text: str, root: Path, results: Path, folder: Path) -> str:
    """A message about a file of the folder: where a person finds it."""
    return text.replace(f"{results}/", f"{folder}/").replace(f"{root}/", f"{folder}/")


@contextmanager
def _bring_back() -> Iterator[None]:
    """What helps where a file of the folder is missing or damaged: nothing there can be made."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for advice in _MADE_ANEW:
            text = text.replace(advice, BRING_BACK)
        raise UserError(text) from error


@dataclass
class Gathered:
    """What was gathered, and what was left out, with the reason."""

    runs: list[RunKey] = field(default_factory=list)
    networks: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def gather(
    content: Any, suite: str, *, root: Path, target: Path, networks: bool = True
) -> Gathered:
    """Gather what is there of a suite, finished or not.

    A run that is there already and was not trained again stays as it is; one that was is replaced.

    Args:
        content: the parsed settings.
        suite: which suite of them.
        root: the project's folder.
        target: the folder to fill.
        networks: whether to take along `best` and `last` of Table 1's recipes, of one seed.

    Raises:
        UserError: no run of the suite is there, or the folder is another suite's, or holds
            something else.
    """
    params = check_params(content)
    choose(params.suites, suite, "suite", "--suite")
    _check_target(target, suite, root)
    found = Gathered()
    steps = Steps(params)
    runs = list(_runs(steps, suite, root, target, found))
    if not runs:
        more = f" ({found.left_out[0]})" if found.left_out else ""
        raise UserError(
            f"{root / suite_directory(suite)}: expected trained runs, found none{more}; "
            "train some first"
        )
    # First, so that a folder that was left half-filled is known again.
    write_json(target / SETTINGS, settings_of(content, suite))
    write_json(target / MANIFEST, {"format": FORMAT, "suite": suite, "version": __version__})
    for run, key in runs:
        place = target / key.directory.relative_to(suite_directory(suite))
        found.left_out += _copy_run(steps, key, run, root, place)
        found.runs.append(key)
    if networks:
        by_key = {key: run for run, key in runs}
        found.networks = _copy_networks(params, suite, target, by_key, found.left_out)
    found.left_out += _copy_rest(steps, suite, root, target, found.runs)
    try:
        found.left_out += _write_parts(target)
    except UserError as error:  # what was gathered before does not go with this
        found.left_out.append(str(error))
    return found


def settings_of(content: dict[str, Any], suite: str) -> dict[str, Any]:
    """Of all settings those that one suite stands on; other suites may change their form."""
    suites, chain, name = content["suites"], [], suite
    while name is not None:
        chain.append(name)
        name = suites[name].get(EXTENDS)
    return content | {"build": [suite], "suites": {name: suites[name] for name in chain}}


def _check_target(target: Path, suite: str, root: Path) -> None:
    """Nothing is gathered over trainings, or over what is no gathered folder of the suite."""
    place, project = target.resolve(), root.resolve()
    results = (root / RESULTS).resolve()
    if place.is_relative_to(results) or any(at.is_relative_to(place) for at in (results, project)):
        raise UserError(
            f"{target}: expected a folder apart from the project's {RESULTS}/, whose runs would be "
            f"replaced, got one at, in or above it; name another with --output, such as "
            f"docs/results/{suite}"
        )
    manifest = target / MANIFEST
    if not manifest.exists() and target.is_dir() and any(target.iterdir()):
        raise UserError(
            f"{target}: expected an empty folder or one that was gathered, got files without a "
            f"{MANIFEST}; name another with --output"
        )
    if manifest.exists():
        document = read_object(manifest)
        check_format(manifest, document, FORMAT)
        if document.get("suite") != suite:
            raise UserError(
                f"{target}: expected a folder of the suite {suite}, got one of "
                f"{document.get('suite')}; name another with --output"
            )


def _still_there(gathered: Path) -> str:
    """What was gathered before and is left out now; deleting it would empty committed folders."""
    if not gathered.exists():
        return ""
    return "; what was gathered of it before stays, and the tables there count it: remove it"


def _runs(
    steps: Steps, suite: str, root: Path, target: Path, found: Gathered
) -> Iterator[tuple[Run, RunKey]]:
    """The runs of the suite that ended and are of today's settings, code and images."""
    folder = root / suite_directory(suite) / "runs"
    for path in sorted(folder.glob("*/*/*/*/seed*/run.json")):
        try:
            key = RunKey.parse(read_object(path).get("key"), where=str(path))
            refuse_unknown(steps.params, key, where=str(path))
            run = read_run(steps, key, root=root)
        except UserError as error:
            found.left_out.append(str(error))
            continue
        if run.ended:
            yield run, key
        else:
            gathered = target / path.relative_to(root / suite_directory(suite))
            found.left_out.append(f"{run.name}: {run.reason}{_still_there(gathered)}")


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target, keep_equal=True) as temporary:
        shutil.copyfile(source, temporary)


def _copy_run(steps: Steps, key: RunKey, run: Run, root: Path, target: Path) -> Iterator[str]:
    """Copy a run with its records; yield those that are not of it as it is now, which stay."""
    record = target / "run.json"
    if record.exists() and record.read_bytes() != (run.path / "run.json").read_bytes():
        shutil.rmtree(target)  # trained again: its records were of other networks
    for name in ("run.json", "history.jsonl"):
        _copy(run.path / name, target / name)
    for path in sorted(run.path.glob("evaluation/*/*.json")):
        inside = path.relative_to(run.path)
        if other := _why_left(steps, key, run, root, path):
            yield f"{run.name}/{inside}: {other}{_still_there(target / inside)}"
        else:
            _copy(path, target / inside)


def _why_left(steps: Steps, key: RunKey, run: Run, root: Path, path: Path) -> str:
    """What a record or a verdict is of, if not of the run as it is now; or an empty text."""
    try:
        return _why_of_another(steps, key, run, root, path)
    except UserError as error:  # it is damaged, or it rests on one that is
        return str(error).removeprefix(f"{path}: ")


def _why_of_another(steps: Steps, key: RunKey, run: Run, root: Path, path: Path) -> str:
    checkpoint, network = path.parent.name, run.path / f"{path.parent.name}.pt"
    if path.name == DIAGNOSIS:
        step, content = steps.judge(key, checkpoint), read_diagnosis(path)
        if content.get("fingerprint") != step.fingerprint:
            return f"judged with {SOMETHING_ELSE.format(step.outputs[0])}"
        for name, mark in object_in(content, "records").items():
            outcome = read_attack(steps, key, run, name, root, checkpoint)["outcome"]
            if outcome is None or outcome.fingerprint != mark:
                return f"judged by another record of {name}"
        return ""
    if path.stem in steps.params.suites[key.suite].evaluation.attacks:
        row = read_attack(steps, key, run, path.stem, root, checkpoint)
        return "" if row["status"] in (OK, *FAILED) else str(row["reason"])
    found = read_object(path).get("checkpoint_sha256")
    same = not network.exists() or found == sha256_file(network)
    return "" if same else f"made with another file than {network.name}"


def _copy_networks(
    params: Params, suite: str, target: Path, runs: dict[RunKey, Run], left_out: list[str]
) -> list[Path]:
    """Of the first seed that has them all, as its runs wrote them: `best` and `last` of Table 1's
    recipes."""
    rows = [
        setting_keys(params, suite, Setting(), recipe)
        for recipe in params.suites[suite].table1.recipes
    ]
    for keys in zip(*rows, strict=False):
        pairs = [(key, name) for key in keys for name in NETWORKS]
        if not (set(keys) <= runs.keys() and all((runs[k].path / n).exists() for k, n in pairs)):
            continue
        others = [key.directory / name for key, name in pairs if _of_another(runs[key], name)]
        if others:
            left_out += [f"{path}: not the network that its run.json names" for path in others]
            continue
        copied = [
            target / key.directory.relative_to(suite_directory(suite)) / name for key, name in pairs
        ]
        for (key, name), copy in zip(pairs, copied, strict=True):
            _copy(runs[key].path / name, copy)
        return copied
    return []


def _of_another(run: Run, name: str) -> bool:
    """Whether a network that lies in a run's folder is none of its own."""
    path = run.path / name
    return run.network_hash(path.stem) not in (None, sha256_file(path))


def _copy_rest(
    steps: Steps, suite: str, root: Path, target: Path, runs: list[RunKey]
) -> Iterator[str]:
    """Copy landscapes, the passports of the images, and the claims; yield what stays behind."""
    params, base = steps.params, root / suite_directory(suite)
    for name, figure in params.suites[suite].figures.items():
        step = steps.landscape(suite, name) if figure.kind == "landscape" else None
        if step is not None and (root / step.outputs[0]).exists():
            place = f"landscapes/{name}.csv"
            if other := why_landscape_stale(step, root):
                yield f"{step.outputs[0]}: {other}{_still_there(target / place)}"
                continue
            for path in sorted((base / "landscapes").glob(f"{name}.*")):
                _copy(path, target / path.relative_to(base))
    passports = [f"data/{name}/{PASSPORT}" for name in dict.fromkeys(k.dataset for k in runs)]
    passports += [f"data/unlabeled/{name}.json" for name in params.unlabeled]
    for passport in (*passports, CLAIMS):
        if (root / passport).exists():
            _copy(root / passport, target / passport)


def _write_parts(target: Path) -> list[str]:
    """Tables, figures and claims, made of what lies in the folder; and why some are not there."""
    left_out: list[str] = []

    def write(name: str, make: Callable[..., object], *arguments: object) -> None:
        try:
            make(*arguments)
        except UserError as error:
            left_out.append(f"{name}: {error}")

    with opened(target) as place:
        params, suite, root = place.params, place.suite, place.root
        entry = params.suites[suite]
        builders = {"table1": tables.table1, "table2": tables.table2}
        builders |= {BEYOND: tables.beyond} if entry.beyond else {}
        for name, build in builders.items():
            results = read_results(params, suite, root=root, parts=[name])
            tables.write_table(build(results), results.folder, name)
            if name == "table2":
                write_pairs(results)
        for name, figure in entry.figures.items():
            if figure.kind == "movement":
                left_out.append(f"{name}: the losses of single images are not gathered")
                continue
            results = read_results(params, suite, root=root, parts=[name])
            write(name, write_suite_figure, results, name)
            (target / f"{name}.png").unlink(missing_ok=True)  # the SVG is what is shown
        if (root / CLAIMS).exists():
            frame = judge_claims(params, suite, read_claims(root / CLAIMS), root=root)
            write_claims(frame, suite, root=root)
    return [text.replace(f"{place.root}/", "") for text in left_out]
