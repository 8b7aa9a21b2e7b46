"""The figures of a suite: what each shows as a frame, its files, its place in the report."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rwp.errors import UserError
from rwp.evaluation.spec import LandscapeSpec
from rwp.pipeline.settings import (
    CurvesFigure,
    LandscapeFigure,
    MovementFigure,
    RemovalFigure,
    SearchFigure,
    SweepFigure,
)
from rwp.reporting import drawing
from rwp.reporting.drawing import mean_of_all, picture, write_figure
from rwp.reporting.gaps import Gap, fill
from rwp.reporting.labels import column_label, norm_text, recipe_label
from rwp.reporting.landscapes import EXCESS, excess_of, read_landscape
from rwp.reporting.lines import Line, Part
from rwp.reporting.movements import losses_of, movement_frame
from rwp.reporting.results import Results, Row
from rwp.reporting.runs import LAST_EPOCHS, OK, Run, why_landscape_stale
from rwp.reporting.tables import Table, averages
from rwp.training.spec import RunKey

SPLITS = {
    "test": "test_robust_accuracy",
    "held-out": "held_out_robust_accuracy",
    "train": "train_robust_accuracy",
}
# What a sweep shows of each run, by its name in the tables.
_SWEEP_COLUMNS = ["name", "value", "measure", "seed", "accuracy", "status", "run"]
_SEARCH_COLUMNS = [
    *("measure", "value", "recipe", "seed", "accuracy", "epoch", "loss_rise", "status", "run"),
]
_LEFT_OUT = ("stale", "inconsistent")  # runs whose curves no longer fit their settings
_MOST_NOTES = 4  # in a legend
SHOWN = {"best": "best", "last_epochs_mean": f"mean of the last {LAST_EPOCHS} epochs"}
# How to read a picture, by the kind of figure.
READING = {
    "curves": "Robust accuracy after each epoch, under the attack that the training measures by; of"
    " the training images as they were trained on in that epoch, under the training's own attack,"
    " at perturbed weights where there are some. Of several seeds the line is the mean, the shade"
    " their range; where a seed has no such epoch the others are thin lines.",
    "sweep": "Best epoch and mean of the last six; level lines are other recipes of the same seeds,"
    " in the same line styles; one that lacks a seed is named and not drawn. A cross marks a value"
    " whose training has no number.",
    "removal": "Above: accuracy of the trainings that leave examples out, on all images, and test"
    " accuracy of plain training of the same seeds (where one is missing it is named and not"
    " drawn); below: the share of examples removed in each epoch.",
    "landscape": "Change of the mean loss of each loss group of the adversarial training images as"
    " the weights move along random directions; steeper means more overfitted (section 3). Large"
    " losses are cut off.",
    "search": "Accuracy at the chosen epoch on the held-out images that choose; no test image was"
    " looked at.",
    "movement": "Training images by the range of their adversarial loss (nats) at the vertical"
    " line; of each group, the share whose loss is in the lowest range in each epoch: who is"
    " memorized, and when.",
}


def write_suite_figure(results: Results, name: str) -> list[Path]:
    """Write NAME.csv, NAME.svg and NAME.png into the suite's folder.

    Raises:
        UserError: nothing of it is there yet.
    """
    entry, part = results.suite.figures[name], results.parts[name]
    if isinstance(entry, CurvesFigure):
        frame, figure = _curves(results, part, entry)
    elif isinstance(entry, SweepFigure):
        frame, figure = _sweep(results, part, entry)
    elif isinstance(entry, RemovalFigure):
        frame, figure = _removal(results, part)
    elif isinstance(entry, MovementFigure):
        frame, figure = _movement(results, part, entry)
    elif isinstance(entry, SearchFigure):
        frame, figure = _search(results, part)
    else:
        frame, figure = _landscape(results, part, name)
    return write_figure(figure, frame, results.folder / name)


def _need(results: Results, frame: pd.DataFrame, lines: Iterable[Line]) -> None:
    if not frame.empty:
        return
    keys = [key for line in lines for key in line.keys]
    if all(results.runs[key].finished for key in keys):
        raise UserError(
            "figure: expected what it shows of each epoch, got trainings that did not measure it; "
            "look at another split, or write test_curve: true and train again"
        )
    folders = ", ".join(str(key.directory) for key in keys)
    raise UserError(f"figure: expected trained runs, got none; train {folders} first")


def _curves(results: Results, part: Part, entry: CurvesFigure) -> tuple[pd.DataFrame, Figure]:
    frame = curve_frame(results, part.lines, splits=entry.splits)
    _need(results, frame, part.lines)
    return frame, drawing.learning_curves(frame, notes=_ended_early(results, part.lines))


def _ended_early(results: Results, lines: Iterable[Line]) -> list[str]:
    """Trainings whose curves are shorter than those of others, and why."""
    found = []
    for line, key in ((curve, key) for curve in lines for key in curve.keys):
        run = results.runs[key]
        if run.history and not run.finished and run.status not in _LEFT_OUT:
            why = run.status if run.ended else "not finished"
            method = line.labels.get("method", "")
            found.append(f"{method}, seed {key.seed}: {why}, {len(run.history)} epochs")
    more = len(found) - _MOST_NOTES
    return [*found[:_MOST_NOTES], *([f"and {more} more"] if more > 0 else [])]


def _sweep(results: Results, part: Part, entry: SweepFigure) -> tuple[pd.DataFrame, Figure]:
    """Best and last by value; other recipes beside them as the rows that have a name."""
    rows = [row for line in part.lines for row in _numbers(results, line)]
    frame = pd.DataFrame(rows, columns=_SWEEP_COLUMNS)
    swept = frame[frame["name"] == ""].drop(columns="name")
    _need(results, swept[swept["status"] != "missing"], part.swept)  # failed ones are shown as such
    known = frame[(frame["name"] != "") & (frame["status"] == OK)]
    # a level of other seeds is another level
    seeds = set(swept[swept["status"] == OK]["seed"])
    left_out = [
        _left_out(name, known[known["name"] == name], seeds)
        for name in dict.fromkeys(line.labels["name"] for line in part.references)
    ]
    known = _of_all_seeds(known, "name", seeds)
    references = known.groupby(["name", "measure"], sort=False)["accuracy"].mean()
    figure = drawing.draw_sweep(
        swept.assign(value=swept["value"].infer_objects()),
        x_label=entry.label,
        references=references.reset_index() if len(references) else None,
        notes=[text for text in left_out if text],
    )
    return frame, figure


def _of_all_seeds(frame: pd.DataFrame, by: str, seeds: set[int]) -> pd.DataFrame:
    """The rows of these seeds, of what (a value under `by`) has all of them."""
    own = frame[frame["seed"].isin(seeds)]
    return own[own.groupby(by)["seed"].transform("nunique") == len(seeds)]


def _left_out(name: str, frame: pd.DataFrame, seeds: set[int]) -> str:
    """That a level or curve is not drawn, as these seeds are not all there; empty where it is."""
    found = len(seeds & set(frame["seed"]))
    if not seeds:
        return f"{name}: nothing to compare with, not drawn"
    if found < len(seeds):
        return f"{name}: {found} of {len(seeds)} seed{'s' * (len(seeds) > 1)}, not drawn"
    return ""


def _numbers(results: Results, line: Line) -> list[Row]:
    """Both measures of each run; a run without numbers is one row that says why."""
    rows = []
    for key in line.keys:
        run = results.runs[key]
        numbers = run.numbers
        place = {**line.labels, "seed": key.seed, "run": run.name}
        found = [
            place | {"measure": label, "accuracy": numbers[measure], "status": OK}
            for measure, label in SHOWN.items()
            if numbers.get(measure) is not None
        ]
        rows += found or [place | {"status": numbers.get("status") or run.status}]
    return rows


def _removal(results: Results, part: Part) -> tuple[pd.DataFrame, Figure]:
    """Per threshold: test and train curves of the run, that of plain training, share removed."""
    (plain,) = part.references
    rows: list[Row] = []
    notes: dict[str, str] = {}
    name = f"{plain.labels['name']}, test"
    for line in part.swept:
        panel = line.labels["panel"]
        own = curve_frame(results, [line], splits=["test", "train"])
        beside = curve_frame(results, [plain], splits=["test"])
        shown = dict(iter(own.groupby("split", sort=False)))
        # a mean of other seeds is another curve
        seeds = set(own["seed"])
        notes[panel] = _left_out(name, beside, seeds)
        shown[name] = _of_all_seeds(beside, "split", seeds)
        for series, curve in shown.items():
            mean = mean_of_all(curve, "epoch", "accuracy")
            rows += [
                {"panel": panel, "series": series, "epoch": e, "value": v} for e, v in mean.items()
            ]
        rows += _removed(results, line)
    frame = pd.DataFrame(rows, columns=["panel", "epoch", "series", "value"])
    _need(results, frame, [plain, *part.swept])
    return frame, drawing.removal_curves(frame, notes=notes)


def _removed(results: Results, line: Line) -> list[Row]:
    shares = pd.DataFrame(
        [
            {"epoch": row["epoch"], "seed": key.seed, "value": 100 * row["share_removed"]}
            for key, run in ((key, results.runs[key]) for key in line.keys)
            if run.status not in ("stale", "inconsistent")
            for row in run.history
            if row.get("share_removed") is not None
        ],
        columns=["epoch", "seed", "value"],
    )
    mean = mean_of_all(shares, "epoch", "value")
    return [
        {"panel": line.labels["panel"], "series": "removed", "epoch": epoch, "value": value}
        for epoch, value in mean.items()
    ]


def _landscape(results: Results, part: Part, name: str) -> tuple[pd.DataFrame, Figure]:
    place, step = next(iter(part.step.inputs.items()))
    path = results.root / place
    found = why_landscape_stale(step, results.root) if path.exists() else "none"
    if found:
        raise UserError(
            f"{path}: expected losses measured as the settings say, found {found}; run: rwp"
            f" landscape {name} --suite {results.suite_name}"
        )
    measured = over_seeds(read_landscape(path, step.settings_as(LandscapeSpec)))
    unfinished = {results.runs[key].status for key in part.keys} - {"finished"}
    mark = f" ({', '.join(sorted(unfinished))})" if unfinished else ""
    more = {"train": "", "test": ", test images", EXCESS: ", training less test"}
    splits = [split for split in more if split in set(measured["split"])]
    frame = pd.concat([measured[measured["split"] == split] for split in splits])
    frame = frame.assign(
        panel=[
            f"after epoch {epoch}{more[split]}{mark}"
            for epoch, split in zip(frame["epoch"], frame["split"], strict=True)
        ]
    )
    columns = ["panel", "epoch", "split", "group", "offset", "change", "loss", "num_examples"]
    few = frame.groupby("group")["num_seeds"].transform("min")
    marked = frame["group"] + " (of " + few.astype(str) + " seeds or more)"
    names = frame["group"].where(few == frame["num_seeds"].max(), marked)
    return frame[[*columns, "num_seeds"]], drawing.landscape_panels(frame.assign(group=names))


def over_seeds(measured: pd.DataFrame) -> pd.DataFrame:
    """A landscape's losses as means over seeds, and the excess of training over test images.

    An excess is of groups that have images of both. A group may lack images under some seeds:
    `num_seeds` are those that it is a mean of.
    """
    place = ["split", "epoch", "group", "offset"]
    values = ["change", "loss", "num_examples"]
    excess = excess_of(measured).rename(columns={"excess": "change"}).assign(split=EXCESS)
    parts = []
    for part, columns in ((measured, values), (excess, ["change"])):
        grouped = part.groupby(place, sort=False)
        seeds = grouped["seed"].nunique().rename("num_seeds")
        parts.append(pd.concat([grouped[columns].mean(), seeds], axis=1).reset_index())
    frame = pd.concat(parts)
    return frame.assign(offset=frame["offset"] + 0.0, change=frame["change"] + 0.0)  # no -0


def _search(results: Results, part: Part) -> tuple[pd.DataFrame, Figure]:
    """Accuracy on the held-out images at the chosen epoch, of every training of some sweeps."""
    rows = [
        {**line.labels, "seed": key.seed} | _searched(results.runs[key])
        for line in part.lines
        for key in line.keys
    ]
    frame = pd.DataFrame(rows, columns=_SEARCH_COLUMNS)
    _need(results, frame[frame["status"] != "missing"], part.lines)
    means = frame.groupby(["measure", "recipe"])["accuracy"].transform("mean")
    best = means.groupby(frame["measure"]).transform("max")
    whole = frame.groupby("measure")["accuracy"].transform(lambda column: column.notna().all())
    # Of equal ones the first, as with epochs.
    first = frame[means == best].groupby("measure")["recipe"].first()
    frame = frame.assign(chosen=frame["recipe"].eq(frame["measure"].map(first)) & whole)
    return frame, drawing.draw_sweep(frame, x_label="", y_label="held-out robust accuracy (%)")


def _searched(run: Run) -> Row:
    """What a search looks at: nothing of the test images."""
    if not run.finished:
        return {"status": run.status, "run": run.name}
    accuracy = run.history[run.best_epoch].get("held_out_robust_accuracy")
    if accuracy is None:
        return {"status": "missing", "run": run.name}
    rises = [r["loss_rise"] for r in run.history if r.get("loss_rise") is not None]
    return {
        "accuracy": 100 * accuracy,
        "epoch": run.best_epoch,
        "loss_rise": sum(rises) / len(rises) if rises else None,
        "status": OK,
        "run": run.name,
    }


def _movement(results: Results, part: Part, entry: MovementFigure) -> tuple[pd.DataFrame, Figure]:
    """A panel per recipe: by loss group at the entry's epoch, the share in the lowest group."""
    frames = []
    for line in part.lines:
        for key in line.keys:
            run = results.runs[key]
            if run.status not in ("missing", "stale", "inconsistent"):
                arrays = losses_of(run.path)
                if len(arrays["adversarial_loss"]) <= entry.epoch:
                    continue  # it collapsed or diverged before
                frame = movement_frame(arrays, edges=entry.edges, epoch=entry.epoch)
                mark = "" if run.finished else f" ({run.status})"
                panel = f"{line.labels['method']}{mark}"
                frames.append(frame.assign(panel=panel, seed=key.seed))
    if not frames:
        _need(results, pd.DataFrame(), part.lines)
    frame = pd.concat(frames)[["panel", "group", "seed", "epoch", "images", "share"]]
    return frame, drawing.movement_panels(frame, since=entry.epoch)


def curve_frame(results: Results, lines: Iterable[Line], *, splits: Sequence[str]) -> pd.DataFrame:
    """method, split, seed, epoch (from 0), accuracy (percent) of all epochs done so far.

    A run whose numbers no longer fit its settings is left out.
    """
    rows: list[Row] = []
    for line, key in ((curve, key) for curve in lines for key in curve.keys):
        run = results.runs[key]
        if run.status in _LEFT_OUT:
            continue
        rows += [
            {
                "method": line.labels.get("method", ""),
                "split": split,
                "seed": key.seed,
                "epoch": row["epoch"],
                "accuracy": 100 * row[SPLITS[split]],
            }
            for row in run.history
            for split in splits
            if SPLITS[split] in row
        ]
    return pd.DataFrame(rows, columns=["method", "split", "seed", "epoch", "accuracy"])


# In the report, as pictures that lie inside the page


def reported_figures(results: Results, gaps: Sequence[Gap]) -> Iterator[Row]:
    """The suite's figures: those that its report waits for, and others that are drawn already.

    Each has a caption, how to read it, a uri (none where it is not drawn), the command that draws
    it, and what it lacks.
    """
    figures, drawn = results.suite.figures, _drawn(results)
    for name in dict.fromkeys([*results.waited, *drawn]):
        path = results.folder / f"{name}.svg"
        label = results.parts[name].label
        yield {
            "name": name,
            "caption": f"{_caption(results, name)} ({results.parts[name].place})",
            "reading": READING[figures[name].kind]
            + _part_of_tests(results, name)
            + ("" if name in results.waited else _NOT_WAITED),
            "uri": _data_uri(path.read_bytes()) if name in drawn else None,
            "command": fill([str(path.relative_to(results.root))], "missing"),
            "lacks": [gap for gap in gaps if gap.where.partition(":")[0] == label],
        }


_OWN_SPLITS = ("test", "held-out")  # of the learning curves that are no figure of the suite
_NOT_WAITED = (
    " The report does not wait for this figure, which may be older than the rest of the page."
)


def _part_of_tests(results: Results, name: str) -> str:
    """That a figure of trainings looks at a part of the test images, where it does."""
    count = results.suite.curve_examples
    measured = isinstance(results.suite.figures[name], CurvesFigure | SweepFigure | RemovalFigure)
    return f" Test accuracies are of {count:,} of the test images." if count and measured else ""


def _caption(results: Results, name: str) -> str:
    """What a figure shows, as its settings say; figures of a name may differ between suites."""
    part, suite = results.parts[name], results.suite
    figure = suite.figures[name]
    match figure:
        case SweepFigure():
            text = f"robust accuracy by {figure.label}"
        case RemovalFigure():
            sweep = suite.sweeps[figure.sweep]
            method = recipe_label(suite, sweep.recipe)
            drawn = any(change.get("remove_at_random") for change in sweep.changes())
            left_out = "as many examples, drawn at random" if drawn else "low-loss examples"
            text = f"{method} without {left_out}, and the share removed"
        case LandscapeFigure():
            method = recipe_label(suite, figure.recipe)
            text = f"weight loss landscape of {method} by loss group"
        case CurvesFigure():
            *methods, last = dict.fromkeys(line.method for line in part.lines)
            several = f"s of {', '.join(methods)} and {last}" if methods else f" of {last}"
            text = f"learning curve{several}"
        case _:
            return part.label
    return f"{part.label}: {text}"


def _drawn(results: Results) -> list[str]:
    """The suite's figures that lie there, in the report's order."""
    names = dict.fromkeys([*results.waited, *results.suite.figures])
    return [name for name in names if (results.folder / f"{name}.svg").exists()]


def _shown_curves(results: Results) -> set[RunKey]:
    """The runs whose robust accuracy by epoch one of the suite's figures shows, beside training."""
    shown = set()
    for name in _drawn(results):
        entry = results.suite.figures[name]
        if isinstance(entry, CurvesFigure) and set(entry.splits) & set(_OWN_SPLITS):
            shown.update(results.parts[name].keys)
    return shown


def own_figures(results: Results, second: Table) -> Iterator[Row]:
    """Table 2 as a picture, and those learning curves of Table 1 that no figure of the suite shows.

    Each is a uri and a caption.
    """
    columns = results.columns.items()
    labels = {column: column_label(results.suite, attack) for attack, column in columns}
    accuracies = pd.DataFrame(
        [
            {"defense": defense, "attack": labels.get(column, column), "accuracy": value}
            for defense, numbers in averages(second).items()
            for column, value in numbers.items()
        ]
    )
    if accuracies["accuracy"].notna().any():
        yield _image(
            drawing.attacks(accuracies),
            "Figure S1: accuracy of each defense under each attack; the numbers of Table 2",
        )
    table = results.suite.table1
    shown = _shown_curves(results)
    number = 1
    for threat, dataset in product(table.threat_models, table.datasets):
        lines = [
            line
            for line in results.parts["table1"].lines
            if (line.keys[0].threat, line.dataset) == (threat, dataset)
        ]
        if shown.issuperset(key for line in lines for key in line.keys):
            continue  # such as figure 3c
        frame = curve_frame(results, lines, splits=_OWN_SPLITS)
        if not frame.empty:
            number += 1
            place = f"{dataset}, {norm_text(threat)}"
            caption = f"Figure S{number}: robust accuracy by epoch and method ({place})"
            yield _image(drawing.learning_curves(frame), caption)


def _image(figure: Figure, caption: str) -> Row:
    return {
        "name": "",
        "caption": caption,
        "reading": "",
        "uri": _data_uri(picture(figure, "svg")),
        "command": "",
        "lacks": [],
    }


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
