"""Which of several deployments comes first: by what can be bet on, then the simpler one; and choices named where no limit decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.recommendation.problem import LEVEL_SHARE, OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.prediction.deployment_estimate import Estimate

MOST_THROUGHPUT, BALANCED, FASTEST = "most throughput", "balanced", "fastest"


def by_worse_end(estimates: Sequence[Estimate], objective: str) -> list[Estimate]:
    """Return estimates in the order of what can be bet on: the worse end of the objective's 90% interval.

    Of level ones that come first which leave fewer GPUs idle, have fewer pipeline stages, spread contexts and experts less, and slice less.
    """
    rest = sorted(estimates, key=lambda estimate: _worse_end(estimate, objective))
    ordered: list[Estimate] = []
    while rest:
        bound = _worse_end(rest[0], objective) + LEVEL_SHARE
        level = [estimate for estimate in rest if _worse_end(estimate, objective) <= bound]
        first = min(level, key=_complexity)
        ordered.append(first)
        rest = [estimate for estimate in rest if estimate is not first]
    return ordered


def _worse_end(estimate: Estimate, objective: str) -> float:
    """Return the logarithm of the worse end, of what is maximised its negative; infinity for what does not run."""
    metric, direction = OBJECTIVES[objective]
    value = getattr(estimate, metric)
    if not value:
        return float("inf")
    if metric == "usd_per_mtok":  # goes with the inverse of the throughput
        return float(np.log(value * (estimate.output_tok_s or 0.0) / estimate.interval("output_tok_s")[0]))
    low, high = estimate.interval(metric)
    return float(-np.log(low) if direction == "maximize" else np.log(high))


def _complexity(estimate: Estimate) -> tuple[int, ...]:
    deployment = estimate.deployment
    return -deployment.num_gpus, deployment.pp, deployment.dcp, deployment.ep, deployment.tp


def named_choices(best: Estimate, front: Sequence[Estimate]) -> Mapping[str, Estimate]:
    """Return the recommended deployment and two more of a front of speed for one user against throughput per GPU, equal ones once.

    Balanced is the front's knee: where the product of both, each scaled to 0 at its worst on the front and 1 at its best, is
    largest (of a straight front the middle).

    Args:
        best: what has most throughput.
        front: deployments of which none is beaten in both; those without a TPOT are left out.

    """
    members = [estimate for estimate in (best, *front) if estimate.tpot_ms and estimate.output_tok_s_per_gpu]
    if not members:
        return {}
    speed = np.array([1e3 / (estimate.tpot_ms or np.inf) for estimate in members])
    throughput = np.array([estimate.output_tok_s_per_gpu for estimate in members], dtype=float)
    picked = {
        MOST_THROUGHPUT: 0,
        BALANCED: int((_scaled(speed) * _scaled(throughput)).argmax()),
        FASTEST: int(speed.argmax()),
    }
    names: dict[str, Estimate] = {}
    for name, row in picked.items():
        if members[row] not in names.values():
            names[name] = members[row]
    return names


def _scaled(values: np.ndarray) -> np.ndarray:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else np.ones_like(values)
