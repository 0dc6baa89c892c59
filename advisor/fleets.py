"""Replicas of one layout on one kind of GPU: how many of them keep the limits of a question, by simulating them all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from advisor.serving.runs import saturation_rate, serve
from advisor.serving.traffic import Traffic, open_loop
from advisor.simulation import LIMITS, draws_of, scale_of, times_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.knowledge import Knowledge
    from advisor.schedule import Setting
    from advisor.serving.runs import Scheduler, Served
    from advisor.serving.steps import StepTimes
    from advisor.surrogate import Marginal, Scale
    from catalog.schema import Cluster, Deployment, Slo, Workload

MOST_REPLICAS = 1000
"""That are tried of one layout."""
ALONE = 200
"""Requests that are served one by one to see what latencies there are without any load."""
APART_S = 1e5
"""Between those: longer than any of them takes."""
BRIEF = 4
"""A guess at the number of replicas takes one request of so many."""
HALVINGS = 6
"""Of the range in which the largest rate lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What is asked of every candidate."""

    workload: Workload
    """With the rate, headroom included."""
    slo: Slo
    confidence: float
    duration_s: float
    seed: int
    spread: float
    burstiness: float
    draws: int
    longest: int

    def traffic(self) -> Traffic:
        return open_loop(
            self.workload, duration_s=self.duration_s, longest=self.longest, seed=self.seed, spread=self.spread,
            burstiness=self.burstiness,
        )  # fmt: skip

    def times(self, *, rate: float = 1.0, input_len: float = 1.0, output_len: float = 1.0) -> Demand:
        """The same with rate and lengths multiplied, and as many requests."""
        asked = self.workload
        assert asked.rate is not None
        changed = replace(
            asked, rate=asked.rate * rate, input_len=max(round(asked.input_len * input_len), 1),
            output_len=max(round(asked.output_len * output_len), 1),
        )  # fmt: skip
        return replace(self, workload=changed, duration_s=self.duration_s / rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a fleet makes of the traffic: at the percentile of the limits, or on the mean."""

    latencies: Mapping[str, float]
    """Milliseconds by metric."""
    upper: Mapping[str, float]
    """The same at the wanted confidence."""
    excess: float
    """Largest ratio of one of those to its limit; the limits are kept up to 1."""

    @property
    def meets(self) -> bool:
        return self.excess <= 1.0


@dataclass(kw_only=True)
class Fleet:
    """Any number of replicas of one layout."""

    cluster: Cluster
    deployment: Deployment
    """Of one replica, resolved."""
    setting: Setting
    scheduler: Scheduler
    marginal: Marginal
    knowledge: Knowledge
    demand: Demand
    most: int = MOST_REPLICAS
    """Replicas that there are GPUs for."""

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.deployment.tp * self.deployment.pp

    @cached_property
    def times(self) -> StepTimes:
        return times_of(self.setting, self.scheduler)

    @cached_property
    def drawn(self) -> list[StepTimes]:
        """Step times under other parameters, drawn from what is believed of them."""
        draws = draws_of(self.marginal, self.knowledge, self.deployment, self.demand.draws)
        return [
            times_of(replace(self.setting, parameters=parameters), self.scheduler).scaled(factor)
            for parameters, factor in draws
        ]

    @property
    def scale(self) -> Scale:
        return scale_of(self.knowledge, self.marginal, self.deployment)

    @cached_property
    def traffic(self) -> Traffic:
        return self.demand.traffic()

    @cached_property
    def brief(self) -> Traffic:
        """The beginning of the traffic."""
        return _beginning(self.traffic, max(len(self.traffic) // BRIEF, 1))

    @cached_property
    def saturation_s(self) -> float:
        """Requests a second that one replica completes when there are always more waiting."""
        return saturation_rate(self.traffic, self.times, self.scheduler)

    @cached_property
    def least(self) -> int:
        """Replicas below which the queue grows for ever."""
        assert self.demand.workload.rate is not None
        return max(math.ceil(self.demand.workload.rate / self.saturation_s), 1)

    @cached_property
    def alone(self) -> Verdict:
        """Of requests that meet no other: no number of replicas makes them faster."""
        few = _beginning(self.traffic, ALONE)
        apart = replace(few, arrival_s=np.arange(len(few), dtype=float) * APART_S, duration_s=len(few) * APART_S)
        return self._judged(1, apart, apart)

    def for_demand(self, demand: Demand) -> Fleet:
        """The same layout under another demand."""
        return replace(self, demand=demand)

    def verdict(self, replicas: int) -> Verdict:
        """Of all the traffic on so many replicas."""
        return self._judged(replicas, self.traffic, self.brief)

    def needed(self, *, confirm: bool = True) -> int | None:
        """The fewest replicas that keep the limits; None where none of the numbers tried does.

        More replicas are taken to be no slower. The number is sought on the beginning of the traffic and, with
        ``confirm``, corrected on all of it.
        """
        if not self.alone.meets or self.least > self.most:
            return None
        low, step = self.least - 1, 1
        high = self.least
        while not self._judged(high, self.brief, self.brief).meets:
            if high == self.most:
                high += 1
                break
            low, high, step = high, min(high + step, self.most), 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            if self._judged(middle, self.brief, self.brief).meets:
                high = middle
            else:
                low = middle
        found = min(high, self.most)
        if not confirm:
            return found if high <= self.most else None
        while not self.verdict(found).meets:
            found += 1
            if found > self.most:
                return None
        while found > self.least and self.verdict(found - 1).meets:
            found -= 1
        return found

    def most_rate(self, replicas: int) -> float:
        """Requests a second up to which so many replicas keep the limits; 0 where not even a request alone does."""
        if not self.alone.meets:
            return 0.0
        rate = self.demand.workload.rate
        assert rate is not None
        low, high = 0.0, self.saturation_s * replicas
        if high > rate and self.verdict(replicas).meets:
            low = rate
        for _ in range(HALVINGS + (2 if low == 0.0 else 0)):
            middle = (low + high) / 2.0
            if self._judged(replicas, _at(self.traffic, middle), _at(self.brief, middle)).meets:
                low = middle
            else:
                high = middle
        return low

    def sigmas(self, replicas: int, traffic: Traffic) -> dict[str, float]:
        """Standard deviations of the logarithms of the latencies, from draws."""
        here = self._statistics(serve(traffic, self.times, self._scheduler(replicas)))
        logs: dict[str, list[float]] = {name: [] for name in LIMITS}
        for table in self.drawn:
            there = self._statistics(serve(traffic, table, self._scheduler(replicas)))
            for name in LIMITS:
                if here[name] > 0 and there[name] > 0:
                    logs[name].append(math.log(there[name] / here[name]) ** 2)
        return {name: math.sqrt(sum(each) / len(each)) if each else 0.0 for name, each in logs.items()}

    def intervals(self, replicas: int, latencies: Mapping[str, float], level: float) -> dict[str, tuple[float, float]]:
        """Within which the latencies are expected with probability ``level``."""
        quantile = self.scale.at(level)
        factors = {
            name: math.exp(min(quantile * sigma, 50.0)) for name, sigma in self.sigmas(replicas, self.brief).items()
        }
        return {name: (value / factors[name], value * factors[name]) for name, value in latencies.items()}

    def _scheduler(self, replicas: int) -> Scheduler:
        return replace(self.scheduler, replicas=replicas)

    def _statistics(self, served: Served) -> dict[str, float]:
        percentile = self.demand.slo.percentile
        if percentile is None:
            return {name: served.mean(name) for name in LIMITS}
        return {name: served.percentile(name, percentile) for name in LIMITS}

    def _judged(self, replicas: int, traffic: Traffic, brief: Traffic) -> Verdict:
        latencies = self._statistics(serve(traffic, self.times, self._scheduler(replicas)))
        upper = latencies
        level = 2.0 * self.demand.confidence - 1.0
        if level > 0:
            quantile = self.scale.at(level)
            sigmas = self.sigmas(replicas, brief)
            upper = {name: value * math.exp(min(quantile * sigmas[name], 50.0)) for name, value in latencies.items()}
        limits = {name: limit for name in LIMITS if (limit := getattr(self.demand.slo, name)) is not None}
        # A request of one token has no TPOT and keeps any limit of it.
        excess = max(0.0 if math.isnan(upper[name]) else upper[name] / limit for name, limit in limits.items())
        return Verdict(latencies=latencies, upper=upper, excess=excess)


def _beginning(traffic: Traffic, count: int) -> Traffic:
    """Its first requests."""
    if count >= len(traffic):
        return traffic
    return replace(
        traffic, arrival_s=traffic.arrival_s[:count], input_len=traffic.input_len[:count],
        output_len=traffic.output_len[:count], duration_s=float(traffic.arrival_s[count]),
    )  # fmt: skip


def _at(traffic: Traffic, rate: float) -> Traffic:
    """The same requests, faster or slower."""
    assert traffic.rate
    factor = traffic.rate / rate
    return replace(traffic, arrival_s=traffic.arrival_s * factor, duration_s=traffic.duration_s * factor)
