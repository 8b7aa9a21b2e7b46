"""Tracking servers that misbehave, and a real one that can be killed."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.conftest import Project


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _Error500(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class _Garbage(_Error500):
    """A captive portal: 200 and a web page, whatever is asked."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>Please log in</html>")

    do_POST = do_GET  # noqa: N815


class _Drip(_Error500):
    """A byte every few seconds: no read ever times out."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(2)
        except OSError:
            pass

    do_POST = do_GET  # noqa: N815


_HANDLERS = {
    "answers 500": _Error500,
    "answers with a web page": _Garbage,
    "answers a byte every two seconds": _Drip,
}
KINDS = ("is absent", "accepts and never answers", *_HANDLERS)


@contextmanager
def bad_server(kind: str) -> Iterator[str]:
    """The address of a server of one of the `KINDS`."""
    if kind == "is absent":
        yield f"http://127.0.0.1:{free_port()}"
    elif kind == "accepts and never answers":
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _HANDLERS[kind])
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class RealServer:
    """`mlflow server` over a store of its own, which may be killed and started again."""

    def __init__(self, folder: Path, project: Project) -> None:
        self.folder, self.project, self.port = folder, project, free_port()
        folder.mkdir(exist_ok=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [str(Path(sys.executable).parent / "mlflow"), "server"]
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.process = subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.project.environment() | settings | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError("mlflow server did not start")

    def kill(self) -> None:
        import os
        import signal

        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=60)
