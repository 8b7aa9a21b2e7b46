"""What DVC does to this project's files, and what follows from it.

Snakemake writes its metadata in place. Where DVC has put hard links or symbolic links (cache.type
hardlink or symlink), that would write into DVC's cache, under the name of other bytes. And `dvc exp
run -S` writes its settings into params.yaml or a study, where they stay if the experiment fails.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from rwp.studies import FOLDER as STUDIES


def copy_linked_files(folder: Path) -> int:
    """Replace every linked file below `folder` by a writable copy; returns how many there were."""
    count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_symlink() or path.stat().st_nlink > 1:
                own = path.with_name(f".{name}.own")
                shutil.copyfile(path, own)
                own.replace(path)
                count += 1
    return count


def left_in_settings(folder: Path) -> str | None:
    """A line for an experiment of DVC that fails, if settings are not as they were committed."""
    name = os.environ.get("DVC_EXP_NAME")
    if name is None or ".dvc" in folder.absolute().parts:  # with --temp it runs in a copy there
        return None
    places = ("params.yaml", f"{STUDIES}/*.yaml")
    changed = ["git", "diff", "--name-only", "--relative", "-z", "HEAD", "--", *places]
    try:
        found = subprocess.run(
            changed, cwd=folder, check=True, timeout=60, capture_output=True, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    files = " ".join(map(shlex.quote, found.stdout.split("\0")[:-1]))
    if not files:
        return None
    # DVC writes a file anew, in its own layout: git's difference of params.yaml is pages long.
    shown = "dvc params diff" if files == "params.yaml" else f"git diff {files}"
    return (
        f"note: the experiment {name} leaves its settings in {files}; `{shown}` shows them,"
        f" `git checkout {files}` takes them back, `dvc exp run --temp` never writes there"
    )
