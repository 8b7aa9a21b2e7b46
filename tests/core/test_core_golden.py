"""The authors' programs, replayed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reference import check_golden

from rwp import core

ARCHIVE = Path(check_golden.__file__).with_name("weight_perturbation.npz")


@pytest.fixture(scope="module")
def archive():
    return check_golden.read_archive(ARCHIVE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", check_golden.CASES)
def test_matches_the_authors_code(archive, case, dtype):
    worst = check_golden.check_case(archive, case, getattr(torch, dtype))
    assert worst.value <= check_golden.TOLERANCES[dtype], worst


def test_the_partial_mask_is_partial(archive):
    perturbation = check_golden.perturbation_of("at_rwp_partial", archive)
    assert perturbation.c_min == archive["c_min_partial"]
    full = check_golden.replay(archive, "at_rwp_all", torch.float64)
    partial = check_golden.replay(archive, "at_rwp_partial", torch.float64)
    key = "conv1.weight"
    assert not np.allclose(full[f"at_rwp_all/v/{key}"], partial[f"at_rwp_partial/v/{key}"])


def test_no_loss_lies_on_the_threshold(archive, monkeypatch):
    """Or the mask, and with it every array of the case, would hang on a processor's last bit."""
    margins = []

    def perturb_weights(model, losses, perturbation):
        def watched():
            found = losses()
            margins.append(float((found.criterion - perturbation.c_min).abs().min()))
            return found

        return core.perturb_weights(model, watched, perturbation)

    monkeypatch.setattr(check_golden, "perturb_weights", perturb_weights)
    check_golden.replay(archive, "at_rwp_partial", torch.float64)
    assert len(margins) == 3 * check_golden.NUM_WEIGHT_STEPS
    assert min(margins) > 5e-7


@pytest.mark.parametrize(
    "key", ["at_awp/v/conv1.weight", "at/loss/2", "trades/final/bn1.num_batches_tracked"]
)
def test_a_planted_deviation_is_found(archive, tmp_path, capsys, key):
    planted = dict(archive)
    planted[key] = planted[key] + np.ones_like(planted[key])
    np.savez(tmp_path / "planted.npz", **planted)
    assert check_golden.main([str(tmp_path / "planted.npz")]) == 1
    over = [line for line in capsys.readouterr().out.splitlines() if "OVER" in line]
    assert len(over) == 1
    assert key in over[0]


def test_other_batch_sizes_and_step_counts_are_checked(archive, tmp_path):
    shorter = dict(archive)
    for name in ("x_clean", "x_adv", "y"):
        shorter[name] = archive[name][:2, :10]
    for case in check_golden.CASES:
        replayed = check_golden.replay(shorter, case, torch.float64)
        shorter = {k: v for k, v in shorter.items() if not k.startswith(f"{case}/")} | replayed
    np.savez(tmp_path / "shorter.npz", **shorter)
    assert check_golden.main([str(tmp_path / "shorter.npz")]) == 0


def test_nan_and_missing_arrays_are_deviations():
    expected = np.ones(3)
    assert check_golden.deviation(expected, np.array([1.0, np.nan, 1.0])) == np.inf
    assert check_golden.deviation(expected, None) == 1.0
    assert check_golden.deviation(np.zeros(3), None) == 0.0
    assert check_golden.deviation(np.zeros(3), np.full(3, 1e-30)) == np.inf


@pytest.mark.parametrize("content", [b"", b"not an archive"])
def test_a_foreign_file_is_refused(tmp_path, capsys, content):
    (tmp_path / "foreign.npz").write_bytes(content)
    assert check_golden.main([str(tmp_path / "foreign.npz")]) == 2
    assert "expected a .npz archive" in capsys.readouterr().err


def test_an_archive_without_the_arrays_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert check_golden.main([str(tmp_path / "other.npz")]) == 2
    assert "x_clean" in capsys.readouterr().err
