"""Verdicts on networks that had no part in their limits, and the page that publishes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from benchmarks import verdicts
from benchmarks.verdicts import EXPECTED, MARKS, Subject, as_markdown, outcome, subjects

from rwp.evaluation.verdict import LEVELS, Level

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def published() -> dict[str, tuple[str, str]]:
    """Of each network on the page: what it is, and its verdict."""
    text = PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]
    rows = re.findall(r"^\| ([^|]+) \| (honest|weak|broken) \| \**(\w+)\** \| \d", text, re.M)
    return {name: (truth, level) for name, truth, level in rows}


def matrix() -> dict[tuple[str, str], int]:
    text = PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]
    counts = {}
    for truth in EXPECTED:
        (row,) = re.findall(rf"^\| {truth} \| ([\d |]+) \|$", text, re.M)
        for level, count in zip(LEVELS, row.split(" | "), strict=True):
            counts[truth, level] = int(count)
    return counts


def named(name: str) -> Subject:
    return next(subject for subject in subjects() if subject.name == name)


def test_the_page_holds_every_network_and_counts_them_right() -> None:
    found = published()
    assert {name: truth for name, (truth, _) in found.items()} == {
        subject.name: subject.truth for subject in subjects()
    }
    assert len(found) >= 20
    for (truth, level), count in matrix().items():
        assert count == list(found.values()).count((truth, level))


def test_a_wrong_verdict_is_told_from_a_right_one() -> None:
    row = {
        "clean": 90,
        "of": 100,
        "robust": {"pgd-20": 60, "autoattack": 50},
        "name": "n",
        "truth": "honest",
    }
    levels: tuple[Level, ...] = ("green", "red")
    text = as_markdown([row | {"level": level} for level in levels])
    assert "| honest | 1 | 0 | 0 | 0 | 1 |" in text
    assert "| n | honest | green | 90.0 | 60.0 | 50.0 |" in text
    assert "| n | honest | **red** |" in text


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the images, so that a network takes seconds."""
    training, tested = verdicts.digits()
    part = tested.select(torch.arange(60))
    monkeypatch.setattr(verdicts, "digits", lambda: (training, part))


def test_the_untrained_network_is_the_same_whatever_was_drawn_before() -> None:
    first, _, second = verdicts.untrained(), torch.rand(3), verdicts.untrained()
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    "name", ["at", "at, quantized input", "natural, saturated logits", "untrained"]
)
def test_some_networks_are_judged_as_they_are(name: str, few: None) -> None:
    subject = named(name)
    level = outcome(subject)["level"]
    assert level in (*EXPECTED[subject.truth], "undecided" if subject.truth == "honest" else "")


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_page_says_what_the_verdicts_are() -> None:
    """Another processor may move a verdict to undecided or back, but to no other level."""
    said = {subject.name: published()[subject.name][1] for subject in subjects()}
    found = {subject.name: outcome(subject)["level"] for subject in subjects()}
    moved = {
        name: (level, found[name])
        for name, level in said.items()
        if level != found[name] and "undecided" not in (level, found[name])
    }
    assert moved == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", ["trades-awp", "trades-rwp", "at, shattered gradients", "natural, stochastic input"]
)
def test_another_attack_seed_moves_no_level_but_to_undecided(name: str) -> None:
    levels = {outcome(named(name), seed=seed)["level"] for seed in range(5)}
    assert len(levels - {"undecided"}) <= 1
