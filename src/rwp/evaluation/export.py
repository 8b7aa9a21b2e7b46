"""A trained network in the form in which RobustBench takes submissions.

Four files: the weights under RobustBench's names, the class that loads them (built on the
package's own networks), the `model_info` entry, and the AutoAttack log.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwp.errors import UserError
from rwp.evaluation.records import EvaluationRecord, require_final
from rwp.factories import is_own
from rwp.files import (
    atomic_write,
    object_in,
    read_object,
    sha256_file,
    write_json,
    write_text,
)
from rwp.training.checkpoint import load_network

_NAMES = {"normalize.mean": "mu", "normalize.std": "sigma"}
_STAGES, _WIDTH = 4, 64  # what RobustBench's PreActResNet is fixed to
_DATA_SETS = ("cifar10", "cifar100")  # of ours those that RobustBench has, from the official files

_CLASS = '''"""{title}: the network, for robustbench.model_zoo."""

import torch
from robustbench.model_zoo.architectures.{module} import {imports}


class {name}({base}):
    """{architecture} on images in [0, 1]."""

    def __init__(self):
        super().__init__({arguments})
{buffers}
    def forward(self, x):
        """Logits."""
        return super().forward({inputs})
'''
_NAMES_IN_USE = ("torch", "PreActBlock", "PreActResNet", "WideResNet", "super")
_BUFFERS = """        self.register_buffer("mu", torch.zeros(1, 3, 1, 1))
        self.register_buffer("sigma", torch.ones(1, 3, 1, 1))
"""


@dataclass(frozen=True)
class Submission:
    """What RobustBench asks about a model beyond its numbers."""

    name: str  # a Python identifier, e.g. Yu2022RobustWeight
    title: str
    authors: str
    link: str
    venue: str
    additional_data: bool | None = None  # none: as the run.json beside the checkpoint says


def export_robustbench(
    checkpoint: Path, record: EvaluationRecord, submission: Submission, *, folder: Path
) -> list[Path]:
    """Write weights, class, model_info and log for one network.

    Args:
        checkpoint: a checkpoint of ours; a network for 3-channel images.
        record: its AutoAttack record, version standard.
        submission: what else RobustBench asks.
        folder: where the files go.

    Raises:
        UserError: another kind of record, a record of another checkpoint, of a part of the test
            images or of images that RobustBench does not have, a network that its classes cannot
            hold, or a name that is no identifier.
    """
    _check_words(submission)
    dataset = _dataset_of(record, checkpoint)
    run = checkpoint.parent / "run.json"
    trained = _training(run, dataset)
    if submission.additional_data is None:
        submission = replace(submission, additional_data=_used_additional_data(trained, run))
    model, description = load_network(checkpoint)
    network = description["network"]
    code, architecture = _class_of(network, submission)
    paths = [folder / f"{submission.name}{end}" for end in (".pt", ".py", ".json", ".log")]
    weights = {_NAMES.get(name, name): value for name, value in model.state_dict().items()}
    _save(paths[0], weights)
    write_text(paths[1], code)
    write_json(paths[2], _model_info(dataset, record, submission, architecture))
    write_text(paths[3], autoattack_log(record))
    return paths


def _check_words(submission: Submission) -> None:
    name, title = submission.name, submission.title
    if not name.isidentifier() or keyword.iskeyword(name) or name in _NAMES_IN_USE:
        raise UserError(
            f"name: expected a Python identifier such as Yu2022Robust, got {name!r}; "
            "leave out spaces and signs, and take no word of Python's or of the file's imports"
        )
    if '"""' in title or "\\" in title or not title.isprintable() or title.endswith('"'):
        raise UserError(
            f"title: expected one line of plain text, got {title!r}; leave out backslashes, line "
            "breaks, and quotation marks at its end or in threes"
        )


def _dataset_of(record: EvaluationRecord, checkpoint: Path) -> str:
    """The data set of a record that leaderboards count, and that is of this file."""
    if record.attack.kind != "autoattack":
        raise UserError(
            f"{record.attack.name}: expected an AutoAttack record, got {record.attack.kind}; "
            "evaluate with AutoAttack standard first"
        )
    if record.checkpoint_sha256 != sha256_file(checkpoint):
        raise UserError(
            f"{checkpoint}: expected the checkpoint that the record is of, got another one; "
            "evaluate this one first"
        )
    require_final(record)
    if record.part is not None and record.part.rule != "all":
        raise UserError(
            f"{record.attack.name}: expected a record of all {record.part.of:,} test images, as "
            f"leaderboards count, got one of {record.part.size:,}; evaluate without num_examples"
        )
    dataset = record.key.dataset if record.key else None
    if dataset not in _DATA_SETS:
        raise UserError(
            f"{record.attack.name}: expected a record on {' or '.join(_DATA_SETS)}, got one on "
            f"{dataset or 'images without a name'}; RobustBench has no such data set"
        )
    return dataset


def _training(run: Path, dataset: str) -> dict[str, Any]:
    """The settings of a training on that data set; empty where nobody recorded them."""
    trained = object_in(read_object(run), "spec") if run.exists() else {}
    data = object_in(trained, "data")
    if data and (data.get("source"), data.get("image_size")) != (dataset, None):
        raise UserError(
            f"{run}: expected the official images of {dataset}, got {data.get('source')} "
            f"({data.get('path') or data.get('image_size')}) under that name; RobustBench has no "
            "such data set"
        )
    return trained


def _used_additional_data(trained: dict[str, Any], run: Path) -> bool:
    """Whether a run trained on images of other data sets; a holdout is of its own.

    Raises:
        UserError: nobody can tell, as there is no run.json, or it started at other weights.
    """
    if not trained or trained.get("start") is not None:
        why = "a start at other weights" if trained else "no run.json"
        raise UserError(
            f"{run}: expected a training that says which images it saw, got {why}; say it: "
            "--additional-data or --no-additional-data"
        )
    source = object_in(object_in(trained, "unlabeled"), "definition").get("kind")
    return source not in (None, "holdout")


def _save(path: Path, weights: dict[str, Tensor]) -> None:
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        torch.save(weights, stream)


def _class_of(network: dict[str, Any], submission: Submission) -> tuple[str, str]:
    """The source of the class, and what the architecture is called."""
    shape, classes = network["architecture"], network["num_classes"]
    if network["in_channels"] != 3:
        raise UserError(
            f"network: expected 3 channels, got {network['in_channels']}; "
            "RobustBench has no data set of gray images"
        )
    if is_own(shape["family"]):
        raise UserError(
            f"network: expected one of RobustBench's, got {shape['family']}; send its code"
        )
    if shape.get("activation", "relu") != "relu":
        raise UserError(
            f"network: expected the activation relu, got {shape['activation']}; RobustBench's "
            "class computes something else with these weights: send its code"
        )
    if shape["family"] == "wide_resnet":
        architecture = f"WideResNet-{shape['depth']}-{shape['widen_factor']}"
        module, imports, base = "wide_resnet", "WideResNet", "WideResNet"
        arguments = (
            f"depth={shape['depth']}, widen_factor={shape['widen_factor']}, num_classes={classes}"
        )
    else:
        if len(shape["blocks"]) != _STAGES or shape["width"] != _WIDTH:
            raise UserError(
                f"network: expected {_STAGES} stages and width {_WIDTH}, got "
                f"{len(shape['blocks'])} and {shape['width']}; RobustBench's class has no others"
            )
        architecture = f"PreActResNet-{2 + 2 * sum(shape['blocks'])}"
        module, imports, base = "resnet", "PreActBlock, PreActResNet", "PreActResNet"
        arguments = (
            f"PreActBlock, {list(shape['blocks'])}, num_classes={classes}, "
            "bn_before_fc=True, out_shortcut=True"
        )
    normalized = network["mean"] is not None
    code = _CLASS.format(
        title=submission.title,
        name=submission.name,
        module=module,
        imports=imports,
        base=base,
        architecture=architecture,
        arguments=arguments,
        buffers=_BUFFERS if normalized else "",
        inputs="(x - self.mu) / self.sigma" if normalized else "x",
    )
    return code, architecture


def _model_info(
    dataset: str, record: EvaluationRecord, submission: Submission, architecture: str
) -> dict[str, Any]:
    robust = f"{100 * record.robust_accuracy:.2f}"
    return {
        "link": submission.link,
        "name": submission.title,
        "authors": submission.authors,
        "additional_data": submission.additional_data,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": submission.venue,
        "architecture": architecture,
        "eps": record.attack.threat.epsilon,
        "clean_acc": f"{100 * record.clean_accuracy:.2f}",
        "reported": robust,
        "autoattack_acc": robust,
    }


def autoattack_log(record: EvaluationRecord) -> str:
    """The record in the words of AutoAttack's own log."""
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[record.attack.threat.norm]
    lines = [
        f"using {record.attack.version or 'standard'} version including {', '.join(record.parts)}",
        *record.warnings,
        f"initial accuracy: {record.clean_accuracy:.2%}",
        *(
            f"robust accuracy after {name.upper()}: {count / record.num_examples:.2%}"
            for name, count in record.parts.items()
        ),
        f"max {norm} perturbation: {record.max_perturbation:.5f}, nan in tensor: {record.num_nan}",
        f"robust accuracy: {record.robust_accuracy:.2%}",
        f"{record.num_examples} examples, seed {record.seed}, batch size {record.batch_size}, "
        f"{record.seconds:.1f} s on {record.device}, "
        + ", ".join(f"{name} {number}" for name, number in record.versions.items()),
    ]
    return "\n".join(lines) + "\n"
