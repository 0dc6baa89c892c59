"""What is told of traffic that was served: statistics, rates, curves, and how far the ends of their intervals lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.simulator.request_results import BINS, METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from advisor.simulator.arrivals import Arrivals, ArrivalStream
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.scheduler import Scheduler
    from advisor.simulator.streaming_statistics import StreamingStatistics
    from catalog.schema import Slo
    from catalog.units import Array

SHARES = "shares"
"""Owner of what lies between 0 and 1."""
HIT_RATE = "hit_rate"
"""Share of the prompts' tokens that the prefix cache had."""
PERCENTILES = (50.0, 90.0, 95.0, 99.0)
BESIDE = {"ttft_ms": 0.06, "tpot_ms": 0.0, "itl_ms": 0.0, "e2e_ms": 0.0, "rates": 0.0, "shares": 0.0}
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
    begin = traffic.settled_s
    end = served.end_s if traffic.counted_out else traffic.duration_s
    length = end - begin
    last = BINS + 1 if traffic.counted_out else BINS
    tokens = served.bins[round(begin / served.bin_s) : last, 4].sum() / length
    completed = served.completed(begin, np.inf if traffic.counted_out else end) / length
    if traffic.sharing is not None:
        statistics[SHARES, HIT_RATE] = surely_between(served.hit_rate, len(served))
    return statistics | {
        ("rates", "completed_s"): completed,
        ("rates", "output_tok_s"): float(tokens),
        ("rates", "goodput_s"): served.good(slo.limits if slo else {}) * completed,
        (SHARES, "good"): surely_between(served.good(slo.limits if slo else {}), len(served)),
    }


def meets(served: RequestResults | StreamingStatistics, slo: Slo | None) -> bool | None:
    """Return whether the limits are kept; None without limits."""
    limits = slo.limits if slo else {}
    if slo is None or not limits:
        return None
    if slo.percentile is None:
        return all(not served.mean(name) > limit for name, limit in limits.items())
    return all(not served.percentile(name, slo.percentile) > limit for name, limit in limits.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class NearerEnd:
    """A lower level than that of the ends, at which traffic was served, too: what lies between is no straight line near an edge."""

    quantile: float
    """Of that level,"""
    end: float
    """and of the ends."""
    down: float
    """Standard deviations at that level, like those of the ends."""
    up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far a quantity may lie below and above the summary, as standard deviations of its logarithm, or of the log-odds of
    a share. Apart, for near an edge (a limit, saturation) one side is a cliff and the other is not.
    """

    down: float
    up: float
    nearer: NearerEnd | None = None

    @classmethod
    def between(cls, steps: Sequence[float], quantile: float, beside: float = 0.0) -> Spread:
        """Measure from the steps to the ends of an interval ``quantile`` wide; ``beside``: of what they leave out."""
        down, up = (max([0.0, *(side * step for step in steps)]) / quantile for side in (-1.0, 1.0))
        return cls(down=math.hypot(down, beside), up=math.hypot(up, beside))

    def with_nearer(self, step: float, quantile: float, end: float, beside: float = 0.0) -> Spread:
        """Return the same with the step to a nearer end, ``quantile`` away where the ends are ``end`` away. The other side stays a
        straight line, and no nearer end is further away than the end behind it.
        """
        size = math.hypot(step / quantile, beside)
        down = min(size, self.down * end / quantile) if step < 0.0 else self.down
        up = min(size, self.up * end / quantile) if step > 0.0 else self.up
        return replace(self, nearer=NearerEnd(quantile=quantile, end=end, down=down, up=up))

    def beside(self, sigma: float) -> Spread:
        """Add an independent error."""
        return self._changed(lambda own: math.hypot(own, sigma))

    def at_least(self, sigma: float) -> Spread:
        """Return the same, but no narrower than that to either side."""
        return self._changed(lambda own: max(own, sigma))

    def _changed(self, change: Callable[[float], float]) -> Spread:
        nearer = self.nearer
        if nearer is not None:
            nearer = replace(nearer, down=change(nearer.down), up=change(nearer.up))
        return Spread(down=change(self.down), up=change(self.up), nearer=nearer)

    def steps(self, quantile: float) -> tuple[float, float]:
        """Return how far down and up an interval ``quantile`` wide reaches."""
        near = self.nearer
        if near is None or quantile >= near.end:
            return quantile * self.down, quantile * self.up
        if quantile <= near.quantile:
            return quantile * near.down, quantile * near.up
        share = (quantile - near.quantile) / (near.end - near.quantile)
        inner, outer = (near.quantile * near.down, near.quantile * near.up), (near.end * self.down, near.end * self.up)
        return (1.0 - share) * inner[0] + share * outer[0], (1.0 - share) * inner[1] + share * outer[1]

    def around(self, value: float, quantile: float) -> tuple[float, float]:
        """Return the interval of a quantity above 0."""
        down, up = self.steps(quantile)
        return value / _factor(down), value * _factor(up)

    def around_share(self, share: float, quantile: float) -> tuple[float, float]:
        """Return the interval of a share strictly between 0 and 1, by its log-odds."""
        odds, (down, up) = share / (1.0 - share), self.steps(quantile)
        low, high = odds / _factor(down), odds * _factor(up)
        return low / (1.0 + low), high / (1.0 + high)


def _factor(log: float) -> float:
    return math.exp(min(log, 50.0))


def spreads(
    base: Mapping[tuple[str, str], float], ends: Sequence[Mapping[tuple[str, str], float]], quantile: float
) -> dict[str, dict[str, Spread]]:
    """Measure how far what is met at both ends of an interval lies from what is told, by owner and name."""
    sigmas: dict[str, dict[str, Spread]] = {}
    for (owner, name), value in base.items():
        steps = [_step(owner, value, end[owner, name]) for end in ends]
        known = [step for step in steps if not math.isnan(step)]
        beside = BESIDE[owner] if ends else 0.0
        sigmas.setdefault(owner, {})[name] = Spread.between(known, quantile, beside)
    return sigmas


def with_nearer_end(
    sigmas: Mapping[str, Mapping[str, Spread]],
    base: Mapping[tuple[str, str], float],
    there: Mapping[tuple[str, str], float],
    quantile: float,
    end: float,
) -> dict[str, dict[str, Spread]]:
    """Return spreads with what is met at a nearer end, ``quantile`` away where those were measured ``end`` away."""
    changed = {owner: dict(spreads) for owner, spreads in sigmas.items()}
    for (owner, name), value in base.items():
        step = _step(owner, value, there[owner, name])
        if not math.isnan(step):
            changed[owner][name] = changed[owner][name].with_nearer(step, quantile, end, BESIDE[owner])
    return changed


def latency_intervals(
    latencies: Mapping[str, float], ends: Sequence[Mapping[str, float]], quantile: float
) -> dict[str, tuple[float, float]]:
    """Return the intervals, in ms by metric, of latencies between what they are at both ends of their steps' times, or at one,
    ``quantile`` standard deviations away.
    """
    named = [{(name, ""): value for name, value in some.items()} for some in (latencies, *ends)]
    sigmas = spreads(named[0], named[1:], quantile)
    intervals = {name: sigmas[name][""].around(value, quantile) for name, value in latencies.items()}
    if {"ttft_ms", "e2e_ms"} <= intervals.keys():
        (low, high), last = intervals["ttft_ms"], intervals["e2e_ms"][1]
        intervals["ttft_ms"] = low, first_within(latencies["ttft_ms"], high, last)
    return intervals


def first_within(first_ms: float, upper_ms: float, last_ms: float) -> float:
    """Return the upper end of the time to the first token: none comes after the last one."""
    return max(min(upper_ms, last_ms), first_ms)


def _step(owner: str, here: float, there: float) -> float:
    """Return the step from one value to another on the scale of its kind; NaN where there is none."""
    if not (here > 0 and there > 0):
        return math.nan
    if owner == SHARES:
        return math.log(there / (1.0 - there)) - math.log(here / (1.0 - here))
    return math.log(there / here)


def surely_between(share: float, count: int) -> float:
    """Move a share of so many away from 0 and 1 by half of one, so that it has log-odds (Haldane, 1956; Anscombe,
    1956).
    """
    return (share * count + 0.5) / (count + 1.0)


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
