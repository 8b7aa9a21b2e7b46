"""`rwp ui`: MLflow's pages over this project's runs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from rwp.errors import UserError

_HOST = "127.0.0.1"
_FIRST, _TRIED = 5000, 20  # ports
# A server for one person on one machine: no jobs of its own, no telemetry.
_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def ui(
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port on this machine; default: 5000, or the next free one."
        ),
    ] = None,
) -> None:
    """Show MLflow on this machine, and print a link for each suite; Ctrl-C ends it."""
    from rwp.tracking import page_links, tracking_uri, without_user

    os.environ |= {name: value for name, value in _QUIET.items() if name not in os.environ}
    root = Path.cwd()
    store = tracking_uri(root)
    if store.startswith(("http://", "https://")):
        # A server runs already, and not on this machine.
        _show(page_links(root, without_user(store).rstrip("/")))
        return
    if not (root / "mlflow.db").exists() and store.startswith("sqlite"):
        print("No run is logged yet: train first, e.g. `make demo`.", file=sys.stderr)
    port = _free(port)
    _show(page_links(root, f"http://{_HOST}:{port}"))
    print("The pages answer in about 20 seconds. Ctrl-C ends them.", flush=True)
    server = [sys.executable, "-m", "mlflow", "server", "--host", _HOST]
    options = ["--port", str(port), "--workers", "1", "--backend-store-uri", store]
    try:
        raise typer.Exit(subprocess.run([*server, *options], check=False).returncode)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _free(port: int | None) -> int:
    """The port that was asked for, or the first from 5000 on at which nobody answers.

    Raises:
        UserError: another program has it: the links would lead to its pages.
    """
    for candidate in range(_FIRST, _FIRST + _TRIED) if port is None else [port]:
        with socket.socket() as there, socket.socket() as ours:
            if there.connect_ex((_HOST, candidate)) == 0:  # on macOS a system service has 5000
                continue
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            with suppress(OSError):
                ours.bind((_HOST, candidate))
                return candidate
    last = _FIRST + _TRIED - 1
    raise UserError(
        f"--port: expected a free port, got {port or f'{_FIRST} to {last}'}, which other programs "
        "have; name another"
    )


def _show(links: dict[str, str]) -> None:
    for suite, link in links.items():
        print(f"{suite:>12}  {link}", flush=True)
