"""Attacks on images: FGSM, PGD, CW (PGD on the margin loss) and the KL attack of TRADES.

One call shape: `attack(model, images, labels, *, threat, ...)` returns adversarial images,
inside the threat model's ball and inside [0, 1]. The model comes back exactly as it was:
modes, buffers, `.grad` and `requires_grad`, also when something inside raises. Only the
gradient of the inputs is ever computed.
"""

from functools import partial
from typing import Unpack

import torch
from torch import nn

from rwp.core.checks import check_examples
from rwp.core.geometry import RandomStart
from rwp.core.losses import full_precision, kl_divergence, margin_loss, zero_masked_margin_loss
from rwp.core.modes import BatchNormMode, batch_norm_mode
from rwp.core.pgd import AttackOptions, Images, Labels, pgd
from rwp.core.threat import ThreatModel

__all__ = ["AttackOptions", "cw", "cw_zero_masked", "fgsm", "fgsm_random_start", "kl_attack", "pgd"]


def fgsm(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    bn_mode: BatchNormMode = "eval",
) -> Images:
    """One step of length epsilon from the clean images (Goodfellow et al., 2015)."""
    return pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=threat.epsilon,
        num_steps=1,
        random_start="none",
        bn_mode=bn_mode,
    )


def fgsm_random_start(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    **options: Unpack[AttackOptions],
) -> Images:
    """What the RWP authors' evaluation calls FGSM: one step from a random start.

    With their step of 2 epsilon every pixel ends at +-epsilon (or at 0 or 1), by the sign of
    the gradient at the random point. Other options and errors as `pgd`.
    """
    return pgd(model, images, labels, threat=threat, step_size=step_size, num_steps=1, **options)


def cw(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    num_steps: int,
    kappa: float,
    **options: Unpack[AttackOptions],
) -> Images:
    """PGD on `margin_loss`, the Carlini-Wagner margin with confidence kappa; else as `pgd`."""
    loss = partial(margin_loss, kappa=kappa)
    return pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=step_size,
        num_steps=num_steps,
        loss=loss,
        **options,
    )


def cw_zero_masked(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    num_steps: int,
    kappa: float,
    **options: Unpack[AttackOptions],
) -> Images:
    """PGD on `zero_masked_margin_loss`, what the authors' evaluation calls CW; else as `pgd`."""
    loss = partial(zero_masked_margin_loss, kappa=kappa)
    return pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=step_size,
        num_steps=num_steps,
        loss=loss,
        **options,
    )


def kl_attack(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    threat: ThreatModel,
    step_size: float,
    num_steps: int,
    generator: torch.Generator | None = None,
    random_start: RandomStart = "gaussian",
    bn_mode: BatchNormMode = "eval",
    start: Images | None = None,
) -> Images:
    """The attack of TRADES (Zhang et al., 2019): make KL(clean || adversarial) large.

    The labels play no part. The clean logits are computed once, as they do not change during
    the attack. From the clean images themselves the gradient is zero, hence the random start.
    Arguments and errors as `pgd`.
    """
    check_examples(images, labels)
    with torch.no_grad(), batch_norm_mode(model, bn_mode):
        clean_logits = full_precision(model(images))
    return pgd(
        model,
        images,
        labels,
        threat=threat,
        step_size=step_size,
        num_steps=num_steps,
        generator=generator,
        loss=lambda logits, _: kl_divergence(clean_logits, logits),
        random_start=random_start,
        bn_mode=bn_mode,
        start=start,
    )
