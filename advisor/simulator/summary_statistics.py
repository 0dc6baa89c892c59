"""What is told of traffic that was served: statistics, rates, curves, and how far draws lie apart in them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from advisor.simulator.request_results import BINS, METRICS
from advisor.simulator.scheduler import SETTLING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.simulator.arrivals import Arrivals, ArrivalStream
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.scheduler import Scheduler
    from advisor.simulator.streaming_statistics import StreamingStatistics
    from catalog.schema import Slo
    from catalog.units import Array

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
BESIDE = {"ttft_ms": 0.06, "tpot_ms": 0.0, "itl_ms": 0.0, "e2e_ms": 0.0, "rates": 0.0}
"""Standard deviation of the logarithm by which simulated traffic is off beside what the times of its steps are off by: how
arrivals fall on steps decides the first token. From the errors on vLLM's runs with the role "fit" (1.48 times their
median, less the spread of the draws; ``python -m advisor.validation.simulator_accuracy``)."""


def numbers(
    served: RequestResults | StreamingStatistics, traffic: Arrivals | ArrivalStream, slo: Slo | None
) -> dict[tuple[str, str], float]:
    """Return statistics by metric and name, and the rates under "rates"."""
    percentiles = [*PERCENTILES]
    if slo is not None and slo.percentile is not None and slo.percentile not in percentiles:
        percentiles.append(slo.percentile)
    statistics = {(name, "mean"): served.mean(name) for name in METRICS}
    for name in METRICS:
        values = served.curve(name, np.array(percentiles))
        statistics |= {
            (name, f"p{percentile:g}"): float(value) for percentile, value in zip(percentiles, values, strict=True)
        }
    begin = SETTLING * traffic.duration_s if traffic.concurrency else 0.0
    length = traffic.duration_s - begin
    tokens = served.bins[round(begin / served.bin_s) : BINS, 4].sum() / length
    completed = served.completed(begin, traffic.duration_s) / length
    rate = completed if traffic.concurrency else len(served) / traffic.duration_s  # those refused left out
    return statistics | {
        ("rates", "completed_s"): completed,
        ("rates", "output_tok_s"): float(tokens),
        ("rates", "goodput_s"): served.good(slo.limits if slo else {}) * rate,
    }


def meets(served: RequestResults | StreamingStatistics, slo: Slo | None) -> bool | None:
    """Return whether the limits are kept; None without limits."""
    limits = slo.limits if slo else {}
    if slo is None or not limits:
        return None
    if slo.percentile is None:
        return all(not served.mean(name) > limit for name, limit in limits.items())
    return all(not served.percentile(name, slo.percentile) > limit for name, limit in limits.items())


def spreads(
    base: Mapping[tuple[str, str], float], others: Sequence[Mapping[tuple[str, str], float]]
) -> dict[str, dict[str, float]]:
    """Return standard deviations of the logarithms, by metric and name."""
    sigmas: dict[str, dict[str, float]] = {}
    for (owner, name), value in base.items():
        pairs = [(value, other[owner, name]) for other in others if value > 0 and other[owner, name] > 0]
        logs = [math.log(there / here) ** 2 for here, there in pairs]
        spread = math.sqrt(sum(logs) / len(logs)) if logs else 0.0
        sigmas.setdefault(owner, {})[name] = math.hypot(spread, BESIDE[owner]) if others else 0.0
    return sigmas


def timeline(served: RequestResults | StreamingStatistics, scheduler: Scheduler) -> dict[str, Array]:
    """Return the curves of ``Simulation.timeline``."""
    busy, running, waiting, blocks, tokens, preemptions = served.bins[:BINS].T
    some = np.maximum(busy, 1e-12)
    return {
        "time_s": (np.arange(BINS, dtype=float) + 0.5) * served.bin_s,
        "running": running / some,
        "waiting": waiting / some,
        "kv_share": blocks / some / scheduler.kv_blocks,
        "busy": busy / served.bin_s / scheduler.replicas,
        "output_tok_s": tokens / served.bin_s,
        "preemptions_s": preemptions / served.bin_s,
    }
