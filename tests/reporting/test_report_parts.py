"""The report's figures, the table beyond the paper, and where each of their numbers is from."""

from __future__ import annotations

import copy
import html
import io
import json
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from rwp.pipeline.load import check_params
from rwp.pipeline.suites import rows_of
from rwp.reporting import report
from rwp.reporting.figures import write_suite_figure
from rwp.reporting.report import render_report
from rwp.reporting.summaries import terminal_table
from rwp.reporting.tables import Table, beyond, table1, table2, write_table
from tests.data.samples import write_passport

from .conftest import Project
from .settings import shown_content
from .test_report import Page


@pytest.mark.usefixtures("_no_pictures")
def test_a_complete_suite_shows_all_figures_and_what_goes_beyond(everything: Project) -> None:
    text = render_report(everything.results())
    page = Page(text)
    assert len(page.images) == 4  # those reported; fig3c is not drawn
    assert {"fig1b", "fig2", "fig3a", "fig4b", "beyond"} <= set(page.ids)
    assert 'id="missing"' not in text
    assert "4 of 4 figures are drawn" in text
    assert (
        "Figure 4b: AT without low-loss examples, and the share removed (digits, L2, small)" in text
    )
    # Each training is listed with what shows it; AT at c_min 1.7 is AT-RWP itself.
    assert "Table 1, Table 2, Figure 1b, Figure 2, Figure 3a, Beyond the paper" in text
    assert "AT: losses below 0.5 removed" in text
    base = "results/demo/runs/digits"
    assert f"<code>{base}/l2/small/at-remove_below-0.5/seed0</code>" in text
    assert "at-20/seed0" in text


@pytest.mark.usefixtures("_no_pictures")
def test_figures_that_are_missing_are_marked_with_their_command(shown: Project) -> None:
    shown.write_all()
    text = html.unescape(render_report(shown.results()))
    for name in ("fig1b", "fig2", "fig3a", "fig4b"):
        assert f"<code>snakemake --cores all results/demo/{name}.svg</code>" in text
    assert "0 of 4 figures are drawn" in text
    assert "Figure 2</th>" in text.replace("\n", "")
    assert "the landscape is not measured yet" in text
    assert "Figure 3a: 1 of 3 trainings (AT-RWP: c_min 1.5)" in text
    assert "Beyond the paper: AT-20, digits, seed 0" in text
    records = "results/demo/runs/digits/linf/small/at-20/seed0/evaluation/best"
    assert f"snakemake --cores all {records}/{{natural,autoattack}}.json" in text


@pytest.mark.usefixtures("_no_pictures")
def test_a_run_of_a_figure_that_collapsed_is_named_and_the_rest_is_shown(filled: Project) -> None:
    rows = {row.recipe: row.keys for row in rows_of(filled.params, "demo", "beyond")}
    (key,) = rows["at-rwp-c_min-1.5"]
    filled.write_run(key, [0.1] * 6, status="collapsed", reason="constant class in 3 epochs")
    text = render_report(filled.results())
    page = Page(text)
    assert len(page.images) == 4
    (at,) = rows["at"]
    filled.write_run(at, [0.1] * 6, status="collapsed", reason="constant class in 3 epochs")
    drawn = write_suite_figure(filled.results("fig2"), "fig2")
    assert "after epoch 4 (collapsed)" in drawn[0].read_text()
    assert "Figure 3a: 1 of 3 trainings (AT-RWP: c_min 1.5): collapsed: constant class" in text
    assert page.texts("broken").count("collapsed") == 6 + 1  # its row beyond, and the run itself
    view = report.beyond_groups(beyond(filled.results()))
    assert [group["title"] for group in view["groups"]] == ["Rivals", "Thresholds"]
    failed, fine = view["groups"][1]["rows"]
    assert {cell.text for cell in failed["cells"]} == {"collapsed"}
    assert failed["cost"].text == "\N{EN DASH}"
    assert fine["cells"][0].text == "56.00"
    assert (fine["cost"].text, fine["cost"].notes) == ("2,100", ("12.5 s",))


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.slow
def test_with_seeds_tables_are_means_and_deviations(tmp_path: Path) -> None:
    content = copy.deepcopy(shown_content())
    content["suites"]["demo"]["seeds"] = [0, 1]
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    first, second = project.table2_keys("at")
    project.write_record(first, "pgd-20", 200)
    project.write_record(second, "pgd-20", 208)  # 50 and 52 percent of 400
    project.write_run(second, [0.2, 0.35, 0.45, 0.5, 0.56, 0.5, 0.48, 0.42])
    table = table2(project.results())
    row = table.frame.iloc[0]
    assert (row["pgd20"], row["pgd20_std"]) == (pytest.approx(51.0), pytest.approx(2**0.5))
    path, _ = write_table(table, tmp_path / "results/demo", "table2")
    assert path.read_text().startswith(
        "defense,num_seeds,natural,natural_std,fgsm,fgsm_std,pgd20,pgd20_std"
    )
    assert row["num_seeds"] == 2
    one = table1(project.results()).frame.iloc[0]
    assert (one["best"], one["best_std"]) == (pytest.approx(54.0), pytest.approx(8**0.5))
    assert one["robust_overfitting_gap_std"] == pytest.approx(32**0.5)
    third = beyond(project.results()).frame
    assert third.loc[0, "best_std"] == pytest.approx(8**0.5)
    assert "training_hours_std" not in third
    assert set(third["num_seeds"]) == {2}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(terminal_table(table, title="", width=120))
    assert "51.0 ± 1.4" in console.export_text()
    page = Page(render_report(project.results()))
    assert any(text.startswith("51.00± 1.41 over 2 seeds") for _, text in page.cells)
    assert "AT-20<small>2 seeds</small>" in render_report(project.results())


def test_the_gap_of_attacks_on_other_images_is_that_of_the_verdict() -> None:
    """Table 2's means over 400 and 200 images say nothing of each other."""
    pgd = {"num_examples": 400, "norm": "linf", "epsilon": "8/255", "accuracy": 55.0, "gap": 4.0}
    autoattack = pgd | {"accuracy": 50.0}
    assert report._gap_cell([pgd], [autoattack]).text == "5.00"
    assert report._gap_cell([pgd], [autoattack | {"accuracy": None}]).text == report.NO_NUMBER
    for change in ({"num_examples": 200}, {"epsilon": "4/255"}, {"norm": "l2"}):
        assert report._gap_cell([pgd], [autoattack | change]).text == "4.00"
        assert report._gap_cell([pgd | {"gap": None}], [autoattack | change]).text == "\N{EN DASH}"


def test_costs_of_two_data_sets_are_not_mixed() -> None:
    """Two groups of one title, each with a row of the same method."""
    shown = [
        {"group": "g", "method": "AT", "dataset": name, "threat_model": "linf", "network": "small"}
        for name in ("one", "two")
    ]
    counts = [
        {"forward_passes": n, "backward_passes": 0, "training_hours": n / 3600} for n in (1, 9)
    ]
    details = [row | n | {"seed": 0, "status": "ok"} for row, n in zip(shown, counts, strict=True)]
    table = Table(pd.DataFrame([row | {"num_seeds": 1} for row in shown]), pd.DataFrame(details))
    (group,) = report.beyond_groups(table)["groups"]
    cells = [row["cost"] for row in group["rows"]]
    assert [(cell.text, cell.notes) for cell in cells] == [("1", ("1.0 s",)), ("9", ("9.0 s",))]


def test_seconds_are_not_rounded_to_no_hours(filled: Project) -> None:
    table = beyond(filled.results())
    path, details = write_table(table, filled.root / "results/demo", "beyond")
    for one in (path, details):
        assert set(pd.read_csv(one)["training_hours"].dropna()) == {0.003472}  # 12.5 s
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(table, title="", width=200))
    assert "0.003472" in console.export_text()


def test_costs_stand_in_the_details(demo: Project) -> None:
    demo.write_all()
    for table in (
        table1(demo.results()),
        table2(demo.results()),
    ):
        row = table.details.iloc[0]
        assert (row["forward_passes"], row["backward_passes"]) == (1100, 1000)
        assert row["training_hours"] == pytest.approx(12.5 / 3600)
        assert row["device"] == "cpu"


@pytest.mark.usefixtures("_no_pictures")
def test_a_wrong_count_in_a_record_is_red_wherever_it_is_shown(filled: Project) -> None:
    (key,) = filled.table2_keys("at")
    path = filled.root / key.directory / "evaluation/best/autoattack.json"
    record = json.loads(path.read_text()) | {"num_robust": 250}
    path.write_text(json.dumps(record))
    text = render_report(filled.results())
    assert Page(text).texts("broken").count("inconsistent") == 3  # Table 2, its details, and beyond
    assert "Table 2: AT: autoattack, seed 0: inconsistent" in text


@pytest.mark.usefixtures("_no_pictures")
def test_what_was_noticed_about_the_images_is_among_the_remarks(filled: Project) -> None:
    note = "3 of 252 test images are also in train, byte for byte"
    write_passport(filled.root / "data", "digits", notes=[note])
    text = html.unescape(render_report(filled.results()))
    assert f"<li>digits: {note}</li>" in text
    assert 'id="remarks"' in text


def test_a_cost_is_a_mean_over_seeds_in_a_unit_that_suits_it() -> None:
    rows = [
        {"forward_passes": n, "backward_passes": n // 2, "training_hours": hours}
        for n, hours in ((100, 0.5), (300, 1.5))
    ]
    cell = report._cost_cell(rows)
    assert (cell.text, cell.notes) == ("300", ("60.0 min",))
    shown = [report._duration(hours) for hours in (0.01, 0.1, 2.0)]
    assert shown == ["36.0 s", "6.0 min", "2.00 h"]
