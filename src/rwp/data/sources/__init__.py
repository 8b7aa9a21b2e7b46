"""Where images come from, one module per kind of source, and what each of them delivers."""

from __future__ import annotations

from dataclasses import dataclass, field

from rwp.data.images import ImageSet


@dataclass(frozen=True)
class SourceData:
    """What a source delivers: both splits and what the passport says of them."""

    train: ImageSet
    test: ImageSet
    class_names: list[str]
    origin: str
    license: str
    notes: list[str] = field(default_factory=list)  # what was done to images, and what to know
