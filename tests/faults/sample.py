"""All of the fault matrix, or a part of it.

RWP_FAULTS_SAMPLE names what the part is drawn from. The first lines
of the tests say it, so that the same part can be run again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import TypeVar

VARIABLE = "RWP_FAULTS_SAMPLE"
T = TypeVar("T")


def drawn_from() -> str | None:
    """What the sample is drawn from; None: everything is run."""
    return os.environ.get(VARIABLE) or None


def sample(name: str, whole: Sequence[T], count: int) -> list[T]:
    """`count` of the things to try, in their order, or all of them; `name` tells draws apart."""
    source = drawn_from()
    if source is None or count >= len(whole):
        return list(whole)
    places = random.Random(f"{source} {name}").sample(range(len(whole)), count)
    return [whole[place] for place in sorted(places)]


def share(tries: int, *, of: int = 8) -> int:
    """How many of many equal tries: the first ones."""
    return tries if drawn_from() is None else max(tries // of, 5)


def headline() -> str:
    """For the first lines of the tests."""
    source = drawn_from()
    if source is None:
        return "faults: all of them"
    return (
        f"faults: a sample; `{VARIABLE}={source} make test-faults` repeats it,"
        " `make test-faults` runs all"
    )
