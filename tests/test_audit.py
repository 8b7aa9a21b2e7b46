"""What `make audit` makes of a report: silence for lack of data is not a clean bill."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.conftest import ROOT

CLEAN = {"name": "torch", "version": "2.15.0", "vulns": []}
SKIPPED = {"name": "numpy", "skip_reason": "not found"}
FOUND = {
    "name": "jinja2",
    "version": "2.10",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"]}],
}


@pytest.fixture(scope="module")
def audit() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([CLEAN], 0, ["1 of 1 packages audited, 0 known vulnerabilities"]),
        ([CLEAN, SKIPPED], 0, ["no data here about 1 packages (numpy)", "1 of 2 packages audited"]),
        ([SKIPPED], 0, ["not audited", "0 of 1 packages audited"]),
        (
            [FOUND, SKIPPED],
            1,
            ["jinja2 2.10: PYSEC-2019-217 (fixed in 2.10.1)", "1 known vulnerabilities"],
        ),
    ],
)
def test_verdict(packages: list[Any], code: int, words: list[str], audit: Any) -> None:
    found, lines = audit.verdict({"dependencies": packages})
    assert found == code
    assert all(word in "\n".join(lines) for word in words)


def test_every_lock_is_audited(audit: Any) -> None:
    locks = {path for path in ROOT.glob("**/*.lock") if ".venv" not in path.parts}
    locks = {path for path in locks if not any(part.startswith(".") for part in path.parts)}
    assert set(audit.LOCKS) == {path for path in locks if "--hash=sha256:" in path.read_text()}
    assert len(audit.LOCKS) > 2
