"""The band around a published curve: equal settings stay inside, others leave it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pandas as pd
import pytest

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.reporting.published_curves import (
    BesidePublished,
    beside_published,
    curve_band,
    overlay,
    published_curve,
    published_curves,
)

from .conftest import Project
from .settings import paper_content

RICE = "locuslab/robust_overfitting"
AT = "cifar10_linf/preactresnet18_standard"


def against(reference: str, setting: str, source: str, *, reference_source: str) -> int | None:
    band = curve_band(
        published_curve(reference, reference_source)["test_robust_accuracy"], num_examples=10_000
    )
    ours = published_curve(setting, source)["test_robust_accuracy"]
    frame = overlay(ours, band)
    found = BesidePublished("run", reference, reference_source, frame, len(band), ("", ""))
    return found.first_outside


@pytest.mark.parametrize(
    ("reference", "setting"),
    [
        # other seeds, PGD-10 instead of PGD-20, a held-out split, decay off batch norm
        (AT, "cifar10_standard/preactresnet18"),
        (AT, "cifar10_validation/preactresnet18"),
        (AT, "cifar10_l2/preactresnet18_5e-4"),
        ("cifar100_linf/preactresnet18_standard", "cifar100_standard/preactresnet18"),
    ],
)
def test_independent_runs_of_one_setting_stay_in_each_others_band(
    reference: str, setting: str
) -> None:
    assert against(reference, setting, RICE, reference_source="csdongxian/AWP") is None


@pytest.mark.parametrize(
    ("setting", "source", "epoch"),
    [
        ("cifar10_linf/preactresnet18_awp", "csdongxian/AWP", 91),
        ("cifar10_lr/preactresnet18_piecewise_0_2", RICE, 30),
    ],
)
def test_other_settings_leave_the_band(setting: str, source: str, epoch: int) -> None:
    assert against(AT, setting, source, reference_source="csdongxian/AWP") == epoch


def test_published_curves_count_from_zero_everywhere() -> None:
    curves = published_curves()
    assert len(curves) == 18_140
    firsts = curves.groupby(["source", "setting"])["epoch"].min()
    assert len(firsts) == 93
    assert set(firsts) == {0}


@pytest.fixture
def resnet(paper: Project) -> Project:
    content = copy.deepcopy(paper_content())
    content["networks"]["small"] = {
        "family": "preact_resnet",
        "blocks": [2, 2, 2, 2],
        "width": 64,
    }
    return Project(paper.root, check_params(content), "paper")


def test_the_first_epoch_outside_is_named(resnet: Project) -> None:
    (key,) = resnet.table1_keys("at")
    curve = list(published_curve(AT)["test_robust_accuracy"])[:60]
    curve[20] -= 0.3  # one bad epoch is chance
    curve[40:] = [value - 0.3 for value in curve[40:]]  # twenty are not
    found = beside_published(resnet.write_run(key, curve))
    assert found.setting == AT
    assert found.first_outside == 40
    assert "60 of 200 epochs" in found.text()
    assert "leaves the band at epoch 40" in found.text()
    assert "largest difference 30.00 points at epoch" in found.text()
    assert "21 of 60 epochs are outside the band" in found.text()


def test_an_equal_curve_never_leaves(resnet: Project) -> None:
    (key,) = resnet.table1_keys("at-awp", "l2")
    curve = list(published_curve("cifar10_l2/preactresnet18_awp")["test_robust_accuracy"])
    found = beside_published(resnet.write_run(key, curve))
    assert found.first_outside is None
    assert found.frame["inside"].all()
    assert "never leaves the band" in found.text()


@pytest.mark.parametrize(
    ("num_epochs", "outside", "told"),
    [
        (3, 3, "not told: outside the band since epoch 0, 3 epochs; 5 in a row tell"),
        (3, 0, "not told: 3 epochs; 5 or more tell"),
        (30, 1, "not told: outside the band since epoch 29, 1 epoch; 5 in a row tell"),
        (30, 4, "not told: outside the band since epoch 26, 4 epochs; 5 in a row tell"),
        (30, 5, "the curve leaves the band at epoch 25"),
        (30, 0, "the curve never leaves the band for 5 epochs in a row"),
    ],
)
def test_a_training_that_goes_on_is_not_said_to_stay(
    resnet: Project, num_epochs: int, outside: int, told: str
) -> None:
    (key,) = resnet.table1_keys("at")
    curve = list(published_curve(AT)["test_robust_accuracy"])[:num_epochs]
    curve = [max(0.0, v - 0.3 * (i >= num_epochs - outside)) for i, v in enumerate(curve)]
    assert beside_published(resnet.write_run(key, curve)).text().splitlines()[-1] == told


def test_a_log_of_another_setting_is_called_so(resnet: Project, demo: Project) -> None:
    def text(project: Project, setting: str) -> str:
        (key,) = project.table1_keys("at")
        return beside_published(project.write_run(key, [0.5] * 6), setting=setting).text()

    assert "not the same setting" not in text(resnet, AT)
    other = "not the same setting: at on cifar10 under linf, network small; the band"
    assert other in text(resnet, "cifar10_linf/preactresnet18_awp")
    assert "not the same setting: at on digits" in text(demo, AT)


def test_a_log_of_another_attack_is_called_so(resnet: Project) -> None:
    (key,) = resnet.table1_keys("at")
    folder = resnet.write_run(key, list(published_curve(AT)["test_robust_accuracy"])[:60])
    others = "locuslab/robust_overfitting"
    assert "not the same attack" not in beside_published(folder).text()
    found = beside_published(
        folder, setting="cifar10_lr/preactresnet18_piecewise_0_2", source=others
    )
    words = "not the same attack: our epochs are measured by PGD-20, the log's by PGD-10"
    assert words in found.text()
    assert words in beside_published(folder, setting="cifar10_linf/wrn34_standard").text()


OTHERWISE = {
    "radius": ({"threat": {"norm": "linf", "epsilon": "4/255"}}, "L-inf radius {}", "4/255 8/255"),
    "start": ({"random_start": "gaussian"}, "{} start", "gaussian uniform"),
    "keep": ({"keep": "worst"}, "the {} image", "worst last"),
    "the same in other words": (
        {"threat": {"norm": "linf", "epsilon": "16/510"}, "random_start": "uniform"},
        "",
        "",
    ),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_an_attack_of_another_strength_is_not_the_logs(resnet: Project, name: str) -> None:
    changed, words, found = OTHERWISE[name]
    (key,) = resnet.table1_keys("at")
    folder = resnet.write_run(key, list(published_curve(AT)["test_robust_accuracy"])[:20])
    document = json.loads((folder / "run.json").read_text())
    document["spec"]["monitor"] |= changed
    (folder / "run.json").write_text(json.dumps(document))
    text = beside_published(folder).text()
    if not words:
        assert "not the same attack" not in text
        return
    ours, theirs = (words.format(word) for word in found.split())
    assert (
        "not the same attack: our epochs are measured by"
        f" PGD-20 ({ours}), the log's by PGD-20 ({theirs})" in text
    )


def test_the_logs_of_svhn_under_l2_start_off_the_ball_as_the_paper_does(resnet: Project) -> None:
    (key,) = resnet.table1_keys("at", "l2")
    folder = resnet.write_run(key, [0.3] * 6)
    setting = "svhn_l2/preactresnet18_standard"
    words = "PGD-20 (uniform start), the log's by PGD-20 (off_ball start)"
    assert words in beside_published(folder, setting=setting).text()
    document = json.loads((folder / "run.json").read_text())
    document["spec"]["monitor"]["random_start"] = "off_ball"
    (folder / "run.json").write_text(json.dumps(document))
    assert "not the same attack" not in beside_published(folder, setting=setting).text()
    decays = beside_published(folder, setting="cifar10_l2/preactresnet18_5e-4", source=RICE).text()
    assert "PGD-20 (L2 radius 128/255, off_ball start)" in decays  # whose l2 is a weight decay


def test_what_cannot_be_compared_says_so(resnet: Project, demo: Project) -> None:
    (key,) = resnet.table1_keys("at-rwp")
    folder = resnet.write_run(key, [0.5] * 6)
    with pytest.raises(UserError, match=r"got at-rwp on cifar10 under linf; name another log"):
        beside_published(folder)
    assert beside_published(folder, setting=AT).setting == AT
    with pytest.raises(UserError, match="expected a published log of csdongxian/AWP, got 'x'"):
        beside_published(folder, setting="x")
    rows = (folder / "history.jsonl").read_text().splitlines()
    (folder / "history.jsonl").write_text("\n".join([rows[0], *rows[2:]]) + "\n")
    (folder / "run.json").unlink()
    with pytest.raises(UserError, match="has epoch 2 in the place of 1; train it again"):
        beside_published(folder, setting=AT)
    with pytest.raises(UserError, match="expected a run with a history"):
        beside_published(demo.root / "nothing")


def test_band_is_the_neighborhood_and_two_errors() -> None:
    curve = pd.Series([0.5] * 10 + [0.6] * 10)
    band = curve_band(curve, num_examples=10_000)
    error = 2 * (2 * 0.25 / 10_000) ** 0.5
    assert band["low"][0] == pytest.approx(0.5 - error)
    assert band["high"][6] == pytest.approx(0.5 + error)
    assert band["high"][7] == pytest.approx(0.6 + error)  # three epochs before the jump


def test_a_run_that_measures_fewer_images_has_a_wider_band(resnet: Project) -> None:
    """On 2,000 of 10,000 images chance is larger: an error of sqrt(1 + 5), not sqrt(2)."""
    curve = pd.Series([0.5] * 9)
    whole = curve_band(curve, num_examples=10_000)
    part = curve_band(curve, num_examples=10_000, num_own=2_000)
    error = (0.25 / 10_000) ** 0.5
    assert (part["high"] - 0.5).tolist() == pytest.approx([2 * 6**0.5 * error] * 9)
    assert (whole["high"] - 0.5).tolist() == pytest.approx([2 * 2**0.5 * error] * 9)
    (key, *_) = resnet.table1_keys("at")
    folder = resnet.write_run(key, published_curve(AT)["test_robust_accuracy"].tolist())
    plain = beside_published(folder).frame
    document = json.loads((folder / "run.json").read_text())
    document["spec"]["curve_examples"] = 2000
    (folder / "run.json").write_text(json.dumps(document))
    found = beside_published(folder).frame
    assert (found["high"] > plain["high"]).all()
    assert (found["low"] < plain["low"]).all()


@pytest.mark.parametrize(
    ("table", "name", "value"),
    [("data", "image_size", 16), ("data", "per_class", 200), ("threat", "epsilon", "4/255")],
)
def test_a_run_on_other_images_or_at_another_radius_has_no_published_log(
    resnet: Project, table: str, name: str, value: Any
) -> None:
    (key, *_) = resnet.table1_keys("at")
    folder = resnet.write_run(key, [0.2, 0.4, 0.3])
    document = json.loads((folder / "run.json").read_text())
    document["spec"][table][name] = value
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="expected a setting with a published log"):
        beside_published(folder)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("average_decay", 0.999),
        ("remove_below", 1.5),
        ("attack.num_steps", 20),
        ("optimization.weight_decay", 1e-4),
        ("objective.label_smoothing", 0.1),
        ("perturbation.direction", "random"),
        ("perturbation.tensors", "all"),
        ("perturbation.gamma", 0.02),
    ],
)
def test_what_is_not_plain_at_or_awp_has_no_published_log(
    resnet: Project, place: str, value: Any
) -> None:
    (key, *_) = resnet.table1_keys("at-awp" if place.startswith("perturbation") else "at")
    folder = resnet.write_run(key, [0.2, 0.4, 0.3])
    assert beside_published(folder).setting.startswith("cifar10_linf/preactresnet18_")
    document = json.loads((folder / "run.json").read_text())
    *tables, name = place.split(".")
    table = document["spec"]
    for part in tables:
        table = table[part]
    table[name] = value
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match="expected a setting with a published log"):
        beside_published(folder)
