"""Tables 1 and 2: every cell worked out by hand, every missing one left empty with its reason."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwp.errors import UserError
from rwp.evaluation.records import pack
from rwp.files import sha256_file
from rwp.pipeline.load import check_params
from rwp.reporting.lines import lines_of, measured_otherwise
from rwp.reporting.rates import own_rates
from rwp.reporting.report import render_report
from rwp.reporting.results import read_results, record_warnings
from rwp.reporting.tables import table1, table2, write_frame, write_table
from tests.data.samples import write_passport

from .conftest import Project
from .settings import PARAMS

TABLE2_COLUMNS = [
    "defense",
    "num_seeds",
    "natural",
    "fgsm",
    "pgd20",
    "pgd100",
    "cw",
    "aa",
    "verdict",
]


def seeds_project(tmp_path: Path, seeds: list[int]) -> Project:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = seeds
    return Project(tmp_path, check_params(content), "demo")


def test_table1_separates_held_out_choice_from_choice_on_test(demo: Project) -> None:
    (key,) = demo.table1_keys("at")
    curve = [0.10, 0.30, 0.50, 0.48, 0.46, 0.44, 0.42, 0.41]
    held_out = [0.10, 0.30, 0.40, 0.49, 0.40, 0.40, 0.40, 0.40]  # chooses epoch 3, test epoch 2
    demo.write_run(key, curve, held_out=held_out)
    frame = table1(demo.results()).frame
    row = frame[(frame.threat_model == "Linf") & (frame.method == "AT")].iloc[0]
    assert row["best"] == pytest.approx(48.0)
    assert row["best_on_test"] == pytest.approx(50.0)
    assert row["selection_optimism"] == pytest.approx(2.0)
    assert row["last"] == pytest.approx(41.0)
    assert row["last_epochs_mean"] == pytest.approx((50 + 48 + 46 + 44 + 42 + 41) / 6)
    assert row["robust_overfitting_gap"] == pytest.approx(7.0)


def test_table1_file_has_the_promised_columns_and_two_decimals(demo: Project) -> None:
    demo.write_all()
    path, details = write_table(table1(demo.results()), demo.root / "results/demo", "table1")
    lines = path.read_text().splitlines()
    assert lines[0] == (
        "threat_model,method,dataset,num_seeds,best,last,best_on_test,selection_optimism,"
        "last_epochs_mean,robust_overfitting_gap"
    )
    assert lines[1] == "Linf,AT,digits,1,52.00,46.00,52.00,0.00,48.50,6.00"
    assert [line.split(",")[:2] for line in lines[1:]] == [
        [norm, method] for norm in ("Linf", "L2") for method in ("AT", "AT-AWP", "AT-RWP")
    ]
    assert "results/demo/runs/digits/linf/small/at/seed0" in details.read_text()


def otherwise(content: dict[str, Any], suite: str) -> list[str]:
    params = check_params(content)
    return measured_otherwise(params.suites[suite], lines_of(params, suite, "table1"))


def test_epochs_measured_at_another_strength_are_told_where_all_recipes_share_it(
    settings: dict[str, Any],
) -> None:
    quick = settings["suites"]["quick"]
    assert otherwise(settings, "quick") == []
    quick["training"] |= {"monitor_random_start": "uniform"}  # as it is without
    assert otherwise(settings, "quick") == []
    quick["training"] |= {"monitor_epsilon": "4/255", "monitor_step_size": "1/255"}
    how = "epsilon 4/255, step size 1/255"
    assert otherwise(settings, "quick") == [f"{n} ({how})" for n in ("AT", "AT-AWP", "AT-RWP")]
    del quick["training"]["monitor_epsilon"], quick["training"]["monitor_step_size"]
    quick["training"]["monitor_keep"] = "worst"
    assert otherwise(settings, "quick")[0] == "AT (keep worst)"


def test_epochs_measured_otherwise_at_some_places_are_told_with_them(
    settings: dict[str, Any],
) -> None:
    off = "on svhn, L2 (random start off_ball)"
    assert otherwise(settings, "paper") == [f"{n} {off}" for n in ("AT", "AT-AWP", "AT-RWP")]


def test_fewer_than_six_epochs_have_no_mean_of_six(demo: Project) -> None:
    (key,) = demo.table1_keys("at")
    demo.write_run(key, [0.1, 0.2, 0.3])
    row = table1(demo.results()).frame.iloc[0]
    assert row["last"] == pytest.approx(30.0)
    assert pd.isna(row["last_epochs_mean"])


def test_table2_has_nine_rows_six_columns_of_percent_and_a_verdict(demo: Project) -> None:
    demo.write_all()
    path, _ = write_table(table2(demo.results()), demo.root / "results/demo", "table2")
    frame = pd.read_csv(path)
    assert list(frame.columns) == TABLE2_COLUMNS
    assert list(frame["defense"]) == [
        f"{base}{suffix}" for base in ("AT", "TRADES", "RST") for suffix in ("", "-AWP", "-RWP")
    ]
    # 360, 260, 220, 216, 212 and 204 of 400 images
    assert path.read_text().splitlines()[1] == "AT,1,90.00,65.00,55.00,54.00,53.00,51.00,green"
    assert not frame.isna().any().any()


def test_table2_cell_is_the_mean_over_seeds(tmp_path: Path) -> None:
    project = seeds_project(tmp_path, [0, 1])
    for key, count in zip(project.table2_keys("at"), (200, 210), strict=True):
        project.write_run(key, [0.5] * 6)
        project.write_record(key, "pgd-20", count)
    table = table2(project.results())
    assert table.frame.loc[0, "pgd20"] == pytest.approx(51.25)
    assert table.frame.loc[0, "pgd20_std"] == pytest.approx(2.5 / 2**0.5)
    seeds = table.details.query("defense == 'AT' and attack == 'pgd-20'")
    assert list(seeds["num_robust"]) == [200, 210]
    assert list(seeds["accuracy"]) == pytest.approx([50.0, 52.5])


def test_one_missing_seed_leaves_the_cell_empty(tmp_path: Path) -> None:
    project = seeds_project(tmp_path, [0, 1])
    first, _ = project.table2_keys("at")
    project.write_run(first, [0.5] * 6)
    project.write_record(first, "pgd-20", 200)
    table = table2(project.results())
    assert pd.isna(table.frame.loc[0, "pgd20"])
    statuses = table.details.query("defense == 'AT' and attack == 'pgd-20'")["status"]
    assert list(statuses) == ["ok", "missing"]


@pytest.mark.parametrize("status", ["collapsed", "diverged"])
def test_a_failed_training_gives_an_empty_cell_with_its_reason(demo: Project, status: str) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("trades")
    demo.write_run(key, [0.1] * 6, status=status, reason="robust accuracy 0.1 for 3 epochs")
    table = table2(demo.results())
    row = table.frame.set_index("defense").loc["TRADES"]
    assert row.drop("num_seeds").isna().all()
    reasons = table.details.query("defense == 'TRADES'")
    assert set(reasons["status"]) == {status}
    assert set(reasons["reason"]) == {"robust accuracy 0.1 for 3 epochs"}


def test_the_natural_reference_is_in_the_details_only(demo: Project) -> None:
    demo.write_all()
    table = table2(demo.results())
    assert "Natural" not in set(table.frame["defense"])
    natural = table.details.query("defense == 'Natural' and attack == 'pgd-20'")
    assert list(natural["num_robust"]) == [4]


def test_attacks_beyond_the_papers_follow_after_aa(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    attacks = content["suites"]["demo"]["evaluation"]["attacks"]
    attacks["pgd-20-restarts"] = {"kind": "pgd", "num_steps": 20, "num_restarts": 5}
    del attacks["fgsm"]
    table = table2(read_results(check_params(content), "demo", root=tmp_path))
    run = [name for name in TABLE2_COLUMNS if name != "fgsm"]  # what a suite lacks is not missing
    assert list(table.frame.columns) == [*run[:-1], "pgd-20-restarts", run[-1]]
    assert "fgsm" not in set(table.details["attack"])


def _change_attack(path: Path, **changes: str) -> None:
    record = json.loads(path.read_text())
    record["attack"] |= changes
    path.write_text(json.dumps(record))


def test_autoattack_lite_is_refused(demo: Project) -> None:
    (key,) = demo.table2_keys("at")
    demo.write_run(key, [0.5] * 6)
    _change_attack(demo.write_record(key, "autoattack", 200), version="lite")
    with pytest.raises(UserError, match=r"autoattack.json: .* in a table, got lite \(APGD-CE"):
        table2(demo.results())


def test_autoattack_without_a_version_is_the_standard_one(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    del content["suites"]["demo"]["evaluation"]["attacks"]["autoattack"]["version"]
    project = Project(tmp_path, check_params(content), "demo")
    (key,) = project.table2_keys("at")
    project.write_run(key, [0.5] * 6)
    project.write_record(key, "autoattack", 200)
    details = table2(project.results()).details.query("defense == 'AT' and attack == 'autoattack'")
    assert list(details["status"]) == ["ok"]


@pytest.mark.parametrize("name", ["pgd-20", "autoattack"])
def test_a_draft_is_refused(demo: Project, name: str) -> None:
    (key,) = demo.table2_keys("at")
    demo.write_run(key, [0.5] * 6)
    _change_attack(demo.write_record(key, name, 200), draft="bf16")
    with pytest.raises(UserError, match=r"json: .* a search in fp32, got a draft in bf16"):
        table2(demo.results())


def test_images_without_a_gradient_that_count_as_robust_are_remarked() -> None:
    counts = SimpleNamespace(images=400, blind_not_finite=2, blind_zero=1)
    record: Any = SimpleNamespace(warnings=("so",), num_nan=4, gradients=counts)
    assert list(record_warnings(record)) == [
        "so",
        "4 pixels of the adversarial images are NaN",
        "3 of 400 images count as robust where the attack had no gradient to follow",
    ]
    counts.blind_not_finite = counts.blind_zero = 0
    assert len(list(record_warnings(record))) == 2


def test_autoattack_above_pgd_is_marked(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "autoattack", 219)  # PGD-100 leaves 216, CW-100 212 correct
    details = table2(demo.results()).details
    row = details.query("defense == 'AT' and attack == 'autoattack'").iloc[0]
    assert row["warning"] == "AutoAttack leaves 7 more images correct than cw-100"
    assert not details.query("attack != 'autoattack'")["warning"].any()


def test_so_is_autoattack_under_another_name(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    attacks = content["suites"]["demo"]["evaluation"]["attacks"]
    attacks["thorough"] = attacks.pop("autoattack")
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    (key,) = project.table2_keys("at")
    project.write_record(key, "thorough", 219)
    details = table2(project.results()).details
    row = details.query("defense == 'AT' and attack == 'thorough'").iloc[0]
    assert row["warning"] == "AutoAttack leaves 7 more images correct than cw-100"


def test_so_is_autoattack_on_the_images_of_both(tmp_path: Path) -> None:
    """The others look at all 400, AutoAttack at the last 200, of which CW-100 leaves twelve."""
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["evaluation"]["attacks"]["autoattack"]["num_examples"] = 200
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    (key,) = project.table2_keys("at")
    every = _part(400, rule="all", seed=None, of=400)
    for attack, count in (("natural", 360), ("pgd-20", 220), ("pgd-100", 216), ("cw-100", 212)):
        project.write_record(key, attack, count, **every)
    part = {"rule": "stratified", "seed": 0, "size": 200, "of": 400, "sha256": "0"}
    part["mask"] = pack(np.arange(400) >= 200)
    project.write_record(key, "autoattack", 19, examples=200, part=part)
    details = table2(project.results()).details
    row = details.query("defense == 'AT' and attack == 'autoattack'").iloc[0]
    assert row["warning"] == "AutoAttack leaves 7 more images correct than cw-100"


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"num_robust": 230}, "inconsistent", "expected counts that agree with the bits"),
        ({"num_clean_correct": 100}, "inconsistent", "robust examples to be correct before"),
        ({"robust_bits": "@"}, "inconsistent", "expected base64 text"),
        ({"checkpoint": "last"}, "stale", "made with the checkpoint last"),
        ({"seed": "x"}, "inconsistent", "expected an evaluation record, got seed"),
        ({"attack": "../.."}, "inconsistent", "expected an evaluation record, got attack"),
        ({"attack": []}, "inconsistent", "expected an evaluation record, got attack"),
    ],
)
def test_a_record_that_cannot_be_true_gives_no_number(
    demo: Project, changes: dict[str, object], status: str, reason: str
) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "pgd-20", 220, **changes)
    table = table2(demo.results())
    row = table.details.query("defense == 'AT' and attack == 'pgd-20'").iloc[0]
    assert row["status"] == status
    assert reason in row["reason"]
    assert pd.isna(table.frame.loc[0, "pgd20"])


def test_a_record_of_another_file_than_the_other_records_gives_no_number(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    best = demo.root / key.directory / "best.pt"
    best.write_bytes(b"weights")
    right = sha256_file(best)
    for attack in demo.params.suites["demo"].evaluation.attacks:
        demo.write_record(key, attack, 220, checkpoint_sha256=right)
    demo.write_record(key, "pgd-20", 221, checkpoint_sha256="another")
    rows = table2(demo.results()).details.query("defense == 'AT'")
    rows = rows.set_index("attack")
    assert rows.loc["pgd-20", "status"] == "inconsistent"
    assert rows.loc["pgd-20", "reason"] == "made with another file than best.pt"
    assert set(rows.drop("pgd-20")["status"]) == {"ok"}
    best.unlink()
    frame = table2(demo.results()).frame
    assert frame.loc[0, ["natural", "pgd20", "aa"]].isna().all()


def test_records_of_a_network_or_of_images_that_are_gone_give_no_number(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    attacks = tuple(demo.params.suites["demo"].evaluation.attacks)
    best = demo.root / key.directory / "best.pt"
    best.write_bytes(b"trained again")
    rows = table2(demo.results()).details.query("defense == 'AT'")
    assert set(rows["reason"]) == {"made with another file than best.pt"}
    best.unlink()
    for fetched, status in (("1" * 64, "ok"), ("2" * 64, "stale")):
        write_passport(demo.root / "data", key.dataset, test={"sha256": fetched, "count": 400})
        rows = table2(demo.results()).details.query("defense == 'AT'")
        assert list(rows["status"]) == [status] * len(attacks)
    assert set(rows["reason"]) == {"made with other test images than those fetched"}


def test_a_record_of_another_step_count_is_stale(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    attack = json.loads(demo.write_record(key, "pgd-20", 220).read_text())["attack"]
    demo.write_record(key, "pgd-20", 220, attack=attack | {"num_steps": 5})
    details = table2(demo.results()).details
    row = details.query("defense == 'AT' and attack == 'pgd-20'").iloc[0]
    assert (row["status"], row["reason"]) == ("stale", "made with another num_steps of the attack")


def _part(size: int, **changes: object) -> dict[str, object]:
    part = {"rule": "stratified", "seed": 0, "size": size, "of": 800, "sha256": "0"} | changes
    mask = "" if part["rule"] == "all" else pack(np.arange(800) < size)
    return {"part": part | {"mask": mask}}


@pytest.mark.parametrize(
    ("asked", "written", "reason"),
    [
        ({}, {}, ""),
        ({}, _part(400, rule="all", seed=None, of=400), ""),
        ({"num_examples": 400}, _part(400), ""),
        ({"first_examples": 400}, _part(400, rule="first", seed=None), ""),
        ({"first_examples": 400}, {}, ""),
        ({"num_examples": 400, "part_seed": 3}, _part(400, seed=3), ""),
        ({}, {"seed": 1}, "made with another seed"),
        ({}, {"batch_size": 32}, "made with another batch_size"),
        ({}, _part(400), "another part of the images (stratified, 400 of 800)"),
        ({"num_examples": 200}, _part(400), "another part of the images (stratified, 400 of 800)"),
        ({"num_examples": 400, "part_seed": 1}, _part(400), "another part of the images"),
        ({"num_examples": 400}, _part(400, rule="first", seed=None), "another part of the images"),
        ({"first_examples": 400}, _part(400), "another part of the images"),
        ({"num_examples": 400}, {}, "made with the first 400 images"),
        ({"first_examples": 200}, {}, "made with the first 400 images"),
    ],
)
def test_a_record_of_another_seed_or_of_other_images_is_stale(
    demo: Project, asked: dict[str, int], written: dict[str, object], reason: str
) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["evaluation"] |= asked
    project = Project(demo.root, check_params(content), "demo")
    project.write_record(key, "pgd-20", 220, **written)
    table = table2(project.results())
    row = table.details.query("defense == 'AT' and attack == 'pgd-20'").iloc[0]
    assert row["status"] == ("stale" if reason else "ok")
    assert reason in row["reason"]
    assert pd.isna(table.frame.loc[0, "pgd20"]) == bool(reason)


@pytest.mark.parametrize("written", [{}, _part(400, rule="all", seed=None, of=400)])
def test_a_record_of_fewer_than_all_images_is_stale(
    demo: Project, written: dict[str, object]
) -> None:
    """A mean over seeds would be one over other images under each of them."""
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "pgd-20", 220, **written)
    for count, reason in ((400, ""), (10_000, "made with 400 of the 10000 test images")):
        write_passport(demo.root / "data", key.dataset, test={"sha256": "1" * 64, "count": count})
        row = table2(demo.results()).details.query("defense == 'AT' and attack == 'pgd-20'").iloc[0]
        assert row["reason"] == reason
        assert pd.isna(row["accuracy"]) == bool(reason)


@pytest.mark.parametrize(
    "part",
    [
        {"rule": "all", "seed": None, "of": 800},
        {"mask": pack(np.arange(800) < 399)},
        {"mask": "AA=="},
        {"mask": "?"},
        {"of": 10**18},
    ],
)
def test_a_part_that_contradicts_its_mask_gives_no_number(
    demo: Project, part: dict[str, object]
) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    whole = _part(400)["part"]
    assert isinstance(whole, dict)
    demo.write_record(key, "pgd-20", 220, part=whole | {"mask": ""} | part)
    row = table2(demo.results()).details.query("defense == 'AT' and attack == 'pgd-20'").iloc[0]
    assert row["status"] == "inconsistent"


def test_unknown_formats_are_refused(demo: Project) -> None:
    (key,) = demo.table2_keys("at")
    folder = demo.write_run(key, [0.5] * 6)
    demo.write_record(key, "pgd-20", 200, format="rwp.evaluation/9")
    with pytest.raises(UserError, match=r"expected the format rwp\.evaluation/1, got 'rwp\.eval"):
        table2(demo.results())
    document = json.loads((folder / "run.json").read_text()) | {"format": "rwp.run/2"}
    (folder / "run.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=r"run\.json: expected the format rwp\.run/1"):
        table1(demo.results())


def test_a_run_that_contradicts_its_history_is_not_used(demo: Project) -> None:
    (key,) = demo.table1_keys("at")
    folder = demo.write_run(key, [0.5] * 6)
    document = json.loads((folder / "run.json").read_text())
    document["best"]["test_robust_accuracy"] = 0.7
    (folder / "run.json").write_text(json.dumps(document))
    row = table1(demo.results()).details.iloc[0]
    assert row["status"] == "inconsistent"
    assert "test_robust_accuracy 0.7 at epoch 0, history.jsonl 0.5" in row["reason"]


def test_a_run_of_other_settings_is_stale_in_both_tables(demo: Project) -> None:
    demo.write_all()
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["perturbations"]["rwp"]["c_min"] = 2.2
    params = check_params(content)
    first = table1(read_results(params, "demo", root=demo.root))
    stale = first.details[first.details["status"] == "stale"]
    assert set(stale["method"]) == {"AT-RWP"}
    assert set(stale["reason"]) == {"trained with another perturbation"}
    second = table2(read_results(params, "demo", root=demo.root)).frame.set_index("defense")
    assert list(second.index[second["aa"].isna()]) == ["AT-RWP", "TRADES-RWP", "RST-RWP"]


@pytest.mark.parametrize("what", ["run", "record", "verdict"])
def test_what_other_code_made_is_stale(demo: Project, what: str) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    folder = demo.root / key.directory
    place = {
        "run": folder / "run.json",
        "record": folder / "evaluation/best/pgd-20.json",
        "verdict": folder / "evaluation/best/diagnosis.json",
    }[what]
    place.write_text(json.dumps(json.loads(place.read_text()) | {"fingerprint": "0" * 16}))
    rows = table2(demo.results()).details.query("defense == 'AT'").set_index("attack")
    column = {"verdict": "verdict_status"}.get(what, "status")
    stale = rows.index[rows[column] == "stale"]
    assert set(stale) == ({"pgd-20"} if what == "record" else set(rows.index))
    reason = rows.loc["pgd-20", "verdict_reasons" if what == "verdict" else "reason"]
    assert f"`rwp verify --why {place.relative_to(demo.root)}`" in reason or what == "verdict"


def test_a_setting_that_a_run_does_not_know_had_its_default(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table1_keys("at")
    path = demo.root / key.directory / "run.json"
    document = json.loads(path.read_text())
    del document["spec"]["keep_epochs"], document["spec"]["attack"]["keep"]
    document["spec"]["optimization"]["compile"] = False  # as earlier versions wrote it
    path.write_text(json.dumps(document))
    frame = table1(demo.results()).details
    assert frame.loc[0, "status"] == "ok"
    document["spec"]["optimization"]["compile"] = True
    path.write_text(json.dumps(document))
    row = table1(demo.results()).details.iloc[0]
    assert (row["status"], row["reason"]) == ("stale", "trained with another optimization")
    del document["spec"]["optimization"]
    path.write_text(json.dumps(document))
    row = table1(demo.results()).details.iloc[0]
    assert row["status"] == "stale"
    assert row["reason"].startswith("trained by another version")


def test_a_history_that_is_cut_is_refused(demo: Project) -> None:
    (key,) = demo.table1_keys("at")
    folder = demo.write_run(key, [0.5] * 6)
    text = (folder / "history.jsonl").read_text()
    (folder / "history.jsonl").write_text(text[:-20])
    with pytest.raises(UserError, match="got something else at line 6"):
        table1(demo.results())


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"seconds": "12.5"}, "inconsistent"),
        ({"seconds": True}, "inconsistent"),
        ({"seconds": -3600}, "inconsistent"),
        ({"passes": "many"}, "ok"),
        ({"passes": {"forward": "x", "backward": 10}}, "inconsistent"),
        ({"passes": {"forward": 10, "backward": -1}}, "inconsistent"),
        ({"passes": {"forward": 10}}, "ok"),
        ({"seconds": None}, "ok"),
        ({"inputs": []}, "ok"),
    ],
)
def test_odd_entries_of_a_run_are_no_traceback(
    demo: Project, changes: dict[str, object], status: str
) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    path = demo.root / key.directory / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    details = table2(demo.results()).details.query("defense == 'AT'")
    assert set(details["status"]) == {status}
    assert own_rates(demo.params, demo.root)
    assert render_report(demo.results())


def test_a_zero_has_no_minus(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [-0.001, -0.5, 0.0, math.nan], "name": ["x", "y", "z", "-0"]})
    write_frame(tmp_path / "a.csv", frame)
    assert (tmp_path / "a.csv").read_text() == "a,name\n0.00,x\n-0.50,y\n0.00,z\n,-0\n"
