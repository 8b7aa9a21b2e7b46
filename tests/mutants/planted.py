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


# By the first words of a fault's name: the tests that are closest to it, which run first.
_CLOSEST = {
    "processes": "training/test_distributed.py",
    "shares": "training/test_several_processes.py",
    "seeds": "training/test_by_hand.py",
    "batches": "data/test_sampling.py",
    "splits": "data/test_splits.py",
    "parts": "data/test_parts.py",
    "augmentation": "data/test_augmentation.py",
    "pseudo-labels": "data/test_pseudo_labels.py training/test_pseudo_label_files.py",
    "evaluation": "evaluation/test_attacks.py",
    "landscapes": "training/test_landscape_by_hand.py",
    "further attacks": "evaluation/test_diagnostics.py",
    "drafts": "evaluation/test_draft.py",
    "records": "evaluation/test_records.py",
    "AutoAttack": "evaluation/test_autoattack.py",
    "published curves": "reporting/test_published_curves.py",
    "family": "core/test_core_family.py",
    "steps": "training/test_family.py",
    "starts": "training/test_start.py",
    "draws": "data/test_drawn.py training/test_selection.py",
    "emulated GPU": "training/test_emulated_gpu.py",
    "costs": "reporting/test_plan.py",
    "claims": "reporting/test_claims.py",
    "tables": "reporting/test_tables.py",
    "p-values": "evaluation/test_statistics.py",
    "figures": "reporting/test_figures.py reporting/test_claims.py",
    "radii": "commands/test_foreign.py",
    "L1": "evaluation/test_l1.py",
    "gathered": "reporting/test_gathered.py",
    "rates": "reporting/test_plan.py",
    "verdicts": "evaluation/test_diagnostics.py",
    "twins": "pipeline/test_chain.py",
    "beyond": "pipeline/test_chain.py",
    "teachers": "training/test_pseudo_label_files.py",
    "paper": "reporting/test_paper.py",
    "guards": "training/test_training.py",
    "streams": "evaluation/test_identity.py",
    "stale": "reporting/test_stale.py",
    "accept": "reporting/test_stale.py",
    "short types": "core/test_core_weight_perturbation.py",
    "jobs": "evaluation/test_jobs.py",
    "chance": "evaluation/test_diagnostics.py evaluation/test_external.py evaluation/test_api.py",
    "limits": "test_docs.py",
    "levels": "reporting/test_verdicts.py",
    "report": "reporting/test_report.py",
    "against": "reporting/test_against.py",
    "again": "reporting/test_attack_again.py",
}


def _faults(tests: str, *faults: tuple[str, str, str]) -> list[Fault]:
    found = []
    for name, old, new in faults:
        closest = _CLOSEST.get(name.partition(":")[0], "")
        found.append(Fault(name, old, new, tuple(dict.fromkeys(f"{closest} {tests}".split()))))
    return found


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
        "smoothed = cross_entropy(clean_logits, labels, label_smoothing",
        "smoothed = cross_entropy(adversarial_logits, labels, label_smoothing",
    ),
    (
        "losses: TRADES without beta",
        "return smoothed + beta * divergence",
        "return smoothed + divergence",
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
        "losses: the authors' CW is not capped",
        "fill=0.0).amax(dim=1) return (wrong - _of_label(logits, labels)).clamp(max=kappa)",
        "fill=0.0).amax(dim=1)\n    return wrong - _of_label(logits, labels)",
    ),
    (
        "losses: taken in bf16",
        "return logits.float() if",
        "return logits if",
    ),
)

ATTACKS = _faults(
    "core/test_core_starts.py core/test_core_worst.py core/test_core_attacks.py"
    " core/test_core_properties.py core/test_core_golden.py core/test_core_left_as_found.py"
    " core/test_core_benchmarks.py",
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
        "loss=partial(margin_loss, kappa=kappa)",
        "loss=partial(zero_masked_margin_loss, kappa=kappa)",
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
        "attacks: rounding throws points out at small radii",
        "largest = self.threat.epsilon * (1 + 1e-5) + slack",
        "largest = self.threat.epsilon * (1 + 1e-5)",
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
        'model.train(mode != "eval")',
        'model.train(mode == "eval")',
    ),
    (
        "attacks: count in the running statistics",
        "with own_modes(model), alone:",
        "with own_modes(model):",
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
        'if parameter.ndim > 1 and "weight" in name and id(parameter) not in norms',
        'if "weight" in name',
    ),
    (
        "weights: offsets add up",
        "torch._foreach_add(originals, list(offset))",
        "torch._foreach_add(weights, list(offset))",
    ),
    (
        "mask: inverted",
        "below = losses < c_min",
        "below = losses >= c_min",
    ),
    (
        "mask: not strict",
        "below = losses < c_min",
        "below = losses <= c_min",
    ),
    (
        "mask: a range without its lower edge",
        "(losses >= c_min) &",
        "(losses > c_min) &",
    ),
    (
        "mask: a range with its upper edge",
        "(losses < c_max)",
        "(losses <= c_max)",
    ),
    (
        "mask: above is strict",
        "return losses >= c_min",
        "return losses > c_min",
    ),
    (
        "mask: one example more at random",
        "< group.total(chosen.sum())",
        "<= group.total(chosen.sum())",
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
    "core/test_core_worst.py core/test_core_losses.py core/test_core_golden.py"
    " core/test_core_left_as_found.py core/test_core_weight_perturbation.py"
    " core/test_core_attacks.py core/test_core_errors.py"
    " core/test_core_properties.py",
    (
        "objectives: AT on clean images",
        "logits = forward(model, adversarial) objective = cross_entropy(",
        "logits = forward(model, images)\n        objective = cross_entropy(",
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
        "noise * (lengths(weight.detach()) / lengths(noise))",
        "noise * (weight.detach().norm() / noise.norm())",
    ),
    (
        "landscape: in the mode it was found in",
        "with evaluation_mode(model), borrowed_weights(weights) as move:",
        "with borrowed_weights(weights) as move:",
    ),
    (
        "landscape: a group's mean over all examples",
        "(torch.where(finite, losses, 0.0) @ members) / members.sum(dim=0)",
        "(torch.where(finite, losses, 0.0) @ members) / len(losses)",
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
        '"tf32" if name != "fp32" and',
        '"tf32" if name == "fp32" and',
    ),
    (
        "models: a wide block's shortcut sees the input before its activation",
        "self.convShortcut(activated)",
        "self.convShortcut(inputs)",
    ),
    (
        "models: wide kernels start at another size",
        'mode="fan_out", nonlinearity="relu"',
        'mode="fan_in", nonlinearity="relu"',
    ),
)

SCHEDULES = _faults(
    "training/test_training.py training/test_by_hand.py",
    (
        "schedule: the cosine an epoch early",
        "math.cos(math.pi * epoch / spec.epochs)",
        "math.cos(math.pi * (epoch + 1) / spec.epochs)",
    ),
    (
        "schedule: AT's drop a step late",
        "epoch + (step + 1) / num_steps if by_step",
        "epoch + step / num_steps if by_step",
    ),
    (
        "schedule: TRADES' drop an epoch late",
        "if by_step else epoch + 1",
        "if by_step else epoch",
    ),
    (
        "schedule: a drop after its milestone",
        "time >= milestone",
        "time > milestone",
    ),
    (
        "schedule: rates fall by another rule",
        "spec.decay_factor**drops",
        "spec.decay_factor / max(drops, 1)",
    ),
    (
        "guards: a point above any share, also above 0.99",
        "majority_share + min(_LEFT, others / 10, majority_share / 10)",
        "majority_share + _LEFT",
    ),
    (
        "guards: what was measured before is forgotten",
        "return max(lately or before[-1:])",
        "return max(lately or [0.0])",
    ),
    (
        "guards: one good epoch is not enough",
        'robust = max(entry["train_robust_accuracy"]',
        'robust = min(entry["train_robust_accuracy"]',
    ),
)

TRAINING = _faults(
    "training/test_arithmetic.py training/test_by_hand.py training/test_training.py"
    " training/test_variants.py",
    (
        "measure: images without a gradient are not counted",
        "counts[2] += (robust & (seen.not_finite | seen.zero))[fresh].sum()",
        "counts[2] += 0",
    ),
    (
        "training: the warm-up an epoch too long",
        "self.progress.epoch < settings.warmup_epochs",
        "self.progress.epoch <= settings.warmup_epochs",
    ),
    (
        "training: the sum of the losses",
        "batch.weights, kept).mean()",
        "batch.weights, kept).sum()",
    ),
    (
        "training: removed examples leave the divisor",
        "batch.weights, kept).mean()",
        "batch.weights, kept).sum() / (len(batch.labels) if kept is None else kept.sum())",
    ),
    (
        "training: weights of pseudo-labels in the outer loss alone",
        "objective=_weighted(found.objective, batch.weights)",
        "objective=found.objective",
    ),
    (
        "training: no momentum",
        "momentum=settings.momentum,",
        "momentum=0.0,",
    ),
    (
        "training: no weight decay",
        "weight_decay=settings.weight_decay,",
        "weight_decay=0.0,",
    ),
    (
        "training: Nesterov's momentum left out",
        "nesterov=settings.nesterov,",
        "nesterov=False,",
    ),
    (
        "training: the step is taken at w",
        "with shifted_weights(self.runner, offset):",
        "with shifted_weights(self.runner, {}):",
    ),
    (
        "training: gradients add up over the steps",
        "self.optimizer.zero_grad(set_to_none=True)",
        "pass",
    ),
    (
        "training: the best of equals is the later one",
        "row[key] > chosen[name][key]",
        "row[key] >= chosen[name][key]",
    ),
    (
        "training: best is the worst",
        "row[key] > chosen[name][key]",
        "row[key] < chosen[name][key]",
    ),
    (
        "training: best is chosen by clean accuracy",
        'accuracy = "clean_accuracy" if spec.monitor is None else "robust_accuracy"',
        'accuracy = "clean_accuracy"',
    ),
    (
        "training: best is chosen on the test split",
        'keys = {"best": f"{spec.selection}_{accuracy}"}',
        'keys = {"best": f"test_{accuracy}"}',
    ),
    (
        "training: best is a copy of last",
        "copy_file(sources.get(name, files.last), target)",
        "copy_file(files.last, target)",
    ),
    (
        "training: kept checkpoints an epoch late",
        'done = row["epoch"] + 1 return',
        'done = row["epoch"]\n    return',
    ),
    (
        "training: the same draws in each epoch",
        "where = (purpose, self.progress.epoch, self.progress.step)",
        "where = (purpose, self.progress.step)",
    ),
    (
        "training: the same draws in each step",
        "where = (purpose, self.progress.epoch, self.progress.step)",
        "where = (purpose, self.progress.epoch)",
    ),
    (
        "training: attacked in eval mode, whatever is asked",
        "bn_mode=attack.bn_mode,",
        'bn_mode="eval",',
    ),
    (
        "training: trained on the held-out images too",
        "labeled = labeled.select(kept)",
        "pass",
    ),
    (
        "training: logits that the next pass of a graph overwrites",
        "return cast(Tensor, self.network(images)).clone()",
        "return cast(Tensor, self.network(images))",
    ),
    (
        "training: the same start for all seeds",
        'torch.manual_seed(derived_seed(spec.key.seed, "init"))',
        'torch.manual_seed(derived_seed(0, "init"))',
    ),
    (
        "training: pseudo-labels of the labeled images",
        "torch.cat([labeled, pseudo + self.num_labeled])",
        "torch.cat([labeled, pseudo])",
    ),
    (
        "training: lambda weighs the labeled images",
        "weights[len(labeled) :] = self.mix.weight",
        "weights[: len(labeled)] = self.mix.weight",
    ),
    (
        "measure: robust among the clean",
        'shares["robust_accuracy"] = robust_count / len(split)',
        'shares["robust_accuracy"] = robust_count / max(clean, 1)',
    ),
    (
        "measure: clean answers count as robust",
        "robust = _correct(model, adversarial, labels)",
        "robust = _correct(model, images, labels)",
    ),
    (
        "tally: counts the objective below c_min",
        'sums["below"] += (outer.criterion.detach() < c_min).sum()',
        'sums["below"] += (outer.objective.detach() < c_min).sum()',
    ),
    (
        "tally: kept instead of removed",
        'sums["removed"] += len(kept) - kept.sum()',
        'sums["removed"] += kept.sum()',
    ),
    (
        "tally: means over steps, not images",
        '"train_loss": sums["loss"] / images',
        '"train_loss": sums["loss"] / max(sums["perturbed"], 1.0)',
    ),
)

RESUME = _faults(
    "training/test_resume.py training/test_distributed.py",
    (
        "resume: without the momentum",
        'self.optimizer.load_state_dict(state["optimizer"])',
        "pass",
    ),
    (
        "resume: without what an objective remembers",
        "self.memories[name].load(stored, self.device)",
        "pass",
    ),
    (
        "resume: without the epoch's sums",
        'self.tally.load(state["tally"])',
        "pass",
    ),
    (
        "processes: each weighs its own share",
        "(loss * share).backward()",
        "loss.backward()",
    ),
    (
        "processes: the variance within the shares alone",
        "(squares + counts * (means - mean).square()).sum(0) / count",
        "squares.sum(0) / count",
    ),
    (
        "resume: the loss is looked at where it is saved alone",
        "if wish != _GO_ON or now - self.looked_at > LOOK_SECONDS:",
        "if wish != _GO_ON:",
    ),
    (
        "draws: the measured part of the test split differs by seed",
        "seed=CURVE_SEED, source=inputs",
        "seed=spec.key.seed, source=inputs",
    ),
    (
        "resume: without the moving average",
        'self.average.load_state_dict(state["average"])',
        "pass",
    ),
    (
        "shares: only the first batches are measured",
        "if index % group.size != group.rank:",
        "if index != group.rank:",
    ),
    (
        "shares: without the weights of pseudo-labels",
        "None if self.weights is None else group.part(self.weights)",
        "None",
    ),
    (
        "shares: each image's losses in the first process alone",
        "return {name: self.group.total(values) for name, values in self.now.items()}",
        "return dict(self.now)",
    ),
    (
        "shares: removed at random by each process for itself",
        "as_many_at_random(kept == 0, generator=generator, group=self.group)",
        "as_many_at_random(kept == 0, generator=generator)",
    ),
)

DATA = _faults(
    "data training/test_by_hand.py",
    (
        "seeds: one for all",
        '"/".join([str(seed), *map(str, purpose)])',
        '"/".join(map(str, purpose))',
    ),
    (
        "batches: one order for all epochs",
        'generator_for(seed, "batches", epoch)',
        'generator_for(seed, "batches")',
    ),
    (
        "batches: shares of labeled and unlabeled swapped",
        "round(batch_size * unlabeled_fraction)",
        "round(batch_size * (1 - unlabeled_fraction))",
    ),
    (
        "splits: the first of each class",
        "taken.append(members[order[:quota]])",
        "taken.append(members[:quota])",
    ),
    (
        "splits: kept and taken swapped",
        "return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()",
        "return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()",
    ),
    (
        "parts: not stratified",
        "stratified_order(images.labels, seed)[:size]",
        "torch.randperm(of, generator=generator_for(seed, 'part'))[:size]",
    ),
    (
        "parts: the first of each class",
        'torch.randperm(len(members), generator=generator_for(seed, "part", label))',
        "torch.arange(len(members))",
    ),
    (
        "augmentation: nothing is mirrored",
        "flips = torch.randint(2, (batch,)",
        "flips = torch.randint(1, (batch,)",
    ),
    (
        "augmentation: rotations to one side",
        "(2 * unit - 1) * math.radians",
        "unit * math.radians",
    ),
    (
        "augmentation: crops from one corner",
        "corners = torch.randint(2 * padding + 1,",
        "corners = torch.randint(padding + 1,",
    ),
    (
        "pseudo-labels: labeled in train mode",
        "with evaluation_mode(model), exact:",
        "with exact:",
    ),
    (
        "pseudo-labels: the least confident are kept",
        "confidences[members].argsort(descending=True, stable=True)",
        "confidences[members].argsort(descending=False, stable=True)",
    ),
    (
        "pseudo-labels: of other images",
        "labels.append(label.cpu())",
        "labels.append(label.cpu().flip(0))",
    ),
    (
        "pseudo-labels: agreement over all images",
        "(labels == shipped)[known].sum()",
        "(labels != shipped)[known].sum()",
    ),
    (
        "pseudo-labels: those that were not kept are trained on",
        'return found.select(content["kept"])',
        "return found",
    ),
    (
        "pseudo-labels: of the teacher's best network",
        'load_network(root / spec.teacher.directory / "last.pt", device=device)',
        'load_network(root / spec.teacher.directory / "best.pt", device=device)',
    ),
    (
        "pseudo-labels: the summary counts all, kept or not",
        "torch.bincount(labels[kept], minlength",
        "torch.bincount(labels, minlength",
    ),
    (
        "pseudo-labels: the summary's confidence of those kept",
        '"mean_confidence": float(confidences.double().mean())',
        '"mean_confidence": float(confidences[kept].double().mean())',
    ),
    (
        "pseudo-labels: the summary's agreement over all images",
        "compared.agreeing / compared.compared if compared.compared",
        "compared.agreeing / len(labels) if compared.compared",
    ),
)

FURTHER = _faults(
    "",
    (
        "landscapes: changes with the wrong sign",
        "round(float(mean[place, group] - mean[0, group]), 6)",
        "round(float(mean[0, group] - mean[place, group]), 6)",
    ),
    (
        "landscapes: one direction, several times",
        'generator_for(spec.seed, "direction", number)',
        'generator_for(spec.seed, "direction")',
    ),
    (
        "landscapes: an attack of one step",
        'num_steps=attack.num_steps or 0, generator=generator_for(spec.seed, "landscape", place)',
        'num_steps=1,\n                generator=generator_for(spec.seed, "landscape", place)',
    ),
    (
        "further attacks: the network lends images to itself",
        "attacked = source or self.model",
        "attacked = self.model",
    ),
    (
        "further attacks: longer is no longer",
        'run.each_seed(partial(pgd, keep="worst"), num_steps=num_steps)',
        'run.each_seed(partial(pgd, keep="worst"))',
    ),
    (
        "further attacks: rescaled logits are not",
        "cross_entropy(scale * logits / spread.unsqueeze(1), labels)",
        "cross_entropy(logits, labels)",
    ),
    (
        "further attacks: the weaker of two scales",
        "tuple(map(min, *map(_shares, rescaled)))",
        "tuple(map(max, *map(_shares, rescaled)))",
    ),
    (
        "further attacks: steps that do not grow with the radius",
        "step = self.attack.step * size / radius",
        "step = self.attack.step",
    ),
    (
        "further attacks: one start for all seeds",
        'generator_for(self.seed, "follow-up", restart, place)',
        'generator_for(self.seed, "follow-up", place)',
    ),
    (
        "drafts: judged in few bits",
        "correct = checked_logits(model, adversarial, labels).argmax(dim=1) == labels robust[start",
        "with searching(attack, device):\n"
        "                    logits = checked_logits(model, adversarial, labels)\n"
        "                    correct = logits.argmax(dim=1) == labels\n"
        "                robust[start",
    ),
    (
        "drafts: AutoAttack's images are judged in few bits",
        "fooled = (checked_logits(problem.model, found, labels).argmax(dim=1) != labels).cpu()",
        "with searching(problem.attack, problem.device):\n"
        "        fooled = (checked_logits(problem.model, found, labels).argmax(1) != labels).cpu()",
    ),
    (
        "evaluation: the largest change of the last batch",
        "largest = max(largest, check_adversarial(adversarial, batch, attack))",
        "largest = check_adversarial(adversarial, batch, attack)",
    ),
)

EVALUATION = _faults(
    "evaluation/test_statistics.py evaluation/test_records.py evaluation/test_attacks.py"
    " evaluation/test_autoattack.py",
    (
        "L1: images leave APGD at a larger radius",
        'leave=own_pace and problem.attack.threat.norm != "l1"',
        "leave=own_pace",
    ),
    (
        "seeds over images: three that agree lend their weight to images",
        "return max(weighted, of_seeds * self.by_seed**0.5 / self.standard_error)",
        "return weighted",
    ),
    (
        "statistics: what could be told, as if the error were known",
        "np.sqrt(stats.chi2.ppf(grid, freedom) / freedom)",
        "np.ones(_GRID)",
    ),
    (
        "statistics: intervals of another level",
        "proportion_ci(confidence, method",
        "proportion_ci(1 - (1 - confidence) / 2, method",
    ),
    (
        "statistics: McNemar one-sided",
        "stats.binomtest(only_first, discordant).pvalue",
        'stats.binomtest(only_first, discordant, alternative="greater").pvalue',
    ),
    (
        "statistics: McNemar over all images",
        "discordant = only_first + only_second",
        "discordant = len(first)",
    ),
    (
        "statistics: percentiles of one tail",
        "tail = (1 - confidence) / 2",
        "tail = 1 - confidence",
    ),
    (
        "statistics: images drawn apart for both networks",
        "low, high = np.quantile(ours - theirs,",
        "low, high = np.quantile(ours - np.flip(theirs),",
    ),
    (
        "statistics: seeds without their spread",
        "(self.by_seed + self.by_image) ** 0.5",
        "self.by_image**0.5",
    ),
    (
        "statistics: images without their spread",
        "(self.by_seed + self.by_image) ** 0.5",
        "self.by_seed**0.5",
    ),
    (
        "statistics: seeds' variance over n",
        "values.mean(axis=1).var(ddof=1)",
        "values.mean(axis=1).var(ddof=0)",
    ),
    (
        "statistics: the normal law instead of Student's",
        "map(float, stats.t.isf(tail, self.degrees_of_freedom))",
        "2 * [float(stats.norm.isf(tail))]",
    ),
    (
        "statistics: Student's test one-sided",
        "map(float, 2 * stats.t.sf(",
        "map(float, stats.t.sf(",
    ),
    (
        "statistics: the sign of a difference",
        "np.stack(first).astype(float) - np.stack(second)",
        "np.stack(second).astype(float) - np.stack(first)",
    ),
    (
        "records: right under any attack",
        "np.logical_and.reduce([robust_flags(record)",
        "np.logical_or.reduce([robust_flags(record)",
    ),
    (
        "records: robust among the clean",
        "return self.num_robust / self.num_examples",
        "return self.num_robust / self.num_clean_correct",
    ),
    (
        "evaluation: robust though wrong at first",
        "robust & clean, largest",
        "robust, largest",
    ),
    (
        "evaluation: the same start for each batch",
        'generator_for(seed, "evaluation", attack.name, index)',
        'generator_for(seed, "evaluation", attack.name)',
    ),
    (
        "evaluation: the last of several restarts",
        '"keep": attack.keep if attack.num_restarts == 1 else "worst"',
        '"keep": attack.keep',
    ),
    (
        "evaluation: one restart, whatever is asked",
        '"num_restarts": attack.num_restarts,',
        '"num_restarts": 1,',
    ),
    (
        "evaluation: both CW attacks are one",
        'margin_attack = cw if attack.kind == "cw" else cw_zero_masked',
        "margin_attack = cw",
    ),
    (
        "evaluation: L2 measured as L-inf",
        '"l2": 2, "l1": 1}[norm]',
        '"l2": torch.inf, "l1": 1}[norm]',
    ),
    (
        "AutoAttack: an attack that fails takes back the others",
        "for outcome in outcomes: self.robust[outcome.fooled] = False",
        "self.robust[[*self.adversarial]] = True\n        for outcome in outcomes:"
        " self.robust[outcome.fooled] = False",
    ),
    (
        "AutoAttack: fooled where it is right",
        "argmax(dim=1) != labels).cpu()",
        "argmax(dim=1) == labels).cpu()",
    ),
    (
        "AutoAttack: counts before the attack",
        "self.parts[name] = int(self.robust.sum())",
        "self.parts[name] = len(self.robust)",
    ),
)

REPORTING = _faults(
    "reporting/test_pairs.py reporting/test_tables.py reporting/test_summaries.py"
    " reporting/test_paper.py reporting/test_published_curves.py",
    (
        "gathered: records that other code made",
        'return "" if row["status"] in (OK, *FAILED) else str(row["reason"])',
        'return ""',
    ),
    (
        "claims: what could be told by the claim's own place",
        "left = max(1, num_tests - int((corrected <= LEVEL).sum()))",
        "left = 1",
    ),
    (
        "Holm: without an order",
        "ordered = p_values.dropna().sort_values()",
        "ordered = p_values.dropna()",
    ),
    (
        "Holm: falling instead of rising",
        "np.arange(planned, planned - len(ordered), -1.0)",
        "np.arange(1.0, len(ordered) + 1)",
    ),
    (
        "Holm: Bonferroni's factor for all",
        "np.arange(planned, planned - len(ordered), -1.0)",
        "np.full(len(ordered), float(planned))",
    ),
    (
        "Holm: corrected values that fall",
        "(ordered * factors).cummax()",
        "(ordered * factors)",
    ),
    (
        "pairs: the worse is better",
        'better = row[name if row["difference"] > 0 else "against"]',
        'better = row[name if row["difference"] < 0 else "against"]',
    ),
    (
        "pairs: uncorrected findings",
        'if row["p_holm"] > LEVEL:\n        return CHANCE\n    for one',
        'if row["p_value"] > LEVEL:\n        return CHANCE\n    for one',
    ),
    (
        "pairs: defense and against swapped",
        "crossed_difference(first, second)",
        "crossed_difference(second, first)",
    ),
    (
        "results: the last six epochs are five",
        "tail = percent[-LAST_EPOCHS:]",
        "tail = percent[-LAST_EPOCHS - 1 : -1]",
    ),
    (
        "results: best and last swapped",
        "best, last = percent[self.best_epoch], percent[-1]",
        "last, best = percent[self.best_epoch], percent[-1]",
    ),
    (
        "results: best of the test split",
        "best, last = percent[self.best_epoch], percent[-1]",
        "best, last = max(percent), percent[-1]",
    ),
    (
        "results: the gap has the wrong sign",
        '"robust_overfitting_gap": best - last,',
        '"robust_overfitting_gap": last - best,',
    ),
    (
        "published curves: a band of one standard error",
        "error = 2 * (looks * published * (1 - published) / num_examples) ** 0.5",
        "error = (looks * published * (1 - published) / num_examples) ** 0.5",
    ),
)

FAMILY = _faults(
    "",
    (
        "family: of equal losses at a quantile none",
        "return torch.where(above == below, next_above, above)",
        "return above",
    ),
    (
        "family: a quantile rounded up over rounding",
        "math.ceil(round(quantile * count, 9))",
        "math.ceil(quantile * count)",
    ),
    (
        "family: a quantile of each step's own losses",
        "generator, group, bounds)  # V",
        "generator, group)  # V",
    ),
    (
        "family: a given start off the ball is projected",
        'return given.detach().clamp(0.0, 1.0) if kind == "off_ball" else ball.project(',
        "return ball.project(",
    ),
    (
        "emulated GPU: noise where no example is under the mask",
        "[normal_like(weight, generator) * anything.to(weight.device) for weight in weights]",
        "[normal_like(weight, generator) for weight in weights]",
    ),
    (
        "costs: a landscape of one direction",
        "Passes(spec.num_directions * (spec.num_points + 1))",
        "Passes(spec.num_points + 1)",
    ),
    (
        "figures: rises of the loss are summed",
        "sum(rises) / len(rises) if rises else None",
        "sum(rises) if rises else None",
    ),
    (
        "family: layers without the last one",
        "return range(first, last + 1)",
        "return range(first, max(last, first + 1))",
    ),
    (
        "family: the strength along the depth turned over",
        "position = layer * (len(profile) - 1)",
        "position = (num_layers - 1 - layer) * (len(profile) - 1)",
    ),
    (
        "steps: below c_min of the losses that are not compared",
        'if settings is None or settings.climbs == "objective":',
        "if True:",
    ),
    (
        "steps: clean losses that nobody knows are counted",
        'if compares and settings.climbs == "clean_ce" and self.spec.attack is not None:',
        "if False:",
    ),
    (
        "starts: losses of images that came twice are summed",
        "(found[name] / looks).half()",
        "torch.where(looks > 0, found[name], torch.nan).half()",
    ),
    (
        "starts: right in any of several steps",
        "(found[name] == looks) & (looks > 0)",
        "found[name] > 0",
    ),
    (
        "starts: with the parent's settings of the optimizer",
        "group.update(settings)",
        "group.update({})",
    ),
    (
        "draws: the same images for all seeds",
        'generator_for(seed, "per_class", label)',
        'generator_for(0, "per_class", label)',
    ),
    (
        "claims: outside of both ends by the farther one",
        "return side, max(found.p_value(end) for end in ends)",
        "return side, (max if side == HOLDS else min)(found.p_value(end) for end in ends)",
    ),
    (
        "claims: above means below",
        "return claim.above, estimate > claim.above",
        "return claim.above, estimate < claim.above",
    ),
    (
        "claims: those whose runs are missing are no tests",
        "holm(p_values[~premise], num_tests)",
        "holm(p_values[~premise])",
    ),
    (
        "claims: what could be told without a correction",
        'confidence=1 - LEVEL / (row.get("sums", 1) * factor)',
        "confidence=1 - LEVEL",
    ),
    (
        "claims: uncorrected",
        'if row["p_holm"] <= LEVEL else NOT_TOLD',
        'if row["p_value"] <= LEVEL else NOT_TOLD',
    ),
    (
        "p-values: of the nearer part alone",
        "if spare(high) >= 0: # but for rounding: seeds alone count return float(np.exp(high))",
        "if spare(high) >= 0: return float(np.exp(low))",
    ),
    (
        "figures: a level of some of the seeds",
        '.transform("nunique") == len(seeds)]',
        '.transform("nunique") >= 1]',
    ),
    (
        "rates: trainings in 16 bits count as those in 32",
        "place=Place(device, key.network, size.image, spec.optimization.precision),",
        "place=Place(device, key.network, size.image),",
    ),
    (
        "tables: of fewer images than asked for",
        "if spec.num_asked(spec.attacks[0]) is None and now.count != record.num_examples:",
        "if False:",
    ),
    (
        "figures: a landscape with rows twice",
        "if measured.duplicated(_WHERE).any():",
        "if False:",
    ),
    (
        "claims: records of another network",
        "_leave_out_other_files(rows, run, file)",
        "",
    ),
    (
        "claims: a landscape of unknown settings",
        'return f"of unknown settings, without {step.outputs[1]}"',
        'return ""',
    ),
    (
        "radii: one step size for all",
        "share = radius_fraction(attack.step_size) / radius_fraction(attack.threat.epsilon)",
        "share = Fraction(attack.step_size) / Fraction(epsilon)",
    ),
    (
        "verdicts: the mildest of all reasons",
        "low, high = (max((_SURE.index(end[i]) for end in ends), default=0)",
        "low, high = (min((_SURE.index(end[i]) for end in ends), default=0)",
    ),
    (
        "verdicts: a gap without its noise",
        "low = _graded(gap - _SURELY * error, band.green, red)",
        "low = _graded(gap, band.green, red)",
    ),
    (
        "verdicts: weak only below chance",
        "if _lowest(share, count, _SURELY) > floor:",
        "if share > floor:",
    ),
    (
        "verdicts: PGD of most steps stands for PGD-20",
        "return abs(steps - 20), steps",
        "return -steps, steps",
    ),
    (
        "verdicts: blind images that fell count",
        "found.blind_zero / count, count, _FEW_BLIND",
        "found.zero / count, count, _FEW_BLIND",
    ),
)

# Of two features that meet.
PAIRS = _faults(
    "",
    (
        "twins: a variant of AT is AT",
        "return (recipe.start, change, smoothing, recipe.average_decay, recipe.attack_num_steps)",
        "return (None, Change(), 0.0, None, None)",
    ),
    (
        "beyond: the last row of a training counts",
        "longest[row.keys[0]] = max(known, row, key=lambda row: len(row.keys))",
        "longest[row.keys[0]] = row",
    ),
    (
        "radii: a run is attacked as any network is",
        'network=self.network or self.arch or "external"',
        'network=self.arch or "external"',
    ),
    (
        "teachers: one that failed labels",
        'if status != "finished": raise UserError( f"{teacher}',
        'if False:\n        raise UserError(\n            f"{teacher}',
    ),
    (
        "claims: weight steps of the warm-up",
        'rows = [row for row in rows if row["epoch"] >= run.warmup_epochs]',
        "rows = [row for row in rows]",
    ),
    (
        "claims: a landscape of another threat model",
        "if len(set(places)) > 1:",
        "if False:",
    ),
    (
        "claims: one that cannot be trained is no test",
        'return row | {"outcome": MISSING, "reason": untrainable}',
        'return row | {"outcome": OTHER_SUITE, "reason": untrainable}',
    ),
    (
        "paper: other shares of unlabeled images are the paper's",
        "differing += _unlabeled_difference(mix, other)",
        "pass",
    ),
    (
        "gathered: two versions of own code",
        "if source != first:",
        "if False:",
    ),
    (
        "gathered: own code of today",
        "if of_its_time(root): now, then =",
        "if False:\n        now, then =",
    ),
    (
        "guards: the largest class of the training images",
        "share = max(majority_share, measured_share or 0.0)",
        "share = majority_share",
    ),
    (
        "streams: work on the CPU leaves GPUs alone",
        'in_use = device.type == "cuda" or torch.cuda.is_initialized()',
        'in_use = device.type == "cuda"',
    ),
    (
        "starts: another activation",
        "usual | found | alike == usual | own | alike",
        "True",
    ),
    (
        "figures: groups of a landscape are of all seeds",
        'grouped["seed"].nunique()',
        'grouped["seed"].count() * 0 + part["seed"].nunique()',
    ),
    (
        "stale: by hand a network of another time",
        'if path in read or other.kind in ("train", "label") '
        'if Result(other, path).state(root) == "stale"',
        "if False",
    ),
    (
        "rates: a shortened AutoAttack is as long",
        'if record and (record.attack.version == "lite" or record.attack.draft):',
        "if False:",
    ),
    (
        "accept: layers under other names",
        'if at.endswith("weights") and before.keys() != after.keys():',
        "if False:",
    ),
    (
        "short types: in which a perturbation is a rounding",
        'torch.bfloat16: "a perturbation is no more than a rounding",',
        "",
    ),
)

# Read in the code before any test noticed them: one-line slips of the core and of trainings.
UNNOTICED = [
    *_faults(
        "training/test_variants.py",
        (
            "average: the curve is that of the weights that are trained",
            "self.measured_runner = compiled(self.average.module, how)",
            "self.measured_runner = compiled(self.model, how)",
        ),
        (
            "removal: by the objective instead of the criterion",
            "kept = keep_high_loss(outer.criterion, threshold=threshold)",
            "kept = keep_high_loss(outer.objective, threshold=threshold)",
        ),
        (
            "removal: drawn as the attack's start is",
            'generator = self._generator("removal", self._drawing_device)',
            'generator = self._generator("attack", self._drawing_device)',
        ),
    ),
    *_faults(
        "training/test_distributed.py",
        (
            "several: each process has a quantile of its own",
            "bounds = loss_bounds(batch.criterion, perturbation, group)",
            "bounds = loss_bounds(batch.criterion, perturbation)",
        ),
    ),
    *_faults(
        "training/test_several_processes.py",
        (
            "several: statistics of shares are those of the batch",
            'if spec.optimization.batch_statistics == "batch":',
            "if group.size > 1:",
        ),
        (
            "several: TRADES starts anywhere in the ball",
            "return group.part(random_point(ball, objective.random_start, generator))",
            'return group.part(random_point(ball, "uniform", generator))',
        ),
        (
            "several: statistics of shares are not averaged",
            'if self.spec.optimization.batch_statistics == "share":',
            "if False:",
        ),
    ),
    *_faults(
        "training/test_selection.py",
        (
            "curves: measured by the attack that chooses best",
            "self.spec.monitor_of(name),",
            "self.spec.selection_monitor or self.spec.monitor,",
        ),
    ),
    *_faults(
        "training/test_family.py",
        (
            "recipes: the criterion does not arrive",
            "beta=settings.beta, criterion=settings.criterion,",
            "beta=settings.beta,",
        ),
        (
            "rises: after the perturbation no image has a weight",
            "self._rise(_weighted(outer.objective, batch.weights), perturbed)",
            "self._rise(outer.objective, perturbed)",
        ),
    ),
    *_faults(
        "training/test_start.py",
        (
            "losses.npz: an epoch that goes on has forgotten its first steps",
            "self.now = {name: value.to(self.device) * mine for name, value in "
            'state["now"].items()}',
            "self._begin()",
        ),
    ),
    *_faults(
        "training/test_training.py",
        (
            "majority: pseudo-labeled images count",
            "self.majority_share = max(labeled.class_counts()) / len(labeled)",
            "self.majority_share = max(labeled.class_counts()) / len(self.images)",
        ),
        ("patience: half of a schedule", "PATIENCE_SHARE = 0.4", "PATIENCE_SHARE = 0.5"),
        (
            "histogram: of the criterion",
            "groups = torch.bucketize(losses.float(), self.edges, right=True)",
            "groups = torch.bucketize(outer.criterion.float(), self.edges, right=True)",
        ),
    ),
    *_faults(
        "training/test_pseudo_label_files.py",
        (
            "labeling: every pseudo-label is trained on",
            "min_confidence=self.min_confidence,",
            "min_confidence=None,",
        ),
    ),
    *_faults(
        "core/test_core_attacks.py",
        (
            "objectives: MART is attacked as TRADES is",
            "from rwp.core.attacks import pgd\nfrom rwp.core.losses import mart_loss",
            "from rwp.core.attacks import kl_attack as pgd\nfrom rwp.core.losses import mart_loss",
        ),
    ),
    *_faults(
        "core/test_core_losses.py",
        (
            "objectives: MART's margin has another floor",
            "floor = torch.finfo(wrong.dtype).eps",
            "floor = torch.finfo(wrong.dtype).tiny",
        ),
    ),
    *_faults(
        "core/test_core_models.py",
        (
            "networks: a Wide ResNet forgets its normalization",
            "hidden = self.conv1(self.normalize(images)) "
            "hidden = self.block3(self.block2(self.block1(hidden)))",
            "hidden = self.conv1(images)\n"
            "        hidden = self.block3(self.block2(self.block1(hidden)))",
        ),
        (
            "networks: a Wide ResNet's last activation",
            "F.adaptive_avg_pool2d(self.activate(self.bn1(hidden)), 1)",
            "F.adaptive_avg_pool2d(self.bn1(hidden), 1)",
        ),
    ),
    *_faults(
        "core/test_core_precision.py",
        (
            "autocast: a search sees its first weights in every step",
            "# Autocast keeps low-precision copies of the weights, which are now out of date. "
            "torch.clear_autocast_cache()",
            "",
        ),
    ),
]

# Of numbers that the tests' samples had alike whichever way they were made.
ALIKE = _faults(
    "",
    (
        "verdicts: images that only the other attack leaves are no lead",
        "lead = (more - fewer) / count",
        "lead = more / count",
    ),
    (
        "verdicts: images that only the other attack leaves are no noise",
        "math.sqrt(max((more + fewer) / count - lead**2, 0.0) / count)",
        "math.sqrt(max(more / count - lead**2, 0.0) / count)",
    ),
    (
        "verdicts: Square counts from the lower of its limits",
        "limit = max(_FEWEST, _SQUARE / 100 * record.num_examples)",
        "limit = min(_FEWEST, _SQUARE / 100 * record.num_examples)",
    ),
    (
        "verdicts: a dynamic defense is amber",
        'alarms.DYNAMIC: "red"',
        'alarms.DYNAMIC: "amber"',
    ),
    (
        "verdicts: a softmax that AutoAttack finds is amber",
        'alarms.PROBABILITY: "red"',
        'alarms.PROBABILITY: "amber"',
    ),
    (
        "verdicts: a softmax inside is amber",
        'alarms.PROBABILITIES: "red"',
        'alarms.PROBABILITIES: "amber"',
    ),
    (
        "verdicts: logits all but equal are amber",
        'alarms.FLAT: "red"',
        'alarms.FLAT: "amber"',
    ),
    (
        "limits: a band wider than its evidence",
        'Band( 8.0, 10.5, "MART',
        'Band(\n        9.0, 10.5, "MART',
    ),
    (
        "limits: more points by rescaled logits",
        "_RESCALED, _RESCALED_MUCH = 9.0, 12.0",
        "_RESCALED, _RESCALED_MUCH = 10.0, 12.0",
    ),
    (
        "further attacks: in L2 a radius that covers little is the largest",
        '_LARGEST = {"linf": 0.5, "l2": 5.0}',
        '_LARGEST = {"linf": 0.5, "l2": 0.5}',
    ),
    (
        "chance: of a passport's classes, whatever their shares",
        "return max(counts) / sum(counts)",
        "return 1 / len(counts)",
    ),
    (
        "chance: of the images' classes, whatever their shares",
        "return max(images.class_counts()) / len(images)",
        "return 1 / images.num_classes",
    ),
    (
        "chance: of classes, in the further attacks",
        "chance=max(counts) / len(images)",
        "chance=1 / len(counts)",
    ),
    (
        "chance: of classes, of a network from elsewhere",
        "chance=max(seen.images.class_counts()) / len(seen.images)",
        "chance=1 / seen.images.num_classes",
    ),
    (
        "chance: of classes, by the call from Python",
        "chance=max(data.class_counts()) / len(data)",
        "chance=1 / data.num_classes",
    ),
    (
        "evaluation: one seed for all",
        'generator_for(seed, "evaluation", attack.name, index)',
        'generator_for(0, "evaluation", attack.name, index)',
    ),
    (
        "evaluation: one step from a random start is as long as the radius",
        "threat=threat, step_size=attack.step,",
        "threat=threat,\n            step_size=threat.epsilon,",
    ),
    (
        "jobs: the attacks' seed is not the record's",
        "seed=spec.seed, device=device, state=job.state(state, same[0])",
        "seed=0,\n            device=device,\n            state=job.state(state, same[0])",
    ),
    (
        "landscapes: one network for all seeds",
        "_network(key, root, epoch, device), images",
        "_network(spec.key, root, epoch, device), images",
    ),
    (
        "landscapes: one seed's images for all",
        'seed=key.seed, where=f"datasets.{key.dataset}.per_class"',
        'seed=spec.key.seed,\n        where=f"datasets.{key.dataset}.per_class"',
    ),
    (
        "p-values: every interval over seeds is of 95 %",
        "crossed_mean(differences, confidence=confidence)",
        "crossed_mean(differences)",
    ),
    (
        "levels: the best seed gives the verdict",
        "max(known, key=LEVELS.index)",
        "min(known, key=LEVELS.index)",
    ),
    (
        "levels: no reason is a reason",
        'if reason and not reason.startswith("green")',
        'if not reason.startswith("green")',
    ),
    (
        "paper: an attack of the same kind is the paper's",
        "if attack_settings(ours.attacks[0]) != theirs:",
        'if ours.attacks[0].kind != theirs["kind"]:',
    ),
    (
        "paper: any part of the test images is the paper's",
        'return "" if whole else "another part of the test images"',
        'return ""',
    ),
    (
        "paper: the last epoch of a log alone",
        "curve.tail(LAST_EPOCHS)",
        "curve.tail(1)",
    ),
    (
        "tables: the deviation of these seeds alone",
        "statistics.stdev(known)",
        "statistics.pstdev(known)",
    ),
    (
        "tables: AutoAttack beside PGD on other images",
        "ours, theirs = on_common_images([first, second])",
        "ours, theirs = first, second",
    ),
    (
        "report: the deviation of these seeds alone",
        "deviation = statistics.stdev(row[column] for row in seeds)",
        "deviation = statistics.pstdev(row[column] for row in seeds)",
    ),
    (
        "report: marks by the deviation of these seeds alone",
        "len(values) - 1)) * statistics.stdev(values)",
        "len(values) - 1)) * statistics.pstdev(values)",
    ),
    (
        "report: marks by the deviation of seeds in place of their mean's",
        "half /= math.sqrt(len(values))",
        "half /= 1.0",
    ),
    (
        "against: one random start is a test",
        'SAME_NETWORKS if same else ONE_START if by_start else ""',
        'SAME_NETWORKS if same else ""',
    ),
    (
        "again: the same under attack is the same",
        "for flags in (clean_flags, robust_flags)",
        "for flags in (robust_flags,)",
    ),
    (
        "figures: a landscape's sum over seeds",
        "grouped[columns].mean()",
        "grouped[columns].sum()",
    ),
    (
        "figures: shares removed that are no percent",
        '100 * row["share_removed"]',
        'row["share_removed"]',
    ),
    (
        "claims: a share of seeds beside a half",
        "binomtest(count, len(values), margin / 100)",
        "binomtest(count, len(values))",
    ),
)

# Of commands that are typed, of images on their way, and of what a fingerprint stands on.
BY_HAND = [
    *_faults(
        "data/test_content.py",
        (
            "fetch: a data set fetched by hand does not say what it stands on",
            "params.datasets[name], data, origin=origin, fingerprint=mark)",
            "params.datasets[name], data, origin=origin)",
        ),
        (
            "fetch: unlabeled images fetched by hand do not say what they stand on",
            "params.unlabeled[name], data, origin=origin, fingerprint=mark)",
            "params.unlabeled[name], data, origin=origin)",
        ),
        (
            "fetch: own images behind a link do not count",
            "os.walk(root, followlinks=True): if os.path.realpath(folder)",
            "os.walk(root):\n        if os.path.realpath(folder)",
        ),
        (
            "fetch: a folder whose path is no UTF-8 has no hash",
            "hashlib.sha256(os.fsencode(path.resolve()))",
            "hashlib.sha256(str(path.resolve()).encode())",
        ),
    ),
    *_faults(
        "data/test_fetch.py data/test_fetch_faults.py",
        (
            "fetch: images divided by 255 are a data set",
            "require_shades(data.train, origin or definition.path or name)",
            "pass",
        ),
        (
            "fetch: half-written files keep the passport of those before",
            "passport.unlink(missing_ok=True) # files without a passport are not yet whole "
            "for path, content",
            "for path, content",
        ),
        (
            "fetch: half-written unlabeled images keep the passport of those before",
            "passport.unlink(missing_ok=True) # files without a passport are not yet whole "
            "found.images.save",
            "found.images.save",
        ),
        (
            "fetch: CIFAR-10 under the name of CIFAR-100",
            'datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100',
            'datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR10',
        ),
    ),
    *_faults(
        "data/test_augmentation.py",
        (
            "augmentation: a flip without a crop is none",
            "if padding or policy.flip:",
            "if padding:",
        ),
        (
            "augmentation: a policy of flips alone changes nothing",
            "return not (self.crop_padding or self.flip or self.rotation_degrees)",
            "return not (self.crop_padding or self.rotation_degrees)",
        ),
    ),
    *_faults(
        "data/test_pictures.py",
        ("pictures: a PNG may lack rows", "if found < size:", "if False:"),
        ("pictures: a PNG may lack colors", "if largest >= colors:", "if False:"),
        (
            "pictures: a transparent gray of few bits is opaque",
            "gray * 255 // (2**bits - 1)",
            "gray",
        ),
    ),
    *_faults(
        "core/test_core_worst.py core/test_core_landscape.py core/test_core_labels.py",
        (
            "worst: half precision throws away what lies on the edge",
            "torch.finfo(delta.dtype).eps if half else _ROUNDING",
            "_ROUNDING",
        ),
        (
            "landscape: frozen kernels stay",
            "names = _kernels(model)\n",
            "names = set(perturbed_tensors(model))\n",
        ),
    ),
    *_faults(
        "training/test_resume.py",
        (
            "state: a training that goes elsewhere takes the run's own",
            "if place == (root / spec.key.directory).resolve():",
            "if place:",
        ),
    ),
    *_faults(
        "data/test_pictures.py data/test_image_folder.py",
        (
            "pictures: of an upright one the top is kept, not the middle",
            "left, top = (width - side) // 2, (height - side) // 2",
            "left, top = (width - side) // 2, 0",
        ),
        (
            "pictures: the files of an archive wait without limit",
            "size += _held(entry) + each",
            "size += each",
        ),
        (
            "pictures: the first files of an archive are kept to the end",
            "every = chain(_emptied(first), stream)",
            "every = chain(first, stream)",
        ),
        (
            "pictures: a class whose name is no text gets a passport that nobody can read",
            "_refuse_unwritable(path, parts[1])",
            "pass",
        ),
    ),
    *_faults(
        "commands/test_commands.py commands/test_foreign.py",
        (
            "by hand: another network of the run is attacked than the one named",
            "key, checkpoint=checkpoint.stem, attacks=attacks or None",
            "key, attacks=attacks or None",
        ),
        (
            "elsewhere: attacked on all images instead of a part",
            '"num_examples": evaluation.num_examples,',
            "",
        ),
        (
            "elsewhere: attacked on a stratified part instead of the first images",
            '"first_examples": evaluation.first_examples,',
            "",
        ),
        ("elsewhere: attacked on another part", '"part_seed": evaluation.part_seed,', ""),
    ),
    *_faults(
        "pipeline/test_accepted_code.py",
        (
            "accept: one restart stands for several",
            "return max(-1, min(value, 2))",
            "return value != 0",
        ),
        (
            "accept: a share that is off stands for one that is on",
            "return value != 0 if isinstance(value, float) else value",
            'return "" if isinstance(value, float) else value',
        ),
        (
            "accept: what is compared by one older code counts for another",
            "if old is None or item.hashes[step.code] != old or _way(step) in compared:",
            "if old is None or _way(step) in compared:",
        ),
        (
            "accept: a second older code takes the place of the first",
            "if not accepted & (new | item.changed.items()):",
            "if True:",
        ),
        (
            "accept: the code that most results have does not count",
            "for group, _ in groups.most_common():",
            "for group, _ in reversed(groups.most_common()):",
        ),
        (
            "accept: the whole of a file's code is compared on the file alone",
            "for item in made: for step in item.steps:",
            "for item in [first] if first else made:\n        for step in item.steps:",
        ),
    ),
    *_faults(
        "reporting/test_stale.py",
        (
            "stale: by hand a network is trained on images of other settings",
            "deterministic=deterministic): return refuse_stale(step)",
            "deterministic=deterministic):\n            return",
        ),
        (
            "stale: by hand labels are made for images of other settings",
            "step = steps.label(mix.labeling) refuse_stale(step)",
            "step = steps.label(mix.labeling)",
        ),
        (
            "stale: by hand a landscape is measured on images of other settings",
            "step = Steps(params).landscape(suite, figure) refuse_stale(step)",
            "step = Steps(params).landscape(suite, figure)",
        ),
        (
            "stale: by hand a network is trained with stale labels",
            'if path in read or other.kind in ("train", "label")',
            'if path in read and other.kind != "label" or other.kind == "train"',
        ),
        (
            "stale: a stale training counts as done",
            "if stale or begun or not whole",
            "if begun or not whole",
        ),
        (
            "stale: a training begun anew counts as done",
            "if stale or begun or not whole",
            "if stale or not whole",
        ),
        (
            "stale: a teacher whose training diverged labels",
            '_refuse_unfinished(Path(str(spec.teacher.directory), "run.json"))',
            "pass",
        ),
        ("stale: a check that finds stale results succeeds", "if stale: raise typer.Exit(1)", ""),
        (
            "accept: weights of one shape and type are the same",
            "if not same or before.numpy().tobytes() != after.numpy().tobytes():",
            "if not same:",
        ),
    ),
    *_faults(
        "pipeline/test_code.py pipeline/test_engine.py pipeline/test_bad_settings.py"
        " cluster/test_rules.py",
        ("code: what a star brings does not count", 'names.add("*")', "pass"),
        (
            "engine: what was made by hand under other settings is current",
            "misleads = known is None or (known",
            "misleads = known is not None and (known",
        ),
        (
            "engine: a plan under other settings rewrites all notes",
            "if found is not None and misleads:",
            "if found is not None and known != [repr(found)]:",
        ),
        (
            "engine: a table of unknown settings is current",
            "elif found is None and known is None and (root / path).exists():",
            "elif False:",
        ),
        (
            "engine: a run on other images is current",
            'return "stale" if trained and other_images(document, root) else "done"',
            'return "done"',
        ),
        (
            "settings: null for a key of another table is dropped",
            "if value is not None or key not in base}",
            "if value is not None}",
        ),
        (
            "fingerprints: code does not count",
            "self._text, self.code_hash, *upstream",
            "self._text, *upstream",
        ),
        (
            "fingerprints: a landscape stands on other code than it runs",
            '"landscape": "rwp.evaluation.landscape"',
            '"landscape": "rwp.core.landscape"',
        ),
        (
            "fingerprints: pairs stand on other code than they are made with",
            '"table2": "rwp.reporting.pairs"',
            '"table2": "rwp.reporting.tables"',
        ),
        (
            "planned code: a step that nobody planned runs any code",
            "if step not in known: raise UserError(",
            "if step not in known:\n        return\n    if False:\n        raise UserError(",
        ),
        (
            "planned code: a verdict asks for a step that is none",
            'planned(DiagnosisSpec, "judge"',
            'planned(DiagnosisSpec, "diagnose"',
        ),
        (
            "planned code: labels are not planned",
            'PLANNED = ("train", "label", "evaluate"',
            'PLANNED = ("train", "evaluate"',
        ),
    ),
    *_faults(
        "reporting/test_plan.py",
        (
            "costs: images drawn per class count once, by the source",
            "definition.per_class and classes and definition.per_class * classes",
            "definition.per_class",
        ),
        (
            "costs: images drawn per class count once, by the passport",
            "definition.per_class and definition.per_class * found.num_classes",
            "definition.per_class",
        ),
    ),
    *_faults(
        "pipeline/test_resolution.py",
        (
            "landscapes: measured on another part than the suite says",
            "part_seed=suite.evaluation.part_seed, more_seeds=",
            "more_seeds=",
        ),
    ),
    *_faults(
        "own/test_studies.py",
        (
            "studies: one learning rate for all batch sizes",
            "{0.1 * batch_size / 128:g}",
            "{0.1:g}",
        ),
        (
            "studies: a folder whose name cannot be written",
            '_refuse_unwritable("--images", "a folder with a name", str(place))',
            "pass",
        ),
    ),
    *_faults(
        "test_files.py",
        (
            "files: results that only their maker can read",
            "temporary.chmod(0o666 & ~_umask())",
            "pass",
        ),
    ),
]
# Of code of the user's own: what counts of it, what it is given, and what it leaves behind.
OWN = [
    *_faults(
        "own/test_own_code.py",
        (
            "own: a docstring counts",
            "dumped(without_docstrings(tree))",
            "dumped(tree)",
        ),
        (
            "own: what it imports of this project does not count",
            "parts |= _beyond(name, named)",
            "pass",
        ),
        (
            "own: what its step stands on counts twice",
            "if module not in known}",
            "}",
        ),
        (
            "own: a module beside one on PYTHONPATH does not count",
            "return own_folders() if installed else [*own_folders(), folder]",
            "return own_folders()",
        ),
        (
            "own: a linked module does not count",
            "for place in (path.absolute(), path.resolve()):",
            "for place in (path.resolve(),):",
        ),
    ),
    *_faults(
        "own/test_options.py",
        (
            "own: options 1, 1.0 and true are one run",
            "return json.dumps(ours, sort_keys=True) != json.dumps(theirs, sort_keys=True)",
            "return ours != theirs",
        ),
        (
            "own: a factory may change its options in the settings",
            "copy.deepcopy(dict(options))",
            "dict(options)",
        ),
        (
            "own: an option gives way to a fact in silence",
            "_refuse_replaced(at, options, known)",
            "pass",
        ),
        (
            "own: a network is tried at the size of the source",
            '"image_size": [side] * 2}',
            '"image_size": [32] * 2}',
        ),
    ),
    *_faults(
        "own/test_check.py",
        (
            "own: a plan keeps the warnings of a trial to itself",
            'sys.stderr.write(f"{line}\\n")',
            "pass",
        ),
        (
            "own: frozen kernels count as perturbed",
            "kernels = list(perturbed_tensors(model))",
            "kernels = [n for n, p in model.named_parameters() if p.ndim > 1]",
        ),
    ),
    *_faults(
        "commands/test_commands.py",
        (
            "own: labels replace any network",
            "not (record.exists() and _has_format(record, record_format)):",
            "record.exists() and not _has_format(record, record_format):",
        ),
    ),
    *_faults(
        "reporting/test_stale.py",
        (
            "stale: half-fetched images are trained on",
            "for passport in incomplete_fetches(above, root):",
            "for passport in ():",
        ),
        (
            "report: the heads tell the images of other tables",
            'of_table = results.attacks["run"].isin(runs)',
            'of_table = results.attacks["run"].notna()',
        ),
    ),
    *_faults(
        "own/test_left_as_found.py",
        (
            "own: a gradient that an objective leaves is added to the step",
            "for weight, gradient in before: weight.grad = gradient",
            "pass",
        ),
        (
            "own: losses are given the images themselves",
            "given = images.clone(), adversarial.clone(), labels.clone()",
            "given = images, adversarial, labels",
        ),
        (
            "own: an attack is given the images themselves",
            "self.inner.attack(model, images.clone(), labels.clone(), **options)",
            "self.inner.attack(model, images, labels, **options)",
        ),
    ),
    *_faults(
        "training/test_arithmetic.py",
        (
            "average: tables of whole numbers are rounded down",
            "if name.endswith(COUNT): # batches counted",
            "if True:  # batches counted",
        ),
    ),
]

# Of a second reading: attacks, what goes on after a break, who listens, what a plan costs.
SECOND = [
    *_faults(
        "evaluation/test_identity.py",
        (
            "AutoAttack: a state says nothing of the attack",
            'return f"{attack.name}-{hashlib.sha256(attack.canonical().encode()).hexdigest()[:8]}"',
            "return attack.name",
        ),
    ),
    *_faults(
        "core/test_core_precision.py",
        (
            "attacks: losses in 16 bits",
            "logits = full_precision(self._model(points))",
            "logits = self._model(points)",
        ),
        (
            "attacks: the divergence begins in 16 bits",
            "clean_logits = full_precision(model(images))",
            "clean_logits = model(images)",
        ),
    ),
    *_faults(
        "core/test_core_attacks.py",
        (
            "attacks: CW goes on beyond kappa",
            "loss=partial(margin_loss, kappa=kappa)",
            "loss=partial(margin_loss, kappa=50.0)",
        ),
        (
            "attacks: the published CW goes on beyond kappa",
            "loss = partial(zero_masked_margin_loss, kappa=kappa)",
            "loss = partial(zero_masked_margin_loss, kappa=50.0)",
        ),
    ),
    *_faults(
        "core/test_core_left_as_found.py",
        (
            "modes: layers that tracked nothing track again",
            "tracking = [layer for layer in _norm_layers(model) if layer.track_running_stats]",
            "tracking = _norm_layers(model)",
        ),
    ),
    *_faults(
        "core/test_core_models.py",
        (
            "networks: a first block of ReLU whatever is asked",
            "blocks = [WideBlock(in_planes, planes, stride, activation)]",
            "blocks = [WideBlock(in_planes, planes, stride)]",
        ),
        (
            "networks: further blocks of ReLU whatever is asked",
            "[WideBlock(planes, planes, 1, activation) for",
            "[WideBlock(planes, planes, 1) for",
        ),
        (
            "networks: a last ReLU whatever is asked",
            'self.activate = activation_function(activation) check_count("depth"',
            'self.activate = activation_function("relu")\n        check_count("depth"',
        ),
    ),
    *_faults(
        "core/test_core_starts.py",
        (
            "starts: off the ball and out of [0, 1]",
            "(center + OFF_BALL_HALF_WIDTH * _uniform(center, generator)).clamp_(0.0, 1.0)",
            "(center + OFF_BALL_HALF_WIDTH * _uniform(center, generator))",
        ),
    ),
    *_faults(
        "evaluation/test_apgd.py",
        (
            "AutoAttack: images leave though gradients of the others change",
            "return torch.equal(of_whole[standing], of_part)",
            "return True",
        ),
    ),
    *_faults(
        "evaluation/test_diagnostics.py",
        (
            "further attacks: on the same images whatever the seed",
            "return take_part(images, num_examples=count, seed=seed, source=source)[0]",
            "return take_part(images, num_examples=count, seed=0, source=source)[0]",
        ),
        (
            "verdicts: the suite's twin in place of the one that is named",
            "lender = root / spec.twin_checkpoint if twin is None and spec.twin_checkpoint "
            "else twin",
            "lender = root / spec.twin_checkpoint if spec.twin_checkpoint else twin",
        ),
        (
            "verdicts: one step is compared with the shortest PGD",
            "pgd = max(several, key=lambda record: record.attack.num_steps or 0, default=None)",
            "pgd = min(several, key=lambda record: record.attack.num_steps or 0, default=None)",
        ),
    ),
    *_faults(
        "training/test_landscape_by_hand.py",
        (
            "landscapes: attacked from anywhere in the ball",
            'random_start=attack.random_start or "uniform", bn_mode="eval", )',
            'random_start="uniform",\n        bn_mode="eval",\n    )',
        ),
    ),
    *_faults(
        "core/test_core_family.py",
        (
            "family: what comes before the first kernel is left out",
            "numbers[name] = max(current, 0)",
            "numbers[name] = current",
        ),
        (
            "family: normalizations of groups are none",
            "_NORMALIZATIONS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)",
            "_NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.RMSNorm)",
        ),
    ),
    *_faults(
        "evaluation/test_attacks.py",
        (
            "watch: an infinite pixel is the whole step",
            "nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)",
            "nan_to_num(gradient, nan=0.0)",
        ),
        (
            "watch: of equal images the first alone",
            "remaining[key].pop(0)",
            "remaining[key][0]",
        ),
    ),
    *_faults(
        "evaluation/test_autoattack.py",
        (
            "AutoAttack: a batch of other images counts",
            'if content["format"] != _FORMAT or content["index"] != index.tolist():',
            'if content["format"] != _FORMAT:',
        ),
    ),
    *_faults(
        "training/test_several_processes.py",
        (
            "several: layers lose their momentum and epsilon",
            "layer.num_features, layer.eps, layer.momentum,",
            "layer.num_features, 1e-5, 0.1,",
        ),
    ),
    *_faults(
        "data/test_images.py",
        (
            "statistics: of the last block of images alone",
            "total += values.sum((0, 2, 3))",
            "total = values.sum((0, 2, 3))",
        ),
    ),
    *_faults(
        "data/test_unlabeled.py",
        (
            "unlabeled: SVHN's training images as its extra ones",
            '_svhn_split(datasets.SVHN, "extra", raw, origin)',
            '_svhn_split(datasets.SVHN, "train", raw, origin)',
        ),
    ),
    *_faults(
        "training/test_resume.py",
        (
            "resume: no checkpoint within an epoch",
            "if wish != _GO_ON: self.save()",
            "if wish == _STOP:\n            self.save()",
        ),
        (
            "resume: the checkpoint before is not looked at",
            "for path in (self.checkpoint, self.previous):",
            "for path in (self.checkpoint,):",
        ),
        (
            "resume: epochs of before are told again",
            "if saved is None: for row in history:",
            "if True:\n        for row in history:",
        ),
    ),
    *_faults(
        "data/test_fetch.py",
        (
            "digits: cut off instead of rounded",
            "(values * (255 / _BRIGHTEST)).round().to(torch.uint8)",
            "(values * (255 / _BRIGHTEST)).to(torch.uint8)",
        ),
    ),
    *_faults(
        "training/test_emulated_gpu.py",
        (
            "losses.npz: kept on the GPU after a break",
            '[{n: v.cpu() for n, v in row.items()} for row in state["epochs"]]',
            'list(state["epochs"])',
        ),
    ),
    *_faults(
        "data/test_pseudo_labels.py",
        (
            "pseudo-labels: by TF32 on a GPU",
            "benchmark=False, deterministic=True, allow_tf32=False",
            "benchmark=False, deterministic=True, allow_tf32=True",
        ),
    ),
    *_faults(
        "training/test_start.py",
        (
            "starts: a branch has nothing to go back to",
            "if len(history) == training.spec.first_epoch:",
            "if not history:",
        ),
    ),
    *_faults(
        "tracking/test_tracking.py",
        (
            "tracking: rows beyond one request are lost",
            "del self._rows[:count]",
            "self._rows.clear()",
        ),
        (
            "tracking: the end is not told soon after a failure",
            "self._quiet_until = 0.0 # the last chance to say it",
            "pass",
        ),
        (
            "tracking: a run that is trained again is not running",
            'client.update_run(self.run_id, status="RUNNING")',
            "pass",
        ),
    ),
    *_faults(
        "training/test_flops.py",
        (
            "rates: an epoch's time is that of all before it",
            "self.epoch + 1, 0, Work()",
            "self.epoch + 1, 0, self.work",
        ),
    ),
    *_faults(
        "reporting/test_verdicts.py",
        (
            "tables: all attacks are those that were run",
            "if not found or len(found) < len(own):",
            "if not found:",
        ),
    ),
    *_faults(
        "reporting/test_pairs.py",
        (
            "pairs: of two parts of one data set",
            "return f\"{record.data_sha256} {record.part.sha256 if record.part else ''}\"",
            "return record.data_sha256",
        ),
        (
            "pairs: of all seeds that one of them has",
            "min(against.keys, defense.keys, key=len)",
            "max(against.keys, defense.keys, key=len)",
        ),
    ),
    *_faults(
        "reporting/test_stale.py",
        (
            "stale: a verdict with another twin is the workflow's",
            'mark = merkle("by hand", step.fingerprint, str(twin)) if twin is not None '
            "else step.fingerprint",
            "mark = step.fingerprint",
        ),
        (
            "accept: in little nothing is perturbed",
            "perturbation = perturbation.replace(warmup_epochs=1)",
            "pass",
        ),
        (
            "accept: one training stands for all",
            "return step.code, repr(_words(_in_little(step.settings)))",
            'return step.code, ""',
        ),
        (
            "stale: images of other settings are no stale result",
            "stale += changed_sources(needed, root)",
            "pass",
        ),
    ),
    *_faults(
        "reporting/test_plan.py",
        (
            "costs: the curve is of all test images",
            "(spec.curve_examples or size.num_test)",
            "size.num_test",
        ),
        (
            "costs: measured by the same attack everywhere",
            "monitor = spec.monitor_of(split)",
            "monitor = spec.monitor",
        ),
        (
            "costs: attacks are on all test images",
            "num_asked(attack) or size.num_test",
            "size.num_test",
        ),
        (
            "costs: what is done is done again",
            'todo = [job for job in chosen if job.state != "done"]',
            "todo = chosen",
        ),
        (
            "rates: what ships goes before what was measured",
            "_filled(rate, shipped[place]) if place in shipped else rate",
            "shipped.get(place, rate)",
        ),
        (
            "rates: AutoAttack's on another device",
            'return record if record and device.split(" (")[0] == record.device else None',
            "return record",
        ),
    ),
    *_faults(
        "reporting/test_figures.py",
        (
            "figures: curves of other settings",
            '_LEFT_OUT = ("stale", "inconsistent")',
            '_LEFT_OUT = ("inconsistent",)',
        ),
        (
            "figures: a line through a value without a number",
            "mean = mean.reindex(sorted(set(tried)))",
            "pass",
        ),
        (
            "figures: a search chooses two of equal ones",
            'frame["recipe"].eq(frame["measure"].map(first)) & whole',
            "(means == best) & whole",
        ),
    ),
    *_faults(
        "reporting/test_published_curves.py",
        (
            "published: a curve outside to its end never leaves the band",
            "if open_stretch:",
            "if False:",
        ),
    ),
    *_faults(
        "pipeline/test_steps.py",
        (
            "chain: networks that are also attacked are not waited for",
            "for checkpoint in entry.also_attacked.of(key.recipe):",
            "for checkpoint in ():",
        ),
    ),
    *_faults(
        "reporting/test_report_parts.py",
        (
            "report: costs of all seeds together",
            "passes = statistics.fmean(",
            "passes = sum(",
        ),
    ),
    *_faults(
        "reporting/test_attack_again.py",
        (
            "attack again: on other images",
            "if expected != sha256_file(images):",
            "if False:",
        ),
        (
            "attack again: another network",
            "_check_network(checkpoint, document)",
            "pass",
        ),
    ),
    *_faults(
        "reporting/test_claims.py reporting/test_against.py",
        (
            "records: run.json does not say of which network",
            "right = run.network_hash(checkpoint.stem)",
            "right = None",
        ),
        (
            "compare: an opponent without a record is not named",
            "if where in other.seen and (compared or not to_come):",
            "if where in other.seen and compared:",
        ),
    ),
    *_faults(
        "reporting/test_summaries.py",
        (
            "metrics: whole percents",
            "round(row[name], 2)",
            "round(row[name], 0)",
        ),
    ),
]

FAULTS = [
    *LOSSES,
    *ATTACKS,
    *WEIGHTS,
    *OBJECTIVES,
    *LANDSCAPE,
    *SCHEDULES,
    *TRAINING,
    *RESUME,
    *DATA,
    *FURTHER,
    *EVALUATION,
    *REPORTING,
    *FAMILY,
    *PAIRS,
    *UNNOTICED,
    *ALIKE,
    *BY_HAND,
    *OWN,
    *SECOND,
]
