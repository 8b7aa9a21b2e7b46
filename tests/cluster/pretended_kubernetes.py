"""As much of Kubernetes as the profile calls; the command of a Job runs right here.

It shows that what is submitted would run: with no environment but a pod's, and the project at its
place. It is no test of a cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Cluster:
    """The Jobs that were made, what their commands said, and those that were deleted.

    `secret`: the variables of the secret that the pods are given.
    """

    def __init__(self, secret: dict[str, str]) -> None:
        self.secret = secret
        self.address = ""
        self.jobs: dict[str, dict[str, Any]] = {}
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.deleted: list[str] = []
        self.refuses: int | None = None  # with this code, whatever is asked

    def answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """One call of the API; None: there is no such Job."""
        name = path.partition("?")[0].rpartition("/jobs")[2].strip("/")
        if method == "POST":
            self._start(body)
            return body
        if name not in self.running:
            return None
        if method == "DELETE":
            self.deleted.append(name)
            self.running.pop(name).terminate()
            return {}
        code = self.running[name].poll()
        ended = {} if code is None else {"succeeded" if code == 0 else "failed": 1}
        return {**self.jobs[name], "status": ended}

    def _start(self, body: dict[str, Any]) -> None:
        name = body["metadata"]["name"]
        (container,) = body["spec"]["template"]["spec"]["containers"]
        self.jobs[name] = body
        self.running[name] = subprocess.Popen(
            container["command"],
            cwd=container["workingDir"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ["HOME"],
                **self.secret,
                **{entry["name"]: entry["value"] for entry in container.get("env", ())},
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
        )


@contextmanager
def pretended_kubernetes(secret: dict[str, str]) -> Iterator[Cluster]:
    """Serve on the loopback."""
    cluster = Cluster(secret)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else {}
            code, answer = cluster.refuses, None
            if code is None:
                answer = cluster.answer(self.command, self.path, body)
                code = 404 if answer is None else 200
            content = json.dumps(answer or {"message": "jobs.batch is forbidden"}).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    cluster.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        for process in cluster.running.values():
            process.terminate()
