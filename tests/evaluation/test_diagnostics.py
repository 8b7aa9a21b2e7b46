import subprocess
import sys

import pytest
import torch
from torch import nn

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import autoattack as module
from rwp.evaluation.diagnosis import diagnose_checkpoint, read_diagnosis
from rwp.evaluation.diagnostics import DOUBTFUL, FollowUp, band_for, judge
from rwp.evaluation.followup import follow_up
from rwp.evaluation.jobs import evaluate_checkpoint, run_attacks
from rwp.evaluation.records import GradientRecord, write_record
from rwp.evaluation.spec import DiagnosisSpec
from rwp.training.checkpoint import save_network
from rwp.training.spec import RunKey
from tests.evaluation.conftest import Project
from tests.evaluation.samples import (
    NETWORK,
    LogitScaled,
    Quantized,
    ShortAutoAttack,
    attack,
    autoattack_spec,
    record,
    small_network,
)

PGD = attack("pgd-20", "pgd", num_steps=20, step_size="0.03")
CALM = FollowUp(
    base=0.6,
    longer=0.595,
    rescaled=0.6,
    transfer=0.7,
    zero_gradients=0.0,
    sweep=((0.1, 0.6), (0.2, 0.0)),
    chance=0.1,
    num_examples=500,
)


def records(pgd: int, autoattack: int, *, fgsm: int | None = None, **changes):
    def of(count: int, spec):
        return record([True] * count + [False] * (1000 - count), attack=spec, **changes)

    found = [of(pgd, PGD), of(autoattack, autoattack_spec())]
    return found if fgsm is None else [*found, of(fgsm, attack("fgsm"))]


def run_follow_up(model: nn.Module, images: ImageSet, **options) -> FollowUp:
    return follow_up(model, images, PGD, batch_size=40, seed=0, device="cpu", **options)


@pytest.mark.parametrize(
    ("dataset", "objective", "pgd", "autoattack", "level"),
    [
        ("cifar10", "at", 523, 480, "green"),  # AT (DOM, mean of 3 seeds)
        ("cifar10", "at", 554, 508, "green"),  # AT-AWP (log, MAIR)
        ("cifar10", "at", 555, 429, "red"),  # small-loss removal (DOM)
        ("cifar10", "at", 629, 546, "red"),  # the paper's WRN AT-RWP
        ("cifar10", "at", 560, 495, "amber"),
        ("svhn", "at", 535, 455, "green"),  # AT at its best epoch (DOM)
        ("cifar100", "at", 307, 253, "green"),  # AT-AWP (logs)
        ("digits", "at", 629, 500, "amber"),  # nothing is known of it, so no gap is unheard of
    ],
)
def test_published_networks_land_in_their_bands(dataset, objective, pgd, autoattack, level):
    verdict = judge(records(pgd, autoattack), dataset=dataset, objective=objective)
    assert verdict.level == level
    assert verdict.gap == pytest.approx((pgd - autoattack) / 10)
    assert verdict.band == band_for(dataset, "linf", objective)


def test_unknown_data_set_takes_the_general_band():
    assert band_for("digits", "linf", "at").source.startswith("nothing is published")
    assert band_for("digits", "l2", "trades").green < band_for("digits", "linf", "trades").green


def test_single_step_beating_many_is_red():
    verdict = judge(records(540, 500, fgsm=520), dataset="cifar10", objective="at")
    assert verdict.level == "red"
    assert "FGSM is 2.0 points below PGD" in verdict.reasons[1].text


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("it seems to be a randomized defense!", "red"),
        ("apgd-t: there are 5 points with zero gradient!", "amber"),
        ("9 target classes instead of 9", "green"),
    ],
)
def test_warnings_of_autoattack_count(text: str, level: str):
    found = judge(records(540, 500, warnings=(text,)), dataset="cifar10", objective="at")
    assert found.level == level


@pytest.mark.parametrize(("won", "level"), [(2, "green"), (3, "red")])
def test_square_beating_those_with_gradients_counts(won: int, level: str):
    parts = {"apgd-ce": 510, "apgd-t": 500, "fab-t": 500, "square": 500 - won}
    found = records(540, 500 - won, parts=parts)
    verdict = judge(found, dataset="cifar10", objective="at")
    assert verdict.level == level


@pytest.mark.parametrize(("left", "level"), [(0, "weak"), (49, "weak"), (50, "green")])
def test_a_network_without_robustness_is_weak(left: int, level: str):
    attacked = records(100, left, clean=[True] * 500 + [False] * 500)
    verdict = judge(attacked, dataset="cifar10", objective="natural")
    assert verdict.level == level
    if level == "weak":
        expected = f"leaves {left / 10:.1f} % of 50.0 %: there is no robustness to judge"
        assert verdict.reasons[0].text.endswith(expected)


def test_no_record_no_verdict():
    with pytest.raises(UserError, match="expected records"):
        judge([], dataset="cifar10", objective="at")


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({}, "green", ""),
        ({"longer": 0.58}, "amber", "more steps and restarts fool 2.0 points"),
        ({"rescaled": 0.57}, "green", ""),
        ({"rescaled": 0.54}, "amber", "rescaled logits fools 6.0 points"),
        ({"rescaled": 0.4}, "red", "rescaled logits fools 20.0 points"),
        ({"transfer": 0.5}, "red", "twin fool 10.0 points"),
        ({"zero_gradients": 0.05}, "amber", "5 % of the images have no gradient"),
        ({"sweep": ((0.1, 0.6), (0.5, 0.4))}, "red", "40 % survive a radius of 0.5"),
    ],
)
def test_follow_up_attacks_count(change: dict, level: str, text: str):
    found = FollowUp(**{**CALM.__dict__, **change})
    verdict = judge(records(540, 500), dataset="cifar10", objective="at", follow_up=found)
    assert verdict.level == level
    assert text in " ".join(reason.text for reason in verdict.reasons)


def test_honest_network_stays_green(robust_model: nn.Module, images: ImageSet):
    found = run_follow_up(robust_model, images, twin=robust_model)
    assert 0.3 < found.base < 0.95
    assert found.zero_gradients == 0.0
    assert found.sweep[-1][1] <= found.chance
    verdict = judge(records(540, 500), dataset="digits", objective="at", follow_up=found)
    assert verdict.level == "green"


@pytest.mark.parametrize(
    "front",
    [lambda model: Quantized(model, 6), lambda model: LogitScaled(model, 1e4)],
    ids=["quantized", "logit-scaled"],
)
def test_masked_network_is_red(front, robust_model: nn.Module, images: ImageSet):
    masked = front(robust_model).eval()
    found = run_follow_up(masked, images, twin=robust_model)
    honest = run_follow_up(robust_model, images)
    assert found.base > honest.base + 0.1  # it looks more robust than what it hides
    verdict = judge(records(540, 500), dataset="digits", objective="at", follow_up=found)
    assert verdict.level == "red"
    assert any("no gradient at all" in reason.text for reason in verdict.reasons)


def diagnosis_of(project: Project, *, twin: RunKey | None = None) -> DiagnosisSpec:
    attacks = (*project.spec.attacks, autoattack_spec())
    evaluation = project.spec.replace(attacks=attacks)
    return DiagnosisSpec(evaluation=evaluation, objective="at", twin=twin)


def write_records(project: Project, *, robust: int) -> None:
    """Records of 40 images of which PGD leaves `robust` and AutoAttack none."""
    evaluate_checkpoint(
        project.spec, root=project.root, fingerprint="f", state=project.root / ".state"
    )
    pgd = record([True] * robust + [False] * (40 - robust), attack=PGD)
    write_record(project.root / project.spec.record("pgd-20"), pgd)
    autoattack = record([False] * 40, attack=autoattack_spec())
    write_record(project.root / project.spec.record("autoattack"), autoattack)


def test_follow_up_runs_only_where_in_doubt(trained: Project):
    spec = diagnosis_of(trained)
    for robust, doubtful in ((0, False), (40, True)):
        write_records(trained, robust=robust)
        written = diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
        content = read_diagnosis(written)
        assert (content["follow_up"] is not None) == doubtful
        assert content["level"] in (DOUBTFUL if doubtful else ("weak",))
        assert content["records"]["pgd-20"] == "f"
    with pytest.raises(UserError, match="expected a diagnosis"):
        read_diagnosis(trained.root / trained.spec.record("pgd-20"))


def test_the_twin_lends_its_images_and_has_to_be_there(trained: Project):
    write_records(trained, robust=40)
    twin = trained.spec.key.replace(recipe="other")
    spec = diagnosis_of(trained, twin=twin)
    with pytest.raises(UserError, match="expected the twin that lends adversarial images"):
        diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
    assert not (trained.root / spec.path).exists()
    save_network(trained.root / spec.twin_checkpoint, small_network(), network=NETWORK, epoch=1)
    content = read_diagnosis(diagnose_checkpoint(spec, root=trained.root, fingerprint="f"))
    # The twin has the same weights, so that its images are those of the network itself.
    assert content["follow_up"]["transfer"] == content["follow_up"]["base"]


def test_a_green_verdict_needs_no_torch(trained: Project):
    """Ten verdicts of a table are then written in the time that one import of torch takes."""
    write_records(trained, robust=0)
    program = (
        "import sys; from pathlib import Path\n"
        "from rwp.evaluation.spec import DiagnosisSpec\n"
        "from rwp.evaluation.diagnosis import diagnose_checkpoint\n"
        "spec = DiagnosisSpec.parse(sys.argv[1], where='here')\n"
        "diagnose_checkpoint(spec, root=Path.cwd(), fingerprint='f')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", program, diagnosis_of(trained).canonical()],
        cwd=trained.root,
        check=True,
        timeout=60,
    )


def test_follow_up_leaves_the_model_as_it_was(robust_model: nn.Module, images: ImageSet):
    before = [parameter.clone() for parameter in robust_model.parameters()]
    run_follow_up(robust_model, images.select(torch.arange(8)))
    assert all(map(torch.equal, before, robust_model.parameters()))
    assert all(parameter.requires_grad for parameter in robust_model.parameters())


def test_verdict_from_real_records(robust_model: nn.Module, images: ImageSet, monkeypatch):
    monkeypatch.setattr(module, "AutoAttack", ShortAutoAttack)
    levels = {}
    for name, model in {"honest": robust_model, "masked": LogitScaled(robust_model, 1e4)}.items():
        results = []
        run_attacks(
            model.eval(),
            images,
            (PGD, autoattack_spec()),
            batch_size=40,
            seed=0,
            device="cpu",
            state=None,
            on_result=results.append,
        )
        found = [
            record(list(result.robust), clean=list(result.clean_correct), attack=result.attack)
            for result in results
        ]
        verdict = judge(found, dataset="digits", objective="at")
        if verdict.level != "green":  # as the workflow does
            more = run_follow_up(model, images, twin=robust_model)
            verdict = judge(found, dataset="digits", objective="at", follow_up=more)
        levels[name] = verdict.level
    assert levels == {"honest": "green", "masked": "red"}


@pytest.mark.parametrize(
    ("not_finite", "zero", "level"),
    [(0, 10, "green"), (0, 11, "amber"), (1, 0, "amber"), (101, 0, "red")],
)
def test_attacks_without_a_gradient_count(not_finite: int, zero: int, level: str):
    found = GradientRecord(
        images=1000,
        not_finite=not_finite,
        zero=zero,
        blind_not_finite=not_finite,
        blind_zero=zero,
    )
    verdict = judge(records(540, 500, gradients=found), dataset="cifar10", objective="at")
    assert verdict.level == level
