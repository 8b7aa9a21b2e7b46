"""A Postgres and an MLflow server on the loopback, for a test or a measurement and no longer."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ACCOUNT = "postgres"  # Debian's; the server refuses to run as root
DIES_TOO = ("--pdeathsig", "INT")  # setpriv: the server ends when who started it is killed


def postgres_programs() -> Path | None:
    """The folder of Postgres's own programs, the newest version's; none where it lacks."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if places:
        return places[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


def free_port() -> int:
    """One that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run a Postgres with its files in `folder`; yields the address of an empty database.

    Raises:
        RuntimeError: there is no Postgres, or it does not start.
    """
    programs = postgres_programs()
    if programs is None:
        raise RuntimeError("expected Postgres, found none; apt-get install postgresql")
    folder.mkdir(parents=True)
    password, port = secrets.token_hex(16), free_port()
    (folder / "password").write_text(password)
    as_account: tuple[str, ...] = ()
    if os.getuid() == 0:
        as_account = ("setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--clear-groups")
        for path in (folder, folder / "password"):
            shutil.chown(path, ACCOUNT, ACCOUNT)
    make = (programs / "initdb", "-D", folder / "data", "-U", "rwp", "--auth=scram-sha-256")
    _check(*as_account, *make, f"--pwfile={folder / 'password'}", "--no-sync", cwd=folder)
    place = ("-D", folder / "data", "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1")
    words = (*(as_account or ("setpriv",)), *DIES_TOO, programs / "postgres", *place)
    with _running(words, folder / "postgres.log", cwd=folder):
        address = f"postgresql://rwp:{password}@127.0.0.1:{port}"
        ready = (programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", port)
        _wait_for(lambda: subprocess.run(_texts(ready), check=False).returncode == 0, folder)
        _check(programs / "psql", "-q", f"{address}/postgres", "-c", "create database mlflow")
        yield f"{address}/mlflow"


@contextmanager
def mlflow_server(database: str, folder: Path, *, workers: int = 2) -> Iterator[str]:
    """Run an MLflow server on a database; settings as docs/cluster.md says; yields its address."""
    folder.mkdir(parents=True)
    port = free_port()
    settings = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": (folder / "artifacts").as_uri(),
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": str(workers),
        # Of connections to the database per worker; Postgres has 100 to give.
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(90 // workers),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "0",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    program = Path(sys.executable).parent / "mlflow"
    words = ("setpriv", *DIES_TOO, program, "server")
    with _running(words, folder / "mlflow.log", environment=os.environ | settings):
        address = f"http://127.0.0.1:{port}"
        _wait_for(lambda: _answers(f"{address}/health"), folder)
        yield address


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def _running(
    words: tuple[object, ...],
    log: Path,
    *,
    environment: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[None]:
    """A process and its children, ended in any case."""
    with log.open("w") as file:
        process = subprocess.Popen(
            _texts(words),
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            process_group=0,
        )
    try:
        yield
    finally:
        for number in (2, 15, 9):  # Postgres: SIGINT is its orderly and quick way to stop
            try:
                os.killpg(process.pid, number)
                process.wait(timeout=15)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue


def _wait_for(condition, folder: Path, *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise RuntimeError(f"expected a server within {seconds:g} s, got none:\n{logs}")
        time.sleep(0.2)


def _check(*words: object, cwd: Path | None = None) -> None:
    subprocess.run(_texts(words), check=True, stdout=subprocess.DEVNULL, cwd=cwd)


def _texts(words: tuple[object, ...]) -> list[str]:
    return [str(word) for word in words]
