"""A small project whose runs are written by hand, so that each number of a table is known."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from rwp.evaluation.records import pack
from rwp.evaluation.spec import EvaluationSpec, LandscapeSpec
from rwp.pipeline.load import check_params
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec, landscape_spec
from rwp.pipeline.settings import Params
from rwp.pipeline.state import results
from rwp.pipeline.steps import Steps, below
from rwp.pipeline.suites import diagnosis_spec, figure_names
from rwp.reporting import paper_settings, report
from rwp.reporting.figures import write_suite_figure
from rwp.reporting.lines import lines_of
from rwp.reporting.paper_settings import PaperSettings
from rwp.reporting.report import render_report
from rwp.reporting.results import Results, read_results
from rwp.training.spec import RunKey, TrainSpec

from .settings import PARAMS, paper_content, paper_settings_of, shown_content


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at the text alone: drawing takes most of a report's time."""
    monkeypatch.setattr(report, "own_figures", lambda *_, **__: iter(()))


class Project:
    """A folder with results in it, and the settings that they were made with."""

    def __init__(self, root: Path, params: Params, suite: str) -> None:
        self.root, self.params, self.suite = root, params, suite
        self._steps = Steps(params)

    @property
    def steps(self) -> Steps:
        """Those of its settings, which a test may replace."""
        if self._steps.params is not self.params:
            self._steps = Steps(self.params)
        return self._steps

    def write_run(
        self,
        key: RunKey,
        curve: list[float],
        *,
        held_out: list[float] | None = None,
        status: str = "finished",
        reason: str = "",
    ) -> Path:
        """Write run.json and history.jsonl for a curve of robust test accuracies."""
        chosen_by = held_out or curve
        rows = [
            {
                "epoch": epoch,
                "learning_rate": 0.1,
                "train_loss": 2.0 - 0.1 * epoch,
                "train_robust_accuracy": min(1.0, value + 0.1),
                "held_out_robust_accuracy": chosen_by[epoch],
                "test_clean_accuracy": 0.9,
                "test_robust_accuracy": value,
                "share_below_c_min": 0.25,
                "share_removed": 0.1 * epoch,
                "seconds": 1.5,
            }
            for epoch, value in enumerate(curve)
        ]
        best = max(range(len(rows)), key=chosen_by.__getitem__)
        folder = self.root / key.directory
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "history.jsonl").write_text(lines, encoding="utf-8")
        document = {
            "format": "rwp.run/1",
            "status": status,
            "reason": reason,
            "fingerprint": self.steps.train(key).fingerprint,
            "key": key.document(),
            "spec": train_spec(self.params, key).document(),
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "versions": {"torch": "2.15.0"},
            "device": "cpu",
            "threads": 1,
            "inputs": {},
            "parameters": 12345,
            "seconds": 12.5,
            "passes": {"forward": 1100, "backward": 1000},
            "best": rows[best],
            "last": rows[-1],
            "mlflow_run_id": None,
        }
        (folder / "run.json").write_text(json.dumps(document), encoding="utf-8")
        return folder

    def write_record(
        self,
        key: RunKey,
        name: str,
        count: int,
        *,
        examples: int = 400,
        place: str = "best",
        **changes: Any,
    ) -> Path:
        """Write the record of one attack on the best checkpoint, or on that of `place`."""
        spec = evaluation_spec(self.params, key, attacks=(name,), checkpoint=place)
        clean = changes.get("num_clean_correct", max(count, round(0.95 * examples)))
        record = {
            "format": "rwp.evaluation/1",
            "fingerprint": self.fingerprint_of(spec.record(name)),
            "key": key.document(),
            "checkpoint": place,
            "checkpoint_sha256": "0" * 64,
            "data_sha256": "1" * 64,
            "attack": spec.attacks[0].document(),
            "num_examples": examples,
            "num_clean_correct": clean,
            "num_robust": count,
            "clean_bits": pack(np.arange(examples) < clean),
            "robust_bits": pack(np.arange(examples) < count),
            "max_perturbation": 0.031,
            "num_nan": 0,
            "seconds": 2.0,
            "seed": 0,
            "batch_size": 64,
            "device": "cpu",
            "versions": {"torch": "2.15.0"},
            "warnings": [],
            "parts": {},
        } | changes
        path = self.root / spec.record(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record), encoding="utf-8")
        return path

    def write_diagnosis(self, key: RunKey, level: str = "green", **changes: Any) -> Path:
        """Write the verdict on the records that lie there."""
        spec = diagnosis_spec(self.params, key)
        records = {
            attack.name: json.loads((self.root / spec.evaluation.record(attack.name)).read_text())
            for attack in spec.evaluation.attacks
        }
        content = {
            "format": "rwp.diagnosis/1",
            "fingerprint": self.fingerprint_of(spec.path),
            "level": level,
            "gap": 4.0,
            "band": {"green": 6.5, "red": 9.0, "source": "nothing is published"},
            "reasons": [{"level": level, "text": "PGD is 4.0 points above AutoAttack"}],
            "follow_up": None,
            "records": {name: record["fingerprint"] for name, record in records.items()},
        } | changes
        path = self.root / spec.path
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    def fingerprint_of(self, path: PurePath) -> str:
        """The fingerprint of a file under these settings."""
        return self.steps.find(str(path)).fingerprint_of(str(path))

    def results(self, *parts: str) -> Results:
        """What lies there now: all that the report shows, unless parts are named."""
        return read_results(self.params, self.suite, root=self.root, parts=parts or None)

    def table1_keys(self, recipe: str, threat: str = "linf") -> list[RunKey]:
        """The runs of one row of Table 1, on its last data set."""
        dataset = self.params.suites[self.suite].table1.datasets[-1]
        for line in lines_of(self.params, self.suite, "table1"):
            if (line.recipe, line.keys[0].threat, line.dataset) == (recipe, threat, dataset):
                return list(line.keys)
        raise KeyError(recipe)

    def table2_keys(self, recipe: str) -> list[RunKey]:
        """The runs of one row of Table 2."""
        lines = lines_of(self.params, self.suite, "table2")
        return next(list(line.keys) for line in lines if line.recipe == recipe)

    def write_figures(self) -> None:
        """All runs behind the reported figures and the table beyond, and the pictures."""
        suite = self.params.suites[self.suite]
        found = results(below([self.steps.report(self.suite)]))
        position = 0
        for result in found:
            spec, there = result.step.settings, (self.root / result.path).exists()
            if isinstance(spec, TrainSpec) and not there:
                accuracies = [0.2, 0.4, 0.45, 0.5, 0.48, 0.47, 0.46, 0.4 + position / 500]
                self.write_run(spec.key, accuracies)
            elif isinstance(spec, EvaluationSpec) and not there:
                self.write_record(spec.key, Path(result.path).stem, 210)
            elif isinstance(spec, LandscapeSpec):
                self.write_landscape(Path(result.path).stem)
            position += isinstance(spec, TrainSpec)
        for name in figure_names(suite):
            write_suite_figure(self.results(name), name)

    def write_landscape(self, name: str) -> None:
        """Losses that rise more steeply the smaller a group's loss is."""
        spec = landscape_spec(self.params, self.suite, name)
        path = self.root / spec.result(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{key.seed},{split},{epoch},{group},{offset / 5},1,{height * offset**2 / 25},9"
            for key in spec.keys
            for split in ("train", "test")[: 1 + spec.test_images]
            for epoch in spec.epochs
            for group, height in (("0-0.5", 9), ("0.5-1", 8), ("1-1.5", 7))
            for offset in range(-5, 6)
        ]
        columns = "seed,split,epoch,group,offset,loss,change,num_examples"
        path.write_text("\n".join([columns, *rows]) + "\n")
        self.write_landscape_state(name)

    def write_landscape_state(self, name: str, **other: Any) -> None:
        """What a landscape says it was measured of: today's settings and code, unless given."""
        step = self.steps.landscape(self.suite, name)
        document = {
            "format": "rwp.landscape/1",
            "spec": step.settings.document(),
            "fingerprint": step.fingerprint,
        }
        (self.root / step.outputs[1]).write_text(json.dumps(document | other), encoding="utf-8")

    def write_all(self) -> None:
        """Every run and record of both tables, each defense a little better than the one before."""
        suite = self.params.suites[self.suite]
        curve = [0.20, 0.35, 0.45, 0.50, 0.52, 0.50, 0.48, 0.46]
        for position, recipe in enumerate(suite.table1.recipes):
            for threat in suite.table1.threat_models:
                for key in self.table1_keys(recipe, threat):
                    self.write_run(key, [value + 0.02 * position for value in curve])
        # Robust images under natural, FGSM, PGD-20, PGD-100, CW and AutoAttack.
        counts = (360, 260, 220, 216, 212, 204)
        for position, recipe in enumerate([*suite.table2.recipes, "natural"]):
            for key in self.table2_keys(recipe):
                self.write_run(key, [value + 0.02 * (position % 3) for value in curve])
                for attack, count in zip(suite.evaluation.attacks, counts, strict=True):
                    weak = recipe == "natural" and attack != "natural"
                    self.write_record(key, attack, 4 if weak else count + 2 * position)
                self.write_diagnosis(key)


@pytest.fixture
def demo(tmp_path: Path) -> Project:
    """An empty project with the suite `demo`."""
    return Project(tmp_path, check_params(copy.deepcopy(PARAMS)), "demo")


@pytest.fixture
def small_paper(monkeypatch: pytest.MonkeyPatch) -> PaperSettings:
    """The settings of `paper_content` in the place of the paper's."""
    found = paper_settings_of(check_params(paper_content()))
    for row in found.table2.values():
        row.get("unlabeled", {})["kind"] = "tinyimages-500k"
    monkeypatch.setattr(paper_settings, "paper_settings", lambda: found)
    return found


@pytest.fixture
def paper(tmp_path: Path, small_paper: PaperSettings) -> Project:
    """An empty project with the suite `paper` on CIFAR-10 and SVHN, which is the paper."""
    return Project(tmp_path, check_params(paper_content()), "paper")


@pytest.fixture
def filled(tmp_path: Path, everything: Project) -> Project:
    """A copy of `everything` to spoil."""
    root = tmp_path / "filled"
    shutil.copytree(everything.root, root)
    return Project(root, everything.params, "demo")


@pytest.fixture
def shown(tmp_path: Path) -> Project:
    """An empty project with the suite `demo` and every kind of figure."""
    return Project(tmp_path, check_params(shown_content()), "demo")


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A complete project with every kind of figure, and the table beyond; read only."""
    root = tmp_path_factory.mktemp("everything")
    project = Project(root, check_params(shown_content()), "demo")
    project.write_all()
    project.write_figures()
    return project


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a complete demo."""
    root = tmp_path_factory.mktemp("project")
    project = Project(root, check_params(copy.deepcopy(PARAMS)), "demo")
    project.write_all()
    return render_report(project.results())
