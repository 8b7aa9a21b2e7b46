"""The activation of the networks: ReLU as published, SiLU in newer recipes."""

from collections.abc import Callable
from typing import get_args

import torch.nn.functional as F
from torch import Tensor

from rwp.core.settings import ActivationName, check_choice


def activation_function(name: ActivationName) -> Callable[[Tensor], Tensor]:
    """The function of that name: "relu", or "silu", x times its logistic function.

    Raises:
        ValueError: another name.
    """
    check_choice("activation", name, get_args(ActivationName))
    return {"relu": F.relu, "silu": F.silu}[name]
