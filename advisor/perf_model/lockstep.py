"""Ranks that share their experts go in step: each waits for the one that computes most (attention data parallel).

With attention data parallel the layers' experts are spread over the ranks of a group, so that every layer of every rank meets those of
the others (vLLM: v1/engine/core.py, ``DPEngineCoreProc.run_busy_loop``). What a rank does by itself lasts as long as the longest of them;
the experts take the tokens of all. ``advisor.simulator.lockstep`` follows such steps one by one; here are their means in a steady state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from advisor.perf_model.cost import EXPERT_EXCHANGE, EXPERTS_DOWN, EXPERTS_UP, Cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.cost_model import CostModel
    from catalog.units import Array

ROUTED = (EXPERTS_UP, EXPERTS_DOWN, EXPERT_EXCHANGE)
"""What ranks that share experts do together."""


def ranks_in_step(cost_model: CostModel) -> Array:
    """Return how many replicas at a time wait for each other's prompts, shape (n,); 1: each goes on alone.

    Engines that let all ranks compute prompts at the same time (``aligns_prompts``), and groups with pipelines, count as if alone.
    """
    layout = cost_model.layout
    together = (layout.ep > layout.tp) & (layout.pp == 1) & (not cost_model.timing.aligns_prompts)
    return np.where(together, layout.ep / layout.tp, 1.0)


class LongestRank(NamedTuple):
    """Prompts in the steps of a group of ranks, beside those in the steps of one rank; arrays of shape (n,), all ones where it is one."""

    ranks: Array
    most: Array
    """Prompt tokens of the rank with most, of a step in which any has some, as a multiple of those of a rank's own such step."""
    mean: Array
    """The same of the mean rank."""


def longest_rank(cost_model: CostModel, prompts: Array, room: Array) -> LongestRank:
    """Return what ranks in a steady state wait for; 1 everywhere where ``cost_model.lockstep`` is off, and for a floor, which waits for nobody.

    Prompts come to ``d`` ranks independently of each other, to each as many in a step as a Poisson variable of mean ``prompts`` says: one
    rank computes some in min(prompts, 1) of its steps, any of them in 1 - (1 - that)^d; the rank with most has E[max of d] of them.

    Args:
        cost_model: of n deployments.
        prompts: prompts, or chunks of them, in a mean step of a rank, shape (n,).
        room: tokens of prompts that fit into a step, as a multiple of those that a rank's own step with prompts has, shape (n,).

    """
    one = np.ones_like(prompts)
    ranks = ranks_in_step(cost_model) * one if cost_model.lockstep and not cost_model.ideal else one
    together = ranks > 1
    if not together.any():
        return LongestRank(ranks, one, one)
    own = np.minimum(prompts, 1.0)
    mean = own / np.maximum(1.0 - (1.0 - own) ** ranks, 1e-12)
    excess = one.copy()
    excess[together] = most_of(prompts[together], ranks[together]) / np.maximum(prompts[together], 1e-12)
    most = np.clip(mean * excess, 1.0, np.maximum(room, 1.0))
    return LongestRank(ranks, np.where(together, most, 1.0), np.where(together, mean, 1.0))


def most_of(mean: Array, number: Array) -> Array:
    """Return the expected largest of ``number`` independent Poisson variables of a mean: the sum over k of P(any > k), shape (n,)."""
    highest = float(mean.max())
    k = np.arange(int(highest + 10.0 * np.sqrt(highest)) + 20.0)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(k[1:]))])
    logs = k * np.log(np.maximum(mean, 1e-12))[:, None] - mean[:, None] - factorials
    below = np.cumsum(np.exp(logs), axis=1)
    below = np.where(below > 1.0 - 1e-12, 1.0, below)
    # One after the other, so that a mean has the same result bit for bit beside any others.
    # Powers of broadcast numbers would round otherwise for one deployment than for several.
    wide = np.ascontiguousarray(np.broadcast_to(number[:, None], below.shape))
    return np.asarray(np.cumsum(1.0 - below**wide, axis=1)[:, -1])


def shared_experts(longest: Cost, mean: Cost, together: NDArray[np.bool_]) -> Cost:
    """Return the cost of a step of which experts take the tokens of the mean rank, and all else those of the longest, where ranks are
    ``together``.
    """
    times = {
        key: np.where(together, mean.times.get(key, 0.0), time) if key[0] in ROUTED else time
        for key, time in longest.times.items()
    }
    return Cost(times)
