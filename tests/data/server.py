"""A real HTTP server on the loopback that can misbehave in the ways real ones do."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served under which path, and what goes wrong."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    drop_after: int | None = None  # send this many bytes of a response, then hang up
    drops: int = 1  # how many responses to drop
    ranges: bool = True
    marks: dict[str, str] = field(default_factory=dict)  # headers that tell one file from another
    status: int | None = None
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"{self.address}/{path}"


@contextmanager
def serve() -> Iterator[FileServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.state = FileServer(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.state  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        state: FileServer = self.server.state  # type: ignore[attr-defined]
        asked = self.headers.get("Range")
        state.requests.append((self.path, asked))
        body = state.files.get(self.path.lstrip("/"))
        if state.status is not None or body is None:
            self.send_error(state.status or 404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges else 0
        if self.headers.get("If-Range") not in (None, *state.marks.values()):
            start = 0
        if start >= len(body) > 0 and start:
            self.send_error(416)
            return
        rest = body[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in state.marks.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if state.drop_after is not None and state.drops > 0:
            state.drops -= 1
            rest = rest[: state.drop_after]
        self.wfile.write(rest)

    def log_message(self, *_: object) -> None:
        pass
