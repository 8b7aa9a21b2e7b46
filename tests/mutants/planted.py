"""Faults that give wrong numbers: what stands in the code, what is put there, who should notice.

A fault is found by its text, which must stand in `src/rwp` once; white space may differ. Move code
freely; where its wording changes, change it here as well.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: what goes wrong.
        old: the sound code.
        new: what replaces it.
        tests: below tests/, in this order until one fails.
    """

    name: str
    old: str
    new: str
    tests: tuple[str, ...]


def _faults(tests: str, *faults: tuple[str, str, str]) -> list[Fault]:
    return [Fault(name, old, new, tuple(tests.split())) for name, old, new in faults]


LOSSES = _faults(
    "core/test_core_losses.py core/test_core_golden.py",
    (
        "losses: TRADES takes KL(adversarial || clean)",
        "divergence = kl_divergence(clean_logits, adversarial_logits)",
        "divergence = kl_divergence(adversarial_logits, clean_logits)",
    ),
    (
        "losses: the mean over classes instead of the sum",
        "log_target=True, ).sum(dim=1)",
        "log_target=True).mean(dim=1)",
    ),
    (
        "losses: the sum over the batch instead of the classes",
        "log_target=True, ).sum(dim=1)",
        "log_target=True).sum(dim=0)",
    ),
    (
        "losses: TRADES classifies the adversarial images",
        "return cross_entropy(clean_logits, labels) + beta * divergence",
        "return cross_entropy(adversarial_logits, labels) + beta * divergence",
    ),
    (
        "losses: TRADES without beta",
        "return cross_entropy(clean_logits, labels) + beta * divergence",
        "return cross_entropy(clean_logits, labels) + divergence",
    ),
    (
        "losses: MART doubts the adversarial image",
        "_of_label(clean_logits.softmax(dim=1), labels)",
        "_of_label(adversarial_logits.softmax(dim=1), labels)",
    ),
    (
        "losses: MART weighs the sure examples",
        "doubt = 1.0 - _of_label(",
        "doubt = _of_label(",
    ),
    (
        "losses: MART's margin term with the wrong sign",
        "cross_entropy(adversarial_logits, labels) - (1.0 - wrong)",
        "cross_entropy(adversarial_logits, labels) + (1.0 - wrong)",
    ),
    (
        "losses: the margin has the wrong sign",
        "fill=-torch.inf).amax(dim=1) return (wrong - _of_label(logits, labels))",
        "fill=-torch.inf).amax(dim=1)\n    return (_of_label(logits, labels) - wrong)",
    ),
    (
        "losses: the margin is capped below",
        "fill=-torch.inf).amax(dim=1) return (wrong - _of_label(logits, labels)).clamp(max=kappa)",
        "fill=-torch.inf).amax(dim=1)\n"
        "    return (wrong - _of_label(logits, labels)).clamp(min=kappa)",
    ),
    (
        "losses: the authors' CW masks with minus infinity",
        "fill=0.0).amax(dim=1) return",
        "fill=-torch.inf).amax(dim=1)\n    return",
    ),
    (
        "losses: taken in bf16",
        "return logits.float() if",
        "return logits if",
    ),
)

ATTACKS = _faults(
    "core/test_core_attacks.py core/test_core_properties.py core/test_core_golden.py"
    " core/test_core_left_as_found.py core/test_core_benchmarks.py",
    (
        "attacks: TRADES attacks KL(adversarial || clean)",
        "kl_divergence(clean_logits, logits)",
        "kl_divergence(logits, clean_logits)",
    ),
    (
        "attacks: FGSM takes half a step",
        "step_size=threat.epsilon,",
        "step_size=threat.epsilon / 2,",
    ),
    (
        "attacks: CW is the authors'",
        "loss = partial(margin_loss, kappa=kappa)",
        "loss = partial(zero_masked_margin_loss, kappa=kappa)",
    ),
    (
        "attacks: the authors' CW is the correct one",
        "loss = partial(zero_masked_margin_loss, kappa=kappa)",
        "loss = partial(margin_loss, kappa=kappa)",
    ),
    (
        "attacks: uniform starts on one side",
        "noise.uniform_(-1.0, 1.0,",
        "noise.uniform_(0.0, 1.0,",
    ),
    (
        "attacks: L-inf steps down",
        "points.add(gradient.sign(), alpha=step_size)",
        "points.add(gradient.sign(), alpha=-step_size)",
    ),
    (
        "attacks: L-inf steps along the gradient itself",
        "points.add(gradient.sign(), alpha=step_size)",
        "points.add(gradient, alpha=step_size)",
    ),
    (
        "attacks: L2 steps of any length",
        "direction = scaled / lengths(scaled).clamp_min(SMALLEST_NORM)",
        "direction = scaled",
    ),
    (
        "attacks: L2 points pushed out to the sphere",
        "lengths(delta).clamp_min(SMALLEST_NORM)).clamp_max(1.0)",
        "lengths(delta).clamp_min(SMALLEST_NORM))",
    ),
    (
        "attacks: lengths of channels, not of images",
        "torch.linalg.vector_norm(delta.flatten(1), dim=1)",
        "torch.linalg.vector_norm(delta.flatten(2), dim=2).amax(dim=1)",
    ),
    (
        "attacks: pixels below zero",
        "(center - threat.epsilon).clamp_min(0.0)",
        "(center - threat.epsilon)",
    ),
    (
        "attacks: L2 pixels outside of [0, 1]",
        "(self.center + delta * shrink).clamp_(0.0, 1.0)",
        "(self.center + delta * shrink)",
    ),
    (
        "attacks: a wider normal start",
        "GAUSSIAN_START_SCALE = 0.001",
        "GAUSSIAN_START_SCALE = 0.01",
    ),
    (
        "attacks: L2 starts on the sphere alone",
        "length = share * ball.threat.epsilon",
        "length = ball.threat.epsilon",
    ),
    (
        "attacks: the worst point by its loss alone",
        "worse = (fooled & ~self._fooled) | ((fooled == self._fooled) & (losses > self._losses))",
        "worse = losses > self._losses",
    ),
    (
        "attacks: the worst point is the first of its loss, whatever it is",
        "(losses > self._losses))",
        "(losses < self._losses))",
    ),
    (
        "attacks: the last point is not looked at",
        "worst.update(point, *score(point))",
        "pass",
    ),
    (
        "attacks: a step too few",
        "for _ in range(num_steps): logits, losses",
        "for _ in range(num_steps - 1):\n        logits, losses",
    ),
    (
        "attacks: one restart, whatever is asked",
        "for _ in range(num_restarts):",
        "for _ in range(1):",
    ),
    (
        "attacks: right answers count as fooled",
        "fooled = logits.argmax(dim=1) != self._labels",
        "fooled = logits.argmax(dim=1) == self._labels",
    ),
    (
        "attacks: batch normalization in the other mode",
        'training=mode == "train"',
        'training=mode == "eval"',
    ),
    (
        "attacks: count in the running statistics",
        'with _training_flag(model, training=mode == "train"), untracked_statistics(model):',
        'with _training_flag(model, training=mode == "train"):',
    ),
)

WEIGHTS = _faults(
    "core/test_core_weight_perturbation.py core/test_core_golden.py"
    " core/test_core_left_as_found.py core/test_core_properties.py core/test_core_gradients.py",
    (
        "weights: v is not subtracted",
        "_add(weights, values, sign=-1)",
        "_add(weights, values, sign=0)",
    ),
    (
        "weights: v is subtracted at first",
        "_add(weights, values, sign=1)",
        "_add(weights, values, sign=-1)",
    ),
    (
        "weights: scales of batch normalization are perturbed",
        'if parameter.ndim > 1 and "weight" in name',
        'if parameter.ndim > 0 and "weight" in name',
    ),
    (
        "weights: offsets add up",
        "torch._foreach_add(originals, list(offset))",
        "torch._foreach_add(weights, list(offset))",
    ),
    (
        "mask: inverted",
        "below = losses < _given(perturbation.c_min)",
        "below = losses >= _given(perturbation.c_min)",
    ),
    (
        "mask: not strict",
        "below = losses < _given(perturbation.c_min)",
        "below = losses <= _given(perturbation.c_min)",
    ),
    (
        "mask: a range without its lower edge",
        "(losses >= _given(perturbation.c_min)) &",
        "(losses > _given(perturbation.c_min)) &",
    ),
    (
        "mask: a range with its upper edge",
        "(losses < _given(perturbation.c_max))",
        "(losses <= _given(perturbation.c_max))",
    ),
    (
        "mask: above is strict",
        "return losses >= _given(perturbation.c_min)",
        "return losses > _given(perturbation.c_min)",
    ),
    (
        "mask: one example more at random",
        "< group.total(below.sum())",
        "<= group.total(below.sum())",
    ),
    (
        "perturbation: AWP scaled over the model",
        'num_weight_steps=1, norm_scope="layer", mask="all"',
        'num_weight_steps=1, norm_scope="model", mask="all"',
    ),
    (
        "perturbation: RWP scaled per layer",
        'norm_scope="model", mask="below"',
        'norm_scope="layer", mask="below"',
    ),
)

OBJECTIVES = _faults(
    "core/test_core_losses.py core/test_core_golden.py core/test_core_left_as_found.py"
    " core/test_core_weight_perturbation.py core/test_core_attacks.py core/test_core_errors.py"
    " core/test_core_properties.py",
    (
        "objectives: AT on clean images",
        "logits = forward(model, adversarial) return example_losses",
        "logits = forward(model, images)\n        return example_losses",
    ),
    (
        "objectives: TRADES counts the clean batch once",
        "with repeated_statistics(model, self.clean_updates):",
        "with repeated_statistics(model, 1):",
    ),
    (
        "objectives: two counts as one of twice the momentum",
        "1.0 - (1.0 - momentum) ** times",
        "momentum * times",
    ),
    (
        "objectives: the mask looks at the other loss",
        'if criterion == "objective":',
        'if criterion != "objective":',
    ),
    (
        "objectives: TRADES starts its attack uniformly",
        'settings.clean_updates or 2, settings.random_start or "gaussian"',
        'settings.clean_updates or 2,\n        settings.random_start or "uniform"',
    ),
    (
        "objectives: MART starts its attack uniformly",
        'float(settings.beta or 0.0), settings.criterion, settings.random_start or "gaussian"',
        'float(settings.beta or 0.0), settings.criterion, settings.random_start or "uniform"',
    ),
)

LANDSCAPE = _faults(
    "core",
    (
        "landscape: directions scaled per tensor",
        "torch.linalg.vector_norm(kernel.flatten(1), dim=1) return norms.view("
        "-1, *(1,) * (kernel.ndim - 1))",
        "torch.linalg.vector_norm(kernel)\n    return norms",
    ),
    (
        "landscape: in the mode it was found in",
        "with evaluation_mode(model), borrowed_weights(weights) as move:",
        "with borrowed_weights(weights) as move:",
    ),
    (
        "landscape: a group's mean over all examples",
        "(losses @ members) / members.sum(dim=0)",
        "(losses @ members) / len(losses)",
    ),
    (
        "landscape: one side mirrored",
        "move([step * scale for step in steps])",
        "move([step * abs(scale) for step in steps])",
    ),
    (
        "loss groups: closed above",
        "torch.bucketize(losses, boundaries, right=True)",
        "torch.bucketize(losses, boundaries, right=False)",
    ),
    (
        "loss groups: removal is strict",
        "(losses >= threshold)",
        "(losses > threshold)",
    ),
    (
        "models: divided before the mean is taken off",
        "(images - self.mean) / self.std",
        "images / self.std - self.mean",
    ),
    (
        "models: the shortcut sees the input before its activation",
        "shortcut = inputs if self.shortcut is None else self.shortcut(activated) hidden =",
        "shortcut = inputs if self.shortcut is None else self.shortcut(inputs)\n        hidden =",
    ),
    (
        "precision: fp32 rounds to TF32",
        '"ieee" if name == "fp32" else "tf32"',
        '"tf32" if name == "fp32" else "ieee"',
    ),
)

FAULTS = [*LOSSES, *ATTACKS, *WEIGHTS, *OBJECTIVES, *LANDSCAPE]
