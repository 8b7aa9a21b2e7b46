from collections.abc import Iterator

import pytest

from rwp.data import download
from tests.data.server import FileServer, serve


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
