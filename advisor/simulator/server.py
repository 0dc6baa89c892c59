"""Replicas of one deployment: what the scheduler's loop needs to know of them, and what is believed of their times."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.intervals import implementation_variance, scale_name
from advisor.calibration.support import extrapolation_notes, widened
from advisor.calibration.surrogate import ANY
from advisor.perf_model.collectives import hand_over_ms
from advisor.perf_model.cost_model import CostModel
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.vllm import max_concurrency, memory
from advisor.perf_model.parameters import NAMES, Parameters
from advisor.perf_model.schedule import static_batch_times
from advisor.prediction.prediction import STEP
from advisor.simulator.arrivals import MOST_REQUESTS
from advisor.simulator.disaggregation import KvTransfer, ServerPool, saturation_apart, serve_apart
from advisor.simulator.request_results import (
    FRONT_END_MS,
    TURNS,
    Scheduler,
    longest,
    saturation_rate,
    serve,
    serve_pieces,
)
from advisor.simulator.step_table import tabulate
from catalog.engines import resolve
from catalog.schema import Cluster, Deployment, InputError, Model, Note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from advisor.calibration.parameter_posterior import ParameterPosterior, Provenance
    from advisor.calibration.surrogate import IntervalScale
    from advisor.prediction.evidence import Evidence
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.request_results import RequestResults, Router
    from advisor.simulator.step_table import StepTimes
    from catalog.units import Array

APART: Provenance = "analytic"
"""Where prompts have a pool of their own. No such deployment was measured, so however well the engine's steps are known, its
intervals are as wide as those of an engine that nobody measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregatedServer:
    """Replicas of one resolved deployment."""

    deployment: Deployment
    setting: CostModel
    scheduler: Scheduler
    marginal: ParameterPosterior
    knowledge: Evidence
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(
        cls, model: Model, cluster: Cluster, deployment: Deployment, knowledge: Evidence, serving: Mapping[str, Any]
    ) -> AggregatedServer:
        """Of a deployment, its open knobs chosen as the engine would; ``serving``: arguments of ``scheduler_of``.

        Raises:
            InputError: the deployment cannot be, or does not fit.

        """
        resolved = resolve(deployment, model, cluster)
        chosen = resolved.value
        layout = DeploymentArrays.of([chosen], model, cluster.gpu)
        known = knowledge.marginal(chosen.engine, cluster.gpu)
        setting = CostModel(
            model=model, cluster=cluster, layout=layout, memory=memory(model, cluster, layout, chosen.engine),
            parameters=known.parameters, engine=chosen.engine,
        )  # fmt: skip
        (news,) = extrapolation_notes(known, chosen.engine, model, layout)
        return cls(
            deployment=chosen, setting=setting, scheduler=scheduler_of(setting, chosen, **serving),
            marginal=widened(known, (model, layout)), knowledge=knowledge, notes=(*resolved.notes, *news),
        )  # fmt: skip

    @property
    def longest(self) -> int:
        """Tokens of the longest request that is served."""
        limit = self.deployment.max_model_len or self.setting.model.max_position_embeddings
        return min(limit, longest(self.scheduler))

    @property
    def provenance(self) -> Provenance:
        return self.marginal.provenance

    @property
    def scale(self) -> IntervalScale:
        return scale_of(self.knowledge, self.marginal, self.deployment)

    @property
    def model(self) -> Model:
        return self.setting.model

    @property
    def kv_bytes(self) -> float:
        """Of the cache for a token, over all GPUs of a replica."""
        return float(self.setting.memory.kv_bytes_per_token[0]) * self.deployment.tp * self.deployment.pp

    def beliefs(self, draws: int) -> list[tuple[Parameters, float]]:
        """The parameters themselves, and so many draws, each with a factor of all times."""
        return [
            (self.marginal.parameters, 1.0),
            *draws_of(self.marginal, self.knowledge, self.setting, self.deployment, draws),
        ]

    def times(self, belief: tuple[Parameters, float]) -> StepTimes:
        parameters, factor = belief
        return times_of(replace(self.setting, parameters=parameters), self.scheduler).scaled(factor)

    @property
    def router(self) -> Router:
        return self.scheduler.router

    @property
    def gpus(self) -> int:
        return self.deployment.num_gpus

    def multiplied(self, times: int) -> AggregatedServer:
        """So many times as many replicas."""
        deployment = replace(self.deployment, dp=self.deployment.dp * times)
        return replace(self, deployment=deployment, scheduler=_multiplied(self.scheduler, times))

    def multiple(self, times: int) -> tuple[Deployment, Deployment | None]:
        """The deployment of so many times as many replicas, and what computes the prompts if that is another."""
        return self.multiplied(times).deployment, None

    def served(self, traffic: Arrivals, times: StepTimes, multiple: int = 1) -> RequestResults:
        """What becomes of the traffic on ``multiple`` times as many replicas."""
        return serve(traffic, times, _multiplied(self.scheduler, multiple))

    def served_pieces(
        self, pieces: Iterable[Arrivals], times: StepTimes, duration_s: float
    ) -> Iterator[RequestResults]:
        """What becomes of a stream, in parts (see ``serving.runs.serve_pieces``)."""
        return serve_pieces(pieces, times, self.scheduler, duration_s=duration_s, most_open=MOST_REQUESTS)

    def saturation(self, traffic: Arrivals, times: StepTimes, turns: int = TURNS) -> float:
        return saturation_rate(traffic, times, self.scheduler, turns=turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggregatedServer:
    """Replicas that only compute prompts, and others that only decode."""

    prefill: AggregatedServer
    decode: AggregatedServer

    @classmethod
    def of(cls, prefill: AggregatedServer, decode: AggregatedServer) -> DisaggregatedServer:
        """Of replicas that share a cluster.

        Raises:
            InputError: there are too few GPUs for both, or they cannot hand over a KV cache.

        """
        cluster, model = decode.setting.cluster, decode.setting.model
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
        """Whether both pools fit in one node; else the caches cross the network."""
        needed = self.prefill.deployment.num_gpus + self.decode.deployment.num_gpus
        return needed <= self.decode.setting.cluster.gpus_per_node

    @property
    def bytes_per_token(self) -> float:
        """Of the KV cache, over the busiest link: every GPU of a replica sends or takes its part."""
        return max(float(each.setting.memory.kv_bytes_per_token[0]) for each in (self.prefill, self.decode))

    def link(self, parameters: Parameters) -> KvTransfer:
        """The hand-over under these parameters."""
        cluster = self.decode.setting.cluster
        latency = hand_over_ms(0.0, cluster, parameters, within_node=self.within_node)
        many = hand_over_ms(1e9, cluster, parameters, within_node=self.within_node)
        return KvTransfer(ms_per_token=(many - latency) / 1e9 * self.bytes_per_token, latency_ms=latency)

    @property
    def notes(self) -> tuple[Note, ...]:
        """With what the hand-over takes."""
        link = self.link(self.decode.marginal.parameters)
        told = f"a KV cache of 1000 tokens takes {1e3 * link.ms_per_token:.3g} ms from prompt to output"
        return (*self.prefill.notes, *self.decode.notes, Note(told), self.warning)

    @property
    def warning(self) -> Note:
        """What is assumed."""
        network = f"{self.decode.setting.cluster.network_gbps:g} GB/s between nodes"
        told = (
            f"KV caches go over {'the links inside a node' if self.within_node else network} once a prompt is done; no "
            "deployment with a pool for prompts was measured, so its intervals are as wide as those of an engine nobody measured"
        )
        return Note(told, "warning")

    @property
    def provenance(self) -> Provenance:
        return APART

    @property
    def scale(self) -> IntervalScale:
        staged = max(self.prefill.deployment.pp, self.decode.deployment.pp) > 1
        name = scale_name("tpot_ms", "static", staged=staged)
        return self.decode.knowledge.scale(APART, ANY, name)

    @property
    def router(self) -> Router:
        return self.decode.scheduler.router

    @property
    def deployment(self) -> Deployment:
        """What decodes."""
        return self.decode.deployment

    @property
    def gpus(self) -> int:
        return self.prefill.gpus + self.decode.gpus

    @property
    def longest(self) -> int:
        return min(self.prefill.longest, self.decode.longest)

    def multiple(self, times: int) -> tuple[Deployment, Deployment | None]:
        """So many times as many replicas: what decodes, and what computes the prompts."""
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
        """Of prefill and of decode, and of the link between them."""
        return self.prefill.times(belief), self.decode.times(belief), self.link(belief[0])

    def served(
        self, traffic: Arrivals, times: tuple[StepTimes, StepTimes, KvTransfer], multiple: int = 1
    ) -> RequestResults:
        """What becomes of the traffic on ``multiple`` times as many replicas."""
        return serve_apart(traffic, *self._pools(times, multiple), times[2])

    def saturation(
        self, traffic: Arrivals, times: tuple[StepTimes, StepTimes, KvTransfer], turns: int = TURNS
    ) -> float:
        return saturation_apart(traffic, *self._pools(times), times[2], turns=turns)

    def _pools(
        self, times: tuple[StepTimes, StepTimes, KvTransfer], multiple: int = 1
    ) -> tuple[ServerPool, ServerPool]:
        return (
            ServerPool(times=times[0], scheduler=_multiplied(self.prefill.scheduler, multiple)),
            ServerPool(times=times[1], scheduler=_multiplied(self.decode.scheduler, multiple)),
        )


def _multiplied(scheduler: Scheduler, multiple: int) -> Scheduler:
    return replace(scheduler, replicas=scheduler.replicas * multiple)


def outcomes(
    engine: AggregatedServer | DisaggregatedServer, traffic: Arrivals, draws: int
) -> Iterator[tuple[RequestResults, float]]:
    """What becomes of the traffic, and the saturation rate: as believed, and under other parameters."""
    for belief in engine.beliefs(draws):
        times: Any = engine.times(belief)
        yield engine.served(traffic, times), engine.saturation(traffic, times)


def scheduler_of(
    setting: CostModel, deployment: Deployment, *, router: Router = "round_robin", prefix_hit_rate: float = 0.0,
    front_end_ms: float = FRONT_END_MS,
) -> Scheduler:  # fmt: skip
    """What the loop needs to know of a resolved deployment.

    Raises:
        InputError: the weights do not fit, or the engine does not batch continuously.

    """
    from advisor.simulator.scheduler_loop import BLOCK

    room, gpu = setting.memory, setting.cluster.gpu
    if setting.whole_prompts:
        raise InputError(
            "engine torch serves whole batches in turn and has no scheduler to simulate; use vllm or estimate"
        )
    if not room.fits[0]:
        raise InputError(
            f"{setting.model.name} does not fit: weights, activations and engine leave no KV cache on {gpu.name} with "
            f"TP{deployment.tp} PP{deployment.pp}; use more GPUs or a smaller dtype"
        )
    assert deployment.max_num_seqs
    assert deployment.max_num_batched_tokens
    return Scheduler(
        replicas=deployment.dp, max_num_seqs=deployment.max_num_seqs,
        max_num_batched_tokens=deployment.max_num_batched_tokens, stages=deployment.pp,
        kv_blocks=max(int(room.kv_capacity_tokens[0]) // BLOCK, 1), window=setting.model.sliding_window, router=router,
        prefix_hit_rate=prefix_hit_rate, front_end_ms=front_end_ms,
    )  # fmt: skip


def times_of(setting: CostModel, scheduler: Scheduler) -> StepTimes:
    """The tables for every step that the scheduler can make up."""
    return tabulate(setting, budget=scheduler.max_num_batched_tokens, cap=scheduler.max_num_seqs)


def draws_of(
    marginal: ParameterPosterior, knowledge: Evidence, setting: CostModel, deployment: Deployment, count: int
) -> list[tuple[Parameters, float]]:
    """Parameters and a factor of all times, ``count`` times: a draw and its mirror image, so that means stay.

    Few are drawn, so they are not left to chance: they differ in the factor and along the directions in which steps of
    this deployment change most (``_directions``), in combinations that are orthogonal to each other. The mean square over
    the draws of whatever is linear in these directions is then just its variance, as with the sigma points of an
    unscented transform (Julier and Uhlmann, 1997), and no draw is further out than chance would have it.
    """
    scale = scale_of(knowledge, marginal, deployment)
    noise = math.sqrt(scale.noise**2 + float(implementation_variance(marginal.provenance, float(deployment.compiled))))
    half = (count + 1) // 2
    if not half:
        return []
    from scipy.fft import dct

    ways = _directions(marginal, setting)[: half - 1]
    # The first combination is the same for all draws, so it is that of the factor; their entries are at most 1.42.
    combined = math.sqrt(half) * dct(np.eye(half), norm="ortho", axis=0).T[:, : len(ways) + 1]
    found = []
    for factor, *amounts in combined:
        step = np.asarray(amounts) @ ways if amounts else np.zeros(len(marginal.mean))
        found.append((Parameters.from_unbounded(marginal.mean + step), math.exp(noise * factor)))
        found.append((Parameters.from_unbounded(marginal.mean - step), math.exp(-noise * factor)))
    return found[:count]


def _directions(marginal: ParameterPosterior, setting: CostModel) -> Array:
    """Orthogonal parts of the parameters' spread, shape (k, len(NAMES)): all of what the first kind of step is uncertain by,
    what the next is beside that, and so on.

    The steps are those of a full batch, of prompts, of a sequence alone, of a batch between, and of a prompt alone.
    """
    longest = float(setting.layout.max_model_len[0])
    lengths = min(1024.0, longest / 2), min(256.0, longest / 4)
    room = max_concurrency(setting.model, setting.memory, setting.layout, np.array([sum(lengths)]))[0]
    full = max(math.floor(min(float(setting.layout.max_num_seqs[0]), room)), 1)
    batches = np.array([full, 1.0, math.ceil(math.sqrt(full))])
    shifted = np.vstack([marginal.mean, marginal.mean + STEP * np.eye(len(NAMES))])
    times = static_batch_times(
        replace(setting.take(np.zeros(len(batches), dtype=int)), parameters=Parameters.from_unbounded(shifted)), batches,
        *(np.full(len(batches), each) for each in lengths),
    )  # fmt: skip
    tpot, prefill = ((np.log(each[1:]) - np.log(each[0])) / STEP for each in (times.tpot_ms, times.prefill_ms))
    slopes = np.stack([tpot[:, 0], prefill[:, 0], tpot[:, 1], tpot[:, 2], prefill[:, 1]], axis=1)
    values, vectors = np.linalg.eigh(marginal.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray((root @ np.linalg.qr(root.T @ slopes)[0]).T)


def scale_of(knowledge: Evidence, marginal: ParameterPosterior, deployment: Deployment) -> IntervalScale:
    """Errors of the time of a decode step, which most steps under traffic are."""
    name = scale_name("tpot_ms", "static", staged=deployment.pp > 1)
    return knowledge.scale(marginal.provenance, deployment.engine, name)
