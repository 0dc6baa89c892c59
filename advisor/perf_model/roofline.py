"""How long operators take: a smooth roofline (Williams et al., 2009) with efficiencies, never below the floor.

A product's time is the p-norm of its memory time and its compute time. With efficiencies of at most 1 and p finite that
is never less than the larger of bytes / bandwidth and FLOPs / peak, and it falls in every resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.collectives import collective, send_ms
from advisor.perf_model.cost import Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays
from advisor.perf_model.operators import (
    ForwardPass,
    Product,
    elementwise_bytes,
    kv_numbers_per_token,
    pair_flops,
    products,
)

if TYPE_CHECKING:
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Cluster, Gpu, Model
    from catalog.units import Array

KERNELS_PER_LAYER = 9.0
"""Kernels a fused layer launches beside its matrix products and attention: two norms, rotary embedding, cache write,
activation, and the two halves that some of them are split into (counted in a trace of vLLM's Llama layer)."""


KERNELS_PER_EXPERT_LAYER = 6.0
"""The same for what routing adds: top-k, the sort of tokens by expert in three kernels, activation, and the sum over
experts (vLLM's fused_moe)."""

KERNELS_PER_QK_NORM = 2.0
"""The same for norms of queries and of keys."""

KERNELS_PER_QUANTISED_LAYER = 4.0
"""The same for bringing the inputs of a layer's products into the 8 bits in which they are multiplied."""


def smooth_maximum(memory: Array, compute: Array, sharpness: Array | float) -> tuple[Array, Array]:
    """Memory and compute shares of (memory^p + compute^p)^(1/p); the two add up to it."""
    larger = np.maximum(np.maximum(memory, compute), 1e-30)
    a, b = (memory / larger) ** sharpness, (compute / larger) ** sharpness
    both = np.maximum(a + b, 1e-30)
    per_share = larger * both ** (1.0 / sharpness - 1.0)
    return per_share * a, per_share * b


def product_cost(product: Product, layout: DeploymentArrays, gpu: Gpu, parameters: Parameters) -> Cost:
    """One matrix product in all its layers."""
    expert = product.kind == "expert"
    bandwidth = gpu.memory_bandwidth_gbps * 1e6 * (parameters.expert_memory if expert else parameters.gemm_memory)
    width = np.maximum(ACTIVATION_BYTES, layout.weight_bytes) if product.kind == "half" else layout.weight_bytes
    peak = layout.half_flops if product.kind == "half" else layout.matrix_flops
    efficiency = parameters.expert_compute if expert else parameters.gemm_compute
    memory, compute = smooth_maximum(
        product.weights * width / bandwidth,
        product.flops / (peak * 1e-3 * efficiency),
        parameters.expert_sharpness if expert else parameters.gemm_sharpness,
    )
    launch = (parameters.expert_us if expert else parameters.gemm_us) * 1e-3 + np.zeros_like(memory)
    return Cost.of(product.name, memory=memory, compute=compute, overhead=launch) * product.layers


def attention_cost(model: Model, layout: DeploymentArrays, step: ForwardPass, gpu: Gpu, parameters: Parameters) -> Cost:
    """Attention of all layers: decode reads the cache, prefill computes pairs.

    Kernels work in tiles: a decoding sequence costs as if it were ``kv_tile`` tokens longer, a prefill token as if it
    attended to ``attention_tile`` more.
    """
    windowed, layers = float(model.num_windowed_layers), float(model.num_hidden_layers)
    full = layers - windowed
    context = step.decodes * (full * step.context + windowed * step.windowed_context)
    waited = step.decodes * layers * parameters.kv_tile
    pairs = full * step.pairs + windowed * step.windowed_pairs
    pairs = pairs + (step.tokens - step.decodes) * layers * parameters.attention_tile
    bandwidth = gpu.memory_bandwidth_gbps * 1e6
    peak = layout.half_flops * 1e-3 * parameters.attention_compute
    read = (context + waited) * kv_numbers_per_token(model, layout) * layout.kv_bytes
    memory, compute = smooth_maximum(
        read / (bandwidth * parameters.kv_memory),
        context * pair_flops(model, layout, absorbed=True) / peak,
        parameters.gemm_sharpness,
    )
    compute = compute + pairs * pair_flops(model, layout, absorbed=False) / peak
    launch = layers * parameters.attention_us * 1e-3 + np.zeros_like(memory)
    return Cost.of("attention", memory=memory, compute=compute, overhead=launch)


def gpu_cost(
    model: Model, layout: DeploymentArrays, step: ForwardPass, cluster: Cluster, parameters: Parameters
) -> Cost:
    """GPU time of all layers and the head, as if on one stage; pipeline and host are ``step``'s business."""
    gpu, layers = cluster.gpu, float(model.num_hidden_layers)
    cost = attention_cost(model, layout, step, gpu, parameters)
    for product in products(model, layout, step):
        cost = cost + product_cost(product, layout, gpu, parameters)
    bandwidth = gpu.memory_bandwidth_gbps * 1e6
    traffic = elementwise_bytes(model, layout, step) * parameters.elementwise_traffic
    kernels = layers * (KERNELS_PER_LAYER + KERNELS_PER_QK_NORM * model.qk_norm)
    kernels = kernels + model.moe_layers * KERNELS_PER_EXPERT_LAYER
    quantised = np.where(layout.matrix_flops > layout.half_flops, layers * KERNELS_PER_QUANTISED_LAYER, 0.0)
    small = (kernels + quantised) * parameters.kernel_us * 1e-3
    cost = cost + Cost.of("elementwise", memory=traffic / bandwidth, overhead=small)
    message = step.tokens * model.hidden_size * ACTIVATION_BYTES
    per_layer = 1.0 if model.model_type in PARALLEL_BLOCKS else 2.0
    cost = cost + collective("all_reduce", "all_reduce", message, layout.tp, cluster, parameters) * (layers * per_layer)
    logits = step.sequences * model.vocab_size * ACTIVATION_BYTES
    cost = cost + collective("all_gather", "all_gather", logits, layout.tp, cluster, parameters)
    if model.moe_layers and np.any(layout.ep > layout.tp):
        cost = cost + _exchange(model, layout, message, cluster, parameters)
    return cost


PARALLEL_BLOCKS = {"falcon", "gpt_neox", "gptj", "phi"}
"""Attention and feed-forward side by side: one all-reduce a layer (GPT-J; Wang and Komatsuzaki, 2021)."""


def _exchange(model: Model, layout: DeploymentArrays, message: Array, cluster: Cluster, parameters: Parameters) -> Cost:
    """Tokens to the GPUs that hold their experts and back, where experts are spread over several replicas.

    An all-gather before and a reduce-scatter after the experts, among the replicas (vLLM's default back end).
    """
    replicas = np.where(layout.ep > layout.tp, layout.ep / layout.tp, 1.0)
    both = collective(
        "expert_exchange", "all_gather", message * replicas, replicas, cluster, parameters, stride=layout.tp
    )
    back = collective(
        "expert_exchange", "reduce_scatter", message * replicas, replicas, cluster, parameters, stride=layout.tp
    )
    return (both + back) * float(model.moe_layers)


def hand_over_ms(
    model: Model, layout: DeploymentArrays, step: ForwardPass, cluster: Cluster, parameters: Parameters
) -> Array:
    """Milliseconds to pass activations (hidden state and residual) from one stage to the next."""
    message = 2.0 * step.tokens * model.hidden_size * ACTIVATION_BYTES / layout.tp
    return np.where(layout.pp > 1, send_ms(message, layout.tp, layout.pp, cluster, parameters), 0.0)
