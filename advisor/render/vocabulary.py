"""The words that every rendering shares: metrics, goals, sources, memory, layouts. Each stands here once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.render.numbers import limit
from catalog.wording import counted as counted  # noqa: PLC0414  handed on
from catalog.wording import short_name as short_name  # noqa: PLC0414  handed on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.calibration.intervals import Regime as Regime  # noqa: PLC0414  handed on
    from advisor.capacity.fleet_options import FleetOption
    from advisor.prediction.deployment_estimate import Estimate
    from catalog.schema import Cluster, Deployment, Slo

GOALS = {
    "throughput_per_gpu": "most tok/s per GPU",
    "throughput": "most tok/s",
    "latency": "shortest request (E2E)",
    "ttft": "shortest TTFT",
    "tpot": "shortest TPOT",
    "cost": "least cost per token",
}
"""What a recommendation optimises."""

TTFT, TPOT, ITL, E2E = "TTFT", "TPOT", "ITL", "E2E"
METRIC_NAMES = {"ttft_ms": TTFT, "tpot_ms": TPOT, "itl_ms": ITL, "e2e_ms": E2E}
"""Latencies of requests."""

MEMORY_PARTS = {
    "weights": "weights",
    "kv_cache": "KV cache",
    "kv_free": "KV cache, free",
    "activations": "activations",
    "engine": "engine",
    "reserved": "left free",
}
"""What fills a GPU's memory."""


PROVENANCE = {
    "measured": "measured: a run of exactly this configuration",
    "calibrated": "calibrated: fitted to runs of this engine on this GPU; intervals checked on models the fit never saw",
    "transferred": "transferred: extrapolated from runs of this engine on other GPUs; too few on this one",
    "analytic": "analytic: physics with the efficiencies that others reach; too few runs of this engine on such GPUs",
}

PLAN_GOALS = {"cost": "least money", "gpus": "fewest GPUs", "energy": "energy"}
"""What a capacity plan optimises."""


TRAFFIC = {"rate": "rate", "input_len": "prompts", "output_len": "outputs"}
"""What of the traffic a plan is tried with changes of."""


def candidate_name(estimate: Estimate) -> str:
    """Write layout and batch: "2 x TP2 PP1, batch 119"."""
    return f"{estimate.deployment.layout}, batch {estimate.batch}"


def goal_and_limits(objective: str, slo: Slo) -> str:
    """Return what is optimised, and the limits: most tok/s per GPU, TTFT <= 300 ms."""
    limits = [f"{METRIC_NAMES[metric]} <= {limit(most)}" for metric, most in slo.limits.items()]
    return ", ".join([GOALS.get(objective, objective), *limits])


def pools_name(deployment: Deployment, prefill: Deployment | None, gpus: Cluster | None = None) -> str:
    """Write the layout, of both pools where prompts have their own, with their GPUs where these are others: "1 x TP2 PP1 on L40S for
    prompts, 2 x TP1 PP1".
    """
    if prefill is None:
        return deployment.layout
    where = "" if gpus is None else f" on {gpus.gpu.name}"
    return f"{prefill.dp} x {prefill.parallelism}{where} for prompts, {deployment.dp} x {deployment.parallelism}"


def replica_name(option: FleetOption) -> str:
    """Write the parallelism of a replica: "TP2 PP1"; of one whose ranks share their experts "4 x TP2 PP1 EP8"; and of a group of replicas
    for prompts and for outputs "1 x TP4 PP1 + 2 x TP2 PP1".
    """
    deployment, prefill = option.deployment, option.prefill
    if prefill is None:
        return replace(deployment, dp=deployment.ranks).layout
    groups = option.replicas + option.spares
    first, later = (f"{pool.dp // groups} x {pool.parallelism}" for pool in (prefill, deployment))
    return f"{first} + {later}"


def replicas_name(option: FleetOption) -> str:
    """Write the replicas and the spares beside them: "3 + 1"."""
    return f"{option.replicas} + {option.spares}" if option.spares else str(option.replicas)


def fleet_gpus(option: FleetOption) -> str:
    """Write a fleet's GPUs: "2 x H100-SXM", or "4 x L40S + 2 x H200-SXM" where prompts have others."""
    return " + ".join(f"{count} x {name}" for name, count in option.gpu_counts.items())


def fleet_name(option: FleetOption) -> str:
    """Write GPUs and layout: "2 x H100-SXM as 2 x TP1 PP1"."""
    replicas = option.replicas + option.spares
    replica = replica_name(option)
    grouped = option.prefill is not None or option.deployment.ranks > 1
    layout = f"{replicas} x {f'({replica})' if grouped else replica}" if replicas > 1 else replica
    if option.prefill is not None:
        layout = f"{layout} (for prompts + for outputs)"
    return f"{fleet_gpus(option)} as {layout}"


def fleet_names(options: Sequence[FleetOption]) -> list[str]:
    """Write each fleet so that no two are called alike: with what it drafts, and its token budget where that alone tells them apart."""
    drafts = [option.deployment.drafting for option in options]
    names = [
        fleet_name(option) if drafting is None else f"{fleet_name(option)} with {drafting} a step"
        for option, drafting in zip(options, drafts, strict=True)
    ]
    return [
        f"{name}, {option.deployment.max_num_batched_tokens} tokens a step" if names.count(name) > 1 else name
        for name, option in zip(names, options, strict=True)
    ]


TRAINING_MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "buffers": "buffers",
    "outside": "CUDA and NCCL",
}
"""What fills a GPU's memory in training."""

TRAINING_TIME = {
    "forward": "forward",
    "backward": "backward",
    "recomputation": "recomputation",
    "tensor": "tensor parallel",
    "context": "context parallel",
    "expert": "expert parallel",
    "stages": "between stages",
    "bubble": "bubble",
    "replicas": "between replicas",
    "optimizer": "optimizer",
}
"""What a training step is made of."""

TRAINING_PROVENANCE = {
    "calibrated": "calibrated: published step times on this GPU in this precision were fitted; intervals are from publications left out",
    "transferred": "transferred: published step times on other GPUs, in other precisions or of all weights were fitted; intervals are wider for it",
    "analytic": "analytic: no step time of such a model on such GPUs was fitted; physics with the efficiencies others reach",
}
