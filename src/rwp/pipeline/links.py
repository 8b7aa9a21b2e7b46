"""Files that DVC has linked from its cache, made this project's own before they are written over.

Snakemake writes its metadata in place. Where DVC has put hard links or symbolic links (cache.type
hardlink or symlink), that would write into DVC's cache, under the name of other bytes.
"""

from __future__ import annotations

import os
import shutil
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
