"""Replicas of one layout on one kind of GPU: how many of them keep the limits of a question, by simulating them.

Of a fleet of many replicas some are simulated with their part of the traffic (``advisor.simulator.subsample``), for they are alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.fit_file import LEVELS
from advisor.perf_model.energy import GpuWork, Power, power_of
from advisor.prediction.inputs import BARE_ESTIMATE
from advisor.simulator.arrivals import Arrivals, open_loop
from advisor.simulator.conversations import NOTHING_SHARED, Conversations
from advisor.simulator.served_energy import served_work
from advisor.simulator.server import AggregatedServer
from advisor.simulator.slo_check import SloCheck, check_of, latencies_of
from advisor.simulator.subsample import sample
from advisor.simulator.summary_statistics import latency_intervals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.calibration.surrogate import IntervalScale
    from advisor.simulator.class_labels import TrafficClass
    from advisor.simulator.class_mix import ClassMix
    from advisor.simulator.disaggregated_server import DisaggregatedServer
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.traffic_question import TrafficQuestion
    from catalog.schema import Cluster, Slo, Workload

MOST_REPLICAS = 1000
"""That are tried of one layout."""
ALONE = 200
"""Requests that are served one by one to see what latencies there are without any load."""
APART_S = 1e5
"""Between those: longer than any of them takes."""
ENOUGH, FEW = (8, 2000), (4, 1000)
"""Replicas and requests that are simulated at least, where there are so many: for latencies, and for energy."""
HALVINGS = 6
"""Of the range in which the largest rate lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpec:
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
    trace: Arrivals | None = None
    """Whose requests come, stretched to the rate, in place of random ones."""
    length_factors: tuple[float, float] = (1.0, 1.0)
    """Of its prompts and outputs."""
    conversations: Conversations = NOTHING_SHARED
    """What random requests have in common."""
    mix: ClassMix | None = None
    """Classes of requests; None: all are alike."""

    @classmethod
    def of(
        cls,
        stated: TrafficQuestion,
        workload: Workload,
        offered: Arrivals | None,
        *,
        confidence: float,
        seed: int,
        burstiness: float,
        draws: int,
        longest: int,
    ) -> TrafficSpec:
        """Return what is asked by a question whose rate, or that of the requests ``offered``, is that of ``workload``; it lasts no time yet."""
        return cls(
            workload=replace(workload, concurrency=None),
            slo=stated.slo,
            confidence=confidence,
            duration_s=0.0,
            seed=seed,
            spread=stated.spread,
            burstiness=burstiness,
            draws=draws,
            longest=longest,
            trace=offered,
            conversations=stated.conversations,
            mix=stated.mix,
        )

    def traffic(self) -> Arrivals:
        if self.mix is not None and self.trace is None:
            return self._of_classes(self.mix).within(self.longest)
        if self.trace is not None:
            assert self.workload.rate
            inputs, outputs = (
                np.maximum(np.rint(lengths * factor), 1.0).astype(np.int64)
                for lengths, factor in zip(
                    (self.trace.input_len, self.trace.output_len), self.length_factors, strict=True
                )
            )
            sharing = self.trace.sharing
            stretched = replace(
                self.trace,
                input_len=inputs,
                output_len=outputs,
                sharing=None if sharing is None else sharing.stretched(self.length_factors[0]),
            )
            return stretched.at_rate(self.workload.rate).within(self.longest)
        draw = self.conversations.traffic if self.conversations else open_loop
        return draw(
            self.workload,
            duration_s=self.duration_s,
            longest=self.longest,
            seed=self.seed,
            spread=self.spread,
            burstiness=self.burstiness,
        ).within(self.longest)

    def _of_classes(self, mix: ClassMix) -> Arrivals:
        """Draw requests of several classes."""
        drawn = mix.stretched(*self.length_factors).traffic(
            self.workload,
            duration_s=self.duration_s,
            longest=self.longest - self.conversations.shared_prefix,
            seed=self.seed,
            burstiness=self.burstiness,
        )
        return self.conversations.beginning_alike(drawn) if self.conversations else drawn

    def with_limits(self, raised: Mapping[tuple[str, str], float]) -> TrafficSpec:
        """Return the demand with other limits, in ms, by the name of the class, "" of all requests, and the metric."""
        own: dict[str, dict[str, Any]] = {}
        for (name, metric), value in raised.items():
            own.setdefault(name, {})[metric] = value

        def eased(classes: tuple[TrafficClass, ...]) -> tuple[TrafficClass, ...]:
            return tuple(replace(kind, slo=replace(kind.slo, **own.get(kind.name, {}))) for kind in classes)

        mix, trace = self.mix, self.trace
        if mix is not None:
            mix = replace(mix, classes=eased(mix.classes))
        if trace is not None and trace.classes is not None:
            trace = replace(trace, classes=replace(trace.classes, classes=eased(trace.classes.classes)))
        return replace(self, slo=replace(self.slo, **own.get("", {})), mix=mix, trace=trace)

    def at_rate(self, traffic: Arrivals, rate: float) -> Arrivals:
        """Return the requests of ``traffic``, made by this demand, at another rate; where turns wait for answers and for
        those who think, which takes as long at any rate, other requests like them.
        """
        if self.conversations.turns == 1:
            return traffic.at_rate(rate)
        assert self.workload.rate is not None
        return self.times(rate=rate / self.workload.rate).traffic()

    def times(self, *, rate: float = 1.0, input_len: float = 1.0, output_len: float = 1.0) -> TrafficSpec:
        """Return the demand with rate and lengths multiplied, and as many requests."""
        workload = self.workload
        assert workload.rate is not None
        changed = replace(
            workload,
            rate=workload.rate * rate,
            input_len=max(round(workload.input_len * input_len), 1),
            output_len=max(round(workload.output_len * output_len), 1),
        )
        factors = self.length_factors[0] * input_len, self.length_factors[1] * output_len
        return replace(self, workload=changed, duration_s=self.duration_s / rate, length_factors=factors)


@dataclass(kw_only=True)
class ReplicaSizing:
    """Any number of replicas of one layout."""

    cluster: Cluster
    engine: AggregatedServer | DisaggregatedServer
    """One replica, or the fewest for prompts and outputs."""
    demand: TrafficSpec
    most: int = MOST_REPLICAS
    """Replicas that there are GPUs for."""
    _checks: dict[int, SloCheck] = field(init=False, repr=False, default_factory=dict)
    _saturations: dict[tuple[float, bytes, bytes], float] = field(init=False, repr=False, default_factory=dict)
    """By level and lengths: another rate has the same."""

    @property
    def gpus(self) -> int:
        """Count the GPUs of one replica."""
        return self.engine.gpus

    @property
    def prefill_gpu(self) -> str | None:
        """Return the GPUs that compute prompts, where these are of another kind."""
        name = next(iter(self.engine.gpu_counts))
        return None if name == self.cluster.gpu.name else name

    @cached_property
    def times(self) -> Any:
        """Tabulate step times, as its engine takes them."""
        return self.engine.believed_times()

    @cached_property
    def spread(self) -> Any:
        """Measure how far they may lie from that, by draws of the parameters."""
        return self.engine.spread(self.demand.draws, self.traffic)

    def ended(self, quantile: float) -> Any:
        """Tabulate them so many standard deviations longer, or shorter."""
        return self.engine.ended(self.times, self.spread, quantile)

    @cached_property
    def slow(self) -> Any:
        """Tabulate how long they take at most with the wanted confidence."""
        return self.ended(self.scale.quantile(self.level))

    @cached_property
    def scale(self) -> IntervalScale:
        return self.engine.scale

    @cached_property
    def traffic(self) -> Arrivals:
        return self.demand.traffic()

    @cached_property
    def saturation_s(self) -> float:
        """Return requests a second that one replica completes when there are always more waiting."""
        return self._saturation(0.0)

    def _saturation(self, level: float) -> float:
        """Return it with steps as slow as a level says; lengths decide it, and not when requests come."""
        traffic = self.traffic
        key = level, traffic.input_len.tobytes(), traffic.output_len.tobytes()
        if traffic.sharing is not None or key not in self._saturations:
            times = self.slow if level > 0 else self.times
            self._saturations[key] = self.engine.saturation(traffic, times)
        return self._saturations[key]

    @cached_property
    def stable_s(self) -> float:
        """Return requests a second that one replica completes with the wanted confidence. Above it the queue grows as
        long as requests come, so no time that was simulated says what becomes of them.
        """
        if self.level <= 0:
            return self.saturation_s
        return min(self._saturation(self.level), self.saturation_s)

    @property
    def level(self) -> float:
        """Return the level of the interval whose end is the limit at the wanted confidence; 0: the estimate itself."""
        return 2.0 * self.demand.confidence - 1.0

    @cached_property
    def least(self) -> int:
        """Return the replicas below which the queue grows for ever."""
        return self._carrying(self.saturation_s)

    @cached_property
    def surely(self) -> int:
        """Return the replicas below which, with the wanted confidence, the queue grows for ever."""
        return self._carrying(self.stable_s)

    def _carrying(self, request_s: float) -> int:
        assert self.demand.workload.rate is not None
        return max(math.ceil(self.demand.workload.rate / request_s), 1)

    @cached_property
    def alone(self) -> SloCheck:
        """Check requests that meet no other: no number of replicas makes them faster."""
        few = self.traffic.beginning(ALONE)
        number = np.arange(len(few))
        apart = replace(
            few,
            arrival_s=number.astype(float) * APART_S,
            duration_s=len(few) * APART_S,
            sharing=None if few.sharing is None else few.sharing.all_at_once(number),
        )
        return self._check(1, apart)

    @property
    def by_the_estimate(self) -> ReplicaSizing:
        """Return the same judged by the bare estimate."""
        return self.for_demand(replace(self.demand, confidence=BARE_ESTIMATE))

    def for_demand(self, demand: TrafficSpec) -> ReplicaSizing:
        """Return the same layout under another demand, which changes no step's time."""
        other = replace(self, demand=demand)
        other.times = self.times
        if self.demand.draws:
            other.spread = self.spread
            other._saturations = self._saturations  # noqa: SLF001  its own kind
        return other

    def at_rate(self, rate: float) -> ReplicaSizing:
        """Return the same layout with as many requests at another rate."""
        assert self.demand.workload.rate is not None
        return self.for_demand(self.demand.times(rate=rate / self.demand.workload.rate))

    def as_if(self, times: Any) -> ReplicaSizing:
        """Return the same layout as if its steps took these times, and nothing were uncertain."""
        other = replace(self, demand=replace(self.demand, confidence=BARE_ESTIMATE))
        other.times = times
        return other

    def outcomes(self, count: int) -> list[ReplicaSizing]:
        """Return what a measurement may show of its step times: so many equally likely outcomes, each as if it were so."""
        results = []
        for place in (2.0 * (np.arange(count) + 0.5) / count - 1.0).tolist():
            width = float(np.interp(abs(place), (0.0, *LEVELS), (0.0, *self.scale.quantiles)))
            results.append(self.as_if(self.ended(math.copysign(width, place)) if width else self.times))
        return results

    def slo_check(self, replicas: int) -> SloCheck:
        """Check all the traffic on so many replicas."""
        if replicas not in self._checks:
            self._checks[replicas] = self._check(replicas, self.traffic)
        return self._checks[replicas]

    def needed(self, *, at_most: int | None = None) -> int | None:
        """Return the fewest replicas that keep the limits, none above ``at_most``; None where none of those does.

        More replicas are taken to be no slower.
        """
        most = self.most if at_most is None else min(at_most, self.most)
        if self.least > most or not self.alone.meets or self.surely > most:
            return None
        if at_most is not None and not self.slo_check(most).meets:
            return None
        low, high, step = self.surely - 1, self.surely, 1
        while not self.slo_check(high).meets:
            if high == most:
                return None
            low, high, step = high, min(high + step, most), 2 * step
        while high - low > 1:
            middle = (low + high) // 2
            if self.slo_check(middle).meets:
                high = middle
            else:
                low = middle
        return high

    def most_rate(self, replicas: int) -> float:
        """Return requests a second up to which so many replicas keep the limits; 0 where not even a request alone does."""
        if not self.alone.meets:
            return 0.0
        rate = self.demand.workload.rate
        assert rate is not None
        low, high = 0.0, self.stable_s * replicas
        if high > rate and self.slo_check(replicas).meets:
            low = rate
        for _ in range(HALVINGS + (2 if low == 0.0 else 0)):
            middle = (low + high) / 2.0
            if self._check(replicas, self.demand.at_rate(self.traffic, middle)).meets:
                low = middle
            else:
                high = middle
        return low

    @cached_property
    def power(self) -> Power | None:
        """Return the power model; None where no run measured such energy."""
        return None if self.prefill_gpu else power_of(self.cluster.gpu, self.engine.deployment)

    def joules_per_token(self, rate: float, replicas: int, spares: int, *, least: bool = False) -> float | None:
        """Return joules of all GPUs, spares too, for an output token at ``rate``; ``least``: what is drawn without any
        work.
        """
        if self.power is None:
            return None
        served = None
        if not least:
            traffic = self.demand.at_rate(self.traffic, rate)
            part, simulated = sample(traffic, replicas, self.engine.router, least=FEW)
            served = self.engine.served(part, self.times, simulated)
        requests = self.traffic if served is None else served
        tokens = float(requests.output_len.sum())
        gpu_s = self.gpus * (replicas + spares) * tokens / (rate * float(self.traffic.output_len.mean()))
        work = GpuWork(gpu_s=gpu_s, bytes=0.0, flops=0.0)
        if served is not None:
            work = served_work(self.engine.model, self.engine.kv_bytes, served, gpu_s=gpu_s)
        return work.joules(self.power, self.cluster.gpu.tdp_w) / tokens

    def hit_rates(self, replicas: int) -> tuple[float, dict[str, float]]:
        """Return the share of the prompts' tokens that the prefix caches of so many replicas have, and of that each tier below."""
        part, simulated = sample(self.traffic, replicas, self.engine.router, least=FEW)
        served = self.engine.served(part, self.times, simulated)
        names = self.engine.scheduler.tier_names if isinstance(self.engine, AggregatedServer) else ()
        return served.hit_rate, dict(zip(names, served.tier_hit_rates, strict=False))

    def slowest(self, replicas: int) -> SloCheck:
        """Check so many replicas with steps as slow as the wanted confidence says, whatever the limits are."""
        return self._check(replicas, self.traffic, always=True)

    def intervals(self, replicas: int, latencies: Mapping[str, float], level: float) -> dict[str, tuple[float, float]]:
        """Return the intervals, in ms, within which the latencies are expected with probability ``level``."""
        quantile = self.scale.quantile(level)
        tables = (self.ended(side) for side in (-quantile, quantile))
        ends = [latencies_of(self._served(replicas, self.traffic, times), self.demand.slo) for times in tables]
        return latency_intervals(latencies, ends, quantile)

    def _served(self, replicas: int, traffic: Arrivals, times: Any) -> RequestResults:
        """Serve the traffic of so many replicas, or a part of both."""
        part, simulated = sample(traffic, replicas, self.engine.router, least=ENOUGH)
        return self.engine.served(part, times, simulated)

    def _check(self, replicas: int, traffic: Arrivals, *, always: bool = False) -> SloCheck:
        check = check_of(self._served(replicas, traffic, self.times), self.demand.slo)
        # What misses its limits by the estimate misses them with any confidence.
        if self.level > 0 and (check.meets or always):
            slow = check_of(self._served(replicas, traffic, self.slow), self.demand.slo)
            return check.beside(slow, self.demand.slo, self.scale.quantile(self.level))
        return check
