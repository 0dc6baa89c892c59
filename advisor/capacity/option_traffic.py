"""One option of a capacity plan under traffic, request by request: what its queue and its memory do over time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advisor.simulator.routers import FCFS
from advisor.simulator.simulation import simulate
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.schema import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import FleetOption
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.routers import Router
    from advisor.simulator.simulation_answer import Simulation
    from catalog.schema import Deployment, Measurement, Workload


def simulate_option(
    plan: CapacityPlan,
    option: FleetOption,
    *,
    strained: bool = True,
    trace: Arrivals | None = None,
    workload: Workload | None = None,
    spread: float = 0.0,
    burstiness: float = 1.0,
    classes: Mapping[str, Any] | None = None,
    shared_prefix: int = 0,
    num_prefixes: int = 1,
    turns: int = 1,
    think_time: float | None = None,
    router: Router = "round_robin",
    kv_link_gbps: float | None = None,
    acceptance: float | None = None,
    runs: Sequence[Measurement] | None = None,
    draws: int = 8,
) -> Simulation:
    """Simulate an option of a plan, or what comes nearest.

    Args:
        plan: what was answered.
        option: one of its options.
        strained: as it was judged: the headroom used up and no spare working. Otherwise the rate asked for on all replicas.
        trace: real traffic in place of the plan's.
        workload: lengths of the classes that state none, as the plan was given them.
        spread: what the plan was given, like all that follow.
        burstiness: of the arrivals.
        classes: of the requests.
        shared_prefix: tokens of a system prompt.
        num_prefixes: different ones.
        turns: requests of a session.
        think_time: seconds between them.
        router: between the replicas.
        kv_link_gbps: GB/s of a GPU over the link between two pools.
        acceptance: probability that a drafted token is accepted; the answer then compares with the same fleet without drafts.
        runs: what the answer stands on.
        draws: how often traffic is simulated again for intervals; 0: none.

    Raises:
        InputError: the plan was for classes or for prompts that share something, and neither these nor a ``trace`` say so.

    """
    shares = shared_prefix > 0 or turns > 1
    if trace is None and ((option.classes and classes is None) or (plan.mean_input_len is not None and not shares)):
        raise InputError(
            "a plan keeps neither classes of requests nor what prompts share; state classes, shared_prefix and turns again"
        )
    units = option.replicas + option.spares
    share = (option.replicas if strained else units) / units

    def part(pool: Deployment) -> Deployment:
        return replace(pool, dp=round(pool.dp * share))

    deployment, drafts = _drafts(part(option.deployment), acceptance)
    prefill = None if option.prefill is None else part(option.prefill)
    beside = 0 if prefill is None or option.prefill_gpu else prefill.num_gpus
    planned_rate = plan.workload.rate
    assert planned_rate is not None
    rate = planned_rate * (1.0 + plan.headroom) if strained else planned_rate
    asked: dict[str, Any] = {"trace": trace}
    if trace is None:
        asked = {
            "workload": replace(workload or plan.workload, rate=rate),
            "duration_s": plan.duration_s,
            "spread": spread,
            "burstiness": burstiness,
            "classes": classes,
            "shared_prefix": shared_prefix,
            "num_prefixes": num_prefixes,
            "turns": turns,
            "think_time": think_time,
        }
    policy = plan.scheduling_policy if trace is None or trace.classes is not None else FCFS
    return simulate(
        plan.model,
        nodes_of(option.gpu, deployment.num_gpus + beside),
        deployment=deployment,
        prefill=prefill,
        prefill_gpus=nodes_of(option.prefill_gpu, prefill.num_gpus) if prefill and option.prefill_gpu else None,
        kv_link_gbps=kv_link_gbps,
        slo=plan.slo,
        router=router,
        scheduling_policy=policy,  # type: ignore[arg-type]  # the plan has checked it
        runs=runs,
        draws=draws,
        **drafts,
        **asked,
    )


def _drafts(deployment: Deployment, acceptance: float | None) -> tuple[Deployment, dict[str, Any]]:
    """Return the deployment, and keywords of what drafts for it where the share that is accepted is not as published."""
    drafting = deployment.drafting
    if drafting is None or acceptance is None:
        return deployment, {}
    method = f"{drafting.method}:{drafting.model}" if drafting.model else drafting.method
    keywords = {"speculate": method, "draft_len": drafting.draft_len, "acceptance": acceptance}
    return replace(deployment, drafting=None), keywords


def nodes_of(name: str, gpus: int) -> Cluster:
    """Return nodes of a kind of GPU that hold so many."""
    gpu = find_gpu(name).value
    node = min(gpu.gpus_per_node, gpus)
    return Cluster(gpu=gpu, gpus_per_node=node, nodes=math.ceil(gpus / node))
