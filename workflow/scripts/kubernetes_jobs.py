"""A job of the workflow as a Kubernetes Job; called by profiles/kubernetes from inside a pod.

    kubernetes_jobs.py submit JOBSCRIPT   prints the Job's name
    kubernetes_jobs.py status NAME        prints running, success or failed
    kubernetes_jobs.py cancel NAME ...

Snakemake's own Kubernetes executor assumes that pods share no files, but results, Snakemake's
memory and the resume checkpoints of a training lie in one project folder. Here every pod mounts
the volume with that folder at the same place. The standard library alone: status is asked often.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # what a pod knows of itself
PROPERTIES = "# properties = "  # Snakemake's line in a job script
GPU = "nvidia.com/gpu"
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
        "command": ["/bin/sh", str(jobscript.resolve())],
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
        "containers": [container],
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": claim}}],
        "tolerations": [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"rwp-{uuid.uuid4()}",
            "labels": {"app": "rwp", "rule": job["rule"].replace("_", "-")},
        },
        "spec": {
            "backoffLimit": 0,  # Snakemake tries again, and the job goes on from its checkpoint
            "activeDeadlineSeconds": 60 * resources["runtime"],
            "ttlSecondsAfterFinished": 86400,
            "template": {"metadata": {"labels": {"app": "rwp"}}, "spec": pod},
        },
    }


def submit(jobscript: str) -> None:
    """Create the Job."""
    body = manifest(Path(jobscript))
    call("POST", "", body)
    print(body["metadata"]["name"])


def status(name: str) -> None:
    """What has become of it; a server that does not answer is asked again later."""
    try:
        found = call("GET", f"/{name}").get("status", {})
    except urllib.error.HTTPError as error:
        print("failed" if error.code == 404 else "running")
    except OSError:
        print("running")
    else:
        ended = "success" if found.get("succeeded") else "failed" if found.get("failed") else None
        print(ended or "running")


def cancel(*names: str) -> None:
    """Delete Jobs with their pods, those that are gone already included."""
    for name in names:
        try:
            call("DELETE", f"/{name}?propagationPolicy=Background")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise


if __name__ == "__main__":
    action, *words = sys.argv[1:]
    {"submit": submit, "status": status, "cancel": cancel}[action](*words)
