"""An estimate as one flat row, its memory as the batch fills it, and the weights of the whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.prediction.deployment_estimate import CLIENT_TTFT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.prediction.deployment_estimate import Estimate

METRICS = ("output_tok_s", "output_tok_s_per_gpu", "ttft_ms", "tpot_ms", "prefill_ms", "e2e_ms")


def memory_in_use(estimate: Estimate) -> Mapping[str, float]:
    """Return the fullest GPU's GiB by part, the cache split into what this batch fills and what it leaves (``kv_free``)."""
    filled = min(estimate.running / estimate.max_concurrency, 1.0) if estimate.max_concurrency else 1.0
    cache = estimate.memory["kv_cache"]
    return {**estimate.memory, "kv_cache": cache * filled, "kv_free": cache * (1.0 - filled)}


def weights_gib(estimate: Estimate) -> float:
    """Return the whole model's weights in the deployment's format, in GiB."""
    alone = replace(estimate.deployment, tp=1, pp=1, dp=1, ep=1, dcp=1, offload=0.0)
    arrays = DeploymentArrays.of([alone], estimate.model, estimate.cluster.gpu)
    return float(memory(estimate.model, estimate.cluster, arrays).weights_gib[0])


def estimate_row(estimate: Estimate) -> dict[str, Any]:
    """Return the deployment, its metrics beside the ends of their 90% intervals, memory, cost and provenance; None where it does not fit."""
    deployment, in_use = estimate.deployment, memory_in_use(estimate)
    row: dict[str, Any] = {"model": estimate.model.name, "cluster": str(estimate.cluster), "layout": deployment.layout}
    row |= {name: getattr(deployment, name) for name in ("engine", "dp", "tp", "pp", "ep")}
    row |= {"gpus_used": deployment.num_gpus}
    row |= {name: getattr(estimate, name) for name in ("batch", "input_len", "output_len")}
    row |= {name: getattr(deployment, name) for name in ("dtype", "kv_dtype", "max_num_batched_tokens")}
    row["fits"] = estimate.fits
    for metric in (*METRICS, *([CLIENT_TTFT] if estimate.client_ttft_ms is not None else [])):
        value = getattr(estimate, metric)
        low, high = (None, None) if value is None else estimate.interval(metric)
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    if estimate.hit_rate is not None:
        row["hit_rate"] = estimate.hit_rate
    row |= {f"{part}_gib": gib for part, gib in estimate.memory.items()}
    return row | {
        "memory_gib": in_use["device"] - in_use["reserved"],
        "memory_used_gib": in_use["device"] - in_use["reserved"] - in_use["kv_free"],
        "kv_capacity_tokens": estimate.kv_capacity_tokens,
        "max_concurrency": estimate.max_concurrency,
        "bottleneck": estimate.bottleneck,
        "usd_per_mtok": estimate.usd_per_mtok,
        "provenance": estimate.provenance,
    }
