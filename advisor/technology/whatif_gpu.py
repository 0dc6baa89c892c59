"""A GPU made of other logic, memory or links, within an area and a power budget.

Arithmetic is what area holds (density) or what power feeds (energy an operation), whichever is less, both relative to the GPU it
starts from; a fixed share of the power goes to what is always on, and memory takes its bits times their energy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from advisor.perf_model.energy import POWER
from catalog.technology import dram_generations, gpu_technology, link_generations, logic_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Cluster, Gpu
    from catalog.technology import DramGeneration, LogicNode

MEASURED = "H200-SXM"
ALWAYS_ON = POWER[MEASURED].static_w / 700.0
"""Share of a GPU's power that is drawn whatever it computes: 206 of 700 W, as fitted on H200."""
FLOPS = ("fp16_tflops", "fp8_tflops", "int8_tops", "fp4_tflops")
BITS = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """One GPU that might be, in the cluster it would stand in."""

    label: str
    x: float
    """Place on the horizontal axis: nanometres, GB/s, or a factor."""
    cluster: Cluster
    limit: str = ""
    """What bounds its arithmetic: "area" or "power"; empty where nothing was traded."""
    extrapolated: bool = False
    source: str = ""


def memory_of(gpu: Gpu) -> DramGeneration:
    """Return the generation of memory whose stacks come nearest to the GPU's bandwidth."""
    stacks = gpu_technology(gpu.name).stacks
    return min(
        (generation for generation in dram_generations().values() if not generation.stacks),
        key=lambda generation: abs(stacks * generation.gbps / gpu.memory_bandwidth_gbps - 1.0),
    )


def scaled(gpu: Gpu, factor: float, fields: Sequence[str] = FLOPS) -> Gpu:
    """Return the GPU with some of its fields times ``factor``; with those of ``FLOPS`` its arithmetic in every format."""
    return replace(gpu, **{name: getattr(gpu, name) * factor for name in fields})


def memory_watts(generation: DramGeneration, gbps: float) -> float:
    """Return the power that reading at full bandwidth takes."""
    return generation.pj_per_bit * 1e-12 * BITS * gbps * 1e9


def on_node(
    gpu: Gpu, node: LogicNode, *, area_mm2: float | None, power_w: float | None, dram: DramGeneration | None = None
) -> tuple[Gpu, str]:
    """Return the GPU on another logic node, and whether area or power bounds its arithmetic.

    ``area_mm2`` and ``power_w``: budgets; None: what the GPU has. ``dram``: the memory that takes its share of the power.
    """
    made = gpu_technology(gpu.name)
    before, memory = logic_nodes()[made.node], dram or memory_of(gpu)
    budget = power_w or gpu.tdp_w
    by_area = node.density / before.density * (area_mm2 or made.mm2) / made.mm2
    own = gpu.tdp_w * (1.0 - ALWAYS_ON) - memory_watts(memory_of(gpu), gpu.memory_bandwidth_gbps)
    left = max(budget * (1.0 - ALWAYS_ON) - memory_watts(memory, gpu.memory_bandwidth_gbps), 0.02 * budget)
    by_power = left / own * before.energy / node.energy
    changed = replace(scaled(gpu, min(by_area, by_power)), tdp_w=budget)
    return changed, "area" if by_area <= by_power else "power"


def on_memory(gpu: Gpu, generation: DramGeneration) -> Gpu:
    """Return the GPU with as many stacks of another generation of memory, or the usual number of chips."""
    stacks = generation.stacks or gpu_technology(gpu.name).stacks
    return replace(gpu, memory_bandwidth_gbps=stacks * generation.gbps, memory_gib=stacks * generation.gib)


def named(gpu: Gpu, base: Gpu, label: str) -> Gpu:
    """Return the GPU under the name of the one it starts from with what it is in brackets, as what-ifs are named."""
    return replace(gpu, name=f"{base.name} ({label})")


def network_of(gpu: Gpu) -> float | None:
    """Return the GB/s a GPU between nodes of the clusters of its time; None where its making is not known."""
    generations = link_generations("network")
    name = gpu_technology(gpu.name).network
    return generations[name].gbps if name in generations else None
