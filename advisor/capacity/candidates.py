"""What a capacity plan chooses from: kinds of GPUs, their prices, and every layout of one replica on them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.energy import POWER
from advisor.perf_model.memory.dispatch import memory
from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import chosen_price, read_cluster
from advisor.recommendation.layout_choice import checked_degree
from advisor.simulator.pool_pairs import PoolGpus, PoolTerms
from advisor.simulator.replica_sizing import MOST_REPLICAS, ReplicaSizing, TrafficSpec
from advisor.simulator.server import AggregatedServer
from catalog.engines import find_engine, resolve
from catalog.errors import InputError, NoRoomError, Note
from catalog.gpus import counted_in
from catalog.prices import no_price
from catalog.schema import Cluster, Deployment, Model
from search.parallelism import context_degrees, parallelisms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.prediction.evidence import Runs
    from catalog.features import Drafting
    from catalog.schema import Price
    from search.parallelism import Parallelism


GpuKind = tuple[Cluster, int | None, tuple[Note, ...]]
"""A node of one kind of GPU, the most GPUs there are (None: as many as it takes), and what is to be said of it."""


def kinds_of(gpus: str | Cluster | Sequence[str | Cluster], set_gpu: Mapping[str, float | str] | None) -> list[GpuKind]:
    """Read the kinds of GPUs a user names, each once."""
    named: list[str | Cluster] = []
    for name_or_cluster in [gpus] if isinstance(gpus, (str, Cluster)) else gpus:
        named += name_or_cluster.split(",") if isinstance(name_or_cluster, str) else [name_or_cluster]
    if not named:
        raise InputError("no GPUs named; name some such as H100,H200 or 8xH100")
    clusters: list[GpuKind] = []
    for name_or_cluster in named:
        read = read_cluster(name_or_cluster, set_gpu)
        cluster = read.value
        if any(cluster.gpu.name == other.gpu.name for other, _, _ in clusters):
            raise InputError(f"{cluster.gpu.name} is named twice; name each kind of GPU once")
        if isinstance(name_or_cluster, str) and not counted_in(name_or_cluster):
            clusters.append((replace(cluster, gpus_per_node=cluster.gpu.gpus_per_node), None, read.notes))
        else:
            clusters.append((replace(cluster, nodes=1), cluster.num_gpus, read.notes))
    return clusters


def place(cluster: Cluster, most: int | None) -> str:
    """Say where a replica has to find room."""
    return f"a node of {cluster}" if most is None or most > cluster.gpus_per_node else str(cluster)


def fleets_of(
    model: Model,
    node: Cluster,
    base: Deployment,
    knowledge: Evidence,
    demand: TrafficSpec,
    *,
    most_gpus: int | None,
    spares: int,
    serving: Mapping[str, Any],
    longest_request: int,
    together: bool = True,
    dcp: int | None = None,
    draftings: Sequence[Drafting | None] = (None,),
) -> list[ReplicaSizing]:
    """List every layout of one replica that holds the model and its longest request, and fills a node evenly; with ``together`` of models
    with experts also those of replicas that share them (attention data parallel). Contexts are spread over ``dcp`` GPUs, if stated. Each
    drafts in every way of ``draftings`` that fits.
    """
    known = find_engine(base.engine).parallel
    experts = ("all" if together and "dp" in known else "tp") if model.moe_layers and "ep" in known else "none"
    engines: list[AggregatedServer] = []
    contexts = partial(
        context_degrees,
        model,
        stated=checked_degree(dcp, find_engine(base.engine)),
        length=demand.workload.input_len + demand.workload.output_len,
        supported="dcp" in known,
    )
    pps = None if "pp" in known else 1
    for layout in parallelisms(model, node, max_pp=pps, expert_parallel=cast("Any", experts), contexts=contexts):
        if not _is_one_replica(layout) or node.gpus_per_node % layout.num_gpus:
            continue
        if base.all2all_backend and layout.ep <= layout.tp:  # of experts that replicas share
            continue
        chosen = replace(base, tp=layout.tp, pp=layout.pp, dp=layout.dp, ep=layout.ep, dcp=layout.dcp)
        if memory(
            model, node, DeploymentArrays.of([resolve(chosen, model, node).value], model, node.gpu), chosen.engine
        ).fits[0]:
            engines.append(AggregatedServer.of(model, node, chosen, knowledge, serving))
            for drafting in filter(None, draftings if layout.dcp == 1 else ()):
                with contextlib.suppress(NoRoomError):
                    drafted = replace(chosen, drafting=drafting)
                    engines.append(AggregatedServer.of(model, node, drafted, knowledge, serving))
    fleets: list[ReplicaSizing] = []
    for engine in engines:
        most = MOST_REPLICAS if most_gpus is None else most_gpus // engine.gpus - spares
        if longest_request <= engine.longest and most >= 1:
            fleets.append(ReplicaSizing(cluster=node, engine=engine, demand=demand, most=min(most, MOST_REPLICAS)))
    return fleets


def _is_one_replica(layout: Parallelism) -> bool:
    """Return whether a layout is of one replica, or of one group of ranks that share their experts and have no pipelines."""
    return layout.dp == 1 or (layout.ep == layout.tp * layout.dp and layout.pp == 1)


def _is_plain(deployment: Deployment) -> bool:
    """Return whether nothing is drafted and no context spread, which pools are not planned with."""
    return deployment.drafting is None and deployment.dcp == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """Every layout of one replica that competes, by kind of GPU."""

    by_kind: tuple[tuple[ReplicaSizing, ...], ...]
    """Behind them, where they compete, the fleets with two pools."""
    notes: tuple[Note, ...]

    @classmethod
    def of(
        cls,
        model: Model,
        kinds: Sequence[GpuKind],
        base: Deployment,
        runs: Runs,
        demand: TrafficSpec,
        *,
        left_out: Sequence[str],
        pools: PoolTerms | None = None,
        **limits: Any,
    ) -> Layouts:
        """List the layouts within each kind of GPU but those ``left_out``, which have no price; ``limits``: see ``fleets_of``.

        With ``pools`` also fleets with a pool for prompts and another for outputs.
        """
        by_kind: list[tuple[ReplicaSizing, ...]] = []
        notes: list[Note] = []
        pool_gpus = []
        for cluster, most, kind_notes in kinds:
            notes += kind_notes
            if cluster.gpu.name in left_out:
                continue
            knowledge = Evidence.of(
                runs, engine=find_engine(base.engine).name, gpu=cluster.gpu, version=base.engine_version
            )
            fleets = fleets_of(model, cluster, base, knowledge, demand, most_gpus=most, **limits)
            by_kind.append(tuple(fleets))
            undrafted = [fleet for fleet in fleets if _is_plain(fleet.engine.deployment)]
            pool_gpus.append(PoolGpus(layouts=undrafted, most=most))
            notes += knowledge.notes
            if not fleets:
                nowhere = f"no layout within {place(cluster, most)} holds {model.name} and its requests"
                notes.append(Note(nowhere, "warning"))
        if left_out:
            unpriced = f"{', '.join(left_out)} left out for want of a price; give one, such as --price {left_out[0].replace(' ', '-')}=2.50"
            notes.append(Note(unpriced, "warning"))
        if pools is not None:
            by_kind.append(tuple(pools.pairs(pool_gpus, demand)))
        return cls(by_kind=tuple(by_kind), notes=tuple(notes))

    @property
    def fleets(self) -> list[ReplicaSizing]:
        return [fleet for fleets in self.by_kind for fleet in fleets]

    def groups(self, top: int) -> Iterator[tuple[list[ReplicaSizing], int]]:
        """Yield layouts that are ranked among each other and how many of them to show: without drafts, and with."""
        for fleets in self.by_kind:
            for drafts in (False, True):
                some = [fleet for fleet in fleets if (fleet.engine.deployment.drafting is not None) == drafts]
                if some or not drafts:
                    yield some, top


def check_energy(gpus: Sequence[str]) -> None:
    """Raise ``InputError`` where a plan for the least energy would compare GPUs of which none was measured."""
    unknown = [name for name in gpus if name not in POWER]
    if unknown:
        raise InputError(
            f"the energy of {' and '.join(unknown)} was not measured, that of {', '.join(POWER)} was; name those only, or plan "
            "for cost or gpus"
        )


def prices_of(
    kinds: Sequence[GpuKind], stated: Mapping[str, float], objective: str, *, illustrative: bool
) -> dict[str, Price | None]:
    """Return the price of every kind of GPU by its name; None where there is none.

    Raises:
        InputError: none has a price and the objective is cost, or none has a measured energy and that is the objective.

    """
    names = [cluster.gpu.name for cluster, _, _ in kinds]
    if objective == "energy":
        check_energy(names)
    prices = {name: chosen_price(name, stated.get(name, stated.get("")), illustrative=illustrative) for name in names}
    if objective == "cost" and not any(prices.values()):
        raise InputError(no_price(*names))
    return prices


def check_fleets(
    model: Model, kinds: Sequence[GpuKind], fleets: Sequence[ReplicaSizing], objective: str, spares: int
) -> None:
    """Raise ``InputError`` where no layout holds the model, or none has a measured energy and that is the objective."""
    if not fleets:
        raise InputError(
            f"{model.name} fits none of {', '.join(cluster.gpu.name for cluster, _, _ in kinds)} within a node; "
            f"name GPUs with more memory, more of them{', fewer spares' if spares else ''} or a smaller dtype"
        )
    if objective == "energy" and all(fleet.power is None for fleet in fleets):
        raise InputError("energy was measured with 16-bit weights only; leave out dtype, or plan for cost or gpus")
