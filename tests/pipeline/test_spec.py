"""Settings: one line that defaults do not change, read back equal; layers that import little."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from rwp.errors import UserError
from rwp.spec import Count, Name, PositiveFloat, Spec


@dataclass(frozen=True, kw_only=True)
class Inner(Spec):
    size: Count
    name: Name = "plain"


@dataclass(frozen=True, kw_only=True)
class Before(Spec):
    rate: PositiveFloat
    inner: tuple[Inner, ...]


@dataclass(frozen=True, kw_only=True)
class After(Spec):
    """`Before` with settings that are new to the program."""

    rate: PositiveFloat
    inner: tuple[Inner, ...]
    turns: Count = 0
    ranges: tuple[float, ...] = ()
    other: Inner = field(default_factory=lambda: Inner(size=1))


def test_a_new_setting_at_its_default_changes_no_text() -> None:
    parts = (Inner(size=0), Inner(size=2, name="x"))
    before, after = Before(rate=0.5, inner=parts), After(rate=0.5, inner=parts)
    assert before.canonical() == after.canonical()
    assert before.canonical() == '{"inner":[{"size":0},{"name":"x","size":2}],"rate":0.5}'
    for changed in (after.replace(turns=1), after.replace(ranges=(0.0,)), after.replace(rate=0.6)):
        assert changed.canonical() != after.canonical()
        assert After.parse(changed.canonical(), where="here") == changed
        assert After.parse(changed.document(), where="here") == changed
    assert set(after.document()) == {"rate", "inner", "turns", "ranges", "other"}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"inner":[],"rate":0}', "rate"),
        ('{"inner":[],"rate":"1"}', "rate"),
        ('{"inner":[],"rate":1.0,"more":1}', "more"),
        ('{"inner":[{"size":-1}],"rate":1.0}', "inner.0.size"),
        ('{"inner":[{"size":1,"name":"../x"}],"rate":1.0}', "inner.0.name"),
        ('{"inner":[]}', "rate"),
        ("[]", "the text"),
        ("{", "the text"),
    ],
)
def test_what_cannot_be_read_back_is_named(text: str, place: str) -> None:
    with pytest.raises(UserError, match=rf"here: expected a complete Before, .* fault at {place}"):
        Before.parse(text, where="here")


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (
            "rwp.training.spec rwp.evaluation.spec rwp.pipeline.load rwp.pipeline.suites",
            "torch numpy pandas",
        ),
        ("rwp.training.jobs rwp.core", "pydantic yaml typer mlflow pandas snakemake"),
    ],
)
def test_layers_import_little(modules: str, heavy: str) -> None:
    """A dry run pays for no torch; a bare machine with PyTorch trains without pydantic."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1].split(): importlib.import_module(name)\n"
        "assert not (found := set(sys.argv[2].split()) & set(sys.modules)), found\n"
    )
    subprocess.run([sys.executable, "-c", program, modules, heavy], check=True)
