import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rwp.data.images import ImageSet
from rwp.errors import UserError
from rwp.evaluation import external
from rwp.evaluation.external import (
    at_radius,
    diagnose_external,
    evaluate_external,
    verdict_on,
)
from rwp.evaluation.external_models import ExternalModel, load_checkpoint, load_factory
from rwp.evaluation.records import read_record
from rwp.evaluation.verdict import Verdict
from rwp.factories import call
from rwp.reporting.radii import read_radii
from rwp.training.checkpoint import save_network
from rwp.training.spec import AttackSpec, OwnNetworkSpec, PreActResNetSpec, ThreatSpec
from tests.evaluation.samples import (
    NETWORK,
    attack,
    autoattack_spec,
    linear_model,
    small_network,
    three_classes,
)

ARCHITECTURE = PreActResNetSpec(family="preact_resnet", blocks=(1,), width=4)
PGD = attack("pgd-5", "pgd", num_steps=5, step_size="0.03")


def load(path: Path, **changes) -> ExternalModel:
    settings = {
        "architecture": ARCHITECTURE,
        "layout": "trades",
        "num_classes": 10,
        "in_channels": 1,
        "mean": (0.3,),
        "std": (0.4,),
    }
    return load_checkpoint(path, **settings | changes)


def evaluate(external: ExternalModel, folder: Path, images: ImageSet, **options) -> list[Path]:
    images.save(folder / "test.pt")
    return evaluate_external(
        external,
        data=folder / "test.pt",
        attacks=(attack("natural"), PGD),
        out=folder / "out",
        state=folder / "state",
        batch_size=16,
        seed=0,
        **options,
    )


def test_published_layouts_load(tmp_path: Path):
    model, pixels = small_network(), torch.rand(2, 1, 8, 8)
    parallel = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": parallel}, tmp_path / "trades.pt")
    assert torch.equal(load(tmp_path / "trades.pt").model(pixels), model(pixels))
    normalized = (pixels - 0.3) / 0.4
    outside = load(tmp_path / "trades.pt", layout="awp").model
    torch.testing.assert_close(outside(pixels), model(normalized))
    buffers = {"mu": torch.full((1, 1, 1, 1), 0.3), "sigma": torch.full((1, 1, 1, 1), 0.4)}
    torch.save(model.state_dict() | buffers, tmp_path / "robustbench.pt")
    found = load(tmp_path / "robustbench.pt", layout="robustbench").model
    torch.testing.assert_close(found(pixels), model(normalized))


OWN = """
from torch import nn

def net(num_classes, in_channels, image_size, width):
    height, columns = image_size
    layers = nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.Flatten()
    return nn.Sequential(nn.Sequential(*layers, nn.Linear(width * height * columns, num_classes)))
"""


def test_weights_of_an_own_network_load_without_a_factory_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "ownnet.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = OwnNetworkSpec(family="ownnet:net", options={"width": 3})
    shape = {"architecture": spec, "image_size": (8, 6)}
    theirs = call(spec.family, spec.options, num_classes=10, in_channels=1, image_size=(8, 6))
    theirs[0][1].running_mean += 1.0
    theirs.eval()
    named = {n: value for n, value in theirs.state_dict().items() if "num_batches" not in n}
    pixels, path = torch.rand(2, 1, 8, 6), tmp_path / "theirs.pt"
    for prefix in ("", "_orig_mod.", "module.module.", "model."):
        torch.save({"state_dict": {f"{prefix}{n}": v for n, v in named.items()}}, path)
        assert torch.equal(load(path, **shape).model(pixels), theirs(pixels))
    outside = load(path, **shape, layout="awp").model
    torch.testing.assert_close(outside(pixels), theirs((pixels - 0.3) / 0.4))

    known = {"tiny": ARCHITECTURE, "mine": spec, "wider": spec.replace(options={"width": 4})}
    unnamed = {"architecture": None, "layout": None, "known": known, "image_size": (8, 6)}
    with pytest.raises(UserError, match="got no --arch; its tensors fit --arch mine; take"):
        load(path, **unnamed)
    with pytest.raises(UserError, match=r"of shape .*; name the network the weights belong to"):
        load(path, **shape | {"architecture": known["wider"]})
    torch.save({"state_dict": named, "idx_to_class": {0: "cat", 1: "dog"}}, path)
    assert torch.equal(load(path, **shape).model(pixels), theirs(pixels))
    with pytest.raises(UserError, match="got no --arch; its tensors fit --arch mine; take"):
        load(path, **unnamed)
    torch.save({"state_dict": {"epoch": 3}}, path)
    with pytest.raises(UserError, match=r"theirs\.pt: expected tensors by name, got"):
        load(path, **shape)
    sys.modules.pop("ownnet", None)


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in small_network().state_dict().items()}


def cast(dtype: torch.dtype, names: str = "") -> dict[str, torch.Tensor]:
    return {name: value.to(dtype) if names in name else value for name, value in named("").items()}


STATES = {
    "compiled": lambda: named("_orig_mod."),
    "parallel twice": lambda: named("module.module."),
    "compiled in parallel": lambda: {"state_dict": named("module._orig_mod."), "epoch": 3},
    "parallel, then compiled": lambda: {"model": named("_orig_mod.module.")},
    "held by a module": lambda: {"state_dict": named("model.")},
    "second of a sequence": lambda: named("1."),
    "wrapped twice": lambda: {"model": {"state_dict": named("")}},
    "under an unknown key": lambda: {"weights": named(""), "optimizer": {"lr": 0.1}},
    "no counts": lambda: {n: v for n, v in named("").items() if "num_batches" not in n},
    "counts of 32 bits": lambda: cast(torch.int32, "num_batches"),
    "counts as numbers with a point": lambda: cast(torch.float32, "num_batches"),
    "64 bits": lambda: cast(torch.float64),
    "parameters": lambda: (
        dict(small_network().named_parameters()) | dict(small_network().named_buffers())
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_states_as_programs_save_them_load_and_are_advised(tmp_path: Path, name: str):
    torch.save(STATES[name](), tmp_path / "theirs.pt")
    pixels = torch.rand(2, 1, 8, 8)
    assert torch.equal(load(tmp_path / "theirs.pt").model(pixels), small_network()(pixels))
    known = {"tiny": ARCHITECTURE, "wider": ARCHITECTURE.replace(width=8)}
    with pytest.raises(UserError, match="got no --arch; its tensors fit --arch tiny; take"):
        load(tmp_path / "theirs.pt", architecture=None, layout=None, known=known)
    with pytest.raises(UserError, match="fit --arch tiny for 10 classes and images of 1 channels"):
        load(tmp_path / "theirs.pt", architecture=None, layout=None, known=known, num_classes=7)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_of_two_networks_in_a_file_none_is_taken(tmp_path: Path, prefix: str):
    """Programs save a moving average beside the weights; which is meant, the file does not say."""
    averaged = {prefix + name: value + 1 for name, value in named("").items()}
    torch.save({"state_dict": named(""), "ema_state_dict": averaged}, tmp_path / "theirs.pt")
    for shape in ({}, {"architecture": None, "layout": None}):
        with pytest.raises(UserError, match="of one network, got state_dict and ema_state_dict; s"):
            load(tmp_path / "theirs.pt", **shape)
    for mixed in ({"state_dict": named("")} | averaged, named("module.") | named("") | averaged):
        torch.save(mixed, tmp_path / "theirs.pt")
        with pytest.raises(
            UserError, match=r"expected (the weights of one network|each weight once)"
        ):
            load(tmp_path / "theirs.pt")
    torch.save({"state_dict": named(""), "model": named(""), "args": {}}, tmp_path / "theirs.pt")
    load(tmp_path / "theirs.pt")  # twice the same
    torch.save({"model": {"name": "a"}, "args": {"lr": 0.1}}, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="expected tensors by name"):
        load(tmp_path / "theirs.pt")
    optimizer = torch.optim.SGD(small_network().parameters(), lr=0.1).state_dict()
    torch.save({"state_dict": named(""), "optimizer": optimizer}, tmp_path / "theirs.pt")
    load(tmp_path / "theirs.pt")


def _moved(prefix: str = "") -> dict[str, Tensor]:
    """Parameters alone, as moving averages hold them."""
    return {prefix + name: value.detach() + 1 for name, value in small_network().named_parameters()}


AVERAGES: dict[str, dict[str, Any]] = {
    "of torch": {
        "swa": {"n_averaged": torch.tensor(3)} | {f"module.{n}": v for n, v in _moved().items()}
    },
    "parameters": {"ema": _moved()},
    "shadow": {"ema": {"decay": 0.99, "shadow": _moved()}},
    "list": {"ema": {"decay": 0.99, "shadow_params": [*_moved().values()]}},
    "list beside": {"shadow_params": (*_moved().values(),)},
    "named": {"ema": _moved("ema.")},
}


@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("prefix", ["", "net."])
def test_a_moving_average_beside_the_weights_is_told(tmp_path: Path, kind: str, prefix: str):
    """However it is kept, the file does not say which of the two is meant."""
    torch.save({"net": named(prefix)} | AVERAGES[kind], tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="expected the weights of one network, got net and"):
        load(tmp_path / "theirs.pt")


def test_what_is_no_other_network_stands_beside_the_weights(tmp_path: Path):
    beside = {
        "mean": torch.zeros(3),
        "history": [torch.rand(()) for _ in range(99)],
        "images": [torch.rand(9, 1, 8, 8)] * 9,
        "teacher": {"w": torch.ones(9)},
    }
    content = {"net": named("")} | beside
    torch.save(content, tmp_path / "theirs.pt")
    loaded = load(tmp_path / "theirs.pt").model.state_dict()
    assert all(
        any(torch.equal(value, found) for found in loaded.values())
        for value in content["net"].values()
    )


def test_weights_in_whole_numbers_are_refused(tmp_path: Path):
    torch.save(cast(torch.int8, "conv"), tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=r"expected .*conv.* of torch\.float32, got torch\.int8"):
        load(tmp_path / "theirs.pt")


def _script(path: Path) -> None:
    torch.jit.script(linear_model()).save(str(path))


FILES = {
    "program.pt": (_script, "got a TorchScript program; load it in a function that returns"),
    "arrays.npz": (lambda path: np.savez(path, weight=np.ones(3)), "got arrays of numpy; load it"),
    "m.safetensors": (lambda p: p.write_bytes(bytes([2] + [0] * 7) + b"{}"), "kind .safetensors"),
    "m.onnx": (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "kind .onnx; load it"),
    "empty.pt": (lambda path: path.touch(), "truncated or foreign file; delete it and make"),
    "page.pt": (lambda path: path.write_text("<html>"), "a web page, perhaps"),
    "folder.pt": (lambda path: path.mkdir(), "got a folder; name the file in it"),
    "whole.pt": (lambda path: torch.save(linear_model(), path), "save the state_dict alone"),
    "nothing.pt": (lambda path: torch.save({}, path), r"expected tensors by name, got \[\]; pass"),
    "other.pt": (
        lambda path: torch.save(linear_model().state_dict(), path),
        "fit no network of params.yaml: name a factory that builds it and loads them",
    ),
}


@pytest.mark.filterwarnings("ignore")  # torch's word on TorchScript
@pytest.mark.parametrize("name", FILES)
def test_files_of_other_kinds_are_told_apart(tmp_path: Path, name: str):
    make, message = FILES[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / name, architecture=None, layout=None)
    assert "\n" not in str(caught.value)


def test_our_own_checkpoint_needs_no_names(tmp_path: Path):
    save_network(tmp_path / "best.pt", small_network(), network=NETWORK, epoch=0)
    found = load(tmp_path / "best.pt", architecture=None, layout=None)
    assert found.name == "best"
    with pytest.raises(UserError, match="expected no --arch and no --layout"):
        load(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": None}, "--arch and --layout"),
        ({"architecture": None}, "--arch and --layout"),
        ({"num_classes": 7}, r"linear\.weight of shape \(7, 4\)"),
    ],
)
def test_foreign_checkpoint_without_enough_names(tmp_path: Path, changes: dict, message: str):
    torch.save(small_network().state_dict(), tmp_path / "theirs.pt")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "theirs.pt", **changes)


def test_clean_accuracy_comes_before_the_attacks(tmp_path, images, robust_model):
    seen = []

    def note(accuracy: float) -> None:
        seen.append((accuracy, (tmp_path / "out").exists()))

    paths = evaluate(ExternalModel(robust_model, "theirs", "abc"), tmp_path, images, on_clean=note)
    record = read_record(paths[1])
    assert seen == [(record.clean_accuracy, False)]
    assert (record.key, record.checkpoint, record.checkpoint_sha256) == (None, "theirs", "abc")
    assert record.num_robust < record.num_clean_correct


def test_chance_is_that_of_the_images_that_were_looked_at(
    tmp_path, images, robust_model, monkeypatch
):
    """The first in the published order may be of other shares than the whole set."""
    seen: list[float] = []
    monkeypatch.setattr(external, "judge", lambda records, chance, **_: seen.append(chance))
    none = Verdict("green", None, None, ())
    monkeypatch.setattr(
        external, "judge_further", lambda *_, chance, **__: seen.append(chance) or (none, None)
    )
    model = ExternalModel(robust_model, "a", "0" * 64)
    every = len(images.labels.unique())
    first = next(n for n in range(len(images)) if len(images.labels[:n].unique()) == every)
    for options in ({"first_examples": first}, {}):
        folder = tmp_path / str(len(options))
        folder.mkdir()
        records = evaluate(model, folder, images, **options)
        verdict_on(records, dataset="x", data=folder / "test.pt")
        diagnose_external(
            model,
            data=folder / "test.pt",
            attacks=(attack("natural"), PGD),
            dataset="x",
            out=folder / "out",
            batch_size=16,
            seed=0,
            **options,
        )
    counts = [images.labels[:first].bincount(), images.labels.bincount()]
    some, whole = (float(count.max() / count.sum()) for count in counts)
    assert seen == pytest.approx([some, some, whole, whole])
    assert some != pytest.approx(whole)


def test_factory_is_called_and_hashed():
    first, second = (load_factory("tests.evaluation.samples:linear_model") for _ in range(2))
    assert isinstance(first.model, nn.Module)
    assert first.name == "linear_model"
    assert first.sha256 == second.sha256
    with torch.no_grad():
        first.model[1].weight[0, 0] += 1
    assert load_factory("tests.evaluation.samples:linear_model").sha256 == second.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("samples", "expected package.module:factory"),
        ("no.such.module:factory", "expected the module no.such.module of no"),
        ("tests.evaluation.samples:nothing", "expected 'nothing' in .*samples.py, found none"),
        ("tests.evaluation.samples:not_a_model", r"expected a torch\.nn\.Module, got str"),
        ("tests.evaluation.samples:failing_model", "got RuntimeError: no weights here; call it"),
        ("tests.evaluation.samples:model_with_arguments", "without arguments, got TypeError"),
    ],
)
def test_bad_factories(text: str, message: str):
    with pytest.raises(UserError, match=message):
        load_factory(text)


def test_model_of_other_images(tmp_path: Path, images: ImageSet):
    color = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    with pytest.raises(UserError, match=r"color: expected to answer .* shape \(1, 1, 8, 8\)"):
        evaluate(ExternalModel(color, "color", "abc"), tmp_path, images)


def test_model_of_fewer_classes_and_a_file_without_a_table(tmp_path: Path, images: ImageSet):
    with pytest.raises(UserError, match="three: expected logits of 10 classes, got 3"):
        evaluate(ExternalModel(three_classes(), "three", "abc"), tmp_path, images)
    assert not (tmp_path / "out").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="expected a table of weights, got list"):
        load(tmp_path / "list.pt")


def test_finished_records_of_the_same_model_are_left_alone(
    tmp_path: Path, images: ImageSet, robust_model: nn.Module
):
    first = evaluate(ExternalModel(robust_model, "theirs", "abc"), tmp_path, images)
    before = [path.stat().st_mtime_ns for path in first]
    first[1].unlink()
    again = evaluate(ExternalModel(robust_model, "theirs", "abc"), tmp_path, images)
    assert again[0].stat().st_mtime_ns == before[0]
    assert read_record(again[1]).attack == PGD
    first[1].write_text("{}")  # damaged
    with pytest.raises(UserError, match="got one of another model; name another folder"):
        evaluate(ExternalModel(robust_model, "others", "xyz"), tmp_path, images)
    assert read_record(first[0]).checkpoint_sha256 == "abc"


def test_attacks_on_parts_of_their_own_share_a_folder(
    tmp_path: Path, images: ImageSet, robust_model: nn.Module
):
    """In two calls, in either order; another part of the whole evaluation stays refused."""
    few = PGD.replace(name="pgd-5-few", num_examples=20)
    model = ExternalModel(robust_model, "theirs", "abc")
    images.save(tmp_path / "test.pt")

    def evaluated(*attacks, out="out", **options):
        given = {"data": tmp_path / "test.pt", "state": tmp_path / "state"}
        sizes = {"batch_size": 16, "seed": 0}
        return evaluate_external(
            model, attacks=attacks, out=tmp_path / out, **given, **sizes, **options
        )

    for out, order in (("one", (PGD, few)), ("other", (few, PGD))):
        for one in order:
            (path,) = evaluated(one, out=out)
            assert read_record(path).num_examples == (one.num_examples or len(images))
    with pytest.raises(UserError, match="got one on another part of the images"):
        evaluated(PGD, out="one", num_examples=30)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step_size": "0.01"}, "step_size"),
        ({"threat": ThreatSpec(norm="linf", epsilon="0.3")}, "threat"),
        ({"num_examples": 20}, "another part"),
    ],
)
def test_an_attack_of_the_same_name_replaces_no_record_and_is_not_judged_by_it(
    tmp_path: Path, images: ImageSet, robust_model: nn.Module, change, told
):
    """The settings changed since; the record may have taken hours, and is of other numbers."""
    model = ExternalModel(robust_model, "theirs", "abc")
    images.save(tmp_path / "test.pt")
    given = {"data": tmp_path / "test.pt", "out": tmp_path / "out", "batch_size": 16, "seed": 0}
    natural = attack("natural")
    evaluate_external(model, attacks=[natural, PGD], state=tmp_path / "state", **given)
    before = (tmp_path / "out" / "pgd-5.json").read_bytes()
    other = [natural, PGD.replace(**change)]
    with pytest.raises(UserError, match=f"pgd-5.json: expected a record of theirs .*{told}"):
        evaluate_external(model, attacks=other, state=tmp_path / "state", **given)
    with pytest.raises(UserError, match=f"pgd-5.json: expected a record of theirs .*{told}"):
        diagnose_external(model, attacks=other, dataset="digits", **given)
    assert (tmp_path / "out" / "pgd-5.json").read_bytes() == before
    diagnose_external(model, attacks=[natural, PGD], dataset="digits", **given)


def test_radii_beside_each_other_are_of_one_model_and_attack(
    tmp_path: Path, images: ImageSet, robust_model: nn.Module
):
    images.save(tmp_path / "test.pt")
    given = {"data": tmp_path / "test.pt", "state": tmp_path / "state"}

    def at(epsilon: str, name: str = "abc", spec: AttackSpec = PGD) -> None:
        evaluate_external(
            ExternalModel(robust_model, "theirs", name),
            attacks=[at_radius(spec, epsilon)],
            out=tmp_path / f"epsilon-{epsilon}",
            batch_size=16,
            seed=0,
            **given,
        )

    for epsilon in ("0.1", "0.2"):
        at(epsilon)
    assert [*read_radii(tmp_path, ["pgd-5.json"])] == ["0.1", "0.2"]
    place = r"epsilon-0\.1/pgd-5\.json: "
    with pytest.raises(UserError, match=f"{place}.* of another model; name another folder"):
        at("0.3", "xyz")
    with pytest.raises(UserError, match=f"{place}.* an attack with another step_size"):
        at("0.3", spec=PGD.replace(step_size="0.01"))
    squared = PGD.replace(threat=ThreatSpec(norm="l2", epsilon="0.5"), step_size="0.1")
    with pytest.raises(UserError, match=f"{place}.* under another norm"):
        at("0.3", spec=squared)
    (tmp_path / "epsilon-0.2/pgd-5.json").write_text("{}")
    with pytest.raises(UserError, match=r"epsilon-0\.2/pgd-5\.json"):
        at("0.3")  # its curve would lack a radius


def test_records_of_l1_that_an_earlier_version_made_are_made_again():
    l1 = autoattack_spec(threat=ThreatSpec(norm="l1", epsilon="1"))
    usual = autoattack_spec(threat=ThreatSpec(norm="l2", epsilon="1"))
    assert external._fingerprint(l1) != external._fingerprint(usual) == "external"


def test_steps_go_with_radii_of_many_digits():
    given = PGD.replace(
        threat=ThreatSpec(norm="linf", epsilon="0.5019607843137255"),
        step_size="0.06274509803921569",
    )
    found = at_radius(given, "0.2509803921568627")
    assert found.step == pytest.approx(0.2509803921568627 / 8, rel=1e-12)
    assert at_radius(PGD.replace(step_size="2/255"), "0.1").step_size is not None
    long = PGD.replace(threat=ThreatSpec(norm="linf", epsilon="0.1"), step_size="0.3")
    with pytest.raises(UserError, match="expected a step"):
        at_radius(long, "0.2")


def test_weights_without_values_are_refused(tmp_path: Path):
    torch.save({name: value.to("meta") for name, value in named("").items()}, tmp_path / "m.pt")
    with pytest.raises(UserError, match=r"m\.pt: expected weights, got none in .*device meta"):
        load(tmp_path / "m.pt")


@pytest.mark.parametrize("changed", [{"num_classes": 7}, {"in_channels": 3}])
def test_a_network_of_ours_fits_the_images_it_is_attacked_on(tmp_path: Path, changed):
    """The mean of three channels made three of one, and a number of it."""
    save_network(tmp_path / "best.pt", small_network(), network=NETWORK, epoch=1)
    place = {"architecture": None, "layout": None}
    load(tmp_path / "best.pt", **place)
    with pytest.raises(UserError, match=r"best\.pt: expected a network of .*, got 1 and 10; take"):
        load(tmp_path / "best.pt", **place, **changed)
