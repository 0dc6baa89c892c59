"""Why a deployment is as fast as it is, where its memory ends, and what would tell more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.perf_model.cost import ATTENTION, ELEMENTWISE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate


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


def next_probe(shown: Sequence[Estimate]) -> str:
    """Return what would decide where the choice is too close to call: the measurement of both; "" where it is not."""
    best = shown[0]
    low = best.interval("output_tok_s_per_gpu")[0]
    rivals = [layout(e) for e in shown[1:] if e.interval("output_tok_s_per_gpu")[1] > low and layout(e) != layout(best)]
    if not rivals:
        return ""
    return (
        f"too close to call between {layout(best)} and {rivals[0]}; to decide, on the GPUs: advisor tune --model "
        f"{best.model.name} --gpus local --budget 5m"
    )


def layout(estimate: Estimate) -> str:
    """Write the layout of one replica of the estimate."""
    return estimate.deployment.parallelism
