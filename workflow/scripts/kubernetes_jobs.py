#!/usr/bin/env python3
"""A job of the workflow as a Kubernetes Job; called by profiles/kubernetes from inside a pod.

    kubernetes_jobs.py submit JOBSCRIPT   prints the Job's name
    kubernetes_jobs.py status NAME        prints running, success or failed
    kubernetes_jobs.py [cancel] NAME ...  Snakemake's plugin calls a program without a word before
    kubernetes_jobs.py run JOBSCRIPT      in the Job's pod

Snakemake's own Kubernetes executor assumes that pods share no files, but results, Snakemake's
memory and the resume checkpoints of a training lie in one project folder. Here every pod mounts
the volume with that folder at the same place. The standard library alone: status is asked often.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # what a pod knows of itself
PROPERTIES = "# properties = "  # Snakemake's line in a job script
GPU = "nvidia.com/gpu"
LABEL = 63  # letters of a label, at most
GRACE = 120  # seconds from SIGTERM to the end of a pod: a training saves its state
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
TRAVELS = ("RWP_SETTINGS", "RWP_DETERMINISTIC")  # of the environment of whoever submits


def namespace() -> str:
    """RWP_NAMESPACE, or the pod's own."""
    own = ACCOUNT / "namespace"
    return os.environ.get("RWP_NAMESPACE") or (own.read_text() if own.exists() else "default")


def call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to the API server; RWP_KUBERNETES_API names another, e.g. a proxy."""
    server = os.environ.get("RWP_KUBERNETES_API")
    headers = {"Content-Type": "application/json"}
    context = None
    if server is None:
        places = [os.environ.get(f"KUBERNETES_SERVICE_{name}") for name in ("HOST", "PORT")]
        if None in places:
            raise SystemExit(
                "error: Kubernetes: expected to run in a pod of the cluster, found none of its"
                " variables; start Snakemake in a pod, as docs/cluster.md says"
            )
        server = "https://{}:{}".format(*places)
        headers["Authorization"] = f"Bearer {(ACCOUNT / 'token').read_text()}"
        context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    request = urllib.request.Request(
        f"{server}/apis/batch/v1/namespaces/{namespace()}/jobs{path}",
        method=method,
        headers=headers,
        data=None if body is None else json.dumps(body).encode(),
    )
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        return json.load(answer)


def manifest(jobscript: Path) -> dict[str, Any]:
    """The Job of a job script."""
    line = next(line for line in jobscript.read_text().splitlines() if line.startswith(PROPERTIES))
    job = json.loads(line.removeprefix(PROPERTIES))
    resources = job["resources"]
    cores = max(job["threads"], resources.get("cpus_per_task", 1))
    limits = {"cpu": str(cores), "memory": f"{resources['mem_mb']}M"}
    if resources.get("gpu"):
        limits[GPU] = str(resources["gpu"])
    claim, _, path = os.environ.get("RWP_VOLUME", "rwp:/rwp").partition(":")
    container = {
        "name": "job",
        "image": os.environ.get("RWP_IMAGE", "rwp"),
        "workingDir": os.getcwd(),
        "command": [sys.executable, str(Path(__file__).resolve()), "run", str(jobscript.resolve())],
        # Where MLflow's server is, and its password: of a secret, if there is one.
        "envFrom": [{"secretRef": {"name": "rwp", "optional": True}}],
        # The settings that it was planned with, a file of the project, which all pods share.
        "env": [
            {"name": name, "value": os.environ[name]} for name in TRAVELS if name in os.environ
        ],
        "resources": {"requests": limits, "limits": limits},
        "volumeMounts": [{"name": "project", "mountPath": path}],
    }
    pod = {
        "restartPolicy": "Never",
        # The pod's clock: that of a Job also runs while it waits for a GPU.
        "activeDeadlineSeconds": 60 * resources["runtime"],
        "terminationGracePeriodSeconds": GRACE,
        "containers": [container],
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": claim}}],
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"rwp-{uuid.uuid4()}",
            "labels": {"app": "rwp", "rule": label(job["rule"])},
        },
        "spec": {
            "backoffLimit": 0,  # Snakemake tries again, and the job goes on from its checkpoint
            "ttlSecondsAfterFinished": 86400,
            "template": {"metadata": {"labels": {"app": "rwp"}}, "spec": pod},
        },
    }


def label(rule: str) -> str:
    """A rule's name as Kubernetes takes it: not too long, and no sign at its end."""
    return rule.replace("_", "-")[:LABEL].rstrip("-.")


def submit(jobscript: str) -> None:
    """Create the Job."""
    body = manifest(Path(jobscript))
    try:
        call("POST", "", body)
    except urllib.error.HTTPError as error:
        raise SystemExit(refusal(error)) from error
    print(body["metadata"]["name"])


def refusal(error: urllib.error.HTTPError) -> str:
    """What the API server said, in one line."""
    try:
        said = json.load(error)["message"]
    except (ValueError, KeyError, TypeError):
        said = error.reason
    advice = "give the service account the role of docs/cluster.md"
    more = f"; {advice}" if error.code in (401, 403) else ""
    return (
        "error: Kubernetes: expected the API server to do what was asked, got"
        f" {error.code} ({' '.join(str(said).split())}){more}"
    )


def status(name: str) -> None:
    """What has become of it; a server that does not answer is asked again later."""
    found = {}
    try:
        found = call("GET", f"/{name}").get("status", {})
    except urllib.error.HTTPError as error:
        if error.code == 404:
            found = {"failed": 1}
        elif error.code in (401, 403):  # until somebody gives the permission
            sys.stderr.write(f"{refusal(error)}; until then no job is seen to end\n")
    except OSError:
        pass
    over = any(entry["type"] == "Failed" for entry in found.get("conditions", ()))
    failed = found.get("failed") or over
    print("success" if found.get("succeeded") else "failed" if failed else "running")


def cancel(*names: str) -> None:
    """Delete Jobs with their pods, those that are gone already included."""
    for name in names:
        try:
            call("DELETE", f"/{name}?propagationPolicy=Background")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise SystemExit(refusal(error)) from error


def run(jobscript: str) -> None:
    """Run a job script; SIGTERM reaches all of its processes, and the last one is waited for.

    A pod ends with its first process, and a shell there neither hears SIGTERM nor hands it on: an
    evicted training would be killed before it has saved its state.
    """
    if sys.platform == "linux":  # orphans come to us, as to the first process of a pod
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    script = subprocess.Popen(["/bin/sh", jobscript], start_new_session=True)
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        with suppress(ProcessLookupError):
            os.killpg(script.pid, number)

    signal.signal(signal.SIGTERM, stop)
    code = script.wait()
    with suppress(ChildProcessError):  # there is none left
        while asked:
            os.wait()
    raise SystemExit(code if code >= 0 else 128 - code)


ACTIONS = {"submit": submit, "status": status, "cancel": cancel, "run": run}

if __name__ == "__main__":
    words = sys.argv[1:]
    action = cancel if words[0] not in ACTIONS else ACTIONS[words.pop(0)]
    action(*words)
