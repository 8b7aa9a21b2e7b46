"""What the settings say of code of the user's own: its options, and its source as a hash.

The options are those declared, with what the recipe itself changes. The hash is part of the
settings of a step: counted are the factory's module, what that imports from the same package, from
beside it or from the user's own folders, the packages around them, and what they import of this
project beyond what the step stands on. Comments, docstrings and formatting do not count; all else
does, as anything may be called `counted`, be raised as a value or decide by its annotations.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwp.errors import UserError
from rwp.factories import INSTALLED, file_of, is_own, own_folders, require_file
from rwp.pipeline.code import (
    CODE,
    HERE,
    PACKAGE,
    dumped,
    imports_in,
    is_infrastructure,
    without_docstrings,
)
from rwp.spec import Spec

if TYPE_CHECKING:
    from rwp.pipeline.settings import RecipeEntry, Suite

Options = dict[str, Any]
# Fields that may name code of the user's own, and the steps that run it.
_NAMED = {
    "family": ("train", "label", "evaluate", "judge", "landscape"),
    "loss": ("train",),
    "kind": ("evaluate",),
    "factory": ("train",),
    "mask": ("train",),
}
# Where Python's own modules and what was installed for it lie.
_PYTHONS = [
    Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")
]
_MAY_LACK = ContextVar("_MAY_LACK", default=False)


def own_options(suite: Suite, recipe: RecipeEntry, where: str) -> tuple[Options, Options]:
    """The options of a recipe's objective, and of its mask or perturbation.

    A changed option belongs to the one factory that the recipe has; of two, to the one that
    declares it.

    Raises:
        UserError: there is no such factory, or both or neither of two declare the option.
    """
    objective = suite.objectives[recipe.objective]
    # By their part in the recipe, as both may name the same factory.
    declared: dict[str, tuple[str, Options]] = {}
    if is_own(objective.loss):
        declared["objective"] = objective.loss, objective.options
    factory = _perturbing(suite, recipe)
    if factory is not None:
        declared["mask or perturbation"] = factory, _perturbing_options(suite, recipe)
    owners = {
        name: _owner(declared, name, f"{where}.change.options.{name}")
        for name in recipe.change.options
    }
    changed = {
        part: options | {n: v for n, v in recipe.change.options.items() if owners[n] == part}
        for part, (_, options) in declared.items()
    }
    return changed.get("objective", {}), changed.get("mask or perturbation", {})


def _perturbing(suite: Suite, recipe: RecipeEntry) -> str | None:
    """The factory of a recipe's perturbation or mask, if one of the user's own is at work."""
    if recipe.perturbation is None:
        return None
    entry = suite.perturbations[recipe.perturbation]
    mask = "range" if recipe.change.loss_range else recipe.change.mask or entry.mask
    return entry.factory or (mask if is_own(mask) else None)


def _perturbing_options(suite: Suite, recipe: RecipeEntry) -> Options:
    """Those declared; a mask that the recipe puts in another's place has none of them."""
    entry = suite.perturbations[recipe.perturbation or ""]
    replaced = entry.factory is None and recipe.change.mask not in (None, entry.mask)
    return {} if replaced else entry.options


def _owner(declared: dict[str, tuple[str, Options]], name: str, where: str) -> str:
    if not declared:
        raise UserError(
            f"{where}: expected an objective, mask or perturbation of your own "
            "(package.module:factory), which options are for, got none; remove it"
        )
    having = [part for part, (_, options) in declared.items() if name in options]
    if len(declared) > 1 and len(having) != 1:
        both = " and ".join(f"the {part} {text}" for part, (text, _) in declared.items())
        found = "both" if having else "neither"
        raise UserError(
            f"{where}: expected one of {both} to have it among its options, got {found}; "
            "declare it beside the factory that takes it, under a name of its own"
        )
    return next(iter(having or declared))


@contextmanager
def code_may_lack() -> Iterator[None]:
    """Within it, settings may name code and weights that are not here: they run nothing."""
    token = _MAY_LACK.set(True)
    try:
        yield
    finally:
        _MAY_LACK.reset(token)


def may_lack() -> bool:
    """Whether code and weights that settings name may be missing, as in gathered results."""
    return _MAY_LACK.get()


def without_sources(document: Any) -> Any:
    """Settings as a document, without the hashes of code of the user's own."""
    if isinstance(document, list | tuple):
        return [without_sources(part) for part in document]
    if not isinstance(document, dict):
        return document
    found = {name: without_sources(part) for name, part in document.items()}
    named = (found.get(name) for name in _NAMED)
    return found | {"source": ""} if any(map(is_own, named)) and "source" in found else found


def sources_in(document: Any) -> Iterator[tuple[str, str | None]]:
    """Factories of the user's own in settings as a document, with the hash of their code."""
    if isinstance(document, list):
        for part in document:
            yield from sources_in(part)
    if isinstance(document, dict):
        named = (str(document.get(name)) for name in _NAMED)
        yield from ((text, document.get("source")) for text in named if is_own(text))
        for part in document.values():
            yield from sources_in(part)


def source_of(text: str, *, named: str, where: str) -> str:
    """A hash of the code that `package.module:factory` stands on (12 digits).

    Empty if the module is missing and code may be missing (`code_may_lack`).

    Args:
        text: the factory.
        named: the kind of setting that names it, such as "loss"; it tells which steps run it.
        where: names the setting in messages.

    Raises:
        UserError: there is no such module, or one of them is no Python.
    """
    start = text.partition(":")[0]
    try:
        require_file(text, where=where)
    except UserError:
        if not may_lack():
            raise
        return ""
    parts: dict[str, str] = {}
    todo, folders = [start], _folders_of(start)
    while todo:
        name = todo.pop()
        if _is_of_package(name, start):
            parts |= _beyond(name, named)
            continue
        path = _counted(name, start, folders)
        if path is None or name in parts:
            continue
        stat = path.stat()
        parts[name], imports = _scan(path, name, stat.st_mtime_ns, stat.st_size, text)
        todo += imports
        todo += [name.rpartition(".")[0]] if "." in name else []  # its package's face runs, too
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        digest.update(f"{name}\n{part}\n".encode())
    return digest.hexdigest()[:12]


def refuse_other_own_code(spec: Spec) -> None:
    """Settings hold a hash of the user's own code, so a job has to run that.

    Raises:
        UserError: it was edited since the job was planned.
    """
    for part in _parts(spec):
        planned = getattr(part, "source", "")
        named = {name: str(getattr(part, name, "")) for name in _NAMED}
        for name, text in named.items():
            if not is_own(text):
                continue
            if planned and source_of(text, named=name, where="--resolved") != planned:
                raise UserError(
                    f"{text}: expected the code that this job was planned with, got another: it "
                    "was edited since; call snakemake again, and edit a copy while jobs wait"
                )


def _parts(value: Any) -> Iterator[Spec]:
    """Settings and all settings inside."""
    if isinstance(value, Spec):
        yield value
        value = [getattr(value, field.name) for field in fields(value)]
    for one in value if isinstance(value, list | tuple) else ():
        yield from _parts(one)


def _is_of_package(name: str, start: str) -> bool:
    """Whether a module is of this project, and the factory is not."""
    return name.split(".")[0] == PACKAGE != start.split(".")[0]


@cache
def _beyond(name: str, named: str) -> dict[str, str]:
    """Module -> hash, for one of this project and all that it stands on.

    What each step that runs the factory stands on is in the fingerprints already.
    """
    if name == PACKAGE or is_infrastructure(name) or not HERE.has(name):
        return {}
    known = set.intersection(*(set(HERE.parts(CODE[step])) for step in _NAMED[named]))
    return {module: part for module, part in HERE.parts(name).items() if module not in known}


def _counted(name: str, start: str, folders: list[Path]) -> Path | None:
    """The file of a module that counts: of the factory's package, beside it, or in own folders."""
    path = file_of(name)
    if path is None:
        return None
    if name.split(".")[0] == start.split(".")[0]:
        return path
    return path if any(_lies_in(path, folder) for folder in folders) else None


def _folders_of(start: str) -> list[Path]:
    """The user's own folders, and the one that a module is imported from, such as on PYTHONPATH.

    A folder that others' packages were installed into is none of these, whatever its name.
    """
    path = file_of(start)
    if path is None:
        return own_folders()
    names = [*start.split("."), *(["__init__"] if path.name == "__init__.py" else [])]
    place = path.absolute().with_suffix("")
    if list(place.parts[-len(names) :]) != names:
        return own_folders()  # an editable install may give a package another place than its name's
    folder = place.parents[len(names) - 1]
    installed = INSTALLED & set(folder.parts) or any(folder.glob("*.dist-info"))
    return own_folders() if installed else [*own_folders(), folder]


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether it is found there, as it is named or where its links lead, and is the user's own."""
    if any(path.is_relative_to(place) for place in _PYTHONS):
        return False
    for place in (path.absolute(), path.resolve()):
        if place.is_relative_to(folder):
            inner = place.relative_to(folder).parts
            if not INSTALLED & set(inner) and not any(part.startswith(".") for part in inner):
                return True
    return False


@cache
def _scan(path: Path, name: str, changed: int, size: int, text: str) -> tuple[str, tuple[str, ...]]:
    """The hash of one module, and what it imports; read again only where it has changed."""
    if path.suffix != ".py":
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16], ()
    try:
        with tokenize.open(path) as stream:  # in the encoding that it declares
            tree = ast.parse(stream.read())
    except (SyntaxError, ValueError) as error:
        if name.split(".")[0] != text.partition(":")[0].split(".")[0]:  # it may never be run
            return hashlib.sha256(path.read_bytes()).hexdigest()[:16], ()
        line = getattr(error, "lineno", None)
        at = f" at line {line}" if line else ""
        raise UserError(
            f"{path}: expected Python for {text}, got {getattr(error, 'msg', error)}{at}; "
            "correct it"
        ) from error
    imports = {module for module, _ in imports_in(tree, name, path.name == "__init__.py")}
    found = hashlib.sha256(dumped(without_docstrings(tree)).encode()).hexdigest()[:16]
    return found, tuple(sorted(imports))
