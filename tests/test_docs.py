"""What pages name exists: files, headings, targets, commands, options, Python names, settings.

What they count of the committed results is what is there.
"""

from __future__ import annotations

import importlib
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from typer.main import get_command

from rwp.commands.app import app
from rwp.evaluation import verdict
from rwp.pipeline.load import check_params, load_params
from rwp.pipeline.settings import Params
from rwp.pipeline.steps import Steps
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_headings_that_a_page_links_to_exist(page: Path) -> None:
    wrong = []
    for link, heading in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", page.read_text("utf-8")):
        other = (page.parent / link) if link else page
        headings = re.findall(r"^#+ (.+)$", other.read_text("utf-8"), re.M)
        anchors = [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]
        wrong += [f"{link}#{heading}"] * (heading not in anchors)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_names_on_a_page_exist(page: Path) -> None:
    wrong = []
    for name in re.findall(r"`(rwp(?:\.[A-Za-z_]\w*)+)[(`]", page.read_text("utf-8")):
        module, _, attribute = name.rpartition(".")
        try:
            found = hasattr(importlib.import_module(module), attribute)
            found = found or bool(importlib.import_module(name))
        except ImportError:
            found = False
        wrong += [name] * (not found)
    assert wrong == []


@pytest.fixture(scope="module")
def whole() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_results_that_a_page_asks_for_can_be_made(page: Path, whole: Params) -> None:
    """But for the suites that a page itself shows how to write."""
    text = page.read_text("utf-8")
    written = set(re.findall(r"^  ([\w-]+):\n    extends: ", text, re.M))
    for target in re.findall(r"(?<![\w/])results/[\w/.-]+\.(?:csv|svg|html|json|pt)\b", text):
        if "..." in target or target.split("/")[1] in written or "bench" in target:
            continue
        step = Steps(whole).find(target)
        assert target in step.outputs


def _blocks(name: str) -> list[Any]:
    text = (ROOT / "docs" / name).read_text("utf-8").replace("9f86d081...", 8 * "9f86d081")
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]


def test_settings_on_the_page_of_data_are_accepted(settings: dict[str, Any]) -> None:
    blocks = _blocks("data.md")
    assert [list(block) for block in blocks] == [["datasets"], ["unlabeled"]]
    for block in blocks:
        for table, entries in block.items():
            settings[table] |= entries
    found = check_params(settings)
    assert found.datasets["pets"].image_size == 64
    assert found.unlabeled["mine"].dataset == "cifar10"


def test_settings_on_the_page_of_evaluation_are_accepted(settings: dict[str, Any]) -> None:
    (block,) = _blocks("evaluation.md")
    settings["suites"]["demo"]["evaluation"]["attacks"] |= block["evaluation"]["attacks"]
    found = check_params(settings).suites["demo"].evaluation.attacks
    assert found["autoattack-l1"].norm == "l1"


def test_counts_on_pages_are_those_of_the_committed_results() -> None:
    folder = ROOT / "docs/results/mini-jpeg"
    outcomes = pd.read_csv(folder / "claims.csv")["outcome"]
    missing = int((outcomes == "missing").sum())
    judged = len(outcomes) - missing
    seeds = len(list(folder.glob("runs/*/*/*/at/seed*")))
    attacked = [
        path
        for recipe in ("at", "at-awp", "at-rwp")
        for path in folder.glob(f"runs/*/*/*/{recipe}/seed*/evaluation/*/autoattack.json")
        if json.loads(path.read_text(encoding="utf-8"))["checkpoint"] in ("best", "last")
    ]
    trainings = len(list(folder.glob("runs/*/*/*/*/seed*/run.json")))
    faults = len(runpy.run_path(str(ROOT / "tests/mutants/planted.py"))["FAULTS"])
    for page, sentences in {
        "docs/reliability.md": [f"There are {faults} faults."],
        "README.md": [f"; {trainings} trainings of `mini-jpeg`"],
        "CHANGELOG.md": [f"the {judged} claims that these judge"],
        "docs/reproduction.md": [
            f"has {len(outcomes)} claims",
            f"{judged} judged claims",
            f"so all {judged} are judged" if not missing else f"the other {missing} wait",
            f"has attacked {len(attacked)} of the {6 * seeds} networks",
        ],
    }.items():
        text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
        for sentence in sentences:
            assert sentence in text, f"{page}: expected {sentence!r}"


def test_limits_on_the_page_of_evaluation_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    _, _, table = page.partition("| setting | green up to | red above | evidence |\n")
    found = {}
    for line in table.partition("\n\n")[0].splitlines()[1:]:
        setting, green, red = (text.strip() for text in line.split("|")[1:4])
        words = setting.replace("anything else, or another radius", "any").lower().replace("-", "")
        place, norm, *objective = words.split(", ")
        key = (None if place == "any" else place, norm, objective[0] if objective else None)
        found[key] = (green, red)
    assert found == {  # a general band has no red
        key: (str(band.green), str(band.red) if band.radius else "")
        for key, band in verdict.BANDS.items()
    }
    usual = f"{verdict._NOTICEABLE:g} points | {verdict._LARGE:g} points |"
    rescaled, much = f"{verdict._RESCALED:g} points", f"{verdict._RESCALED_MUCH:g}"
    few, many = f"{100 * verdict._FEW_BLIND:g} %", f"{100 * verdict._MANY_BLIND:g} %"
    images = {1: "one image", 2: "two images"}
    for text in (
        f"| 100 steps, worst iterate | {usual}",
        f"trained alike) | {usual}",
        f"AT-RWP | {rescaled} | {much} points",
        f"CW, or an attack of your own, fools over {rescaled} more than PGD-20, beyond noise | "
        f"amber, red above {much} |",
        f"over {verdict._NOTICEABLE:g} points more than PGD-20, beyond noise | "
        f"amber, red above {verdict._LARGE:g} |",
        f"FGSM fools over {verdict._SINGLE_STEP:g} point more than",
        f"more than {images[verdict._FEWEST]} and {verdict._SQUARE:g} points after",
        f"not finite | amber from the first image, red above {many} |",
        f"was zero | amber above {few}, red above {many} |",
        f"one that is not finite | {few} | {many} |",
        f"and {images[verdict._IMAGES]} more or less, have to lie",
    ):
        assert text in page
