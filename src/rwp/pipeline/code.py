"""What the code of a step computes, as a hash: of its module and of all that it imports from here.

Only what can change a number counts: not comments, docstrings, formatting, the texts of errors and
log lines, annotations and what is imported for them alone. Modules that only move files or write
messages are left out as a whole.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from rwp.errors import UserError
from rwp.files import write_text

PACKAGE = "rwp"

# The module that does each step; a fingerprint holds the hash of it and of all that it imports.
CODE = {
    "fetch": "rwp.data.fetch",
    "unlabeled": "rwp.data.unlabeled",
    "train": "rwp.training.jobs",
    "label": "rwp.training.pseudo_labels",
    "evaluate": "rwp.evaluation.jobs",
    "judge": "rwp.evaluation.diagnosis",
    "landscape": "rwp.evaluation.landscape",
    "table1": "rwp.reporting.tables",
    "table2": "rwp.reporting.pairs",  # which stands on the tables
    "beyond": "rwp.reporting.tables",
    "figure": "rwp.reporting.figures",
    "metrics": "rwp.reporting.summaries",
    "claims": "rwp.reporting.claim_verdicts",
    "report": "rwp.reporting.report",
}

# What these decide is in the settings, hashed beside the code, or no number; but for conversions
# that have one right value (a byte to [0, 1], "8/255" to a float), which tests hold.
INFRASTRUCTURE = (
    "rwp.commands",
    "rwp.data.download",
    "rwp.data.spec",
    "rwp.data.transfer",
    "rwp.errors",
    "rwp.evaluation.spec",
    "rwp.evaluation.trial",
    "rwp.factories",
    "rwp.files",
    "rwp.gpu",
    "rwp.metric_names",
    "rwp.pipeline",
    "rwp.processes",
    "rwp.progress",
    "rwp.spec",
    "rwp.strict_yaml",
    "rwp.studies",
    "rwp.timeouts",
    "rwp.tracking",
    "rwp.training.flops",
    "rwp.training.guards",
    "rwp.training.resume",
    "rwp.training.run_record",
    "rwp.training.spec",
)

# An exception's or a log line's words; what else stands in such a call is hashed.
_TALK = ("warn", "warning", "info", "debug", "error", "exception", "critical", "log")
_TALKERS = ("log", "logger", "logging", "warnings")
# Of `rwp.progress`: they hand on their last argument, and tell of it. `told` is in earlier commits.
_TELLING = ("tracked", "counted", "told")


class Code:
    """The package's modules as they lie somewhere: in this checkout, or in a commit."""

    def __init__(
        self,
        read: Callable[[str], str | None],
        accepted: Mapping[str, str] | None = None,
        notes: ScanNotes | None = None,
    ) -> None:
        """What lies somewhere.

        Args:
            read: gives the text of a file below the package, such as "core/lsc.py", or none.
            accepted: of "module hash", the hash of older code that computes the same.
            notes: what earlier processes found in the same texts.
        """
        self._read, self._accepted, self._notes = read, accepted or {}, notes
        self._scans: dict[str, tuple[str, frozenset[str]]] = {}
        self._hashes: dict[str, str] = {}

    @classmethod
    def at(
        cls,
        folder: Path,
        accepted: Mapping[str, str] | None = None,
        notes: ScanNotes | None = None,
    ) -> Code:
        """The package that lies in a folder."""

        def read(name: str) -> str | None:
            path = folder / name
            return path.read_text(encoding="utf-8") if path.is_file() else None

        return cls(read, accepted, notes)

    def hash(self, module: str) -> str:
        """That of `own_hash`, or of the oldest code that was accepted as its equal."""
        found, seen = self.own_hash(module), set()
        while (older := self._accepted.get(f"{module} {found}")) and older not in seen:
            found = older
            seen.add(found)
        return found

    def own_hash(self, module: str) -> str:
        """Of a module such as "rwp.training.loop" and of all that it imports (12 digits).

        Raises:
            ValueError: the module is not in the package.
        """
        if module not in self._hashes:
            digest = hashlib.sha256()
            for name, text in self.parts(module).items():
                digest.update(f"{name}\n{text}\n".encode())
            self._hashes[module] = digest.hexdigest()[:12]
            if self._notes:
                self._notes.save()
        return self._hashes[module]

    def parts(self, module: str) -> dict[str, str]:
        """Module -> hash of what it computes, for a module and all that it stands on."""
        todo, seen = [module], set()
        while todo:
            name = todo.pop()
            if name not in seen and not is_infrastructure(name):
                seen.add(name)
                todo += self._scan(name)[1]
        return {name: self._scan(name)[0] for name in sorted(seen)}

    def has(self, module: str) -> bool:
        """Whether it is a module here."""
        return self._source(module)[0] is not None

    def _source(self, module: str) -> tuple[str | None, bool]:
        """A module's text, and whether it is a package's face."""
        name = "/".join(module.split(".")[1:])
        text = self._read(f"{name}.py") if name else None
        return (text, False) if text is not None else (self._read(f"{name}/__init__.py"), True)

    def _scan(self, module: str) -> tuple[str, frozenset[str]]:
        if module not in self._scans:
            text, is_face = self._source(module)
            if text is None:
                raise ValueError(f"code: expected a module of {PACKAGE}, got {module!r}")
            found = self._found(text, module, is_face)
            inside = {name for name in found[1] if self.has(name)}
            self._scans[module] = found[0], frozenset(inside - {module, PACKAGE})
        return self._scans[module]

    def _found(self, text: str, module: str, is_face: bool) -> tuple[str, list[str]]:
        """A module's own hash, and the modules that its imports might mean."""
        key = hashlib.sha256(f"{module} {is_face}\n{text}".encode()).hexdigest()
        if self._notes and (noted := self._notes.get(key)):
            return noted
        found = Module(text, module, is_face)
        imports = sorted(found.imports)
        result = found.hash, imports
        if self._notes:
            self._notes.add(key, *result)
        return result


class ScanNotes:
    """What was found in texts of modules, kept beside the state of trainings.

    To parse the package takes longer than all else that a dry run has to do. A note is found by
    the text itself, so that no edit is missed; notes of other scanners or Pythons do not count.
    """

    _MOST = 1000  # notes of texts that are long gone are dropped then

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new: dict[str, tuple[str, list[str]]] = {}

    @cached_property
    def _scanner(self) -> str:
        return hashlib.sha256(f"{sys.version}\n".encode() + Path(__file__).read_bytes()).hexdigest()

    @cached_property
    def _old(self) -> dict[str, tuple[str, list[str]]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["scanner"] != self._scanner or len(content["found"]) > self._MOST:
                return {}
            found = content["found"].items()
            return {str(key): (str(own), list(imports)) for key, (own, imports) in found}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # none yet, or a damaged file

    def get(self, key: str) -> tuple[str, list[str]] | None:
        """What was found in a text, by its hash."""
        return self._new.get(key) or self._old.get(key)

    def add(self, key: str, own_hash: str, imports: list[str]) -> None:
        """Note what was found."""
        self._new[key] = own_hash, imports

    def save(self) -> None:
        """Write what is new, in a project; where that cannot be, the next process parses again."""
        if not self._new.keys() - self._old.keys() or not Path("params.yaml").exists():
            return
        self._old.update(self._new)
        with suppress(OSError, UserError):
            write_text(self.path, json.dumps({"scanner": self._scanner, "found": self._old}))


def is_infrastructure(module: str) -> bool:
    """Whether a module is outside the fingerprints."""
    return any(module == name or module.startswith(f"{name}.") for name in INFRASTRUCTURE)


def dumped(node: Any) -> str:
    """A syntax tree as text, the same by every Python: as `ast.dump` of 3.11 writes it.

    Later ones know more fields of a function, and leave empty lists out.
    """
    if isinstance(node, list):
        return f"[{', '.join(map(dumped, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    literal = isinstance(node, ast.Constant | ast.MatchSingleton)  # whose value may be None
    fields = {
        name: value
        for name, value in ast.iter_fields(node)
        if not (value is None and not (literal and name == "value"))
        and (name, value) != ("type_params", [])
    }
    inside = ", ".join(f"{name}={dumped(value)}" for name, value in fields.items())
    return f"{type(node).__name__}({inside})"


class Module:
    """The syntax tree of one module of this package without what computes nothing."""

    def __init__(self, text: str, name: str, is_face: bool) -> None:
        self.tree = _Strip().visit(ast.parse(text))
        self.name, self.is_face = name, is_face

    @cached_property
    def hash(self) -> str:
        """Of what it computes."""
        tree = _Sweep(self._used).visit(self.tree)
        return hashlib.sha256(dumped(tree).encode()).hexdigest()[:16]

    @cached_property
    def _used(self) -> set[str] | None:
        """The names that the tree uses or hands on; none: all of them, in a package's face."""
        if self.is_face:
            return None
        names = {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}
        names.add("*")  # whatever it brings
        for node in ast.walk(self.tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                texts = ast.walk(node)
                names |= {str(item.value) for item in texts if isinstance(item, ast.Constant)}
        return names

    @property
    def imports(self) -> set[str]:
        """The modules of this package that its used imports might mean."""
        used = self._used
        return {
            module
            for module, known_as in imports_in(self.tree, self.name, self.is_face)
            if module.split(".")[0] == PACKAGE and (used is None or known_as in used)
        }


def imports_in(tree: ast.AST, module: str, is_face: bool) -> Iterator[tuple[str, str]]:
    """The modules that imports might mean, with the name that each is known by.

    Args:
        tree: of the module; it is walked into functions, so that lazy imports count.
        module: its name, from which relative imports count.
        is_face: whether it is a package's `__init__`.
    """
    parents = module.split(".") if is_face else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, (alias.asname or alias.name).split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield source, alias.asname or alias.name
                yield f"{source}.{alias.name}", alias.asname or alias.name


def without_docstrings(tree: ast.Module) -> ast.Module:
    """The same tree, in which no module, class or function has a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = _without_docstring(node.body)
    return tree


def _without_docstring(statements: list[ast.stmt]) -> list[ast.stmt]:
    first = statements[0] if statements else None
    has_one = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return statements[1:] if has_one else statements


class _Strip(ast.NodeTransformer):
    """Takes out docstrings, annotations, what is read by type checkers alone, and words."""

    def __init__(self, *, in_class: bool = False, plain_class: bool = False) -> None:
        self.in_class, self.plain_class = in_class, plain_class

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = self._block(node.body)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # A dataclass asks its annotations only which fields there are; those of a class with a
        # base (pydantic's, a named tuple's) may be acted on.
        inner = _Strip(in_class=True, plain_class=not node.bases)
        node.decorator_list = [self.visit(item) for item in node.decorator_list]
        node.body = inner._block(node.body)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        inner = _Strip()
        node.returns = None
        node.args = inner.visit(node.args)
        node.decorator_list = [self.visit(item) for item in node.decorator_list]
        node.body = inner._block(node.body)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if not self.in_class:
            if node.value is None:
                return ast.Pass()
            return self.visit(ast.Assign([node.target], node.value))
        if self.plain_class and "ClassVar" not in ast.dump(node.annotation):
            node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" and not node.orelse:
            return ast.Pass()
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _name(node.func) in _TELLING and node.args:
            return self.visit(node.args[-1])
        wordless = _writes_line(node) or _makes_error(node)
        return (_Wordless() if wordless else self).generic_visit(node)

    def _block(self, statements: list[ast.stmt]) -> list[ast.stmt]:
        return [self.visit(statement) for statement in _without_docstring(statements)]


class _Sweep(ast.NodeTransformer):
    """Takes out what `_Strip` has emptied: imports that nothing uses, and `pass`."""

    def __init__(self, used: set[str] | None) -> None:
        self.used = used

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        return self._used_names(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return self._used_names(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def _used_names(self, node: ast.Import | ast.ImportFrom) -> ast.AST | None:
        used = self.used
        if used is not None:
            node.names = [a for a in node.names if (a.asname or a.name).split(".")[0] in used]
        return node if node.names else None


class _Wordless(_Strip):
    """In an error or a log line: all texts are the same; what is called in them still counts."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return _text_of(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        parts = [item for item in ast.walk(node) if isinstance(item, ast.Constant | ast.JoinedStr)]
        is_text = any(not isinstance(p, ast.Constant) or isinstance(p.value, str) for p in parts)
        return _text_of(node) if is_text else self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        return _text_of(node)


# What a text may ask of a value without changing anything.
_FORMATS = ("len", "str", "repr", "list", "tuple", "sorted", "type", "join", "round", "map")


def _text_of(node: ast.AST) -> ast.AST:
    """An empty text, or the calls in it that might do more than to put words together."""
    calls = [item for item in ast.walk(node) if isinstance(item, ast.Call)]
    kept: list[ast.expr] = [call for call in calls if _name(call.func) not in _FORMATS]
    return ast.Tuple(kept, ast.Load()) if kept else ast.Constant("")


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _writes_line(call: ast.Call) -> bool:
    """Whether a call prints, warns or writes a log line."""
    if isinstance(call.func, ast.Attribute):
        owner = getattr(call.func.value, "id", "").lstrip("_")
        return call.func.attr in _TALK and owner in _TALKERS
    return _name(call.func) == "print"


def _makes_error(call: ast.Call) -> bool:
    """Whether a call makes an error or a warning, by its name."""
    named = not isinstance(call.func, ast.Attribute)
    return named and _name(call.func).endswith(("Error", "Warning"))


PACKAGE_FOLDER = Path(__file__).resolve().parents[1]
LEDGER = PACKAGE_FOLDER.parents[1] / "accepted.jsonl"  # beside params.yaml, tracked by git


def read_ledger(path: Path = LEDGER) -> list[dict[str, str]]:
    """What was accepted: step, module, old and new hash, the commit of the old, and why.

    Raises:
        UserError: a line is no such entry.
    """
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), start=1):
        try:
            entry = json.loads(line)
            entries.append({name: str(entry[name]) for name in ENTRY})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: expected an entry of `rwp accept` at line {number}, got another text;"
                f" restore it from git"
            ) from error
    return entries


ENTRY = ("step", "module", "old", "new", "commit", "compared", "because")
HERE = Code.at(
    PACKAGE_FOLDER,
    {f"{e['module']} {e['new']}": e["old"] for e in read_ledger()},
    ScanNotes(Path(".state/code.json")),
)

PLANNED = "RWP_PLANNED_CODE"  # in the environment of jobs


def plan_with(modules: Mapping[str, str]) -> None:
    """Let the jobs of this process know the code that they are planned with; by step, a module."""
    found = {step: [module, HERE.hash(module)] for step, module in modules.items()}
    os.environ[PLANNED] = json.dumps(found)


def refuse_other_code(step: str) -> None:
    """A job has the fingerprint of the code that it was planned with, so it has to run that.

    Raises:
        UserError: it was edited since, or jobs of this step were not planned.
    """
    if PLANNED not in os.environ:
        return
    known = json.loads(os.environ[PLANNED])
    if step not in known:
        raise UserError(
            f"{PLANNED}: expected the code of the step {step}, got that of {', '.join(known)}; "
            "call snakemake again"
        )
    module, planned = known[step]
    if HERE.hash(module) != planned:
        raise UserError(
            f"{module}: expected the code that this job was planned with, got another: src/ was "
            "edited since; call snakemake again, and edit in another checkout (git worktree add)"
        )
