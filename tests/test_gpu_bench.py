"""`make bench-gpu` on a machine that has nothing but PyTorch, rehearsed at tiny sizes on a CPU."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from benchmarks import gpu, gpu_suite
from benchmarks.gpu_slices import covered

from rwp.errors import UserError
from rwp.evaluation.records import read_record
from rwp.reporting import gpu_bench
from tests.conftest import ROOT

# What such a machine may lack; jaxtyping and filelock are stood in for.
ABSENT = (
    "pydantic",
    "mlflow",
    "snakemake",
    "dvc",
    "jaxtyping",
    "filelock",
    "beartype",
    "sklearn",
    "scipy",
    "matplotlib",
    "jinja2",
    "rich",
    "torchvision",
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose Python finds none of those packages in its installation."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(
        f"""
import sys
from importlib.machinery import PathFinder

usual = PathFinder.find_spec

def find_spec(name, path=None, target=None):
    if name.partition(".")[0] in {ABSENT!r}:
        path = [place for place in sys.path if place.endswith("bare")]
    return usual(name, path, target)

PathFinder.find_spec = staticmethod(find_spec)
""",
        encoding="utf-8",
    )
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )


def test_the_packages_are_hidden(bare: dict[str, str]) -> None:
    """Or the tests below would show nothing."""
    for name in ABSENT:
        assert "ModuleNotFoundError" in run(bare, "-c", f"import {name}").stderr, name


def test_its_tests_start_without_the_plugin_that_the_settings_name() -> None:
    words = ["-m", "pytest", *gpu.PYTEST, "-p", "no:timeout", str(ROOT / "tests/gpu")]
    found = run(os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}, *words)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "skipped" in found.stdout or "passed" in found.stdout


def test_core_and_training_import_bare(bare: dict[str, str]) -> None:
    """Every module of them, and what evaluates a checkpoint."""
    modules = [
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for layer in ("core", "training")
        for path in sorted((ROOT / "src" / "rwp" / layer).rglob("*.py"))
    ]
    wanted = [*modules, "rwp.data.fetch", "rwp.evaluation.jobs", "rwp.evaluation.spec"]
    code = f"import sys; sys.path.append({str(ROOT / 'benchmarks' / 'bare')!r})\n"
    found = run(bare, "-c", code + "\n".join(f"import {name}" for name in wanted))
    assert found.returncode == 0, found.stderr


def bench(folder: Path, *words: str) -> list[str]:
    """The words of a rehearsal."""
    shared = ("--tiny", "--device", "cpu", "--minutes", "30", "--folder", str(folder))
    return [str(ROOT / "benchmarks/gpu.py"), *shared, *words]


def units_done(folder: Path) -> dict[str, Any]:
    path = folder / "bench.json"
    return json.loads(path.read_text(encoding="utf-8"))["units"] if path.exists() else {}


@pytest.fixture(scope="module")
def rehearsed(bare: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it: killed in a training, stopped in another call, and gone on with."""
    folder = tmp_path_factory.mktemp("rehearsal")
    command = [sys.executable, *bench(folder)]
    first = subprocess.Popen(command, env=bare, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    for line in first.stdout:  # killed as the second training has begun
        if line.startswith("train at-awp"):
            break
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=60)
    first.stdout.close()
    done = units_done(folder)
    assert "train at" in done
    assert "train at-awp" not in done
    second = subprocess.Popen(command, env=bare, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    for line in second.stdout:  # asked to stop as that one has begun again: on a fast machine all
        if line.startswith("train at-awp"):  # that is left takes half a second
            second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=120) == 0
    assert "attack at-rwp" not in units_done(folder)
    third = run(bare, *bench(folder))
    assert third.returncode == 0, third.stdout + third.stderr
    assert "failed" not in third.stdout
    assert units_done(folder).keys() >= done.keys()
    assert {name: units_done(folder)[name] for name in done} == done  # nothing is measured twice
    return folder


@pytest.mark.slow
def test_the_whole_rehearsal(rehearsed: Path) -> None:
    done = units_done(rehearsed)
    kinds = {name.partition(" ")[0] for name in done}
    assert kinds == {
        "step", "epoch", "profile", "autoattack", "scaling", "rates", "data", "train", "attack"
    }  # fmt: skip
    for name, numbers in done.items():
        assert numbers["seconds"] >= 0, name
    assert {name for name in done if name.startswith("attack")} == {
        f"attack {recipe}" for recipe in gpu_suite.RECIPES
    }
    for name in ("autoattack all", "autoattack some"):
        assert done[name]["flags_that_differ"] == 0
    assert done["autoattack all"]["robust"] == done["autoattack all"]["images"]
    profile = next(numbers for name, numbers in done.items() if name.startswith("profile"))
    assert 0 < profile["busy_share"] <= 1
    epochs = done["train at"]["epochs"]
    for recipe in gpu_suite.RECIPES:
        (history,) = rehearsed.rglob(f"runs/**/{recipe}/seed0/history.jsonl")
        assert len(history.read_text(encoding="utf-8").splitlines()) == epochs


@pytest.mark.slow
def test_the_archive_is_small_and_begins_anew_elsewhere(
    rehearsed: Path, bare: dict[str, str], tmp_path: Path
) -> None:
    archive = rehearsed / "bench-gpu.tar.gz"
    assert archive.stat().st_size < 100_000
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert "bench.json" in names
    assert not [name for name in names if name.endswith(".pt")]
    assert sum(name.endswith("history.jsonl") for name in names) == len(gpu_suite.RECIPES)
    assert sum(name.endswith("autoattack.json") for name in names) == len(gpu_suite.RECIPES)
    found = run(bare, *bench(tmp_path, "--from", str(archive)))
    assert found.returncode == 0, found.stdout + found.stderr
    assert units_done(tmp_path) == units_done(rehearsed)
    for path in tmp_path.rglob("autoattack.json"):
        assert read_record(path).attack.name == "autoattack"  # with pydantic's checks, here


def archive_of(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "bench.json").write_text(json.dumps(content), encoding="utf-8")
    gpu.pack(folder, folder / "found.tar.gz")
    return folder / "found.tar.gz"


RATES = {
    **{"network": "a", "image_size": "8x8x1", "batch": 8},
    **dict.fromkeys(("forward_seconds", "backward_seconds", "attack_backward_seconds"), 1e-5),
}


def measured(**changes: Any) -> dict[str, Any]:
    """What the content of an archive looks like."""
    pair = {"ours_s": 0.5, "reference_s": 2.0, "ratio": 4.0}
    passes = {"forward_seconds": 1e-5, "backward_seconds": 2e-5, "attack_backward_seconds": 1e-5}
    rates = {"network": "preact-resnet-18", "image_size": "32x32x3", "batch": 128, **passes}
    profile = {"step_s": 0.1, "busy_share": 0.9, "launches": 7, "longest": {"conv": 0.5}}
    attacked = {"autoattack": {"robust": 900, "of": 2000, "seconds": 60.0}, "seconds": 61.0}
    trained = {"epochs": 30, "training_s": 600.0, "test_clean_accuracy": 0.8}
    content = {
        "format": gpu.FORMAT,
        "tiny": False,
        "device": "NVIDIA Example",
        "machine": "EPYC; NVIDIA Example",
        "commit": "abc",
        "failed": {"epoch at bf16": "RuntimeError: out of memory"},
        "units": {
            "step at fp32": pair | {"peak_gib_ours": 1.0, "peak_gib_reference": 2.0},
            "autoattack all": pair | {"flags_that_differ": 0},
            "profile bf16_graphs": profile | {"share_of_matmul_rate": 0.3},
            "scaling tf32": {"128": {"images_per_second": 900.0}, "seconds": 1.0},
            "rates preact-resnet-18": rates,
            "train at": trained,
            "attack at": attacked,
        },
    }
    return content | changes


def test_rates_and_docs_take_an_archive(tmp_path: Path) -> None:
    content = gpu_bench.read_archive(archive_of(tmp_path, measured()))
    rates, page = tmp_path / "rates.csv", tmp_path / "page.md"
    shutil.copyfile(ROOT / "src/rwp/reporting/rates.csv", rates)
    with rates.open("a", encoding="utf-8") as stream:  # of other images: it stays
        stream.write("NVIDIA Example,preact-resnet-18,28x28x1,1e-6,2e-6,0.01,make bench,\n")
    before = rates.read_text(encoding="utf-8").splitlines()
    page.write_text("# Page\n\nText.\n", encoding="utf-8")
    for _ in range(2):  # a second time changes nothing
        gpu_bench.merge_rates(rates, gpu_bench.rate_rows(content))
        gpu_bench.merge_document(page, content)
        lines = rates.read_text(encoding="utf-8").splitlines()
        assert lines[:-1] == before
        assert lines[-1].startswith("NVIDIA Example,preact-resnet-18,32x32x3,1e-05,2e-05,0.09775,")
        text = page.read_text(encoding="utf-8")
        assert text.startswith("# Page\n\nText.\n")
        assert text.count("### NVIDIA Example") == text.count("<!-- end of bench-gpu -->") == 1
    assert "| `step at fp32` | 0.5 | 2 | 4.00x | 1.00 / 2.00 |" in text
    assert "the device busy for 90%, 30% of its rate at matrix products" in text
    assert "autoattack 45.0 % of 2000 (60 s)" in text
    assert "- `epoch at bf16`: RuntimeError: out of memory" in text
    rates.write_text("run,accuracy\nat,0.5\n", encoding="utf-8")  # somebody else's table
    with pytest.raises(UserError, match=r"expected a file of rates with the columns device,.* got"):
        gpu_bench.merge_rates(rates, gpu_bench.rate_rows(content))
    assert rates.read_text(encoding="utf-8") == "run,accuracy\nat,0.5\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiny": True}, "expected measurements, got a rehearsal"),
        ({"format": "rwp.gpu-bench/0"}, "expected the format rwp.gpu-bench/1, got"),
        ({"device": None}, "expected device as `make bench-gpu` writes it, got None"),
        ({"units": []}, r"expected units as `make bench-gpu` writes it, got \[\]"),
        (
            {"units": {"step at fp32": {"ours_s": 0, "reference_s": 2.0}}},
            "expected times above 0 of networks by name, got ours_s 0 under step at fp32",
        ),
        *(
            (
                {"units": {"rates a": RATES | {"forward_seconds": bad}}},
                f"forward_seconds {bad!r}",
            )
            for bad in (-1e-4, math.nan, True, "1")
        ),
        (
            {"units": {"rates a": RATES, "rates b": RATES}},
            r"got another network and image size \('a', '8x8x1'\) under rates b",
        ),
    ],
)
def test_other_archives_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        gpu_bench.read_archive(archive_of(tmp_path, measured(**changes)))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("no archive")
    for name in ("text.tar.gz", "absent.tar.gz"):
        with pytest.raises(UserError, match="expected an archive that `make bench-gpu` wrote"):
            gpu_bench.read_archive(tmp_path / name)


def test_the_settings_are_those_of_params_yaml() -> None:
    """If not: python benchmarks/gpu.py --write-settings."""
    trainings, evaluations = gpu_suite.resolved()
    for recipe in gpu_suite.RECIPES:
        assert gpu_suite.settings(recipe, tiny=False) == (trainings[recipe], evaluations[recipe])


def test_another_device_gets_another_folder(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "bench.json").write_text(json.dumps(measured()), encoding="utf-8")
    assert gpu.main(["--tiny", "--device", "cpu", "--folder", str(tmp_path)]) == 2
    assert "expected device 'cpu', got 'NVIDIA Example'; give another" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--device", "cpu"]])
def test_what_cannot_be_meant(words: list[str], tmp_path: Path, capsys: Any) -> None:
    assert gpu.main([*words, "--folder", str(tmp_path)]) == 2
    assert "expected" in capsys.readouterr().err


def test_the_union_of_spans() -> None:
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4
    assert covered([]) == 0
