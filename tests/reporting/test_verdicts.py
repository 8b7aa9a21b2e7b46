"""The verdict as a column of Table 2: in words, with reasons, and only on the records at hand."""

from __future__ import annotations

import base64
import copy
import json
from pathlib import Path

import pandas as pd
import pytest

from rwp.pipeline.load import check_params
from rwp.reporting.gaps import table_gaps
from rwp.reporting.report import render_report
from rwp.reporting.results import worst_level
from rwp.reporting.tables import Table, other_checkpoints, table1, table2

from .conftest import Project
from .settings import PARAMS
from .test_report import Page

DOUBT = [
    {"level": "amber", "text": "PGD is 7.0 points above AutoAttack", "source": "so and so"},
    {"level": "green", "text": "nothing else"},
]


pytestmark = pytest.mark.usefixtures("_no_pictures")


def table2_of(project: Project) -> Table:
    return table2(project.results())


def details_of(project: Project, defense: str) -> pd.Series:
    details = table2_of(project).details
    return details[details["defense"] == defense].iloc[0]


def verdict_texts(project: Project) -> tuple[list[str], list[str]]:
    """The verdicts of Table 2 in the report, and the reasons below its rows."""
    page = Page(render_report(project.results()))
    return page.texts("verdict"), page.texts("why")


def test_the_verdict_and_its_doubts_are_words_in_the_table(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("trades")
    demo.write_diagnosis(key, "amber", reasons=DOUBT, gap=7.0)
    table = table2_of(demo)
    verdicts = table.frame.set_index("defense")["verdict"]
    assert verdicts["TRADES"] == "amber"
    assert set(verdicts.drop("TRADES")) == {"green"}
    row = details_of(demo, "TRADES")
    assert row["gap"] == 7.0
    assert row["verdict_reasons"] == (
        "amber: PGD is 7.0 points above AutoAttack | green: nothing else"
    )
    shown, reasons = verdict_texts(demo)
    assert shown.count("✓ green") == 9  # eight defenses and the reference
    assert shown.count("! amber") == 1
    assert reasons == ["amber: PGD is 7.0 points above AutoAttack"]


def test_a_verdict_without_reasons_has_no_row_of_them(demo: Project) -> None:
    """As on a network that was never meant to resist."""
    (key,) = demo.table2_keys("natural")
    demo.write_run(key, [0.1] * 6)
    for attack in demo.params.suites["demo"].evaluation.attacks:
        demo.write_record(key, attack, 4)
    demo.write_diagnosis(key, "green", reasons=[])
    shown, reasons = verdict_texts(demo)
    assert shown.count("✓ green") == 1
    assert reasons == []


def test_the_worst_of_several_verdicts_is_told_where_all_are_there() -> None:
    assert worst_level(["green", "red", "weak"]) == "red"
    assert worst_level(["green", None]) is None


@pytest.mark.slow
def test_the_worst_seed_gives_the_verdict(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1]
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    project.write_diagnosis(project.table2_keys("at")[1], "red", reasons=[DOUBT[0]])
    assert table2(project.results()).frame.loc[0, "verdict"] == "red"
    shown, reasons = verdict_texts(project)
    assert shown[0] == "✗ red"
    assert reasons == ["seed 1: amber: PGD is 7.0 points above AutoAttack"]
    project.write_diagnosis(project.table2_keys("at")[0]).unlink()
    assert pd.isna(table2(project.results()).frame.loc[0, "verdict"])


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (None, "missing", "have not been judged"),
        ("{}", "inconsistent", "expected a diagnosis"),
        ('{"format": "rwp.diagnosis/1"}', "inconsistent", "expected a complete diagnosis"),
        ("not json", "inconsistent", "expected JSON"),
    ],
)
def test_a_verdict_that_is_none_is_marked_and_said_how_to_get(
    demo: Project, content: str | None, status: str, reason: str
) -> None:
    demo.write_all()
    path = demo.write_diagnosis(demo.table2_keys("at")[0])
    path.unlink()
    if content is not None:
        path.write_text(content)
    row = details_of(demo, "AT")
    assert row["verdict_status"] == status
    assert reason in row["verdict_reasons"]
    assert row["accuracy"] == 90.0  # the numbers stay
    (gap,) = table_gaps(table1(demo.results()), table2_of(demo), None)
    force = " --force" if status == "inconsistent" else ""
    assert (gap.where, gap.status) == ("Table 2: AT: verdict, seed 0", status)
    assert gap.command == f"snakemake --cores all{force} {path.relative_to(demo.root)}"


def test_a_verdict_on_other_records_is_stale(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "pgd-20", 220, fingerprint="new")
    row = details_of(demo, "AT")
    assert row["verdict_status"] == "stale"
    assert pd.isna(row["verdict"])
    assert row["verdict_reasons"] == "judged by other records of pgd-20"
    best = demo.root / key.directory / "best.pt"
    best.write_bytes(b"trained again")  # all records are of another network: so is the verdict
    row = details_of(demo, "AT")
    assert (row["status"], row["verdict_status"]) == ("inconsistent", "stale")
    assert pd.isna(row["verdict"])


def test_the_worst_case_counts_images_that_survive_every_attack(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    record = json.loads(demo.write_record(key, "cw-100", 212).read_text())
    # CW fools the first image, which AutoAttack leaves; together they leave 203 of 400.
    bits = bytearray(base64.b64decode(record["robust_bits"]))
    bits[0] &= 0x7F
    text = base64.b64encode(bytes(bits)).decode()
    demo.write_record(key, "cw-100", 211, robust_bits=text)
    assert details_of(demo, "AT")["all_attacks"] == pytest.approx(100 * 203 / 400)
    demo.write_record(key, "cw-100", 212, checkpoint_sha256="2" * 64)
    assert pd.isna(details_of(demo, "AT")["all_attacks"])


@pytest.mark.slow
def test_other_checkpoints_stand_below_the_table_where_they_have_records(demo: Project) -> None:
    demo.write_all()
    before = render_report(demo.results())
    assert "Other checkpoints" not in before
    (key,) = demo.table2_keys("trades-rwp")
    demo.write_record(key, "pgd-20", 199, place="last")
    demo.write_record(key, "fgsm", 271, place="best_on_test")
    (at,) = demo.table2_keys("at")
    demo.write_record(at, "pgd-20", 300, place="last", checkpoint="best")  # cannot be
    (on_test, last) = other_checkpoints(demo.results())
    assert (on_test["defense"], on_test["checkpoint"]) == ("TRADES-RWP", "best on test")
    assert on_test["accuracies"] == [None, 67.75, None, None, None, None]
    assert last["accuracies"] == [None, None, 49.75, None, None, None]
    text = render_report(demo.results())
    assert "Other checkpoints" in text
    assert '<td class="number">49.75</td>' in text
    assert table2_of(demo).frame.loc[0, "pgd20"] == pytest.approx(55.0)


def test_no_image_survives_attacks_that_were_not_run(demo: Project) -> None:
    """With one record missing, "all attacks" would be those that are left."""
    demo.write_all()
    (key,) = demo.table2_keys("at")
    (demo.root / key.directory / "evaluation/best/autoattack.json").unlink()
    assert pd.isna(details_of(demo, "AT")["all_attacks"])
