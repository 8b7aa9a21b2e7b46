"""The README's example of a training in Python runs as it is printed, and is short."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


def example() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert len(blocks) == 1
    return blocks[0]


def test_it_has_at_most_thirty_lines() -> None:
    assert len(example().splitlines()) <= 30


@pytest.mark.slow
def test_it_runs_as_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", example()], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    accuracies = dict(re.findall(r"(natural|pgd-20) +([\d.]+) %", done.stdout))
    assert float(accuracies["natural"]) > 60  # of three classes
    assert float(accuracies["pgd-20"]) > 40
