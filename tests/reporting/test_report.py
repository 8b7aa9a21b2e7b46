"""The report: one file that needs no other, says what is missing, and marks what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from rwp.files import read_object, write_json
from rwp.pipeline.load import check_params
from rwp.reporting.figures import reported_figures
from rwp.reporting.paper import published_table2
from rwp.reporting.report import _column_titles, _marks, _spread, render_report, write_report

from .conftest import Project
from .settings import PARAMS, shown_content

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Page(HTMLParser):
    """What a browser would fetch, and the cells it would show with their classes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self._kind: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if values.get("id"):
            self.ids.append(values["id"] or "")
        if tag == "img":
            self.images.append(values)
        if tag in ("td", "th"):
            self._kind = values.get("class") or ""
            self.cells.append((self._kind, ""))

    def handle_data(self, data: str) -> None:
        if self._kind is not None:
            kind, text = self.cells[-1]
            self.cells[-1] = (kind, text + data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._kind = None

    def texts(self, kind: str) -> list[str]:
        return [text.strip() for found, text in self.cells if kind in found.split()]


def test_the_page_asks_for_nothing_from_outside(full: str) -> None:
    page = Page(full)
    assert page.images
    for image in page.images:
        assert (image["src"] or "").startswith("data:image/svg+xml;base64,")
        assert len(image["alt"] or "") > 20
    for link in page.links:
        assert link.startswith(("data:", "#"))
    assert not set(page.tags) & {"script", "iframe", "object", "embed"}
    assert not re.search(r"@import|url\(", full)


def test_the_page_forbids_itself_to_fetch_or_to_run_anything(full: str) -> None:
    assert f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">' in full


def test_every_link_within_the_page_has_its_place(full: str) -> None:
    page = Page(full)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_numbers_intervals_and_the_reference_are_shown(full: str) -> None:
    page = Page(full)
    texts = [text.strip() for _, text in page.cells]
    assert any(text.startswith("55.00") and "50.1 to 59.8" in text for text in texts)
    assert any(text.startswith("Natural") for text in texts)
    assert "66 of 66 numbers" in full
    assert "Nothing in this table is compared with the paper" in full
    assert 'id="missing"' not in full


def test_equal_results_give_equal_bytes_wherever_they_lie(demo: Project, full: str) -> None:
    demo.write_all()
    path = write_report(demo.results())
    assert path == demo.root / "results/demo/report.html"
    assert path.read_text(encoding="utf-8") == full


@pytest.mark.usefixtures("_no_pictures")
def test_missing_cells_are_marked_with_the_command_that_fills_them(demo: Project) -> None:
    demo.write_all()
    folder = demo.root / demo.table2_keys("at")[0].directory
    (folder / "evaluation/best/pgd-20.json").unlink()
    (folder / "evaluation/best/fgsm.json").unlink()
    (demo.root / demo.table1_keys("at-rwp", "l2")[0].directory / "run.json").unlink()
    text = render_report(demo.results())
    base = "results/demo/runs/digits"
    assert (
        f"snakemake --cores all {base}/linf/small/at/seed0/evaluation/best/{{fgsm,pgd-20}}.json"
        in text
    )
    assert f"snakemake --cores all {base}/l2/small/at-rwp/seed0/run.json" in text
    assert "snakemake --cores all suite_demo" in text
    # Table 2 and its details, Table 1, the run
    assert Page(text).texts("missing").count("missing") == 2 * 2 + 6 + 1


@pytest.mark.usefixtures("_no_pictures")
def test_an_empty_suite_renders(demo: Project) -> None:
    text = render_report(demo.results())
    assert "0 of 66 numbers" in text
    assert "no training has finished an epoch" in text


@pytest.mark.usefixtures("_no_pictures")
def test_changes_of_code_that_were_accepted_are_named(
    demo: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"step": "train", "module": "rwp.training.jobs", "old": "0123", "new": "4567"}
    entry |= {"commit": "89ab", "compared": "run.json", "because": "only <renamed>"}
    others = [entry | {"step": "nothing of this suite", "because": "of other steps"}]
    monkeypatch.setattr("rwp.pipeline.steps.read_ledger", lambda: [entry, *others])
    page = render_report(demo.results())
    assert "train: only &lt;renamed&gt; (from code <code>0123</code>" in page
    assert "to code <code>4567</code>" in page
    assert "of other steps" not in page


@pytest.mark.usefixtures("_no_pictures")
def test_a_planted_wrong_number_is_red(paper: Project) -> None:
    (key,) = paper.table2_keys("at")
    paper.write_run(key, [0.5] * 6)
    row = published_table2()["AT"]
    for attack, column in (("pgd-20", "pgd20"), ("cw-100", "cw")):
        paper.write_record(key, attack, round(100 * row[column]), examples=10_000)
    page = Page(render_report(paper.results()))
    assert not any("below" in text and "56" in text for text in page.texts("outside"))
    assert any(text.startswith("56.10") for text in page.texts("within"))

    paper.write_record(key, "pgd-20", 5510, examples=10_000)
    page = Page(render_report(paper.results()))
    red = [text for text in page.texts("outside") if text.startswith("55.10")]
    assert red
    assert "▼ below" in red[0]
    assert "paper† 56.10" in red[0]
    assert "-1.00 ± 0.50" in red[0]


@pytest.mark.usefixtures("_no_pictures")
def test_the_best_of_each_column_is_marked_with_those_it_cannot_be_told_from(demo: Project) -> None:
    demo.write_all()  # from defense to defense half a point more, the best one's interval +- 5
    (worst,) = demo.table2_keys("at-awp")
    demo.write_record(worst, "autoattack", 100)
    page = Page(render_report(demo.results()))
    best = page.texts("best")
    assert [text[:5] for text in best] == ["94.00", "69.00", "59.00", "58.00", "57.00", "55.00"]
    tied = page.texts("tied")
    assert len(tied) == 6 * 8 - 1
    assert not any(text.startswith("25.00") for text in tied)


def test_the_heads_of_table_2_tell_its_own_numbers_of_images(demo: Project) -> None:
    """The table beyond it may be of another data set, whose numbers stood in the heads, too."""
    demo.write_all()
    results = demo.results()
    (key,) = demo.table2_keys("at")
    run = str(key.directory)
    rows = [(run, "natural", 10000), (run, "autoattack", 1000), ("of svhn", "natural", 26032)]
    frame = pd.DataFrame(rows, columns=["run", "attack", "num_examples"])
    for images, heads in (
        (frame, ["Natural, 10,000 images", "AutoAttack, 1,000 images"]),
        (frame[frame["attack"] == "natural"], ["Natural", "AutoAttack"]),
    ):
        found = dataclasses.replace(results, attacks=images)
        assert _column_titles(found, ["natural", "autoattack"]) == heads


@pytest.mark.usefixtures("_no_pictures")
def test_what_an_evaluation_remarks_stands_at_the_number_and_below_the_table(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "pgd-20", 220, warnings=["the model answers differently each time"])
    text = render_report(demo.results())
    (marked,) = (cell for cell in Page(text).texts("doubtful") if "remarks" in cell)
    assert marked.startswith("55.00")
    assert marked.endswith("! see the remarks")
    remarks = text.index('<h3 id="remarks">')
    assert text.index('id="table2"') < remarks < text.index('id="table1"')
    assert "AT, pgd-20, seed 0: the model answers differently each time" in text[remarks:]


@pytest.mark.usefixtures("_no_pictures")
def test_several_versions_of_torch_are_named(demo: Project) -> None:
    """Their bits differ, so a difference between two rows may be one between two versions."""
    first, second = demo.table2_keys("at")[0], demo.table2_keys("at-awp")[0]
    for key in (first, second):
        demo.write_run(key, [0.2, 0.3])
        demo.write_record(key, "pgd-20", 100)
    assert "side by side" not in render_report(demo.results())
    demo.write_record(second, "pgd-20", 100, versions={"torch": "2.16.0"})
    page = render_report(demo.results())
    assert "evaluations with torch 2.15.0 and 2.16.0 stand side by side; their bits differ" in page
    assert "trainings with torch" not in page
    path = demo.root / second.directory / "run.json"
    path.write_text(path.read_text().replace("2.15.0", "2.16.0"), encoding="utf-8")
    assert "trainings with torch 2.15.0 and 2.16.0 stand" in render_report(demo.results())
    document = read_object(path) | {"earlier": [{"versions": {"torch": "2.14.0"}}]}
    write_json(path, document)
    assert "with torch 2.14.0 and 2.15.0 and 2.16.0 stand" in render_report(demo.results())


@pytest.mark.usefixtures("_no_pictures")
def test_a_training_whose_attack_was_blind_is_a_remark(demo: Project) -> None:
    key = demo.table2_keys("at")[0]
    history = demo.write_run(key, [0.2, 0.9]) / "history.jsonl"
    assert "no gradient to follow" not in render_report(demo.results())
    first, last = (json.loads(line) for line in history.read_text().splitlines())
    for share, told in ((0.005, False), (0.6, True)):
        rows = [first, last | {"test_blind_share": share}]
        history.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        text = (
            "after epoch 1 (from 0) 60.0 % of the images count as robust because the attack found"
        )
        assert (text in render_report(demo.results())) == told


@pytest.mark.usefixtures("_no_pictures")
def test_what_cannot_be_true_is_an_alarm(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_record(key, "autoattack", 300)
    demo.write_record(key, "fgsm", 260, num_robust=270)
    text = render_report(demo.results())
    assert "AutoAttack leaves 88 more images correct than cw-100" in text
    assert text.count('class="alarm"') == 2
    broken = Page(text).texts("broken")
    assert any(cell.startswith("75.00") for cell in broken)
    assert "inconsistent" in broken


@pytest.mark.usefixtures("_no_pictures")
def test_a_collapsed_training_shows_its_reason_and_no_number(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table2_keys("rst")
    demo.write_run(key, [0.1] * 6, status="collapsed", reason="constant class in 3 epochs")
    text = render_report(demo.results())
    assert Page(text).texts("broken").count("collapsed") >= 6
    assert "constant class in 3 epochs" in text
    assert "the training itself has to go well first" in text
    assert "all of it at once" not in text  # nothing fills it


@pytest.mark.usefixtures("_no_pictures")
def test_what_no_training_measures_is_offered_no_command(demo: Project) -> None:
    demo.write_all()
    key = demo.table1_keys("at")[0]
    path = demo.root / key.directory / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["test_robust_accuracy"]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    text = render_report(demo.results())
    assert "none: `test_curve: true` in the suite, which trains again" in text
    assert "all of it at once" not in text


@pytest.mark.usefixtures("_no_pictures")
def test_texts_from_files_cannot_become_markup(demo: Project) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["description"] = "<script>alert(1)</script>"
    demo.params = check_params(content)
    demo.write_all()
    (key,) = demo.table2_keys("at")
    demo.write_run(key, [0.1] * 6, status="diverged", reason='"><img src=x onerror=alert(2)>')
    page = Page(render_report(demo.results()))
    assert not {"script", "img"} & set(page.tags)


@pytest.mark.usefixtures("_no_pictures")
def test_stored_figures_are_taken_into_the_page(demo: Project) -> None:
    demo.write_all()
    figure = demo.root / "results/demo/fig3a.svg"
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    text = render_report(demo.results())
    assert "Figure 3a: robust accuracy by c_min" in text
    assert len(Page(text).images) == 1


@pytest.mark.usefixtures("_no_pictures")
def test_table_1_says_of_how_many_test_images_it_is(tmp_path: Path) -> None:
    """Its numbers are not those of Table 2, which may be of all of them."""
    content = copy.deepcopy(shown_content())
    for count, told in ((None, "the test split"), (2000, "2,000 images of the test split, each")):
        content["suites"]["demo"]["curve_examples"] = count
        results = Project(tmp_path, check_params(content), "demo").results()
        assert f"<p>Robust accuracy on {told}" in render_report(results)
        part = "Test accuracies are of 2,000 of the test images."
        kinds = {name: entry.kind for name, entry in results.suite.figures.items()}
        said = {
            kinds[row["name"]] for row in reported_figures(results, []) if part in row["reading"]
        }
        assert said == ({"curves", "removal", "sweep"} if count else set())


def by_seed(*accuracies: float) -> list[dict[str, float]]:
    """Rows of a defense's seeds, each known to a tenth of a point."""
    return [
        {"accuracy": value, "interval_low": value - 0.1, "interval_high": value + 0.1}
        for value in accuracies
    ]


@pytest.mark.parametrize(("second", "tied"), [(49.77, True), (49.7, False)])
def test_ties_reach_to_the_interval_of_the_mean_over_seeds(second: float, tied: bool) -> None:
    """Of three seeds with a deviation of 0.1 it is 4.303 * 0.1 / sqrt(3), which is 0.248."""
    column = {"first": by_seed(50.0, 50.1, 50.2), "second": by_seed(*[second] * 3)}
    assert _marks(column) == {"first": "best"} | ({"second": "tied"} if tied else {})


def test_below_a_mean_stands_the_deviation_of_seeds_of_which_there_could_be_more() -> None:
    assert _spread(by_seed(50.0, 52.5), "accuracy") == "± 1.77 over 2 seeds"  # 2.5 / sqrt(2)


def test_marks_compare_the_seeds_that_all_have() -> None:
    """The mean of ten seeds is no rival of that of three."""
    column = {"three": by_seed(50.0, 50.1, 50.2), "ten": by_seed(50.0, 50.1, 50.2, 60.0, 60.0)}
    assert _marks(column) == {"three": "best", "ten": "best"}
