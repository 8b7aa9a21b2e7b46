from pathlib import Path

import numpy as np
import pytest

from rwp.errors import UserError
from rwp.evaluation.records import (
    clean_flags,
    pack,
    read_record,
    require_final,
    robust_flags,
    unpack,
    worst_case,
    write_record,
)
from rwp.files import read_json, write_json
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import attack, autoattack_spec, record


@pytest.mark.parametrize("count", [1, 7, 8, 9, 37])
def test_bits_survive_packing(count: int):
    flags = np.random.default_rng(count).random(count) < 0.5
    assert np.array_equal(unpack(pack(flags), count), flags)


def test_record_survives_the_disk(tmp_path: Path):
    written = record([True, False, True], clean=[True, True, True], parts={"apgd-ce": 2})
    write_record(tmp_path / "pgd.json", written)
    found = read_record(tmp_path / "pgd.json")
    assert found == written
    assert robust_flags(found).tolist() == [True, False, True]
    assert clean_flags(found).all()
    assert found.robust_accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_robust", 2, "counts that agree with the bits"),
        ("robust_bits", "AAAA", "bits for 3 examples"),
        ("robust_bits", "!", "base64"),
        ("format", "other", "rwp.evaluation/1"),
    ],
)
def test_damaged_record_is_refused(tmp_path: Path, name: str, value: object, message: str):
    path = tmp_path / "pgd.json"
    write_record(path, record([True, False, False]))
    write_json(path, read_json(path) | {name: value})
    with pytest.raises(UserError, match=message):
        read_record(path)


def test_what_a_later_version_notes_is_left_aside(tmp_path: Path):
    path, written = tmp_path / "r.json", record([True, False, False])
    write_record(path, written)
    write_json(path, read_json(path) | {"weather": "fine"})
    assert read_record(path) == written


def test_robust_but_wrong_before_is_refused():
    with pytest.raises(ValueError, match="correct before the attack"):
        record([True, True], clean=[True, False])


def test_worst_case_is_the_and_of_all_attacks():
    first = record([True, True, False, True])
    second = record([True, False, True, True], attack=autoattack_spec())
    assert worst_case([first, second]).tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", ["checkpoint_sha256", "data_sha256"])
def test_worst_case_over_other_files_is_refused(name: str):
    with pytest.raises(UserError, match=name):
        worst_case([record([True]), record([True], **{name: "other"})])


def test_worst_case_over_threat_models_is_refused():
    other = attack("pgd-20", "pgd", threat=ThreatSpec(norm="l2", epsilon="0.5"))
    with pytest.raises(UserError, match="one threat model"):
        worst_case([record([True]), record([True], attack=other)])
    natural = {"name": "natural", "kind": "natural", "step_size": None, "num_steps": None}
    plain = record([True], attack=record([True]).attack.replace(**natural))
    for records in ([plain, record([True], attack=other)], [record([True], attack=other), plain]):
        assert worst_case(records).tolist() == [True]  # it has no radius


def test_lite_autoattack_enters_no_table():
    standard = record([True], attack=autoattack_spec())
    assert require_final(standard) is standard
    with pytest.raises(UserError, match="upper bound"):
        require_final(record([True], attack=autoattack_spec("lite")))


def test_robust_accuracy_is_a_share_of_all_images():
    found = record([True, False, False, False], clean=[True, True, False, False])
    assert found.robust_accuracy == 0.25
