"""The handwritten digits bundled with scikit-learn: real scans that need no network."""

from __future__ import annotations

import torch

from rwp.data.images import ImageSet, SourceData
from rwp.data.splits import SPLIT_SEED, stratified_split
from rwp.errors import UserError

_BRIGHTEST = 16  # the scans count ink in 4x4 cells


def load_digits(test_share: float | None) -> SourceData:
    """1,797 gray 8x8 digits, values scaled to 0..255, with a stratified test split.

    Raises:
        UserError: `test_share` is missing or leaves a split empty.
    """
    if test_share is None:
        raise UserError("test_share: expected a share in (0, 1) for digits, got none; set it")
    from sklearn.datasets import load_digits as bundled_digits

    bundle = bundled_digits()
    values = torch.from_numpy(bundle.images).unsqueeze(1)
    images = (values * (255 / _BRIGHTEST)).round().to(torch.uint8)
    digits = ImageSet(images, torch.from_numpy(bundle.target).long(), 10)
    train, test = stratified_split(digits.labels, test_share, SPLIT_SEED, "test")
    return SourceData(
        train=digits.select(train),
        test=digits.select(test),
        class_names=[str(digit) for digit in range(10)],
        origin="scikit-learn's bundled copy of the UCI test set of handwritten digits",
        license="CC BY 4.0 (UCI Optical Recognition of Handwritten Digits)",
    )
