"""Where nothing is feasible: what would make it so, each change alone, in numbers."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.prediction.engine_start import WIDEST_SHARE, safe_context
from advisor.recommendation.problem import DeploymentSearch, checked
from advisor.recommendation.question_change import Relaxation
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.wording import counted, latency_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from catalog.schema import Cluster
    from search.study import StudyResult

MOST_GPUS = 1024
"""How far the search for a cluster that would do goes."""
RAISES = 8
"""Times that a limit is raised by one of its last digit until the question with it has an answer."""
FORMATS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "fp8 KV cache": {"kv_dtypes": ("fp8",)},
    "fp8 weights": {"dtypes": ("fp8",)},
    "fp8 weights and fp8 KV cache": {"dtypes": ("fp8",), "kv_dtypes": ("fp8",)},
    "int4 weights": {"dtypes": ("int4",)},
    "int4 weights and fp8 KV cache": {"dtypes": ("int4",), "kv_dtypes": ("fp8",)},
}
"""Formats to change to, what costs the least accuracy first, by the words that name them."""


def relaxations(search: DeploymentSearch) -> tuple[Relaxation, ...]:
    """Return what would make the question answerable, each alone and each tried, in numbers: what costs nothing before more GPUs."""
    changes = [*_limit_relaxations(search), *_batch_relaxation(search), *_context_relaxation(search)]
    changes += [*_format_relaxations(search), *_memory_relaxation(search)]
    more = _more_gpus(search)
    if more:
        changes.append(more)
    if not changes:
        text = f"nothing alone is enough: not {MOST_GPUS} GPUs, 8- or 4-bit weights, or any single limit lifted"
        changes.append(Relaxation(text=text))
    return tuple(changes)


def _limit_relaxations(search: DeploymentSearch) -> list[Relaxation]:
    metrics = tuple(search.slo.limits)
    changes = [change for metric in metrics if (change := _raised(search, (metric,)))]
    if not changes and len(metrics) > 1:
        changes = [change] if (change := _raised(search, metrics)) else []
    return changes


def _raised(search: DeploymentSearch, metrics: Sequence[str]) -> Relaxation | None:
    """Say to which values these limits would have to be raised; nothing where that is not enough."""
    free = replace(search, slo=replace(search.slo, **dict.fromkeys(metrics)))
    first = metrics[0].removesuffix("_ms")
    free = replace(free, objective="latency" if len(metrics) > 1 or first == "e2e" else first)
    other = free.run()
    if not other.feasible:
        return None
    best = _best(free, other)
    stated = {metric: getattr(search.slo, metric) for metric in metrics}
    upper = {metric: best.upper(metric, search.confidence) for metric in metrics}
    values = {metric: _up(upper[metric]) for metric in metrics if upper[metric] > stated[metric] or len(metrics) == 1}
    for _ in range(RAISES):
        if replace(search, slo=replace(search.slo, **values)).run().feasible:
            texts = [
                f"{latency_label(metric)} limit of {value:g} ms instead of {stated[metric]:g} ms"
                for metric, value in values.items()
            ]
            return Relaxation(text=" and ".join(texts), changes=values)
        values = {metric: _up(value + 0.1 * _digit(value)) for metric, value in values.items()}
    return None


def _best(search: DeploymentSearch, exploration: StudyResult) -> Estimate:
    """Describe the best point of an exploration."""
    return search.estimates(exploration, [0])[0]


def _batch_relaxation(search: DeploymentSearch) -> list[Relaxation]:
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
    if most >= search.workload.concurrency or not _feasible(
        replace(search, workload=replace(search.workload, concurrency=most))
    ):
        return []
    text = f"at most {most} requests in flight instead of {search.workload.concurrency}"
    return [Relaxation(text=text, changes={"concurrency": most})]


def _context_relaxation(search: DeploymentSearch) -> list[Relaxation]:
    """Return, for a stated context, the longest that some layout's cache holds."""
    if search.max_model_len is None:
        return []
    free = replace(search, max_model_len=None, max_batch=1)
    space = free.space()
    held = [
        int(np.max(free.evaluate(columns, space.labels).cost_model.memory.kv_capacity_tokens, initial=0))
        for _, columns in space.chunks()
    ]
    most = safe_context(search.model, max(held, default=0), search.length)
    if most >= search.max_model_len or not _feasible(replace(search, max_model_len=most)):
        return []
    text = f"max_model_len of {most} instead of {search.max_model_len}"
    return [Relaxation(text=text, changes={"max_model_len": most})]


def _format_relaxations(search: DeploymentSearch) -> list[Relaxation]:
    """List formats that are enough; two at once only where none of both is."""
    engine = find_engine(search.engine)
    offered = {
        "dtypes": () if search.model.quantization else engine.weight_formats(search.cluster.gpu),
        "kv_dtypes": engine.kv_formats(search.cluster.gpu, search.model),
    }
    stated = {"dtypes": search.dtypes, "kv_dtypes": search.kv_dtypes}
    enough: list[Relaxation] = []
    for words, formats in FORMATS.items():
        news = [values[0] in offered[name] and values[0] not in stated[name] for name, values in formats.items()]
        if not all(news) or any(part.text in words.split(" and ") for part in enough):
            continue
        changed = {**stated, **formats}
        with suppress(InputError):
            if _feasible(checked(replace(search, dtypes=changed["dtypes"], kv_dtypes=changed["kv_dtypes"]))[0]):
                enough.append(Relaxation(text=words, changes=formats))
    return enough


def _memory_relaxation(search: DeploymentSearch) -> list[Relaxation]:
    """Say where a larger share of each GPU's memory is enough."""
    engine, stated = find_engine(search.engine), search.gpu_memory_utilization
    depends = stated is None and engine.memory_rule == "static"
    share = engine.memory_share(search.engine_version) if stated is None else stated
    if not depends and share >= WIDEST_SHARE:
        return []
    wider = replace(search, gpu_memory_utilization=WIDEST_SHARE)
    if not _feasible(wider):
        return []
    text = f"--gpu-memory-utilization {WIDEST_SHARE:g} instead of {'its own' if depends else f'{share:g}'}"
    return [Relaxation(text=text, changes={"gpu_memory_utilization": WIDEST_SHARE})]


def _more_gpus(search: DeploymentSearch) -> Relaxation | None:
    """Return the fewest GPUs of this kind that are enough and that servers come with: more GPUs never make less possible."""
    gpu = search.cluster.gpu
    server = max(search.cluster.gpus_per_node, gpu.gpus_per_node)
    within = [2**i for i in range(server.bit_length()) if 2**i < server]
    counts = [count for count in (*within, *range(server, MOST_GPUS + 1, server)) if count > search.cluster.num_gpus]

    def cluster_of(count: int) -> Cluster:
        if count <= server:
            return replace(search.cluster, gpus_per_node=count, nodes=1)
        return replace(search.cluster, gpus_per_node=server, nodes=count // server)

    def enough(place: int) -> bool:
        return _feasible(replace(search, cluster=cluster_of(counts[place])))

    low, high = -1, 0
    while high < len(counts) and not enough(high):
        low, high = high, 2 * high + 1
    if high >= len(counts):
        high = len(counts) - 1
        if high <= low or not enough(high):
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    size = cluster_of(counts[high])
    more = size.num_gpus - search.cluster.num_gpus
    return Relaxation(text=f"{counted(more, 'more GPU')} ({size})", changes={"gpus": size.num_gpus})


def _feasible(search: DeploymentSearch) -> bool:
    """Return whether any valid deployment keeps every limit.

    Where the number in flight is free, one request a replica decides: none of more is earlier or takes less memory.
    """
    if search.workload.concurrency is None:
        search = replace(search, max_batch=1)
    space = search.space()
    return any((search.scores(columns, space.labels).excess == 0).any() for _, columns in space.chunks())


def _up(value: float) -> float:
    """Round up to two significant digits, so that the limit named can be kept."""
    return float(f"{math.ceil(value / _digit(value)) * _digit(value):.6g}")


def _digit(value: float) -> float:
    """Return what one of the second significant digit is worth."""
    return 10.0 ** (math.floor(math.log10(value)) - 1)
