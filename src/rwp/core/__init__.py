"""Adversarial training, AWP and RWP in pure PyTorch: tensors in, tensors out.

Usable without the rest of the package: nothing here imports more than torch and jaxtyping. Names
are imported when they are first asked for, so that `rwp.core.settings` and `rwp.core.threat`
come without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rwp.core.attacks import (
        cw as cw,
        cw_zero_masked as cw_zero_masked,
        fgsm as fgsm,
        fgsm_random_start as fgsm_random_start,
        kl_attack as kl_attack,
        pgd as pgd,
    )
    from rwp.core.batch_statistics import (
        average_statistics as average_statistics,
        normalize_together as normalize_together,
    )
    from rwp.core.gradient_tally import (
        GradientCounts as GradientCounts,
        GradientTally as GradientTally,
    )
    from rwp.core.losses import (
        cross_entropy as cross_entropy,
        kl_divergence as kl_divergence,
        margin_loss as margin_loss,
        mart_loss as mart_loss,
        trades_loss as trades_loss,
        zero_masked_margin_loss as zero_masked_margin_loss,
    )
    from rwp.core.models import (
        build_network as build_network,
    )
    from rwp.core.modes import (
        batch_norm_mode as batch_norm_mode,
        evaluation_mode as evaluation_mode,
        frozen_weights as frozen_weights,
        untracked_statistics as untracked_statistics,
    )
    from rwp.core.objectives import (
        ExampleLosses as ExampleLosses,
        Objective as Objective,
        build_objective as build_objective,
        make_objective as make_objective,
    )
    from rwp.core.precision import (
        flush_denormals as flush_denormals,
        precision_context as precision_context,
    )
    from rwp.core.process_group import (
        ALONE as ALONE,
        Group as Group,
        Processes as Processes,
    )
    from rwp.core.settings import (
        ObjectiveSettings as ObjectiveSettings,
        WeightPerturbation as WeightPerturbation,
    )
    from rwp.core.threat import (
        ThreatModel as ThreatModel,
    )
    from rwp.core.weight_perturbation import (
        PerturbationDiagnostics as PerturbationDiagnostics,
        PerturbedWeights as PerturbedWeights,
        adversarial_weight_perturbation as adversarial_weight_perturbation,
        perturb_weights as perturb_weights,
        robust_weight_perturbation as robust_weight_perturbation,
        shifted_weights as shifted_weights,
    )

_HOMES = {
    "ALONE": "process_group",
    "ExampleLosses": "objectives",
    "GradientCounts": "gradient_tally",
    "GradientTally": "gradient_tally",
    "Group": "process_group",
    "Objective": "objectives",
    "ObjectiveSettings": "settings",
    "PerturbationDiagnostics": "weight_perturbation",
    "PerturbedWeights": "weight_perturbation",
    "Processes": "process_group",
    "ThreatModel": "threat",
    "WeightPerturbation": "settings",
    "adversarial_weight_perturbation": "weight_perturbation",
    "average_statistics": "batch_statistics",
    "batch_norm_mode": "modes",
    "build_network": "models",
    "build_objective": "objectives",
    "cross_entropy": "losses",
    "cw": "attacks",
    "cw_zero_masked": "attacks",
    "evaluation_mode": "modes",
    "fgsm": "attacks",
    "fgsm_random_start": "attacks",
    "flush_denormals": "precision",
    "frozen_weights": "modes",
    "kl_attack": "attacks",
    "kl_divergence": "losses",
    "make_objective": "objectives",
    "margin_loss": "losses",
    "mart_loss": "losses",
    "normalize_together": "batch_statistics",
    "perturb_weights": "weight_perturbation",
    "pgd": "attacks",
    "precision_context": "precision",
    "robust_weight_perturbation": "weight_perturbation",
    "shifted_weights": "weight_perturbation",
    "trades_loss": "losses",
    "untracked_statistics": "modes",
    "zero_masked_margin_loss": "losses",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
