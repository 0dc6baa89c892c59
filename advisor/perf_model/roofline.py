"""How long operators take: a smooth roofline (Williams et al., 2009) with efficiencies, never below the floor.

A product's time is the p-norm of its memory time and its compute time. With efficiencies of at most 1 and p finite that
is never less than the larger of bytes / bandwidth and FLOPs / peak, and it falls in every resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.collectives import collective
from advisor.perf_model.cost import ATTENTION, ELEMENTWISE, RECURRENCE, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays, matrix_flops, weight_bits
from advisor.perf_model.operators import ForwardPass, Product, elementwise_bytes, products, sliced_numbers
from advisor.perf_model.parameters import scaled_odds
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


FOUR_BIT_BYTES, EIGHT_BIT_BYTES = 0.75, 1.5
"""Bytes of a weight, scales included, below which it counts as one of 4 and of 8 bits."""


def _efficiencies(
    product: Product, width: Array, layout: DeploymentArrays, parameters: Parameters
) -> tuple[Array | float, Array | float, Array | float]:
    """Efficiency of memory and of arithmetic, and microseconds of fixed time, by the format of the weights."""
    expert = product.kind == "expert"
    memory = parameters.expert_memory if expert else parameters.gemm_memory
    compute = parameters.expert_compute if expert else parameters.gemm_compute
    fixed = parameters.expert_us if expert else parameters.gemm_us
    if width.max() > EIGHT_BIT_BYTES and width.min() > EIGHT_BIT_BYTES:
        return memory, compute, fixed
    four, eight = width < FOUR_BIT_BYTES, (width >= FOUR_BIT_BYTES) & (width < EIGHT_BIT_BYTES)
    ratios = (
        (four, parameters.expert4_memory, parameters.expert4_compute, parameters.expert4_us)
        if expert
        else (four, parameters.narrow4_memory, parameters.narrow4_compute, parameters.narrow4_us),
        (eight, parameters.expert8_memory, parameters.expert8_compute, parameters.expert8_us)
        if expert
        else (eight, parameters.narrow8_memory, parameters.narrow8_compute, 1.0),
        (
            eight & (layout.block_scales > 0),
            1.0 if expert else parameters.block8_memory,
            parameters.block8_compute,
            1.0,
        ),
    )
    for rows, on_memory, on_compute, on_fixed in ratios:
        if rows.any():
            memory = np.where(rows, scaled_odds(memory, on_memory), memory)
            compute = np.where(rows, scaled_odds(compute, on_compute), compute)
            fixed = np.where(rows, fixed * on_fixed, fixed)
    return memory, compute, fixed


def product_cost(product: Product, layout: DeploymentArrays, gpu: Gpu, parameters: Parameters) -> Cost:
    """One matrix product in all its layers."""
    width = np.maximum(ACTIVATION_BYTES, layout.weight_bytes) if product.kind == "half" else layout.weight_bytes
    peak = layout.half_flops if product.kind == "half" else layout.matrix_flops
    if product.format:
        width = np.full(len(layout), weight_bits(product.format) / 8.0)
        peak = np.full(len(layout), matrix_flops(gpu, product.format))
    on_memory, on_compute, fixed = _efficiencies(product, width, layout, parameters)
    memory, compute = smooth_maximum(
        product.weights * width / (gpu.memory_bandwidth_gbps * 1e6 * on_memory),
        product.flops / (peak * 1e-3 * on_compute),
        parameters.expert_sharpness if product.kind == "expert" else parameters.gemm_sharpness,
    )
    launch = fixed * 1e-3 + np.zeros_like(memory)
    return Cost.of(product.name, memory=memory, compute=compute, overhead=launch) * product.layers


def attention_cost(model: Model, layout: DeploymentArrays, step: ForwardPass, gpu: Gpu, parameters: Parameters) -> Cost:
    """Attention of all layers: decode reads the cache, prefill computes pairs.

    Kernels work in tiles: a decoding sequence costs as if it were ``kv_tile`` tokens longer, a prefill token as if it
    attended to ``attention_tile`` more.
    """
    read, work, paired = np.zeros_like(step.tokens), np.zeros_like(step.tokens), np.zeros_like(step.tokens)
    mixers, latent = 0.0, False
    prompts = step.tokens - step.decodes
    for count, layer in stack(model).counts:
        for part in layer.mixers:
            if isinstance(part, Recurrence):
                continue
            mixers += count
            latent = latent or part.latent
            context, pairs = (step.windowed_context, step.windowed_pairs) if part.window else (step.context, step.pairs)
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
    on_memory, on_compute = parameters.kv_memory, parameters.attention_compute
    narrow = layout.kv_bytes < ACTIVATION_BYTES
    if latent:
        on_memory = scaled_odds(on_memory, parameters.latent_memory)
        on_compute = scaled_odds(on_compute, parameters.latent_compute)
    elif narrow.any():
        on_memory = np.where(narrow, scaled_odds(on_memory, parameters.narrow_kv_memory), on_memory)
    peak = layout.half_flops * 1e-3 * on_compute
    memory, compute = smooth_maximum(
        read / (gpu.memory_bandwidth_gbps * 1e6 * on_memory), work / peak, parameters.gemm_sharpness
    )
    launch = mixers * parameters.attention_us * 1e-3 + np.zeros_like(memory)
    return Cost.of(ATTENTION, memory=memory, compute=compute + paired / peak, overhead=launch)


def recurrence_cost(
    model: Model, layout: DeploymentArrays, step: ForwardPass, gpu: Gpu, parameters: Parameters
) -> Cost:
    """Linear attention and state-space layers: a decoded token reads and writes its state, prefill computes in chunks."""
    parts = [
        (count, part) for count, layer in stack(model).counts for part in layer.mixers if isinstance(part, Recurrence)
    ]
    if not parts:
        return Cost()
    moved = step.decodes * sum(2.0 * count * part.state_bytes for count, part in parts) / layout.tp
    work = step.tokens * sum(count * part.token_flops for count, part in parts) / layout.tp
    return Cost.of(
        RECURRENCE,
        memory=moved / (gpu.memory_bandwidth_gbps * 1e6 * parameters.state_memory),
        compute=work / (layout.half_flops * 1e-3 * parameters.state_compute),
        overhead=sum(count for count, _ in parts) * parameters.state_us * 1e-3,
    )


def gpu_cost(
    model: Model, layout: DeploymentArrays, step: ForwardPass, cluster: Cluster, parameters: Parameters
) -> Cost:
    """GPU time of all layers and the head, as if on one stage; pipeline and host are ``step``'s business."""
    gpu = cluster.gpu
    parts = sum(count * (bool(layer.mixers) + bool(layer.feed_forward)) for count, layer in stack(model).counts)
    layers = parts / 2.0
    cost = attention_cost(model, layout, step, gpu, parameters)
    cost = cost + recurrence_cost(model, layout, step, gpu, parameters)
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
