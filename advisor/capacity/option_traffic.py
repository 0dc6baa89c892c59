"""One option of a capacity plan under traffic, request by request: what its queue and its memory do over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.schema import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import FleetOption
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.simulation_answer import Simulation
    from catalog.schema import Deployment, Measurement


def simulate_option(
    plan: CapacityPlan,
    option: FleetOption,
    *,
    strained: bool = True,
    trace: Arrivals | None = None,
    spread: float = 0.0,
    burstiness: float = 1.0,
    runs: Sequence[Measurement] | None = None,
    draws: int = 8,
) -> Simulation:
    """Simulate an option of a plan, or what comes nearest.

    Args:
        plan: what was answered.
        option: one of its options.
        strained: as it was judged: the headroom used up and no spare working. Otherwise the rate asked for on all replicas.
        trace: real traffic in place of the plan's.
        spread: what the plan was given.
        burstiness: what the plan was given.
        runs: what the plan was given.
        draws: how often traffic is simulated again for intervals; 0: none.

    Raises:
        InputError: the plan was for classes or for prompts that share something, and no ``trace`` has them.

    """
    if trace is None and (option.classes or plan.mean_input_len is not None):
        raise InputError(
            "a plan keeps neither classes of requests nor what prompts share; ask simulate with the option's deployment and them"
        )
    units = option.replicas + option.spares
    share = (option.replicas if strained else units) / units

    def part(pool: Deployment) -> Deployment:
        return replace(pool, dp=round(pool.dp * share))

    deployment = part(option.deployment)
    prefill = None if option.prefill is None else part(option.prefill)
    beside = 0 if prefill is None or option.prefill_gpu else prefill.num_gpus
    planned_rate = plan.workload.rate
    assert planned_rate is not None
    rate = planned_rate * (1.0 + plan.headroom) if strained else planned_rate
    return simulate(
        plan.model,
        nodes_of(option.gpu, deployment.num_gpus + beside),
        deployment=deployment,
        prefill=prefill,
        prefill_gpus=nodes_of(option.prefill_gpu, prefill.num_gpus) if prefill and option.prefill_gpu else None,
        workload=None if trace is not None else replace(plan.workload, rate=rate),
        trace=trace,
        slo=plan.slo,
        runs=runs,
        duration_s=None if trace is not None else plan.duration_s,
        spread=0.0 if trace is not None else spread,
        burstiness=1.0 if trace is not None else burstiness,
        draws=draws,
    )


def nodes_of(name: str, gpus: int) -> Cluster:
    """Return nodes of a kind of GPU that hold so many."""
    gpu = find_gpu(name).value
    node = min(gpu.gpus_per_node, gpus)
    return Cluster(gpu=gpu, gpus_per_node=node, nodes=math.ceil(gpus / node))
