"""Adversarial training, AWP and RWP in pure PyTorch: tensors in, tensors out.

Usable without the rest of the package: nothing here imports more than torch and jaxtyping.
"""

from rwp.core.attacks import cw, cw_zero_masked, fgsm, fgsm_random_start, kl_attack, pgd
from rwp.core.batch_statistics import average_statistics, normalize_together
from rwp.core.group import ALONE, Group, Processes
from rwp.core.losses import (
    cross_entropy,
    kl_divergence,
    margin_loss,
    mart_loss,
    trades_loss,
    zero_masked_margin_loss,
)
from rwp.core.models import build_network
from rwp.core.modes import (
    batch_norm_mode,
    evaluation_mode,
    frozen_weights,
    untracked_statistics,
)
from rwp.core.objectives import ExampleLosses, Objective, make_objective
from rwp.core.precision import flush_denormals, precision_context
from rwp.core.threat import ThreatModel
from rwp.core.weight_perturbation import (
    PerturbationDiagnostics,
    PerturbedWeights,
    WeightPerturbation,
    adversarial_weight_perturbation,
    perturb_weights,
    robust_weight_perturbation,
    shifted_weights,
)

__all__ = [
    "ALONE",
    "ExampleLosses",
    "Group",
    "Objective",
    "PerturbationDiagnostics",
    "PerturbedWeights",
    "Processes",
    "ThreatModel",
    "WeightPerturbation",
    "adversarial_weight_perturbation",
    "average_statistics",
    "batch_norm_mode",
    "build_network",
    "cross_entropy",
    "cw",
    "cw_zero_masked",
    "evaluation_mode",
    "fgsm",
    "fgsm_random_start",
    "flush_denormals",
    "frozen_weights",
    "kl_attack",
    "kl_divergence",
    "make_objective",
    "margin_loss",
    "mart_loss",
    "normalize_together",
    "perturb_weights",
    "pgd",
    "precision_context",
    "robust_weight_perturbation",
    "shifted_weights",
    "trades_loss",
    "untracked_statistics",
    "zero_masked_margin_loss",
]
