import pickle
from pathlib import Path

import pytest
import torch

from rwp.errors import UserError
from rwp.training.checkpoint import FORMAT, load_network, save_network
from tests.evaluation.samples import NETWORK, small_network


class Payload:
    """Writes a file when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_saved_network_comes_back(tmp_path: Path):
    model, images = small_network(), torch.rand(3, 1, 8, 8)
    save_network(tmp_path / "best.pt", model, network=NETWORK, epoch=7)
    state = torch.random.get_rng_state()
    found, description = load_network(tmp_path / "best.pt")
    assert torch.equal(state, torch.random.get_rng_state())
    assert not found.training
    assert torch.equal(found(images), model(images))
    assert description["epoch"] == 7
    assert description["network"]["architecture"] == NETWORK["architecture"] | {"blocks": [1]}


def test_same_network_gives_the_same_bytes(tmp_path: Path):
    for name in ("first.pt", "second.pt"):
        save_network(tmp_path / name, small_network(), network=NETWORK, epoch=7)
    assert (tmp_path / "first.pt").read_bytes() == (tmp_path / "second.pt").read_bytes()


def test_incomplete_description_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="got no num_classes"):
        save_network(tmp_path / "best.pt", small_network(), network={"architecture": {}}, epoch=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or foreign"),
        (b"<html>Quota exceeded</html>", "a web page, perhaps"),
        (None, "truncated or foreign"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes | None, message: str):
    path = tmp_path / "best.pt"
    save_network(path, small_network(), network=NETWORK, epoch=7)
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    with pytest.raises(UserError, match=message):
        load_network(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_bare_pickle_is_refused_in_one_line(
    tmp_path: Path, protocol: int, recwarn: pytest.WarningsRecorder
):
    path = tmp_path / "best.pt"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=protocol))
    with pytest.raises(UserError, match="other objects or code, which was not run"):
        load_network(path)
    assert list(recwarn) == []
    assert not (tmp_path / "ran").exists()


def test_missing_and_foreign_files(tmp_path: Path):
    with pytest.raises(UserError, match="found no file"):
        load_network(tmp_path / "best.pt")
    torch.save({"state_dict": {}}, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="checkpoint of this project"):
        load_network(tmp_path / "theirs.pt")


def test_code_in_a_file_is_not_run(tmp_path: Path):
    torch.save({"format": FORMAT, "weights": Payload(tmp_path / "ran")}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="which was not run"):
        load_network(tmp_path / "best.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_not_finite(tmp_path: Path):
    model = small_network()
    with torch.no_grad():
        model.linear.weight[0, 0] = torch.nan
    save_network(tmp_path / "best.pt", model, network=NETWORK, epoch=7)
    with pytest.raises(UserError, match=r"got NaN or infinity in linear\.weight"):
        load_network(tmp_path / "best.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 5}, r"expected linear\.weight of shape \(5, 4\), got \(10, 4\)"),
        ({"architecture": {"family": "preact_resnet", "blocks": (2,), "width": 4}}, "missing"),
        ({"architecture": {"family": "vgg"}}, "got one that cannot be built"),
        ({"mean": (0.5,), "std": (0.5,)}, r"2 missing \(normalize\.mean, normalize\.std\)"),
    ],
)
def test_weights_of_another_network(tmp_path: Path, change: dict, message: str):
    save_network(tmp_path / "best.pt", small_network(), network=NETWORK | change, epoch=7)
    with pytest.raises(UserError, match=message):
        load_network(tmp_path / "best.pt")
