"""The perturbation's settings, from params.yaml to the step that is taken."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rwp.core.objectives import ExampleLosses
from rwp.errors import UserError
from rwp.pipeline.load import check_params
from rwp.pipeline.settings import Params
from rwp.reporting.runs import read_run_folder
from rwp.training import loop
from rwp.training.jobs import input_paths, prepare, train_run
from rwp.training.loop import Training
from rwp.training.spec import TrainSpec
from tests.conftest import tiny_settings
from tests.training.conftest import spec_of

SAM = {
    **{"gamma": 0.05, "length": "absolute", "num_weight_steps": 1, "norm_scope": "model"},
    **{"mask": "all", "tensors": "all", "step_at": "original", "warmup_epochs": 0},
}


def with_recipes(committed: dict[str, Any], **recipes: Any) -> Params:
    content = tiny_settings(committed)
    content["suites"]["demo"]["recipes"] |= recipes
    return check_params(content)


def changed(objective: str, perturbation: str = "rwp", **change: Any) -> dict[str, Any]:
    return {"objective": objective, "perturbation": perturbation, "change": change}


def started(params: Params, recipe: str, root: Path, device: str = "cpu") -> Training:
    spec = spec_of(params, recipe)
    training, _ = prepare(spec, input_paths(spec, root), torch.device(device))
    training.model.train()
    training.progress.epoch = 1
    return training


def test_a_training_by_sam(
    committed: dict[str, Any], shared_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole steps of the loop in float64 by SAM's own: gradient at w + rho g/||g||, step at w."""
    training = started(
        with_recipes(committed, sam=changed("natural", "awp", **SAM)), "sam", shared_root
    )
    seen: list[Tensor] = []

    def double(pixels: Tensor, *_: object) -> Tensor:
        seen.append(pixels.double() / 255)
        return seen[-1]

    monkeypatch.setattr(loop, "images_of", double)
    training.model.double()
    weights = [parameter.detach().clone() for parameter in training.model.parameters()]
    pushes: list[Tensor | None] = [None] * len(weights)
    settings = training.spec.optimization
    twin, _ = prepare(training.spec, input_paths(training.spec, shared_root), torch.device("cpu"))
    network = twin.model.double().train()

    def gradient(at: list[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
        with torch.no_grad():
            for parameter, value in zip(network.parameters(), at, strict=True):
                parameter.copy_(value)
        loss = functional.cross_entropy(network(images), labels)
        return list(torch.autograd.grad(loss, list(network.parameters())))

    for indices in training.batches.plan(1)[:4]:
        rate = training.optimizer.param_groups[0]["lr"]
        training._step_in_precision(indices)
        labels = training.batches.labels[indices[0]]
        first = gradient(weights, seen[-1], labels)
        size = torch.cat([part.flatten() for part in first]).norm()
        climbed = [w + 0.05 * g / size for w, g in zip(weights, first, strict=True)]
        for place, part in enumerate(gradient(climbed, seen[-1], labels)):
            push, last = part + settings.weight_decay * weights[place], pushes[place]
            pushes[place] = push if last is None else settings.momentum * last + push
            weights[place] = weights[place] - rate * pushes[place]
        for ours, theirs in zip(training.model.parameters(), weights, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        training.progress.step += 1


FAMILY: dict[str, dict[str, Any]] = {
    "quantile": {"c_min_quantile": 0.3},
    "random-examples": {"mask": "random", "c_min_quantile": 0.3},
    "turned-over": {"mask": "above", "c_min_quantile": 0.3},
    "last-layers": {"layers": [-2, -1]},
    "norms-too": {"tensors": "kernels_and_norms"},
    "decreasing": {"depth_profile": [1, 0.5]},
    "random-direction": {"direction": "random"},
    "clean": {"climbs": "clean_ce"},
    "criterion": {"criterion": "adversarial_ce"},
    "adversarial": {"climbs": "adversarial_ce"},
    "at-original": {"step_at": "original"},
    "as-published": {"attack_bn_mode": "train_counted"},
    "start-as-published": {"attack_random_start": "gaussian_unclamped"},
    "smoothed": {"label_smoothing": 0.1},
}


@pytest.fixture(scope="module")
def family(committed: dict[str, Any]) -> Params:
    recipes = {name: changed("trades", **change) for name, change in FAMILY.items()}
    return with_recipes(committed, **recipes)


@pytest.mark.parametrize("name", FAMILY)
def test_no_member_waits_for_its_device(name: str, family: Params, shared_root: Path) -> None:
    training = started(family, name, shared_root, device="meta")
    training._step_in_precision(training.batches.plan(1)[0])
    assert all(value.device.type == "meta" for value in training.tally.sums.values())


@pytest.mark.parametrize("name", FAMILY)
def test_each_setting_changes_the_step(name: str, family: Params, shared_root: Path) -> None:
    plain, mine = (started(family, recipe, shared_root) for recipe in ("trades-rwp", name))
    for training in (plain, mine):
        for indices in training.batches.plan(1)[:2]:
            training._step_in_precision(indices)
    states = [training.model.state_dict() for training in (plain, mine)]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0])
    row = mine.tally.row()
    assert row["norm_ratio"] == pytest.approx(plain.tally.row()["norm_ratio"], rel=1e-4)
    if "c_min_quantile" in FAMILY[name]:
        assert row["share_below_c_min"] > 0  # counted against the batch's own quantile
    if name == "as-published":
        batches = [state["bn.num_batches_tracked"] for state in states]
        assert batches[0] == 2 * 3  # an adversarial pass, and a clean one that counts twice
        assert batches[1] == batches[0] + 2 * (1 + 2 + 1)  # clean, two steps, the last look


@pytest.mark.parametrize("name", ["clean", "adversarial", "quantile"])
def test_the_share_below_c_min_is_of_the_losses_that_the_mask_looks_at(
    name: str, family: Params, shared_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it is not told: the outer pass has no clean losses, a search finds the quantile."""
    training = started(family, name, shared_root)
    if name == "quantile":
        training.progress.epoch = 0  # of the warm-up
    seen: list[tuple[Tensor, Tensor]] = []
    objective = training.objective.losses

    def noted(self: Any, *given: Any) -> ExampleLosses:
        found = objective(*given)
        seen.append((found.logits.detach(), given[3]))
        return found

    monkeypatch.setattr(type(training.objective), "losses", noted)
    training._step_in_precision(training.batches.plan(1)[0])
    share = training.tally.row()["share_below_c_min"]
    assert isinstance(share, float)
    if name == "adversarial":
        assert training.perturbation is not None
        losses = functional.cross_entropy(*seen[-1], reduction="none")
        below = losses < (training.perturbation.c_min or 0.0)
        assert share == pytest.approx(float(below.float().mean()))
        assert 0 < share < 1
    else:
        assert math.isnan(share)


def test_what_is_compared_with_c_min_is_the_loss_that_is_raised(
    family: Params, shared_root: Path
) -> None:
    logits, labels = torch.randn(5, 10, generator=torch.manual_seed(0)), torch.arange(5)
    outer = ExampleLosses(torch.zeros(5), torch.zeros(5), logits)
    raised = started(family, "adversarial", shared_root)._compared(outer, labels)
    torch.testing.assert_close(
        raised.criterion, functional.cross_entropy(logits, labels, reduction="none")
    )
    assert started(family, "trades-rwp", shared_root)._compared(outer, labels) is outer


def test_what_is_not_known_is_null_in_all_files(
    family: Params, shared_root: Path, tmp_path: Path
) -> None:
    spec = spec_of(family, "clean").replace(keep_epochs=())
    folder = train_run(spec, root=shared_root, fingerprint="null", output=tmp_path)
    run = read_run_folder(folder)
    assert run.finished
    assert {row["share_below_c_min"] for row in run.history} == {None}
    assert {run.document[name]["share_below_c_min"] for name in ("best", "last")} == {None}


def test_the_weight_of_pseudo_labels_is_that_of_the_raised_loss_too(
    family: Params, shared_root: Path
) -> None:
    """Lambda of Eq. 6: a weight of next to nothing perturbs as if they were not there."""
    raised = {}
    for weight in (1.0, 1e-9):
        spec = spec_of(family, "rst-awp")
        assert spec.unlabeled is not None
        spec = spec.replace(unlabeled=spec.unlabeled.replace(weight=weight))
        training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
        training.model.train()
        training.progress.epoch = 10
        seen: list[Tensor] = []
        perturb = training.perturb

        def noting(*given: Any, perturb: Any = perturb, seen: Any = seen, **options: Any) -> Any:
            found = perturb(*given, **options)
            seen.append(found.diagnostics.losses_at_w)
            return found

        training.perturb = noting
        training._step_in_precision(training.batches.plan(0)[0])
        (raised[weight],) = seen
    assert 0.2 < float(raised[1e-9] / raised[1.0]) < 0.8  # half of a batch is pseudo-labeled


def test_the_rise_is_of_the_weighted_losses_before_and_after(
    family: Params, shared_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(family, "rst-awp")
    assert spec.unlabeled is not None
    spec = spec.replace(unlabeled=spec.unlabeled.replace(weight=0.5))
    training, _ = prepare(spec, input_paths(spec, shared_root), torch.device("cpu"))
    training.model.train()
    training.progress.epoch = 1
    objective, perturb = training.objective.losses, training.perturb
    outer: list[Tensor] = []
    before: list[Tensor] = []

    def noted(_: Any, *given: Any) -> ExampleLosses:
        found = objective(*given)
        outer.append(found.objective.detach())
        return found

    def noting(*given: Any, **options: Any) -> Any:
        found = perturb(*given, **options)
        before.append(found.diagnostics.losses_at_w)
        return found

    training.perturb = noting
    monkeypatch.setattr(type(training.objective), "losses", noted)
    training._step_in_precision(training.batches.plan(1)[0])
    weights = training.batches.load(training.batches.plan(1)[0]).weights
    assert weights is not None
    assert set(weights.tolist()) == {0.5, 1.0}
    rise = float((weights * outer[-1]).sum() - before[0]) / len(weights)
    assert training.tally.row()["loss_rise"] == pytest.approx(rise, rel=1e-4)
    assert rise > 0


def test_the_clean_loss_is_what_is_raised(family: Params, shared_root: Path) -> None:
    training = started(family, "clean", shared_root)
    images = training.batches.images[:8].float() / 255
    labels = training.batches.labels[:8]
    found = training.climbed.losses(training.model, images, images * 0, labels).objective
    torch.testing.assert_close(
        found, functional.cross_entropy(training.model(images), labels, reduction="none")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c_min_quantile": 1.5}, r"recipes\.mine .*c_min_quantile: expected .* \(0, 1\), got 1.5"),
        (
            {"c_min": 1.0, "c_min_quantile": 0.5},
            "c_min_quantile: expected none beside c_min, got 0.5",
        ),
        ({"layers": [0, 99]}, r"recipes\.mine: layers: .* from -7 to 6, as small has 7 layers"),
        ({"layers": [3, 1]}, r"layers: expected the first and the last layer, got \[3, 1\]; swap"),
        ({"depth_profile": [0, 0]}, "depth_profile: expected factors >= 0, one of them above 0"),
        (
            {"layers": [-1, -1], "depth_profile": [0, 1]},
            r"recipes\.mine: depth_profile: expected a factor above 0 at one of the 1 perturbed",
        ),
        ({"gamma": 1.5}, r"gamma: expected a share of the weights' norm in \[0, 1\), got 1.5"),
        ({"direction": "down"}, "direction: expected 'gradient' or 'random', got 'down'"),
        ({"climbs": "clean_ce", "criterion": "adversarial_ce"}, "climbs: expected objective with"),
    ],
)
def test_one_line_before_anything_is_trained(
    change: dict[str, Any], message: str, committed: dict[str, Any]
) -> None:
    def resolved() -> TrainSpec:
        return spec_of(with_recipes(committed, mine=changed("trades", **change)), "mine")

    with pytest.raises(UserError, match=message):
        resolved()


def test_a_family_setting_needs_a_perturbation(committed: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected a perturbation to change layers of, got none"):
        with_recipes(committed, mine={"objective": "at", "change": {"layers": [0, 1]}})


def test_defaults_change_no_text_of_the_settings(committed: dict[str, Any]) -> None:
    """And so no fingerprint."""
    spelled = {
        **{"tensors": "kernels", "depth_profile": [], "length": "relative"},
        **{"direction": "gradient", "climbs": "objective", "step_at": "perturbed"},
        "label_smoothing": 0.0,
    }
    params = with_recipes(committed, mine=changed("at", **spelled))
    mine = spec_of(params, "mine").canonical()
    assert mine.replace('"mine"', '"at-rwp"') == spec_of(params, "at-rwp").canonical()
    assert not any(name in mine for name in ("tensors", "direction", "label_smoothing"))
