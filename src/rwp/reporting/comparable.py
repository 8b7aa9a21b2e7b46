"""Whether a run of some suite repeats what the paper measured, and if not, what is different."""

from __future__ import annotations

from dataclasses import fields

from rwp.errors import UserError
from rwp.pipeline.resolve import evaluation_spec, train_spec
from rwp.pipeline.settings import Params
from rwp.reporting.cells import PAPER_SUITE, table1_rows, table2_rows
from rwp.training.spec import RunKey, TrainSpec

# Test images of the paper's data sets, for the binomial error of what training measured.
TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "svhn": 26_032}

# The unlabeled images of the paper's RST rows.
PAPER_UNLABELED = "tinyimages-500k"


def table1_difference(params: Params, labels: dict[str, str], key: RunKey) -> str:
    """How a row's training differs from the paper's, or an empty text."""
    if PAPER_SUITE not in params.suites:
        return "the paper's settings are not in params.yaml"
    for theirs, keys in table1_rows(params, PAPER_SUITE):
        if theirs == labels:
            return _training_difference(params, key, keys[0])
    return f"other data ({key.dataset})"


def table2_difference(params: Params, defense: str, key: RunKey, attack: str) -> str:
    """How a cell's training or evaluation differs from the paper's, or an empty text."""
    if PAPER_SUITE not in params.suites:
        return "the paper's settings are not in params.yaml"
    keys = dict(table2_rows(params, PAPER_SUITE)).get(defense)
    if keys is None:
        return "the paper has no such row"
    found = _training_difference(params, key, keys[0])
    if found:
        return found
    try:
        ours = evaluation_spec(params, key, attacks=(attack,))
        theirs = evaluation_spec(params, keys[0], attacks=(attack,))
    except UserError:
        return "the paper has no such attack"
    if ours.attacks != theirs.attacks:
        return "other settings of the attack"
    parts = [(spec.num_examples, spec.first_examples) for spec in (ours, theirs)]
    return "" if parts[0] == parts[1] else "another part of the test images"


def _training_difference(params: Params, key: RunKey, paper_key: RunKey) -> str:
    if params.datasets[key.dataset].source != params.datasets[paper_key.dataset].source:
        return f"other data ({key.dataset})"
    ours, theirs = train_spec(params, key), train_spec(params, paper_key)
    unlabeled = ours.unlabeled
    if unlabeled is not None and unlabeled.definition.kind != PAPER_UNLABELED:
        return f"other unlabeled images ({unlabeled.source})"
    different = [
        name
        for name in (field.name for field in fields(TrainSpec))
        # A teacher's key names its suite and seed, which say nothing about its settings.
        if name not in ("key", "unlabeled") and getattr(ours, name) != getattr(theirs, name)
    ]
    return f"other settings ({', '.join(different)})" if different else ""
