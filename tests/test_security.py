"""Nothing from outside is run, and nothing is written outside the project."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.training.spec import PseudoLabelSpec, RunKey, TrainSpec
from tests.conftest import ROOT, Project

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a module with the name of what is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_files_are_read_without_running_what_they_hold() -> None:
    """torch.load with weights_only, YAML by the safe loader, pickles by the restricted one."""
    loads = 0
    for path in SOURCES:
        for name, call in calls(path):
            words = {word.arg: ast.unparse(word.value) for word in call.keywords}
            if name == "torch.load":
                assert words.get("weights_only") == "True", f"{path}:{call.lineno}"
                loads += 1
            assert name not in {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load"}, path
            assert "shell" not in words or words["shell"] == "False", f"{path}:{call.lineno}"
            if name.startswith("pickle."):
                assert path.name == "safe_pickle.py", path
            if name in {"np.load", "numpy.load"}:
                assert words.get("allow_pickle", "False") == "False", f"{path}:{call.lineno}"
    assert loads >= 4


def test_servers_are_for_this_machine_alone() -> None:
    for path in [ROOT / "Makefile", *SOURCES, *sorted((ROOT / "workflow").rglob("*.smk"))]:
        text = path.read_text()
        assert "0.0.0.0" not in text, path
        for line in re.findall(r"mlflow (?:server|ui).*(?:\\\n.*)*", text):
            assert "--host 127.0.0.1" in line, path


def test_names_and_texts_reach_a_shell_quoted() -> None:
    """Names are harmless by their rules; whatever else a rule puts into its command is quoted."""
    harmless = {"log", "output.losses", "params.fingerprint", "params.suite", "resources.gpu"}
    whole = r'"(python -m rwp [^\n]*(?:"\n\s*"[^\n]*)*)"'
    part = r'^ +"((?:table|figure|claims|report)\b[^"]*)",$'  # params.command of report.smk
    found = {whole: 0, part: 0}
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        for pattern in found:
            for command in re.findall(pattern, path.read_text(), re.MULTILINE):
                found[pattern] += 1
                for field in re.findall(r"\{([^}]*)\}", command):
                    name, _, how = field.partition(":")
                    known = name in {*harmless, "params.command", "figure"}
                    assert how == "q" or known or name.startswith("wildcards."), command
    assert found[whole] >= 8
    assert found[part] == 6  # tables, metrics, claims and figures


ESCAPES = ["../../elsewhere", "/etc/passwd", "a/b", "x; rm -rf", "$(id)", "..", "", "A", "x" * 65]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("part", ["suite", "dataset", "threat", "network", "recipe"])
def test_a_run_cannot_be_named_out_of_the_project(name: str, part: str) -> None:
    key = {"suite": "s", "dataset": "d", "threat": "t", "network": "n", "recipe": "r", "seed": 0}
    with pytest.raises(UserError, match=f"expected a complete RunKey, got a fault at {part}"):
        RunKey.parse(json.dumps(key | {part: name}), where="--resolved")


def test_a_resolved_slice_cannot_leave_the_project(project: Project) -> None:
    content = yaml.safe_load((project.folder / "params.yaml").read_text())
    params = check_params(content)
    place = {"dataset": "digits", "threat": "linf", "seed": 0}
    spec = train_spec(params, run_key(params, "demo", recipe="rst", **place))
    slice_ = spec.document()
    slice_["unlabeled"]["source"] = "../../outside"
    with pytest.raises(UserError, match=r"fault at unlabeled\.source"):
        TrainSpec.parse(slice_, where="--resolved")
    labels = [field.name for field in fields(PseudoLabelSpec)]
    labeling = {name: slice_["unlabeled"][name] for name in labels}
    with pytest.raises(UserError, match="fault at source"):
        PseudoLabelSpec.parse(labeling, where="--resolved")
    words = ("train", "--resolved", spec.canonical(), "--fingerprint", "../../outside")
    result = project.run("rwp", *words)
    assert result.returncode == 2
    assert "--fingerprint: expected up to 64 letters and digits" in result.stderr
    assert "\n" not in result.stderr.strip()
