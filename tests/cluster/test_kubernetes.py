"""The profile for Kubernetes: a dry run, and what it submits, run here instead of in pods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

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
        cluster.running[name].terminate()
        cluster.running[name].wait(timeout=20)
        assert script("status", name).stdout == "failed\n"
        assert script("cancel", name, other).returncode == 0
        assert cluster.deleted == [name]
        assert script("status", name).stdout == "failed\n"  # it is gone


def test_what_is_asked_of_kubernetes(
    jobscript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "train_" + "a_long_study_" * 5
    jobscript.write_text(jobscript.read_text().replace("train_demo", rule))
    with pretended_kubernetes({}) as cluster:
        monkeypatch.setenv("RWP_KUBERNETES_API", cluster.address)
        name = script("submit", str(jobscript)).stdout.strip()
        (job,) = cluster.jobs.values()
        # The plugin calls one program, and no shell: the file itself, with names alone.
        subprocess.run([SCRIPT, name], check=True)
        assert cluster.deleted == [name]
    label = job["metadata"]["labels"]["rule"]
    assert rule.replace("_", "-").startswith(label)
    assert len(label) <= 63
    assert label[-1].isalnum()
    # A Job's clock runs while its pod waits for a GPU, a pod's does not.
    assert "activeDeadlineSeconds" not in job["spec"]
    assert job["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 2 * 60


def test_the_cancel_command_is_one_program() -> None:
    profile = yaml.safe_load((ROOT / "profiles/kubernetes/config.yaml").read_text())
    assert (ROOT / profile["cluster-generic-cancel-cmd"]).samefile(SCRIPT)
    assert os.access(SCRIPT, os.X_OK)


def test_an_evicted_job_has_time_to_save(jobscript: Path, tmp_path: Path) -> None:
    """SIGTERM comes to a pod's first process alone, and the pod ends with it."""
    training = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(1)\n"
        "    open('saved', 'w').close()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "open('begun', 'w').close()\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "training.py").write_text(training)
    jobscript.write_text(f"cd {tmp_path}\n{sys.executable} training.py\nexit 0 || exit 1\n")
    process = subprocess.Popen([sys.executable, str(SCRIPT), "run", str(jobscript)])
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=50) != 0
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize(("end", "code"), [("true", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_a_job_ends_as_its_script_does(end: str, code: int, jobscript: Path) -> None:
    jobscript.write_text(f"sleep 60 &\n{end}\n")  # nobody waits for what it leaves
    assert script_without_output("run", str(jobscript)) == code


def script_without_output(*words: str) -> int:
    command = [sys.executable, str(SCRIPT), *words]
    return subprocess.run(command, stdout=subprocess.DEVNULL, timeout=50).returncode


@pytest.mark.parametrize("code", [401, 403])
def test_a_missing_permission_is_told(
    code: int, jobscript: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended_kubernetes({}) as cluster:
        cluster.refuses = code
        monkeypatch.setenv("RWP_KUBERNETES_API", cluster.address)
        asked = script("status", "rwp-1")
        sent, ended = script("submit", str(jobscript)), script("cancel", "rwp-1")
    assert asked.stdout == "running\n"
    assert (sent.returncode, ended.returncode) == (1, 1)
    for said in (asked, sent, ended):
        (line,) = said.stderr.splitlines()
        assert f"got {code} (jobs.batch is forbidden); give the service account the role" in line


def test_a_server_that_does_not_answer_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RWP_KUBERNETES_API", "http://127.0.0.1:9")
    assert script("status", "rwp-1").stdout == "running\n"


def test_outside_of_a_cluster(jobscript: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RWP_KUBERNETES_API", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    result = script("submit", str(jobscript))
    assert result.returncode != 0
    assert "expected to run in a pod of the cluster, found none" in result.stderr
