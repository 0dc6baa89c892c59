"""Back ends that send tokens to the GPUs of their experts and back, where several replicas share these.

vLLM 0.33: config/parallel.py ``All2AllBackend``, config/compilation.py (no CUDA graphs with high throughput), engine/arg_utils.py (256 tokens a
step with low latency), distributed/device_communicators/all2all.py (buffers). SGLang 0.5.23: ``--moe-a2a-backend``, whose "deepep" takes DeepEP's
normal kernels for prompts and its low-latency ones for up to 128 tokens a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.registry import BatchDefaults, Engine
    from catalog.schema import Cluster, Deployment, Model

GATHER = "allgather_reducescatter"
HIGH_THROUGHPUT, LOW_LATENCY, BY_TOKENS = "deepep_high_throughput", "deepep_low_latency", "deepep"
KERNELS = ("", HIGH_THROUGHPUT, LOW_LATENCY, BY_TOKENS)
"""Of a back end, by its number in ``DeploymentArrays.exchange``; the first is all-gather and reduce-scatter."""

BACK_ENDS = {"vllm": (GATHER, HIGH_THROUGHPUT, LOW_LATENCY), "sglang": ("none", BY_TOKENS)}
"""By engine, its default first."""

LOW_LATENCY_TOKENS = 256
"""Tokens of a step that vLLM chooses with low latency (config/scheduler.py ``DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP``)."""
LOW_LATENCY_WIDTHS = (2048, 2560, 3072, 4096, 5120, 6144, 7168, 8192)
"""Hidden sizes for which the low-latency kernels are built; others are rounded up (fused_moe/prepare_finalize/deepep_ll.py)."""


def own_tokens(backend: str, defaults: BatchDefaults) -> int:
    """Return the tokens of a step that an engine with ``defaults`` chooses by itself with a back end."""
    return LOW_LATENCY_TOKENS if backend == LOW_LATENCY else defaults.max_num_batched_tokens


def exchange_backend(deployment: Deployment, model: Model, cluster: Cluster, engine: Engine) -> str:
    """Return the back end of a deployment, empty for the engine's default.

    Raises:
        InputError: it is not modelled, or the deployment or its GPUs have no use for it.

    """
    name = deployment.all2all_backend
    if not name:
        return ""
    known = BACK_ENDS.get(engine.name, ())
    if not known:
        raise InputError(
            f"all2all_backend is {name!r:.40}, but {engine.name} chooses by itself how tokens reach their experts; leave it out"
        )
    if name not in known:
        raise InputError(
            f"all2all_backend is {name!r:.40}; of {engine.name} those with published times are modelled: {', '.join(known)}"
        )
    if name == known[0]:
        return ""
    if deployment.ranks == 1:
        raise InputError(
            f"all2all_backend {name} is for experts that several replicas share; state them, such as dp=8 ep=8, or leave it out"
        )
    if cluster.gpu.vendor != "nvidia" or cluster.gpu.topology != "nvswitch":
        raise InputError(
            f"DeepEP takes NVLink between all GPUs of a node, which {cluster.gpu.name} has not; use {known[0]}"
        )
    if model.hidden_size > LOW_LATENCY_WIDTHS[-1]:
        raise InputError(
            f"DeepEP's kernels are built for hidden sizes up to {LOW_LATENCY_WIDTHS[-1]}, {model.name} has {model.hidden_size}; use {known[0]}"
        )
    return name
