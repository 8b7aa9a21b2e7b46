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
    )
    from rwp.core.attacks import (
        cw_zero_masked as cw_zero_masked,
    )
    from rwp.core.attacks import (
        fgsm as fgsm,
    )
    from rwp.core.attacks import (
        fgsm_random_start as fgsm_random_start,
    )
    from rwp.core.attacks import (
        kl_attack as kl_attack,
    )
    from rwp.core.attacks import (
        pgd as pgd,
    )
    from rwp.core.batch_statistics import (
        average_statistics as average_statistics,
    )
    from rwp.core.batch_statistics import (
        normalize_together as normalize_together,
    )
    from rwp.core.gradient_tally import (
        GradientCounts as GradientCounts,
    )
    from rwp.core.gradient_tally import (
        GradientTally as GradientTally,
    )
    from rwp.core.losses import (
        cross_entropy as cross_entropy,
    )
    from rwp.core.losses import (
        kl_divergence as kl_divergence,
    )
    from rwp.core.losses import (
        margin_loss as margin_loss,
    )
    from rwp.core.losses import (
        mart_loss as mart_loss,
    )
    from rwp.core.losses import (
        trades_loss as trades_loss,
    )
    from rwp.core.losses import (
        zero_masked_margin_loss as zero_masked_margin_loss,
    )
    from rwp.core.models import (
        build_network as build_network,
    )
    from rwp.core.modes import (
        batch_norm_mode as batch_norm_mode,
    )
    from rwp.core.modes import (
        evaluation_mode as evaluation_mode,
    )
    from rwp.core.modes import (
        frozen_weights as frozen_weights,
    )
    from rwp.core.modes import (
        untracked_statistics as untracked_statistics,
    )
    from rwp.core.objectives import (
        ExampleLosses as ExampleLosses,
    )
    from rwp.core.objectives import (
        Objective as Objective,
    )
    from rwp.core.objectives import (
        build_objective as build_objective,
    )
    from rwp.core.objectives import (
        make_objective as make_objective,
    )
    from rwp.core.precision import (
        flush_denormals as flush_denormals,
    )
    from rwp.core.precision import (
        precision_context as precision_context,
    )
    from rwp.core.process_group import (
        ALONE as ALONE,
    )
    from rwp.core.process_group import (
        Group as Group,
    )
    from rwp.core.process_group import (
        Processes as Processes,
    )
    from rwp.core.settings import (
        ObjectiveSettings as ObjectiveSettings,
    )
    from rwp.core.settings import (
        WeightPerturbation as WeightPerturbation,
    )
    from rwp.core.threat import (
        ThreatModel as ThreatModel,
    )
    from rwp.core.weight_perturbation import (
        PerturbationDiagnostics as PerturbationDiagnostics,
    )
    from rwp.core.weight_perturbation import (
        PerturbedWeights as PerturbedWeights,
    )
    from rwp.core.weight_perturbation import (
        adversarial_weight_perturbation as adversarial_weight_perturbation,
    )
    from rwp.core.weight_perturbation import (
        perturb_weights as perturb_weights,
    )
    from rwp.core.weight_perturbation import (
        robust_weight_perturbation as robust_weight_perturbation,
    )
    from rwp.core.weight_perturbation import (
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
