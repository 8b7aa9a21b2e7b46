"""The published data sets, as far as anything rests on what their files hold. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Official:
    """What a published set holds."""

    num_train: int
    num_test: int
    num_classes: int
    smallest_class: int  # training images
    side: int  # pixels
    channels: int
    license: str


_KRIZHEVSKY = "no license stated; the authors ask to cite Krizhevsky (2009)"
# Sets with official files, which a `mirror` may hold.
OFFICIAL = {
    "cifar10": Official(50_000, 10_000, 10, 5000, 32, 3, _KRIZHEVSKY),
    "cifar100": Official(50_000, 10_000, 100, 500, 32, 3, _KRIZHEVSKY),
    "svhn": Official(
        *(73_257, 26_032, 10, 4659, 32, 3),
        "for non-commercial use only; the authors ask to cite Netzer et al. (2011)",
    ),
}
# scikit-learn's digits have no split of their own: the share of the test images is a setting.
DIGITS_IMAGES, DIGITS_SIDE, DIGITS_CLASSES = 1797, 8, 10
