import pytest
import torch

from rwp.data import audit as audit_module
from rwp.data.audit import audit
from rwp.errors import UserError

TEST = torch.randint(256, (30, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
# smooth images, like photographs: neighboring pixels are alike
TEST = torch.nn.functional.avg_pool2d(TEST.float(), 9, 1, 4, count_include_pad=False)
TEST = ((TEST - 127) * 4 + 127).clamp(0, 255).byte()


@pytest.fixture
def source() -> torch.Tensor:
    fresh = torch.randint(256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(1)).float()
    fresh = torch.nn.functional.avg_pool2d(fresh, 9, 1, 4, count_include_pad=False)
    fresh = ((fresh - 127) * 4 + 127).clamp(0, 255).byte()
    noise = torch.randint(-6, 7, (3, 32, 32), generator=torch.Generator().manual_seed(2))
    fresh[3] = TEST[7]
    fresh[11] = (TEST[8].int() + noise).clamp(0, 255).byte()
    fresh[25] = (TEST[8].float() * 0.8 + 10).byte()  # darker
    return fresh


def pairs(found) -> set[tuple[int, int]]:
    return set(zip(found.source.tolist(), found.test.tolist(), strict=True))


def test_exact_and_near_duplicates_are_told_apart(source):
    found = audit(source, TEST, min_similarity=0.95, device="cpu")
    assert pairs(found.exact) == {(3, 7)}
    assert pairs(found.near) == {(11, 8), (25, 8)}
    assert found.near.similarity.min() > 0.95
    assert found.summary() == {
        "exact": {"pairs": 1, "source_images": 1, "test_images": 1},
        "near": {"pairs": 2, "source_images": 2, "test_images": 1},
    }


def test_blocks_do_not_change_the_result(source, monkeypatch):
    monkeypatch.setattr(audit_module, "_SOURCE_BLOCK", 7)
    monkeypatch.setattr(audit_module, "_TEST_BLOCK", 4)
    found = audit(source, TEST, min_similarity=0.95, device="cpu")
    assert pairs(found.exact) | pairs(found.near) == {(3, 7), (11, 8), (25, 8)}


def test_flat_images_are_only_exact_duplicates():
    flat = torch.stack([torch.full((1, 8, 8), value) for value in (0, 9, 255)]).byte()
    found = audit(flat, flat.flip(0), min_similarity=0.5, device="cpu")
    assert pairs(found.exact) == {(0, 2), (1, 1), (2, 0)}
    assert len(found.near.source) == 0


def test_equal_colors_alone_are_no_likeness():
    """Two skies: the same blue everywhere, other clouds."""
    blue = torch.tensor([60, 110, 200]).view(1, 3, 1, 1)
    clouds = (TEST[:2].float() - 127) / 8
    sky = (blue + clouds).clamp(0, 255).byte()
    assert len(audit(sky[:1], sky[1:], min_similarity=0.9, device="cpu").near.source) == 0


def test_sets_without_likeness_give_empty_reports(source):
    found = audit(source[12:20], TEST, min_similarity=0.95, device="cpu")
    assert found.summary()["near"] == {"pairs": 0, "source_images": 0, "test_images": 0}


def test_bad_input_is_refused(source):
    with pytest.raises(UserError, match=r"expected images of one shape"):
        audit(source[..., :8], TEST, min_similarity=0.9, device="cpu")
    with pytest.raises(UserError, match=r"min_similarity: expected \(0, 1\], got 1.5"):
        audit(source, TEST, min_similarity=1.5, device="cpu")
