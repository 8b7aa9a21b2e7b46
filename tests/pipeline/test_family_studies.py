"""The studies that docs/algorithm.md shows are complete, and their trainings can be planned."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from rwp.pipeline.load import check_params
from rwp.pipeline.steps import Steps, below
from rwp.training.spec import TrainSpec
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "algorithm.md").read_text(encoding="utf-8")
STUDIES = [
    content
    for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    if "suites" in (content := yaml.safe_load(text))
]


def planned(study: dict[str, Any], settings: dict[str, Any]) -> dict[str, TrainSpec]:
    """Recipe -> settings of its training, of all that the study's report waits for."""
    for table, entries in study.items():
        settings[table] |= entries
    (suite,) = study["suites"]
    steps = below([Steps(check_params(settings)).report(suite)])
    specs = [step.settings for step in steps if isinstance(step.settings, TrainSpec)]
    return {spec.key.recipe: spec for spec in specs if spec.key.threat != "l2"}


def test_the_page_has_both_studies() -> None:
    assert [list(study["suites"]) for study in STUDIES] == [["family"], ["modern"]]


def test_the_study_of_the_family(settings: dict[str, Any]) -> None:
    found = planned(STUDIES[0], settings)
    assert {"sam", "at-rwp-last", "at-rwp-random", "at-then-rwp", "trades-unclamped"} <= set(found)
    assert found["at-rwp-c_min_quantile-0.2"].perturbation.c_min is None  # type: ignore[union-attr]
    assert found["at"].keep_starts == (6, 10, 14)
    assert found["at-then-rwp-start_epoch-14"].first_epoch == 14
    assert all(spec.keep_losses for spec in found.values())
    unclamped, trades = found["trades-unclamped"], found["trades"]
    assert unclamped.attack.random_start == "gaussian_unclamped"  # type: ignore[union-attr]
    measured = [spec.monitor.random_start or "uniform" for spec in (unclamped, trades)]  # type: ignore[union-attr]
    assert measured == ["uniform"] * 2  # or `best` is chosen otherwise, too
    assert found["at-counted"].attack.bn_mode == "train_counted"  # type: ignore[union-attr]


def test_the_study_of_a_newer_recipe(settings: dict[str, Any]) -> None:
    found = planned(STUDIES[1], settings)
    modern = found["modern-rwp"]
    assert modern.architecture.document()["activation"] == "silu"
    assert (modern.objective.label_smoothing, modern.average_decay) == (0.1, 0.98)
    assert modern.objective.criterion == "adversarial_ce"
    assert found["at-rwp"].architecture.document()["activation"] == "relu"
    assert found["modern"].perturbation is None


@pytest.mark.parametrize("study", [0, 1])
def test_every_member_differs_from_the_others(study: int, settings: dict[str, Any]) -> None:
    found = planned(STUDIES[study], settings)
    texts = {spec.canonical().replace(f'"{name}"', "") for name, spec in found.items()}
    assert len(texts) == len(found)
