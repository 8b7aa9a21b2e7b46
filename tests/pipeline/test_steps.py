"""A path belongs to one step, and a step knows its paths; what a step stands on is said once."""

from __future__ import annotations

from typing import Any

import pytest

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.pipeline.steps import Steps, below

RUNS = "results/demo/runs/digits"


@pytest.mark.parametrize("suite", ["demo", "demo-full", "quick", "paper"])
def test_every_path_leads_back_to_its_step(suite: str, params: Params) -> None:
    steps = Steps(params)
    everything = below([steps.report(suite)])
    paths = [path for step in everything for path in step.outputs]
    assert len(paths) == len(set(paths))
    for step in everything:
        for path in step.outputs:
            assert steps.find(path) is step
        for path, maker in step.inputs.items():
            assert path in maker.outputs
        assert everything.index(step) >= max(map(everything.index, step.inputs.values()), default=0)


OTHER_NAMES = {
    f"{RUNS}/linf/small/natural/seed0/last.pt": f"{RUNS}/none/small/natural/seed0/last.pt",
    f"{RUNS}/linf/small/natural/seed0/evaluation/best/fgsm.json": (
        f"{RUNS}/none/small/natural/seed0/evaluation/best/fgsm.json"
    ),
    f"{RUNS}/l2/small/natural/seed0/evaluation/best/diagnosis.json": (
        f"{RUNS}/none/small/natural/seed0/evaluation/best/diagnosis.json"
    ),
    f"{RUNS}/linf/small/at/seed00/run.json": f"{RUNS}/linf/small/at/seed0/run.json",
    "results/demo/pseudo_labels/digits/digits-holdout-seed01.pt": (
        "results/demo/pseudo_labels/digits/digits-holdout-seed1.pt"
    ),
    "results/paper/table1.csv": "results/table1.csv",
    "./results/demo/table2.csv": "results/demo/table2.csv",
    "results//demo/report.html": "results/demo/report.html",
    "data/digits/../digits/train.pt": "data/digits/train.pt",
}


@pytest.mark.parametrize("path", OTHER_NAMES)
def test_another_name_of_a_file_is_refused_with_the_proper_one(path: str, params: Params) -> None:
    with pytest.raises(UserError) as caught:
        Steps(params).find(path)
    proper = OTHER_NAMES[path]
    assert str(caught.value) == f"{path}: expected {proper}, which is the same; ask for that one"


NO_STEP = {
    "nonsense": "a file that the workflow makes",
    "results": "a file that the workflow makes",
    "results/demo": "a file that the workflow makes",
    "results/demo/table9.csv": "a file that the workflow makes",
    "results/demo/table1.html": "a file that the workflow makes",
    "results/demo/fig9.svg": "a figure",
    "results/demo/landscapes/fig1a.csv": "a file that the workflow makes",
    "data/digit/train.pt": "a data set",
    "data/digits/val.pt": "one of data/digits/train.pt",
    "data/unlabeled/digits.pt": "an unlabeled source",
    f"{RUNS}/linf/small/at/seed0/best_on_tset.pt": "one of",
    f"{RUNS}/linf/small/at/seed0/evaluation/best/pgd-21.json": "an attack",
    f"{RUNS}/linf/small/at/seed0/evaluation/bset/pgd-20.json": "a file that the workflow makes",
    f"{RUNS}/linf/small/at/seed/last.pt": "a file that the workflow makes",
    f"{RUNS}/none/small/at/seed0/last.pt": "a threat model",
    f"{RUNS}/linf/samll/at/seed0/last.pt": "a network",
    "results/demo/pseudo_labels/digits/ddpm-1m-seed0.pt": "a source that suite demo uses",
}


@pytest.mark.parametrize("path", NO_STEP)
def test_a_path_of_no_step_is_one_line(path: str, params: Params) -> None:
    with pytest.raises(UserError) as caught:
        Steps(params).find(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert f"expected {NO_STEP[path]}" in message
    assert "\n" not in message


def test_a_runs_folder_means_its_training(params: Params) -> None:
    step = Steps(params).find(f"{RUNS}/linf/small/at/seed7")
    assert (step.kind, step.record) == ("train", f"{RUNS}/linf/small/at/seed7/run.json")


def test_a_mirror_decides_nothing_and_a_size_does(settings, params: Params) -> None:
    from rwp.pipeline.load import check_params

    before = Steps(params).fetch("cifar10").fingerprint
    settings["datasets"]["cifar10"]["mirror"] = "/mnt/copy"
    assert Steps(check_params(settings)).fetch("cifar10").fingerprint == before
    settings["datasets"]["cifar10"]["image_size"] = 16
    assert Steps(check_params(settings)).fetch("cifar10").fingerprint != before


def test_an_attack_changes_its_own_record_and_the_jobs_digest(settings, params: Params) -> None:
    from rwp.pipeline.load import check_params

    path = f"{RUNS}/linf/small/at/seed0/evaluation/best"
    before = Steps(params).find(f"{path}/fgsm.json")
    settings["suites"]["demo"]["evaluation"]["attacks"]["pgd-20"]["num_restarts"] = 2
    after = Steps(check_params(settings)).find(f"{path}/fgsm.json")
    assert before.fingerprint_of(f"{path}/fgsm.json") == after.fingerprint_of(f"{path}/fgsm.json")
    assert before.fingerprint_of(f"{path}/pgd-20.json") != after.fingerprint_of(
        f"{path}/pgd-20.json"
    )
    assert before.digest != after.digest


def test_the_report_shows_the_description_and_stands_on_it(
    settings: dict[str, Any], params: Params
) -> None:
    before = Steps(params).report("demo")
    assert Steps(params).report("demo").digest == before.digest
    settings["suites"]["demo"]["description"] = "another"
    after = Steps(check_params(settings))
    assert after.report("demo").digest != before.digest
    assert after.table("demo", "table2").digest == Steps(params).table("demo", "table2").digest


def test_networks_that_are_also_attacked_are_waited_for(params: Params) -> None:
    inputs = Steps(params).table("mini", "table2").inputs
    found = {path.split("/")[6] for path in inputs if "/evaluation/last/" in path}
    assert found == {"at", "at-awp", "at-rwp"}
