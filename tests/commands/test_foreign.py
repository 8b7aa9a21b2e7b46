"""`rwp evaluate --model`, `--epsilons` and `rwp diagnose --model`, as a user types them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rwp.commands.evaluate import _radii
from rwp.commands.external import ExternalRequest, evaluate_request, show_verdict
from rwp.core import build_network
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.verdict import Reason, Verdict
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.spec import radius_value
from rwp.training.spec import RunKey
from tests.conftest import Project

NET = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def tables():
    class Tables(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net().double()
        def forward(self, images):
            images.mul_(1.0)  # it writes into its input
            return {"logits": self.net(images), "more": images.flatten(1)}
    return Tables()
"""


@pytest.fixture
def model(committed: dict[str, Any]) -> ExternalRequest:
    content = copy.deepcopy(committed)
    content["suites"]["demo"]["evaluation"]["attacks"]["pgd-l2-40"] = {
        **{"kind": "pgd", "num_steps": 40, "norm": "l2", "epsilon": 0.5, "step_size": 0.05}
    }
    params = check_params(content)
    return ExternalRequest(
        params, Path("params.yaml"), None, None, None, "a:b", "demo", "digits", (), Path("out")
    )


def test_at_another_radius_the_step_is_in_proportion(model: ExternalRequest) -> None:
    at_home = {spec.name: spec for spec in model.specs()}
    for epsilon in ("4/255", "0.25", "1e-1", "2 / 255"):
        for spec in model.specs(epsilon):
            assert (spec.threat.norm, spec.threat.epsilon) == ("linf", epsilon.replace(" ", ""))
            if spec.step_size is not None:
                home = at_home[spec.name]
                share = home.step / home.threat.radius
                assert spec.step == pytest.approx(share * radius_value(epsilon), rel=1e-15)
    with pytest.raises(UserError, match=r"--epsilons 8: .*expected a radius .*, got 8"):
        model.specs("8")


def test_a_run_is_attacked_as_its_network_is(committed: dict[str, Any]) -> None:
    """Settings may differ by network: those of a run at other radii are its own network's."""
    content = copy.deepcopy(committed)
    linf = content["suites"]["demo"]["threat_models"]["linf"]
    linf["epsilon"] = {"default": "8/255", "small": "4/255"}
    linf["step_size"] = {"default": "2/255", "small": "1/510"}
    params = check_params(content)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    model = ExternalRequest.of_run(
        params, Path("params.yaml"), Path("a.pt"), key, ("pgd-20",), Path("o")
    )
    (spec,) = model.specs()
    assert (spec.threat.epsilon, spec.step_size) == ("4/255", "1/510")


@pytest.mark.parametrize("chosen", ["num_examples", "first_examples"])
def test_a_model_from_elsewhere_is_attacked_on_the_suites_images(
    committed: dict[str, Any], model: ExternalRequest, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    content = copy.deepcopy(committed)
    other = {"num_examples": None, "first_examples": None, chosen: 7}
    other |= {"part_seed": 3, "seed": 5, "batch_size": 11}
    content["suites"]["demo"]["evaluation"] |= other
    monkeypatch.setattr(ExternalRequest, "images", Path("test.pt"))
    found = replace(model, params=check_params(content)).part()
    assert found == other | {"data": Path("test.pt")}


def test_spaces_in_a_list_of_radii() -> None:
    assert _radii("2/255, 4 / 255 ,0.1") == ("2/255", "4/255", "0.1")
    assert _radii("4/255 8") == ("4/255 8",)  # no radius, and not 4/2558


def test_radii_are_of_one_threat_model(model: ExternalRequest) -> None:
    """An attack in L2 at a radius that was meant in L-inf would leave everything standing."""
    assert "pgd-l2-40" not in {spec.name for spec in model.specs("4/255")}
    named = replace(model, attacks=("pgd-20", "pgd-l2-40"))
    assert [spec.threat.norm for spec in named.specs()] == ["linf", "l2"]
    with pytest.raises(UserError, match=r"--epsilons: expected attacks under .*, got pgd-l2-40"):
        named.specs("4/255")


def test_a_run_of_this_project_at_other_radii(model: ExternalRequest) -> None:
    for threat, norm in (("l2", "l2"), ("linf", "linf"), ("none", "linf")):
        key = RunKey(
            suite="demo", dataset="digits", threat=threat, network="small", recipe="at", seed=1
        )
        file = Path("results/best.pt")
        own = ExternalRequest.of_run(
            model.params, model.params_file, file, key, ("pgd-20",), Path("out")
        )
        (spec,) = own.specs("0.05")
        assert (spec.threat.norm, spec.threat.epsilon) == (norm, "0.05")
        assert own.words() == ["--checkpoint=results/best.pt", "--params=params.yaml"]
    assert "--suite=demo" in model.words()


def test_a_verdict_is_of_the_attacks_under_the_threat_model_of_table_2(
    model: ExternalRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reason = Reason("amber", "no AutoAttack")
    monkeypatch.setattr(
        "rwp.evaluation.external.verdict_on",
        lambda paths, **_: Verdict("amber", None, None, (reason,) * len(paths)),
    )
    monkeypatch.setattr(ExternalRequest, "images", Path("test.pt"))
    show_verdict([Path(f"out/{name}.json") for name in ("pgd-20", "pgd-l2-40")], model)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("verdict: amber (PGD says too much")
    assert shown[1:] == ["  amber: no AutoAttack"]
    show_verdict([Path("out/pgd-l2-40.json")], model)
    assert capsys.readouterr().out.startswith("verdict: none (attacks under other threat models")
    attacks = dict(model.entry.evaluation.attacks)
    attacks["pgd-20"] = attacks["pgd-20"].model_copy(update={"draft": "bf16"})
    evaluation = model.entry.evaluation.model_copy(update={"attacks": attacks})
    drafts = model.entry.model_copy(update={"evaluation": evaluation})
    monkeypatch.setattr(ExternalRequest, "entry", drafts)
    show_verdict([Path("out/pgd-20.json")], model)
    assert capsys.readouterr().out == "verdict: none (a draft is an upper bound, for development)\n"


def test_autoattack_is_refused_for_few_classes_before_any_attack(
    model: ExternalRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = ImageSet(torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.arange(6) % 3, 3)
    images.save(tmp_path / "test.pt")
    monkeypatch.setattr(ExternalRequest, "images", tmp_path / "test.pt")
    with pytest.raises(UserError, match=r"autoattack: expected at least 4 classes, got 3"):
        evaluate_request(replace(model, model="a:b"))  # which is not there: it comes later
    fewer = replace(model, attacks=("natural", "pgd-20"))
    fewer.check_classes(fewer.specs())


@pytest.mark.slow
def test_a_model_of_a_module_is_evaluated_at_radii_and_judged(project_with_data: Project) -> None:
    project = project_with_data
    (project.folder / "foreign.py").write_text(NET)
    model = ["--model", "foreign:tables", "--dataset", "digits"]
    attacks = [word for name in ("natural", "pgd-20") for word in ("--attack", name)]
    done = project.run("rwp", "evaluate", *model, *attacks, "--epsilons", "0.02,0.1")
    assert done.returncode == 0, done.stderr
    for text in ("radius 0.02", "radius 0.1", "verdict: ", "clean accuracy"):
        assert text in done.stdout
    folder = project.folder / "results" / "external"
    assert (folder / "radii.svg").exists()
    assert (folder / "epsilon-0.1" / "pgd-20.json").exists()

    done = project.run("rwp", "evaluate", *model, *attacks, "--epsilons", "0.02,,")
    assert done.returncode == 2
    assert "--epsilons: expected radii such as 2/255,4/255, got '0.02,,'" in done.stderr
    done = project.run("rwp", "evaluate", *model, *attacks, "--epsilons", "0.02,0.0200")
    assert done.returncode == 2
    assert "--epsilons: expected each once, got 0.02, 0.0200; remove 0.0200" in done.stderr

    done = project.run("rwp", "diagnose", *model, *attacks, "--output", str(folder / "alone"))
    assert done.returncode == 2
    assert "run `rwp evaluate` with the same options first" in done.stderr
    done = project.run("rwp", "evaluate", *model, *attacks, "--output", str(folder / "alone"))
    assert done.returncode == 0, done.stderr
    done = project.run("rwp", "diagnose", *model, *attacks, "--output", str(folder / "alone"))
    assert done.returncode == 0, done.stderr
    assert (folder / "alone" / "diagnosis.json").exists()
    done = project.run("rwp", "diagnose", "--model", "foreign:nothing", "--dataset", "digits")
    assert done.returncode == 2
    assert "nothing" in done.stderr


@pytest.mark.parametrize("layout", ["awp", "trades"])
def test_a_normalization_that_the_file_does_not_hold_is_told(
    layout: str,
    model: ExternalRequest,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").symlink_to(digits)
    monkeypatch.chdir(tmp_path)
    network = build_network(
        "preact_resnet", num_classes=10, in_channels=1, mean=None, std=None, blocks=(1, 1), width=8
    )
    torch.save(network.state_dict(), "theirs.pt")
    theirs = replace(model, checkpoint=Path("theirs.pt"), arch="small", layout=layout, model=None)
    theirs.load("cpu")
    (mean,) = model.params.datasets["digits"].mean or ()
    told = f"normalized by mean ({mean}) and std ("
    assert capsys.readouterr().out.startswith(told) == (layout == "awp")
