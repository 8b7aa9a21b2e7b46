"""Each planted fault of tests/mutants still fits the code: otherwise it would never be tried."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.conftest import ROOT


def test_every_planted_fault_stands_in_the_code_once(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "tests" / "mutants"
    monkeypatch.syspath_prepend(folder)
    spec = importlib.util.spec_from_file_location("planting", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    planting = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "planting", planting)
    spec.loader.exec_module(planting)
    found = planting.places(planting.FAULTS, ROOT)  # raises with a line for each that does not
    assert len(found) == len(planting.FAULTS) >= 60
