"""What one replica carries: every layout of every model on every kind of GPU, with the rate at which it keeps the limits.

A replica type is one column of the programme that chooses (``advisor.fleet.assignment``). Replicas of one type are alike and share
traffic evenly, so that what one carries alone is what each carries among others: several even out the gaps between
arrivals and carry a little more, which the check of the whole shows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.calibration.intervals import LEVEL
from advisor.capacity.candidates import fleets_of
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import BARE_ESTIMATE, read_cluster, read_model
from advisor.simulator.replica_sizing import TrafficSpec
from advisor.simulator.scheduler import FRONT_END_MS
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.wording import latency_label

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.fleet.question import FleetModel, FleetQuestion
    from advisor.prediction.evidence import Runs
    from advisor.simulator.replica_sizing import ReplicaSizing
    from advisor.simulator.slo_check import SloCheck
    from catalog.schema import Deployment

REQUESTS = 1500
"""That are simulated on one replica to see what it carries."""
SHORTLISTED = 3
"""Layouts of a model on a kind of GPU whose capacity is judged with the wanted confidence: the best by the estimate."""
DRAWS = 8
"""Of the parameters, for the wanted confidence: as many as ``simulate`` makes for intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaType:
    """One layout of one model on one kind of GPU."""

    model: int
    """Which of the fleet's models."""
    gpu: str
    deployment: Deployment
    gpus: int
    """Of one replica."""
    capacity_s: float
    """Requests a second up to which one replica keeps the limits with the wanted confidence."""
    saturation_s: float
    """Requests a second that it completes when there are always more waiting, by the estimate."""
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfReach:
    """Why a model has no replica on a kind of GPU."""

    model: int
    gpu: str
    reason: str


def sizings(question: FleetQuestion, number: int, gpu: str, runs: Runs, node: int) -> list[ReplicaSizing]:
    """List the layouts of a model within a node of one kind of GPU, at one request a second.

    Args:
        question: the fleet.
        number: of the model.
        gpu: its kind.
        runs: see ``advisor.plan``.
        node: GPUs of the largest replica.

    Raises:
        InputError: a name or number that cannot be.

    """
    wanted: FleetModel = question.models[number]
    demand, base = wanted.demand(), wanted.deployment
    model, cluster = read_model(wanted.model).value, read_cluster(gpu, None).value
    cluster = replace(cluster, nodes=1, gpus_per_node=max(min(cluster.gpu.gpus_per_node, node), 1))
    longest = base.max_model_len or model.max_position_embeddings
    workload = replace(demand.workload, rate=1.0, concurrency=None)
    if workload.input_len + workload.output_len > longest:
        raise InputError(
            f"model {wanted.label}: {workload.input_len} tokens in and {workload.output_len} out are more than the {longest} served"
        )
    spec = TrafficSpec(
        workload=workload,
        slo=demand.slo,
        confidence=question.confidence,
        duration_s=float(REQUESTS),
        seed=0,
        spread=demand.spread(wanted.spread),
        burstiness=1.0,
        draws=DRAWS,
        longest=longest,
    )
    traffic = spec.traffic()
    return fleets_of(
        model,
        cluster,
        base,
        Evidence.of(runs, engine=find_engine(base.engine).name, gpu=cluster.gpu),
        spec,
        most_gpus=None,
        spares=0,
        serving={
            "router": "round_robin",
            "prefix_hit_rate": demand.prefix_hit_rate(None),
            "front_end_ms": FRONT_END_MS,
        },
        longest_request=int((traffic.input_len + traffic.output_len).max()),
        together=False,
    )


def replica_types(
    question: FleetQuestion, number: int, gpu: str, runs: Runs, node: int
) -> tuple[list[ReplicaType], OutOfReach | None]:
    """Return what one replica of each worthwhile layout carries, or why there is none; arguments as those of ``sizings``."""
    layouts = sizings(question, number, gpu, runs, node)
    if not layouts:
        return [], OutOfReach(model=number, gpu=gpu, reason="its weights and one request fit no layout within a node")
    bare = [
        replace(layout, demand=replace(layout.demand, confidence=BARE_ESTIMATE)) for layout in _without_detours(layouts)
    ]
    estimated = [(layout.most_rate(1), layout) for layout in bare]
    if not any(rate for rate, _ in estimated):
        best = min(bare, key=lambda layout: layout.alone.excess)
        return [], OutOfReach(model=number, gpu=gpu, reason=_too_slow(best))
    types = []
    for layout in _shortlist(estimated):
        sure = layout.for_demand(replace(layout.demand, confidence=question.confidence))
        capacity = sure.most_rate(1)
        if capacity > 0:
            types.append(
                ReplicaType(
                    model=number,
                    gpu=gpu,
                    deployment=layout.engine.deployment,
                    gpus=layout.gpus,
                    capacity_s=capacity,
                    saturation_s=layout.saturation_s,
                    provenance=layout.engine.provenance,
                )
            )
    if types:
        return types, None
    return [], OutOfReach(model=number, gpu=gpu, reason=f"no layout keeps its limits with {question.confidence:.0%}")


def sizing_of(question: FleetQuestion, kind: ReplicaType, runs: Runs, node: int) -> ReplicaSizing:
    """Return the layout of a type, at one request a second."""
    layouts = sizings(question, kind.model, kind.gpu, runs, node)
    return next(layout for layout in layouts if layout.engine.deployment == kind.deployment)


def checked_fleet(
    question: FleetQuestion, kind: ReplicaType, replicas: int, rate: float, runs: Runs, node: int
) -> tuple[SloCheck, Mapping[str, tuple[float, float]]]:
    """Serve ``rate`` requests a second on so many replicas of a type: latencies, with 90% intervals."""
    sizing = sizing_of(question, kind, runs, node)
    spec = sizing.demand
    workload = replace(spec.workload, rate=rate)
    duration = max(REQUESTS * min(replicas, 8) / rate, 1.0)
    sizing = sizing.for_demand(replace(spec, workload=workload, duration_s=duration))
    check = sizing.slo_check(replicas)
    return check, sizing.intervals(replicas, check.latencies, LEVEL)


def _without_detours(layouts: Sequence[ReplicaSizing]) -> Iterator[ReplicaSizing]:
    """Leave out pipelines where as many GPUs hold the model by tensor parallelism alone."""
    plain = {layout.gpus for layout in layouts if layout.engine.deployment.pp == 1}
    return (layout for layout in layouts if layout.engine.deployment.pp == 1 or layout.gpus not in plain)


def _shortlist(estimated: Sequence[tuple[float, ReplicaSizing]]) -> list[ReplicaSizing]:
    """Return the layout that carries most per GPU, and smaller ones that carry less: small models need no more."""
    best: dict[int, tuple[float, ReplicaSizing]] = {}
    for rate, layout in estimated:
        if rate > best.get(layout.gpus, (0.0, layout))[0]:
            best[layout.gpus] = (rate, layout)
    by_gpu = sorted(best.values(), key=lambda pair: -pair[0] / pair[1].gpus)
    front = [pair for pair in by_gpu if pair[1].gpus <= by_gpu[0][1].gpus]
    return [layout for _, layout in front[:SHORTLISTED]]


def _too_slow(layout: ReplicaSizing) -> str:
    limits = layout.demand.slo.limits
    slow = [
        f"{latency_label(name)} {layout.alone.latencies[name]:.3g} ms"
        for name, limit in limits.items()
        if layout.alone.latencies[name] > limit
    ]
    return f"a request alone takes {' and '.join(slow) or 'longer than its limits'}"
