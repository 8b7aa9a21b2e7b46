"""A hash of a module and of all it imports from this package.

Blind to comments, docstrings, formatting and annotations' spelling: only the syntax tree counts.
Blind to infrastructure: modules that move bytes, words and log lines cannot change a number.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "rwp"
_ROOT = Path(__file__).resolve().parents[1]

# What these decide is either in the resolved settings, hashed beside the code, or not a number.
INFRASTRUCTURE = (
    "rwp.commands",
    "rwp.data.download",
    "rwp.data.spec",
    "rwp.data.transfer",
    "rwp.errors",
    "rwp.evaluation.spec",
    "rwp.files",
    "rwp.gpu",
    "rwp.panels",
    "rwp.patience",
    "rwp.pipeline",
    "rwp.processes",
    "rwp.progress",
    "rwp.spec",
    "rwp.tracking",
    "rwp.training.guards",
    "rwp.training.recorder",
    "rwp.training.run_record",
    "rwp.training.signals",
    "rwp.training.spec",
    "rwp.training.state",
    "rwp.training.work",
)


def code_hash(*modules: str) -> str:
    """Hash the import closure of modules such as "rwp.training.loop" (12 hexadecimal digits).

    Raises:
        ValueError: a module is not in the package.
    """
    todo, seen = list(modules), set()
    while todo:
        module = todo.pop()
        if module not in seen and not is_infrastructure(module):
            seen.add(module)
            todo += _scan(module)[1]
    digest = hashlib.sha256()
    for module in sorted(seen):
        digest.update(f"{module}\n{_scan(module)[0]}\n".encode())
    return digest.hexdigest()[:12]


def is_infrastructure(module: str) -> bool:
    """Whether a module is outside the fingerprints."""
    return any(module == name or module.startswith(f"{name}.") for name in INFRASTRUCTURE)


def _path(module: str) -> Path | None:
    base = _ROOT.joinpath(*module.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _scan(module: str) -> tuple[str, tuple[str, ...]]:
    """The module's normalized syntax tree, and the modules of this package that it imports."""
    path = _path(module)
    if path is None:
        raise ValueError(f"code_hash: expected a module of {PACKAGE}, got {module!r}")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    is_package = path.name == "__init__.py"
    parents = module.split(".") if is_package else module.split(".")[:-1]
    imports: set[str] = set()
    for node in ast.walk(tree):  # walks into functions, so that lazy imports count
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            full = ".".join(part for part in (base, node.module) if part)
            imports |= {full, *(f"{full}.{alias.name}" for alias in node.names)}
    inside = {name for name in imports if name.split(".")[0] == PACKAGE and _path(name)}
    return ast.dump(_strip_docstrings(tree)), tuple(sorted(inside - {module, PACKAGE}))


def _strip_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree
