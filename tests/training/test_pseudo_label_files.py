"""The files of pseudo-labels: by which network of the teacher, of which images, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rwp.commands.pseudo_label import _refuse_unfinished
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.pipeline.settings import Params
from rwp.training.checkpoint import load_network, save_network
from rwp.training.pseudo_labels import load_pseudo_labeled, write_pseudo_labels
from tests.training.conftest import spec_of


def test_labels_of_the_teachers_last_network_for_the_images_that_are_kept(
    shared_root: Path, tmp_path: Path, tiny: Params
) -> None:
    mix = spec_of(tiny, "rst").unlabeled
    assert mix is not None
    spec = mix.replace(min_confidence=0.3).labeling
    folder = tmp_path / spec.teacher.directory
    source = shared_root / spec.teacher.directory / "last.pt"
    network = torch.load(source, weights_only=True)["network"]
    model, _ = load_network(source)
    save_network(folder / "last.pt", model, network=network, epoch=2)
    with torch.no_grad():
        model.get_parameter("linear.weight").neg_()
    save_network(folder / "best.pt", model, network=network, epoch=1)

    (tmp_path / "data" / "unlabeled").mkdir(parents=True)
    (tmp_path / "data" / "digits").symlink_to(shared_root / "data" / "digits")
    given = ImageSet.load(shared_root / "data" / "unlabeled" / f"{spec.source}.pt")
    shipped = torch.where(torch.arange(len(given)) % 3 == 0, -1, given.labels)
    images = tmp_path / "data" / "unlabeled" / f"{spec.source}.pt"
    ImageSet(given.images, shipped, 10).save(images)

    summary = write_pseudo_labels(spec, root=tmp_path, fingerprint="labels")
    written = json.loads((tmp_path / spec.path).with_suffix(".json").read_text())
    found = load_pseudo_labeled(images, tmp_path / spec.path, num_classes=10)

    model, _ = load_network(source)
    model.eval()
    with torch.no_grad():
        sure, answers = model(given.images / 255).softmax(1).max(1)
        test = ImageSet.load(tmp_path / "data" / "digits" / "test.pt")
        right = model(test.images / 255).argmax(1) == test.labels
    kept = sure >= 0.3
    assert 50 < int(kept.sum()) < len(given) - 50
    assert torch.equal(found.images, given.images[kept])
    assert torch.equal(found.labels, answers[kept])
    assert summary == written
    assert summary["num_images"] == len(given)
    assert summary["num_kept"] == kept.sum() == len(found)
    assert summary["class_counts"] == [int((answers[kept] == label).sum()) for label in range(10)]
    assert summary["mean_confidence"] == pytest.approx(float(sure.mean()), abs=1e-6)
    assert summary["teacher_test_accuracy"] == pytest.approx(float(right.float().mean()))
    agreeing = (answers == shipped)[shipped >= 0]
    assert summary["agreement_with_shipped_labels"] == pytest.approx(float(agreeing.float().mean()))


def test_what_is_asked_of_the_labels_is_asked_of_the_labeling(tiny: Params) -> None:
    mix = spec_of(tiny, "rst").unlabeled
    assert mix is not None
    asked = mix.replace(min_confidence=0.3, per_class=7).labeling
    assert (asked.min_confidence, asked.per_class) == (0.3, 7)


@pytest.mark.parametrize("status", ["collapsed", "diverged"])
def test_a_teacher_whose_training_failed_labels_nothing(tmp_path: Path, status: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"status": status, "reason": "the loss is nan"}))
    with pytest.raises(UserError, match=rf"training finished, got {status} \(the loss is nan\);"):
        _refuse_unfinished(path)
    path.write_text(json.dumps({"status": "finished"}))
    _refuse_unfinished(path)
    _refuse_unfinished(tmp_path / "no/run.json")
