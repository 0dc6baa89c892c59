"""Where nothing is feasible: what would make it so, each change alone, in numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.recommendation.problem import DeploymentSearch, checked
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.wording import counted

if TYPE_CHECKING:
    from advisor.prediction.deployment_estimate import Estimate
    from catalog.schema import Cluster
    from search.study import StudyResult

MOST_GPUS = 1024
"""How far the search for a cluster that would do goes."""


def relaxations(search: DeploymentSearch) -> tuple[str, ...]:
    """Return what would make the question answerable, each alone, in numbers."""
    changes = [*_limit_relaxations(search), *_batch_relaxation(search)]
    changes += _context_relaxations(search)
    changes += _format_relaxations(search)
    more = _more_gpus(search)
    if more:
        changes.append(more)
    if not changes:
        changes.append(
            f"nothing alone is enough: not {MOST_GPUS} GPUs, 8- or 4-bit weights, or any single limit lifted"
        )
    return tuple(changes)


def _limit_relaxations(search: DeploymentSearch) -> list[str]:
    changes = []
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        limit = getattr(search.slo, metric)
        if limit is None:
            continue
        without = replace(search, slo=replace(search.slo, **{metric: None}), objective=metric.split("_")[0])
        if metric == "e2e_ms":
            without = replace(without, objective="latency")
        other = without.run()
        if other.feasible:
            value = _best(without, other).upper(metric, search.confidence)
            changes.append(f"{metric.split('_')[0].upper()} limit of {_up(value)} ms instead of {limit:g} ms")
    return changes


def _best(search: DeploymentSearch, exploration: StudyResult) -> Estimate:
    """Describe the best point of an exploration."""
    return search.estimates(exploration, [0])[0]


def _batch_relaxation(search: DeploymentSearch) -> list[str]:
    """Return, for a stated concurrency, the largest one that keeps every limit."""
    if search.workload.concurrency is None:
        return []
    free = replace(search, workload=replace(search.workload, concurrency=None), objective="throughput")
    other = free.run()
    if not other.feasible:
        return []
    feasible = other.pool.excess == 0
    columns = other.space.take(other.pool.points[feasible])
    most = int(np.max(columns["dp"] * columns["max_num_seqs"]))
    return [f"at most {most} requests in flight instead of {search.workload.concurrency}"]


def _context_relaxations(search: DeploymentSearch) -> list[str]:
    """Return, for a stated context, the longest that some layout's cache holds, and whether a narrower cache holds it."""
    if search.max_model_len is None:
        return []
    free = replace(search, max_model_len=None, max_batch=1)
    space = free.space()
    held = [
        int(np.max(free.evaluate(columns, space.labels).cost_model.memory.kv_capacity_tokens, initial=0))
        for _, columns in space.chunks()
    ]
    changes = []
    if held and search.length <= max(held) < search.max_model_len:
        changes.append(f"max_model_len of {max(held)} instead of {search.max_model_len}")
    if "fp8" not in search.kv_dtypes:
        try:
            other, _ = checked(replace(search, kv_dtypes=("fp8",)))
            if _feasible(other):
                changes.append("fp8 KV cache")
        except InputError:
            return changes
    return changes


def _format_relaxations(search: DeploymentSearch) -> list[str]:
    engine = find_engine(search.engine)
    offered = engine.weight_formats(search.cluster.gpu)
    changes = []
    for dtype in ("fp8", "int4"):
        if dtype in search.dtypes or dtype not in offered or search.model.quantization:
            continue
        try:
            other, _ = checked(replace(search, dtypes=(dtype,)))
            if _feasible(other):
                changes.append(f"{dtype} weights")
        except InputError:
            continue
    return changes


def _more_gpus(search: DeploymentSearch) -> str:
    """Return the fewest GPUs of this kind that are enough, by bisection: more GPUs never make less possible."""
    gpu = search.cluster.gpu

    def cluster_of(count: int) -> Cluster:
        per_node = max(search.cluster.gpus_per_node, min(gpu.gpus_per_node, count))
        if count <= per_node:
            return replace(search.cluster, gpus_per_node=count, nodes=1)
        return replace(search.cluster, gpus_per_node=per_node, nodes=math.ceil(count / per_node))

    def enough(count: int) -> bool:
        return _feasible(replace(search, cluster=cluster_of(count)))

    low = search.cluster.num_gpus
    high = low
    while high < MOST_GPUS:
        low, high = high, min(high * 2, MOST_GPUS)
        if enough(high):
            break
    else:
        return ""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    size = cluster_of(high)
    more = size.num_gpus - search.cluster.num_gpus
    return f"{counted(more, 'more GPU')} ({size})"


def _feasible(search: DeploymentSearch) -> bool:
    """Return whether any valid deployment keeps every limit.

    Where the number in flight is free, one request a replica decides: none of more is earlier or takes less memory.
    """
    if search.workload.concurrency is None:
        search = replace(search, max_batch=1)
    space = search.space()
    return any((search.scores(columns, space.labels).excess == 0).any() for _, columns in space.chunks())


def _up(value: float) -> str:
    """Round up to two significant digits, so that the limit named can be kept."""
    scale = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / scale) * scale:g}"
