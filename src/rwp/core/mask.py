"""The mask V of Algorithm 1: which examples of a batch the weight perturbation works on (Eq. 9)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rwp.core.process_group import ALONE, Group
from rwp.core.settings import WeightPerturbation

Bounds = tuple[Tensor | float, Tensor | float]


def select(
    losses: Float[Tensor, " batch"],
    perturbation: WeightPerturbation,
    generator: torch.Generator | None,
    group: Group = ALONE,
    bounds: Bounds | None = None,
) -> Bool[Tensor, " batch"]:
    """The examples whose loss the perturbation raises: the indicator V of the paper's Eq. 9.

    The random mask is drawn for the batch of all processes of the group; a function is given the
    losses of all of them. `bounds` are c_min and c_max where they were found before; None: those
    of these losses.

    Raises:
        ValueError: a function returns something else than one boolean per example.
    """
    # Settings without a threshold that their mask needs have been refused.
    if callable(perturbation.mask):
        given = group.gathered(losses.detach())
        chosen: Tensor = perturbation.mask(given, generator)
        if chosen.shape != given.shape or chosen.dtype != torch.bool:
            raise ValueError(
                f"mask: expected booleans {tuple(given.shape)}, one per example, got "
                f"{chosen.dtype} {tuple(chosen.shape)}; return a comparison of the losses"
            )
        # One that draws may draw otherwise in each process: the first one's is taken.
        return group.part(group.total(chosen.long() * group.leads) > 0)
    c_min, c_max = bounds or loss_bounds(losses, perturbation, group)
    if perturbation.mask == "all":
        return torch.ones_like(losses, dtype=torch.bool)
    if perturbation.mask == "above":
        return losses >= c_min
    if perturbation.mask == "range":
        return (losses >= c_min) & (losses < c_max)
    below = losses < c_min
    if perturbation.mask == "below":
        return below
    # "random": as many as are below
    return as_many_at_random(below, generator=generator, group=group)


def loss_bounds(
    losses: Float[Tensor, " batch"], perturbation: WeightPerturbation, group: Group = ALONE
) -> Bounds:
    """c_min and c_max of a batch: as set, or quantiles of its losses; NaN where there is none.

    The quantile q of n losses is the smallest that ceil(q n) of them are below, infinity where
    these are all; of equal losses there it takes all.
    """
    given = (perturbation.c_min, perturbation.c_max)
    c_min, c_max = (math.nan if threshold is None else threshold for threshold in given)
    quantiles = (perturbation.c_min_quantile, perturbation.c_max_quantile)
    if quantiles == (None, None):
        return c_min, c_max
    rising = group.gathered(losses.detach()).sort().values
    low, high = (
        threshold if quantile is None else _quantile(rising, quantile)
        for threshold, quantile in zip((c_min, c_max), quantiles, strict=True)
    )
    return low, high


def _quantile(rising: Float[Tensor, " batch"], quantile: float) -> Float[Tensor, ""]:
    rank = _rank(quantile, len(rising))
    infinity = torch.full_like(rising[0], math.inf)
    above = rising[rank] if rank < len(rising) else infinity
    if rank == 0:
        return above
    below = rising[rank - 1]
    # Not a denormal next to zero: where these are flushed it would be zero itself.
    tiny = torch.finfo(below.dtype).tiny
    next_above = torch.maximum(torch.nextafter(below, infinity), below + tiny)
    return torch.where(above == below, next_above, above)


def _rank(quantile: float, count: int) -> int:
    """The share of a count, rounded up, but not over rounding: 0.07 of 100 is 7 and not 8."""
    return math.ceil(round(quantile * count, 9))


def as_many_at_random(
    chosen: Bool[Tensor, " batch"],
    *,
    generator: torch.Generator | None = None,
    group: Group = ALONE,
) -> Bool[Tensor, " batch"]:
    """As many examples as are chosen, drawn at random: the control of a choice.

    Drawn for the batch of all processes of the group.
    """
    generator = generator or torch.default_generator
    batch_size = group.total(len(chosen))
    draw = torch.rand(batch_size, generator=generator, device=generator.device)
    return group.part(draw.argsort().argsort().to(chosen.device)) < group.total(chosen.sum())
