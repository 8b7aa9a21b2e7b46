"""What the paper's settings are, whatever a suite `paper` says, and how a suite's own differ.

They ship beside the published numbers, for `paper` in params.yaml is a suite like any other: who
edits it, or has none, must not be told that other settings are the paper's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from rwp.reporting.lines import Line
from rwp.reporting.published_curves import PUBLISHED
from rwp.training.spec import AttackSpec, TrainSpec, UnlabeledMix

SETTINGS = PUBLISHED / "paper_settings.json"

Content = dict[str, Any]  # settings in JSON's terms, without those at their defaults

# Names, files that a training keeps beside, and what is looked at part by part.
_MAKE_NO_NUMBER = ("key", "unlabeled", "keep_epochs", "keep_starts", "keep_losses")
# A teacher's key also names its suite and seed, which say nothing about its settings.
_OF_TEACHER = ("recipe", "network")


@dataclass(frozen=True)
class PaperSettings:
    """The settings of the rows of Tables 1 and 2, by what names a row, and of the attacks."""

    table1: Mapping[tuple[str, ...], Content]  # (threat_model, method, dataset) -> training
    table2: Mapping[tuple[str, ...], Content]  # (defense,) -> training
    attacks: Mapping[str, Content]  # of Table 2; all test images are attacked


@cache
def paper_settings() -> PaperSettings:
    """Those that ship with the package: what all rows share, and what each has of its own."""
    content = json.loads(SETTINGS.read_text(encoding="utf-8"))
    tables = {
        table: {tuple(row["row"]): content["shared"] | row["settings"] for row in content[table]}
        for table in ("table1", "table2")
    }
    return PaperSettings(**tables, attacks=content["attacks"])


def training_settings(spec: TrainSpec) -> Content:
    """What decides the numbers of a training."""
    found: Content = json.loads(spec.canonical(without=_MAKE_NO_NUMBER))
    if spec.unlabeled is not None:
        found["unlabeled"] = _unlabeled_settings(spec.unlabeled)
    return found


def _unlabeled_settings(mix: UnlabeledMix) -> Content:
    teacher = {name: getattr(mix.teacher, name) for name in _OF_TEACHER}
    found: Content = json.loads(mix.canonical(without=("source", "definition", "teacher")))
    return found | {"kind": mix.definition.kind, "teacher": teacher}


def attack_settings(spec: AttackSpec) -> Content:
    """What decides the outcome of an attack."""
    found: Content = json.loads(spec.canonical())
    return found


# Whether a run of some suite repeats what the paper measured, and if not, what is different


def difference_in_table1(line: Line) -> str:
    """How a row's training differs from the paper's, or an empty text."""
    theirs = paper_settings().table1.get(tuple(line.labels.values()))
    return _training_difference(line, theirs) if theirs else f"other data ({line.dataset})"


def difference_in_table2(line: Line, attack: str) -> str:
    """How a cell's training or evaluation differs from the paper's, or an empty text."""
    paper = paper_settings()
    training = paper.table2.get(tuple(line.labels.values()))
    if training is None:
        return "the paper has no such row"
    found = _training_difference(line, training)
    if found:
        return found
    ours, theirs = line.attacked.get(attack), paper.attacks.get(attack)
    if ours is None or theirs is None:
        return "the paper has no such attack"
    if attack_settings(ours.attacks[0]) != theirs:
        return "other settings of the attack"
    whole = ours.num_examples is None and ours.first_examples is None
    return "" if whole else "another part of the test images"


def _training_difference(line: Line, theirs: Content) -> str:
    ours = training_settings(line.training)
    if ours["data"]["source"] != theirs["data"]["source"]:
        return f"other data ({line.dataset})"
    mix, other = ours.get("unlabeled", {}), theirs.get("unlabeled", {})
    if mix.get("kind") != other.get("kind"):
        source = line.training.unlabeled.source if line.training.unlabeled else "none"
        return f"other unlabeled images ({source})"
    names = [field.name for field in fields(TrainSpec) if field.name not in _MAKE_NO_NUMBER]
    differing = [name for name in names if ours.get(name) != theirs.get(name)]
    if mix:
        differing += _unlabeled_difference(mix, other)
    return f"other settings ({', '.join(differing)})" if differing else ""


def _unlabeled_difference(ours: Content, theirs: Content) -> Iterator[str]:
    names = [field.name for field in fields(UnlabeledMix) if field.name != "teacher"]
    yield from (f"unlabeled.{name}" for name in names if ours.get(name) != theirs.get(name))
    for name in _OF_TEACHER:
        if ours["teacher"][name] != theirs["teacher"][name]:
            yield f"teacher's {name}"
