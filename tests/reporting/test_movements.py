"""How images move between loss groups: by hand on a few images, as a table, a command, a figure."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import MovementFigure
from rwp.reporting import drawing, figures
from rwp.reporting.movements import (
    group_names,
    groups_of,
    losses_of,
    movement_frame,
    movement_table,
)
from rwp.training.spec import RunKey

EDGES = (0.0, 1.0, 2.0)
# Three epochs of six images; the last one was not in a step of epoch 1.
LOSSES = np.array(
    [
        [0.5, 1.5, 1.5, 2.5, 9.0, 1.0],
        [0.1, 0.9, 1.9, 2.0, 8.0, np.nan],
        [0.0, 0.2, 0.3, 1.0, 7.0, 0.4],
    ],
    dtype=np.float16,
)


def arrays() -> dict[str, Any]:
    return {
        "adversarial_loss": LOSSES,
        "clean_loss": LOSSES / 2,
        "adversarial_correct": np.nan_to_num(LOSSES, nan=9.0) < 1.2,
        "clean_correct": np.nan_to_num(LOSSES, nan=9.0) < 2.2,
        "image": np.arange(6),
        "label": np.zeros(6, dtype=np.int16),
    }


def saved(folder: Path) -> Path:
    np.savez_compressed(folder / "losses.npz", **arrays())
    return folder


def test_groups_are_half_open_and_the_last_one_is_open() -> None:
    assert group_names(EDGES) == ["0-1", "1-2", "2+"]
    assert groups_of(LOSSES[0], EDGES).tolist() == [0, 1, 1, 2, 2, 1]
    assert groups_of(LOSSES[1], EDGES).tolist() == [0, 0, 1, 2, 2, -1]


def test_the_table_by_hand() -> None:
    table = movement_table(arrays(), edges=EDGES, before=0, after=2).set_index("group")
    assert table["images"].tolist() == [1, 3, 2]
    assert table.loc["1-2", ["0-1", "1-2", "2+"]].tolist() == [100, 0, 0]
    assert table.loc["2+", ["0-1", "1-2", "2+"]].tolist() == [0, 50, 50]
    assert table["robust_before"].tolist() == pytest.approx([100, 100 / 3, 0])
    assert table["robust_after"].tolist() == pytest.approx([100, 100, 50])
    # 1.5 -> 0.9 in epoch 1, 1.5 -> 0.3 in epoch 2, 1.0 -> 0.4 in epoch 2; of 2+ none ever
    assert table["learned_in_epoch"].iloc[:2].tolist() == [0, 2]
    assert np.isnan(table["learned_in_epoch"].iloc[2])
    unseen = movement_table(arrays(), edges=EDGES, before=0, after=1)
    assert unseen["images"].sum() == 5  # the image that no step had is in no group


def test_the_frame_by_hand() -> None:
    frame = movement_frame(arrays(), edges=EDGES, epoch=0)
    middle = frame[frame["group"] == "1-2"]
    assert middle["share"].tolist() == [0, 50, 100]
    assert middle["images"].tolist() == [3, 2, 3]


def test_a_picture_of_two_recipes() -> None:
    frame = movement_frame(arrays(), edges=EDGES, epoch=0)
    both = pd.concat([frame.assign(panel=name, seed=0) for name in ("AT", "AT-RWP")])
    figure = drawing.movement_panels(both, since=0)
    assert [axes.get_title() for axes in figure.axes] == ["AT", "AT-RWP"]
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["0-1", "1-2", "2+"]


def run_losses(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rwp", "losses", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    folder, output = saved(tmp_path), tmp_path / "table.csv"
    wide = run_losses(str(folder))
    assert "robust before" in wide.stdout
    assert "\u2026" not in wide.stdout
    words = (str(folder), "--edges", "0,1,2", "--output", str(output))
    done = run_losses(*words)
    assert done.returncode == 0, done.stderr
    assert "\u2026" not in done.stdout  # however narrow the terminal is, no number is cut
    found = pd.read_csv(output)
    pd.testing.assert_frame_equal(
        found,
        movement_table(arrays(), edges=EDGES, before=0, after=2),
        check_dtype=False,
        atol=0.01,
    )
    wrong = run_losses(str(folder), "--after", "3")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: after: expected an epoch from 0 to 2, which the")
    assert len(wrong.stderr.splitlines()) == 1


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"losses.npz: expected every image's losses, found"):
        losses_of(tmp_path)
    for wrong in (
        {"adversarial_correct": LOSSES},
        {"clean_loss": LOSSES[:2]},
        {"image": np.arange(5)},
        {"more": LOSSES},
        {"adversarial_loss": np.array([["a"] * 6] * 3)},
    ):
        np.savez_compressed(tmp_path / "losses.npz", **arrays() | wrong)
        with pytest.raises(UserError, match="expected the losses of every image in every epoch"):
            losses_of(tmp_path)
    np.savez_compressed(tmp_path / "losses.npz", **arrays())
    for rows in (2, 4):
        (tmp_path / "history.jsonl").write_text("{}\n" * rows)
        with pytest.raises(UserError, match="in every epoch of the training, got others; train"):
            losses_of(tmp_path)
    (tmp_path / "history.jsonl").write_text("{}\n" * 3)
    assert set(losses_of(tmp_path)) == set(arrays())
    np.savez_compressed(tmp_path / "losses.npz", foo=np.arange(3))
    with pytest.raises(UserError, match="expected the losses of a training, got a damaged file"):
        losses_of(tmp_path)
    (tmp_path / "losses.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match="expected the losses of a training, got a damaged file"):
        losses_of(tmp_path)
    for edges in (
        (1, 0),
        (0.5, 1),
        (0, math.nan),
        (0, 1, math.inf),
    ):  # from 0.5 on, who is learned best would be nowhere
        with pytest.raises(UserError, match="edges: expected losses in nats that rise from 0, got"):
            movement_table(arrays(), edges=edges, before=0, after=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "figures.moves: expected a suite that keeps every image's losses, got keep_losses f"),
        ({"edges": [1.0, 0.5]}, r"moves.edges: expected losses that rise from 0, got \[1.0, 0.5"),
        ({"edges": [0.5, 1.0]}, r"moves.edges: expected losses that rise from 0, got \[0.5, 1.0"),
        (
            {"epoch": 16},
            "moves.epoch: expected at most 15, the last of a training from 0, got 16; low",
        ),
        ({"recipes": ["ta"]}, "moves.recipes: expected a recipe"),
    ],
)
def test_one_line_for_a_figure_that_cannot_be(
    change: dict[str, Any], message: str, settings: dict[str, Any]
) -> None:
    demo = settings["suites"]["demo"]
    demo["keep_losses"] = bool(change)
    figure = {"kind": "movement", "recipes": ["at"], "epoch": 2, "edges": [0.0, 1.0]}
    demo["figures"]["moves"] = figure | change
    with pytest.raises(UserError, match=message):
        check_params(settings)


def test_a_run_that_ended_before_that_epoch_does_not_take_the_figure_away(tmp_path: Path) -> None:
    place = {"suite": "s", "dataset": "d", "threat": "linf", "network": "n", "recipe": "at"}
    keys = [RunKey(**place, seed=seed) for seed in (0, 1)]
    runs = {}
    for key, status, epochs in zip(keys, ("finished", "collapsed"), (3, 1), strict=True):
        folder = tmp_path / key.directory
        folder.mkdir(parents=True)
        cut = {n: a[:epochs] if np.ndim(a) == 2 else a for n, a in arrays().items()}
        np.savez_compressed(folder / "losses.npz", **cut)
        runs[key] = SimpleNamespace(status=status, finished=status == "finished", path=folder)
    entry = MovementFigure(kind="movement", recipes=("at",), epoch=2, edges=EDGES)
    results: Any = SimpleNamespace(runs=runs)
    part: Any = SimpleNamespace(lines=[SimpleNamespace(keys=keys, labels={"method": "AT"})])
    frame, _ = figures._movement(results, part, entry)
    assert set(frame["seed"]) == {0}
