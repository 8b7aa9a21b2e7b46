"""From training to a committed folder and back: a gathered network gives its record's bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwp.errors import UserError
from rwp.evaluation.jobs import evaluate_checkpoint
from rwp.evaluation.records import pack, read_record, robust_flags
from rwp.files import read_object, write_json
from rwp.pipeline.load import check_params
from rwp.pipeline.lookup import run_key
from rwp.pipeline.resolve import train_spec
from rwp.pipeline.resolve_evaluation import evaluation_spec
from rwp.pipeline.steps import Steps
from rwp.reporting.attack_again import Again, attack_again
from rwp.reporting.gathered import gather
from rwp.training.jobs import train_run
from tests.commands.test_commands import assert_one_line
from tests.conftest import Project, tiny_settings
from tests.evaluation.samples import record

ATTACKS = ("natural", "pgd-20")


@pytest.fixture(scope="module")
def committed_network(
    tmp_path_factory: pytest.TempPathFactory, committed: dict[str, Any], digits: Path
) -> tuple[Path, Path, dict[str, Any]]:
    """The network of one seed in a gathered folder, a project with the images, and its settings."""
    content = tiny_settings(committed)
    content["suites"]["demo"]["table1"]["recipes"] = ["at"]
    params = check_params(content)
    root = tmp_path_factory.mktemp("trained")
    (root / "data").symlink_to(digits)
    key = run_key(params, "demo", recipe="at", dataset="digits", threat="linf", seed=0)
    steps = Steps(params)
    train_run(train_spec(params, key), root=root, fingerprint=steps.train(key).fingerprint)
    for checkpoint in ("best", "last"):
        spec = evaluation_spec(params, key, checkpoint=checkpoint, attacks=ATTACKS)
        mark = steps.evaluate(key, checkpoint, "pgd-20").fingerprint
        evaluate_checkpoint(spec, root=root, fingerprint=mark, state=root / ".state")
    folder = root / "docs" / "results" / "demo"
    found = gather(content, "demo", root=root, target=folder)
    assert sorted(path.name for path in found.networks) == ["best.pt", "last.pt"]
    shutil.rmtree(root / "results")
    return found.networks[0], root, content


def test_the_same_outcome_on_each_image(
    committed_network: tuple[Path, Path, dict[str, Any]],
) -> None:
    network, root, _ = committed_network
    folder = root / "docs/results/demo"
    before = {path: path.read_bytes() for path in (root / "docs").rglob("*") if path.is_file()}
    found = attack_again(folder, network, ATTACKS, root=root)
    assert [again.record.attack.name for again in found] == list(ATTACKS)
    for again in found:
        assert again.gathered is not None
        assert again.record.robust_bits == again.gathered.robust_bits
        assert again.record.clean_bits == again.gathered.clean_bits
        assert again.told == "the record's outcome on each of 40 images"
    assert {path: path.read_bytes() for path in before} == before
    assert not (root / "results").exists()


def test_another_outcome_is_counted(
    committed_network: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    network, root, _ = committed_network
    shutil.copytree(root / "docs", tmp_path / "docs")
    copied, folder = tmp_path / network.relative_to(root), tmp_path / "docs/results/demo"
    path = copied.parent / "evaluation" / copied.stem / "pgd-20.json"
    flags = robust_flags(read_record(path)).copy()
    right = flags.nonzero()[0][:2]
    flags[right] = False
    document = read_object(path)
    document |= {"robust_bits": pack(flags), "num_robust": int(flags.sum())}
    write_json(path, document)
    (again,) = attack_again(folder, copied, ("pgd-20",), root=root)
    assert again.num_others == len(right) > 0
    assert f"another outcome on {len(right)} of 40 images than the record" in again.told
    # of another attack, or of other images: nothing to compare with
    mask = np.arange(40) < 8
    attack = document["attack"] | {"num_steps": 7}
    part = {"rule": "stratified", "seed": 0, "size": 8, "of": 40, "sha256": "p", "mask": pack(mask)}
    fewer = {"num_examples": 8, "num_clean_correct": 8, "num_robust": 8, "part": part}
    fewer |= {"clean_bits": pack(mask[:8]), "robust_bits": pack(mask[:8])}
    for changes in ({"attack": attack}, fewer, {"seed": 5}, {"batch_size": 7}):
        write_json(path, document | changes)
        (again,) = attack_again(folder, copied, ("pgd-20",), root=root)
        assert again.told == "no record of these settings to compare with"
    path.unlink()
    (again,) = attack_again(folder, copied, ("pgd-20",), root=root)
    assert again.told == "no record of these settings to compare with"


def test_another_outcome_without_the_attack_is_counted() -> None:
    """The network itself then gives another answer, though the attack fools it either way."""
    ours = record([True, False, False], clean=[True, True, False])
    theirs = record([True, False, False], clean=[True, False, False])
    assert (Again(ours, ours).num_others, Again(ours, theirs).num_others) == (0, 1)


def test_other_images_and_missing_ones_are_one_line(
    committed_network: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    network, root, _ = committed_network
    folder = root / "docs/results/demo"
    with pytest.raises(UserError, match=r"test.pt: expected the test images, found no file; run"):
        attack_again(folder, network, ATTACKS, root=tmp_path)
    shutil.copytree(root / "data", tmp_path / "data")
    (tmp_path / "data/digits/test.pt").write_bytes(b"others")
    others = r"test.pt: expected the test images of the network's training, got others; fetch"
    with pytest.raises(UserError, match=others):
        attack_again(folder, network, ATTACKS, root=tmp_path)
    copied = tmp_path / network.relative_to(root)
    shutil.copytree(root / "docs", tmp_path / "docs")
    shutil.rmtree(copied.parent / "evaluation")  # no record says of which images it is
    with pytest.raises(UserError, match=others):
        attack_again(tmp_path / "docs/results/demo", copied, ATTACKS, root=tmp_path)


@pytest.mark.parametrize("named_by", ["run.json", "natural.json"])
def test_another_network_than_that_of_the_run_is_not_compared(
    committed_network: tuple[Path, Path, dict[str, Any]], tmp_path: Path, named_by: str
) -> None:
    network, root, _ = committed_network
    shutil.copytree(root / "docs", tmp_path / "docs")
    copied, folder = tmp_path / network.relative_to(root), tmp_path / "docs/results/demo"
    run = copied.parent / "run.json"
    document = read_object(run)
    if named_by == "run.json":
        (copied.parent / "evaluation/best/natural.json").unlink()
    else:  # as run.json of earlier versions
        write_json(run, {name: value for name, value in document.items() if name != "networks"})
    content = copied.read_bytes()
    copied.write_bytes(content + b"more")
    told = rf"best.pt: expected the network that {named_by} beside it is of .*, got another file"
    with pytest.raises(UserError, match=rf"{told} .*; bring the folder back as it was gathered"):
        attack_again(folder, copied, ATTACKS, root=root)
    copied.write_bytes(content)
    write_json(run, document | {"key": document["key"] | {"seed": 7}})
    with pytest.raises(UserError, match=r"run.json: expected the run of its folder, got .*seed7"):
        attack_again(folder, copied, ATTACKS, root=root)


@pytest.mark.slow
def test_the_command_needs_no_settings(
    committed_network: tuple[Path, Path, dict[str, Any]],
) -> None:
    network, root, _ = committed_network
    there = Project.__new__(Project)
    there.folder = root
    words = ("rwp", "evaluate", "--checkpoint", str(network), "--attack", "pgd-20")
    result = there.run(*words)
    assert result.returncode == 0, result.stderr
    assert "the record's outcome on each of 40 images" in result.stdout
    assert_one_line(there.run(*words, "--suite", "demo"), "--suite: expected none for a run")
    assert json.loads((root / "docs/results/demo/results.json").read_text())["suite"] == "demo"
