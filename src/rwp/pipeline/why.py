"""What a stale result was made of: its settings, its files, and the code that git remembers."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.evaluation.spec import EvaluationSpec
from rwp.files import read_object, sha256_file
from rwp.pipeline.code import HERE, PACKAGE_FOLDER, Code
from rwp.pipeline.settings import Params
from rwp.pipeline.state import Result, stale_inputs
from rwp.pipeline.steps import Steps
from rwp.spec import Spec
from rwp.training.spec import RunKey, TrainSpec

_ROOT = PACKAGE_FOLDER.parents[1]
_COMMITS = 200  # looked at, newest first


def git(*words: str) -> bytes:
    """What git says about this checkout.

    Raises:
        UserError: there is no git, or it refuses.
    """
    try:
        found = subprocess.run(
            ("git", "-C", str(_ROOT), *words), capture_output=True, check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UserError(
            f"{_ROOT}: expected a git repository that has the older code, git {words[0]} failed;"
            f" fetch the history, or build the step again"
        ) from error
    return found.stdout


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The package as it was at a commit, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rwp-") as folder:
        packed = git("archive", commit, "src/rwp")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # none before 3.11.4
            archive.extractall(folder)
        yield Path(folder) / "src"


def code_at(commit: str) -> Code:
    """The code of a commit."""

    files: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit, "src/rwp"))) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.name.endswith(".py") else None
            if content is not None:
                files[member.name.removeprefix("src/rwp/")] = content.read().decode("utf-8")
    return Code(files.get)


def maker(params: Params, result: Result, recorded: str, *, root: Path) -> tuple[str, Code] | None:
    """The commit whose code gives the recorded fingerprint, under today's settings; or none."""
    return makers(params, [(result, recorded)], root=root)[0]


def makers(
    params: Params, stale: Sequence[tuple[Result, str]], *, root: Path
) -> list[tuple[str, Code] | None]:
    """The same for several results, in their order; each commit is looked at once for all."""
    from rich.console import Console
    from rich.progress import track

    found: dict[int, tuple[str, Code]] = {}
    before: set[str] = set()
    console = Console(stderr=True)
    quiet = not console.is_terminal
    told = "looking for the commit that made it"
    commits = _candidates(*(root / result.path for result, _ in stale)) if stale else []
    for commit in track(commits, told, console=console, transient=True, disable=quiet):
        if len(found) == len(stale):
            break
        # git's own name of the package's folder: what is equal is looked at once
        tree = git("rev-parse", f"{commit}:./src/rwp").decode().strip()
        if tree in before:
            continue
        before.add(tree)
        with suppress(ValueError):  # no text
            code = code_at(commit)
            steps = Steps(params, code)
            for number, (result, recorded) in enumerate(stale):
                with suppress(ValueError, SyntaxError):  # a module that was not there yet
                    path = result.path
                    if number not in found and steps.find(path).fingerprint_of(path) == recorded:
                        found[number] = commit, code
    return [found.get(number) for number in range(len(stale))]


def _candidates(*records: Path) -> list[str]:
    """The commits that records name, and then the history of the code."""
    named = []
    for record in records:
        document = read_object(record) if record.exists() else {}
        named.append(str(document.get("commit") or "").removesuffix("+changes"))
    log = git("log", f"--max-count={_COMMITS}", "--format=%h", "--", "src/rwp").decode().split()
    return [*filter(_has_code, dict.fromkeys(filter(None, named))), *log]


def _has_code(commit: str) -> bool:
    """Whether git has the package as it was at a commit."""
    try:
        git("cat-file", "-e", f"{commit}:./src/rwp")
    except UserError:
        return False
    return True


def changed_modules(old: Code, new: Code, module: str) -> list[str]:
    """The modules behind a step that compute something else than before."""
    then, now = old.parts(module), new.parts(module)
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def reasons(params: Params, result: Result, *, root: Path) -> Iterator[str]:
    """Why a result is stale: the setting, the file or the code, from what to what."""
    step, record = result.step, read_object(root / result.path)
    settings = list(_settings(step.settings, record))
    yield from settings
    if _only_settings(result, record):
        return
    files = [f"file {path}: {there}" for path, there in _files(record, root)]
    yield from files
    stale = bool(files) or (bool(settings) and isinstance(step.settings, EvaluationSpec))
    for path in stale_inputs(step, root):
        stale = True
        yield f"input {path} is stale itself: rwp verify --why {path}"
    found = maker(params, result, str(record.get("fingerprint")), root=root)
    if found is not None:
        commit, code = found
        for part in dict.fromkeys([step, *step.inputs.values()]):
            for module in changed_modules(code, HERE, part.code):
                yield f"code {module} of the step {part.kind} ({part.name}): from {commit} to now"
    elif not stale:
        yield f"code of {step.code}: from one that git does not have, to {step.code_hash}"


def _only_settings(result: Result, record: dict[str, Any]) -> bool:
    """Whether today's code and inputs, under the settings of then, give the fingerprint of then."""
    step = result.step
    if not isinstance(step.settings, TrainSpec):
        return False
    try:
        then = TrainSpec.parse(record.get("spec"), where=result.path)
    except UserError:
        return False
    return replace(step, settings=then).fingerprint == record.get("fingerprint")


def _settings(settings: object, record: dict[str, Any]) -> Iterator[str]:
    if not isinstance(settings, Spec):
        return
    now = settings.document()
    then: Any = record.get("spec")
    if isinstance(settings, EvaluationSpec) and "attack" in record:
        name = record["attack"].get("name")
        attacks = {attack["name"]: attack for attack in now["attacks"]}
        now = {"attack": attacks.get(name), "seed": now["seed"], "batch_size": now["batch_size"]}
        then = {name: record.get(name) for name in now}
        part = record.get("part")
        own = next((attack for attack in settings.attacks if attack.name == name), None)
        if isinstance(part, dict) and own is not None:
            now |= {"num_examples": settings.num_asked(own), "part": settings.part_rule(own)}
            whole = part.get("rule") == "all"
            then |= {"num_examples": None if whole else part.get("size"), "part": part.get("rule")}
            if part.get("rule") == "stratified":
                now |= {"part_seed": settings.part_seed}
                then |= {"part_seed": part.get("seed")}
    if isinstance(then, dict):
        yield from (f"setting {line}" for line in _differences(then, now))


def _differences(then: Any, now: Any, at: str = "") -> Iterator[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted({*then, *now}):
            yield from _differences(then.get(name), now.get(name), f"{at}.{name}".lstrip("."))
    elif then != now:
        yield f"{at}: from {then!r} to {now!r}"


def _files(record: dict[str, Any], root: Path) -> Iterator[tuple[str, str]]:
    """The files that a training or an attack read, where others lie there now."""
    key, hashes = record.get("key"), record.get("inputs")
    if not isinstance(key, dict):
        return
    data = Path("data") / str(key.get("dataset"))
    read = dict(hashes) if isinstance(hashes, dict) else {}
    known = {data / f"{role}.pt": read.get(role) for role in ("train", "test")}
    if "checkpoint_sha256" in record:
        run = RunKey.parse(key, where="key").directory
        known = {data / "test.pt": record.get("data_sha256")}
        known[Path(run, f"{record.get('checkpoint')}.pt")] = record["checkpoint_sha256"]
    for path, before in known.items():
        if isinstance(before, str) and (root / path).exists():
            found = sha256_file(root / path)
            if found != before:
                yield str(path), f"from SHA-256 {before[:12]} to {found[:12]}"
