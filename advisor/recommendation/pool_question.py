"""Pools for prompts and outputs beside a recommendation: the question of the search over splits, read from what was recommended."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import chosen_price, read_cluster
from advisor.simulator.pool_pairs import NO_POOLS, PoolGpus
from advisor.simulator.pool_splits import GOALS, SplitSearch
from advisor.simulator.replica_sizing import ReplicaSizing, TrafficSpec
from advisor.simulator.server import AggregatedServer
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.schema import Cluster, Deployment, require_positive
from search.parallelism import parallelisms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.prediction.evidence import Runs
    from advisor.recommendation.recommendation import Recommendation
    from advisor.simulator.pool_splits import PoolComparison

REQUESTS = 600
"""That each fleet is held against: enough for means, and few enough for some dozens of fleets."""
DRAWS = 8
"""As ``simulate`` draws parameters for intervals."""
SERVED_S = 1.0
"""Requests a second that they are drawn at; each fleet has them at its own rate."""
KINDS = 2
"""Of GPUs that pools may be of."""
UNKNOWN = ("offload", "kv_offload", "shared_prefix", "sessions", "speculate", "dcp", "all2all_backend", "adapters")
"""Arguments of ``recommend`` that the search over splits does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolQuestion:
    """What of ``recommend`` pools need to know beside what it recommends."""

    gpus: str | Cluster
    set_gpu: Mapping[str, float | str] | None
    runs: Runs
    price: float | None
    illustrative_prices: bool
    link_gbps: float | None
    base: Deployment
    """Knobs of the engine that are stated; formats are those that are recommended."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any], link_gbps: float | None, *, disaggregate: bool) -> PoolQuestion:
        """Read it from the arguments of ``recommend``.

        Raises:
            InputError: an objective that pools have not, or a part of the question that they do not know.

        """
        if not disaggregate:
            raise InputError(NO_POOLS)
        if arguments["objective"] not in GOALS:
            raise InputError(
                f"pools are compared by {', '.join(GOALS)}, not by {arguments['objective']!s:.60}; leave out disaggregate or the objective"
            )
        if link_gbps is not None:
            require_positive("kv_link_gbps", link_gbps, whole=False, most=1e6)
        others = {name: arguments[name] for name in UNKNOWN}
        others |= {"turns": arguments["turns"] > 1, "several engines": "," in arguments["engine"]}
        for name, value in others.items():
            if value:
                raise InputError(f"pools are not searched with {name}; leave out one of the two")
        budget = arguments["max_num_batched_tokens"]
        return cls(
            **{name: arguments[name] for name in ("gpus", "set_gpu", "runs", "price", "illustrative_prices")},
            link_gbps=link_gbps,
            base=Deployment(
                engine=arguments["engine"].strip(),
                engine_version=arguments["engine_version"],
                max_model_len=arguments["max_model_len"],
                gpu_memory_utilization=arguments["gpu_memory_utilization"],
                max_num_batched_tokens=budget if isinstance(budget, int) else None,
            ),
        )

    def compared(self, answer: Recommendation) -> PoolComparison:
        """Return the best pools on the same GPUs for the same requests, beside the best deployment without.

        Raises:
            InputError: there is no load to compare them at, or more kinds of GPUs than pools.

        """
        concurrency = answer.workload.concurrency
        if concurrency is None and not answer.slo.limits:
            raise InputError("pools are compared at a load; state a limit, such as tpot 50, or a concurrency")
        kinds = self._kinds(answer)
        names = [layout.cluster.gpu.name for kind in kinds for layout in kind.layouts[:1]]
        prices = {name: chosen_price(name, self.price, illustrative=self.illustrative_prices) for name in names}
        return SplitSearch(
            kinds=kinds,
            demand=self._demand(answer),
            concurrency=concurrency,
            goal=answer.objective,
            usd_per_gpu_hour={
                name: None if price is None else price.usd_per_gpu_hour for name, price in prices.items()
            },
            link_gbps=self.link_gbps,
        ).best()

    def _demand(self, answer: Recommendation) -> TrafficSpec:
        """Return requests of the recommendation's lengths, at random times."""
        return TrafficSpec(
            workload=replace(answer.workload, concurrency=None, rate=SERVED_S),
            slo=answer.slo,
            confidence=answer.confidence,
            duration_s=REQUESTS / SERVED_S,
            seed=0,
            spread=0.0,
            burstiness=1.0,
            draws=DRAWS,
            longest=self.base.max_model_len or answer.model.max_position_embeddings,
        )

    def _kinds(self, answer: Recommendation) -> list[PoolGpus]:
        """Return every layout of one replica within a node of each kind of GPU."""
        places = [part for part in self.gpus.split(",") if part.strip()] if isinstance(self.gpus, str) else [self.gpus]
        if len(places) > KINDS:
            raise InputError(f"pools are of one kind of GPUs or two, not {len(places)}; name at most two")
        demand, kinds = self._demand(answer), []
        for place in places:
            cluster = read_cluster(place, self.set_gpu).value
            node = replace(cluster, nodes=1)
            layouts = [
                ReplicaSizing(cluster=node, engine=engine, demand=demand, most=1)
                for engine in self._engines(answer, node)
            ]
            kinds.append(PoolGpus(layouts=layouts, most=cluster.num_gpus))
        return kinds

    def _engines(self, answer: Recommendation, node: Cluster) -> list[AggregatedServer]:
        model, engine = answer.model, find_engine(answer.engine)
        best = answer.best or answer.nearest
        base = (
            self.base
            if best is None
            else replace(self.base, dtype=best.deployment.dtype, kv_dtype=best.deployment.kv_dtype)
        )
        knowledge = Evidence.of(self.runs, engine=engine.name, gpu=node.gpu, version=base.engine_version)
        experts = "tp" if model.moe_layers and "ep" in engine.parallel else "none"
        found = []
        for layout in parallelisms(
            model, node, max_pp=None if "pp" in engine.parallel else 1, expert_parallel=cast("Any", experts)
        ):
            if layout.dp > 1 or layout.dcp > 1 or node.gpus_per_node % layout.num_gpus:
                continue
            chosen = replace(base, tp=layout.tp, pp=layout.pp, ep=layout.ep)
            with contextlib.suppress(InputError):  # what does not fit
                found.append(AggregatedServer.of(model, node, chosen, knowledge, {}))
        length = answer.workload.input_len + answer.workload.output_len
        return [server for server in found if server.longest >= length]
