"""The tables' numbers as nested JSON and on a terminal."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from pathlib import Path

from rich.console import Console

from rwp.pipeline.load import check_params
from rwp.reporting.report import render_report
from rwp.reporting.summaries import metrics, terminal_table, write_metrics
from rwp.reporting.tables import Table, table1, table2

from .conftest import Project
from .settings import PARAMS


def test_metrics_hold_the_tables_numbers_and_leave_out_missing_ones(demo: Project) -> None:
    demo.write_all()
    path, plot = write_metrics(demo.results())
    found = json.loads(path.read_text())
    assert path == demo.root / "results/metrics/demo.json"
    assert plot == demo.root / "results/plots/demo.csv"
    rows = {row["defense"]: row["aa"] for row in csv.DictReader(plot.open())}
    assert rows["AT"] == "51.00"
    assert found["table2"]["AT"] == {
        "natural": 90.0, "fgsm": 65.0, "pgd20": 55.0, "pgd100": 54.0, "cw": 53.0, "aa": 51.0
    }  # fmt: skip
    assert found["table1"]["Linf"]["digits"]["AT"]["best"] == 52.0
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "fgsm", 261)
    assert metrics(demo.results())["table2"]["AT"]["fgsm"] == 65.25
    (demo.root / key.directory / "evaluation/best/fgsm.json").unlink()
    assert "fgsm" not in metrics(demo.results())["table2"]["AT"]


def test_the_terminal_shows_the_table_its_reference_and_what_is_missing(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("rst-rwp")
    (demo.root / key.directory / "run.json").unlink()
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table(table2(demo.results()), title="Table 2", width=console.width))
    text = console.export_text()
    assert "AutoAttack" in text
    assert "90.00" in text
    assert "Natural (ref.)" in text
    assert "RST-RWP seed 0: missing: this training has not finished; 8 epochs are done" in text


def test_the_terminal_shows_table_1_as_well(demo: Project) -> None:
    demo.write_all()
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(terminal_table(table1(demo.results()), title="Table 1", width=console.width))
    assert re.search(r"L2 +│ AT-RWP │ digits +│ 56.00 │ 50.00", console.export_text())


def test_table_2_with_its_verdicts_fits_into_80_columns(demo: Project) -> None:
    demo.write_all()
    reasons = [{"level": "red", "text": "one step fools more than many"}]
    demo.write_diagnosis(demo.table2_keys("rst-rwp")[0], "red", reasons=reasons)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal_table(table2(demo.results()), title="Table 2", width=console.width))
    text = console.export_text()
    assert re.search(r"RST-RWP +│ +94.00 │.* 55.00 │ red", text)
    assert "RST-RWP seed 0: red: one step fools more than many" in text
    assert "…" not in text


def test_rows_of_other_numbers_of_seeds_say_so(tmp_path: Path) -> None:
    """A mean over two seeds beside one over three would look like the same thing."""
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1, 2]
    for count, expected in ((None, False), (2, True)):
        content["suites"]["demo"]["recipes"]["rst-rwp"]["num_seeds"] = count
        project = Project(tmp_path, check_params(content), "demo")
        project.write_all()
        console = Console(width=500, record=True, file=io.StringIO())
        console.print(terminal_table(table2(project.results()), title="Table 2"))
        text = console.export_text()
        assert ("means over as many seeds: 2 (RST-RWP); 3 (AT, AT-AWP, " in text) == expected


def terminal(table: Table, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(table, title="Table", width=width))
    return console.export_text()


def test_headings_and_numbers_are_never_cut(demo: Project) -> None:
    """Long names, many attacks, several seeds: the table goes on below with the other columns."""
    demo.write_all()
    table = table2(demo.results())
    extra = {f"{name}": 31.0 for name in ("autoattack-few-classes", "pgd-l2-40", "worst_case")}
    spread = {f"{name}_std": 1.25 for name in ("natural", "pgd20", "aa", *extra)}
    wide = Table(table.frame.assign(**extra, **spread), table.details)
    wide.frame.loc[0, "defense"] = "SMOOTHED-LOWEST: smoothing 0.2, share 0.9"
    for width in (60, 80, 100, 400):
        text = terminal(wide, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        for word in ("Natural", "PGD-100", "AA-few-", "classes", "pgd-l2-40", "worst", "verdict"):
            assert re.search(rf"(?<![\w-]){word}(?![\w])", text), (word, width, text)
        assert text.count("31.0 ± 1.2") == 3 * len(wide.frame)
        assert text.count("SMOOTHED-LOWEST") == text.count("Table (") or width == 400
    assert "Table (" not in terminal(wide, 400)
    assert "Table (1 of" in terminal(wide, 80)


def test_an_attack_that_a_suite_does_not_run_is_not_missing(demo: Project) -> None:
    content = copy.deepcopy(PARAMS)
    attacks = content["suites"]["demo"]["evaluation"]["attacks"]
    for name in ("fgsm", "autoattack"):
        del attacks[name]
    content["suites"]["demo"]["reported"] = []
    content["suites"]["demo"].pop("beyond", None)
    demo.write_all()
    demo.params = check_params(content)
    results = demo.results()
    table = table2(results)
    assert [name for name in table.frame if name in ("fgsm", "aa", "pgd20")] == ["pgd20"]
    text = terminal(table, 80)
    assert "FGSM" not in text
    assert "missing" not in text
    page = render_report(results)
    assert "PGD-20 \N{MINUS SIGN} AA" not in page
    assert ">FGSM<" not in page
    _, plot = write_metrics(results)
    assert {row["aa"] for row in csv.DictReader(plot.open())} == {""}


def test_attacks_on_fewer_images_than_others_are_told(demo: Project) -> None:
    """AutoAttack on an easy part stands beside PGD on all: it looked like the weaker attack."""
    demo.write_all()
    table = table2(demo.results())
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(terminal_table(table, title="Table 2", width=console.width))
    assert "different numbers of" not in console.export_text()
    table.details.loc[table.details["attack"] == "autoattack", "num_examples"] = 100
    console.print(terminal_table(table, title="Table 2", width=console.width))
    text = console.export_text()
    assert "attacks saw different numbers of test images: 100 (autoattack); 400 (natural, " in text
