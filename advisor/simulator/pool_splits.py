"""A number of GPUs divided into a pool for prompts and one for outputs: the split and the layouts that carry most, beside the best
deployment without pools.

Both are held against the same requests, which come at random. A load is what the limits allow, the largest rate at which they hold with the
wanted confidence, or a number of requests in flight: by Little's law the rate at which so many are there on average. Each pool by
itself, with the limit that is its own, says how much one replica of each layout carries; the splits that could carry most by that are simulated
whole.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from advisor.calibration.intervals import LEVEL
from advisor.prediction.inputs import BARE_ESTIMATE
from advisor.simulator.disaggregated_server import DisaggregatedServer
from advisor.simulator.pool_pairs import Pool, joined, part_sizings, parts_of, plain_server
from advisor.simulator.replica_sizing import HALVINGS, ReplicaSizing
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.simulator.pool_pairs import PoolGpus
    from advisor.simulator.replica_sizing import TrafficSpec
    from catalog.schema import Deployment

Split: TypeAlias = "tuple[tuple[Pool, int], tuple[Pool, int]]"
"""Replicas of both pools."""
SIMULATED = 5
"""Splits that are simulated whole, of those that could carry most."""
GOALS = ("throughput_per_gpu", "throughput", "cost")
"""What splits are chosen by: requests a second of a GPU, of all, or for a dollar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFleet:
    """A fleet at the load that it is compared at."""

    gpu: str
    deployment: Deployment
    """Of all replicas; with pools, of those that decode."""
    prefill: Deployment | None = None
    """Of those for prompts,"""
    prefill_gpu: str | None = None
    """and their GPUs, where these are of another kind."""
    gpus: int
    rate: float
    """Requests a second that it carries: within the limits with the wanted confidence, or with so many in flight."""
    rate_interval: tuple[float, float]
    """Where that is expected with 90%, by itself; both ends the rate itself without draws."""
    output_tok_s_per_gpu: float
    usd_per_mtok: float | None
    """Dollars per million output tokens at that rate; None without a price."""
    latencies: Mapping[str, float]
    """Means of ``ttft_ms``, ``tpot_ms`` and ``e2e_ms`` at that rate."""
    intervals: Mapping[str, tuple[float, float]]
    """Where they are expected with 90%; empty without draws."""
    kv_transfer_ms: float | None = None
    """What the KV cache of a prompt takes from pool to pool, on a link without others."""
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolComparison:
    """The best split of the GPUs into pools, beside the best deployment without."""

    pools: LoadedFleet | None
    """None where no split keeps the limits."""
    together: LoadedFleet | None
    """Without pools; None where none keeps the limits."""
    gain: float | None = None
    """How many times as much pools carry for what counts (a GPU, all of them, a dollar); None where one of both is missing."""
    bare_gain: float | None = None
    """The same by the bare estimate, with splits of its own; None without limits, where that is all there is, or where one is missing."""
    splits: int
    """That there are, of which the best by their pools alone were simulated whole."""
    concurrency: int | None = None
    link: str = ""
    """What is assumed of the link between them."""

    @property
    def overlap(self) -> bool:
        """Return whether the intervals of what both carry, for what it takes, have something in common."""
        if self.gain is None or self.pools is None or self.together is None:
            return False
        ends = [[end / fleet.rate for end in fleet.rate_interval] for fleet in (self.pools, self.together)]
        return self.gain * ends[0][0] <= ends[1][1] and ends[1][0] <= self.gain * ends[0][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSearch:
    """What splits are searched by."""

    kinds: Sequence[PoolGpus]
    """One or two kinds of GPUs, each with the number that there is."""
    demand: TrafficSpec
    """With any rate."""
    concurrency: int | None
    """In flight on average; None: as many as the limits allow."""
    goal: str
    usd_per_gpu_hour: Mapping[str, float | None]
    link_gbps: float | None = None

    def best(self) -> PoolComparison:
        """Search the splits and the deployments without pools."""
        splits, tried = self._tried()
        warning = next(
            (fleet.engine.warning.text for fleet in tried if isinstance(fleet.engine, DisaggregatedServer)), ""
        )
        (worth, pools), (other, together) = self._chosen(tried), self._chosen(list(self._without()))
        return PoolComparison(
            pools=pools,
            together=together,
            gain=None if pools is None or together is None else worth / other,
            bare_gain=self._bare_gain(),
            splits=len(splits),
            concurrency=self.concurrency,
            link=warning,
        )

    def _tried(self) -> tuple[list[Split], list[ReplicaSizing]]:
        """Return the splits, and those of them that are simulated whole."""
        splits = self._splits()
        return splits, [fleet for fleet in map(self._fleet, splits[:SIMULATED]) if fleet is not None]

    def _bare_gain(self) -> float | None:
        """Return how many times as much pools carry by the bare estimate."""
        if not self.demand.slo.limits or self.demand.confidence == BARE_ESTIMATE:
            return None
        bare = replace(self, demand=replace(self.demand, confidence=BARE_ESTIMATE))
        most = [
            max((bare._worth(bare._rate(fleet), fleet.engine.gpu_counts) for fleet in fleets), default=0.0)  # noqa: SLF001  its own kind
            for fleets in (bare._tried()[1], list(bare._without()))  # noqa: SLF001  likewise
        ]
        return most[0] / most[1] if min(most) > 0.0 else None

    def _without(self) -> Iterator[ReplicaSizing]:
        """Yield every layout without pools, with as many replicas as there are GPUs of its kind for; where the load is given, with any
        number.
        """
        for kind in self.kinds:
            for layout in kind.layouts:
                assert kind.most is not None
                engine = layout.engine
                most = kind.most // engine.gpus
                for replicas in range(most if self.concurrency is None else 1, most + 1):
                    if replicas >= 1 and not isinstance(engine, DisaggregatedServer):
                        nodes = math.ceil(replicas * engine.gpus / engine.cost_model.cluster.gpus_per_node)
                        many = engine.multiplied(replicas).on_nodes(nodes)
                        yield ReplicaSizing(cluster=layout.cluster, engine=many, demand=self.demand, most=1)

    def _splits(self) -> list[Split]:
        """Return the splits, first those that could carry most by what each pool carries by itself."""
        prompts, outputs = parts_of(self.demand)
        carried = [
            [
                (Pool(replica=plain_server(kind, part), cluster=part.cluster, count=1, most=kind.most), rate)
                for kind in self.kinds
                for part in part_sizings(kind, demand, decodes=demand is outputs)
                if (rate := part.most_rate(1) if demand.slo.limits else part.stable_s) > 0.0
            ]
            for demand in (prompts, outputs)
        ]
        ranked = []
        for (one, first), (other, second) in itertools.product(*carried):
            for replicas, beside in self._counts(one, other):
                rate = min(replicas * first, beside * second)
                worth = self._worth(
                    rate,
                    {one.cluster.gpu.name: replicas * one.replica.gpus},
                    {other.cluster.gpu.name: beside * other.replica.gpus},
                )
                ranked.append((worth, rate, (one, replicas), (other, beside)))
        ranked.sort(key=lambda split: (-split[0], -split[1]))
        return [(one, other) for _, _, one, other in ranked]

    def _counts(self, one: Pool, other: Pool) -> Iterator[tuple[int, int]]:
        """Yield the numbers of replicas of both that there are GPUs for."""
        assert one.most is not None
        assert other.most is not None
        shared = one.cluster.gpu == other.cluster.gpu
        for replicas in range(1, one.most // one.replica.gpus + 1):
            left = one.most - replicas * one.replica.gpus if shared else other.most
            for beside in range(1, left // other.replica.gpus + 1):
                yield replicas, beside

    def _worth(self, rate: float, *gpus: Mapping[str, int]) -> float:
        """Return what is to be large of a fleet with so many GPUs of each name."""
        if self.goal == "throughput":
            return rate
        if self.goal == "throughput_per_gpu":
            return rate / sum(sum(counts.values()) for counts in gpus)
        usd = [self.usd_per_gpu_hour[name] for counts in gpus for name in counts]
        if any(price is None for price in usd):
            return 0.0
        return rate / sum(
            (self.usd_per_gpu_hour[name] or 0.0) * count for counts in gpus for name, count in counts.items()
        )

    def _fleet(self, split: Split) -> ReplicaSizing | None:
        """Return both pools as one fleet; None where one of both GPUs lacks a format."""
        try:
            engine = joined(*split, self.link_gbps)
        except InputError:
            return None
        return ReplicaSizing(cluster=split[1][0].cluster, engine=engine, demand=self.demand, most=1)

    def _chosen(self, fleets: Sequence[ReplicaSizing]) -> tuple[float, LoadedFleet | None]:
        """Return the fleet that carries most for what it takes, at its load, and how much; 0 and None where none carries any."""
        rates = [
            (self._worth(rate, fleet.engine.gpu_counts), rate, fleet)
            for fleet in fleets
            if (rate := self._rate(fleet)) > 0.0
        ]
        if not rates:
            return 0.0, None
        worth, rate, fleet = max(rates, key=lambda each: each[:2])
        return worth, self._loaded(fleet, rate)

    def _rate(self, fleet: ReplicaSizing) -> float:
        """Return the requests a second that a fleet carries; 0 where it breaks a limit with so many in flight."""
        if self.concurrency is None:
            return fleet.most_rate(1)
        rate = rate_in_flight(fleet, fleet.times, self.concurrency)
        return rate if fleet.at_rate(rate).slo_check(1).meets else 0.0

    def _ends(self, fleet: ReplicaSizing) -> list[float]:
        """Return the requests a second that a fleet carries with steps as slow and as quick as an interval's ends say."""
        quantile = fleet.scale.quantile(LEVEL)
        tables = [fleet.ended(side * quantile) for side in (1.0, -1.0)]
        if self.concurrency is None:
            return [fleet.as_if(times).most_rate(1) for times in tables]
        return [rate_in_flight(fleet, times, self.concurrency) for times in tables]

    def _loaded(self, fleet: ReplicaSizing, rate: float) -> LoadedFleet:
        """Return a fleet at its load, with intervals."""
        there = fleet.at_rate(rate)
        check = there.slo_check(1)
        decode, prefill = fleet.engine.multiple(1)
        ends = self._ends(fleet) if self.demand.draws else []
        tokens = rate * float(fleet.traffic.output_len.mean())
        hourly = [self.usd_per_gpu_hour[name] for name in fleet.engine.gpu_counts]
        usd = sum((self.usd_per_gpu_hour[name] or 0.0) * count for name, count in fleet.engine.gpu_counts.items())
        link: Any = fleet.times[2] if isinstance(fleet.engine, DisaggregatedServer) else None
        return LoadedFleet(
            gpu=fleet.cluster.gpu.name,
            deployment=decode,
            prefill=prefill,
            prefill_gpu=fleet.prefill_gpu,
            gpus=fleet.gpus,
            rate=rate,
            rate_interval=(min([rate, *ends]), max([rate, *ends])),
            output_tok_s_per_gpu=tokens / fleet.gpus,
            usd_per_mtok=None if None in hourly else usd / (tokens * 3600.0) * 1e6,
            latencies=check.latencies,
            intervals=there.intervals(1, check.latencies, LEVEL) if self.demand.draws else {},
            kv_transfer_ms=None
            if link is None
            else link.latency_ms + link.ms_per_token * self.demand.workload.input_len,
            provenance=fleet.engine.provenance,
        )


def rate_in_flight(fleet: ReplicaSizing, times: Any, concurrency: int) -> float:
    """Return the requests a second at which so many are in flight on average, by Little's law (1961): rate times mean time in the system."""
    low, high = 0.0, fleet.engine.saturation(fleet.traffic, times)
    for _ in range(HALVINGS + 4):
        rate = (low + high) / 2.0
        served = fleet.engine.served(fleet.demand.at_rate(fleet.traffic, rate), times)
        if rate * 1e-3 * served.mean("e2e_ms") > concurrency:
            high = rate
        else:
            low = rate
    return low
