"""Files are written whole or not at all, and a full disk is one clear line."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from rwp.errors import UserError
from rwp.files import atomic_write, read_json, write_json


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space is left there; free some and run the same command again"),
        (errno.EACCES, "no permission to write there; change its owner or mode"),
        (errno.EROFS, "the file system is read-only"),
    ],
)
def test_a_write_that_fails_keeps_the_old_file(number: int, message: str, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_json(path, {"good": 1})

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half a rec")
            raise OSError(number, "as planted")

    with pytest.raises(UserError, match=message):
        fail()
    assert json.loads(path.read_text()) == {"good": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_json(tmp_path / "results" / "table.json", {})


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_reading_what_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(UserError, match="expected a JSON file, found none; build it first"):
        read_json(path)
    path.write_text('{"cut": ')
    with pytest.raises(UserError, match="expected JSON, got something else"):
        read_json(path)
