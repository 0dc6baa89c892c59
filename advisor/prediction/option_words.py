"""Options of the command line that ask an answer's own question again: its lengths, limits, engine, formats and knobs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.perf_model.deployment_arrays import checkpoint_dtype
from catalog.engines import resolve
from catalog.schema import Deployment, Workload

if TYPE_CHECKING:
    from collections.abc import Collection

    from catalog.schema import Cluster, Model, Slo

PLAIN = Deployment()
SHORT = Workload()
KNOBS = {
    "kv_dtype": "--kv-cache-dtype",
    "max_num_seqs": "--max-num-seqs",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "max_model_len": "--max-model-len",
    "gpu_memory_utilization": "--gpu-memory-utilization",
    "offload": "--offload",
    "kv_offload": "--kv-offload",
    "all2all_backend": "--all2all-backend",
}
"""Options of the knobs that an engine sets where nobody does."""

ADAPTER_OPTIONS = {
    "number": "--lora-adapters",
    "rank": "--max-lora-rank",
    "max_loras": "--max-loras",
    "max_cpu_loras": "--max-cpu-loras",
    "skew": "--lora-skew",
}
"""Options of the fields of ``catalog.features.Adapters``."""


def lengths(workload: Workload) -> list[str]:
    """Return the options of the lengths that are not the default ones."""
    words: list[str] = []
    for option, name in (("--input-len", "input_len"), ("--output-len", "output_len")):
        if getattr(workload, name) != getattr(SHORT, name):
            words += [option, str(getattr(workload, name))]
    return words


def limits(slo: Slo) -> list[str]:
    """Return the options of the limits."""
    return [word for name, most in slo.limits.items() for word in (f"--{name.removesuffix('_ms')}", f"{most:g}")]


def engine_words(
    deployment: Deployment, model: Model, cluster: Cluster, *, knobs: Collection[str] = tuple(KNOBS)
) -> list[str]:
    """Return the options of engine, release, weight format and knobs where they are not what comes without an option.

    Args:
        deployment: resolved: nothing in it is open.
        model: what it serves.
        cluster: its GPUs.
        knobs: those that the command takes and that count, of ``KNOBS``.

    """
    words = [] if deployment.engine == PLAIN.engine else ["--engine", deployment.engine]
    words += ["--engine-version", deployment.engine_version] if deployment.engine_version else []
    words += [] if deployment.dtype == checkpoint_dtype(model, cluster.gpu) else ["--dtype", deployment.dtype]
    opened = replace(deployment, **{name: getattr(PLAIN, name) for name in KNOBS})
    usual = resolve(opened, model, cluster).value
    for name in knobs:
        value = getattr(deployment, name)
        if value is not None and value != getattr(usual, name):
            words += [KNOBS[name], f"{value:g}" if isinstance(value, float) else str(value)]
    return words
