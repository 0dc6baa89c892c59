"""Replicas that only compute prompts, and others that only decode: on GPUs of one kind or of two, and the link between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from advisor.calibration.intervals import beyond_dense, scale_name
from advisor.calibration.surrogate import ANY
from advisor.perf_model.collectives import hand_over_ms
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import read_cluster
from advisor.simulator.disaggregation import KvTransfer, ServerPool, saturation_apart, serve_apart
from advisor.simulator.routers import FCFS
from advisor.simulator.server import AggregatedServer
from catalog.engines import check_joined
from catalog.errors import InputError, Note
from catalog.schema import require_positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.calibration.surrogate import IntervalScale
    from advisor.perf_model.parameters import Parameters
    from advisor.prediction.evidence import Runs
    from advisor.simulator.arrivals import Arrivals, ArrivalStream
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.routers import Router
    from advisor.simulator.step_ends import StepSpread
    from advisor.simulator.step_table import StepTimes
    from catalog.schema import Cluster, Deployment, Model


NO_TIERS = "prompts in a pool of their own are not simulated with kv_offload; leave one out"
"""Why pools for prompts take no tiers below the KV cache."""
APART: Provenance = "analytic"
"""Where prompts have a pool of their own. No such deployment was measured, so however well the engine's steps are known, its
intervals are as wide as those of an engine that nobody measured."""
Belief: TypeAlias = "tuple[Parameters, float]"
"""Parameters, and a factor of all times."""


def check_pools(traffic: Arrivals | ArrivalStream, policy: str) -> None:
    """Raise ``InputError`` for traffic, or a policy of its queue, that no pool of its own for prompts can take."""
    if traffic.concurrency:
        raise InputError("prompts in a pool of their own take a rate or a trace, not a concurrency; leave one out")
    if traffic.sharing is not None and traffic.sharing.follows:
        raise InputError(
            "prompts in a pool of their own take requests that wait for no other; leave out turns or sessions"
        )
    if traffic.classes is not None or policy != FCFS:
        raise InputError(
            "prompts in a pool of their own take requests that are all alike, first come first served; leave out classes and scheduling_policy, or the pool"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggregatedServer:
    """Replicas that only compute prompts, and others that only decode."""

    prefill: AggregatedServer
    decode: AggregatedServer
    link_gbps: float | None = None
    """GB/s of a GPU over the link between the pools, per direction, where that is stated."""

    @classmethod
    def of(
        cls, prefill: AggregatedServer, decode: AggregatedServer, link_gbps: float | None = None
    ) -> DisaggregatedServer:
        """Join replicas that share a cluster, or whose clusters are of different GPUs.

        Raises:
            InputError: there are too few GPUs for both, or they cannot hand over a KV cache.

        """
        if link_gbps is not None:
            require_positive("kv_link_gbps", link_gbps, whole=False, most=1e6)
        cluster, model = decode.cost_model.cluster, decode.cost_model.model
        if prefill.scheduler.tiers or decode.scheduler.tiers:
            raise InputError(NO_TIERS)
        same = prefill.cost_model.cluster.gpu == cluster.gpu
        check_joined(prefill.deployment, decode.deployment, model, cluster if same else None)
        scheduler = replace(decode.scheduler, cached_prompts=True, prefix_hit_rate=0.0)
        prefill = prefill if same else unmeasured(prefill)
        return cls(prefill=prefill, decode=replace(unmeasured(decode), scheduler=scheduler), link_gbps=link_gbps)

    @property
    def of_two_kinds(self) -> bool:
        """Return whether prompts have GPUs of another kind."""
        return self.prefill.cost_model.cluster.gpu != self.decode.cost_model.cluster.gpu

    @property
    def within_node(self) -> bool:
        """Return whether both pools fit in one node; else the caches cross the network."""
        return self._within_node(1)

    def _within_node(self, multiple: int) -> bool:
        """Return it of ``multiple`` times as many replicas, any of which may decode for any."""
        needed = self.prefill.deployment.num_gpus + self.decode.deployment.num_gpus
        return not self.of_two_kinds and multiple * needed <= self.decode.cost_model.cluster.gpus_per_node

    @property
    def bytes_per_token(self) -> float:
        """Return bytes of KV cache per token over the busiest link: every GPU of a replica sends or takes its part."""
        return max(float(pool.cost_model.memory.kv_bytes_per_token[0]) for pool in (self.prefill, self.decode))

    def link(self, parameters: Parameters, multiple: int = 1) -> KvTransfer:
        """Return the hand-over under these parameters, as slow as the slower of both ends, of ``multiple`` times as many replicas."""
        ends = [pool.cost_model.cluster for pool in (self.prefill, self.decode)]
        if self.link_gbps is not None:
            ends = [replace(end, network_gbps=self.link_gbps) for end in ends]
        crosses = not self._within_node(multiple) or self.link_gbps is not None
        latency = max(float(hand_over_ms(0.0, end, parameters, crosses=crosses)) for end in ends)
        many = max(float(hand_over_ms(1e9, end, parameters, crosses=crosses)) for end in ends)
        return KvTransfer(ms_per_token=(many - latency) / 1e9 * self.bytes_per_token, latency_ms=latency)

    @property
    def notes(self) -> tuple[Note, ...]:
        """Return the notes of both pools, and what the hand-over takes."""
        link = self.link(self.decode.marginal.parameters)
        text = f"a KV cache of 1000 tokens takes {1e3 * link.ms_per_token:.3g} ms from prompt to output"
        return (*self.prefill.notes, *self.decode.notes, Note(text), self.warning)

    @property
    def warning(self) -> Note:
        """Say what is assumed."""
        if self.link_gbps is not None:
            way = f"a link of {self.link_gbps:g} GB/s a GPU, as stated,"
        elif self.within_node:
            way = "the links inside a node"
        else:
            network = min(pool.cost_model.cluster.network_gbps for pool in (self.prefill, self.decode))
            way = f"{network:g} GB/s between nodes"
        text = (
            f"KV caches go over {way} once a prompt is done; no "
            "deployment with a pool for prompts was measured, so its intervals are as wide as those of an engine nobody measured"
        )
        return Note(text, "warning")

    @property
    def prefill_cluster(self) -> Cluster | None:
        """Return the GPUs for prompts, where they are of another kind."""
        return self.prefill.cost_model.cluster if self.of_two_kinds else None

    @property
    def provenance(self) -> Provenance:
        return APART

    @property
    def scale(self) -> IntervalScale:
        staged = max(self.prefill.deployment.pp, self.decode.deployment.pp) > 1
        name = scale_name("tpot_ms", "static", staged=staged, experts=beyond_dense(self.decode.model))
        return self.decode.knowledge.scale(APART, ANY, name)

    @property
    def router(self) -> Router:
        return self.decode.scheduler.router

    @property
    def deployment(self) -> Deployment:
        """Return the deployment that decodes."""
        return self.decode.deployment

    @property
    def gpus(self) -> int:
        return self.prefill.gpus + self.decode.gpus

    @property
    def gpu_counts(self) -> dict[str, int]:
        """Return GPUs by the name of their kind, those for prompts first."""
        counts = dict(self.prefill.gpu_counts)
        for name, gpus in self.decode.gpu_counts.items():
            counts[name] = counts.get(name, 0) + gpus
        return counts

    @property
    def longest(self) -> int:
        return min(self.prefill.longest, self.decode.longest)

    def multiple(self, times: int) -> tuple[Deployment, Deployment | None]:
        """Return ``times`` times as many replicas: what decodes, and what computes the prompts."""
        return self.decode.multiple(times)[0], self.prefill.multiple(times)[0]

    @property
    def model(self) -> Model:
        return self.decode.model

    @property
    def kv_bytes(self) -> float:
        return self.decode.kv_bytes

    def beliefs(self, draws: int) -> list[tuple[Belief, Belief]]:
        """Return what is believed of the GPUs for prompts and of those that decode, the same where they are of one kind."""
        decode = self.decode.beliefs(draws)
        return list(zip(self.prefill.beliefs(draws) if self.of_two_kinds else decode, decode, strict=True))

    def times(self, belief: tuple[Belief, Belief]) -> tuple[StepTimes, StepTimes, KvTransfer]:
        """Return step times of prefill and of decode, and the link between them."""
        prefill, decode = belief
        return self.prefill.times(prefill), self.decode.times(decode), self.link(decode[0])

    def believed_times(self) -> tuple[StepTimes, StepTimes, KvTransfer]:
        """Return them by the parameters themselves."""
        return self.times(self.beliefs(0)[0])

    def spread(self, draws: int, traffic: Arrivals) -> tuple[StepSpread, StepSpread, float]:
        """Measure how far the times of prefill, of decode, and of the link may lie from what is believed."""
        first, *others = (self.link(decode[0]).ms_per_token for _, decode in self.beliefs(draws))
        link = math.sqrt(sum(math.log(drawn / first) ** 2 for drawn in others) / max(len(others), 1))
        return self.prefill.spread(draws, traffic), self.decode.spread(draws, traffic), link

    def ended(
        self,
        times: tuple[StepTimes, StepTimes, KvTransfer],
        spread: tuple[StepSpread, StepSpread, float],
        quantile: float,
    ) -> tuple[StepTimes, StepTimes, KvTransfer]:
        """Return times so many standard deviations longer, or shorter as far as physics allows."""
        factor = math.exp(min(quantile * spread[2], 50.0))
        link = KvTransfer(ms_per_token=factor * times[2].ms_per_token, latency_ms=factor * times[2].latency_ms)
        prefill, decode = (
            self.prefill.ended(times[0], spread[0], quantile),
            self.decode.ended(times[1], spread[1], quantile),
        )
        return prefill, decode, link

    def served(
        self, traffic: Arrivals, times: tuple[StepTimes, StepTimes, KvTransfer], multiple: int = 1
    ) -> RequestResults:
        """Serve the traffic on ``multiple`` times as many replicas."""
        return serve_apart(traffic, *self._pools(times, multiple), self._link_of(times[2], multiple))

    def _link_of(self, link: KvTransfer, multiple: int) -> KvTransfer:
        """Return a link as it is between ``multiple`` times as many replicas, which may fill more than a node."""
        if self._within_node(multiple) == self.within_node:
            return link
        here, there = (self.link(self.decode.marginal.parameters, number) for number in (1, multiple))
        slower = link.ms_per_token / here.ms_per_token
        return KvTransfer(ms_per_token=slower * there.ms_per_token, latency_ms=slower * there.latency_ms)

    def saturation(
        self, traffic: Arrivals, times: tuple[StepTimes, StepTimes, KvTransfer], hit_rate: float | None = None
    ) -> float:
        """Return requests a second that are completed at most; ``hit_rate`` as ``AggregatedServer.saturation`` has it."""
        return saturation_apart(traffic, *self._pools(times), times[2], hit_rate)

    def _pools(
        self, times: tuple[StepTimes, StepTimes, KvTransfer], multiple: int = 1
    ) -> tuple[ServerPool, ServerPool]:
        return (
            ServerPool(times=times[0], scheduler=self.prefill.scheduler.multiplied(multiple)),
            ServerPool(times=times[1], scheduler=self.decode.scheduler.multiplied(multiple)),
        )


def unmeasured(pool: AggregatedServer) -> AggregatedServer:
    """Return replicas of which nothing is believed to be known better than of an engine that nobody measured."""
    unsure = replace(pool.marginal, covariance=pool.knowledge.unmeasured.covariance, provenance=APART)
    return replace(pool, marginal=unsure)


def with_pool(
    decode: AggregatedServer,
    prefill: Deployment | None,
    gpus: str | Cluster | None,
    *,
    link_gbps: float | None,
    runs: Runs,
    serving: Mapping[str, Any],
) -> AggregatedServer | DisaggregatedServer:
    """Return replicas with others for prompts beside them, where there are any; ``gpus``: theirs, where they are of another kind.

    Raises:
        InputError: they cannot be joined, or do not fit.

    """
    if prefill is None:
        if gpus is not None or link_gbps is not None:
            raise InputError(
                "prefill_gpus and kv_link_gbps are of a pool for prompts; say what computes them with prefill"
            )
        return decode
    cluster, knowledge = decode.cost_model.cluster, decode.knowledge
    if gpus is not None:
        cluster = read_cluster(gpus).value
        if cluster.gpu.name == decode.cost_model.cluster.gpu.name:
            raise InputError(
                f"prompts and outputs are both on {cluster.gpu.name}; name GPUs of another kind for prompts, or leave them "
                "out: both pools then share the cluster"
            )
        knowledge = Evidence.of(runs, engine=prefill.engine, gpu=cluster.gpu, version=prefill.engine_version)
    pool = AggregatedServer.of(decode.cost_model.model, cluster, prefill, knowledge, serving)
    return DisaggregatedServer.of(pool, decode, link_gbps)
