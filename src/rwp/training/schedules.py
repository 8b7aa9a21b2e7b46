"""Learning-rate schedules as the published runs had them; epochs count from 0."""

from __future__ import annotations

import math

from rwp.training.spec import OptimizationSpec


def learning_rate(spec: OptimizationSpec, *, epoch: int, step: int, num_steps: int) -> float:
    """The learning rate of one optimizer step.

    `piecewise_by_step` (the AT family): time is `epoch + (step + 1) / num_steps`, so a drop at
    100 falls on the last batch of epoch 99. `piecewise_by_epoch` (TRADES): time is `epoch + 1`.
    `cosine_by_epoch` (RST): half a cosine over the epochs, from the full rate at epoch 0.
    """
    if spec.schedule == "constant":
        return spec.learning_rate
    if spec.schedule == "cosine_by_epoch":
        return spec.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / spec.epochs))
    by_step = spec.schedule == "piecewise_by_step"
    time = epoch + (step + 1) / num_steps if by_step else epoch + 1
    drops = sum(time >= milestone for milestone in spec.decay_epochs)
    return spec.learning_rate * spec.decay_factor**drops
