"""Figures: their data and pictures are written, equal frames give equal bytes, all series show."""

from __future__ import annotations

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Setting
from rwp.pipeline.suites import rows_of, runs_of, sweep_rows
from rwp.reporting import drawing, figures
from rwp.reporting.drawing import (
    COLORS,
    LINES,
    MARKERS,
    draw_sweep,
    figure_style,
    line_over_seeds,
    looks,
    mean_of_all,
    write_figure,
)
from rwp.reporting.figures import (
    _caption,
    over_seeds,
    own_figures,
    reported_figures,
    write_suite_figure,
)
from rwp.reporting.landscapes import EXCESS
from rwp.reporting.published_curves import beside_published
from rwp.reporting.tables import table2
from rwp.training.spec import RunKey

from .conftest import Project
from .settings import PARAMS, shown_content


def labels(axes: Axes) -> list[str]:
    """The legend of the axes, or of the figure around it."""
    figure = axes.get_figure()
    assert figure is not None
    legend = axes.get_legend() or figure.legends[0]
    return [text.get_text() for text in legend.get_texts()]


def sweep_frame() -> pd.DataFrame:
    rows = [
        {"value": value, "measure": measure, "seed": seed, "accuracy": 50 + value + seed}
        for value in (0.5, 1.7, 3.0)
        for measure in ("best", "last")
        for seed in (0, 2)
    ]
    return pd.DataFrame(rows)


def test_series_differ_in_more_than_color() -> None:
    names = [f"series {position}" for position in range(20)]
    found = [tuple(style.values()) for style in looks(names).values()]
    assert len(set(found)) == 20  # the paper's suite has eight attacks
    assert len({marker for _, marker in found[:7]}) == 7
    assert len(set(COLORS)) == len(COLORS) == len(MARKERS)
    assert len(set(LINES)) == 4


def test_learning_curves_of_a_project(demo: Project) -> None:
    demo.write_all()
    paths = write_suite_figure(demo.results("fig3c"), "fig3c")
    assert [path.name for path in paths] == ["fig3c.csv", "fig3c.svg", "fig3c.png"]
    frame = pd.read_csv(paths[0])
    assert set(frame["method"]) == {"AT", "AT-AWP", "AT-RWP"}
    assert set(frame["split"]) == {"test", "held-out"}
    at = frame.query("method == 'AT' and split == 'test'")
    assert list(at["epoch"]) == list(range(8))
    assert list(at["accuracy"]) == pytest.approx([20, 35, 45, 50, 52, 50, 48, 46])
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_the_legend_says_how_many_seeds_where_methods_differ() -> None:
    def legend(seeds_of_rwp: set[int]) -> list[str]:
        seeds = {"AT": {0, 1}, "AT-RWP": seeds_of_rwp}
        rows = [
            {"method": name, "split": "test", "seed": seed, "epoch": 0, "accuracy": 50.0}
            for name, trained in seeds.items()
            for seed in trained
        ]
        return labels(drawing.learning_curves(pd.DataFrame(rows)).axes[0])

    assert legend({0, 1}) == ["AT", "AT-RWP"]
    assert legend({0}) == ["AT (2 seeds)", "AT-RWP (1 seed)"]
    assert legend({1}) == ["AT (seeds 0, 1)", "AT-RWP (seed 1)"]  # no pairs of the first ones
    assert legend({1, 2}) == ["AT (seeds 0, 1)", "AT-RWP (seeds 1, 2)"]
    assert drawing._ranges([0, 1, 3, 4, 5, 9]) == "0, 1, 3 to 5, 9"


def test_long_names_of_curves_hide_no_curve() -> None:
    """Ten seeds of which one method lacks a middle one: the legend was wider than the axes."""
    rows = [
        {"method": name, "split": "test", "seed": seed, "epoch": epoch, "accuracy": 20.0 + epoch}
        for name in ("AT", "AT-AWP", "AT-RWP")
        for seed in range(10)
        for epoch in range(40)
        if (name, seed) != ("AT", 2)
    ]
    figure = drawing.learning_curves(pd.DataFrame(rows), notes=["AT, seed 2: diverged, 8 epochs"])
    (axes,) = figure.axes
    assert labels(axes) == [
        "AT (seeds 0, 1, 3 to 9)",
        "AT-AWP (seeds 0 to 9)",
        "AT-RWP (seeds 0 to 9)",
        "AT, seed 2: diverged, 8 epochs",
    ]
    with figure_style():
        figure.draw_without_rendering()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1
    assert box.y1 <= axes.get_window_extent().y0
    assert axes.get_window_extent().width > 0.8 * whole.width


def test_a_training_that_ended_early_is_named_beside_its_curve(demo: Project) -> None:
    demo.write_all()
    (key,) = demo.table1_keys("at")
    demo.write_run(key, [0.1, 0.2], status="collapsed", reason="constant class")
    name = next(n for n, e in demo.params.suites["demo"].figures.items() if e.kind == "curves")
    results = demo.results(name)
    notes = figures._ended_early(results, results.parts[name].lines)
    assert notes == ["AT, seed 0: collapsed, 2 epochs"]
    write_suite_figure(results, name)


def test_the_caption_of_learning_curves_names_those_that_are_drawn(demo: Project) -> None:
    demo.write_all()
    content = copy.deepcopy(PARAMS)
    for recipes, words in (
        (["at", "at-awp", "at-rwp"], "learning curves of AT, AT-AWP and AT-RWP"),
        (["at", "trades-rwp"], "learning curves of AT and TRADES-RWP"),
        (["at-rwp"], "learning curve of AT-RWP"),
    ):
        figure = {"kind": "curves", "recipes": recipes, "splits": ["test"]}
        content["suites"]["demo"] |= {"figures": {"fig3c": figure}, "reported": ["fig3c"]}
        demo.params = check_params(content)
        (row,) = reported_figures(demo.results(), [])
        assert row["caption"].startswith(f"Figure 3c: {words} (")


def test_a_caption_names_the_networks_of_all_curves(demo: Project) -> None:
    content = copy.deepcopy(PARAMS)
    content["networks"]["wide"] = {"family": "wide_resnet", "depth": 10, "widen_factor": 1}
    suite = content["suites"]["demo"]
    suite["network"] = {"default": "small", "trades": "wide"}
    for recipes, networks in ((["at", "trades", "at-awp"], "small and wide"), (["at"], "small")):
        suite["figures"]["fig3c"]["recipes"] = recipes
        suite["reported"] = ["fig3c"]
        demo.params = check_params(content)
        (row,) = reported_figures(demo.results(), [])
        assert row["caption"].endswith(f"(digits, L-inf, {networks})")


def test_captions_say_what_a_suite_shows_under_the_name(tmp_path: Path) -> None:
    content = shown_content()
    demo = content["suites"]["demo"]
    demo["figures"]["fig3a"] = {"kind": "sweep", "sweep": "smooth", "label": "label smoothing"}
    demo["sweeps"]["smooth"] = {"recipe": "at", "vary": {"label_smoothing": [0.1, 0.2]}}
    demo["figures"]["fig4a"] = {"kind": "removal", "sweep": "out"}
    drawn = {"remove_below": [0.5], "remove_at_random": [True]}
    demo["sweeps"]["out"] = {"recipe": "at-awp", "vary": drawn}
    results = Project(tmp_path, check_params(content), "demo").results()
    assert _caption(results, "fig3a") == "Figure 3a: robust accuracy by label smoothing"
    assert _caption(results, "fig4a") == (
        "Figure 4a: AT-AWP without as many examples, drawn at random, and the share removed"
    )
    assert _caption(results, "fig2") == "Figure 2: weight loss landscape of AT by loss group"


def own_curves(project: Project) -> list[str]:
    """Where the report's own learning curves are of."""
    results = project.results()
    captions = [row["caption"] for row in own_figures(results, table2(results))]
    return [text.rpartition("(")[2].rstrip(")") for text in captions if "by epoch" in text]


def test_learning_curves_are_shown_once_wherever_table_1_is(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["table1"]["threat_models"] = ["l2", "linf"]  # figure 3c is of Table 2's, linf
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    assert own_curves(project) == ["digits, L2", "digits, L-inf"]  # no figure is drawn yet
    write_suite_figure(project.results("fig1b"), "fig1b")  # AT alone
    assert own_curves(project) == ["digits, L2", "digits, L-inf"]
    write_suite_figure(project.results("fig3c"), "fig3c")
    assert own_curves(project) == ["digits, L2"]
    suite["figures"]["fig3c"]["splits"] = ["train"]
    project.params = check_params(content)
    assert own_curves(project) == ["digits, L2", "digits, L-inf"]


def test_a_suite_without_figures_has_its_learning_curves_in_the_report(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"] |= {"figures": {}, "sweeps": {}}  # as `rwp new` writes it
    content["suites"]["demo"]["table1"]["threat_models"] = ["linf"]
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    assert own_curves(project) == ["digits, L-inf"]


def test_equal_frames_give_equal_bytes(demo: Project) -> None:
    demo.write_all()
    first, again = (
        [path.read_bytes() for path in write_suite_figure(demo.results("fig1b"), "fig1b")]
        for _ in range(2)
    )
    assert again == first
    assert b"<dc:date>" not in first[1]


def test_a_figure_without_runs_says_which_to_train(demo: Project) -> None:
    with pytest.raises(UserError, match="expected trained runs, got none; train results/"):
        write_suite_figure(demo.results("fig3c"), "fig3c")


def test_a_sweep_shares_the_run_that_has_its_value_anyway(demo: Project) -> None:
    demo.write_all()  # AT-RWP at 1.7, not at 1.5
    paths = write_suite_figure(demo.results("fig3a"), "fig3a")
    frame = pd.read_csv(paths[0])
    swept = frame[frame["name"].isna()]
    assert set(swept[swept["status"] == "missing"]["value"]) == {1.5}
    swept = swept[swept["status"] == "ok"]
    assert set(swept["value"]) == {1.7}
    assert set(swept["run"]) == {str(demo.table1_keys("at-rwp")[0].directory)}
    assert set(frame["name"].dropna()) == {"AT"}


def test_a_sweep_draws_means_ranges_and_references(tmp_path: Path) -> None:
    references = pd.DataFrame([{"name": "AWP", "measure": "best", "accuracy": 54.0}])
    figure = draw_sweep(sweep_frame(), x_label="c_min (nats)", references=references)
    (axes,) = figure.axes
    assert labels(axes) == ["best", "last", "AWP"]
    best = axes.get_lines()[0]
    assert list(best.get_xdata()) == [0.5, 1.7, 3.0]
    assert list(best.get_ydata()) == pytest.approx([51.5, 52.7, 54.0])  # means over two seeds
    assert len(axes.collections) == 2  # a shade for each measure
    assert write_figure(figure, sweep_frame(), tmp_path / "fig3a")[1].stat().st_size > 1000


def test_more_recipes_than_line_styles_are_drawn() -> None:
    frame = pd.concat([sweep_frame().assign(measure=f"recipe {n}") for n in range(5)])
    (axes,) = draw_sweep(frame, x_label="c_min").axes
    assert len(labels(axes)) == 5


def test_values_far_apart_stand_on_a_logarithmic_axis_with_a_tick_each() -> None:
    frame = sweep_frame().assign(value=lambda f: f["value"].map({0.5: 0.001, 1.7: 0.01, 3.0: 0.1}))
    (axes,) = draw_sweep(frame, x_label="gamma").axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.001", "0.01", "0.1"]
    (near,) = draw_sweep(sweep_frame(), x_label="c_min").axes
    assert near.get_xscale() == "linear"


def test_level_lines_are_of_the_seeds_of_the_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mean of more seeds beside points of fewer would be another level."""
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["seeds"] = [0, 1]
    content["suites"]["demo"]["sweeps"]["c-min"]["num_seeds"] = 1
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    for key, top in zip(project.table1_keys("at"), (0.4, 0.8), strict=True):
        project.write_run(key, [top, 0.1, 0.1, 0.1, 0.1, 0.1])
    seen = []

    def noted(frame: pd.DataFrame, **options: Any) -> Figure:
        seen.append(options["references"])
        return draw_sweep(frame, **options)

    monkeypatch.setattr(drawing, "draw_sweep", noted)
    write_suite_figure(project.results("fig3a"), "fig3a")
    levels = seen[0].set_index("measure")["accuracy"]
    assert levels["best"] == pytest.approx(40.0)
    content["suites"]["demo"]["sweeps"]["c-min"]["num_seeds"] = 2
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    write_suite_figure(project.results("fig3a"), "fig3a")
    assert set(seen[1]["name"]) == {"AT"}
    (project.root / project.table1_keys("at")[1].directory / "run.json").unlink()
    write_suite_figure(project.results("fig3a"), "fig3a")
    assert seen[2] is None  # AT's level would be of one seed alone


def test_plain_training_beside_removal_is_of_the_same_seeds(tmp_path: Path) -> None:
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["seeds"] = [0, 1]
    suite["sweeps"]["removal"] = {"recipe": "at", "num_seeds": 1, "vary": {"remove_below": [0.5]}}
    suite["figures"]["fig4b"] = {"kind": "removal", "sweep": "removal"}
    project = Project(tmp_path, check_params(content), "demo")
    project.write_all()
    for key, level in zip(project.table1_keys("at"), (0.4, 0.8), strict=True):
        project.write_run(key, [level] * 6)
    (removed,) = sweep_rows(project.params, "demo", Setting(), "removal")[0].keys
    project.write_run(removed, [0.5] * 6)
    csv, *_ = write_suite_figure(project.results("fig4b"), "fig4b")
    frame = pd.read_csv(csv)
    assert list(frame["series"].drop_duplicates()) == ["test", "train", "AT, test", "removed"]
    assert set(frame[frame["series"] == "AT, test"]["value"]) == {40.0}
    shares = frame[frame["series"] == "removed"]["value"]  # percent
    assert list(shares) == pytest.approx([0, 10, 20, 30, 40, 50])
    shutil.rmtree(project.root / project.table1_keys("at")[0].directory)
    frame = pd.read_csv(write_suite_figure(project.results("fig4b"), "fig4b")[0])
    assert list(frame["series"].drop_duplicates()) == ["test", "train", "removed"]


def legends(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[list[list[str]]]:
    """What the legends of each figure say that is drawn from here on, panel by panel."""
    draw, seen = getattr(drawing, kind), []

    def noted(*arguments: Any, **options: Any) -> Figure:
        figure = draw(*arguments, **options)
        found = [place.get_legend() for place in figure.axes] + figure.legends
        seen.append([[text.get_text() for text in one.get_texts()] for one in found if one])
        return figure

    monkeypatch.setattr(drawing, kind, noted)
    return seen


def test_a_level_that_lacks_seeds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = legends(monkeypatch, "draw_sweep")
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["seeds"] = [0, 1, 2]
    suite["recipes"]["at-awp"]["num_seeds"] = 2
    suite["figures"]["fig3a"]["references"] = ["at", "at-awp", "trades"]
    project = Project(tmp_path, check_params(content), "demo")
    for row in rows_of(project.params, "demo", "fig3a"):
        for key in row.keys:
            if key.recipe != "trades":
                project.write_run(key, [0.2, 0.4, 0.5, 0.4, 0.3, 0.3])
    write_suite_figure(project.results("fig3a"), "fig3a")
    ((named,),) = seen
    notes = ["AT-AWP: 2 of 3 seeds, not drawn", "TRADES: 0 of 3 seeds, not drawn"]
    assert named == ["best", "mean of the last 6 epochs", "AT", *notes]


def test_plain_training_that_lacks_seeds_is_named_in_each_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = legends(monkeypatch, "removal_curves")
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["seeds"] = [0, 1]
    suite["recipes"]["at"]["num_seeds"] = 1
    vary = {"remove_below": [0.5, 1.0]}
    suite["sweeps"]["removal"] = {"recipe": "at", "num_seeds": 2, "vary": vary}
    suite["figures"]["fig4b"] = {"kind": "removal", "sweep": "removal"}
    project = Project(tmp_path, check_params(content), "demo")
    low, high, plain = rows_of(project.params, "demo", "fig4b")
    for key in (*low.keys, *high.keys, *plain.keys):
        project.write_run(key, [0.5] * 6)
    write_suite_figure(project.results("fig4b"), "fig4b")
    note = "AT, test: 1 of 2 seeds, not drawn"
    assert seen == [[["test", "train", note], [note]]]
    shutil.rmtree(project.root / high.keys[1].directory)  # its panel is of the one seed
    write_suite_figure(project.results("fig4b"), "fig4b")
    assert seen[1] == [["test", "train", "AT, test", note]]


def test_a_value_whose_training_failed_is_marked_and_the_others_stay(demo: Project) -> None:
    demo.write_all()
    low, high = [row.keys for row in sweep_rows(demo.params, "demo", Setting(), "c-min")]
    demo.write_run(low[0], [0.1] * 6, status="collapsed", reason="constant class")
    frame = pd.read_csv(write_suite_figure(demo.results("fig3a"), "fig3a")[0])
    swept = frame[frame["name"].isna()].set_index("run")
    assert swept.loc[str(low[0].directory), "status"] == "collapsed"
    assert swept["accuracy"].notna().sum() == 2  # best and last of the other
    assert set(swept.loc[str(high[0].directory), "status"]) == {"ok"}
    demo.write_run(high[0], [0.1] * 6, status="diverged", reason="the training loss is nan")
    paths = write_suite_figure(demo.results("fig3a"), "fig3a")
    assert "diverged" in paths[0].read_text()  # drawn all the same, so that a report can be built
    failed = pd.DataFrame([{"value": 0.9, "measure": None, "seed": 0, "status": "collapsed"}])
    figure = draw_sweep(pd.concat([sweep_frame().assign(status="ok"), failed]), x_label="c_min")
    assert [text.get_text() for text in figure.axes[0].texts] == ["collapsed"]
    assert "0.9" in [tick.get_text() for tick in figure.axes[0].get_xticklabels()]


def test_texts_stand_one_after_the_other() -> None:
    frame = sweep_frame()
    frame["value"] = frame["value"].map({0.5: "[0, .5)", 1.7: "[.5, 1)", 3.0: "none"})
    (axes,) = draw_sweep(frame, x_label="loss range").axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["[0, .5)", "[.5, 1)", "none"]
    assert list(axes.get_lines()[0].get_xdata()) == [0, 1, 2]


def test_removal_shows_accuracy_above_and_share_below() -> None:
    rows = [
        {"panel": panel, "epoch": epoch, "series": series, "value": 10.0 * epoch}
        for panel in ("L-inf", "L2")
        for epoch in range(4)
        for series in ("train", "test", "removed")
    ]
    figure = drawing.removal_curves(pd.DataFrame(rows))
    assert [axes.get_title() for axes in figure.axes[:2]] == ["L-inf", "L2"]
    assert len(figure.axes) == 4
    assert labels(figure.axes[0]) == ["train", "test"]
    assert len(figure.axes[2].collections) == 1


def test_landscape_has_a_panel_per_checkpoint_and_a_line_per_group() -> None:
    rows = [
        {"panel": panel, "group": group, "offset": offset, "change": offset**2, "num_examples": 9}
        for panel in ("epoch 100", "epoch 110", "epoch 120", "epoch 150")
        for group in ("0-0.5", "0.5-1")
        for offset in (-1.0, 0.0, 1.0)
    ]
    figure = drawing.landscape_panels(pd.DataFrame(rows))
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 2, 2, 2, 0, 0]
    assert list(figure.axes[0].get_lines()[0].get_ydata()) == [1.0, 0.0, 1.0]


def test_a_landscape_of_several_splits_has_a_row_for_each() -> None:
    rows = [
        {"panel": f"{epoch} {split}", "split": split, "group": "0-0.5", "offset": 0.0, "change": 0}
        for split in ("train", "test")
        for epoch in (16, 20, 28, 40)
    ]
    figure = drawing.landscape_panels(pd.DataFrame(rows))
    left = [axes.get_title() for axes in figure.axes if axes.get_subplotspec().is_first_col()]
    assert left == ["16 train", "16 test"]


def test_a_landscape_is_cut_where_every_network_is_broken() -> None:
    rows = [
        {"panel": "late", "group": group, "offset": step / 10, "change": height * (step / 10) ** 2}
        for group, height in (("0-0.5", 20.0), ("2.5-3", 5.0))
        for step in range(-10, 11)
    ]
    (axes,) = drawing.landscape_panels(pd.DataFrame(rows)).axes
    assert axes.get_ylim()[1] == drawing.CUT
    assert axes.get_xlim()[1] == pytest.approx(0.7, abs=0.05)  # 5 * 0.7^2 is just under 2.5


def test_a_missing_accuracy_is_left_out_of_the_attack_figure() -> None:
    frame = pd.DataFrame(
        {
            "defense": ["AT", "AT-RWP"],
            "attack": ["PGD-20", "PGD-20"],
            "accuracy": [50.0, None],
        }
    )
    (axes,) = drawing.attacks(frame).axes
    assert list(axes.get_lines()[0].get_xdata()) == [50.0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["AT", "AT-RWP"]


def test_the_overlay_marks_where_the_curve_leaves(demo: Project) -> None:
    (key,) = demo.table1_keys("at")
    folder = demo.write_run(key, [0.9] * 8)
    comparison = beside_published(folder, setting="cifar10_linf/preactresnet18_standard")
    (axes,) = drawing.curve_overlay(comparison).axes
    assert "leaves at epoch 0" in labels(axes)


def searching(root: Path) -> tuple[Project, list[RunKey]]:
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["sweeps"]["gamma"] = {"recipe": "at-awp", "vary": {"gamma": [0.01, 0.02]}}
    suite["figures"]["search"] = {"kind": "search", "sweeps": ["gamma", "c-min"]}
    suite["reported"] = ["search"]
    project = Project(root, check_params(content), "demo")
    return project, runs_of(project.params, "demo", "search")


def add_to_history(folder: Path, **columns: list[float | None]) -> None:
    """More numbers of each epoch."""
    path = folder / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_search_looks_at_the_held_out_images_alone(tmp_path: Path) -> None:
    project, keys = searching(tmp_path)
    # Under their own names, whatever at-awp and at-rwp have by now.
    names = ["at-awp-gamma-0.01", "at-awp-gamma-0.02", "at-rwp-c_min-1.5", "at-rwp-c_min-1.7"]
    assert [key.recipe for key in keys] == names
    for key, held_out in zip(keys, (0.30, 0.32, 0.35, 0.31), strict=True):
        folder = project.write_run(key, [0.2, 0.9 - held_out], held_out=[0.1, held_out])
        add_to_history(folder, loss_rise=[None, 0.5] if key is keys[0] else [0.2, 0.1])
    write_suite_figure(project.results("search"), "search")
    frame = pd.read_csv(tmp_path / "results/demo/search.csv")
    assert list(frame["accuracy"]) == pytest.approx([30, 32, 35, 31])
    assert list(frame["measure"]) == ["AT-AWP", "AT-AWP", "AT-RWP", "AT-RWP"]
    assert list(frame["chosen"]) == [False, True, True, False]
    assert list(frame["epoch"]) == [1, 1, 1, 1]
    # the mean of the epochs that the weights are perturbed in
    assert list(frame["loss_rise"]) == pytest.approx([0.5, 0.15, 0.15, 0.15])


def test_a_search_that_is_not_done_chooses_nothing(tmp_path: Path) -> None:
    project, keys = searching(tmp_path)
    with pytest.raises(UserError, match="expected trained runs, got none"):
        write_suite_figure(project.results("search"), "search")
    for key in keys[:3]:
        project.write_run(key, [0.2, 0.3])
    write_suite_figure(project.results("search"), "search")
    frame = pd.read_csv(tmp_path / "results/demo/search.csv")
    assert list(frame["status"]) == ["ok", "ok", "ok", "missing"]
    # of two alike the first; of RWP one is missing
    assert list(frame["chosen"]) == [True, False, False, False]


def test_a_mean_is_drawn_where_all_seeds_are() -> None:
    """A seed that stopped early would make the mean of the others look like a rise."""
    curve = {0: (20.0, 30.0, 40.0), 1: (10.0, 20.0)}
    frame = pd.DataFrame(
        [
            {"seed": seed, "epoch": epoch, "accuracy": value}
            for seed, values in curve.items()
            for epoch, value in enumerate(values)
        ]
    )
    assert mean_of_all(frame, "epoch", "accuracy").to_dict() == {0: 15.0, 1: 25.0}
    axes = Figure().subplots()
    line_over_seeds(axes, frame, "epoch", "accuracy", {"color": "black"})
    mean, alone = axes.lines
    assert list(mean.get_ydata()) == [15.0, 25.0]
    assert list(alone.get_ydata()) == [40.0]


def test_values_of_a_sweep_that_lack_a_seed_are_marks_of_their_own() -> None:
    """A line through them would cross the values between, and one alone would not show."""
    rows = [
        {"value": value, "measure": "best", "seed": seed, "accuracy": 20.0 + seed}
        for value, seeds in ((0.5, (0,)), (1.0, (0, 1)), (1.5, (0,)))
        for seed in seeds
    ]
    (axes,) = draw_sweep(pd.DataFrame(rows), x_label="c_min").axes
    alone = [line for line in axes.lines if line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in alone] == [[0.5, 1.5]]
    assert {line.get_linestyle() for line in alone} == {"None"}


@pytest.mark.parametrize("measure_of_failed", [None, "best"])
def test_a_line_breaks_at_a_value_without_a_number(measure_of_failed: str | None) -> None:
    """Through it, it would tell a number that nobody measured; so would the shade."""
    frame = sweep_frame().assign(status="ok")
    failed = (frame["value"] == 1.7) & (frame["seed"] == 2)
    frame.loc[failed, ["accuracy", "status"]] = [None, "diverged"]
    if measure_of_failed is None:
        frame.loc[failed, "measure"] = None
    (axes,) = draw_sweep(frame, x_label="c_min").axes
    mean = next(line for line in axes.lines if line.get_label() == "best")
    assert [float(x) for x in mean.get_xdata()] == [0.5, 1.7, 3.0]
    drawn = [float(y) for y in mean.get_ydata()]
    assert (drawn[0], math.isnan(drawn[1]), drawn[2]) == (51.5, True, 54.0)
    (shade, *_) = axes.collections
    assert {float(x) for path in shade.get_paths() for x in path.vertices[:, 0]} == {0.5, 3.0}
    # of another method's values this one has none, and goes on
    other = frame[~failed].assign(measure="other").query("value != 1.7")
    (axes,) = draw_sweep(pd.concat([frame[~failed & (frame["seed"] == 0)], other]), x_label="").axes
    line = next(line for line in axes.lines if line.get_label() == "other")
    assert list(line.get_xdata()) == [0.5, 3.0]


def test_a_legend_knows_what_any_panel_shows() -> None:
    frame = pd.DataFrame(
        [
            {"panel": panel, "group": group, "seed": 0, "epoch": epoch, "share": 10.0}
            for panel, groups in (("AT", ("0-0.5", "0.5-1")), ("AT-RWP", ("0-0.5",)))
            for group in groups
            for epoch in range(3)
        ]
    )
    last = drawing.movement_panels(frame, since=1).axes[-1]
    assert [text.get_text() for text in last.get_legend().get_texts()] == ["0-0.5", "0.5-1"]


def test_a_landscape_says_of_how_many_seeds_a_group_is() -> None:
    rows = [
        {"seed": seed, "split": split, "epoch": 2, "group": group, "offset": -0.0, "loss": 1 + seed}
        for seed, groups in ((0, ("0-0.5", "0.5-1")), (1, ("0-0.5",)))
        for group in groups
        for split in ("train", "test")
    ]
    frame = over_seeds(pd.DataFrame(rows).assign(change=-0.0, num_examples=9))
    found = {(row.split, row.group): row.num_seeds for row in frame.itertuples()}
    assert found == {
        (split, group): count
        for split in ("train", "test", EXCESS)
        for group, count in (("0-0.5", 2), ("0.5-1", 1))
    }
    loss = frame[frame["split"] == "train"].set_index("group")["loss"]
    assert loss.to_dict() == {"0-0.5": 1.5, "0.5-1": 1.0}  # means
    assert not any(math.copysign(1, value) < 0 for value in (*frame["offset"], *frame["change"]))


def test_recipes_that_are_one_training_are_one_curve(tmp_path: Path) -> None:
    """Twice under one label, a curve had no place where it has all seeds once: no mean."""
    content = copy.deepcopy(PARAMS)
    suite = content["suites"]["demo"]
    suite["seeds"] = [0, 1]
    suite["sweeps"]["gamma"] = {"recipe": "at-awp", "vary": {"gamma": [0.01, 0.02]}}
    names = ["at", "at-awp", "at-awp-gamma-0.01", "at-awp-gamma-0.02"]
    suite["figures"]["fig3c"]["recipes"] = names
    project = Project(tmp_path, check_params(content), "demo")
    for key in runs_of(project.params, "demo", "fig3c"):
        project.write_run(key, [0.2, 0.4 + 0.1 * key.seed])
    frame = pd.read_csv(write_suite_figure(project.results("fig3c"), "fig3c")[0])
    assert list(frame["method"].drop_duplicates()) == ["AT", "AT-AWP", "AT-AWP-GAMMA-0.02"]
    own = frame.query("method == 'AT-AWP' and split == 'test'")
    assert mean_of_all(own, "epoch", "accuracy").to_dict() == pytest.approx({0: 20.0, 1: 45.0})


def test_curves_of_other_settings_are_left_out(demo: Project) -> None:
    demo.write_all()
    content = copy.deepcopy(PARAMS)
    content["suites"]["demo"]["perturbations"]["rwp"]["c_min"] = 2.2
    demo.params = check_params(content)
    frame = pd.read_csv(write_suite_figure(demo.results("fig3c"), "fig3c")[0])
    assert set(frame["method"]) == {"AT", "AT-AWP"}
