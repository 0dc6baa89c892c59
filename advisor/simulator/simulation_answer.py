"""What became of traffic, as an answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from advisor.calibration.intervals import LEVEL
from advisor.prediction.client_regime import CLIENT_FACTOR
from advisor.prediction.deployment_estimate import ENERGY
from advisor.prediction.inputs import plain_fields
from advisor.prediction.presentation import Presented
from advisor.simulator.class_outcomes import all_kept, class_outcomes
from advisor.simulator.disaggregated_server import DisaggregatedServer
from advisor.simulator.request_results import COLUMNS, RequestResults
from advisor.simulator.routers import FCFS
from advisor.simulator.scheduler import longest
from advisor.simulator.serving import serving_warnings
from advisor.simulator.streaming_statistics import StreamingStatistics
from advisor.simulator.summary_statistics import HIT_RATE, SHARES, first_within, meets, surely_between, timeline
from catalog.errors import InputError
from catalog.features import IF_STATED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.calibration.surrogate import IntervalScale
    from advisor.simulator.arrivals import Arrivals, ArrivalStream
    from advisor.simulator.class_outcomes import ClassOutcome
    from advisor.simulator.outcome import TrafficOutcome
    from advisor.simulator.server import AggregatedServer
    from advisor.simulator.summary_statistics import Spread
    from advisor.simulator.traffic_speculation import TrafficSpeculation
    from catalog.errors import Note
    from catalog.schema import Cluster, Deployment, Model, Slo
    from catalog.units import Array

RATES = ("completed_s", "output_tok_s", "goodput_s", "saturation_s")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Simulation(Presented):
    """What traffic meets on one deployment."""

    SCHEMA: ClassVar[str] = "simulation/1"
    __repr__ = Presented.__str__

    model: Model
    cluster: Cluster
    deployment: Deployment
    """With a pool for prompts, what decodes."""
    prefill: Deployment | None = None
    """What computes the prompts, where that is not ``deployment`` itself."""
    prefill_cluster: Cluster | None = None
    """Its GPUs, where they are others than ``cluster``."""
    slo: Slo | None
    rate: float | None
    """Requests a second that came; None in a closed loop."""
    asked_s: float | None = None
    """Requests a second that were asked for, of which those that came are a sample; None for a trace or a closed loop."""
    concurrency: int | None
    client: str | None = None
    """Benchmark client whose loop it is, all of whose requests are measured; None for one that has settled."""
    duration_s: float
    metrics: Mapping[str, Mapping[str, float]]
    """Of TTFT, TPOT, ITL and E2E, in ms: the mean and percentiles, named ``mean``, ``p50``, ``p90``, ``p95``, ``p99``."""
    completed_s: float
    """Requests completed a second, while they come."""
    output_tok_s: float
    """Output tokens a second, while requests come."""
    goodput_s: float
    """Requests a second that came and met every limit by themselves; all, without limits."""
    good: float
    """Their share of the requests."""
    saturation_s: float
    """Requests a second that are completed when there are always more waiting."""
    energy_j_per_token: float | None = None
    """Of all the GPUs until the last request is served, for an output token; None where no run measured such energy."""
    meets: bool | None
    """Whether the limits are kept, at the percentile they are stated for or on the mean; None without limits."""
    preemptions: int
    router: str
    """Between the replicas."""
    scheduling_policy: str = FCFS
    """In which order a replica serves those that wait."""
    classes: tuple[ClassOutcome, ...] = ()
    """What each class of the requests met; none where they are all alike."""
    prefix_caching: bool
    """Whether what was computed is kept for what shares it."""
    hit_rate: float | None = None
    """Share of the prompts' tokens that the prefix cache had; None where requests have nothing in common that is known."""
    tier_hit_rates: Mapping[str, float] | None = field(default=None, metadata=IF_STATED)
    """Of that what came from each tier below the GPUs, by its name; None without tiers."""
    kv_peak: float
    """Largest share of one replica's KV blocks in use at once."""
    kv_capacity_tokens: int
    """Of one replica."""
    timeline: Mapping[str, Array]
    """Curves: ``time_s``; means over the replicas of ``running`` and ``waiting`` requests and of the ``kv_share`` in
    use, while they work; their ``busy`` share; and all ``output_tok_s`` and ``preemptions_s``, those a second."""
    served: RequestResults | StreamingStatistics = field(repr=False)
    """Every request; of more than ``advisor.simulator.arrivals.WHOLE`` only the statistics of all of them."""
    steps: int
    provenance: Provenance
    notes: tuple[Note, ...]
    sigmas: Mapping[str, Mapping[str, Spread]] = field(repr=False)
    """Standard deviations of ``metrics``, under "rates" of the rates and under "shares" of ``good``."""
    adapter_hits: Mapping[str, float] | None = field(default=None, metadata=IF_STATED)
    """Where requests are of LoRA adapters: shares of the requests whose adapter had a slot (``slot``), was loaded from CPU memory
    (``cpu``) or disk (``disk``), and the milliseconds that loading from each takes (``cpu_ms``, ``disk_ms``)."""
    speculation: TrafficSpeculation | None = field(default=None, metadata=IF_STATED)
    """What speculative decoding does to this traffic, where it was asked about."""
    scale: IntervalScale | None = field(repr=False)
    """How wide an interval at some level is, in those; None without draws."""

    @property
    def gpus_used(self) -> int:
        return self.deployment.num_gpus + (self.prefill.num_gpus if self.prefill else 0)

    def interval(self, metric: str, statistic: str = "mean", level: float = LEVEL) -> tuple[float, float]:
        """Return the lower and upper end within which a statistic of a metric, or a rate, lies with probability ``level``.

        Raises:
            InputError: it has no interval, or the level is outside 0.5 to 0.98.

        """
        if self.scale is None:
            raise InputError("there are no intervals without draws; simulate with draws=8")
        quantile = self.scale.quantile(level)
        if metric in (*RATES, ENERGY):
            value = getattr(self, metric)
            if value is None:
                raise InputError(f"{metric} has no interval because none was measured")
            if metric == "goodput_s":
                return self._goodput(level)
            low, high = self.sigmas["rates"][metric].around(value, quantile)
            return low, max(min(high, self._offered.get(metric, math.inf)), value)
        if metric == "good":
            return self._share_of_good(quantile)
        if metric == HIT_RATE and self.hit_rate is not None:
            share = surely_between(self.hit_rate, len(self.served))
            low, high = self.sigmas[SHARES][HIT_RATE].around_share(share, quantile)
            return min(low, self.hit_rate), max(high, self.hit_rate)
        if metric not in self.metrics or statistic not in self.metrics[metric]:
            known = ", ".join([*self.metrics, *RATES, "good"])
            raise InputError(f"there is no interval for {statistic} of {metric!r}; metrics that have one: {known}")
        spread = self.sigmas[metric][statistic]
        if self.client is not None and metric == "ttft_ms":  # servers differ in it by more than their steps' times
            spread = spread.at_least(math.log(CLIENT_FACTOR) / self.scale.quantile(LEVEL))
        low, high = spread.around(self.metrics[metric][statistic], quantile)
        if metric == "ttft_ms":  # no first token comes after the last one
            high = first_within(self.metrics[metric][statistic], high, self.interval("e2e_ms", statistic, level)[1])
        return low, high

    def surely_missed(self, confidence: float) -> dict[str, float]:
        """Return of the latencies that are limited those whose value at a confidence is above the limit, in ms by metric."""
        if self.slo is None:
            return {}
        statistic = "mean" if self.slo.percentile is None else f"p{self.slo.percentile:g}"
        ends = {name: self.interval(name, statistic, 2.0 * confidence - 1.0)[1] for name in self.slo.limits}
        return {name: value for name, value in ends.items() if value > self.slo.limits[name]}

    def surely_stable(self, confidence: float) -> bool:
        """Return whether, at a confidence, no more comes than is completed: above that queues grow as long as requests come."""
        comes = self.asked_s or self.rate
        return comes is None or self.interval("saturation_s", level=2.0 * confidence - 1.0)[0] >= comes

    def _share_of_good(self, quantile: float) -> tuple[float, float]:
        """Return the interval of the share that keeps the limits; less than half of one request is none, and all but
        that are all.
        """
        count = len(self.served)
        low, high = self.sigmas[SHARES]["good"].around_share(surely_between(self.good, count), quantile)
        low, high = (0.0 if low * count < 0.5 else low), (1.0 if (1.0 - high) * count < 0.5 else high)
        return min(low, self.good), max(high, self.good)

    def _goodput(self, level: float) -> tuple[float, float]:
        """Return the interval of the goodput, between none of what is completed and all of it."""
        low, high = self.interval("good", level=level)
        least, most = self.interval("completed_s", level=level)
        return min(low * least, self.goodput_s), max(high * most, self.goodput_s)

    @property
    def _offered(self) -> dict[str, float]:
        """Return what of an open loop can be done a second at the most: what comes."""
        if self.rate is None:
            return {}
        return {"completed_s": self.rate, "output_tok_s": self.served.loads.made / self.duration_s}

    def requests(self) -> Iterator[dict[str, float | int]]:
        """Iterate over the requests that came, a row each.

        Raises:
            InputError: there were too many to keep them.

        """
        if isinstance(self.served, StreamingStatistics):
            raise InputError(
                f"{len(self.served)} requests are too many to be kept; take them as they are served, with each= (--requests FILE)"
            )
        return (dict(zip(COLUMNS, row, strict=True)) for row in self.served.rows())

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the single requests as plain JSON types, with 90% intervals."""
        intervals: dict[str, Any] = {}
        if self.scale is not None:
            intervals = {
                name: {statistic: list(self.interval(name, statistic)) for statistic in values}
                for name, values in self.metrics.items()
            } | {name: list(self.interval(name)) for name in (*RATES, "good")}
            if self.hit_rate is not None:
                intervals[HIT_RATE] = list(self.interval(HIT_RATE))
            if self.energy_j_per_token is not None:
                intervals[ENERGY] = list(self.interval(ENERGY))
        return {
            **self.header(),
            "model": self.model.name,
            "cluster": str(self.cluster),
            **({"prefill_gpus": str(self.prefill_cluster)} if self.prefill_cluster else {}),
            **plain_fields(self, "model", "cluster", "prefill_cluster", "served", "sigmas", "scale", "timeline"),
            "requests": len(self.served),
            "gpus_used": self.gpus_used,
            "interval_level": LEVEL,
            "intervals": intervals,
            "timeline": {name: [float(f"{value:.5g}") for value in values] for name, values in self.timeline.items()},
        }


def simulation_of(
    engine: AggregatedServer | DisaggregatedServer,
    decode: AggregatedServer,
    traffic: Arrivals | ArrivalStream,
    outcome: TrafficOutcome,
    *,
    slo: Slo | None,
    asked_s: float | None,
    client: str | None,
    scale: IntervalScale | None,
    speculation: TrafficSpeculation | None,
    notes: tuple[Note, ...],
) -> Simulation:
    """Return what became of the traffic as an answer; ``decode`` is the engine itself, or its pool that decodes."""
    served, scheduler = outcome.served, decode.scheduler
    loads = served.adapter_loads if isinstance(served, RequestResults) else ()
    kinds = class_outcomes(outcome.classes, outcome.counted_s, scale)
    below = served.tier_hit_rates if isinstance(served, RequestResults) else ()
    drawn = None if traffic.concurrency else len(served) / traffic.duration_s
    rates = {name: outcome.statistics["rates", name] for name in RATES}
    return Simulation(
        model=engine.model,
        cluster=decode.cost_model.cluster,
        deployment=decode.deployment,
        prefill=engine.prefill.deployment if isinstance(engine, DisaggregatedServer) else None,
        prefill_cluster=engine.prefill_cluster if isinstance(engine, DisaggregatedServer) else None,
        slo=slo,
        rate=drawn,
        asked_s=asked_s,
        concurrency=traffic.concurrency,
        client=client,
        duration_s=traffic.duration_s,
        metrics=outcome.metrics(),
        **rates,
        good=served.good(slo.limits if slo else {}),
        energy_j_per_token=outcome.energy_j_per_token,
        meets=all_kept(kinds) if kinds else meets(served, slo),
        preemptions=served.preempted,
        router=scheduler.router,
        scheduling_policy=scheduler.scheduling_policy,
        classes=kinds,
        prefix_caching=scheduler.prefix_caching,
        hit_rate=None if traffic.sharing is None else served.hit_rate,
        tier_hit_rates=dict(zip(scheduler.tier_names, below, strict=True)) if below else None,
        kv_peak=served.most_blocks / scheduler.kv_blocks,
        kv_capacity_tokens=longest(scheduler),
        timeline=timeline(served, scheduler),
        served=served,
        steps=served.steps,
        provenance=engine.provenance,
        notes=(
            *notes,
            *serving_warnings(
                decode.deployment,
                scheduler,
                drawn,
                saturation_s=rates["saturation_s"],
            ),
        ),
        sigmas=outcome.sigmas,
        scale=scale,
        speculation=speculation,
        adapter_hits=scheduler.adapters.hits(loads) if scheduler.adapters is not None and loads else None,
    )
