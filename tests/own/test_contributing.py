"""CONTRIBUTING's table of what may be added: each row is done as it says, one test for each."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from rwp.core.settings import Loss, Mask, WeightPerturbation
from rwp.errors import UserError
from rwp.pipeline.load import check_params, load_params
from rwp.pipeline.lookup import setting_key
from rwp.pipeline.new_study import write_study
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.settings import (
    FAMILY,
    AttackEntry,
    Change,
    Params,
    PerturbationEntry,
    Setting,
    TrainingEntry,
)
from rwp.pipeline.suites import runs_of, setting_keys
from rwp.training.spec import NetworkSpec, PerturbationSpec, TrainSpec
from tests.conftest import ROOT
from tests.own.test_studies import images

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROWS = dict(
    re.findall(r"^\| ([^|]+?) \| (.+) \|$", PAGE.split("| to add | write | and |")[1], re.M)
)
SOURCE = ROOT / "src" / "rwp"
Settings = dict[str, Any]


def demo(settings: Settings) -> Settings:
    found: Settings = settings["suites"]["demo"]
    return found


def spec(params: Params, recipe: str, **place: Any) -> TrainSpec:
    suite = params.suites["demo"]
    return train_spec(params, setting_key(suite, "demo", Setting(**place), recipe, seed=0))


def an_objective(settings: Settings) -> None:
    demo(settings)["objectives"]["mine"] = {"loss": "own.methods:Smoothed"}
    demo(settings)["recipes"]["mine"] = {"objective": "mine", "perturbation": "rwp"}
    found = spec(check_params(settings), "mine")
    assert (found.objective.loss, bool(found.objective.source)) == ("own.methods:Smoothed", True)
    assert found.perturbation is not None
    package = importlib.import_module("rwp.core.objectives")
    assert set(package._BUILDERS) == set(get_args(Loss))  # shipped: a line there, a word in Loss
    for name, build in ((name, package.make_objective) for name in get_args(Loss)):
        made = build(name, beta=6.0 if name in ("trades", "mart") else None)
        assert Path(importlib.import_module(type(made).__module__).__file__ or "").parent == (
            SOURCE / "core" / "objectives"
        )
        assert callable(made.attack)
        assert callable(made.losses)


def a_weight_perturbation(settings: Settings) -> None:
    mask = {**demo(settings)["perturbations"]["awp"], "mask": "own.methods:lowest"}
    whole = {"factory": "own.methods:sam", "options": {"rho": 0.1}}
    demo(settings)["perturbations"] |= {"mine": mask, "whole": whole}
    for name in ("mine", "whole"):
        demo(settings)["recipes"][name] = {"objective": "at", "perturbation": name}
    params = check_params(settings)
    assert spec(params, "mine").perturbation.mask == "own.methods:lowest"  # type: ignore[union-attr]
    assert spec(params, "whole").perturbation.factory == "own.methods:sam"  # type: ignore[union-attr]
    text = (SOURCE / "core" / "mask.py").read_text(encoding="utf-8")
    for word in get_args(Mask):
        assert f'"{word}"' in text


def the_next_member(settings: Settings) -> None:
    page = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
    core = (ROOT / "tests" / "core" / "test_core_family.py").read_text(encoding="utf-8")
    loop = (ROOT / "tests" / "training" / "test_family.py").read_text(encoding="utf-8")
    ours = {field.name for field in fields(WeightPerturbation)}
    for name in FAMILY:
        assert name in ours or name in ("climbs", "step_at")  # these two are the loop's
        assert name in {field.name for field in fields(PerturbationSpec)}
        assert name in PerturbationEntry.model_fields
        assert name in Change.model_fields
        assert name in page
        assert name in (core if name in ours else loop)


def a_training_that_starts(settings: Settings) -> None:
    start = {"start": {"recipe": "at", "epoch": 3}}
    demo(settings)["recipes"] |= {
        "later": {"objective": "at", "perturbation": "rwp"} | start,
        "given": {"objective": "at", "start": {"file": "w.pt"}},
    }
    demo(settings)["sweeps"]["when"] = {"recipe": "later", "vary": {"start_epoch": [4, 5]}}
    params = check_params(settings)
    starts = {name: spec(params, name).start for name in ("later", "later-start_epoch-5", "given")}
    assert {name: (s.recipe, s.epoch, s.file) for name, s in starts.items() if s} == {
        "later": ("at", 3, None),
        "later-start_epoch-5": ("at", 5, None),
        "given": (None, 0, "w.pt"),
    }


def a_defense(settings: Settings) -> None:
    demo(settings)["recipes"]["mine"] = {"objective": "trades", "perturbation": "awp"}
    found = spec(check_params(settings), "mine")
    assert found.objective.loss == "trades"
    assert found.perturbation is not None
    assert found.perturbation.name == "awp"


def a_variant(settings: Settings) -> None:
    change = {"gamma": 0.5, "weight_decay": 0.1, "average_decay": 0.9, "beta": 3.0}
    demo(settings)["recipes"]["mine"] = {
        "objective": "trades", "perturbation": "rwp", "change": change
    }  # fmt: skip
    demo(settings)["objectives"]["own"] = {"loss": "own.methods:Smoothed"}
    demo(settings)["recipes"]["own"] = {
        "objective": "own", "change": {"options": {"smoothing": 0.3}}
    }  # fmt: skip
    params = check_params(settings)
    found = spec(params, "mine")
    assert found.perturbation is not None
    assert (found.perturbation.gamma, found.optimization.weight_decay) == (0.5, 0.1)
    assert (found.average_decay, found.objective.beta) == (0.9, 3.0)
    assert spec(params, "own").objective.options == {"smoothing": 0.3}
    settings_of_training = set(TrainingEntry.model_fields) - {"gpus"}
    assert settings_of_training <= set(Change.model_fields)


def a_sweep(settings: Settings) -> None:
    vary = {"gamma": [0.1, 0.2], "weight_decay": [0.0, 0.3]}
    demo(settings)["sweeps"]["mine"] = {"recipe": "at-awp", "vary": vary}
    demo(settings)["figures"]["mine"] = {"kind": "sweep", "sweep": "mine", "label": "gamma"}
    params = check_params(settings)
    runs = {key.recipe for key in runs_of(params, "demo", "mine")}
    assert runs == {
        f"at-awp-gamma-{g}-weight_decay-{w}" for g in ("0.1", "0.2") for w in ("0", "0.3")
    }


def a_figure(settings: Settings) -> None:
    said = set(
        re.findall(r"`(\w+)`", ROWS["a figure"].split(" of a suite: ")[1].split(" (which")[0])
    )
    entries = {
        "curves": {"recipes": ["at"], "splits": ["test"]},
        "sweep": {"sweep": "c-min", "label": "c_min"},
        "removal": {"sweep": "removal"},
        "landscape": demo(settings)["figures"]["fig2"],
        "search": {"sweeps": ["c-min"]},
        "movement": {"recipes": ["at"], "epoch": 2, "edges": [0, 1]},
    }
    assert said == set(entries)
    figures = {kind: {**entry, "kind": kind} for kind, entry in entries.items()}
    demo(settings)["figures"] |= figures
    with pytest.raises(UserError, match="write keep_losses: true"):
        check_params(settings)
    demo(settings)["keep_losses"] = True
    params = check_params(settings)
    assert all(runs_of(params, "demo", kind) for kind in entries)
    demo(settings)["reported"] = ["curves"]
    check_params(settings)


def a_suite(settings: Settings) -> None:
    Path("studies").mkdir()
    study = {"suites": {"mine": {"extends": "demo", "description": "x", "figures": None}}}
    Path("studies/mine.yaml").write_text(yaml.safe_dump(study))
    settings["build"] = ["demo", "mine"]
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    params = load_params("params.yaml")
    assert params.suites["mine"].figures == {}
    assert params.build == ("demo", "mine")


def an_attack(settings: Settings) -> None:
    demo(settings)["evaluation"]["attacks"]["mine"] = {"kind": "own.methods:noise"}
    params = check_params(settings)
    (key,) = setting_keys(params, "demo", Setting(), "at")
    found = evaluation_spec(params, key, attacks=("mine",)).attacks[0]
    assert (found.kind, bool(found.source)) == ("own.methods:noise", True)
    text = (SOURCE / "evaluation" / "attacks.py").read_text(encoding="utf-8")
    core = importlib.import_module("rwp.core.attacks")
    for kind in ("fgsm", "fgsm_random_start", "pgd", "cw", "cw_zero_masked"):
        assert callable(getattr(core, kind))
        assert f'"{kind}"' in text
        sizes = {"num_steps": 1} if kind in ("pgd", "cw", "cw_zero_masked") else {}
        AttackEntry(kind=kind, **sizes, **({"kappa": 0.0} if kind.startswith("cw") else {}))


def a_data_set(settings: Settings) -> None:
    folder = images(Path("images/mine"), "a", "b", "c", "d")
    entry = {
        "source": "image_folder", "path": str(folder), "mean": [0.5] * 3, "std": [0.5] * 3
    }  # fmt: skip
    assert len(entry) == 4
    settings["datasets"]["mine"] = entry
    demo(settings)["perturbations"]["rwp"]["c_min"]["mine"] = 1.0
    found = spec(check_params(settings), "at-rwp", dataset="mine")
    assert (found.data.source, found.key.dataset) == ("image_folder", "mine")
    del settings["datasets"]["mine"], demo(settings)["perturbations"]["rwp"]["c_min"]["mine"]
    Path("params.yaml").write_text(yaml.safe_dump(settings))
    options = {"dataset": None, "size": None, "network": None}
    write_study("mine", images=folder, params_file=Path("params.yaml"), **options)  # type: ignore[arg-type]
    assert "mine" in load_params("params.yaml").suites


def a_network(settings: Settings) -> None:
    settings["networks"]["mine"] = {"family": "own.networks:Tiny", "options": {"width": 2}}
    found = spec(check_params(settings), "at", network="mine")
    assert found.architecture.document()["family"] == "own.networks:Tiny"
    models = importlib.import_module("rwp.core.models")
    hints = [get_type_hints(kind)["family"] for kind in get_args(NetworkSpec)]
    shipped = {word for hint in hints for word in get_args(hint) if isinstance(word, str)}
    assert shipped == set(models._FAMILIES)
    for network, *_ in models._FAMILIES.values():
        assert (SOURCE / "core" / "models" / f"{network.__module__.rpartition('.')[2]}.py").exists()


CHECKS: dict[str, Callable[[Settings], None]] = {
    "an objective": an_objective,
    "a weight perturbation, a mask": a_weight_perturbation,
    "the next member of the family around RWP (docs/algorithm.md)": the_next_member,
    "a training that starts at another's state or at weights": a_training_that_starts,
    "a defense": a_defense,
    "a variant of a defense": a_variant,
    "a sweep": a_sweep,
    "a figure": a_figure,
    "a suite": a_suite,
    "an attack of the evaluation": an_attack,
    "a data set of images": a_data_set,
    "a network": a_network,
}


def test_every_row_has_a_check() -> None:
    assert set(ROWS) - {"---"} == set(CHECKS)


@pytest.mark.parametrize("row", CHECKS)
def test_a_row_is_true(row: str, own_code: Path, settings: Settings) -> None:
    for path in re.findall(r"`(src/[\w./]+|tests/[\w./]+)`", ROWS[row]):
        assert (ROOT / path).exists(), path
    CHECKS[row](settings)
