"""After a change exactly what depends on it runs; Snakemake and DVC agree on it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from rwp.pipeline.load import check_params
from rwp.pipeline.suites import runs_of
from rwp.training.spec import RunKey
from tests.faults.ledger import attempt
from tests.faults.sample import sample
from tests.pipeline.repository import CopiedProject, new_repository, small_settings

pytestmark = pytest.mark.xdist_group("exact re-run")  # one project, one change after another
Jobs = Counter[str]
DEFENSES = ("at", "at-awp", "at-rwp")
TIMEOUT = 1800


def jobs_in(text: str) -> Jobs:
    """The jobs that Snakemake names, by their messages."""
    return Counter(re.findall(r"^Job \d+: (.*?)(?:; log: .*?)?\s*$", text, re.M))


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


def place_of(key: RunKey) -> str:
    return f"{key.recipe} ({key.dataset}, {key.threat})"


class Expected:
    """Which jobs a person would expect, from the settings alone."""

    def __init__(self, project: CopiedProject) -> None:
        params = self.params = check_params(project.settings)
        self.tables = {
            "table1": set(runs_of(params, "demo", "table1")),
            "table2": set(runs_of(params, "demo", "table2")),
        }
        self.figures = {
            name: set(runs_of(params, "demo", name))
            for name in params.suites["demo"].reported
            if name in params.suites["demo"].figures
        }

    def runs(self, recipes: tuple[str, ...], seeds: tuple[int, ...]) -> set[RunKey]:
        known = set().union(*self.tables.values(), *self.figures.values())
        return {key for key in known if key.recipe in recipes and key.seed in seeds}

    @staticmethod
    def training(key: RunKey) -> str:
        return f"Training {key.directory}/last.pt"

    def evaluations(self, *recipes: str, seeds: tuple[int, ...] = (0,)) -> Jobs:
        """Attacks on runs of Table 2, the verdict on them, and what shows their outcome."""
        measured = self.runs(recipes, seeds) & self.tables["table2"]
        jobs = Counter(f"Attacking {key.directory}/best.pt: the cheap attacks" for key in measured)
        jobs += self.verdicts(*recipes, seeds=seeds)
        return jobs + self.written("table2", "report") if measured else jobs

    def verdicts(self, *recipes: str, seeds: tuple[int, ...] = (0,)) -> Jobs:
        """On runs of Table 2."""
        measured = self.runs(recipes, seeds) & self.tables["table2"]
        return Counter(f"Judging {place_of(key)} by its records" for key in measured)

    def written(self, *names: str) -> Jobs:
        """Tables and the report; what is in short for DVC follows the tables."""
        ends = {"report": "html"}
        jobs = Counter(f"Writing results/demo/{name}.{ends.get(name, 'csv')}" for name in names)
        if {"table1", "table2"} & {*names}:
            jobs["Writing results/metrics/demo.json"] = 1
        return jobs

    def of_runs(self, *recipes: str, seeds: tuple[int, ...] = (0,)) -> Jobs:
        """All that stands on the runs of some recipes."""
        changed = self.runs(recipes, seeds)
        jobs = Counter(self.training(key) for key in changed)
        jobs |= self.evaluations(*recipes, seeds=seeds) | self.written("report")
        jobs += Counter(
            f"Drawing results/demo/{name}.svg"
            for name, keys in self.figures.items()
            if keys & changed
        )
        return jobs | (self.written("table1") if self.tables["table1"] & changed else Counter())


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
        "step size of one attack",
        setting(lambda demo: demo["evaluation"]["attacks"]["pgd-100"].update(step_size="1/255")),
        lambda x: x.evaluations(*DEFENSES),
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
        lambda x: x.written("table2", "report"),
    ),
    Change(
        "a checkpoint deleted",
        delete(f"{RUN}/best.pt"),
        # The verdict on a defense may need images made for AT.
        lambda x: x.of_runs("at") | x.verdicts(*DEFENSES),
    ),
    Change(
        "a record deleted",
        delete(f"{RUN}/evaluation/best/fgsm.json"),
        lambda x: x.evaluations("at"),
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


def test_the_first_build_runs_everything_once(built: tuple[CopiedProject, Jobs]) -> None:
    everything = Counter({"Fetching digits": 1})
    assert built[1] == everything + Expected(built[0]).of_runs(*DEFENSES)


@pytest.mark.parametrize(
    ("change", "engine"),
    [
        pytest.param(change, ("dvc", "snakemake")[place % 2], id=f"{change.name}")
        for place, change in sample("changes", list(enumerate(CHANGES)), 5)
    ],
)
def test_exactly_what_depends_on_a_change(
    change: Change, engine: str, built: tuple[CopiedProject, Jobs]
) -> None:
    """Snakemake plans it, one engine runs it, and then the other finds nothing to do."""
    project, _ = built
    change.make(project)
    expected = change.expect(Expected(project))
    with attempt(f"exact re-run: {change.name}"):
        assert planned(project) == expected
        assert run(project, engine) == expected
        other = "snakemake" if engine == "dvc" else "dvc"
        assert run(project, other) == Counter()
        verified = project.run("rwp", "verify")
        assert verified.returncode == 0, verified.stdout


def test_dvc_has_kept_every_state(built: tuple[CopiedProject, Jobs]) -> None:
    status = built[0].run("dvc", "status")
    assert "up to date" in status.stdout, status.stdout


def test_a_retraining_that_fails_leaves_no_old_number(built: tuple[CopiedProject, Jobs]) -> None:
    """Its training fails, then the fault is gone: both engines still know all that is stale."""
    project, _ = built
    setting(lambda demo: demo["perturbations"]["rwp"].update(c_min={"digits": 1.1}))(project)
    expected = Expected(project).of_runs("at-rwp", seeds=(0, 1))
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
        "[Tue]\nJob 3: Training results/x/last.pt; log: logs/x.log\nReason: x\nJob 12: Drawing y\n"
    )
    assert jobs_in(text) == Counter({"Training results/x/last.pt": 1, "Drawing y": 1})
