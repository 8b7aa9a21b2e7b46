"""One training from files to files: data in; checkpoints, history and run.json out."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rwp.core.batch_statistics import normalize_together
from rwp.core.modes import own_modes, untracked_statistics
from rwp.core.precision import flush_denormals
from rwp.core.process_group import ALONE, Group
from rwp.data.images import ImageSet
from rwp.data.parts import take_part
from rwp.data.splits import training_split
from rwp.data.transfer import images_of
from rwp.errors import UserError
from rwp.files import check_place, write_json
from rwp.progress import Progress
from rwp.rng import derived_seed
from rwp.training.batches import Batches, check_labels
from rwp.training.checkpoint import new_network, save_network
from rwp.training.guards import Stopped, check_epoch, fault_of
from rwp.training.history import Recorder, Row, SilentRecorder, write_history
from rwp.training.image_losses import NAME as LOSSES
from rwp.training.loop import Training
from rwp.training.pseudo_labels import load_pseudo_labeled
from rwp.training.recipe import memory_format_of
from rwp.training.resume import Interrupted, RunState, Watch, stop_signals
from rwp.training.run_record import RunFiles, file_hashes, note_machine, run_record
from rwp.training.selection import improved, kept_after, write_networks
from rwp.training.several_processes import check_group, check_layers
from rwp.training.spec import OwnNetworkSpec, TrainSpec, check_held_out
from rwp.training.start import begin, keep_start

CURVE_SEED = 0  # of the test images that curves are measured on, for all runs alike


def train_run(
    spec: TrainSpec,
    *,
    root: Path,
    fingerprint: str,
    recorder: Recorder | None = None,
    device: str = "cpu",
    output: Path | None = None,
    group: Group = ALONE,
) -> Path:
    """Train one run, or go on with it, and write its folder.

    Args:
        spec: the resolved settings.
        root: the project; data are read below `root/data`, the run is written to its folder.
        fingerprint: what the run stands on; names the resume state, beside `output` if it is given.
        recorder: a listener.
        device: "cpu" or "cuda".
        output: another folder for the run.
        group: the processes that train it together; the leading one writes all files.

    Returns:
        The run's folder.

    Raises:
        UserError: missing data, a second process on the same run, no place to write.
        Interrupted: SIGTERM or SIGINT came; the next call goes on from here, with any number of
            processes.
        GroupError: another process of the group has gone.
    """
    recorder = recorder or SilentRecorder()
    files = RunFiles(output or root / spec.key.directory)
    state = RunState(state_folder(spec, root=root, fingerprint=fingerprint, output=output), group)
    inputs = input_paths(spec, root)
    check_place(files.folder)  # before days of training, not after them
    with state.locked(), stop_signals() as stop:
        training, network = prepare(spec, inputs, torch.device(device), group)
        history = _resume(training, state, recorder, network, inputs)
        try:
            status, reason = _run(training, state, network, history, recorder, stop)
            if not group.leads:
                return files.folder
            finished = status == "finished"
            write_networks(training, state, files, network=network, finished=finished)
            write_history(files.history, history)
            if training.losses is not None:
                batches = training.batches
                labels = batches.labels[: batches.num_labeled]
                training.losses.write(files.folder / LOSSES, places=batches.kept, labels=labels)
            recorder.finish(status, {"folder": str(files.folder)})
            outcome = {"status": status, "reason": reason, "fingerprint": fingerprint}
            hashes = file_hashes(inputs, files.folder)
            record = run_record(training, history, outcome, hashes, recorder.run_id)
            write_json(files.record, record)  # last, as the seal
        except Interrupted:
            recorder.finish("interrupted", {"state": str(state.folder)})
            raise
        except Exception:  # a full disk, say: the next call goes on from the last checkpoint
            recorder.finish("failed", {"state": str(state.folder)})
            raise
        state.remove()
    return files.folder


def state_folder(spec: TrainSpec, *, root: Path, fingerprint: str, output: Path | None) -> Path:
    """Where a training's state lies; one that goes elsewhere leaves the run's own alone."""
    folder = root / ".state" / spec.key.name
    place = (output or root / spec.key.directory).resolve()
    if place == (root / spec.key.directory).resolve():
        return folder / fingerprint
    return folder / f"{fingerprint}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def input_paths(spec: TrainSpec, root: Path) -> dict[str, Path]:
    """The files that a training reads, by their role."""
    folder = root / "data" / spec.key.dataset
    paths = {"train": folder / "train.pt"}
    if spec.needs_test:
        paths["test"] = folder / "test.pt"
    if spec.unlabeled is not None:
        paths["unlabeled"] = root / "data" / "unlabeled" / f"{spec.unlabeled.source}.pt"
        paths["pseudo_labels"] = root / spec.unlabeled.labeling.path
    for role, path in paths.items():
        if not path.exists():
            raise UserError(f"{path}: expected the {role} images, found none; build it first")
    if spec.start is not None:
        paths["start"] = root / spec.start.path(spec.key)
        if not paths["start"].exists():
            raise UserError(
                f"{paths['start']}: expected what {spec.key.name} starts from, found no file; "
                f"{'train the parent first' if spec.start.recipe else 'put the weights there'}"
            )
    return paths


def prepare(
    spec: TrainSpec, inputs: dict[str, Path], device: torch.device, group: Group = ALONE
) -> tuple[Training, dict[str, Any]]:
    """Load data, build the network, and describe it for its checkpoints."""
    flush_denormals()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # an earlier training's is not this one's
    labeled = ImageSet.load(inputs["train"])
    check_held_out(spec, len(labeled))
    mean, std = _normalization(spec, labeled)
    splits: dict[str, ImageSet] = {}
    kept, taken = training_split(
        labeled.labels,
        held_out_fraction=spec.held_out_fraction,
        per_class=spec.data.per_class,
        seed=spec.key.seed,
        where=f"datasets.{spec.key.dataset}.per_class",
    )
    if len(taken):
        splits["held_out"] = labeled.select(taken)
    if len(kept) < len(labeled):
        labeled = labeled.select(kept)
    if spec.needs_test:
        test = ImageSet.load(inputs["test"])
        splits["test"], _ = take_part(
            test, num_examples=spec.curve_examples, seed=CURVE_SEED, source=inputs["test"]
        )
        check_labels(splits["test"], num_classes=labeled.num_classes, name=spec.key.name)
    pseudo = None
    if spec.unlabeled is not None:
        pseudo = load_pseudo_labeled(
            inputs["unlabeled"], inputs["pseudo_labels"], num_classes=labeled.num_classes
        )
    network: dict[str, Any] = {
        "architecture": spec.architecture.document(),
        "num_classes": labeled.num_classes,
        "in_channels": labeled.shape[0],
        "mean": mean,
        "std": std,
    }
    if isinstance(spec.architecture, OwnNetworkSpec):
        network["image_size"] = tuple(labeled.shape[1:])
    torch.manual_seed(derived_seed(spec.key.seed, "init"))  # the layers' own initialization
    model = new_network(network).to(device)
    if memory_format_of(spec, device) == torch.channels_last:
        model = model.to(memory_format=torch.channels_last)
    check_layers(spec, model, group)
    if spec.optimization.batch_statistics == "batch":
        model = normalize_together(model, group)
    batches = Batches(spec, labeled, pseudo, device=device, kept=kept)
    check_group(spec, model, batches, group)
    check_smallest_batch(spec, model, batches, group)
    return Training(spec, model, batches, splits, device=device, group=group), network


def check_smallest_batch(spec: TrainSpec, model: nn.Module, batches: Batches, group: Group) -> None:
    """Refuse a batch of one image where the network's batch normalization cannot use it.

    Raises:
        UserError: it would end the first epoch.
    """
    alone = group.size == 1 or spec.optimization.batch_statistics == "share"
    if not alone or batches.smallest() >= 2 * group.size:
        return
    image = images_of(batches.images[:1], batches.device)
    try:
        with (
            own_modes(model),
            untracked_statistics(model),
            torch.random.fork_rng(devices=[]),
            torch.no_grad(),
        ):
            model.train()(image)
    except ValueError as error:
        raise UserError(
            f"{spec.key.name}: expected at least 2 images in every batch, as batch normalization "
            f"needs several values, got a batch of {batches.smallest()}; change batch_size"
        ) from error


def _normalization(
    spec: TrainSpec, images: ImageSet
) -> tuple[list[float], list[float]] | tuple[None, None]:
    """Mean and std by channel: of the settings, or else of the training images.

    Raises:
        UserError: there are more or fewer than channels.
    """
    if not spec.normalize:
        return None, None
    if spec.data.mean is None or spec.data.std is None:
        return images.channel_statistics()
    if len(spec.data.mean) != images.shape[0]:
        raise UserError(
            f"datasets.{spec.key.dataset}.mean: expected {images.shape[0]} numbers, one per "
            f"channel, got {len(spec.data.mean)}; correct mean and std, or leave them out"
        )
    return list(spec.data.mean), list(spec.data.std)


def _resume(
    training: Training,
    state: RunState,
    recorder: Recorder,
    network: dict[str, Any],
    inputs: dict[str, Path],
) -> list[Row]:
    saved = state.load(training.device)
    run_id = None
    history: list[Row] = []
    if saved is not None:
        run_id = saved.pop("mlflow_run_id")
        history = saved.pop("history")
        training.load_state(saved)
    elif "start" in inputs:
        history = begin(training, state, network, inputs["start"])
    recorder.start(run_id)
    if saved is None:
        for row in history:  # the parent's
            recorder.epoch(row)
    return history


def _run(
    training: Training,
    state: RunState,
    network: dict[str, Any],
    history: list[Row],
    recorder: Recorder,
    stop: threading.Event,
) -> tuple[str, str | None]:
    """Train to the end; "finished", or the guards' verdict and its reason."""
    watch = Watch(training, state, history, recorder, stop)
    if len(history) == training.spec.first_epoch:
        watch.save()  # something to go back to, should the first epoch diverge
    spec, leads = training.spec, training.group.leads
    epochs = spec.optimization.epochs
    shares = {"majority_share": training.batches.majority_share}
    if measured := training.splits.get("held_out") or training.splits.get("test"):
        shares["measured_share"] = max(measured.class_counts()) / len(measured)
    steps, done = training.batches.plan(0), training.progress.epoch
    with Progress(spec.key.name, epochs, steps, done=done, quiet=not leads) as progress:
        try:
            while not training.done:
                training.run_epoch(lambda: watch.after_step(progress))
                watch.before_measuring()
                row = training.finish_epoch(watch.while_measuring)
                history.append(row)
                check_epoch(history, epochs=epochs, **shares)
                if fault := fault_of(row["train_loss"], training.model):
                    raise Stopped("diverged", f"{fault} in epoch {row['epoch']}")
                chosen = (*improved(training, row), *kept_after(spec, row))
                for name in chosen if leads else ():
                    target = state.network(name, row)
                    save_network(target, training.measured, network=network, epoch=row["epoch"])
                keep_start(training, state, history, network)
                if leads:
                    write_history(state.history_file, history)
                watch.save()
                state.tidy(training.progress.chosen)
                recorder.epoch(row)
                progress.epoch(row)
        except Stopped as verdict:
            if verdict.status == "collapsed":
                recorder.epoch(history[-1])  # which is in order; that of a divergence is not
            return _stopped(training, state, verdict)
    return "finished", None


def _stopped(training: Training, state: RunState, verdict: Stopped) -> tuple[str, str]:
    """Go back to the last epoch that was in order, so that what is saved can be looked at."""
    saved = state.load(training.device)
    if verdict.status == "diverged" and saved is not None:
        training.load_state(saved)
        note_machine(training)
    return verdict.status, verdict.reason
