"""Who may import whom, checked by import-linter on the whole package; formats of the files."""

from __future__ import annotations

import shutil
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


def test_a_clone_by_windows_has_lines_of_linux(tmp_path: Path) -> None:
    """make, sh and Docker read no others."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("Makefile", ".gitattributes"):
        shutil.copy(ROOT / name, theirs / name)
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    for words in (("init", "-q"), ("add", "."), (*identity, "commit", "-q", "-m", "first")):
        subprocess.run(("git", "-C", str(theirs), *words), check=True)
    clone = ("git", "-c", "core.autocrlf=true", "clone", "-q", str(theirs), str(tmp_path / "ours"))
    subprocess.run(clone, check=True)
    assert (tmp_path / "ours/Makefile").read_bytes() == (ROOT / "Makefile").read_bytes()
