"""AWP held against the trainer of the Adversarial Robustness Toolbox, by the numbers it gave."""

from pathlib import Path

import numpy as np
import pytest
from benchmarks import beside_art

ARCHIVE = Path(__file__).parents[1] / "reference" / "art_awp.npz"
# In the running statistics the toolbox counts TRADES' clean batch first, we the adversarial one.
STATISTICS = {"PGD": 1e-5, "TRADES": 1e-3}


@pytest.mark.parametrize("mode", STATISTICS)
def test_three_steps_are_those_of_the_toolbox(mode):
    theirs, ours = np.load(ARCHIVE), beside_art.our_steps(mode)
    prefix = f"{mode.lower()}/"
    assert {name.removeprefix(prefix) for name in theirs if name.startswith(prefix)} == set(ours)
    start = beside_art.network().state_dict()
    for name, value in ours.items():
        limit = STATISTICS[mode] if "running" in name else 1e-6
        np.testing.assert_allclose(value, theirs[f"{mode.lower()}/{name}"], rtol=0, atol=limit)
        if name.endswith("weight"):
            assert np.abs(value - start[name].numpy()).max() > 10 * limit, name  # they moved
