"""What a capacity plan chooses from: kinds of GPUs, their prices, and every layout of one replica on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from advisor.estimation import read_cluster
from advisor.fleets import MOST_REPLICAS, Demand, Fleet
from advisor.layout import Layout
from advisor.memory import memory
from advisor.replicas import scheduler_of
from advisor.schedule import Setting
from advisor.serving.runs import longest
from catalog.engines import find_engine, resolve
from catalog.gpus import COLON, COUNT, NODES, find_gpu
from catalog.schema import Cluster, Deployment, InputError, Model, Note
from search.parallelism import parallelisms

if TYPE_CHECKING:
    from advisor.knowledge import Knowledge


def kinds_of(
    gpus: str | Cluster | Sequence[str | Cluster], set_gpu: Mapping[str, float | str] | None
) -> list[tuple[Cluster, int | None, tuple[Note, ...]]]:
    """Of each kind of GPU a node, and the most GPUs there are; None: as many as it takes."""
    named: list[str | Cluster] = []
    for each in [gpus] if isinstance(gpus, (str, Cluster)) else gpus:
        named += each.split(",") if isinstance(each, str) else [each]
    if not named:
        raise InputError("no GPUs named; name some such as H100,H200 or 8xH100")
    found: list[tuple[Cluster, int | None, tuple[Note, ...]]] = []
    for each in named:
        read = read_cluster(each, set_gpu)
        cluster = read.value
        if any(cluster.gpu.name == other.gpu.name for other, _, _ in found):
            raise InputError(f"{cluster.gpu.name} is named twice; name each kind of GPU once")
        if isinstance(each, str) and not _counted(each):
            found.append((replace(cluster, gpus_per_node=cluster.gpu.gpus_per_node), None, read.notes))
        else:
            found.append((replace(cluster, nodes=1), cluster.num_gpus, read.notes))
    return found


def _counted(text: str) -> bool:
    text = " ".join(text.split())
    return any(pattern.fullmatch(text) for pattern in (NODES, COUNT, COLON))


def place(cluster: Cluster, most: int | None) -> str:
    """Where a replica has to find room, in words."""
    return f"a node of {cluster}" if most is None or most > cluster.gpus_per_node else str(cluster)


def by_gpu(price: float | Mapping[str, float] | None) -> dict[str, float]:
    """Dollars per GPU-hour by GPU; under "" those of every other."""
    if price is None:
        return {}
    if isinstance(price, Mapping):
        return {find_gpu(name).value.name if name else "": value for name, value in price.items()}
    return {"": price}


def fleets_of(
    model: Model, node: Cluster, base: Deployment, knowledge: Knowledge, demand: Demand, *, most_gpus: int | None, spares: int,
    serving: Mapping[str, Any], longest_request: int,
) -> tuple[list[Fleet], list[Note]]:  # fmt: skip
    """Every layout of one replica that holds the model and its longest request, and fills a node evenly."""
    known = find_engine(base.engine).parallel
    experts = "tp" if model.moe_layers and "ep" in known else "none"
    found: list[Fleet] = []
    notes: list[Note] = []
    for each in parallelisms(
        model, node, max_pp=None if "pp" in known else 1, expert_parallel=cast("Any", experts)
    ):  # fmt: skip
        size = each.tp * each.pp
        if each.dp > 1 or node.gpus_per_node % size:
            continue
        resolved = resolve(replace(base, tp=each.tp, pp=each.pp, ep=each.ep), model, node)
        layout = Layout.of([resolved.value], model, node.gpu)
        marginal = knowledge.marginal(resolved.value.engine, node.gpu)
        setting = Setting(
            model=model, cluster=node, layout=layout, memory=memory(model, node, layout, resolved.value.engine),
            parameters=marginal.parameters, engine=resolved.value.engine,
        )  # fmt: skip
        if not setting.memory.fits[0]:
            continue
        scheduler = scheduler_of(setting, resolved.value, **serving)
        if longest_request > longest(scheduler):
            continue
        most = MOST_REPLICAS if most_gpus is None else most_gpus // size - spares
        if most < 1:
            continue
        notes += resolved.notes
        found.append(
            Fleet(
                cluster=node, deployment=resolved.value, setting=setting, scheduler=scheduler, marginal=marginal,
                knowledge=knowledge, demand=demand, most=min(most, MOST_REPLICAS),
            )
        )  # fmt: skip
    return found, notes
