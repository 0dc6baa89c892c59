"""Why a deployment is as fast as it is, where its memory ends, and what would tell more."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from advisor.perf_model.cost import ATTENTION, ELEMENTWISE
from advisor.perf_model.deployment_arrays import checkpoint_dtype
from advisor.prediction.option_words import lengths, limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from catalog.schema import Cluster, Slo, Workload

MEASURED_ENGINES = ("vllm", "torch")
"""Engines that ``advisor tune`` runs."""


def reasons(best: Estimate) -> tuple[str, ...]:
    """Return what a decode step's time goes to, and where it would turn compute-bound."""
    decode: dict[str, dict[str, float]] = best.breakdown["decode"]
    total = sum(time for causes in decode.values() for time in causes.values())
    shares = {
        "KV reads": decode.get(ATTENTION, {}).get("memory", 0.0),
        "weight reads": sum(
            causes.get("memory", 0.0) for name, causes in decode.items() if name not in {ATTENTION, ELEMENTWISE}
        ),
        "arithmetic": sum(causes.get("compute", 0.0) for causes in decode.values()),
        "communication": sum(causes.get("communication", 0.0) for causes in decode.values()),
        "other memory traffic": decode.get(ELEMENTWISE, {}).get("memory", 0.0),
        "launches and host": sum(causes.get("overhead", 0.0) for causes in decode.values()),
    }
    ranked = sorted(shares.items(), key=lambda item: -item[1])
    split = ", ".join(f"{name} {time / total:.0%}" for name, time in ranked if time / total >= 0.03)
    turn = round(best.turning_batch)
    side = "compute" if best.batch > turn else "memory"
    return (
        f"a mean step: {split}",
        f"matrix products are {side}-bound at batch {best.batch}; compute-bound from about {turn} sequences per replica",
    )


def memory_limits(best: Estimate) -> tuple[str, ...]:
    """Return where this layout's memory ends."""
    length = best.input_len + best.output_len
    return (
        (
            f"KV cache full above batch {best.max_concurrency} per replica at {length} tokens a request "
            f"({best.kv_capacity_tokens} tokens); beyond it requests wait or are preempted"
        ),
    )


def next_probe(
    shown: Sequence[Estimate], metric: str, *, cluster: Cluster, workload: Workload, slo: Slo, objective: Sequence[str]
) -> str:
    """Return what would decide where the choice is too close to call: the measurement of both; "" where it is not.

    Args:
        shown: estimates, best first.
        metric: what is compared; a time is better where it is shorter, a rate where it is higher.
        cluster: the GPUs asked about.
        workload: whose lengths and concurrency are to be measured.
        slo: the limits.
        objective: its option, nothing for the default one.

    """
    best = shown[0]
    low, high = best.interval(metric)
    shorter = metric.endswith("_ms")
    ends = [(estimate, estimate.interval(metric)) for estimate in shown[1:] if layout(estimate) != layout(best)]
    rivals = [layout(rival) for rival, (least, most) in ends if (least < high if shorter else most > low)]
    if not rivals:
        return ""
    close = f"too close to call between {layout(best)} and {rivals[0]}"
    engine = best.deployment.engine
    if engine not in MEASURED_ENGINES:
        return f"{close}; to decide, measure both"
    words = ["advisor", "tune", "--model", best.model.name, "--gpus", "local", "--budget", "5m", "--engine", engine]
    words += ["--dtype", best.deployment.dtype] * (best.deployment.dtype != checkpoint_dtype(best.model, cluster.gpu))
    words += [*lengths(workload), *limits(slo), *objective]
    words += [] if workload.concurrency is None else ["--concurrency", str(workload.concurrency)]
    return f"{close}; to decide, on the GPUs: {shlex.join(words)}"


def layout(estimate: Estimate) -> str:
    """Write the layout of one replica of the estimate."""
    return estimate.deployment.parallelism
