"""The real engines on a small suite: what would run after a change, and nothing else.

That it does run, and comes back from DVC, is in tests/faults.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Project
from tests.pipeline.repository import CopiedProject, new_repository, small_settings
from tests.pipeline.test_dag import planned

BUILD_SECONDS = 1200  # on a machine that does much else; alone it takes about one minute
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2 * BUILD_SECONDS),
    pytest.mark.xdist_group("built"),  # one project, one change after another
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any]) -> Project:
    """A git and DVC repository in which `dvc repro` has built the suite."""
    project = new_repository(tmp_path_factory.mktemp("built"), small_settings(committed))
    result = project.run("dvc", "repro", timeout=BUILD_SECONDS)
    assert result.returncode == 0, result.stdout + result.stderr
    return project


@pytest.fixture
def unchanged(built: CopiedProject) -> Any:
    """The built project; settings and code are put back afterwards."""
    files = {p: p.read_bytes() for p in [built.folder / "params.yaml"]}
    yield built
    for path, content in files.items():
        path.write_bytes(content)


def test_a_second_call_does_nothing(built: Project) -> None:
    assert planned(built) == {}
    result = built.run("dvc", "repro")
    assert result.returncode == 0
    assert "is up to date" in result.stdout + result.stderr or "didn't change" in result.stdout
    assert built.run("rwp", "verify").returncode == 0


def test_dvc_sees_the_users_own_images(built: Project) -> None:
    def changed() -> bool:
        return "images" in built.run("dvc", "status", "data").stdout

    own = built.folder / "images" / "own.png"
    assert not changed()
    own.write_bytes(b"an image")
    assert changed()
    own.unlink()
    (built.folder / "images" / "README.md").touch()
    assert not changed()


TABLES = {"table1": 1, "table2": 1, "metrics": 1, "report": 1}
CHANGES: dict[str, tuple[Any, dict[str, int]]] = {
    "c_min": (
        lambda demo: demo["perturbations"]["rwp"].update(c_min={"digits": 1.5}),
        # AT's own curve, figure 1b, stays
        {"train": 1, "evaluate_demo": 1, "diagnose": 1, "figure": 1, **TABLES},
    ),
    "gamma of AWP, which no run uses": (
        lambda demo: demo["perturbations"]["awp"].update(gamma=0.5),
        {},
    ),
    "step size of an attack": (
        lambda demo: demo["evaluation"]["attacks"]["pgd-100"].update(step_size="1/255"),
        {"evaluate_demo": 2, "diagnose": 2, "table2": 1, "metrics": 1, "report": 1},
    ),
    "epochs": (
        lambda demo: demo["training"].update(epochs=4),
        {"train": 2, "evaluate_demo": 2, "diagnose": 2, "figure": 2, **TABLES},
    ),
    "a seed more": (
        lambda demo: demo.update(seeds=[0, 1]),
        {"train": 2, "evaluate_demo": 2, "diagnose": 2, "figure": 2, **TABLES},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_exactly_what_depends_on_a_setting(name: str, unchanged: CopiedProject) -> None:
    change, expected = CHANGES[name]
    content = unchanged.settings
    change(content["suites"]["demo"])
    unchanged.write(content)
    jobs = planned(unchanged)
    jobs.pop("all", None)
    assert jobs == expected


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("core/losses.py", '"""', '"""Another word. ', set()),
        (
            "reporting/runs.py",
            "LAST_EPOCHS = 6",
            "LAST_EPOCHS = 5",
            {"table1", "table2", "report"},
        ),
        (
            "training/history.py",
            "0.5, 1.0, 1.5",
            "0.4, 1.0, 1.5",
            {"train", "evaluate_demo", "diagnose"},
        ),
    ],
)
def test_exactly_what_depends_on_a_line_of_code(
    name: str, old: str, new: str, expected: set[str], built: CopiedProject
) -> None:
    path = built.folder / "src" / "rwp" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    try:
        jobs = planned(built)
    finally:
        path.write_text(text)
    assert expected <= set(jobs)
    if not expected:
        assert jobs == {}


_BELOW = {"table2", "metrics", "report"}


def test_files_that_are_touched_or_gone(built: CopiedProject) -> None:
    (built.folder / "data/digits/train.pt").touch()
    assert planned(built) == {}
    for name, rule, below in (
        ("table1.csv", "table1", {"metrics", "report"}),
        ("comparisons.csv", "table2", {"metrics", "report"}),
        ("runs/digits/linf/small/at/seed0/evaluation/best/diagnosis.json", "diagnose", _BELOW),
    ):
        path = built.folder / "results/demo" / name
        before = path.read_bytes()
        path.unlink()
        assert {rule} <= set(planned(built)) <= {rule, *below, "all"}, name
        path.write_bytes(before)
