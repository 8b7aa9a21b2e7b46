"""Files are written whole or not at all, and a full disk is one clear line."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rwp.errors import UserError
from rwp.files import atomic_write, check_place, read_json, read_object, write_json, write_text


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


def test_a_result_can_be_read_by_those_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "record.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "record.json").stat().st_mode) == 0o640


def test_locks_that_bind_are_told_from_a_missing_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an SMB mount, where the file is this process's own and is locked by it."""
    original = Path.open

    def bound(path: Path, mode: str = "r", *more: object, **named: object) -> object:
        if path.suffix == ".tmp" and mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, mode, *more, **named)  # type: ignore[call-overload]

    def write() -> None:
        with atomic_write(tmp_path / "record.json") as temporary, temporary.open("w") as stream:
            stream.write("text")

    monkeypatch.setattr(Path, "open", bound)
    with pytest.raises(UserError, match=r"record\.json: expected a file system on which.*nobrl"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_json(tmp_path / "results" / "table.json", {})


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """A move into its place would take it away; of a device, from the whole machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe: expected the name of a file, got a device or a"):
        write_text(pipe, "report")
    assert pipe.is_fifo()


def test_a_place_is_looked_at_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_place(tmp_path / "results" / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    check_place(tmp_path / "run")
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name in ("file", "gone"):
        for folder in (tmp_path / name, tmp_path / name / "run"):
            with pytest.raises(UserError, match=f"{name}.*a file stands where a folder is needed"):
                check_place(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may do all
    with pytest.raises(UserError, match=r"results/run: .*no permission to write there"):
        check_place(tmp_path / "results" / "run")
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(UserError, match="the file system is read-only"):
        check_place(tmp_path / "results" / "run")


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


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from rwp.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "record.json"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    (abandoned,) = tmp_path.iterdir()
    with atomic_write(path) as mine:
        assert not abandoned.exists()
        mine.write_text("first")
        write_text(path, "second")
        assert mine.exists()
    assert path.read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")
def test_bytes_are_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "record.json", []
    original = os.fsync

    def fsync(handle: int) -> None:
        seen.append((os.readlink(f"/proc/self/fd/{handle}"), path.exists()))
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "content")
    (first, named), (second, _) = seen
    assert first.endswith(".tmp")
    assert not named
    assert second == str(tmp_path)


@pytest.mark.parametrize("text", ["[1, 2]", '"text"', "null"])
def test_a_record_is_an_object(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.json: expected a record \(a JSON object\), got"):
        read_object(path)


def test_lists_in_lists_in_lists(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match="expected JSON, got something else"):
        read_json(path)
