"""AutoAttack in the L1 norm: inside the ball, and as the package itself has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rwp.data.images import ImageSet
from rwp.evaluation.attacks import perturbation_sizes
from rwp.training.spec import ThreatSpec
from tests.evaluation.samples import autoattack_spec
from tests.evaluation.test_autoattack import package_flags
from tests.evaluation.workers import SEED, short_autoattack


def test_l1_sizes_are_sums() -> None:
    images = torch.zeros(2, 1, 2, 2)
    moved = images.clone()
    moved[0, 0] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert perturbation_sizes(moved, images, norm="l1").tolist() == pytest.approx([1.0, 0.0])


def test_autoattack_in_l1(robust_model: nn.Module, images: ImageSet) -> None:
    spec = autoattack_spec(threat=ThreatSpec(norm="l1", epsilon="2"))
    result = short_autoattack(robust_model, images, None, attack=spec)
    expected = package_flags(robust_model, images, norm="L1", eps=2.0, seed=SEED)
    assert np.array_equal(result.robust, expected)
    assert 1.9 < result.max_perturbation <= 2.0 + 1e-3
    assert 0 < result.robust.sum() < result.clean_correct.sum()
