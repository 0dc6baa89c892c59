"""Replicas that only compute prompts, and others that only decode."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.calibration.intervals import beyond_dense, scale_name
from advisor.calibration.surrogate import ANY
from advisor.perf_model.collectives import hand_over_ms
from advisor.simulator.disaggregation import KvTransfer, ServerPool, saturation_apart, serve_apart
from advisor.simulator.routers import FCFS
from catalog.errors import InputError, Note

if TYPE_CHECKING:
    from advisor.calibration.parameter_posterior import Provenance
    from advisor.calibration.surrogate import IntervalScale
    from advisor.perf_model.parameters import Parameters
    from advisor.simulator.arrivals import Arrivals, ArrivalStream
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.routers import Router
    from advisor.simulator.server import AggregatedServer
    from advisor.simulator.step_ends import StepSpread
    from advisor.simulator.step_table import StepTimes
    from catalog.schema import Deployment, Model


APART: Provenance = "analytic"
"""Where prompts have a pool of their own. No such deployment was measured, so however well the engine's steps are known, its
intervals are as wide as those of an engine that nobody measured."""


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

    @classmethod
    def of(cls, prefill: AggregatedServer, decode: AggregatedServer) -> DisaggregatedServer:
        """Join replicas that share a cluster.

        Raises:
            InputError: there are too few GPUs for both, or they cannot hand over a KV cache.

        """
        cluster, model = decode.cost_model.cluster, decode.cost_model.model
        one, other = prefill.deployment, decode.deployment
        if (one.engine, one.dtype, one.kv_dtype) != (other.engine, other.dtype, other.kv_dtype):
            raise InputError("the pools for prompts and outputs must have one engine, dtype and kv_dtype")
        if one.num_gpus + other.num_gpus > cluster.num_gpus:
            raise InputError(
                f"{one.num_gpus} GPUs for prompts and {other.num_gpus} for outputs of {model.name} are more than the "
                f"{cluster.num_gpus} of {cluster}"
            )
        scheduler = replace(decode.scheduler, cached_prompts=True, prefix_hit_rate=0.0)
        unsure = replace(decode.marginal, covariance=decode.knowledge.unmeasured.covariance, provenance=APART)
        return cls(prefill=prefill, decode=replace(decode, scheduler=scheduler, marginal=unsure))

    @property
    def within_node(self) -> bool:
        """Return whether both pools fit in one node; else the caches cross the network."""
        needed = self.prefill.deployment.num_gpus + self.decode.deployment.num_gpus
        return needed <= self.decode.cost_model.cluster.gpus_per_node

    @property
    def bytes_per_token(self) -> float:
        """Return bytes of KV cache per token over the busiest link: every GPU of a replica sends or takes its part."""
        return max(float(pool.cost_model.memory.kv_bytes_per_token[0]) for pool in (self.prefill, self.decode))

    def link(self, parameters: Parameters) -> KvTransfer:
        """Return the hand-over under these parameters."""
        cluster = self.decode.cost_model.cluster
        latency = float(hand_over_ms(0.0, cluster, parameters, crosses=not self.within_node))
        many = float(hand_over_ms(1e9, cluster, parameters, crosses=not self.within_node))
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
        network = f"{self.decode.cost_model.cluster.network_gbps:g} GB/s between nodes"
        text = (
            f"KV caches go over {'the links inside a node' if self.within_node else network} once a prompt is done; no "
            "deployment with a pool for prompts was measured, so its intervals are as wide as those of an engine nobody measured"
        )
        return Note(text, "warning")

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

    def beliefs(self, draws: int) -> list[tuple[Parameters, float]]:
        return self.decode.beliefs(draws)

    def times(self, belief: tuple[Parameters, float]) -> tuple[StepTimes, StepTimes, KvTransfer]:
        """Return step times of prefill and of decode, and the link between them."""
        return self.prefill.times(belief), self.decode.times(belief), self.link(belief[0])

    def spread(self, draws: int, traffic: Arrivals) -> tuple[StepSpread, StepSpread, float]:
        """Measure how far the times of prefill, of decode, and of the link may lie from what is believed."""
        first, *others = (self.link(belief[0]).ms_per_token for belief in self.beliefs(draws))
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
        return serve_apart(traffic, *self._pools(times, multiple), times[2])

    def saturation(self, traffic: Arrivals, times: tuple[StepTimes, StepTimes, KvTransfer]) -> float:
        return saturation_apart(traffic, *self._pools(times), times[2])

    def _pools(
        self, times: tuple[StepTimes, StepTimes, KvTransfer], multiple: int = 1
    ) -> tuple[ServerPool, ServerPool]:
        return (
            ServerPool(times=times[0], scheduler=self.prefill.scheduler.multiplied(multiple)),
            ServerPool(times=times[1], scheduler=self.decode.scheduler.multiplied(multiple)),
        )
