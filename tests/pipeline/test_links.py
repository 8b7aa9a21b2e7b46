"""Links into DVC's cache become files of the project's own; the cache stays as it is."""

from __future__ import annotations

import os
from pathlib import Path

from rwp.pipeline.links import own_files


def test_links_become_files_and_the_cache_is_left_alone(tmp_path: Path) -> None:
    cache, metadata = tmp_path / "cache", tmp_path / "metadata"
    cache.mkdir()
    metadata.mkdir()
    for name in ("hard", "soft"):
        (cache / name).write_text("old")
        (cache / name).chmod(0o444)
    os.link(cache / "hard", metadata / "hard")
    (metadata / "soft").symlink_to(cache / "soft")
    (metadata / "own").write_text("old")
    assert own_files(metadata) == 2
    for name in ("hard", "soft", "own"):
        assert os.access(metadata / name, os.W_OK)
        (metadata / name).write_text("new")
    assert sorted(path.name for path in metadata.iterdir()) == ["hard", "own", "soft"]
    assert {path.read_text() for path in cache.iterdir()} == {"old"}
    assert own_files(metadata) == 0
    assert own_files(tmp_path / "none") == 0
