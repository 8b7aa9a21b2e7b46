"""The code hash: comments do not count, a changed number does, and so does where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwp.pipeline import code as codehash

FILES = {
    "attacks.py": '"""Attacks."""\n\ndef step(x):\n    """One step."""\n    return x + 1\n',
    "loop.py": "def train():\n    from rwp.attacks import step  # lazy\n    return step(0)\n",
    "table.py": "WIDTH = 3\n",
    "tracking.py": "URI = 1\n",
    "uses_tracking.py": "from rwp.tracking import URI\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(codehash, "_ROOT", tmp_path)
    return tmp_path


def hashes() -> dict[str, str]:
    codehash._scan.cache_clear()
    return {name: codehash.code_hash(f"rwp.{name}") for name in ("loop", "table", "uses_tracking")}


@pytest.fixture(autouse=True)
def _fresh_cache():
    yield
    codehash._scan.cache_clear()


def changed(package: Path, name: str, old: str, new: str) -> set[str]:
    before = hashes()
    path = package / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    after = hashes()
    return {key for key in after if after[key] != before[key]}


def test_comments_docstrings_and_formatting_do_not_count(package: Path) -> None:
    assert changed(package, "attacks.py", '"""One step."""', '"""Another sentence."""') == set()
    assert changed(package, "attacks.py", "x + 1", "(x  +  1)  # why") == set()


def test_a_real_change_reaches_all_that_import_it_even_lazily(package: Path) -> None:
    assert changed(package, "attacks.py", "x + 1", "x + 2") == {"loop"}
    assert changed(package, "table.py", "3", "4") == {"table"}


def test_infrastructure_does_not_count(package: Path) -> None:
    assert changed(package, "tracking.py", "URI = 1", "URI = 2") == set()


def test_unknown_module() -> None:
    with pytest.raises(ValueError, match=r"expected a module of rwp, got 'rwp\.nothing'"):
        codehash.code_hash("rwp.nothing")


def test_training_stands_on_the_algorithm_and_not_on_the_report() -> None:
    todo, seen = ["rwp.training.jobs"], set()
    while todo:
        module = todo.pop()
        if module not in seen and not codehash.is_infrastructure(module):
            seen.add(module)
            todo += codehash._scan(module)[1]
    for needed in ("core.weight_perturbation", "core.attacks", "data.augmentation", "rng"):
        assert f"rwp.{needed}" in seen
    assert not {name for name in seen if "reporting" in name or "evaluation" in name}
