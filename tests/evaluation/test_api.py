import copy
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

import rwp
from rwp.core.threat import ThreatModel
from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation.attacks import evaluate as evaluate_suite
from rwp.evaluation.autoattack import VERSIONS
from rwp.evaluation.clean import UNDERFLOW
from rwp.evaluation.records import robust_flags
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import Dropping, Returning, attack, record

LINF = ("linf", "0.1")
SPEC = attack("pgd-20", "pgd", num_steps=20, step_size="0.025")


def pixels(images: ImageSet) -> torch.Tensor:
    return images.images.float() / 255


def test_the_obvious_call_works(robust_model: nn.Module, images: ImageSet):
    found = rwp.evaluate(robust_model.eval(), pixels(images), images.labels, threat=LINF)
    assert list(found.records) == ["natural", "pgd-20"]
    clean, attacked = found.accuracy("natural"), found.accuracy("pgd-20")
    assert 0 < attacked.low < attacked.estimate < clean.estimate <= clean.high <= 1
    counts = images.labels.bincount()
    assert found.chance == pytest.approx(float(counts.max() / counts.sum()))
    assert found.warnings == ()
    assert found.adversarial == {}
    assert f"{100 * attacked.estimate:.2f} %" in str(found)


def test_numbers_are_those_of_the_pipeline(robust_model: nn.Module, images: ImageSet):
    spec = attack("pgd-20", "pgd", num_steps=20, step_size="0.025")
    (expected,) = evaluate_suite(
        robust_model, images, (spec,), batch_size=128, seed=3, device="cpu"
    )
    threats = (LINF, ("linf", 0.1), ThreatModel("linf", 0.1), ThreatSpec(norm="linf", epsilon=".1"))
    for given in (pixels(images), images.images):
        for threat in threats:
            found = rwp.evaluate(
                robust_model, given, images.labels, threat=threat, attacks=["pgd-20"], seed=3
            )
            assert np.array_equal(robust_flags(found.records["pgd-20"]), expected.robust)


def test_adversarial_images_are_handed_out(robust_model: nn.Module, images: ImageSet):
    found = rwp.evaluate(
        robust_model,
        pixels(images),
        images.labels,
        threat=("l2", 0.5),
        attacks=["pgd-5", "cw-5"],
        keep_adversarial=True,
    )
    for name, adversarial in found.adversarial.items():
        delta = (adversarial - pixels(images)).flatten(1).norm(dim=1)
        assert 0.49 < float(delta.max()) <= 0.5 + 1e-5
        right = robust_model(adversarial).argmax(1) == images.labels
        clean = robust_model(pixels(images)).argmax(1) == images.labels
        assert np.array_equal(robust_flags(found.records[name]), (right & clean).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number from 1, got 0"),
        ({"batch_size": -1}, "batch_size: expected a whole number from 1, got -1"),
        ({"batch_size": True}, "batch_size: expected a whole number from 1, got True"),
        ({"seed": 2**70}, "seed: expected a whole number of at most 9223372036854775807, got"),
        ({"seed": -1}, "seed: expected a whole number from 0, got -1"),
        ({"seed": 1.5}, r"seed: expected a whole number from 0, got 1\.5"),
        ({"num_classes": 0}, "num_classes: expected a whole number from 2, got 0"),
        ({"threat": ("linf", True)}, "threat: expected a radius such as '8/255', got True"),
        ({"threat": ("linf", None)}, "threat: expected a radius such as '8/255', got None"),
        ({"threat": ("linf", [8])}, r"threat: expected a radius such as '8/255', got \[8\]"),
        ({"threat": ("linf", float("nan"))}, "threat: expected a radius such as '8/255', got nan"),
        ({"threat": ("linf", "wide")}, "threat: expected a radius such as 8/255, got 'wide'"),
        ({"threat": ("linf", -1)}, "threat: expected a radius above 0, got -1; write one"),
        ({"threat": ("linf", 8)}, r"^threat: .* got 8; did you mean 8/255\?$"),
        ({"threat": ("Linf", 0.1)}, "threat: expected the norm linf, l2, l1, got 'Linf'; e.g."),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_first(robust_model, images, options, message):
    with pytest.raises(UserError, match=message):
        rwp.evaluate(robust_model, pixels(images), images.labels, **{"threat": LINF} | options)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64])
def test_bytes_that_hold_zeros_and_ones_are_refused(robust_model, images, kind):
    ones = (images.images > 127).to(kind)
    with pytest.raises(UserError, match="expected bytes up to 255, got none above 1"):
        rwp.evaluate(robust_model, ones, images.labels, threat=LINF)


def test_several_radii(robust_model: nn.Module, images: ImageSet):
    found = rwp.evaluate_radii(
        robust_model,
        pixels(images),
        images.labels,
        norm="linf",
        epsilons=["0.02", "0.1", "0.3"],
        attacks=["pgd-10"],
    )
    left = [one.accuracy("pgd-10").estimate for one in found.values()]
    assert list(found) == ["0.02", "0.1", "0.3"]
    assert left[0] > left[1] > left[2]
    for changes, message in (
        ({"epsilons": []}, "epsilons: expected one radius or more"),
        ({"epsilons": "8/255"}, "epsilons: expected a list, got '8/255'"),
        ({"epsilons": torch.tensor(0.1)}, "epsilons: expected a list, got tensor"),
        ({"epsilons": np.array(0.1)}, "epsilons: expected a list, got array"),
        ({"epsilons": ["8/255", "8/255"]}, "epsilons: expected each once, got 8/255, 8/255"),
        ({"epsilons": ["0.1", 0.1]}, "epsilons: expected each once, got 0.1, 0.1; remove 0.1"),
        ({"epsilons": ["8/255", "16/510"]}, "epsilons: .* got 8/255, 16/510; remove 16/510"),
        ({"epsilons": [0.1], "attacks": 5}, "attacks: expected a list of names, got 5"),
        ({"epsilons": [0.1], "threat": LINF}, "threat: expected norm and epsilons in its place"),
        (
            {"epsilons": ["0.1", "0.2"], "attacks": [SPEC]},
            r"attacks: expected names, .* got pgd-20 with a radius of its own \(0\.1\)",
        ),
    ):
        with pytest.raises(UserError, match=message):
            rwp.evaluate_radii(
                robust_model, pixels(images), images.labels, **{"norm": "l2"} | changes
            )


def test_nearly_black_images_among_others_are_images(robust_model, images):
    """A batch of them alone looks as if it had been divided by 255 twice."""
    given = pixels(images)
    given[:8] /= 255
    found = rwp.evaluate(robust_model, given, images.labels, threat=LINF, batch_size=8)
    assert found.records["natural"].num_examples == len(images)


def test_radii_of_any_kind_of_list(robust_model: nn.Module, images: ImageSet):
    given = {"images": images.images, "labels": images.labels, "norm": "linf"}
    few = {name: value[:8] if torch.is_tensor(value) else value for name, value in given.items()}
    for radii in ((k / 255 for k in (2, 4)), np.array([2, 4]) / 255):
        found = rwp.evaluate_radii(robust_model, **few, epsilons=radii, attacks=["fgsm"])
        assert list(found) == [str(2 / 255), str(4 / 255)]
    found = rwp.evaluate_radii(
        robust_model, **few | {"norm": "l2"}, epsilons=[1, Fraction(1, 2)], attacks=["fgsm"]
    )
    assert list(found) == ["1", "1/2"]
    close = torch.tensor([0.03001, 0.03002])  # which torch prints alike
    found = rwp.evaluate_radii(robust_model, **few, epsilons=close, attacks=["fgsm"])
    assert len(found) == 2


def test_a_network_with_its_description_is_told(images: ImageSet):
    with pytest.raises(UserError, match="got tuple; take its first part, the network"):
        rwp.evaluate((nn.Flatten(), {}), images.images, images.labels, threat=("linf", 0.1))


def test_whole_numbers_of_any_type(robust_model, images):
    sizes = {"batch_size": np.int64(40), "seed": torch.tensor(3), "num_classes": np.uint8(10)}
    found = rwp.evaluate(robust_model, images.images, images.labels, threat=LINF, **sizes)
    plain = {name: int(value) for name, value in sizes.items()}
    same = rwp.evaluate(robust_model, images.images, images.labels, threat=LINF, **plain)
    assert found.records["pgd-20"].robust_bits == same.records["pgd-20"].robust_bits
    assert json.loads(found.records["pgd-20"].canonical())["seed"] == 3


def test_a_verdict_says_what_it_lacks(robust_model, images):
    def found(*attacks):
        return rwp.evaluate(
            robust_model, pixels(images), images.labels, threat=LINF, attacks=attacks
        )

    for attacks in (("natural", "pgd-20"), ("fgsm",)):
        (reason,) = found(*attacks).verdict.reasons
        assert reason.level == "amber"
        assert reason.text.startswith("no AutoAttack: ")
    with pytest.raises(UserError, match="verdict: expected an attack, got natural alone"):
        _ = found("natural").verdict
    with pytest.raises(UserError, match="attack: expected one of natural, got 'pgd-20'"):
        found("natural").accuracy("pgd-20")


@pytest.mark.parametrize("kind", [torch.int32, torch.int16, torch.uint8, torch.int64])
def test_labels_of_any_integer_type(robust_model, images, kind):
    found = rwp.evaluate(robust_model, pixels(images), images.labels.to(kind), threat=LINF)
    expected = rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF)
    assert found.records["pgd-20"].robust_bits == expected.records["pgd-20"].robust_bits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.zeros(40)}, r"labels: expected class indices .* got torch.float32 \(40"),
        ({"labels": torch.eye(10)[[0] * 40]}, "argmax"),
        ({"labels": torch.zeros(40, 1).long()}, r"\(40, 1\); flatten them"),
        ({"num_classes": 12}, "expected logits of 12 classes, got 10; choose the images"),
        ({"labels": torch.full((40,), 12)}, "expected 0..9"),
        ({"labels": torch.zeros(3).long()}, r"labels: expected int64 \(40,\)"),
        ({"images": torch.full((40, 1, 8, 8), 200.0)}, "divide 0..255 pixels by 255"),
        (
            {"images": torch.full((40, 1, 8, 8), torch.nan)},
            "expected finite pixels, got NaN or infinity; look at how they were loaded",
        ),
        (
            {"images": torch.zeros(40, 64)},
            r"images: expected floats .* got torch.float32 \(40, 64\)",
        ),
        ({"images": torch.rand(40, 1, 8, 8) / 255}, "none above 0.0039.*by 255 only once"),
        (
            {"images": torch.rand(40, 8, 8, 1)},
            r"put the channels first: images.permute\(0, 3, 1, 2",
        ),
        (
            {"images": torch.zeros(40, 8, 8, 3, dtype=torch.uint8)},
            r"got torch.uint8 \(40, 8, 8, 3\); put the channels first: images.permute\(0, 3, 1, 2",
        ),
        ({"images": torch.rand(1, 8, 8)}, r"put a single image into a batch: images\[None\]"),
        (
            {"images": torch.rand(0, 1, 8, 8)},
            r"\(0, 1, 8, 8\); look at how they were loaded",
        ),
        ({"images": torch.rand(40, 1, 8, 8) + 0j}, "got torch.complex64 .*; take their real part"),
        (
            {"images": torch.rand(40, 1, 8, 8).to_sparse()},
            "images: expected a dense tensor with its values, got torch.sparse_coo, torch",
        ),
        ({"images": torch.rand(40, 1, 8, 8, device="meta")}, "its values, got meta; load or"),
        ({"images": [torch.rand(1, 8, 8)] * 40}, r"got list; torch\.stack\(images\)"),
        ({"labels": np.array(["cat"] * 40)}, "labels: expected .* got ndarray of <U3; pass a"),
        ({"images": None}, "images: expected a tensor or an array, got NoneType"),
        ({"labels": None}, "labels: expected a tensor or an array, got NoneType"),
        (
            {"images": torch.rand(40, 3, 8, 8)},
            r"of shape \(1, 3, 8, 8\) in .* got RuntimeError",
        ),
        ({"device": "cuda:99"}, "device: expected one of this machine .* got 'cuda:99'"),
        ({"device": "gpu"}, "device: expected one of this machine .* got 'gpu'"),
        ({"device": "meta"}, "device: expected one of this machine .* got 'meta'"),
        ({"attacks": None}, "attacks: expected a list of names, got None"),
        ({"attacks": "pgd-20"}, r"attacks: expected a list of names, got 'pgd-20'; e.g. \["),
        ({"attacks": [20]}, "attacks: expected names or AttackSpecs, got 20"),
        ({"attacks": [SPEC.replace(num_steps=10)]}, "expected 20 steps of an attack named pgd-20"),
        ({"attacks": [SPEC.replace(step_size="0.2")]}, "step_size of at most the radius 0.1, got"),
        ({"attacks": [SPEC.replace(step_size=None)]}, "expected a step_size for pgd, got none"),
        ({"attacks": [SPEC.replace(bn_mode="train")]}, "expected bn_mode eval, .* got train"),
        ({"attacks": [SPEC.replace(kind="cw")]}, "an attack named pgd-20 to be pgd, got cw"),
        ({"threat": ("linf", "8")}, "did you mean 8/255"),
        ({"threat": ("l1", 2.0)}, "pgd-20: expected the norm linf or l2 for pgd, got l1, which"),
        ({"threat": ("l1", 2.0), "attacks": ["fgsm"]}, "fgsm: expected the norm linf or l2 for"),
        ({"threat": "linf"}, r"threat: expected \(norm, radius\)"),
        ({"threat": "garbage", "attacks": [SPEC]}, r"threat: expected \(norm, radius\), got"),
        ({"images": np.full((40, 1, 8, 8), 70, np.uint16)}, r"pixels in \[0, 1\], got \[70, 70\]"),
        ({"attacks": ["pgd"]}, "pgd-N or cw-N with N steps, got 'pgd'"),
        ({"attacks": []}, "expected one or more, each once, got none"),
        ({"attacks": ["fgsm", "fgsm"]}, "each once, got fgsm, fgsm"),
    ],
)
def test_bad_input_is_one_line(robust_model, images, changes, message):
    given = {"images": pixels(images), "labels": images.labels, "threat": LINF} | changes
    with pytest.raises(UserError, match=message) as caught:
        rwp.evaluate(robust_model, **given)
    assert "\n" not in str(caught.value)


def test_no_model_is_refused(images):
    for wrong in (None, "net", lambda batch: batch):
        with pytest.raises(UserError, match=r"expected a torch\.nn\.Module, got"):
            rwp.evaluate(wrong, pixels(images), images.labels, threat=LINF)


def test_steps_that_do_not_reach_the_edge_are_told(robust_model, images):
    attacks = ["pgd-3", "pgd-4"]
    found = rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF, attacks=attacks)
    (warning,) = found.records["pgd-3"].warnings
    assert warning.startswith("pgd-3: 3 steps of 0.025 are together shorter than the radius 0.1")
    assert found.records["pgd-4"].warnings == ()
    assert "shorter" not in str(found.verdict)
    attacks = ["natural", "pgd-1", "pgd-3"]
    weak = rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF, attacks=attacks)
    assert weak.verdict.level == "amber"
    assert "the steps of each attack are together shorter" in weak.verdict.reasons[-1].text


def test_a_model_that_moves_itself_is_moved_back(robust_model, images):
    class Moving(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(robust_model)

        def forward(self, batch):
            return self.double().inner(batch.double())

    model = Moving().eval()
    before = copy.deepcopy(model.state_dict())
    rwp.evaluate(model, pixels(images), images.labels, threat=LINF, attacks=["natural"])
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_is_moved_back_from_the_device(robust_model, images):
    model = copy.deepcopy(robust_model)
    settings = {"threat": LINF, "attacks": ["natural"], "device": "cuda"}
    rwp.evaluate(model, pixels(images), images.labels, **settings)
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


class InPlace(nn.Module):
    """A model that normalizes its input in place and counts its calls in a buffer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", torch.zeros(1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.last = images.detach().mean().view(1)
        return self.model(images.mul_(1.0))


def test_other_ways_to_return_and_to_compute_give_the_same_numbers(robust_model, images):
    expected = rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF)

    def check(model: nn.Module, off: int = 0, warned: tuple[str, ...] = ()) -> None:
        before = copy.deepcopy(model.state_dict())
        given = pixels(images)
        found = rwp.evaluate(model.eval(), given, images.labels, threat=LINF, num_classes=10)
        ours, theirs = found.records["pgd-20"].num_robust, expected.records["pgd-20"].num_robust
        assert abs(ours - theirs) <= off
        assert found.warnings == warned
        assert torch.equal(given, pixels(images))
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert all(value.requires_grad for value in model.parameters())

    check(Returning(robust_model, lambda logits: (logits, logits.sum())))
    check(Returning(robust_model, lambda logits: {"features": logits[:, :2], "logits": logits}))
    check(Returning(robust_model, lambda logits: [logits.new_zeros(len(logits), 64), logits]))
    check(InPlace(robust_model))
    check(copy.deepcopy(robust_model).double())
    check(copy.deepcopy(robust_model).bfloat16(), off=3)
    check(copy.deepcopy(robust_model).half(), off=2, warned=(UNDERFLOW,))


def test_the_logits_are_those_of_the_classes_and_a_guess_is_told(robust_model, images):
    """A name beside the right shape, and labels of fewer classes than the model has."""

    class Two(nn.Module):
        def __init__(self, form):
            super().__init__()
            self.inner, self.form = robust_model, form

        def forward(self, batch):
            return self.form(self.inner(batch), batch.flatten(1))

    def right(form, some=slice(None), **options):
        found = rwp.evaluate(
            Two(form).eval(),
            pixels(images)[some],
            images.labels[some],
            threat=LINF,
            attacks=["natural"],
            **options,
        )
        return found.records["natural"].num_robust, found.warnings

    expected = rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF)
    count = expected.records["natural"].num_robust
    named = right(lambda logits, more: {"out": more, "class": logits}, num_classes=10)
    assert named == (count, ())
    wider = nn.ConstantPad1d((0, 1), -1e3)
    named = right(
        lambda logits, more: {"logits": wider(logits), "more": more[:, :10]}, num_classes=10
    )
    assert named == (count, ())
    few = images.labels < 3
    sure = right(lambda logits, more: (logits, more[:, :3]), few, num_classes=10)
    number, warnings = right(lambda logits, more: (logits, more[:, :3]), few)
    assert number < sure[0]
    assert sure[1] == ()
    told = "the model returned 2 tensors that may be logits; "
    assert any(warning.startswith(told) for warning in warnings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_examples": 10}, "pgd-20: expected no num_examples, as all images that are passed"),
        ({"num_steps": np.int64(20)}, "pgd-20: expected plain numbers and texts, got"),
        ({"num_steps": 0}, "pgd-20: num_steps: expected a number above 0, got 0"),
        ({"random_start": "bogus"}, "attacks: pgd-20: random_start"),
        ({"kappa": 3.0}, "pgd-20: expected no kappa for pgd, where it would have no effect"),
        ({"options": {"steps": 5}}, "pgd-20: expected no options for pgd, where it would have no"),
        ({"name": "a", "kind": "own.a:b"}, "a: expected no step_size for own.a:b, where it would"),
        (
            {"name": "a", "kind": "own.a:b", "num_steps": None, "step_size": None, "keep": "worst"},
            "a: expected no keep for own.a:b, where it would",
        ),
        ({"name": "fgsm", "kind": "fgsm"}, "fgsm: expected no step_size for fgsm, where it"),
        (
            {"name": "aa", "kind": "autoattack", "num_steps": None, "step_size": None}
            | {"version": "standard", "random_start": "none"},
            "aa: expected no random_start for autoattack",
        ),
        (
            {"name": "fgsm", "kind": "fgsm_random_start", "num_steps": None, "keep": "worst"},
            "fgsm: expected no keep for fgsm_random_start",
        ),
        ({"step_size": "2"}, r"pgd-20: step_size: expected a radius in .* did you mean 2/255"),
    ],
)
def test_settings_of_an_attack_without_effect_are_refused(robust_model, images, changes, message):
    with pytest.raises(UserError, match=message):
        rwp.evaluate(
            robust_model,
            pixels(images),
            images.labels,
            threat=LINF,
            attacks=[SPEC.replace(**changes)],
        )


def test_a_step_as_a_number_is_a_step(robust_model, images):
    both = [SPEC.replace(step_size=0.025), SPEC.replace(step_size="0.025")]
    found = [
        rwp.evaluate(robust_model, pixels(images), images.labels, threat=LINF, attacks=[spec])
        for spec in both
    ]
    assert found[0].records["pgd-20"].attack == found[1].records["pgd-20"].attack


def test_rounding_beyond_white_is_white(robust_model, images):
    given = pixels(images) / pixels(images).max()
    above = torch.where(given == 1, given + 5e-7, given)
    assert float(above.max()) > 1
    found, plain = (
        rwp.evaluate(robust_model, one, images.labels, threat=LINF) for one in (above, given)
    )
    assert found.records["pgd-20"].data_sha256 == plain.records["pgd-20"].data_sha256
    with pytest.raises(UserError, match=r"expected pixels in \[0, 1\], got \[0, 1\.00001"):
        rwp.evaluate(robust_model, given * 1.00001, images.labels, threat=LINF)


def test_a_small_radius_is_no_haven_from_restarts(robust_model, images):
    """More starts find no less, also where a radius is near the rounding of a pixel."""
    one = SPEC.replace(
        threat=ThreatSpec(norm="linf", epsilon="1/510"), step_size="1/2040", name="pgd-20"
    )
    several = one.replace(name="pgd-20-several", num_restarts=3)
    found = rwp.evaluate(
        robust_model, pixels(images), images.labels, threat=LINF, attacks=[one, several]
    )
    assert found.records["pgd-20-several"].num_robust <= found.records["pgd-20"].num_robust
    assert found.records["pgd-20-several"].max_perturbation > 0


def test_what_cannot_be_told_apart_is_refused(robust_model, images):
    twice = Returning(robust_model, lambda logits: (logits, 2 * logits)).eval()
    with pytest.raises(UserError, match=r"expected one tensor of logits .* with 2 of that shape"):
        rwp.evaluate(twice, pixels(images), images.labels, threat=LINF)
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(10)).eval()
    with pytest.raises(UserError, match=r"expected weights, got none yet in 1\.weight"):
        rwp.evaluate(lazy, pixels(images), images.labels, threat=LINF)


def test_spectral_norm_and_inference_mode(images: ImageSet):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 10))
    ).eval()
    before = copy.deepcopy(model.state_dict())
    plain = rwp.evaluate(model, pixels(images), images.labels, threat=LINF)
    with torch.inference_mode():
        inside = rwp.evaluate(model, pixels(images), images.labels.clone(), threat=LINF)
    assert inside.records["pgd-20"].robust_bits == plain.records["pgd-20"].robust_bits
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_warnings_reach_the_verdict(robust_model: nn.Module, images: ImageSet):
    found = rwp.evaluate(Dropping(robust_model).eval(), pixels(images), images.labels, threat=LINF)
    assert any("answers differently each time" in text for text in found.warnings)
    assert found.verdict.level in ("amber", "red")


def test_versions_have_names(robust_model: nn.Module, images: ImageSet, monkeypatch):
    monkeypatch.setitem(VERSIONS, "standard", ("apgd-ce",))
    some = images.select(torch.arange(8))
    found = rwp.evaluate(
        robust_model, pixels(some), some.labels, threat=LINF, attacks=["autoattack"]
    )
    assert list(found.records["autoattack"].parts) == ["apgd-ce"]
    assert record([True]).function_sha256 is None
    with pytest.raises(UserError, match="expected two or three classes"):
        rwp.evaluate(
            robust_model, pixels(some), some.labels, threat=LINF, attacks=["autoattack-few-classes"]
        )


def test_torchs_default_type_changes_no_number() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    images = torch.rand(8, 3, 8, 8)
    labels = model(images).argmax(1)
    found = []
    for kind in (torch.float32, torch.float64):
        torch.set_default_dtype(kind)
        try:
            done = rwp.evaluate(
                model, images, labels, threat=("linf", "16/255"), attacks=["autoattack"]
            )
            assert torch.get_default_dtype() == kind
        finally:
            torch.set_default_dtype(torch.float32)
        found.append(done.records["autoattack"].robust_bits)
    assert found[0] == found[1]
