import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from rwp.commands.export import export
from rwp.core.models import build_network
from rwp.errors import UserError
from rwp.evaluation.export import Submission, export_robustbench
from rwp.evaluation.external_models import load_checkpoint
from rwp.evaluation.records import EvaluationRecord, PartRecord, write_record
from rwp.files import sha256_file, write_json
from rwp.training.checkpoint import save_network
from rwp.training.spec import RunKey, ThreatSpec, WideResNetSpec
from tests.evaluation.samples import NETWORK, attack, autoattack_spec, record, small_network

WIDE = {
    "architecture": {"family": "wide_resnet", "depth": 10, "widen_factor": 1},
    "num_classes": 10,
    "in_channels": 3,
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.2, 0.2),
}
KEY = RunKey(suite="paper", dataset="cifar10", threat="linf", network="w", recipe="at", seed=0)
SUBMISSION = Submission(
    name="Someone2026Robust",
    title="Robust Networks",
    authors="A. Someone",
    link="https://example.org",
    venue="Unpublished",
    additional_data=False,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = build_network(
        "wide_resnet",
        **{name: value for name, value in WIDE.items() if name != "architecture"},
        depth=10,
        widen_factor=1,
    ).eval()
    save_network(tmp_path / "best.pt", model, network=WIDE, epoch=0)
    return tmp_path / "best.pt"


PART = PartRecord(rule="stratified", seed=0, size=5, of=10, sha256="p", mask="+AA=")


def record_of(checkpoint: Path, **changes) -> EvaluationRecord:
    settings = {
        "key": KEY,
        "attack": autoattack_spec(threat=ThreatSpec(norm="linf", epsilon="8/255")),
        "checkpoint_sha256": sha256_file(checkpoint),
        "parts": {"apgd-ce": 3, "apgd-t": 2, "fab-t": 2, "square": 2},
        "warnings": ("a warning",),
    }
    flags, clean = [True, True, False, False, False], [True, True, True, True, False]
    return record(flags, clean=clean, **settings | changes)


def test_four_files(checkpoint: Path, tmp_path: Path):
    paths = export_robustbench(
        checkpoint, record_of(checkpoint), SUBMISSION, folder=tmp_path / "out"
    )
    assert [path.suffix for path in paths] == [".pt", ".py", ".json", ".log"]
    info = json.loads(paths[2].read_text())
    assert info["clean_acc"] == "80.00"
    assert info["autoattack_acc"] == info["reported"] == "40.00"
    assert info["architecture"] == "WideResNet-10-1"
    assert (info["eps"], info["dataset"]) == ("8/255", "cifar10")
    log = paths[3].read_text()
    assert "robust accuracy after APGD-T: 40.00%" in log
    assert "a warning" in log


def test_weights_come_back_through_the_published_layout(checkpoint: Path, tmp_path: Path):
    weights = export_robustbench(
        checkpoint, record_of(checkpoint), SUBMISSION, folder=tmp_path / "out"
    )[0]
    settings = {"num_classes": 10, "in_channels": 3, "mean": WIDE["mean"], "std": WIDE["std"]}
    ours = load_checkpoint(checkpoint, architecture=None, layout=None, **settings)
    found = load_checkpoint(
        weights,
        architecture=WideResNetSpec(family="wide_resnet", depth=10, widen_factor=1),
        layout="robustbench",
        **settings,
    )
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(found.model(images), ours.model(images))


def test_class_compiles_and_normalizes(checkpoint: Path, tmp_path: Path):
    source = export_robustbench(
        checkpoint, record_of(checkpoint), SUBMISSION, folder=tmp_path / "out"
    )[1].read_text()
    compile(source, "model.py", "exec")
    assert "class Someone2026Robust(WideResNet):" in source
    assert "(x - self.mu) / self.sigma" in source


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": attack("pgd-20", "pgd")}, "expected an AutoAttack record, got pgd"),
        ({"attack": autoattack_spec("lite")}, "expected AutoAttack standard in a table"),
        ({"checkpoint_sha256": "other"}, "expected the checkpoint that the record is of"),
        (
            {"key": replace(KEY, dataset="cifar10-jpeg")},
            "expected a record on cifar10 or cifar100, got one on cifar10-jpeg",
        ),
        ({"key": None}, "got one on images without a name"),
        ({"part": PART}, "expected a record of all 10 test images, .* got one of 5"),
    ],
)
def test_unfit_records(checkpoint: Path, tmp_path: Path, changes: dict, message: str):
    with pytest.raises(UserError, match=message):
        export_robustbench(
            checkpoint, record_of(checkpoint, **changes), SUBMISSION, folder=tmp_path
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "expected 3 channels, got 1"),
        ({"in_channels": 3}, "expected 4 stages and width 64, got 1 and 4"),
    ],
)
def test_networks_robustbench_has_no_class_for(tmp_path: Path, change: dict, message: str):
    model = small_network()
    if change:
        model.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    path = tmp_path / "best.pt"
    save_network(path, model, network=NETWORK | change, epoch=0)
    with pytest.raises(UserError, match=message):
        export_robustbench(path, record_of(path), SUBMISSION, folder=tmp_path)


def test_an_activation_that_robustbench_does_not_compute_is_refused(tmp_path: Path):
    network = WIDE | {"architecture": WIDE["architecture"] | {"activation": "silu"}}
    model = build_network(
        "wide_resnet",
        **{name: value for name, value in WIDE.items() if name != "architecture"},
        **{"depth": 10, "widen_factor": 1, "activation": "silu"},
    )
    path = tmp_path / "best.pt"
    save_network(path, model.eval(), network=network, epoch=0)
    with pytest.raises(UserError, match="expected the activation relu, got silu"):
        export_robustbench(path, record_of(path), SUBMISSION, folder=tmp_path)


@pytest.mark.parametrize(
    ("kind", "flag", "expected"),
    [
        (None, None, False),
        ("holdout", None, False),  # of the training set's own images
        ("tinyimages-500k", None, True),
        ("tinyimages-500k", False, False),
        (None, True, True),
    ],
)
def test_additional_data_is_as_run_json_says_unless_given(
    checkpoint: Path, tmp_path: Path, kind: str | None, flag: bool | None, expected: bool
):
    write_record(tmp_path / "evaluation/best/autoattack.json", record_of(checkpoint))
    unlabeled = None if kind is None else {"definition": {"kind": kind}}
    write_json(tmp_path / "run.json", {"spec": {"unlabeled": unlabeled}})
    export(checkpoint, "Someone2026", tmp_path / "out", additional_data=flag)
    info = json.loads((tmp_path / "out" / "Someone2026.json").read_text())
    assert info["additional_data"] is expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "Some One"),
        ("name", "class"),
        ("name", "None"),
        ("name", "PreActBlock"),
        ("name", "torch"),
        ("title", 'He said """hi"""'),
        ("title", 'Called "robust"'),
        ("title", "one\ntwo"),
        ("title", "a\\N"),
    ],
)
def test_name_and_title_fit_into_a_python_file(
    checkpoint: Path, tmp_path: Path, field: str, value: str
):
    named = replace(SUBMISSION, **{field: value})
    with pytest.raises(UserError, match=rf"^{field}: expected (a Python identifier|one line)"):
        export_robustbench(checkpoint, record_of(checkpoint), named, folder=tmp_path)
