"""Who may import whom, checked by import-linter on the whole package; formats of the files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT


def test_import_contracts() -> None:
    words = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_dvc_tracks_what_snakemake_makes_and_never_deletes_it() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage["outs"]]
    assert {name for out in outs for name in out} == {"data", "results", ".snakemake/metadata"}
    assert all(options == {"persist": True} for out in outs for options in out.values())
    assert "reflink,copy" in (ROOT / ".dvc" / "config").read_text()
