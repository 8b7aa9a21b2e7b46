"""What a scheduler must be told stands in the rules themselves."""

from __future__ import annotations

import re

import pytest

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
