"""docs/own-work.md is run as it is printed, in a project whose name has a space and a quote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "own-work.md"
_BLOCK = re.compile(r"(?:^`([^`\n]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks() -> list[tuple[str, str, str]]:
    """(file to write or "", language, text), in the order of the page."""
    return [match.groups("") for match in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]  # type: ignore[misc]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "it's mine"
    folder.mkdir()
    for name in ("Snakefile", "workflow", "profiles", "src"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_tutorial_runs_as_printed(clone: Path) -> None:
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = os.environ | {
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }
    said = ""
    for file, language, text in blocks():
        if file:
            path = clone / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            continue
        assert language == "bash", f"a block of {language} without a file"
        done = subprocess.run(
            ["bash", "-e", "-c", text], cwd=clone, env=environment, text=True, capture_output=True
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        said += done.stdout
    assert (clone / "results/shapes-own/report.html").exists()
    table = (clone / "results/shapes-own/table2.csv").read_text()
    assert "SMOOTHED-RWP" in table
    assert "SMOOTHED-RWP" in said
    assert re.search(r"green|amber|red|verdict", said)
    files = (clone / "results/shapes-own").rglob("run.json")
    assert len(list(files)) == 4
