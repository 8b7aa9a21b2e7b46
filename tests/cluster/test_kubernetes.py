"""The profile for Kubernetes: a dry run, and what it submits, run here instead of in pods."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cluster.pretended_kubernetes import pretended_kubernetes
from tests.conftest import ROOT, Project

needs_plugin = [
    pytest.mark.kubernetes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        find_spec("snakemake_executor_plugin_cluster_generic") is None,
        reason="Snakemake's plugin is not there: make extra-kubernetes installs it",
    ),
]
PROFILE = ("--workflow-profile", "profiles/kubernetes")
SCRIPT = ROOT / "workflow" / "scripts" / "kubernetes_jobs.py"


def plugin(test):
    for mark in needs_plugin:
        test = mark(test)
    return test


@plugin
def test_a_dry_run(project: Project) -> None:
    result = project.run("snakemake", *PROFILE, "-n", "results/table2.csv")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "autoattack_paper" in result.stdout + result.stderr


@plugin
def test_what_is_submitted_runs(
    project_with_data: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_with_data
    target = "results/demo/runs/digits/linf/small/at-awp/seed0/run.json"
    secret = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/notebook.db"}
    with pretended_kubernetes(secret) as cluster:
        monkeypatch.setenv("RWP_KUBERNETES_API", cluster.address)
        monkeypatch.setenv("RWP_VOLUME", f"share:{project.folder}")
        monkeypatch.setenv("RWP_IMAGE", "registry/rwp:1")
        result = project.run("snakemake", *PROFILE, target, "--retries", "0", timeout=600)
        assert result.returncode == 0, result.stdout + result.stderr
    (job,) = cluster.jobs.values()
    assert job["metadata"]["labels"]["rule"] == "train-demo"
    assert job["spec"]["activeDeadlineSeconds"] == 720 * 60
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry/rwp:1"
    wanted = {"cpu": "1", "memory": "16000M", "nvidia.com/gpu": "1"}
    assert container["resources"] == {"limits": wanted, "requests": wanted}
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], str(project.folder))
    assert volume["persistentVolumeClaim"] == {"claimName": "share"}
    (kept,) = (project.folder / ".state/settings").glob("*.yaml")
    (setting,) = container["env"]
    assert setting["name"] == "RWP_SETTINGS"
    assert project.folder / setting["value"] == kept  # an edit changes no job that waits
    assert json.loads((project.folder / target).read_text())["mlflow_run_id"]
    assert (tmp_path / "notebook.db").exists()  # what the secret said


def script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)


@pytest.fixture
def jobscript(tmp_path: Path) -> Path:
    path = tmp_path / "job.sh"
    job = {"rule": "train_demo", "threads": 1, "resources": {"mem_mb": 100, "runtime": 2}}
    path.write_text(f"#!/bin/sh\n# properties = {json.dumps(job)}\nsleep 60\n")
    return path


def test_a_job_from_its_start_to_its_end(jobscript: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_kubernetes({}) as cluster:
        monkeypatch.setenv("RWP_KUBERNETES_API", cluster.address)
        name, other = script("submit", str(jobscript)).stdout, "rwp-unknown"
        name = name.strip()
        assert script("status", name).stdout == "running\n"
        cluster.running[name].kill()
        cluster.running[name].wait(timeout=20)
        assert script("status", name).stdout == "failed\n"
        assert script("cancel", name, other).returncode == 0
        assert cluster.deleted == [name]
        assert script("status", name).stdout == "failed\n"  # it is gone


def test_a_server_that_does_not_answer_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWP_KUBERNETES_API", "http://127.0.0.1:9")
    assert script("status", "rwp-1").stdout == "running\n"


def test_outside_of_a_cluster(jobscript: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RWP_KUBERNETES_API", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    result = script("submit", str(jobscript))
    assert result.returncode != 0
    assert "expected to run in a pod of the cluster, found none" in result.stderr
