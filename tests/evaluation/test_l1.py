"""Sizes of perturbations in the L1 norm."""

from __future__ import annotations

import pytest
import torch

from rwp.evaluation.attacks import perturbation_sizes


def test_l1_sizes_are_sums() -> None:
    images = torch.zeros(2, 1, 2, 2)
    moved = images.clone()
    moved[0, 0] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    assert perturbation_sizes(moved, images, norm="l1").tolist() == pytest.approx([1.0, 0.0])
