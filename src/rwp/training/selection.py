"""The networks that a run saves: the final one, those chosen by a measurement, those kept."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from rwp.training.checkpoint import save_network
from rwp.training.history import Row
from rwp.training.loop import Training
from rwp.training.resume import RunState
from rwp.training.run_record import RunFiles, copy_file
from rwp.training.spec import TrainSpec, kept_checkpoint, kept_start


def selection_keys(spec: TrainSpec) -> dict[str, str]:
    """The measurement that chooses each checkpoint; the test split's only where it is measured."""
    accuracy = "clean_accuracy" if spec.monitor is None else "robust_accuracy"
    keys = {"best": f"{spec.selection}_{accuracy}"}
    return keys | ({"best_on_test": f"test_{accuracy}"} if spec.test_curve else {})


def improved(training: Training, row: Row) -> list[str]:
    """The checkpoints for which this epoch's network is the best so far; they are noted."""
    chosen = training.progress.chosen
    names = [
        name
        for name, key in selection_keys(training.spec).items()
        if key in row and (name not in chosen or row[key] > chosen[name][key])
    ]
    chosen |= dict.fromkeys(names, row)
    return names


def kept_after(spec: TrainSpec, row: Row) -> list[str]:
    """The checkpoint to keep after this epoch, if any."""
    done = row["epoch"] + 1
    return [kept_checkpoint(spec.key, done).stem] if done in spec.keep_epochs else []


def write_networks(
    training: Training,
    state: RunState,
    files: RunFiles,
    *,
    network: dict[str, Any],
    finished: bool,
) -> None:
    """Write all networks to their files.

    A run that was stopped has not come to all of them, nor to keep that of its last epoch; its
    final network stands in, and its run.json says that no number of it counts.
    """
    spec, progress = training.spec, training.progress
    save_network(files.last, training.measured, network=network, epoch=progress.epoch - 1)
    targets = {name: files.chosen(name) for name in selection_keys(spec)}
    sources = {name: state.network(name, row) for name, row in progress.chosen.items()}

    def kept(path: PurePosixPath, epoch: int, source: Path) -> None:
        targets[path.stem] = files.folder / path.relative_to(spec.key.directory)
        if epoch <= progress.epoch and (finished or source.exists()):
            sources[path.stem] = source

    for epoch in spec.keep_epochs:
        path = kept_checkpoint(spec.key, epoch)
        kept(path, epoch, state.network(path.stem, {"epoch": epoch - 1}))
    for epoch in spec.keep_starts:
        path = kept_start(spec.key, epoch)
        kept(path, epoch, state.folder / path.name)
    for name, target in targets.items():
        copy_file(sources.get(name, files.last), target)
