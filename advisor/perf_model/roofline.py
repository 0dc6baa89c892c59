"""How long operators take: a smooth roofline (Williams et al., 2009) with efficiencies, never below the floor.

A product's time is the p-norm of its memory time and its compute time. With efficiencies of at most 1 and p finite that
is never less than the larger of bytes / bandwidth and FLOPs / peak, and it falls in every resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.collectives import collective
from advisor.perf_model.cost import ATTENTION, ELEMENTWISE, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays, matrix_flops, weight_bits
from advisor.perf_model.operators import ForwardPass, Product, elementwise_bytes, products, sliced_numbers
from catalog.mixers import Recurrence
from catalog.models.stack import stack

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
    if product.format:
        width = np.full(len(layout), weight_bits(product.format) / 8.0)
        peak = np.full(len(layout), matrix_flops(gpu, product.format))
    efficiency = parameters.expert_compute if expert else parameters.gemm_compute
    memory, compute = smooth_maximum(
        product.weights * width / bandwidth,
        product.flops / (peak * 1e-3 * efficiency),
        parameters.expert_sharpness if expert else parameters.gemm_sharpness,
    )
    launch = (parameters.expert_us if expert else parameters.gemm_us) * 1e-3 + np.zeros_like(memory)
    return Cost.of(product.name, memory=memory, compute=compute, overhead=launch) * product.layers


def attention_cost(model: Model, layout: DeploymentArrays, step: ForwardPass, gpu: Gpu, parameters: Parameters) -> Cost:
    """Attention of all layers: decode reads the cache or the state, prefill computes pairs.

    Kernels work in tiles: a decoding sequence costs as if it were ``kv_tile`` tokens longer, a prefill token as if it
    attended to ``attention_tile`` more. Linear attention reads and writes its state once a decoded token, and in prefill
    once a chunk, which its operations outweigh.
    """
    bandwidth = gpu.memory_bandwidth_gbps * 1e6
    peak = layout.half_flops * 1e-3 * parameters.attention_compute
    read, work, paired = np.zeros_like(step.tokens), np.zeros_like(step.tokens), np.zeros_like(step.tokens)
    mixers = 0.0
    for count, layer in stack(model).counts:
        for part in layer.mixers:
            mixers += count
            context, pairs = (step.windowed_context, step.windowed_pairs) if part.window else (step.context, step.pairs)
            prompts = step.tokens - step.decodes
            if isinstance(part, Recurrence):
                read = read + count * step.decodes * 2.0 * part.state_bytes / layout.tp
                paired = paired + count * step.tokens * part.token_flops / layout.tp
                continue
            if part.index:
                read = read + count * step.decodes * context * part.index_bytes
                scored = 2.0 * part.index.heads * part.index.dim / part.index.pooled
                paired = paired + count * (step.decodes * context + pairs) * scored
                context = np.minimum(context, part.index.top_k)
                pairs = np.minimum(pairs, prompts * part.index.top_k)
            one = sliced_numbers(part.read, layout.tp) * layout.kv_bytes
            read = read + count * step.decodes * (context + parameters.kv_tile) * one
            work = work + count * step.decodes * context * part.pair_flops(absorbed=True) / layout.tp
            tiled = pairs + prompts * parameters.attention_tile
            paired = paired + count * tiled * part.pair_flops(absorbed=False) / layout.tp
    memory, compute = smooth_maximum(read / (bandwidth * parameters.kv_memory), work / peak, parameters.gemm_sharpness)
    launch = mixers * parameters.attention_us * 1e-3 + np.zeros_like(memory)
    return Cost.of(ATTENTION, memory=memory, compute=compute + paired / peak, overhead=launch)


def gpu_cost(
    model: Model, layout: DeploymentArrays, step: ForwardPass, cluster: Cluster, parameters: Parameters
) -> Cost:
    """GPU time of all layers and the head, as if on one stage; pipeline and host are ``step``'s business."""
    gpu = cluster.gpu
    parts = sum(count * (bool(layer.mixers) + bool(layer.feed_forward)) for count, layer in stack(model).counts)
    layers = parts / 2.0
    cost = attention_cost(model, layout, step, gpu, parameters)
    for product in products(model, layout, step):
        cost = cost + product_cost(product, layout, gpu, parameters)
    bandwidth = gpu.memory_bandwidth_gbps * 1e6
    traffic = elementwise_bytes(model, layout, step) * parameters.elementwise_traffic
    kernels = layers * (KERNELS_PER_LAYER + KERNELS_PER_QK_NORM * model.qk_norm)
    kernels = kernels + model.moe_layers * KERNELS_PER_EXPERT_LAYER
    quantised = np.where(layout.matrix_flops > layout.half_flops, layers * KERNELS_PER_QUANTISED_LAYER, 0.0)
    small = (kernels + quantised) * parameters.kernel_us * 1e-3
    cost = cost + Cost.of(ELEMENTWISE, memory=traffic / bandwidth, overhead=small)
    message = step.tokens * model.hidden_size * ACTIVATION_BYTES
    per_layer = 1.0 if model.model_type in PARALLEL_BLOCKS else 2.0  # one after each part
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
