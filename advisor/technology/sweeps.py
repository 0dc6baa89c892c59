"""The GPUs of a sweep: generations of logic, memory and links, or fields times some factors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.technology.whatif_gpu import FLOPS, WhatIf, named, on_memory, on_node, scaled
from catalog.errors import InputError
from catalog.technology import dram_generations, find_generation, gpu_technology, link_generations, logic_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Cluster, Gpu
    from catalog.technology import DramGeneration, LinkGeneration, LogicNode

MOST_BUDGET = 1e6
"""Of area in mm2, and of power in W; a whole wafer has 46,000 mm2."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
AXES = {
    "node": "nm",
    "dram": "GB/s of memory",
    "link": "GB/s between GPUs",
    "network": "GB/s between nodes",
    "bandwidth": "GB/s of memory",
    "flops": "TFLOP/s in 16 bits",
    "capacity": "GiB of memory",
}
SWEEPS = tuple(AXES)
FIELDS = {"bandwidth": ("memory_bandwidth_gbps",), "flops": FLOPS, "capacity": ("memory_gib",)}
"""Fields of a GPU that a sweep multiplies; the first is on the axis."""


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
    if sweep not in AXES:
        raise InputError(f"sweep is {sweep!r:.40}; it must be one of {', '.join(AXES)}")
    for name, budget, unit in (("area", area_mm2, "mm2"), ("power", power_w, "W")):
        if budget is not None and not 1.0 <= budget <= MOST_BUDGET:
            raise InputError(f"{name} is {budget:g} {unit}; it must be from 1 to {MOST_BUDGET:g}")
    base, limit = cluster.gpu, ""
    memory: DramGeneration | None = find_generation("memory", dram, dram_generations()) if dram else None
    start = on_memory(base, memory) if memory else base

    def on_logic(logic: LogicNode) -> tuple[Gpu, str]:
        made, bound = on_node(base, logic, area_mm2=area_mm2, power_w=power_w, dram=memory)
        return replace(made, memory_bandwidth_gbps=start.memory_bandwidth_gbps, memory_gib=start.memory_gib), bound

    if sweep == "node":
        return [_made(cluster, logic, logic.nm, *on_logic(logic)) for logic in logic_nodes().values()]
    if node or area_mm2 or power_w:
        start, limit = on_logic(find_generation("logic node", node or gpu_technology(base.name).node, logic_nodes()))
    if sweep == "dram":
        memories = [(dram_of, on_memory(start, dram_of)) for dram_of in dram_generations().values()]
        return [_made(cluster, dram_of, gpu.memory_bandwidth_gbps, gpu, limit) for dram_of, gpu in memories]
    if sweep == "link":
        return [
            _made(cluster, link, link.gbps, replace(start, nvlink_gbps=link.gbps, topology="nvswitch"), limit)
            for link in link_generations(sweep).values()
        ]
    if sweep == "network":
        return [
            replace(
                _made(cluster, link, link.gbps, start, limit),
                cluster=replace(cluster, gpu=start, network_gbps=link.gbps),
            )
            for link in link_generations(sweep).values()
        ]
    return [_times(cluster, start, sweep, factor, limit) for factor in factors]


def _made(
    cluster: Cluster, generation: LogicNode | DramGeneration | LinkGeneration, x: float, gpu: Gpu, limit: str
) -> WhatIf:
    """Return a GPU of a generation in place of the cluster's, at ``x`` on the axis; ``limit``: of its arithmetic."""
    return WhatIf(
        label=generation.name,
        x=x,
        cluster=replace(cluster, gpu=named(gpu, cluster.gpu, generation.name)),
        limit=limit,
        extrapolated=generation.extrapolated,
        source=generation.source,
    )


def _times(cluster: Cluster, start: Gpu, sweep: str, factor: float, limit: str) -> WhatIf:
    if not 0 < factor <= 1e4:
        raise InputError(f"a factor of the sweep is {factor:g}; it must be above 0 and at most 10000")
    gpu, label = scaled(start, factor, FIELDS[sweep]), f"{factor:g} x"
    return WhatIf(
        label=label,
        x=getattr(gpu, FIELDS[sweep][0]),
        cluster=replace(cluster, gpu=named(gpu, cluster.gpu, f"{sweep} {label}")),
        limit=limit,
    )
