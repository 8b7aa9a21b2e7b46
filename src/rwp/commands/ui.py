"""`rwp ui`: MLflow's pages over this project's runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

# A server for one person on one machine: no jobs of its own, no telemetry.
_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Show MLflow on this machine, and print a link for each suite; Ctrl-C ends it."""
    from rwp.tracking import page_links, tracking_uri

    os.environ |= {name: value for name, value in _QUIET.items() if name not in os.environ}
    root, address = Path.cwd(), f"http://127.0.0.1:{port}"
    store = tracking_uri(root)
    if store.startswith(("http://", "https://")):
        _show(page_links(root, store.rstrip("/")))  # a server runs already, and not on this machine
        return
    if not (root / "mlflow.db").exists() and store.startswith("sqlite"):
        print("No run is logged yet: train first, e.g. `make demo`.", file=sys.stderr)
    _show(page_links(root, address))
    print("The pages answer in about 20 seconds. Ctrl-C ends them.", flush=True)
    server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    options = ["--port", str(port), "--workers", "1", "--backend-store-uri", store]
    try:
        raise typer.Exit(subprocess.run([*server, *options], check=False).returncode)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _show(links: dict[str, str]) -> None:
    for suite, link in links.items():
        print(f"{suite:>12}  {link}", flush=True)
