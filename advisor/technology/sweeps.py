"""The GPUs of a sweep: generations of logic, memory and links, or a field times some factors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.technology.whatif_gpu import WhatIf, named, on_memory, on_node, scaled
from catalog.errors import InputError
from catalog.technology import dram_generations, find_generation, link_generations, logic_nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from catalog.schema import Cluster, Gpu

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SWEEPS = ("node", "dram", "link", "network", "bandwidth", "flops", "capacity")
AXES = {
    "node": "nm",
    "dram": "GB/s of memory",
    "link": "GB/s between GPUs",
    "network": "GB/s between nodes",
    "bandwidth": "GB/s of memory",
    "flops": "TFLOP/s in 16 bits",
    "capacity": "GiB of memory",
}


def points(
    cluster: Cluster,
    sweep: str,
    *,
    factors: Sequence[float] = FACTORS,
    node: str | None = None,
    dram: str | None = None,
    area_mm2: float | None = None,
    power_w: float | None = None,
) -> list[WhatIf]:
    """Return the clusters of a sweep, in its order.

    ``node`` and ``dram`` are what all points are made of beside what is swept; ``area_mm2`` and ``power_w`` are budgets.

    Raises:
        InputError: a sweep, a node or a generation that is not known, or a GPU whose making is not.

    """
    if sweep not in SWEEPS:
        raise InputError(f"sweep is {sweep!r:.40}; it must be one of {', '.join(SWEEPS)}")
    base = cluster.gpu
    limit = ""
    start = base
    memory = find_generation("memory", dram, dram_generations()) if dram else None
    if memory:
        start = on_memory(start, memory)
    if sweep != "node" and (node or area_mm2 or power_w):
        start, limit = _on_node(base, start, node, area_mm2, power_w, memory)
    if sweep == "node":
        rows = []
        for each in logic_nodes().values():
            gpu, bound = on_node(base, each, area_mm2=area_mm2, power_w=power_w, dram=memory)
            made = replace(gpu, memory_bandwidth_gbps=start.memory_bandwidth_gbps, memory_gib=start.memory_gib)
            rows.append(
                WhatIf(
                    label=each.name,
                    x=each.nm,
                    cluster=replace(cluster, gpu=named(made, base, each.name)),
                    limit=bound,
                    extrapolated=each.extrapolated,
                    source=each.source,
                )
            )
        return rows
    if sweep == "dram":
        return [
            WhatIf(
                label=each.name,
                x=gpu.memory_bandwidth_gbps,
                cluster=replace(cluster, gpu=named(gpu, base, each.name)),
                limit=limit,
                extrapolated=each.extrapolated,
                source=each.source,
            )
            for each in dram_generations().values()
            for gpu in [on_memory(start, each)]
        ]
    if sweep in {"link", "network"}:
        return [
            WhatIf(
                label=each.name,
                x=each.gbps,
                cluster=replace(
                    cluster, gpu=named(replace(start, nvlink_gbps=each.gbps, topology="nvswitch"), base, each.name)
                )
                if sweep == "link"
                else replace(cluster, gpu=start, network_gbps=each.gbps),
                limit=limit,
                extrapolated=each.extrapolated,
                source=each.source,
            )
            for each in link_generations(sweep).values()
        ]
    return [_times(cluster, start, base, sweep, factor, limit) for factor in factors]


def _on_node(
    base: Gpu, start: Gpu, node: str | None, area_mm2: float | None, power_w: float | None, memory: object
) -> tuple[Gpu, str]:
    from catalog.technology import DramGeneration, gpu_technology

    chosen = find_generation("logic node", node or gpu_technology(base.name).node, logic_nodes())
    dram = memory if isinstance(memory, DramGeneration) else None
    made, limit = on_node(base, chosen, area_mm2=area_mm2, power_w=power_w, dram=dram)
    return replace(made, memory_bandwidth_gbps=start.memory_bandwidth_gbps, memory_gib=start.memory_gib), limit


SCALE: dict[str, Callable[[Gpu, float], Gpu]] = {
    "bandwidth": lambda gpu, factor: replace(gpu, memory_bandwidth_gbps=gpu.memory_bandwidth_gbps * factor),
    "flops": scaled,
    "capacity": lambda gpu, factor: replace(gpu, memory_gib=gpu.memory_gib * factor),
}
VALUE: dict[str, Callable[[Gpu], float]] = {
    "bandwidth": lambda gpu: gpu.memory_bandwidth_gbps,
    "flops": lambda gpu: gpu.fp16_tflops,
    "capacity": lambda gpu: gpu.memory_gib,
}


def _times(cluster: Cluster, start: Gpu, base: Gpu, sweep: str, factor: float, limit: str) -> WhatIf:
    if not 0 < factor <= 1e4:
        raise InputError(f"a factor of the sweep is {factor:g}; it must be above 0 and at most 10000")
    gpu = SCALE[sweep](start, factor)
    label = f"{factor:g} x"
    return WhatIf(
        label=label,
        x=VALUE[sweep](gpu),
        cluster=replace(cluster, gpu=named(gpu, base, f"{sweep} {label}")),
        limit=limit,
    )
