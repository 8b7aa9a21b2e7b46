"""After a change exactly what depends on it runs; Snakemake and DVC agree on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rwp.config.load import check_params
from rwp.config.tables import table1_runs, table2_runs
from tests.faults.ledger import attempt
from tests.workflow.repository import CopiedProject, new_repository, small_settings

Jobs = Counter[str]
DEFENSES = ("at", "at-awp", "at-rwp")
TIMEOUT = 1800


def jobs_in(text: str) -> Jobs:
    """The jobs that Snakemake names, by their messages."""
    return Counter(re.findall(r"^Job \d+: (.*?)\s*$", text, re.M))


def planned(project: CopiedProject) -> Jobs:
    """What `snakemake` would run now."""
    found = project.snakemake("-n", timeout=TIMEOUT)
    assert found.returncode == 0, found.stdout + found.stderr
    return jobs_in(found.stdout + found.stderr)


def run(project: CopiedProject, engine: str) -> Jobs:
    """Let an engine do its work; the jobs that it really ran."""
    if engine == "dvc":
        found = project.run("dvc", "repro", timeout=TIMEOUT)
    else:
        found = project.snakemake(timeout=TIMEOUT)
    assert found.returncode == 0, found.stdout + found.stderr
    return jobs_in(found.stdout + found.stderr)


class Expected:
    """Which jobs a person would expect, from the settings alone."""

    def __init__(self, project: CopiedProject, everything: Jobs) -> None:
        params = check_params(project.settings)
        self.first, self.second = table1_runs(params, "demo"), table2_runs(params, "demo")
        self.everything = everything

    def trainings(self, *recipes: str, seeds: tuple[int, ...] = (0,)) -> Jobs:
        runs = {*self.first, *self.second}
        return Counter(
            f"Training {key.recipe} on {key.dataset} ({key.threat}, {key.network}, seed {key.seed})"
            for key in runs
            if key.recipe in recipes and key.seed in seeds
        )

    def evaluations(self, *recipes: str, seeds: tuple[int, ...] = (0,)) -> Jobs:
        return Counter(
            f"Running the cheap attacks on {key.recipe} ({key.dataset}, {key.threat})"
            for key in self.second
            if key.recipe in recipes and key.seed in seeds
        )

    def made(self, *words: str) -> Jobs:
        """Those of the first build whose message holds one of the words."""
        return Counter({name: 1 for name in self.everything if any(word in name for word in words)})

    def of_runs(self, *recipes: str, seeds: tuple[int, ...] = (0,)) -> Jobs:
        """All that stands on the runs of some recipes."""
        closing = self.made("Drawing ", "table1.csv", "table2.csv", "report.html")
        return (
            self.trainings(*recipes, seeds=seeds)
            + self.evaluations(*recipes, seeds=seeds)
            + closing
        )


@dataclass(frozen=True)
class Change:
    """Something a person does, and what has to run because of it."""

    name: str
    make: Callable[[CopiedProject], Any]
    expect: Callable[[Expected], Jobs]


def setting(change: Callable[[dict[str, Any]], Any]) -> Callable[[CopiedProject], None]:
    def make(project: CopiedProject) -> None:
        content = project.settings
        change(content["suites"]["demo"])
        project.write(content)

    return make


def in_file(name: str, old: str, new: str) -> Callable[[CopiedProject], None]:
    def make(project: CopiedProject) -> None:
        path = project.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return make


def rewrite(project: CopiedProject) -> None:
    """The same bytes with another date."""
    path = project.folder / "data/digits/train.pt"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)


def delete(name: str) -> Callable[[CopiedProject], None]:
    return lambda project: (project.folder / name).unlink()


RUN = "results/demo/runs/digits/linf/small/at/seed0"
CHANGES = (
    Change("nothing", lambda project: None, lambda x: Counter()),
    Change(
        "c_min of one data set",
        setting(lambda demo: demo["perturbations"]["rwp"].update(c_min={"digits": 1.5})),
        lambda x: x.of_runs("at-rwp"),
    ),
    Change(
        "gamma of AWP",
        setting(lambda demo: demo["perturbations"]["awp"].update(gamma=0.02)),
        lambda x: x.of_runs("at-awp"),
    ),
    Change(
        "steps of one attack",
        setting(lambda demo: demo["evaluation"]["attacks"]["pgd-100"].update(num_steps=5)),
        lambda x: x.evaluations(*DEFENSES) + x.made("table2.csv", "report.html"),
    ),
    Change(
        "a comment in params.yaml",
        lambda p: (p.folder / "params.yaml").write_text(
            "# why\n" + (p.folder / "params.yaml").read_text()
        ),
        lambda x: Counter(),
    ),
    Change(
        "a comment in the source",
        in_file("src/rwp/core/attacks.py", "\nimport ", "\n# a remark\nimport "),
        lambda x: Counter(),
    ),
    Change("a data file touched, equal", rewrite, lambda x: Counter()),
    Change(
        "a table deleted",
        delete("results/demo/table2.csv"),
        lambda x: x.made("table2.csv", "report.html"),
    ),
    Change("a checkpoint deleted", delete(f"{RUN}/best.pt"), lambda x: x.of_runs("at")),
    Change(
        "a record deleted",
        delete(f"{RUN}/evaluation/best/fgsm.json"),
        lambda x: x.evaluations("at") + x.made("table2.csv", "report.html"),
    ),
    Change(
        "a real change in core/attacks.py",
        in_file("src/rwp/core/attacks.py", "\nimport ", "\nPLANTED = 1\nimport "),
        lambda x: x.of_runs(*DEFENSES),
    ),
    Change(
        "epochs",
        setting(lambda demo: demo["training"].update(epochs=4)),
        lambda x: x.of_runs(*DEFENSES),
    ),
    Change(
        "a seed more",
        setting(lambda demo: demo.update(seeds=[0, 1])),
        lambda x: x.of_runs(*DEFENSES, seeds=(1,)),
    ),
)


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any]
) -> tuple[CopiedProject, Jobs]:
    content = small_settings(committed, *DEFENSES)
    project = new_repository(tmp_path_factory.mktemp("exact"), content)
    # What the data stage has made is there when the second stage is planned.
    return project, run(project, "dvc")


@pytest.mark.parametrize(
    ("change", "engine"),
    [
        pytest.param(change, ("dvc", "snakemake")[place % 2], id=f"{change.name}")
        for place, change in enumerate(CHANGES)
    ],
)
def test_exactly_what_depends_on_a_change(
    change: Change, engine: str, built: tuple[CopiedProject, Jobs]
) -> None:
    """Snakemake plans it, one engine runs it, and then the other finds nothing to do."""
    project, everything = built
    change.make(project)
    expected = change.expect(Expected(project, everything))
    with attempt(f"exact re-run: {change.name}"):
        assert planned(project) == expected
        assert run(project, engine) == expected
        assert planned(project) == Counter()
        other = "snakemake" if engine == "dvc" else "dvc"
        assert run(project, other) == Counter()
        verified = project.run("rwp", "verify")
        assert verified.returncode == 0, verified.stdout


def test_dvc_has_kept_every_state(built: tuple[CopiedProject, Jobs]) -> None:
    status = built[0].run("dvc", "status")
    assert "up to date" in status.stdout, status.stdout


def test_a_retraining_that_fails_leaves_no_old_number(built: tuple[CopiedProject, Jobs]) -> None:
    """Its training fails, then the fault is gone: both engines still know all that is stale."""
    project, everything = built
    setting(lambda demo: demo["perturbations"]["rwp"].update(c_min={"digits": 1.1}))(project)
    expected = Expected(project, everything).of_runs("at-rwp", seeds=(0, 1))
    path = project.folder / "src/rwp/training/guards.py"  # outside of the fingerprints
    sound = path.read_text()
    with attempt("exact re-run: a retraining that fails"):
        assert planned(project) == expected
        path.write_text(sound + "\nraise RuntimeError('planted')\n")
        failed = project.run("dvc", "repro", timeout=TIMEOUT)
        assert failed.returncode != 0
        path.write_text(sound)
        assert planned(project) == expected
        shown = project.run("rwp", "table", "table2", "--show")
        assert re.search(r"AT-RWP\s*│?\s*-", shown.stdout.replace("┃", "│")), shown.stdout
        assert run(project, "dvc") == expected
        assert planned(project) == Counter()
        assert project.run("rwp", "verify").returncode == 0


def test_the_log_of_jobs_is_read_right() -> None:
    text = (
        "[Tue]\nJob 3: Training at on digits (linf, small, seed 0)\nReason: x\nJob 12: Drawing y\n"
    )
    assert jobs_in(text) == Counter(
        {"Training at on digits (linf, small, seed 0)": 1, "Drawing y": 1}
    )


def test_data_are_not_made_again(built: tuple[CopiedProject, Jobs]) -> None:
    fetched = [name for name in built[1] if name.startswith("Fetching")]
    assert fetched
    assert Path(built[0].folder / "data/digits/passport.json").exists()
