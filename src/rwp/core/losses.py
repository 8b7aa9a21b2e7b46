"""Losses per example, from logits, in nats; reduction is the caller's."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def full_precision(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Logits in at least 32 bits, so that no loss is taken in bf16 under autocast."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def cross_entropy(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " batch"]:
    """Minus the log-probability of the label.

    With smoothing, that share of it is the mean over all classes in its place (Szegedy, 2016).
    """
    labels = labels.long()  # torch's own takes no other integers
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)


def kl_divergence(
    clean_logits: Float[Tensor, "batch classes"],
    adversarial_logits: Float[Tensor, "batch classes"],
) -> Float[Tensor, " batch"]:
    """KL(clean || adversarial), summed over the classes; gradients flow into both."""
    return F.kl_div(
        F.log_softmax(adversarial_logits, dim=1),
        F.log_softmax(clean_logits, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)


def trades_loss(
    clean_logits: Float[Tensor, "batch classes"],
    adversarial_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " batch"]:
    """Clean cross-entropy plus beta times KL(clean || adversarial) (Zhang et al., 2019)."""
    divergence = kl_divergence(clean_logits, adversarial_logits)
    smoothed = cross_entropy(clean_logits, labels, label_smoothing=label_smoothing)
    return smoothed + beta * divergence


def mart_loss(
    clean_logits: Float[Tensor, "batch classes"],
    adversarial_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    beta: float,
) -> Float[Tensor, " batch"]:
    """Boosted cross-entropy plus beta times the weighted KL (Wang et al., 2020, Eq. 11).

    BCE(adversarial) - with its margin term -log(1 - the largest wrong probability) - plus
    beta * KL(clean || adversarial) * (1 - the label's clean probability).
    """
    adversarial_probabilities = adversarial_logits.softmax(dim=1)
    wrong = _without_label(adversarial_probabilities, labels, fill=0.0).amax(dim=1)
    # The log's argument is floored, as a wrong probability of 1 is reached in 32 bits.
    floor = torch.finfo(wrong.dtype).eps
    boosted = cross_entropy(adversarial_logits, labels) - (1.0 - wrong).clamp_min(floor).log()
    doubt = 1.0 - _of_label(clean_logits.softmax(dim=1), labels)
    return boosted + beta * kl_divergence(clean_logits, adversarial_logits) * doubt


def margin_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, kappa: float
) -> Float[Tensor, " batch"]:
    """Largest wrong logit minus the label's, capped at kappa (Carlini and Wagner, 2017).

    Positive where the example is misclassified. kappa is the confidence beyond which an
    attack that maximises this loss stops caring.

    Raises:
        ValueError: kappa is negative or NaN, so that nothing would be attacked.
    """
    _check_kappa(kappa)
    wrong = _without_label(logits, labels, fill=-torch.inf).amax(dim=1)
    return (wrong - _of_label(logits, labels)).clamp(max=kappa)


def zero_masked_margin_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, kappa: float
) -> Float[Tensor, " batch"]:
    """The margin loss as the RWP authors' evaluation computes it, kept to reproduce Table 2.

    The label's logit is masked with zero instead of minus infinity, so the largest wrong
    logit never counts as less than zero: where all are negative, the attack is blind to them.

    Raises:
        ValueError: as `margin_loss`.
    """
    _check_kappa(kappa)
    wrong = _without_label(logits, labels, fill=0.0).amax(dim=1)
    return (wrong - _of_label(logits, labels)).clamp(max=kappa)


def _check_kappa(kappa: float) -> None:
    if not kappa >= 0:  # NaN neither
        raise ValueError(f"kappa: expected a number >= 0, got {kappa}; CW's is 0 or 50")


def _of_label(
    values: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    return values.gather(1, labels.long().unsqueeze(1)).squeeze(1)


def _without_label(
    values: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, fill: float
) -> Float[Tensor, "batch classes"]:
    return values.scatter(1, labels.long().unsqueeze(1), fill)
