"""What a source delivers, and the seed of the splits that belong to the data."""

from __future__ import annotations

from dataclasses import dataclass, field

from rwp.data.images import ImageSet

# One fixed seed for the splits that belong to the data itself (the digits' test images, the
# unlabeled share): runs with different seeds must still see the same data set.
SPLIT_SEED = 0


@dataclass(frozen=True)
class SourceData:
    """What a source delivers: both splits and what the passport says of them."""

    train: ImageSet
    test: ImageSet
    class_names: list[str]
    origin: str
    license: str
    notes: list[str] = field(default_factory=list)  # what was done to images, and what to know
