"""What DVC brings back counts as done for both engines, whatever way the cache links files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rwp.training.checkpoint import load_network
from tests.faults.ledger import attempt
from tests.faults.sample import sample
from tests.faults.test_exact_rerun import Expected, Jobs, planned, run, setting
from tests.pipeline.repository import CopiedProject, new_repository, small_settings

pytestmark = pytest.mark.xdist_group("versions")  # which cost minutes to make
TIMEOUT = 1800
RUNS = "results/demo/runs/digits/linf/small"
OLD, NEW, TRIED = 2.3, 1.5, 1.2  # c_min of the first commit, of the second, of an experiment


def dvc(project: CopiedProject, *words: str) -> str:
    found = project.run("dvc", *words, timeout=TIMEOUT)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def assert_done(project: CopiedProject) -> None:
    """Neither engine finds anything to do, and every result fits today's settings."""
    assert planned(project) == Counter()
    assert run(project, "dvc") == Counter()
    assert "up to date" in dvc(project, "status")
    verified = project.run("rwp", "verify")
    assert verified.returncode == 0, verified.stdout


def c_min_of_run(project: CopiedProject) -> float:
    record = json.loads((project.folder / RUNS / "at-rwp/seed0/run.json").read_text())
    return float(record["spec"]["perturbation"]["c_min"])


def change_c_min(project: CopiedProject, value: float) -> None:
    setting(lambda demo: demo["perturbations"]["rwp"].update(c_min={"digits": value}))(project)


@pytest.fixture(scope="module")
def versions(
    tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any]
) -> tuple[CopiedProject, Jobs]:
    """Two commits with their results in a local remote."""
    folder = tmp_path_factory.mktemp("versions")
    project = new_repository(folder, small_settings(committed))
    dvc(project, "remote", "add", "-d", "store", str(tmp_path_factory.mktemp("remote")))
    everything = run(project, "dvc")
    for tag in ("old", "new"):
        if tag == "new":
            change_c_min(project, NEW)
            assert run(project, "dvc") == Expected(project).of_runs("at-rwp")
        dvc(project, "push")
        project.git("add", ".")
        project.git("commit", "-qm", tag)
        project.git("tag", tag)
    return project, everything


def clone(project: CopiedProject, folder: Path) -> CopiedProject:
    subprocess.run(
        ("git", "clone", "-q", str(project.folder), str(folder)), check=True, capture_output=True
    )
    found = CopiedProject(folder, project.settings)
    found.git("config", "user.email", "a@b.c")
    found.git("config", "user.name", "a")
    found.git("checkout", "-q", ".")
    return found


def test_a_fresh_clone_pulls_and_has_nothing_to_do(
    versions: tuple[CopiedProject, Jobs], tmp_path: Path
) -> None:
    with attempt("DVC: push, fresh clone, pull"):
        fresh = clone(versions[0], tmp_path / "clone")
        dvc(fresh, "pull")
        assert_done(fresh)
        assert c_min_of_run(fresh) == NEW


def test_older_commits_come_back_as_done(versions: tuple[CopiedProject, Jobs]) -> None:
    project = versions[0]
    for tag, value in (("old", OLD), ("new", NEW), ("old", OLD), ("new", NEW)):
        with attempt("DVC: git checkout of another commit, dvc checkout"):
            project.git("checkout", "-q", tag)
            dvc(project, "checkout")
            assert c_min_of_run(project) == value
            assert_done(project)


def test_experiments_and_differences(versions: tuple[CopiedProject, Jobs], tmp_path: Path) -> None:
    project = clone(versions[0], tmp_path / "clone")
    dvc(project, "pull")
    with attempt("DVC: exp run -S, params diff, metrics diff, plots show"):
        found = project.run(
            "dvc",
            "exp",
            "run",
            "-S",
            f"suites.demo.perturbations.rwp.c_min.digits={TRIED}",
            timeout=TIMEOUT,
        )
        assert found.returncode == 0, found.stdout + found.stderr
        from tests.faults.test_exact_rerun import jobs_in

        ran = jobs_in(found.stdout + found.stderr)
        assert ran == Expected(project).of_runs("at-rwp")
        assert c_min_of_run(project) == TRIED
        parameters = json.loads(dvc(project, "params", "diff", "--json"))
        (entry,) = parameters["params.yaml"].values()
        assert (entry["old"], entry["new"]) == (NEW, TRIED)
        metrics = json.loads(dvc(project, "metrics", "diff", "--all", "--json"))
        names = {name for file in metrics.values() for name in file}
        assert any(name.startswith("table2.AT-RWP.") for name in names)
        differences = json.loads(dvc(project, "metrics", "diff", "old", "new", "--json"))
        assert all("AT-RWP" in name for file in differences.values() for name in file)
        page = dvc(project, "plots", "show").strip().splitlines()[-1].removeprefix("file://")
        text = Path(page).read_text()
        assert "Robust accuracy under AutoAttack" in text
        assert "AT-RWP" in text
        shown = dvc(project, "exp", "show", "--csv")
        assert str(TRIED) in shown


def damaged(cache: Path) -> list[str]:
    """Files of DVC's cache whose bytes are no longer those of their name."""
    found = []
    for path in (cache / "files" / "md5").glob("??/*"):
        name = (path.parent.name + path.name).removesuffix(".dir")
        if hashlib.md5(path.read_bytes()).hexdigest() != name:
            found.append(str(path))
    return found


LINKS = ["copy", "reflink", "hardlink", "symlink"]


@pytest.mark.parametrize("link", sample("links", LINKS, 2))
def test_link_types(link: str, versions: tuple[CopiedProject, Jobs], tmp_path: Path) -> None:
    """Files from the cache can be written over by the pipeline, and the cache stays whole."""
    fresh = clone(versions[0], tmp_path / "clone")
    dvc(fresh, "config", "--local", "cache.type", link)
    pulled = fresh.run("dvc", "pull", timeout=TIMEOUT)
    if link == "reflink" and pulled.returncode:
        pytest.skip("this file system knows no reflinks")
    assert pulled.returncode == 0, pulled.stderr
    with attempt(f"DVC: results linked from the cache by {link}, then a run trained anew"):
        assert_done(fresh)
        change_c_min(fresh, TRIED)
        expected = Expected(fresh).of_runs("at-rwp")
        assert run(fresh, "snakemake") == expected
        assert damaged(fresh.folder / ".dvc" / "cache") == []
        assert run(fresh, "dvc") == Counter()
        assert damaged(fresh.folder / ".dvc" / "cache") == []
        for name in ("best", "last"):
            load_network(fresh.folder / RUNS / "at-rwp/seed0" / f"{name}.pt")
        fresh.git("checkout", "-q", ".")
        dvc(fresh, "checkout", "--force")
        assert c_min_of_run(fresh) == NEW
        assert_done(fresh)
