from pathlib import Path

import pytest
import torch
from torch import nn

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.external import (
    ExternalModel,
    evaluate_external,
    load_checkpoint,
    load_factory,
)
from rwp.evaluation.records import read_record
from rwp.training.checkpoint import save_network
from rwp.training.spec import PreActResNetSpec
from tests.evaluation.samples import NETWORK, attack, small_network, three_classes

ARCHITECTURE = PreActResNetSpec(family="preact_resnet", blocks=(1,), width=4)
PGD = attack("pgd-5", "pgd", num_steps=5, step_size="0.03")


def load(path: Path, **changes) -> ExternalModel:
    settings = {
        "architecture": ARCHITECTURE,
        "layout": "trades",
        "num_classes": 10,
        "in_channels": 1,
        "mean": (0.3,),
        "std": (0.4,),
    }
    return load_checkpoint(path, **settings | changes)


def evaluate(external: ExternalModel, folder: Path, images: ImageSet, **options) -> list[Path]:
    images.save(folder / "test.pt")
    return evaluate_external(
        external,
        data=folder / "test.pt",
        attacks=(attack("natural"), PGD),
        out=folder / "out",
        state=folder / "state",
        batch_size=16,
        seed=0,
        **options,
    )


def test_published_layouts_load(tmp_path: Path):
    model, pixels = small_network(), torch.rand(2, 1, 8, 8)
    parallel = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": parallel}, tmp_path / "trades.pt")
    assert torch.equal(load(tmp_path / "trades.pt").model(pixels), model(pixels))
    normalized = (pixels - 0.3) / 0.4
    outside = load(tmp_path / "trades.pt", layout="awp").model
    torch.testing.assert_close(outside(pixels), model(normalized))
    buffers = {"mu": torch.full((1, 1, 1, 1), 0.3), "sigma": torch.full((1, 1, 1, 1), 0.4)}
    torch.save(model.state_dict() | buffers, tmp_path / "robustbench.pt")
    found = load(tmp_path / "robustbench.pt", layout="robustbench").model
    torch.testing.assert_close(found(pixels), model(normalized))


def test_our_own_checkpoint_needs_no_names(tmp_path: Path):
    save_network(tmp_path / "best.pt", small_network(), network=NETWORK, epoch=0)
    found = load(tmp_path / "best.pt", architecture=None, layout=None)
    assert found.name == "best"
    with pytest.raises(UserError, match="expected no --arch and no --layout"):
        load(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": None}, "--arch and --layout"),
        ({"architecture": None}, "--arch and --layout"),
        ({"num_classes": 7}, r"linear\.weight of shape \(7, 4\)"),
    ],
)
def test_foreign_checkpoint_without_enough_names(tmp_path: Path, changes: dict, message: str):
    torch.save(small_network().state_dict(), tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "theirs.pt", **changes)


def test_clean_accuracy_comes_before_the_attacks(tmp_path, images, robust_model):
    seen = []

    def note(accuracy: float) -> None:
        seen.append((accuracy, (tmp_path / "out").exists()))

    paths = evaluate(ExternalModel(robust_model, "theirs", "abc"), tmp_path, images, on_clean=note)
    record = read_record(paths[1])
    assert seen == [(record.clean_accuracy, False)]
    assert (record.key, record.checkpoint, record.checkpoint_sha256) == (None, "theirs", "abc")
    assert record.num_robust < record.num_clean_correct


def test_factory_is_called_and_hashed():
    first, second = (load_factory("tests.evaluation.samples:linear_model") for _ in range(2))
    assert isinstance(first.model, nn.Module)
    assert first.name == "linear_model"
    assert first.sha256 == second.sha256
    with torch.no_grad():
        first.model[1].weight[0, 0] += 1
    assert load_factory("tests.evaluation.samples:linear_model").sha256 == second.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("samples", "expected package.module:factory"),
        ("no.such.module:factory", "expected 'factory' in the module"),
        ("tests.evaluation.samples:nothing", "expected 'nothing' in the module"),
        ("tests.evaluation.samples:not_a_model", r"to return a torch\.nn\.Module, got str"),
        ("tests.evaluation.samples:failing_model", "got RuntimeError: no weights here; call it"),
        ("tests.evaluation.samples:model_with_arguments", "without arguments, got TypeError"),
    ],
)
def test_bad_factories(text: str, message: str):
    with pytest.raises(UserError, match=message):
        load_factory(text)


def test_model_of_other_images(tmp_path: Path, images: ImageSet):
    color = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    with pytest.raises(UserError, match=r"expected a model of images of shape \(1, 8, 8\)"):
        evaluate(ExternalModel(color, "color", "abc"), tmp_path, images)


def test_model_of_fewer_classes_and_a_file_without_a_table(tmp_path: Path, images: ImageSet):
    with pytest.raises(UserError, match="three: expected logits of 10 classes, got 3"):
        evaluate(ExternalModel(three_classes(), "three", "abc"), tmp_path, images)
    assert not (tmp_path / "out").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="expected a table of weights, got list"):
        load(tmp_path / "list.pt")


def test_finished_records_of_the_same_model_are_left_alone(
    tmp_path: Path, images: ImageSet, robust_model: nn.Module
):
    first = evaluate(ExternalModel(robust_model, "theirs", "abc"), tmp_path, images)
    before = [path.stat().st_mtime_ns for path in first]
    first[1].unlink()
    again = evaluate(ExternalModel(robust_model, "theirs", "abc"), tmp_path, images)
    assert again[0].stat().st_mtime_ns == before[0]
    assert read_record(again[1]).attack == PGD
    first[1].write_text("{}")  # damaged
    with pytest.raises(UserError, match="got one of another model; name another folder"):
        evaluate(ExternalModel(robust_model, "others", "xyz"), tmp_path, images)
    assert read_record(first[0]).checkpoint_sha256 == "abc"
