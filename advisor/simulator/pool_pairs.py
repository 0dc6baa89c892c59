"""Fleets with a pool for prompts and another for outputs, of layouts and GPUs of their own: which pairs are worth simulating.

A first token waits for the pool for prompts most of all, and the times between the others are those of the pool that decodes. So each pool is
sized by itself, with the limit that is its own, and the cheapest layouts on each kind of GPU make the pairs, with a replica more on
either side; what a pair as a whole meets is simulated like any other fleet.
"""

from __future__ import annotations

import itertools
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.simulator.disaggregated_server import NO_TIERS, DisaggregatedServer, unmeasured
from advisor.simulator.replica_sizing import MOST_REPLICAS, ReplicaSizing, TrafficSpec
from advisor.simulator.server import AggregatedServer
from catalog.errors import InputError
from catalog.schema import Slo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from catalog.schema import Cluster, Deployment, Price

ADDED_REPLICAS = ((0, 0), (1, 0), (0, 1), (1, 1))
"""Replicas that either pool has beyond what it takes by itself: what one meets depends on when the other is done."""
NO_OUTPUT = 1e-9
"""Factor of outputs of which one token is left."""
NO_POOLS = "kv_link_gbps is of the link between two pools; add disaggregate, or leave it out"
"""What is said where the link is stated and nobody asked for pools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGpus:
    """One kind of GPU that either pool may have."""

    layouts: Sequence[ReplicaSizing]
    """Of one replica each, as they serve prompts and outputs alike."""
    most: int | None
    """GPUs that there are; None: as many as it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one layout for one of both parts of the work."""

    replica: AggregatedServer
    cluster: Cluster
    count: int
    most: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolTerms:
    """What pools are compared and joined by."""

    prices: Mapping[str, Price | None]
    spares: int = 0
    link_gbps: float | None = None
    """GB/s of a GPU over the link between the pools, where that is stated."""

    def pairs(self, kinds: Sequence[PoolGpus], demand: TrafficSpec) -> Iterator[ReplicaSizing]:
        """Yield the fleets with two pools that are worth simulating: the cheapest of each kind of GPU for prompts with the cheapest of
        each for outputs.
        """
        prompts, outputs = parts_of(demand)
        pools = [
            [
                pool
                for kind in kinds
                if (pool := _cheapest(kind, part, self.prices, decodes=part is outputs)) is not None
            ]
            for part in (prompts, outputs)
        ]
        seen = set()
        for prefill, decode in itertools.product(*pools):
            for more, later in ADDED_REPLICAS:
                unit = math.gcd(prefill.count + more, decode.count + later)
                one, other = (prefill, (prefill.count + more) // unit), (decode, (decode.count + later) // unit)
                key = (
                    *(pool.cluster for pool, _ in (one, other)),
                    *(pool.replica.deployment for pool, _ in (one, other)),
                )
                most = _most(one, other, self.spares)
                if (key, one[1], other[1]) in seen or most < 1:
                    continue
                seen.add((key, one[1], other[1]))
                with suppress(InputError):  # formats that one of both GPUs has not
                    engine = joined(one, other, self.link_gbps)
                    yield ReplicaSizing(cluster=decode.cluster, engine=engine, demand=demand, most=most)


def parts_of(demand: TrafficSpec) -> tuple[TrafficSpec, TrafficSpec]:
    """Return what is asked of each pool by itself: prompts with the limit of the first token, outputs with that of the others."""
    slo = demand.slo
    prompts = replace(
        demand,
        workload=replace(demand.workload, output_len=1),
        length_factors=(demand.length_factors[0], NO_OUTPUT),
        slo=Slo(ttft_ms=slo.ttft_ms, percentile=slo.percentile),
    )
    return prompts, replace(demand, slo=Slo(tpot_ms=slo.tpot_ms, percentile=slo.percentile))


def part_sizings(kind: PoolGpus, part: TrafficSpec, *, decodes: bool) -> Iterator[ReplicaSizing]:
    """Yield the layouts of one kind of GPU as they serve one part of the work by itself."""
    for layout in kind.layouts:
        server = layout.engine
        if isinstance(server, AggregatedServer) and server.deployment.pp == 1:
            server = unmeasured(server)
            if decodes:
                scheduler = replace(server.scheduler, cached_prompts=True, prefix_hit_rate=0.0)
                server = replace(server, scheduler=scheduler)
            most = MOST_REPLICAS if kind.most is None else min(kind.most // server.gpus, MOST_REPLICAS)
            yield ReplicaSizing(cluster=layout.cluster, engine=server, demand=part, most=most)


def _cheapest(kind: PoolGpus, part: TrafficSpec, prices: Mapping[str, Price | None], *, decodes: bool) -> Pool | None:
    """Return the pool of one kind of GPU that costs least, by itself; None where none is enough."""
    sizings = list(part_sizings(kind, part, decodes=decodes))
    best: tuple[float, ReplicaSizing, int] | None = None
    for sizing in sorted(sizings, key=lambda candidate: candidate.surely * candidate.gpus):
        most = sizing.most if best is None else min(sizing.most, math.ceil(best[0] / _usd(sizing, prices)) - 1)
        if sizing.surely > most:
            continue
        needed = sizing.needed(at_most=most) if part.slo.limits else sizing.surely
        if needed is not None:
            best = needed * _usd(sizing, prices), sizing, needed
    if best is None:
        return None
    _, sizing, count = best
    plain = plain_server(kind, sizing)
    return Pool(replica=plain, cluster=sizing.cluster, count=count, most=kind.most)


def plain_server(kind: PoolGpus, sizing: ReplicaSizing) -> AggregatedServer:
    """Return the layout of one part as it serves prompts and outputs alike, with all that is known of it."""
    (plain,) = (layout.engine for layout in kind.layouts if layout.engine.deployment == sizing.engine.deployment)
    assert isinstance(plain, AggregatedServer)
    return plain


def _usd(sizing: ReplicaSizing, prices: Mapping[str, Price | None]) -> float:
    """Return dollars an hour of one replica; where there is no price its GPUs."""
    price = prices[sizing.cluster.gpu.name]
    return sizing.gpus * (1.0 if price is None else price.usd_per_gpu_hour)


def _most(prefill: tuple[Pool, int], decode: tuple[Pool, int], spares: int) -> int:
    """Return how many times there are GPUs for so many replicas of each."""
    of_kind: dict[str, int] = {}
    limits: dict[str, int | None] = {}
    for pool, count in (prefill, decode):
        name = pool.cluster.gpu.name
        of_kind[name] = of_kind.get(name, 0) + count * pool.replica.gpus
        limits[name] = pool.most
    times = [limit // of_kind[name] - spares for name, limit in limits.items() if limit is not None]
    return min([MOST_REPLICAS, *times])


def joined(prefill: tuple[Pool, int], decode: tuple[Pool, int], link_gbps: float | None) -> DisaggregatedServer:
    """Return both pools with so many replicas, on as many nodes as they fill."""
    servers = [pool.replica.multiplied(count) for pool, count in (prefill, decode)]
    same = servers[0].cost_model.cluster.gpu == servers[1].cost_model.cluster.gpu
    needed = [sum(server.gpus for server in servers)] * 2 if same else [server.gpus for server in servers]
    one, other = (
        server.on_nodes(math.ceil(gpus / server.cost_model.cluster.gpus_per_node))
        for server, gpus in zip(servers, needed, strict=True)
    )
    return DisaggregatedServer.of(one, other, link_gbps)


def check_planned_pools(base: Deployment, link_gbps: float | None, *, disaggregate: bool) -> None:
    """Raise ``InputError`` for what pools for prompts are not planned with, or for their link without them."""
    if link_gbps is not None and not disaggregate:
        raise InputError(NO_POOLS)
    if disaggregate and base.kv_offload:
        raise InputError(NO_TIERS)
