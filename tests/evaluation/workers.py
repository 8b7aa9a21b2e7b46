"""What the worker processes of the AutoAttack tests run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import nn

from rwp.data.images import ImageSet
from rwp.evaluation import autoattack as module, shared_batches
from rwp.evaluation.attacks import AttackResult
from rwp.training.spec import AttackSpec
from tests.evaluation.samples import ShortAutoAttack, autoattack_spec

BATCH, SEED = 8, 3


def short_autoattack(
    model: nn.Module, images: ImageSet, state: Path | None, attack: AttackSpec | None = None
) -> AttackResult:
    """Ours, around the shortened attacks."""
    original, module.AutoAttack = module.AutoAttack, ShortAutoAttack
    try:
        return module.autoattack(
            model,
            images,
            attack or autoattack_spec(),
            batch_size=BATCH,
            seed=SEED,
            device="cpu",
            state=state,
        )
    finally:
        module.AutoAttack = original


def killed_before_saving(model: nn.Module, images: ImageSet, state: Path, batch: str) -> None:
    """Work until one batch is computed, and die of SIGKILL before it is written."""
    torch.set_num_threads(1)
    save = shared_batches.save_outcome

    def save_or_die(path, index, outcome):
        if path.name == f"{batch}.pt":
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, index, outcome)

    shared_batches.save_outcome = save_or_die
    short_autoattack(model, images, state)


def worker(model: nn.Module, images: ImageSet, state: Path) -> None:
    """One of several that share a state folder."""
    torch.set_num_threads(1)
    short_autoattack(model, images, state)
