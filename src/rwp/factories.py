"""`package.module:factory`: a network, objective, mask, perturbation or attack of the user's own.

The module is looked for in the working folder, in the folder of params.yaml, in this project's own
folder, and then among what is installed. A plan looks at its file alone; a job imports it. A
factory is called with the options that stand beside its name, as keywords.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rwp.errors import OwnCodeError, UserError, in_one_line, lacks_memory

_TEXT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PROJECT = Path(__file__).resolve().parents[2]
_HANDED = ("model", "losses")  # what the functions of the protocols take first
INSTALLED = frozenset({"site-packages", "dist-packages"})  # folders of what nobody here wrote
_folders: list[Path] = []  # of settings files that were read
_loaded: dict[str, Path] = {}  # factories whose modules run in this process


def is_own(text: object) -> bool:
    """Whether a word of the settings names a factory."""
    return isinstance(text, str) and _TEXT.fullmatch(text) is not None


def search_in(folder: Path) -> None:
    """Look for modules in this folder too: that of a settings file."""
    folder = folder.resolve()
    if folder not in _folders:
        _folders.append(folder)


def own_folders() -> list[Path]:
    """The folders of the user's own code, the first to be looked at first."""
    project = [_PROJECT] if (_PROJECT / "params.yaml").exists() else []
    return list(dict.fromkeys([Path.cwd().resolve(), *_folders, *project]))


def file_of(module: str) -> Path | None:
    """The file of a module; found without running any of it, so that a plan costs no import."""
    top, *rest = module.split(".")
    for folder in own_folders():
        if found := _below(folder / top, rest):
            return found
    if top in sys.builtin_module_names:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for place in (spec and spec.submodule_search_locations) or ():
        if found := _below(Path(place), rest):
            return found
    origin = Path(spec.origin) if spec and spec.origin and not rest else None
    return origin if origin and origin.is_file() else None  # not "built-in" or "frozen"


def _below(start: Path, rest: list[str]) -> Path | None:
    place = start.joinpath(*rest)
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return None


def require_file(text: str, *, where: str) -> Path:
    """The file of a factory's module.

    Raises:
        UserError: `where` names a module that is not there.
    """
    module = text.partition(":")[0]
    found = file_of(module)
    if found is None:
        folders = ", ".join(map(str, own_folders()))
        raise UserError(
            f"{where}: expected the module {module} of {text}, found none in {folders} nor among "
            "what is installed; check its name and folder"
        )
    return found


def load(text: str, *, where: str = "") -> Any:
    """Import what `package.module:factory` names. This runs the module.

    Raises:
        UserError: no such module or name, or a module that fails; one line that names it.
    """
    at = f"{where}: {text}" if where else text
    if not is_own(text):
        raise UserError(f"{at}: expected package.module:factory, got {text!r}; name both")
    module_name, _, names = text.partition(":")
    path = require_file(text, where=where or text)
    _loaded[text] = path.resolve()
    for folder in reversed(own_folders()):
        # It stays there: a factory may import more when it is called.
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        with torch_as_it_was():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # somebody else's code may fail in any way
        raise UserError(
            f"{at}: expected to import {module_name}, got {in_one_line(error)}; run it alone"
        ) from error
    _refuse_namesake(at, module, path)
    found: Any = module
    for name in names.split("."):
        if not hasattr(found, name):
            raise UserError(f"{at}: expected {names!r} in {path}, found none; check the spelling")
        found = getattr(found, name)
    return found


def _refuse_namesake(at: str, module: ModuleType, path: Path) -> None:
    other = getattr(module, "__file__", None)
    if other is not None and Path(other).resolve() != path.resolve():
        raise UserError(
            f"{at}: expected the module in {path}, got {other}, which has the same name and was "
            "imported first; rename yours"
        )


def call(text: str, options: Mapping[str, Any], *, where: str = "", **facts: Any) -> Any:
    """Call a factory with its options, and with those of `facts` that it has a parameter for.

    Raises:
        UserError: a missing or unknown option, one that a fact would replace, or an error inside;
            one line that names it.
    """
    at = f"{where}: {text}" if where else text
    factory = load(text, where=where)
    if not callable(factory):
        raise UserError(f"{at}: expected a function or class, got {type(factory).__name__}")
    given = copy.deepcopy(dict(options))  # one called for each batch might change a list
    parameters = _parameters(factory)
    if parameters is not None:
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        known = {
            name: value
            for name, value in facts.items()
            if name in parameters or (anything and name == "num_classes")
        }
        _refuse_replaced(at, options, known)
        given |= known
        _check_options(at, parameters, given, facts)
    try:
        with torch_as_it_was():
            return factory(**given)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{at}: expected to be called with {_listed(given)}, got {in_one_line(error)}; "
            "call it alone"
        ) from error


def _refuse_replaced(at: str, options: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    for name in options.keys() & facts.keys():
        option, fact = (
            list(v) if isinstance(v, tuple) else v for v in (options[name], facts[name])
        )
        if option != fact:
            raise UserError(
                f"{at}: expected no option {name}, which a factory is given by the settings or the "
                f"images ({fact}), got {option}; leave it out, or rename the parameter if another "
                "thing is meant"
            )


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """Somebody else's code runs inside; what it sets for all of torch is put back.

    The default dtype and device, whether algorithms are deterministic, whether gradients are
    asked for, and the number of threads: left behind, they would decide how later numbers are
    computed.
    """
    import torch  # what looks for files alone does without

    settings: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        (torch.get_num_threads, torch.set_num_threads),
        (_default_device, torch.set_default_device),
    ]

    def put_back(get: Callable[[], Any], put: Callable[[Any], object], value: Any) -> None:
        if get() != value:
            put(value)

    with ExitStack() as stack:
        for get, put in settings:
            stack.callback(put_back, get, put, get())
        yield


def _default_device() -> str | None:
    """None for torch's own, the CPU, and where it cannot be asked."""
    import torch

    try:
        device = torch.get_default_device()
    except Exception:  # a GPU that is not there
        return "none"
    return None if device.type == "cpu" else str(device)


def _parameters(factory: Any) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return None  # a built-in one


def _check_options(
    at: str,
    parameters: Mapping[str, inspect.Parameter],
    given: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    kinds = inspect.Parameter
    named = {n: p for n, p in parameters.items() if p.kind not in (kinds.VAR_KEYWORD,)}
    missing = [
        name
        for name, parameter in named.items()
        if parameter.default is kinds.empty
        and parameter.kind is not kinds.VAR_POSITIONAL
        and (name not in given or parameter.kind is kinds.POSITIONAL_ONLY)
    ]
    if missing and missing[0] in _HANDED:
        raise UserError(
            f"{at}: expected a factory, which takes options and returns the function, got the "
            f"function itself, which takes {_listed(named)}; return it from a factory"
        )
    if missing and named[missing[0]].kind is kinds.POSITIONAL_ONLY:
        raise UserError(
            f"{at}: expected parameters that are given by name, got {missing[0]} before a /; take "
            "the / out"
        )
    if missing:
        raise UserError(
            f"{at}: expected the option {missing[0]}, got {_listed(given)}; add it under options"
        )
    if any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values()):
        return
    unknown = [name for name in given if name not in named]
    if unknown:
        known = _listed(dict.fromkeys(name for name in named if name not in facts))
        raise UserError(
            f"{at}: expected its own options ({known}), got {unknown[0]}; correct its name"
        )


@contextmanager
def of_others(text: str, doing: str) -> Iterator[None]:
    """Somebody else's code runs inside, and may fail in any way.

    Args:
        text: names it, `package.module:factory`.
        doing: what it was expected to do.

    Raises:
        OwnCodeError: one line for whatever it raises, with the place. But too little memory, and a
            process of the group that has gone, are not its fault, and stay what they are.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        from rwp.core.process_group import has_lost_others

        if isinstance(error, UserError) or lacks_memory(error) or has_lost_others(error):
            raise
        place = _place(error)
        raise OwnCodeError(
            f"{text}: expected to {doing}, got {in_one_line(error)}"
            + (f" in {place}; correct it there" if place else "; call it alone")
        ) from error


def told_of_own_code(error: BaseException) -> str:
    """One line for an error that came up in the user's own code, wherever it was called from.

    Empty where the way to the error leads through none of the modules that were loaded as own
    code, nor through what lies beside them: then it is a fault of ours.
    """
    for path, line in reversed(_passed(error) if _loaded else []):
        for text, file in _loaded.items():
            if path == file or _lies_beside(path, file):
                return (
                    f"{text}: expected its code to run, got {in_one_line(error)} in"
                    f" {_shown(path)}:{line}; correct it there"
                )
    return ""


def _lies_beside(path: Path, module: Path) -> bool:
    """Whether a file is in the folder of a module, and no package that is installed below it."""
    folder = module.parent
    if folder.name in INSTALLED or not path.is_relative_to(folder):
        return False
    return not INSTALLED & set(path.relative_to(folder).parts)


def _place(error: BaseException) -> str:
    """File and line of the user's own code where an error came up; empty where there is none."""
    passed = _passed(error)
    return f"{_shown(passed[-1][0])}:{passed[-1][1]}" if passed else ""


def _passed(error: BaseException) -> list[tuple[Path, int]]:
    """Files and lines on the way to an error, without this project's and torch's."""
    import torch

    ours = [Path(file).resolve().parent for file in (__file__, torch.__file__)]
    places = (
        (Path(frame.filename).resolve(), frame.lineno or 0)
        for frame in traceback.extract_tb(error.__traceback__)
    )
    return [
        (path, line)
        for path, line in places
        if path.is_file() and not any(path.is_relative_to(folder) for folder in ours)
    ]


def _shown(path: Path) -> Path:
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of that name."""
    return name in (_parameters(function) or {})


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "no options"
