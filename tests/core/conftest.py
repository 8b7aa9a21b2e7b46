"""A small network and a batch. `-p tests.core.typechecker` checks the shapes of all calls."""

import pytest
import torch
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
