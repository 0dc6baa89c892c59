"""To which experts tokens go: how many of them are touched, and how much more than the mean the busiest GPU has to do.

Models are trained to use their experts evenly, so whole runs are predicted with ``uniform_routing``; kernels are timed with other kinds, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from catalog.parts import Experts
    from catalog.schema import Model
    from catalog.units import Array

MOST_OF_TOKENS = 0.8
"""Share of the tokens that the most popular expert gets before loads are scaled to their sum, as AIConfigurator draws them
(``collector/helper.py``), ..."""
FEW_TOKENS_RANGE = 200.0
"""... and its load over that of the least popular where there are fewer choices than experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Where n steps' tokens go; arrays have shape (n,)."""

    touched: Array
    """Experts of a layer that get a token, on all GPUs together."""
    busiest: Array
    """Load of the busiest GPU over the mean load."""


def experts_touched(experts: Experts | Model, tokens: Array) -> Array:
    """Return the distinct experts that ``tokens`` tokens are routed to, if routing is uniform: N(1-(1-k/N)^B)."""
    share = experts.num_experts_per_tok / experts.num_experts
    untouched: Array = np.expm1(np.maximum(tokens, 1.0) * np.log1p(-min(share, 1.0 - 1e-12)))
    return experts.num_experts * -untouched


def expert_imbalance(experts: Experts | Model, tokens: Array, ep: Array) -> Array:
    """Return the load of the busiest of ``ep`` GPUs over the mean load.

    The largest of ep bins after m*ep balls: m + sqrt(2 m ln ep) (Raab and Steger, 1998, the case of many balls).
    """
    mean = np.maximum(tokens, 1.0) * experts.num_experts_per_tok / ep
    return np.minimum(1.0 + np.sqrt(2.0 * np.log(np.maximum(ep, 1.0)) / mean), ep)


def uniform_routing(experts: Experts, tokens: Array, ep: Array) -> Routing:
    """Return where tokens go that are drawn evenly; ``ep``: GPUs that whole experts are spread over, 1 where they are sliced."""
    busiest = np.where(ep > 1, expert_imbalance(experts, tokens, ep), 1.0)
    return Routing(touched=experts_touched(experts, tokens), busiest=busiest)


def balanced_routing(experts: Experts, tokens: Array) -> Routing:
    """Return where tokens go that are dealt out in turn: every expert gets one before any gets two."""
    chosen = np.maximum(tokens, 1.0) * experts.num_experts_per_tok
    return Routing(touched=np.minimum(chosen, experts.num_experts), busiest=np.ones_like(tokens))


def power_law_routing(experts: Experts, tokens: Array, ep: Array, exponent: Array) -> Routing:
    """Return where tokens go if the experts' loads x have a density proportional to x^-exponent.

    The loads are the quantiles of that density; the busiest of groups of N/ep experts, put together at random, has its mean and
    sqrt(2 ln ep) standard deviations more (the largest of ep Gaussians), beside what single tokens do (``expert_imbalance``).
    """
    number, top = experts.num_experts, experts.num_experts_per_tok
    tokens = np.maximum(tokens, 1.0)
    largest = np.where(tokens * top <= number, FEW_TOKENS_RANGE, np.maximum(MOST_OF_TOKENS * tokens, 1.0 + 1e-9))
    power = np.where(np.abs(1.0 - exponent) < 1e-9, 1e-9, 1.0 - exponent)[:, None]
    places = (np.arange(number) + 0.5) / number
    loads = ((largest[:, None] ** power - 1.0) * places + 1.0) ** (1.0 / power)
    chance = np.minimum(top * loads / loads.sum(axis=1, keepdims=True), 1.0 - 1e-12)
    touched = -np.expm1(tokens[:, None] * np.log1p(-chance)).sum(axis=1)
    held = number / ep
    spread = loads.std(axis=1) / loads.mean(axis=1) / np.sqrt(held)
    apart = np.sqrt(2.0 * np.log(np.maximum(ep, 1.0))) * spread
    busiest = np.where(ep > 1, np.minimum(expert_imbalance(experts, tokens, ep) + apart, ep), 1.0)
    return Routing(touched=np.minimum(touched, tokens * top), busiest=busiest)
