"""A TRADES-RWP step on a network, compiled and not: both must come to the same."""

from typing import Any

import torch
from tests.core.helpers import closure, generator, small_batch, small_network

from rwp.core import ThreatModel, make_objective, robust_weight_perturbation, shifted_weights


def step(*, compiled: bool) -> dict[str, Any]:
    network, batch = small_network(torch.float32), small_batch(torch.float32)
    runner = torch.compile(network, backend="aot_eager") if compiled else network
    adversarial = make_objective("trades", beta=6.0).attack(
        runner,
        *batch[::2],
        threat=ThreatModel("linf", 0.03),
        step_size=0.01,
        num_steps=2,
        generator=generator(),
        bn_mode="eval",
    )
    losses = closure(runner, batch._replace(adversarial=adversarial), "trades", beta=6.0)
    found = robust_weight_perturbation(runner, losses, gamma=0.1, c_min=1e9, num_steps=3)
    with shifted_weights(runner, found.offset):
        outer = losses()
        outer.objective.mean().backward()
    gradients = {f"grad {name}": p.grad for name, p in network.named_parameters()}
    return network.state_dict() | gradients | {"objective": outer.objective.detach()}


def main() -> None:
    plain, compiled = step(compiled=False), step(compiled=True)
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, msg=name, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    main()
