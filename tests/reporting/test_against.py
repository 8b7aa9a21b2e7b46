"""A recipe of one's own against gathered results, without training those again."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rwp.errors import UserError
from rwp.evaluation.statistics import crossed_difference, mcnemar
from rwp.files import read_object, write_json
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Setting
from rwp.pipeline.suites import setting_keys
from rwp.reporting.against import against, sentences, trained_otherwise, write_against
from rwp.reporting.gathered import gather
from rwp.reporting.pairs import p_text

from .conftest import Project
from .settings import PARAMS
from .test_claims import outcomes
from .test_pairs import write_flags

OTHERS = ("at", "at-awp", "at-rwp")


def settings(num_seeds: int, **change: Any) -> dict[str, Any]:
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["seeds"] = list(range(num_seeds))
    suite["recipes"]["mine"] = {"objective": "at", "average_decay": 0.9}
    suite["table2"]["recipes"] = [*suite["table2"]["recipes"], "mine"]
    for table, values in change.items():
        suite[table] |= values
    return content


def play(
    project: Project, recipe: str, share: float, seeds: range, attack: str = "autoattack"
) -> None:
    for seed in seeds:
        project.write_run(project.table2_keys(recipe)[seed], [0.2, 0.4, 0.3])
        flags = outcomes(share, 10 * seed + len(recipe))
        write_flags(project, recipe, flags, seed=seed, attack=attack)


def committed(tmp_path: Path, num_seeds: int = 4, attack: str = "autoattack") -> Path:
    """AT, AT-AWP and AT-RWP, gathered; the project that trained them is gone."""
    content, root = settings(num_seeds), tmp_path / "theirs"
    project = Project(root, check_params(content), "demo")
    for recipe, share in zip(OTHERS, (0.3, 0.4, 0.5), strict=True):
        play(project, recipe, share, range(num_seeds), attack)
    gather(content, "demo", root=root, target=tmp_path / "docs")
    shutil.rmtree(root)
    return tmp_path / "docs"


def mine(tmp_path: Path, seeds: range, share: float = 0.5, **change: Any) -> Project:
    project = Project(tmp_path / "mine", check_params(settings(4, **change)), "demo")
    play(project, "mine", share, seeds)
    return project


def compared(project: Project, folder: Path) -> pd.DataFrame:
    return against(project.params, "demo", "mine", folder, root=project.root)[0]


def test_image_by_image_and_seed_by_seed(tmp_path: Path) -> None:
    folder, project = committed(tmp_path), mine(tmp_path, range(3), share=0.7)
    frame = compared(project, folder)
    assert list(frame["against"].unique()) == ["AT", "AT-AWP", "AT-RWP"]
    assert set(frame["attack"]) == {"autoattack"}
    rows = frame[frame["against"] == "AT-AWP"].set_index("seed")
    assert list(rows.index) == ["0", "1", "2", "all"]  # the seeds that both have
    own = [outcomes(0.7, 10 * seed + len("mine")) for seed in range(3)]
    theirs = [outcomes(0.4, 10 * seed + len("at-awp")) for seed in range(3)]
    for seed in range(3):
        expected = 100 * (own[seed].mean() - theirs[seed].mean())
        assert rows.loc[str(seed), "difference"] == pytest.approx(expected)
    over = crossed_difference(own, theirs)
    row = rows.loc["all"]
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(
        (100 * over.estimate, 100 * over.low, 100 * over.high)
    )
    assert row["p_value"] == pytest.approx(over.p_value)
    assert row["num_seeds"] == 3
    assert row["finding"] == "MINE is better (preliminary: 1 seed to come)"
    assert rows.loc["1", "finding"] == "one of several seeds: not tested"
    tested = frame[frame["p_value"].notna()]
    assert len(tested) == 3
    assert tested["p_holm"].iloc[tested["p_value"].argmin()] == pytest.approx(
        3 * tested["p_value"].min()
    )
    lines = list(sentences(frame))
    assert len(lines) == 3
    assert lines[1].startswith("MINE - AT-AWP, best, autoattack: +")
    assert lines[1].endswith("3 seeds, 400 images: MINE is better (preliminary: 1 seed to come)")
    play(project, "mine", 0.7, range(4))
    assert compared(project, folder).iloc[-1]["finding"] == "MINE is better"
    path = write_against(frame, "demo", "mine", root=project.root)
    assert path.relative_to(project.root) == Path("results/demo/against-mine.csv")
    assert len(pd.read_csv(path)) == len(frame)


def test_the_same_networks_are_no_test(tmp_path: Path) -> None:
    """They would make the correction of all others harder, and find nothing."""
    folder = committed(tmp_path)
    project = mine(tmp_path, range(4))
    play(project, "at", 0.3, range(4))
    frame, _ = against(project.params, "demo", "at", folder, root=project.root)
    found = dict(frame[frame["seed"] == "all"].groupby("against")["finding"].first())
    assert found["AT (demo)"] == "the same networks: not tested"
    assert frame["p_value"].notna().sum() == 2


def test_one_seed_speaks_of_two_networks(tmp_path: Path) -> None:
    frame = compared(mine(tmp_path, range(1), share=0.7), committed(tmp_path))
    row = frame[frame["against"] == "AT"].iloc[0]
    own, theirs = outcomes(0.7, len("mine")), outcomes(0.3, len("at"))
    assert row["p_value"] == pytest.approx(mcnemar(own, theirs).p_value)
    assert row["finding"] == "this MINE network is better (preliminary: 3 seeds to come)"
    assert (row["seed"], row["num_seeds"]) == ("0", 1)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_one_seed_under_one_random_start_is_no_test(tmp_path: Path, num_seeds: int) -> None:
    folder = committed(tmp_path, num_seeds, "pgd-20")
    project = mine(tmp_path, range(0))
    play(project, "mine", 0.7, range(num_seeds), "pgd-20")
    row = compared(project, folder).iloc[-1]
    untold = row["finding"].startswith("one random start: not tested")
    assert (row["attack"], row["num_seeds"]) == ("pgd-20", num_seeds)
    assert untold == pd.isna(row["p_value"]) == (num_seeds == 1)


def test_a_seed_that_is_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    """Its number is in no mean, though its record lies there or could."""
    folder, project = committed(tmp_path), mine(tmp_path, range(4), share=0.7)
    record = project.root / project.table2_keys("mine")[2].directory / "evaluation/best"
    content = read_object(record / "autoattack.json")
    write_json(record / "autoattack.json", content | {"num_examples": "many"})
    frame, left_out = against(project.params, "demo", "mine", folder, root=project.root)
    assert set(frame["num_seeds"]) == {1, 3}
    (line,) = left_out
    assert line.startswith("MINE, best, autoattack: left out seed 2: expected")
    (record / "autoattack.json").unlink()
    _, left_out = against(project.params, "demo", "mine", folder, root=project.root)
    assert left_out == ["MINE, best, autoattack: left out seed 2: this attack has not been run"]


def test_an_opponent_that_cannot_be_compared_is_named_with_the_reason(tmp_path: Path) -> None:
    """Otherwise the strongest one is not there, and the correction is of fewer tests."""
    folder, project = committed(tmp_path), mine(tmp_path, range(4), share=0.7)
    for key in project.table2_keys("at-awp"):
        record = folder.joinpath(*key.directory.parts[2:]) / "evaluation/best/autoattack.json"
        record.unlink()
    frame, left_out = against(project.params, "demo", "mine", folder, root=project.root)
    assert list(frame["against"].unique()) == ["AT", "AT-RWP"]
    reason = "this attack has not been run"
    assert left_out == [f"AT-AWP, best, autoattack: left out seeds 0, 1, 2, 3: {reason}"]
    shutil.rmtree(folder.joinpath(*project.table2_keys("at-rwp")[0].directory.parts[2:-1]))
    _, left_out = against(project.params, "demo", "mine", folder, root=project.root)
    assert left_out[1] == (
        "AT-RWP, best, autoattack: left out seeds 0, 1, 2, 3: this training has not finished"
    )


def test_no_seed_of_both_is_told_with_the_seeds(tmp_path: Path) -> None:
    folder = committed(tmp_path, num_seeds=2)
    project = mine(tmp_path, range(2, 4))
    with pytest.raises(UserError, match=r"found none; mine has best autoattack of seeds 2, 3$"):
        compared(project, folder)


def test_a_corrected_p_value_shows_on_which_side_of_the_level_it_lies() -> None:
    found = [p_text(p) for p in (0.0504, 0.05, 0.04999, 0.0123, 1.0)]
    assert found == ["0.0504", "0.05", "0.05", "0.012", "1"]


@pytest.mark.slow
def test_nothing_is_found_of_a_network_whose_verdict_is_red(tmp_path: Path) -> None:
    folder, project = committed(tmp_path), mine(tmp_path, range(3), share=0.7)
    key = project.table2_keys("mine")[1]
    for name in project.params.suites["demo"].evaluation.attacks:
        if name != "autoattack":
            project.write_record(key, name, 300)
    project.write_diagnosis(key, "red")
    frame = compared(project, folder)
    tested = frame[frame["p_holm"].notna()]
    assert (tested["p_holm"] < 0.05).any()
    assert set(tested["finding"]) == {
        "no finding on MINE: the verdict on it is red (preliminary: 1 seed to come)"
    }


def test_a_method_of_the_same_name_keeps_its_own_verdict(tmp_path: Path) -> None:
    """The verdict on the gathered AT is no less red for one's own AT being better."""
    content, root = settings(2), tmp_path / "theirs"
    project = Project(root, check_params(content), "demo")
    play(project, "at", 0.3, range(2))
    for key in project.table2_keys("at"):
        for name in project.params.suites["demo"].evaluation.attacks:
            if name != "autoattack":
                project.write_record(key, name, 300)
        project.write_diagnosis(key, "red")
    gather(content, "demo", root=root, target=tmp_path / "docs")
    own = Project(tmp_path / "mine", check_params(settings(2)), "demo")
    play(own, "at", 0.8, range(2))
    frame, _ = against(own.params, "demo", "at", tmp_path / "docs", root=own.root)
    row = frame[frame["against"] == "AT (demo)"].iloc[-1]
    assert (row["recipe"], row["attack"], row["seed"]) == ("AT", "autoattack", "all")
    assert row["p_holm"] < 0.05
    assert row["finding"] == "no finding on AT (demo): the verdict on it is red"


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    folder = committed(tmp_path)
    nothing = Project(tmp_path / "none", check_params(settings(4)), "demo")
    with pytest.raises(UserError, match=r"mine: expected records of its runs, found none .*snakem"):
        compared(nothing, folder)
    with pytest.raises(UserError, match="expected a recipe"):
        against(nothing.params, "demo", "mien", folder, root=nothing.root)
    project = mine(tmp_path, range(2))
    key = setting_keys(project.params, "demo", Setting(), "mine")[1]
    record = project.root / key.directory / "run.json"
    text = record.read_text()
    record.write_text(text.replace('"inputs": {}', '"inputs": {"train": "ab"}'))
    with pytest.raises(UserError, match="mine, seed 1: expected a run on the training images of"):
        compared(project, folder)
    record.write_text(text)
    first = setting_keys(project.params, "demo", Setting(), "mine")[0]
    project.write_record(first, "autoattack", 9, data_sha256="2" * 64)
    with pytest.raises(UserError, match="expected the test images of demo, got others"):
        compared(project, folder)


@pytest.mark.slow
def test_another_attack_of_the_same_name_is_refused(tmp_path: Path) -> None:
    folder = committed(tmp_path)
    change = {"evaluation": copy.deepcopy(PARAMS["suites"]["demo"]["evaluation"])}
    change["threat_models"] = copy.deepcopy(PARAMS["suites"]["demo"]["threat_models"])
    change["threat_models"]["linf"]["epsilon"] = 0.05
    project = mine(tmp_path, range(2), **change)
    with pytest.raises(
        UserError,
        match=r"mine: autoattack: expected the attack of demo, got one with another threat",
    ):
        compared(project, folder)


def test_what_else_the_trainings_differ_in_is_said(tmp_path: Path) -> None:
    """A network of twice the width, trained for longer, is no better method."""
    folder = committed(tmp_path, 1)
    same = check_params(settings(4))
    assert list(trained_otherwise(same, "demo", "mine", folder)) == []
    content = settings(4)
    content["suites"]["demo"]["recipes"]["mine"]["change"] = {"epochs": 9, "weight_decay": 0.0}
    content["suites"]["demo"]["evaluation"] |= {"seed": 1, "batch_size": 7}
    content["suites"]["demo"]["held_out_fraction"] = 0.3
    content["datasets"]["digits"]["per_class"] = 20
    content["networks"]["small"]["width"] = 2 * content["networks"]["small"]["width"]
    lines = list(trained_otherwise(check_params(content), "demo", "mine", folder))
    assert lines[0] == (
        "MINE was trained with another network, held out fraction, per class, epochs, weight decay "
        "than AT: their difference is of these, too"
    )
    assert lines[1] == (
        "MINE was attacked with another seed, batch size than AT: their difference is of these, too"
    )
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("table", "change", "named"),
    [
        ("training", {"attack_num_steps": 2}, "training attack (num steps)"),
        (
            "training",
            {"attack_epsilon": 0.05, "attack_step_size": 0.01},
            "(threat model, step size)",
        ),
        ("training", {"attack_bn_mode": "eval"}, "training attack (bn mode)"),
        ("recipe", {"start": {"recipe": "at-rwp", "epoch": 1}}, "another start"),
    ],
)
def test_another_training_attack_is_said(
    tmp_path: Path, table: str, change: dict[str, Any], named: str
) -> None:
    """Trained on weaker attacks a recipe is another method, whatever its perturbation."""
    folder, content = committed(tmp_path, 1), settings(4)
    suite = content["suites"]["demo"]
    {
        "training": suite["training"],
        "recipe": suite["recipes"]["mine"],
    }[table].update(change)
    first = next(trained_otherwise(check_params(content), "demo", "mine", folder))
    assert named in first
    assert first.endswith("than AT: their difference is of these, too")
