"""A study in a file of its own: written, read with params.yaml, and refused where it clashes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rwp.commands.new import new
from rwp.errors import UserError
from rwp.pipeline.load import check_params, load_params
from rwp.pipeline.new_study import Images, study_text, write_study
from rwp.pipeline.steps import Steps
from rwp.strict_yaml import parse_yaml
from rwp.studies import in_its_file, read_settings
from rwp.training.checkpoint import _refuse_undeclared
from tests.conftest import ROOT

OPTIONS: dict[str, Any] = {"dataset": None, "size": None, "network": None}


def images(folder: Path, *classes: str, size: int = 16) -> Path:
    """A tree of random pictures."""
    numbers = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in classes:
            place = folder / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = numbers.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{index}.png")
    return folder


@pytest.fixture
def params_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    return Path("params.yaml")


@pytest.mark.parametrize(
    ("classes", "attack", "c_min"),
    [
        (("a", "b"), "autoattack-few-classes", 0.51),
        (("a", "b", "it's c"), "autoattack-few-classes", 0.81),
        (tuple("abcd"), "autoattack", 1.03),
    ],
)
def test_a_new_study_is_complete_and_short(
    params_file: Path, classes: tuple[str, ...], attack: str, c_min: float
) -> None:
    folder = images(Path("images/it's mine"), *classes)
    path = write_study("mine", images=folder, params_file=params_file, **OPTIONS)
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert any("#" in line for line in lines)
    params = load_params(params_file)
    assert attack in params.suites["mine"].evaluation.attacks
    assert params.suites["mine"].perturbations["rwp"].c_min == {"default": c_min}
    assert len(params.datasets["mine"].mean or ()) == 3
    table = Steps(params).find("results/mine/table2.csv")
    assert {step.kind for step in table.inputs.values()} >= {"train", "evaluate", "judge"}


@pytest.mark.parametrize(
    ("count", "batch_size", "rate"), [(999, 32, 0.025), (1000, 64, 0.05), (5000, 128, 0.1)]
)
def test_the_learning_rate_is_in_proportion_to_the_batch(
    count: int, batch_size: int, rate: float
) -> None:
    found = Images("", "digits", ("a", "b"), count, 9, (1, 8, 8))
    (suite,) = parse_yaml(study_text("mine", found, None, known=()), where="x")["suites"].values()
    training = suite["training"]
    assert (training["batch_size"], training["learning_rate"]) == (batch_size, rate)


def test_its_mean_and_std_are_those_of_the_training_images(params_file: Path) -> None:
    folder = images(Path("images/mine"), "a", "b")
    write_study("mine", images=folder, params_file=params_file, **OPTIONS)
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(folder.glob("train/*/*"))]) / 255
    definition = load_params(params_file).datasets["mine"]
    assert definition.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-4)
    assert definition.std == pytest.approx(pixels.std((0, 1, 2)), abs=1e-3)


@pytest.mark.parametrize(
    "name", ["123", "true", "no", "2026-11-28", "2026-13-45", "null", "2e1", "0o17"]
)
def test_a_name_is_a_text_for_yaml_too(params_file: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"NAME: expected a name that YAML reads .*, got {name};"):
        new(name, params_file=params_file)


def test_a_folder_and_a_data_set_may_have_the_name_of_a_number(params_file: Path) -> None:
    folder = images(Path("2e3"), "a", "b")
    write_study("mine", images=folder, params_file=params_file, **OPTIONS)
    assert load_params(params_file).datasets["mine"].path == "2e3"
    study = study_text(
        "other", Images("", "2e1", ("a", "b"), 9, 9, (3, 8, 8)), "2e2", known=("2e2",)
    )
    (suite,) = parse_yaml(study, where="study")["suites"].values()
    assert suite["table1"]["datasets"] == [suite["table2"]["dataset"]] == ["2e1"]
    assert suite["network"] == suite["table2"]["network"] == "2e2"


def test_a_network_of_ones_own_is_told_of_the_normalization_before_it(params_file: Path) -> None:
    found = Images("", "pets", ("a", "b"), 9, 9, (3, 8, 8))
    study = study_text("mine", found, "own.networks:Tiny", known=("small",))
    (line,) = [line for line in study.splitlines() if "normalize:" in line]
    assert line.endswith("# before your network; false if it normalizes itself")
    suite = parse_yaml(study, where="study")["suites"]["mine"]
    assert suite["training"]["normalize"] is True
    assert suite["training"]["crop_padding"] == 1
    assert len(study.splitlines()) <= 40


def test_images_of_several_sizes_are_brought_to_one(params_file: Path) -> None:
    folder = images(Path("images/mine"), "a", size=40)
    images(Path("more"), "b", size=48)
    for split in ("train", "test"):
        shutil.move(f"more/{split}/b", folder / split)
    write_study("mine", images=folder, params_file=params_file, **OPTIONS)
    assert load_params(params_file).datasets["mine"].image_size == 32

    images(Path("smaller"), "c", size=20)  # which cannot fill 32 pixels, nor 24
    for split in ("train", "test"):
        (Path("smaller") / split / "c").rename(folder / split / "c")
    write_study("again", images=folder, **OPTIONS, params_file=params_file)
    assert load_params(params_file).datasets["again"].image_size == 16
    with pytest.raises(UserError, match=r"expected at least 24 pixels .*, got 20x20; lower"):
        write_study("third", images=folder, **OPTIONS | {"size": 24}, params_file=params_file)


def test_a_network_of_ones_own_is_declared(params_file: Path) -> None:
    folder = images(Path("images/mine"), "a", "b")
    options = OPTIONS | {"network": "own.networks:Tiny"}
    path = write_study("mine", images=folder, params_file=params_file, **options)
    assert len(path.read_text().splitlines()) <= 40
    params = load_params(params_file)
    assert params.networks["mine-net"].family == "own.networks:Tiny"
    with pytest.raises(UserError, match=r"networks\.mine-net\.family: expected the module own"):
        Steps(params).find("results/mine/table2.csv")


def test_names_that_are_taken_and_places_that_are_wrong_are_refused(params_file: Path) -> None:
    folder = images(Path("images/mine"), "a", "b")
    for name, options, message in (
        ("demo", {"images": folder}, "suites.demo: expected a new name"),
        ("mine", {"images": None}, "expected --images FOLDER or --dataset NAME, got both or none"),
        ("mine", {"images": Path("images/none")}, "images/none"),
        ("mine", {"images": None, "dataset": "svhn"}, "run `rwp data fetch svhn`"),
    ):
        with pytest.raises(UserError, match=message.replace("(", r"\(")):
            write_study(name, params_file=params_file, **(OPTIONS | options))
    assert not Path("studies/mine.yaml").exists()
    write_study("mine", images=folder, params_file=params_file, **OPTIONS)
    with pytest.raises(UserError, match="expected a new name"):
        write_study("mine", images=folder, params_file=params_file, **OPTIONS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("suites: {demo: {}}", r"studies/x\.yaml: suites\.demo: expected a name of its own"),
        ("build: [x]", r"studies/x\.yaml: expected datasets, .* add its suite to `build`"),
        ("- a", r"studies/x\.yaml: expected tables"),
        ("suites: 3", r"studies/x\.yaml: suites: expected a table of names, got int"),
        (
            "suites: {x: {extends: demo, seeds: []}}",
            r"studies/x\.yaml: suites\.x: .*expected distinct seeds",
        ),
    ],
)
def test_a_wrong_study_is_named(params_file: Path, text: str, message: str) -> None:
    Path("studies").mkdir()
    Path("studies/x.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_params(params_file)


def test_hidden_files_are_no_studies(params_file: Path) -> None:
    """What an editor and macOS leave behind; an ending that nobody reads is told."""
    Path("studies").mkdir()
    Path("studies/.#x.yaml").symlink_to("nobody@nowhere.123")
    Path("studies/._x.yaml").write_bytes(bytes(range(256)))
    assert "demo" in load_params(params_file).suites
    for ending in (".yml", ".YAML", ".Yml"):
        other = Path(f"studies/x{ending}")
        other.write_text("suites: {}")
        message = rf"studies/x\{ending}: expected a study named x\.yaml, got \{ending}"
        with pytest.raises(UserError, match=message):
            load_params(params_file)
        other.unlink()


def test_a_study_adds_to_the_tables(params_file: Path) -> None:
    Path("studies").mkdir()
    Path("studies/x.yaml").write_text("suites: {x: {extends: demo, description: mine}}")
    settings = read_settings(params_file)
    assert "demo" in settings["suites"]
    assert "x" in settings["suites"]


def test_what_a_suite_inherits_can_be_removed(committed: dict[str, Any]) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["suites"]["less"] = {
        "extends": "demo-full",
        "evaluation": {"attacks": {"autoattack": None}},
        "figures": {"fig2": None},
        "table2": {"reference_recipe": None},
    }
    suite = check_params(content).suites["less"]
    assert "autoattack" not in suite.evaluation.attacks
    assert "fig2" not in suite.figures
    assert "fig2" not in suite.reported
    assert suite.beyond is not None
    assert "autoattack" not in suite.beyond.attacks
    assert suite.table2.reference_recipe is None
    content["suites"]["less"] |= {"beyond": None}
    suite = check_params(content).suites["less"]
    assert suite.beyond is None
    assert "beyond" not in suite.reported


def test_what_must_be_there_cannot_be_removed() -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["suites"]["less"] = {"extends": "demo", "network": None}
    with pytest.raises(UserError, match=r"suites\.less\.network: expected a value, got none"):
        check_params(content)


def test_a_missing_module_is_told_under_the_study_that_names_it(params_file: Path) -> None:
    folder = images(Path("images/mine"), "a", "b")
    options = OPTIONS | {"network": "own.networks:Tiny"}
    write_study("mine", images=folder, params_file=params_file, **options)
    with pytest.raises(UserError) as caught:
        Steps(load_params(params_file)).find("results/mine/table2.csv")
    told = in_its_file(str(caught.value), params_file)
    assert told.startswith("results/mine/table2.csv: studies/mine.yaml: networks.mine-net.family: ")
    assert in_its_file("params.yaml: suites.demo.seeds: x", params_file).startswith("params.yaml: ")
    Path("studies/other.yaml").write_text("- not [a study")
    assert in_its_file(str(caught.value), params_file) == told


def test_words_of_a_new_study_that_change_nothing_or_name_nothing(params_file: Path) -> None:
    given = OPTIONS | {"images": None, "dataset": "digits", "params_file": params_file}
    with pytest.raises(UserError, match="--image-size: expected it with --images alone, got 9 wi"):
        write_study("mine", **given | {"size": 9})
    with pytest.raises(UserError, match=r"--network: expected a network, .*\(.*small.*got 'nope'"):
        write_study("mine", **given | {"network": "nope"})
    assert not Path("studies/mine.yaml").exists()


def test_hidden_folders_are_no_classes(params_file: Path) -> None:
    """Known before the fetch as after it: three classes have another AutoAttack than four."""
    folder = images(Path("own"), "a", "b", "c")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    write_study("mine", **OPTIONS | {"images": folder, "params_file": params_file})
    found = load_params(params_file).suites["mine"].evaluation.attacks
    assert "autoattack-few-classes" in found


@pytest.mark.parametrize("name", ["caf\udce9", "two\nlines"])
def test_names_that_no_file_of_text_can_hold_are_refused(params_file: Path, name: str) -> None:
    for place, last, expected in (
        (Path("own"), name, "class folders with names"),
        (Path(name), "c", "a folder with a name"),
    ):
        try:
            folder = images(place, "a", "b", last)
        except OSError:
            pytest.skip("no such name on this file system")
        message = re.escape(f"expected {expected} that can be written, got {name!r}; rename it")
        with pytest.raises(UserError, match=message) as caught:
            write_study("mine", **OPTIONS | {"images": folder, "params_file": params_file})
        assert "\n" not in str(caught.value)
        assert not Path("studies").exists()


def test_settings_that_a_command_is_given_declare_factories(
    params_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that only the file of --params names may be run, too."""
    monkeypatch.setattr("rwp.studies._last_read", None)  # put back afterwards
    content = yaml.safe_load(params_file.read_text())
    content["networks"]["mine"] = {"family": "own.networks:Mine"}
    other = tmp_path / "elsewhere/other.yaml"
    other.parent.mkdir()
    other.write_text(yaml.safe_dump(content))
    read_settings(params_file)
    with pytest.raises(UserError, match=r"a\.pt: expected a network that params.yaml declares"):
        _refuse_undeclared("a.pt", "own.networks:Mine")
    read_settings(other)
    _refuse_undeclared("a.pt", "own.networks:Mine")
