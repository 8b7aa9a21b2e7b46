"""What a scheduler must be told stands in the rules themselves."""

from __future__ import annotations

import re

import pytest

from rwp.pipeline.steps import PLANNED
from tests.conftest import ROOT

RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))
BLOCKS = [
    pytest.param(block, id=f"{path.stem}-{index}")
    for path in RULES
    for index, block in enumerate(re.split(r"^ *rule(?: \w+)?:$", path.read_text(), flags=re.M))
    if "shell:" in block
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_rule_is_local_or_says_what_it_needs(block: str) -> None:
    """Else a cluster gives it the memory and the minutes of the profile, which are for neither."""
    needs = {name for name in ("gpu=", "mem_mb=", "runtime=", "threads: 1") if name in block}
    if "localrule: True" in block:
        assert not needs
    else:
        assert needs == {"gpu=", "mem_mb=", "runtime=", "threads: 1"}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_rule_stands_on_a_fingerprint_of_its_outputs(block: str) -> None:
    """Else Snakemake runs no job again for other settings or code; an attack has its own."""
    assert re.search(r'\b(fingerprint|digest)=ask\(.+, "\1"\),', block)


def test_jobs_know_the_code_that_they_are_planned_with() -> None:
    snakefile = (ROOT / "Snakefile").read_text(encoding="utf-8")
    assert "\nplan_with({step: CODE[step] for step in PLANNED})\n" in snakefile
    texts = (path.read_text("utf-8") for path in (ROOT / "src/rwp/commands").glob("*.py"))
    asked = [step for text in texts for step in re.findall(r'\bplanned\(\w+, "(\w+)"', text)]
    assert sorted(asked) == sorted(PLANNED)
