"""What DVC does to this project's files, and what follows from it.

Snakemake writes its metadata in place. Where DVC has put hard links or symbolic links (cache.type
hardlink or symlink), that would write into DVC's cache, under the name of other bytes. And `dvc exp
run -S` writes its settings into params.yaml, where they stay if the experiment fails.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def own_files(folder: Path) -> int:
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
    """A line for an experiment of DVC that fails, if params.yaml is not as it was committed."""
    name = os.environ.get("DVC_EXP_NAME")
    if name is None or ".dvc" in folder.absolute().parts:  # with --temp it runs in a copy there
        return None
    changed = ["git", "diff", "--quiet", "HEAD", "--", "params.yaml"]
    try:
        if subprocess.run(changed, cwd=folder, check=False, timeout=60).returncode != 1:
            return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (
        f"note: the experiment {name} leaves its settings in params.yaml; `git diff params.yaml`"
        f" shows them, `git checkout params.yaml` takes them back, `dvc exp run --temp` never"
        f" writes there"
    )
