import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rwp.core import ThreatModel, cross_entropy, pgd
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import autoattack as module, verdict as verdicts
from rwp.evaluation.diagnosis import _chance, diagnose_checkpoint, followed_up
from rwp.evaluation.diagnosis_file import read_diagnosis
from rwp.evaluation.followup import follow_up
from rwp.evaluation.jobs import evaluate_checkpoint, run_attacks
from rwp.evaluation.records import GradientRecord, read_record, write_record
from rwp.evaluation.spec import DiagnosisSpec
from rwp.evaluation.verdict import DOUBTFUL, LEVELS, MEANING, FollowUp, Verdict, band_for
from rwp.files import sha256_file
from rwp.reporting.report import LEVEL_KINDS, LEVEL_SIGNS
from rwp.rng import generator_for
from rwp.training.checkpoint import save_network
from rwp.training.spec import RunKey, ThreatSpec
from tests.data.samples import write_passport
from tests.evaluation.conftest import Project
from tests.evaluation.samples import (
    NETWORK,
    LogitScaled,
    Quantized,
    ShortAutoAttack,
    attack,
    autoattack_spec,
    linear_model,
    record,
    small_network,
)

PGD = attack("pgd-20", "pgd", num_steps=20, step_size="0.03")
PAPER = ThreatSpec(norm="linf", epsilon="8/255")
CALM = FollowUp(
    base=(0.6,) * 5,
    longer=(0.595,) * 5,
    rescaled=(0.6,) * 5,
    transfer=(0.7,) * 5,
    zero_gradients=0.0,
    not_finite_gradients=0.0,
    sweep=((0.1, 0.6), (0.2, 0.0)),
    chance=0.1,
    num_examples=500,
)


def judge(found, *, chance: float = 0.1, **context) -> Verdict:
    return verdicts.judge(found, chance=chance, **context)


def records(pgd: int, autoattack: int, *, fgsm: int | None = None, of: int = 1000, **changes):
    def left(count: int, spec):
        return record([True] * count + [False] * (of - count), attack=spec, **changes)

    found = [left(pgd, PGD), left(autoattack, autoattack_spec())]
    return found if fgsm is None else [*found, left(fgsm, attack("fgsm"))]


def left_by(name: str, kind: str, left: int, steps: int | None = None):
    """A record of 1000 images under an attack of steps of a quarter of the radius."""
    spec = attack(name, kind, num_steps=steps, step_size=None if steps is None else "0.025")
    return record([True] * left + [False] * (1000 - left), attack=spec)


def under(threat: ThreatSpec, found):
    return [one.replace(attack=one.attack.replace(threat=threat)) for one in found]


def run_follow_up(model: nn.Module, images: ImageSet, **options) -> FollowUp:
    return follow_up(model, images, PGD, batch_size=40, seed=0, device="cpu", **options)


@pytest.mark.parametrize(
    ("dataset", "objective", "pgd", "autoattack", "level"),
    [
        ("cifar10", "at", 5230, 4800, "green"),  # AT (DOM, mean of 3 seeds)
        ("cifar10", "at", 5540, 5080, "green"),  # AT-AWP (log, MAIR)
        ("cifar10", "at", 5550, 4290, "red"),  # small-loss removal (DOM)
        ("cifar10", "at", 6287, 5461, "undecided"),  # the paper's WRN AT-RWP: amber or red
        ("cifar10", "at", 5600, 4920, "amber"),
        ("svhn", "at", 5350, 4550, "green"),  # AT at its best epoch (DOM)
        ("cifar100", "at", 3071, 2534, "green"),  # AT-AWP (logs)
        ("digits", "at", 6290, 5000, "amber"),  # nothing is known of it, so no gap is unheard of
    ],
)
def test_published_networks_land_in_their_bands(dataset, objective, pgd, autoattack, level):
    found = under(PAPER, records(pgd, autoattack, of=10_000))
    verdict = judge(found, dataset=dataset, objective=objective)
    assert verdict.level == level
    assert verdict.gap == pytest.approx((pgd - autoattack) / 100)
    assert verdict.band == band_for(dataset, "linf", PAPER.radius, objective)


def test_unknown_data_set_takes_the_general_band():
    assert band_for("digits", "linf", 0.1, "at").source.startswith("nothing is published")
    in_l2, in_linf = band_for("digits", "l2", 1.0, "trades"), band_for("digits", "linf", 0.1, "at")
    assert in_l2.green < in_linf.green


@pytest.mark.parametrize(
    ("norm", "epsilon", "level"),
    [
        ("linf", "8/255", "red"),
        ("linf", "0.031", "red"),
        ("linf", "16/255", "amber"),
        ("l2", "128/255", "red"),
        ("l2", "2.0", "amber"),
    ],
)
def test_a_band_is_of_one_radius(norm: str, epsilon: str, level: str):
    """At twice the radius nobody has seen how wide a gap of an honest network can be."""
    found = under(ThreatSpec(norm=norm, epsilon=epsilon), records(5500, 4300, of=10_000))
    assert judge(found, dataset="cifar10", objective="at").level == level


@pytest.mark.parametrize(("fgsm", "level"), [(530, "green"), (518, "undecided"), (500, "red")])
def test_single_step_beating_many_counts_beyond_noise(fgsm: int, level: str):
    verdict = judge(records(540, 520, fgsm=fgsm), dataset="cifar10", objective="at")
    assert verdict.level == level
    if level == "red":
        assert "FGSM is 4.0 points below PGD" in verdict.reasons[1].text


def test_images_that_only_the_other_attack_leaves_count_as_well():
    """One step fools 60 images that PGD leaves, and PGD 160 that one step leaves."""
    pgd, autoattack = records(540, 520)
    fgsm = record([60 <= image < 700 for image in range(1000)], attack=attack("fgsm"))
    assert judge([pgd, autoattack, fgsm], dataset="cifar10", objective="at").level == "green"
    error = 100 * math.sqrt((0.06 + 0.16 - 0.1**2) / 1000)
    assert verdicts._lead(pgd, fgsm) == pytest.approx((-10, error))


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("it seems to be a randomized defense!", "red"),
        ("it seems to be a dynamic defense!", "red"),
        ("it seems the output is a probability distribution", "red"),
        ("the model's outputs are probabilities, so ...", "red"),
        ("the model's logits are all but equal, so ...", "red"),
        ("apgd-t: there are 5 points with zero gradient!", "amber"),
        ("the model answers differently each time (by up to 9 %), so ...", "amber"),
        ("the model's answer to an image depends on the other images in its batch", "red"),
        ("the model answers differently when a gradient is asked for", "red"),
        ("9 target classes instead of 9", "green"),
    ],
)
def test_warnings_of_autoattack_count(text: str, level: str):
    found = judge(records(540, 520, warnings=(text,)), dataset="cifar10", objective="at")
    assert found.level == level


@pytest.mark.parametrize(
    ("won", "of", "level"),
    [
        (2, 1000, "green"),
        (3, 1000, "undecided"),
        (8, 1000, "red"),
        (15, 10_000, "green"),  # more than two images, but less than 0.2 points
        (60, 10_000, "red"),
        (2, 250, "green"),  # more than 0.2 points, but not more than two images
    ],
)
def test_square_beating_those_with_gradients_counts(won: int, of: int, level: str):
    left = 525 * of // 1000
    parts = {"apgd-ce": left, "apgd-t": left, "fab-t": left, "square": left - won}
    found = records(540 * of // 1000, left - won, of=of, parts=parts)
    verdict = judge(found, dataset="cifar10", objective="at")
    assert verdict.level == level


@pytest.mark.parametrize(
    ("clean", "left", "chance", "level"),
    [
        (500, 0, 0.1, "weak"),
        (0, 0, 0.1, "weak"),  # 0.00 everywhere
        (500, 118, 0.1, "weak"),  # chance is within 95 %
        (500, 128, 0.1, "undecided"),  # and here within 99.7 %
        (500, 150, 0.1, "green"),
        (1000, 60, 0.01, "weak"),  # above chance, but less than a tenth survives
        (125, 100, 0.25, "weak"),  # natural 12.5, AutoAttack 10, of four classes
        (900, 780, 0.8, "weak"),  # most images are of one class
    ],
)
def test_a_network_without_robustness_is_weak(clean: int, left: int, chance: float, level: str):
    before = [True] * clean + [False] * (1000 - clean)
    attacked = records(left, left, clean=before)
    for objective in ("natural", "at"):
        verdict = judge(attacked, dataset="cifar10", objective=objective, chance=chance)
        assert verdict.level == level
        if level == "weak":
            assert f"leaves {left / 10:.1f} % of {clean / 10:.1f} %" in verdict.reasons[-1].text


def test_the_gap_is_that_of_the_pgd_nearest_to_20_steps():
    """The bands are of PGD-20, whatever other PGD stands beside it and in what order."""
    middle, autoattack = records(600, 500)
    others = [left_by("pgd-2", "pgd", 700, 2), left_by("pgd-100", "pgd", 580, 100)]
    for found in ([middle, *others, autoattack], [*others, middle, autoattack]):
        assert judge(found, dataset="cifar10", objective="at").gap == pytest.approx(10.0)


@pytest.mark.parametrize(("steps", "level"), [((4,), "green"), ((2, 20), "green"), ((8,), "red")])
def test_a_short_pgd_may_be_worse_than_one_step(steps: tuple[int, ...], level: str):
    """Four steps of a quarter of the radius cannot leave a start on the wrong side."""
    pgd = [left_by(f"pgd-{n}", "pgd", 500 if n == 20 else 540, n) for n in steps]
    found = [*pgd, left_by("fgsm", "fgsm", 510), left_by("autoattack", "autoattack", 490)]
    assert judge(found, dataset="cifar10", objective="at").level == level


@pytest.mark.parametrize(
    ("rival", "left", "level"),
    [
        (("cw-100", "cw", 100), 460, "green"),
        (("cw-100", "cw", 100), 420, "undecided"),
        (("cw-100", "cw_zero_masked", 100), 340, "red"),
        (("pgd-100", "pgd", 100), 525, "green"),
        (("pgd-100", "pgd", 100), 495, "undecided"),
        (("pgd-100", "pgd", 100), 480, "amber"),
        (("pgd-100", "pgd", 100), 400, "red"),
        (("mine", "package.module:factory"), 340, "red"),
        (("fgsm-start", "fgsm_random_start", 1), 340, "green"),
    ],
)
def test_an_attack_that_beats_pgd_by_much_is_a_sign(rival: tuple, left: int, level: str):
    name, kind, *steps = rival
    found = [*records(540, 530), left_by(name, kind, left, *steps)]
    verdict = judge(found, dataset="cifar10", objective="at")
    assert verdict.level == level
    text = f"{name} fools {(540 - left) / 10:.1f} points more than pgd-20"
    assert (text in " ".join(reason.text for reason in verdict.reasons)) == (level != "green")


def test_without_evidence_no_verdict_is_green():
    clean, pgd = left_by("natural", "natural", 900), left_by("pgd-20", "pgd", 540, 20)
    for found, text in (
        ([clean], "no attack was run"),
        ([clean, pgd], "no AutoAttack"),
        ([left_by("fgsm", "fgsm", 900)], "no AutoAttack"),
    ):
        verdict = judge(found, dataset="cifar10", objective="at")
        assert verdict.level == "amber"
        assert verdict.reasons[0].text.startswith(text)
        assert judge(found, dataset="cifar10", objective="natural").reasons == ()
    weak = judge([left_by("pgd-20", "pgd", 0, 20)], dataset="cifar10", objective="at")
    assert weak.level == "weak"  # no other attack is needed for that
    alone = judge([left_by("autoattack", "autoattack", 540)], dataset="cifar10", objective="at")
    assert alone.level == "green"
    assert alone.reasons[0].text == "no PGD: the gap to AutoAttack is unknown"


def test_attacks_under_two_threat_models_are_not_weighed_against_each_other():
    """AutoAttack in L-inf below a PGD in L2 is no sign of masked gradients."""
    one, other = records(600, 500)
    threat = ThreatSpec(norm="l2", epsilon="0.5")
    moved = other.replace(attack=other.attack.replace(threat=threat))
    with pytest.raises(UserError, match=r"one threat model, got l2 0.5 and linf 0\.\d+; judge"):
        judge([one, moved], dataset="cifar10", objective="at")
    clean = attack("natural").replace(threat=threat)  # which no radius matters to
    natural = record([True] * 900 + [False] * 100, attack=clean)
    assert judge([natural, one], dataset="cifar10", objective="at").gap is None


def test_the_words_of_a_level_stand_in_one_place():
    assert LEVELS == ("green", "weak", "undecided", "amber", "red")
    assert set(DOUBTFUL) < set(MEANING)
    assert set(LEVEL_SIGNS) == set(LEVEL_KINDS) == set(LEVELS)


def test_no_record_no_verdict():
    with pytest.raises(UserError, match="expected records"):
        judge([], dataset="cifar10", objective="at")


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({}, "green", ""),
        ({"longer": (0.58,) * 5}, "green", ""),
        ({"longer": (0.57,) * 5}, "undecided", "more steps fool 3.0 points"),
        ({"longer": (0.56,) * 5}, "amber", "more steps fool 4.0 points"),
        ({"longer": (0.59, 0.59, 0.59, 0.59, 0.56)}, "undecided", "1.0 to 4.0 over 5 attack seeds"),
        ({"rescaled": (0.53,) * 5}, "green", ""),
        ({"rescaled": (0.495,) * 5}, "amber", "rescaled logits fools 10.5 points"),
        ({"rescaled": (0.4,) * 5}, "red", "rescaled logits fools 20.0 points"),
        ({"transfer": (0.5,) * 5}, "red", "twin fool 10.0 points"),
        ({"zero_gradients": 0.05}, "amber", "5 % of the images have no gradient"),
        ({"not_finite_gradients": 0.5}, "red", "50 % of the images have a gradient that is not"),
        ({"sweep": ((0.1, 0.6), (0.5, 0.11))}, "undecided", "11 % survive a radius of 0.5"),
        ({"sweep": ((0.1, 0.6), (0.5, 0.4))}, "red", "40 % survive a radius of 0.5"),
    ],
)
def test_follow_up_attacks_count(change: dict, level: str, text: str):
    found = FollowUp(**{**CALM.__dict__, **change})
    verdict = judge(records(540, 500), dataset="cifar10", objective="at", follow_up=found)
    assert verdict.level == level
    assert text in " ".join(reason.text for reason in verdict.reasons)


def test_a_radius_that_covers_little_of_an_image_condemns_nobody():
    """An L2 length of 5 is a usual threat at 224x224, where a gray image is 194 away."""
    far = {**CALM.__dict__, "sweep": ((5.0, 0.25),)}
    levels = [
        judge(
            records(540, 500),
            dataset="cifar10",
            objective="at",
            follow_up=FollowUp(**{**far, "covers": covers}),
        ).level
        for covers in (True, False)
    ]
    assert levels == ["red", "green"]
    for norm, side, covers in (("l2", 33, False), ("l2", 32, True), ("linf", 33, True)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 2)).eval()
        images = ImageSet(
            torch.randint(256, (2, 3, side, side), dtype=torch.uint8), torch.arange(2), 2
        )
        threat = ThreatSpec(norm=norm, epsilon="0.2")
        pgd = PGD.replace(threat=threat, step_size="0.1", num_steps=1)
        found = follow_up(model, images, pgd, batch_size=2, seed=0, device="cpu")
        assert found.covers is covers


@pytest.mark.parametrize(("norm", "largest"), [("linf", 0.5), ("l2", 5.0)])
def test_the_radius_grows_until_an_image_can_be_anything(norm: str, largest: float):
    """A network of one answer is right at any radius."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    images = ImageSet(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 0]), 2)
    threat = ThreatSpec(norm=norm, epsilon="0.2")
    pgd = PGD.replace(threat=threat, step_size="0.1", num_steps=1)
    found = follow_up(model, images, pgd, batch_size=2, seed=0, device="cpu")
    assert found.sweep[-1] == (largest, 1.0)


def test_chance_is_the_share_of_the_most_frequent_class(trained: Project):
    """Read off the passport or, without one, off the images; and so with the further attacks."""
    folder, labels = trained.root / "data" / "digits", torch.tensor([0] * 31 + [*range(1, 10)])
    images = ImageSet(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), labels, 10)
    images.save(folder / "test.pt")
    assert _chance(folder, trained.spec, None) == pytest.approx(31 / 40)
    short = PGD.replace(num_steps=1)
    more = follow_up(linear_model(), images, short, batch_size=40, seed=0, device="cpu")
    assert more.chance == pytest.approx(31 / 40)
    write_passport(folder.parent, "digits", test={"class_histogram": [22] + [2] * 9})
    assert _chance(folder, trained.spec, None) == pytest.approx(22 / 40)


def test_few_images_alone_are_no_sign():
    """Nothing was found, and nothing is there to be found: neither is noise of a limit."""
    nothing = GradientRecord(images=4, not_finite=0, zero=0, blind_not_finite=0, blind_zero=0)
    found = records(0, 0, of=60, clean=[True] * 4 + [False] * 56, gradients=nothing)
    zeros = {"base": (0.0,) * 5, "longer": (0.0,) * 5, "rescaled": (0.0,) * 5, "transfer": None}
    more = FollowUp(**{**CALM.__dict__, **zeros, "sweep": ((0.1, 0.0),), "num_examples": 60})
    for further in (None, more):
        verdict = judge(found, dataset="digits", objective="at", follow_up=further)
        assert verdict.level == "weak"


def test_a_gap_within_noise_is_settled_by_further_attacks():
    found = records(540, 480)  # 6.0 points, within 1.5 of the limit of 5.5
    assert judge(found, dataset="cifar10", objective="at").level == "undecided"
    assert judge(found, dataset="cifar10", objective="at", follow_up=CALM).level == "green"
    wide = under(PAPER, records(540, 400))
    clear = judge(wide, dataset="cifar10", objective="at", follow_up=CALM)
    assert clear.level == "red"


@pytest.mark.parametrize(("count", "level"), [(10, "undecided"), (25, "undecided"), (60, "green")])
def test_a_handful_of_images_on_which_the_attacks_agree_is_undecided(count: int, level: str):
    """Of ten images none disagrees by chance where the gap is ten points."""
    verdict = judge(records(count, count, of=count), dataset="digits", objective="at")
    assert verdict.level == level


def test_what_is_undecided_does_not_hide_a_worse_level():
    found = FollowUp(**{**CALM.__dict__, "longer": (0.57,) * 5, "transfer": (0.4,) * 5})
    verdict = judge(records(540, 500), dataset="cifar10", objective="at", follow_up=found)
    assert verdict.level == "red"


def test_honest_network_stays_green(robust_model: nn.Module, images: ImageSet):
    found = run_follow_up(robust_model, images, twin=robust_model)
    assert all(0.3 < base < 0.95 for base in found.base)
    assert len(found.base) == len(found.longer) == len(found.rescaled) == 5
    assert all(after <= before for before, after in zip(found.base, found.longer, strict=True))
    assert found.zero_gradients == 0.0
    assert found.sweep[-1][1] <= found.chance
    verdict = judge(records(540, 500), dataset="digits", objective="at", follow_up=found)
    assert verdict.level in ("green", "undecided")  # two of 40 images are five points


@pytest.mark.parametrize(
    "front",
    [lambda model: Quantized(model, 6), lambda model: LogitScaled(model, 1e4)],
    ids=["quantized", "logit-scaled"],
)
def test_masked_network_is_red(front, robust_model: nn.Module, images: ImageSet):
    masked = front(robust_model).eval()
    found = run_follow_up(masked, images, twin=robust_model)
    honest = run_follow_up(robust_model, images)
    assert min(found.base) > max(honest.base) + 0.1  # it looks more robust than what it hides
    verdict = judge(records(540, 500), dataset="digits", objective="at", follow_up=found)
    assert verdict.level == "red"
    assert any("no gradient at all" in reason.text for reason in verdict.reasons)


def logits_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(images)


def test_further_attacks_are_what_their_definitions_say(robust_model: nn.Module, images: ImageSet):
    """Five seeds of starts and two batches; a few steps, so that more of them find more."""
    few = attack("pgd-3", "pgd", num_steps=3, step_size="0.02")
    model, twin = LogitScaled(robust_model, 60.0), small_network()
    found = follow_up(model, images, few, batch_size=25, seed=4, device="cpu", twin=twin)
    pixels, labels = images.images.float() / 255, images.labels
    clean = logits_of(model, pixels).argmax(1) == labels

    def left(source, seed: int, *, radius=0.1, step=0.02, steps=3, **options) -> float:
        points = [
            pgd(
                source,
                pixels[rows],
                labels[rows],
                threat=ThreatModel("linf", radius),
                step_size=step,
                num_steps=steps,
                generator=generator_for(4, "follow-up", seed, place),
                **options,
            )
            for place, rows in enumerate((slice(0, 25), slice(25, 40)))
        ]
        right = logits_of(model, torch.cat(points)).argmax(1) == labels
        return float((clean & right).float().mean())

    def spread(scale: float):
        def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            spread = (logits.max(1).values - logits.min(1).values).detach()
            return cross_entropy(scale * logits / spread[:, None], labels)

        return loss

    base = [left(model, seed, keep="worst") for seed in range(5)]
    longer = [left(model, seed, keep="worst", steps=100) for seed in range(5)]
    ones, tens = (
        [left(model, seed, keep="worst", loss=spread(scale)) for seed in range(5)]
        for scale in (1.0, 10.0)
    )
    lent = [left(twin, seed) for seed in range(5)]
    sweep, radius = [], 0.1
    while not sweep or (sweep[-1][1] > 0 and sweep[-1][0] < 0.5):
        step = 0.02 * radius / 0.1
        sweep.append((radius, left(model, 0, radius=radius, step=step, keep="worst")))
        radius = min(2 * radius, 0.5)
    assert found.base == pytest.approx(base)
    assert found.longer == pytest.approx(longer)
    assert found.rescaled == pytest.approx([min(pair) for pair in zip(ones, tens, strict=True)])
    assert found.transfer == pytest.approx(lent)
    assert [place for point in found.sweep for place in point] == pytest.approx(
        [place for point in sweep for place in point]
    )
    # or the test would look at nothing
    assert len(set(base)) > 1
    assert len(sweep) > 1
    assert ones != tens
    for others in (longer, found.rescaled, lent):
        assert list(others) != base


def diagnosis_of(project: Project, *, twin: RunKey | None = None) -> DiagnosisSpec:
    attacks = (*project.spec.attacks, autoattack_spec())
    evaluation = project.spec.replace(attacks=attacks)
    return DiagnosisSpec(evaluation=evaluation, objective="at", twin=twin)


def write_records(project: Project, *, robust: int) -> None:
    """Records of 40 images of which PGD leaves `robust` and AutoAttack none."""
    evaluate_checkpoint(
        project.spec, root=project.root, fingerprint="f", state=project.root / ".state"
    )
    files = {
        "checkpoint_sha256": sha256_file(project.checkpoint),
        "data_sha256": sha256_file(project.root / "data" / "digits" / "test.pt"),
    }
    pgd = record([True] * robust + [False] * (40 - robust), attack=PGD, **files)
    write_record(project.root / project.spec.record("pgd-20"), pgd)
    autoattack = record([False] * 40, attack=autoattack_spec(), **files)
    write_record(project.root / project.spec.record("autoattack"), autoattack)


def test_further_attacks_run_unless_the_network_is_weak(trained: Project):
    spec = diagnosis_of(trained)
    for robust, doubtful in ((0, False), (40, True)):
        write_records(trained, robust=robust)
        written = diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
        content = read_diagnosis(written)
        assert (content["follow_up"] is not None) == doubtful
        assert (content["level"] == "weak") == (not doubtful)
        assert content["records"]["pgd-20"] == "f"
    with pytest.raises(UserError, match="expected a diagnosis"):
        read_diagnosis(trained.root / trained.spec.record("pgd-20"))


def test_further_attacks_are_compared_with_pgd_20(trained: Project, monkeypatch):
    """PGD of two steps is beaten by 100 steps on any network."""
    asked = []
    monkeypatch.setattr(
        "rwp.evaluation.followup.follow_up", lambda _, __, used, **___: asked.append(used) or CALM
    )
    short = attack("pgd-2", "pgd", num_steps=2, step_size="0.03")
    write_records(trained, robust=40)
    place = trained.root / trained.spec.record("pgd-20")
    write_record(place.with_name("pgd-2.json"), read_record(place).replace(attack=short))
    spec = diagnosis_of(trained)
    attacks = (short, *spec.evaluation.attacks)
    spec = spec.replace(evaluation=spec.evaluation.replace(attacks=attacks))
    diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
    assert asked == [PGD]


@pytest.mark.parametrize("changed", ["best.pt", "test.pt"])
def test_records_of_another_network_or_other_images_are_not_judged(
    trained: Project, images: ImageSet, changed: str
):
    write_records(trained, robust=0)
    spec = diagnosis_of(trained)
    if changed == "best.pt":  # trained again
        save_network(trained.checkpoint, small_network(), network=NETWORK, epoch=3)
    else:
        ImageSet(images.images.flip(3), images.labels, images.num_classes).save(
            trained.root / "data" / "digits" / "test.pt"
        )
    with pytest.raises(UserError, match=rf"natural.json: expected a record of .*{changed} as it"):
        diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
    assert not (trained.root / spec.path).exists()


def test_missing_records_are_named_with_the_command_that_makes_them(trained: Project):
    spec = diagnosis_of(trained)
    write_records(trained, robust=40)
    (trained.root / spec.evaluation.record("natural")).unlink()
    with pytest.raises(UserError, match="found none of natural; run: rwp evaluate --checkpoint re"):
        diagnose_checkpoint(spec, root=trained.root, fingerprint="f")


def test_the_twin_lends_its_images_and_has_to_be_there(trained: Project):
    write_records(trained, robust=40)
    twin = trained.spec.key.replace(recipe="other")
    spec = diagnosis_of(trained, twin=twin)
    with pytest.raises(UserError, match="expected the twin that lends adversarial images"):
        diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
    assert not (trained.root / spec.path).exists()
    other = NETWORK | {"num_classes": 7}
    lender = small_network(num_classes=7)
    save_network(trained.root / spec.twin_checkpoint, lender, network=other, epoch=1)
    with pytest.raises(UserError, match=r"--twin: .*pt: expected a network of 1 channels and 10"):
        diagnose_checkpoint(spec, root=trained.root, fingerprint="f")
    save_network(trained.root / spec.twin_checkpoint, small_network(), network=NETWORK, epoch=1)
    content = read_diagnosis(diagnose_checkpoint(spec, root=trained.root, fingerprint="f"))
    # The twin has the same weights, so that its images are those of the network itself.
    assert content["follow_up"]["transfer"] == content["follow_up"]["base"]


def test_a_weak_verdict_needs_no_torch(trained: Project):
    """Ten verdicts of a table are then written in the time that one import of torch takes."""
    write_records(trained, robust=0)
    write_passport(trained.root / "data", "digits")
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
        more = run_follow_up(model, images, twin=robust_model)
        verdict = judge(found, dataset="digits", objective="at", follow_up=more)
        levels[name] = verdict.level
    assert levels["honest"] in ("green", "undecided")
    assert levels["masked"] == "red"


@pytest.mark.parametrize(
    ("not_finite", "zero", "level"),
    [
        (0, 8, "green"),
        (0, 11, "undecided"),  # two images either way: 0.9 to 1.3 %, against 1 %
        (0, 13, "amber"),
        (1, 0, "amber"),
        (101, 0, "undecided"),
        (103, 0, "red"),
    ],
)
def test_attacks_without_a_gradient_count(not_finite: int, zero: int, level: str):
    for fell in (0, 200):  # images that were fooled without a gradient speak against nothing
        found = GradientRecord(
            images=1000,
            not_finite=not_finite + fell,
            zero=zero + fell,
            blind_not_finite=not_finite,
            blind_zero=zero,
        )
        verdict = judge(records(540, 520, gradients=found), dataset="cifar10", objective="at")
        assert verdict.level == level


def test_without_pgd_there_is_a_verdict_and_no_further_attack(trained: Project):
    """AutoAttack alone: the further attacks vary the records' PGD."""
    write_records(trained, robust=40)
    spec = diagnosis_of(trained)
    others = tuple(one for one in spec.evaluation.attacks if one.kind != "pgd")
    spec = spec.replace(evaluation=spec.evaluation.replace(attacks=others))
    content = read_diagnosis(diagnose_checkpoint(spec, root=trained.root, fingerprint="f"))
    assert content["follow_up"] is None
    assert content["gap"] is None


def test_a_twin_that_is_named_takes_the_place_of_the_suites(trained: Project):
    write_records(trained, robust=40)
    spec = diagnosis_of(trained, twin=trained.spec.key.replace(recipe="other"))  # not there
    named = trained.root / "named.pt"
    save_network(named, small_network(), network=NETWORK, epoch=1)
    written = diagnose_checkpoint(spec, root=trained.root, fingerprint="f", twin=named)
    found = read_diagnosis(written)["follow_up"]
    assert found["transfer"] == found["base"]


def test_one_step_is_compared_with_the_longest_pgd():
    found = [
        left_by("pgd-8", "pgd", 540, 8),
        left_by("pgd-100", "pgd", 520, 100),
        left_by("fgsm", "fgsm", 515),  # 2.5 points below the short one, 0.5 below the long one
        left_by("autoattack", "autoattack", 500),
    ]
    assert judge(found, dataset="cifar10", objective="at").level == "green"


def test_further_attacks_look_at_a_part_of_every_class():
    """In folders images lie class by class: the first 500 would be of a few."""
    places = torch.arange(600)
    pixels = torch.stack([places // 256, places % 256, 0 * places], dim=1).to(torch.uint8)
    images = ImageSet(pixels.view(600, 3, 1, 1), places // 60, 10)
    first, same, other = (followed_up(images, seed=s, source=Path("here")) for s in (0, 0, 1))
    assert first.class_counts() == [50] * 10
    assert torch.equal(first.images, same.images)
    assert not torch.equal(first.images, other.images)
    few = images.select(places[:500])
    assert followed_up(few, seed=0, source=Path("here")) is few
