"""GPUs are claimed all together or not at all."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from rwp import gpu
from rwp.errors import UserError
from rwp.gpu import claim


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpu, "_device_of", lambda name: "cuda")


def test_several_gpus_are_distinct_and_come_back(
    three_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RWP_JOBS_PER_GPU", "2")
    for _ in range(2):
        with claim(count=2) as device:
            assert device == "cuda"
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_who_waits_for_several_holds_none(three_gpus: None) -> None:
    gpus, got = ["0", "1", "2"], []
    folder = Path(gpu.tempfile.gettempdir()) / "locks"
    folder.mkdir()
    first = gpu._hold(folder, gpus, 1, 2, 0.01)

    def wait() -> None:
        held = gpu._hold(folder, gpus, 1, 2, 0.01)
        got.append(set(held))
        gpu._release(held)

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.2)
    assert not got  # one is free, two are wanted
    third = gpu._hold(folder, gpus, 1, 1, 0.01)  # so the free one is anybody's
    assert set(third) == {"2"}
    gpu._release(first)
    waiting.join(10)
    assert got == [{"0", "1"}]
    gpu._release(third)


def test_more_than_there_are_is_refused(three_gpus: None) -> None:
    with (
        pytest.raises(UserError, match="expected at most 3, which are visible here, got 4"),
        claim(count=4),
    ):
        pass


def test_without_a_gpu_one_process_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with claim(count=4) as device:
        assert device == "cpu"


def test_jobs_that_share_gpus_take_free_ones_first(tmp_path: Path) -> None:
    jobs = [gpu._hold(tmp_path, ["0", "1"], 2, 1, 0.01) for _ in range(4)]
    assert [list(held) for held in jobs] == [["0"], ["1"], ["0"], ["1"]]
    for held in jobs:
        gpu._release(held)
