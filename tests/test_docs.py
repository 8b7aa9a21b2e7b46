"""What the pages name exists: files, targets of the Makefile, commands and their options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from rwp.commands.app import app
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "src|tests|benchmarks|docs|workflow|profiles|images"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    paths = re.findall(rf"(?<![\w/.-])((?:{FOLDERS})/[\w./-]*\w)", text)
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    made = ("images/", "docs/pictures/", "docs/results/", "../.state")  # by a user, or by a command
    missing = [path for path in paths if not path.startswith(made) and not (ROOT / path).exists()]
    missing += [
        link for link in links if not link.startswith(made) and not (page.parent / link).exists()
    ]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*)(?=[ :%])", makefile, re.M))
    for target in re.findall(r"`make ([a-z][\w-]*)|^make ([a-z][\w-]*)", text, re.M):
        name = "".join(target)
        if name not in targets and not name.startswith("extra-"):
            missing.append(f"make {name}")
    assert missing == []


def _commands() -> dict[str, set[str]]:
    """By command, such as "data fetch": its options."""
    found: dict[str, set[str]] = {}

    def visit(command: object, words: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children:
            for name, child in children.items():
                visit(child, (*words, name))
            return
        options = {flag for option in command.params for flag in option.opts}  # type: ignore[attr-defined]
        negated = {flag for option in command.params for flag in option.secondary_opts}  # type: ignore[attr-defined]
        found[" ".join(words)] = options | negated | {"--help"}

    visit(get_command(app), ())
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_exist_with_their_options(page: Path) -> None:
    assert isinstance(app, typer.Typer)
    commands = _commands()
    wrong = []
    for call in re.findall(r"(?:`|^|\$ )rwp ([a-z][^`\n]*)", page.read_text("utf-8"), re.M):
        words = call.split("#")[0].split()
        name = next((n for n in (" ".join(words[:2]), words[0]) if n in commands), None)
        if name is None and words[0] not in {n.split()[0] for n in commands}:
            wrong.append(f"rwp {words[0]}")
        elif name is not None:
            asked = {word.split("=")[0] for word in words if re.fullmatch(r"--[a-z][\w=-]*", word)}
            wrong += [f"rwp {name} {option}" for option in sorted(asked - commands[name])]
    assert wrong == []
