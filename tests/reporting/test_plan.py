"""What a plan promises: which runs, how many passes, and hours from measured rates alone."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rwp.data.fetch import fetch_dataset
from rwp.data.spec import DataSize, data_size
from rwp.errors import UserError
from rwp.files import read_object, write_json
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import landscape_spec
from rwp.pipeline.settings import Params, Setting
from rwp.pipeline.state import Result, results
from rwp.pipeline.steps import Steps, below
from rwp.pipeline.suites import setting_keys
from rwp.reporting.costs import Passes, landscape_cost, training_cost, training_passes
from rwp.reporting.plan import detail_line, plan_jobs, plan_lines
from rwp.reporting.rates import (
    Place,
    Rate,
    _autoattack,
    all_rates,
    device_lines,
    own_rates,
    rate_for,
    rates_on,
    scaled_rates,
    shipped_rates,
)
from rwp.training.spec import TrainSpec
from tests.data.samples import write_passport

from .conftest import Project
from .settings import PARAMS

RATES = """device,network,image_size,forward_seconds,backward_seconds,autoattack_seconds,command,\
attack_backward_seconds
"Big GPU, 80 GB",small,8x8x1,0.001,0.004,0.5,make bench,0.002
"Small GPU",small,8x8x1,0.01,0.04,,make bench,
"""


def found(params: Params, *targets: str) -> list[Result]:
    steps = Steps(params)
    return results(below(steps.find(target) for target in targets))


def test_the_papers_at_on_cifar10_by_hand(params: Params, tmp_path: Path) -> None:
    (result,) = found(params, "results/runs/cifar10/linf/preact-resnet-18/at/seed0")
    size = data_size("cifar10", params.datasets["cifar10"], tmp_path)
    assert isinstance(result.step.settings, TrainSpec)
    assert size is not None
    # 391 steps of 10 + 1 passes in 200 epochs; PGD-20 on 10,000 images after each
    passes = training_passes(result.step.settings, num_train=size.num_train)
    assert (passes.forward, passes.attack, passes.weights) == (
        391 * 200 * 11,
        391 * 200 * 10,
        78_200,
    )
    cost = training_cost(result.step.settings, size)
    assert cost.forward == pytest.approx(200 * (50_000 * 11 + 10_000 * 22))
    assert cost.backward == pytest.approx(200 * (50_000 * 11 + 10_000 * 20))


def test_sizes_known_by_source_are_those_of_the_files(digits: Path, params: Params) -> None:
    definition = params.datasets["digits"]
    found = data_size("digits", definition, digits.parent)
    assert found == data_size("digits", definition, Path("nowhere"))
    assert found is not None
    assert (found.num_train, found.num_test, found.image) == (1004, 252, "8x8x1")


def test_images_drawn_are_so_many_of_each_class(params: Params, tmp_path: Path) -> None:
    name = "cifar10-16"
    definition = params.datasets[name]
    by_source = DataSize(25_000, 10_000, "16x16x3", num_drawn=2_000)
    assert data_size(name, definition, tmp_path) == by_source
    write_passport(tmp_path / "data", name, train={"count": 300}, test={"count": 90})
    by_passport = DataSize(300, 90, "8x8x1", num_drawn=2_000)
    assert data_size(name, definition, tmp_path) == by_passport


def test_a_passport_of_other_settings_tells_no_sizes(tmp_path: Path) -> None:
    """Half of the digits for tests: a plan counts these, not those that lie there."""
    content = copy.deepcopy(PARAMS)

    def passes() -> int | None:
        params = check_params(content)
        chosen = found(params, "results/demo/runs/digits/linf/small/at/seed0/run.json")
        jobs, _ = plan_jobs(params, chosen, root=tmp_path)
        return jobs[-1].passes and round(jobs[-1].passes.forward)

    before = passes()
    params = check_params(content)
    mark = Steps(params).fetch("digits").fingerprint
    fetch_dataset("digits", params.datasets["digits"], tmp_path / "data", fingerprint=mark)
    assert passes() == before
    content["datasets"]["digits"]["test_share"] = 0.5
    after = passes()
    assert after != before
    shutil.rmtree(tmp_path / "data")
    assert passes() == after


def test_targets_stand_on_their_own_runs_and_share_them(params: Params) -> None:
    def runs(*targets: str) -> int:
        return len([r for r in found(params, *targets) if r.step.kind == "train"])

    assert runs("results/table1.csv") == 18
    assert runs("results/table2.csv") == 9 + 1  # the teacher
    assert runs("results/table1.csv", "results/table2.csv") == 28
    assert runs("results/fig2.svg") == 1  # AT, a run of Table 1
    assert runs("results/table1.csv", "results/fig2.svg", "results/fig1b.png") == 18
    assert runs("results/report.html") == 74
    assert runs("results/metrics/paper.json") == runs("results/plots/paper.csv") == 28
    kinds = {"train", "label", "landscape", "evaluate", "judge"}
    assert {result.step.kind for result in found(params, "results/report.html")} == kinds
    with pytest.raises(UserError, match="expected a figure"):
        found(params, "results/fig9.svg")
    with pytest.raises(UserError, match="expected a recipe"):
        found(params, "results/demo/runs/digits/linf/small/at-rpw/seed0/run.json")


def test_hours_are_rates_times_passes_and_nothing_else(demo: Project, tmp_path: Path) -> None:
    (tmp_path / "rates.csv").write_text(RATES)
    rates = shipped_rates(tmp_path / "rates.csv")
    name, chosen = rates_on("big", rates)
    assert name == "Big GPU, 80 GB"
    (key,) = demo.table1_keys("at")
    (result,) = found(demo.params, str(key.directory))
    size = data_size("digits", demo.params.datasets["digits"], tmp_path)
    assert isinstance(result.step.settings, TrainSpec)
    assert size is not None
    cost = training_cost(result.step.settings, size)
    seconds = chosen[Place(name, "small", "8x8x1")].seconds(cost)
    assert seconds == pytest.approx(
        0.001 * cost.forward + 0.002 * cost.attack + 0.004 * cost.weights
    )
    with pytest.raises(UserError, match=r"--device: expected .*'Nix' \(no device has it\)"):
        rates_on("Nix", rates)
    with pytest.raises(UserError, match=r"got 'gpu' .Big GPU, 80 GB; Small GPU have it"):
        rates_on("gpu", rates)


def test_a_device_that_was_never_measured_is_estimated_and_called_so(params: Params) -> None:
    chosen = found(params, "results/runs/cifar10/linf/preact-resnet-18/at/seed0")
    jobs, origin = plan_jobs(params, chosen, root=Path("nowhere"), device="h100 sxm")
    train = next(job for job in jobs if job.result.step.kind == "train")
    assert train.passes is not None
    assert train.hours is not None
    # 1.11 GFLOP forward at 30 % of 67 TFLOP/s; a backward pass to the weights costs two
    flops = train.hours * 3600 * 0.3 * 67e12
    assert flops == pytest.approx(1.11e9 * train.passes.units, rel=0.01)
    assert "NVIDIA H100 SXM" in origin
    assert "an estimate, nothing measured: 30% of 67 TFLOP/s" in origin
    assert f"{train.hours:,.3f}" in detail_line(train)
    lines = list(
        device_lines({Place("my GPU", "small", "8x8x1"): Rate(1.0, 1.0, 1.0, None, "by hand")})
    )
    assert lines[0] == "my GPU: measured, small at 8x8x1"
    assert any("NVIDIA H100 SXM: estimated" in line for line in lines)


def test_a_network_that_was_never_measured_is_scaled_from_the_nearest_that_was(
    params: Params,
) -> None:
    device, big = "my CPU", Rate(1.0, 2.0, 3.0, 100.0, "by hand")
    rates = {Place(device, "preact-resnet-18", "32x32x3"): big}
    places = [("mini", "16x16x3"), ("wrn-34-10", "32x32x3"), ("preact-resnet-18", "32x32x3")]
    scaled = scaled_rates(device, params, rates, places)
    assert len(scaled) == 2  # what was measured stays
    mini = scaled[Place(device, "mini", "16x16x3")]
    # Multiplications by hand: the first convolution, three stages with their shortcuts, the last
    # layer, over the 0.557 G of PreAct ResNet-18.
    stages = 2 * 9216 * 256 + (18432 + 36864 + 2048) * 64 + (73728 + 147456 + 8192) * 16
    share = (864 * 256 + stages + 1280) / 0.5567e9
    assert mini.forward == pytest.approx(share, rel=0.01)
    assert mini.attack == pytest.approx(2 * share, rel=0.01)
    assert mini.autoattack == pytest.approx(100 * share, rel=0.01)
    assert scaled[Place(device, "wrn-34-10", "32x32x3")].forward == pytest.approx(11.9, rel=0.02)
    assert mini.origin.startswith("an estimate: preact-resnet-18 at 32x32x3 was measured there")
    rates[Place(device, "small", "8x8x1")] = Rate(9.0, 9.0, 9.0, None, "by hand")
    again = scaled_rates(device, params, rates, [("mini", "16x16x3"), ("small", "16x16x3")])
    assert again[Place(device, "mini", "16x16x3")].origin == mini.origin
    small = again[Place(device, "small", "16x16x3")]
    assert small.origin.startswith("an estimate: small at 8x8x1")
    assert small.autoattack is None


def test_own_trainings_give_rates_of_their_device(demo: Project) -> None:
    demo.write_all()
    rate = own_rates(demo.params, demo.root)[Place("cpu", "small", "8x8x1")]
    # Each 12.5 s for 2,100 passes of a batch: of 970 / 8 images, for RST (3 of 13) of 128. TRADES
    # and RST go back through two passes for each that is not the attack's (8 epochs of 8 steps,
    # RST's of 1, at 10 each), and look at the clean images once more per step.
    assert rate.origin == "13 finished trainings of this project"
    assert rate.forward == rate.attack == rate.weights
    at, trades, rst = 2100, 1100 + 64 + 640 + 2 * 360, 1100 + 8 + 80 + 2 * 920
    images = (7 * at + 3 * trades) * 970 / 8 + 3 * rst * 128
    assert rate.forward == pytest.approx(13 * 12.5 / images)
    assert rate.autoattack == pytest.approx(2 / 400)
    (key,) = demo.table2_keys("at")
    record = demo.root / key.directory / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"seconds": "12.5"}))
    rate = own_rates(demo.params, demo.root)[Place("cpu", "small", "8x8x1")]
    assert rate.origin == "12 finished trainings of this project"  # a damaged one gives no rate


def test_rates_are_of_one_arithmetic(demo: Project) -> None:
    """A training in 16 bits, compiled or on several devices says nothing of one in 32 bits."""
    demo.write_all()
    place = Place("cpu", "small", "8x8x1")
    plain = own_rates(demo.params, demo.root)[place]
    paths = [
        demo.root / key.directory / "run.json"
        for recipe in ("at", "at-awp", "at-rwp", "trades")
        for key in demo.table2_keys(recipe)
    ]
    changes = ({"precision": "bf16"}, {"compile": "default"}, {}, {})
    for path, change, more in zip(
        paths, changes, ({}, {}, {"processes": 4}, {"threads": 8}), strict=True
    ):
        document = read_object(path) | {"seconds": 0.001} | more
        document["spec"]["optimization"] |= change
        write_json(path, document)
    rates = own_rates(demo.params, demo.root)
    assert rates[place].origin == "9 finished trainings of this project"
    assert rates[place].forward == pytest.approx(plain.forward, rel=0.1)
    assert rates[place].autoattack == plain.autoattack
    fast = rates[Place("cpu", "small", "8x8x1", "bf16")]
    assert fast.origin == "1 finished trainings of this project in bf16"
    assert fast.forward < plain.forward / 100
    assert rate_for(rates, "small", "8x8x1", "bf16") == fast
    other = rate_for(rates, "small", "8x8x1", "tf32")
    assert other.forward == rates[place].forward
    assert other.origin.endswith("all in fp32: tf32 may take less")
    assert rate_for(rates, "mini", "8x8x1") is None
    (key,) = demo.table2_keys("trades-awp")
    path = demo.root / key.directory / "run.json"
    for begun in ({"processes": 4}, {"device": "Big GPU"}):
        write_json(path, read_object(path) | {"earlier": [{"device": "cpu"} | begun]})
        rate = own_rates(demo.params, demo.root)[place]
        assert rate.origin == "8 finished trainings of this project"


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": -5.0},
        {"seconds": True},
        {"device": None},
        {"passes": {"forward": -7, "backward": 3}},
        {"passes": {"forward": 0, "backward": 0}},
    ],
)
def test_impossible_times_give_no_rate(demo: Project, changes: dict[str, Any]) -> None:
    demo.write_all()
    paths = [
        path for path in demo.root.glob("results/**/run.json") if '"small"' in path.read_text()
    ]
    for path in paths:
        write_json(path, read_object(path) | changes)
    assert paths
    assert Place("cpu", "small", "8x8x1") not in own_rates(demo.params, demo.root)


@pytest.mark.parametrize("changes", [{"seconds": -1e5}, {"seconds": "x"}, {"num_examples": 0}])
def test_a_damaged_record_gives_no_rate_of_autoattack(
    demo: Project, changes: dict[str, Any]
) -> None:
    demo.write_all()
    for path in demo.root.glob("results/**/best/autoattack.json"):
        write_json(path, read_object(path) | changes)
    assert own_rates(demo.params, demo.root)[Place("cpu", "small", "8x8x1")].autoattack is None


def test_a_shortened_autoattack_gives_no_rate(demo: Project) -> None:
    demo.write_all()
    path = next(demo.root.glob("results/**/best/autoattack.json"))
    device = read_object(path)["device"]
    assert _autoattack(path.parents[2], device) is not None
    assert _autoattack(path.parents[2], f"{device} (x86_64, AVX2)") is not None
    assert _autoattack(path.parents[2], "Big GPU") is None
    for change in ({"version": "lite"}, {"draft": "bf16"}):
        content = read_object(path)
        write_json(path, content | {"attack": content["attack"] | change})
        assert _autoattack(path.parents[2], device) is None
        write_json(path, content)


def test_rates_are_of_the_images_of_today_wherever_copied_from(tmp_path: Path) -> None:
    def params(**changes: Any) -> Params:
        content = copy.deepcopy(PARAMS)
        cifar = PARAMS["datasets"]["cifar10"] | {"unlabeled_share": 0.35}
        content["datasets"]["digits"] = cifar | changes
        return check_params(content)

    project = Project(tmp_path, params(), "demo")
    project.write_all()
    assert own_rates(params(), project.root)
    assert own_rates(params(mirror="copies"), project.root)
    assert not own_rates(params(image_size=16), project.root)


def test_a_plan_says_what_is_done_stale_and_to_do(demo: Project) -> None:
    demo.write_all()
    everything = found(demo.params, "results/demo/report.html")
    order = ("train", "label", "evaluate")
    chosen = [result for result in everything if result.step.kind in order]
    chosen.sort(key=lambda result: order.index(result.step.kind))
    path = demo.root / chosen[2].path
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "0" * 16}))
    (demo.root / chosen[-1].path).unlink()
    jobs, origin = plan_jobs(demo.params, chosen, root=demo.root, device="cpu")
    assert [job.state for job in (jobs[0], jobs[2], jobs[-1])] == ["done", "stale", "to do"]
    assert jobs[-1].hours == pytest.approx(2 / 400 * 449 / 3600)  # AutoAttack, 2 s on 400 images
    lines = list(plan_lines(jobs, device="cpu", origin=origin))
    assert lines[0].split() == ["done", "stale", "to", "do", "forward", "backward", "hours"]
    assert lines[6].split()[:4] == ["together", str(len(jobs) - 3), "1", "2"]
    todo = [job for job in jobs if job.state != "done"]
    passes = sum((job.passes for job in todo if job.passes), Passes())
    hours = sum(job.hours for job in todo if job.hours is not None)
    expected = (passes.forward / 1e6, passes.backward / 1e6, hours)
    assert lines[6].split()[4:] == [f"{value:,.2f}" for value in expected]
    assert any(line.startswith("Hours on cpu, one job after the other") for line in lines)


def test_without_a_rate_no_origin_is_promised(demo: Project, params: Params) -> None:
    """Images that are yet to be fetched may have any number."""
    everything = results(below(Steps(params).suite("paper")))
    labels = [result for result in everything if result.step.kind == "label"]
    jobs, origin = plan_jobs(params, labels, root=demo.root, device="H200")
    assert {job.hours for job in jobs} == {None}
    assert origin.startswith("No hours on NVIDIA H200")
    assert origin.splitlines()[-1].endswith("a rate and a known number of images")


def test_a_done_training_whose_network_was_deleted_is_named(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table1_keys("at")
    (training,) = found(demo.params, str(key.directory))
    for path in training.step.outputs:
        (demo.root / path).touch()

    def lines() -> list[str]:
        jobs, origin = plan_jobs(demo.params, [training], root=demo.root)
        assert [job.state for job in jobs] == ["done"]
        return list(plan_lines(jobs, device=None, origin=origin))

    assert not any("lack" in line for line in lines())
    (demo.root / key.directory / "best.pt").unlink()
    (said,) = [line for line in lines() if "lack" in line]
    assert said.startswith(f"1 of the trainings that are done lack files, {key.directory}/best.pt")


def test_hours_of_trainings_on_several_gpus_are_called_those_of_one() -> None:
    content = copy.deepcopy(PARAMS)
    params = check_params(content)
    content["suites"]["demo"]["training"]["gpus"] = 2
    said = []
    for each in (params, check_params(content)):
        (training,) = found(each, "results/demo/runs/digits/linf/small/at/seed0")
        jobs, origin = plan_jobs(each, [training], root=Path("nowhere"), device="A100")
        lines = list(plan_lines(jobs, device="A100", origin=origin))
        said.append("Hours of trainings on 2 GPUs are as on one." in lines)
    assert said == [False, True]


def test_a_landscape_looks_at_no_more_test_images_than_there_are(params: Params) -> None:
    spec = landscape_spec(params, "mini-jpeg", "fig2")
    assert spec.test_images
    size = DataSize(25_000, 10_000, "16x16x3", num_drawn=2_000)
    few = DataSize(25_000, 500, "16x16x3", num_drawn=2_000)
    assert landscape_cost(spec, few).units == pytest.approx(
        landscape_cost(spec, size).units * 2_500 / 4_000
    )


def test_a_landscape_costs_an_attack_and_the_points_of_each_direction(params: Params) -> None:
    spec = landscape_spec(params, "demo", "fig2")
    settings = {"num_directions": 3, "num_points": 5, "num_examples": 100, "test_images": False}
    attack = spec.attack.replace(num_steps=7, num_restarts=1)
    spec = spec.replace(epochs=(1, 2), more_seeds=(1, 2), attack=attack, **settings)
    cost = landscape_cost(spec, DataSize(1_000, 500, "8x8x1"))
    looks = 1 + 7 + 1 + 3 * (1 + 5)  # before, in and after the attack; at w and at each point
    assert cost == Passes(looks, 7, 0) * (100 * 2 * 3)  # images, epochs, seeds


def test_without_a_rate_a_plan_has_no_hours_and_says_so(demo: Project) -> None:
    everything = found(demo.params, "results/demo/report.html")
    jobs, origin = plan_jobs(demo.params, everything, root=demo.root)
    assert not any(job.hours for job in jobs)
    lines = list(plan_lines(jobs, device=None, origin=origin))
    assert lines[-1].startswith("Hours: name a device")
    assert all_rates(demo.params, demo.root) == shipped_rates()  # none were measured here


def test_a_loss_of_two_passes_goes_back_through_both(params: Params) -> None:
    """TRADES per image and step: PGD-10, its clean pass, and the two passes of the loss."""
    place = {"dataset": "cifar10", "threat": "linf", "seed": 0}
    spec = train_spec(params, run_key(params, "paper", recipe="trades", **place))
    cost = training_cost(spec, DataSize(50_000, 0, "32x32x3"))
    images = 200 * 50_000
    found = (cost.forward / images, cost.attack / images, cost.weights / images)
    assert found == pytest.approx((10 + 1 + 2, 10, 2))


@pytest.mark.parametrize("recipe", ["at", "trades", "trades-rwp"])
def test_a_training_that_starts_from_another_costs_its_own_epochs(recipe: str) -> None:
    content = copy.deepcopy(PARAMS)
    recipes = content["suites"]["demo"]["recipes"]
    recipes["late"] = recipes[recipe] | {"start": {"recipe": "at", "epoch": 6}}  # of 8
    params = check_params(content)
    size = data_size("digits", params.datasets["digits"], Path("nowhere"))
    assert size is not None
    whole, late = (
        training_cost(train_spec(params, setting_keys(params, "demo", Setting(), name)[0]), size)
        for name in (recipe, "late")
    )
    assert late.units == pytest.approx(whole.units / 4)


def test_what_is_measured_in_part_costs_its_part(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite |= {"curve_examples": 100, "selection_num_steps": 2, "selection_every": 4}
    suite["evaluation"]["num_examples"] = 50
    params = check_params(content)
    spec = train_spec(params, setting_keys(params, "demo", Setting(), "at")[0])
    # 8 epochs of 900 images; 100 held out after epochs 0, 4 and 7 by PGD-2; 100 tested by PGD-20
    assert training_cost(spec, DataSize(1_000, 500, "8x8x1")) == Passes(
        900 * 8 * 11 + 100 * 3 * 4 + 100 * 8 * 22,
        900 * 8 * 10 + 100 * 3 * 2 + 100 * 8 * 20,
        900 * 8,
    )
    wanted = "small/at/seed0/evaluation/best/pgd-20.json"
    chosen = found(params, "results/demo/table2.csv")
    (result,) = [r for r in chosen if r.path.endswith(wanted)]
    (job,), _ = plan_jobs(params, [result], root=tmp_path)
    assert job.passes == Passes(22, 20) * 50


def test_what_this_project_measured_goes_before_what_ships(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo.write_all()
    place = Place("cpu", "small", "8x8x1")
    shipped = {place: Rate(9.0, 9.0, 9.0, 5.0, "shipped")}
    monkeypatch.setattr("rwp.reporting.rates.shipped_rates", lambda: shipped)
    own = own_rates(demo.params, demo.root)[place]
    assert all_rates(demo.params, demo.root)[place] == own
    for path in demo.root.glob("results/**/best/autoattack.json"):
        path.unlink()
    found = all_rates(demo.params, demo.root)[place]
    assert (found.forward, found.autoattack) == (own.forward, 5.0)
