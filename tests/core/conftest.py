"""Every call into rwp.core made by these tests has its shapes and types checked."""

import sys

import jaxtyping
import pytest
import torch
from tests.core import typechecker

# Before anything below imports rwp.core; where it is imported already, it stays unchecked.
if "rwp.core" not in sys.modules:
    jaxtyping.install_import_hook("rwp.core", f"{typechecker.__name__}.checked")

from tests.core.helpers import Batch, small_batch, small_network


@pytest.fixture(autouse=True)
def _quiet_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def network():
    return small_network()


@pytest.fixture
def batch() -> Batch:
    return small_batch()
