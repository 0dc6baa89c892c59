"""How long operators take: a smooth roofline (Williams et al., 2009) with efficiencies, never below the floor.

A product's time is the p-norm of its memory time and its compute time. With efficiencies of at most 1 and p finite that
is never less than the larger of bytes / bandwidth and FLOPs / peak, and it falls in every resource.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.collectives import collective_cost
from advisor.perf_model.cost import ATTENTION, ELEMENTWISE, RECURRENCE, Cost
from advisor.perf_model.deployment_arrays import (
    ACTIVATION_BYTES,
    EIGHT_BIT_BYTES,
    FOUR_BIT_BYTES,
    DeploymentArrays,
    matrix_flops,
    weight_bits,
)
from advisor.perf_model.expert_exchange import exchange_cost, exchanges_of
from advisor.perf_model.operators import (
    AttentionWork,
    CollectiveWork,
    ElementwiseWork,
    ForwardPass,
    Operator,
    Product,
    RecurrenceWork,
    operators,
)
from advisor.perf_model.parameters import scaled_odds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Cluster, Gpu, Model
    from catalog.units import Array


def smooth_maximum(memory: Array, compute: Array, sharpness: Array | float) -> tuple[Array, Array]:
    """Return memory and compute shares of (memory^p + compute^p)^(1/p); the two add up to it."""
    larger = np.maximum(memory, compute)
    smaller = (np.minimum(memory, compute) / np.maximum(larger, 1e-30)) ** sharpness  # of the larger one it is 1
    per_share = larger * (1.0 + smaller) ** (1.0 / sharpness - 1.0)
    less, bound = per_share * smaller, memory >= compute
    return np.where(bound, per_share, less), np.where(bound, less, per_share)


def _efficiencies(
    product: Product, width: Array, native: NDArray[np.bool_], layout: DeploymentArrays, parameters: Parameters
) -> tuple[Array | float, Array | float, Array | float]:
    """Return the efficiency of memory and of arithmetic, and microseconds of fixed time, by the format of the weights; ``native``: whether
    they are multiplied in it.
    """
    expert = product.kind == "expert"
    memory = parameters.expert_memory if expert else parameters.gemm_memory
    compute = parameters.expert_compute if expert else parameters.gemm_compute
    fixed = parameters.expert_us if expert else parameters.gemm_us
    untuned = layout.untuned > 0
    if expert and untuned.any():
        memory = np.where(untuned, scaled_odds(memory, parameters.untuned_memory), memory)
        compute = np.where(untuned, scaled_odds(compute, parameters.untuned_compute), compute)
    if width.max() > EIGHT_BIT_BYTES and width.min() > EIGHT_BIT_BYTES:
        return memory, compute, fixed
    four, eight = width < FOUR_BIT_BYTES, (width >= FOUR_BIT_BYTES) & (width < EIGHT_BIT_BYTES)
    unpacked, as_they_are = four & ~native, four & native
    ratios = (
        (unpacked, parameters.expert4_memory, parameters.expert4_compute, parameters.expert4_us)
        if expert
        else (unpacked, parameters.narrow4_memory, parameters.narrow4_compute, parameters.narrow4_us),
        (
            as_they_are,
            parameters.native_expert4_memory,
            parameters.native_expert4_compute,
            parameters.native_expert4_us,
        )
        if expert
        else (as_they_are, parameters.native4_memory, parameters.native4_compute, parameters.native4_us),
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
    """Price one matrix product in all its layers."""
    width = np.maximum(ACTIVATION_BYTES, layout.weight_bytes) if product.kind == "half" else layout.weight_bytes
    peak = layout.half_flops if product.kind == "half" else layout.matrix_flops
    if product.format:
        width = np.full(len(layout), weight_bits(product.format) / 8.0)
        peak = np.full(len(layout), matrix_flops(gpu, product.format))
    on_memory, on_compute, fixed = _efficiencies(product, width, peak > layout.half_flops, layout, parameters)
    memory, compute = smooth_maximum(
        product.weights * width / (gpu.memory_bandwidth_gbps * 1e6 * on_memory),
        product.flops / (peak * 1e-3 * on_compute),
        parameters.expert_sharpness if product.kind == "expert" else parameters.gemm_sharpness,
    )
    launch = fixed * 1e-3
    return Cost.of(product.name, memory=memory, compute=compute, overhead=launch) * product.layers


def attention_cost(work: AttentionWork, layout: DeploymentArrays, gpu: Gpu, parameters: Parameters) -> Cost:
    """Price attention of all layers.

    Kernels work in tiles: a decoding sequence costs as if it were ``kv_tile`` tokens longer, a prefill token as if it
    attended to ``attention_tile`` more.
    """
    on_memory, on_compute = parameters.kv_memory, parameters.attention_compute
    narrow = layout.kv_bytes < ACTIVATION_BYTES
    if work.latent:
        on_memory = scaled_odds(on_memory, parameters.latent_memory)
        on_compute = scaled_odds(on_compute, parameters.latent_compute)
    elif narrow.any():
        on_memory = np.where(narrow, scaled_odds(on_memory, parameters.narrow_kv_memory), on_memory)
    peak = layout.half_flops * 1e-3 * on_compute
    read = work.read_bytes + parameters.kv_tile * work.read_tile_bytes
    memory, compute = smooth_maximum(
        read / (gpu.memory_bandwidth_gbps * 1e6 * on_memory), work.decode_flops / peak, parameters.gemm_sharpness
    )
    memory, compute = memory * work.mixed, compute * work.mixed
    paired = work.prefill_flops + parameters.attention_tile * work.prefill_tile_flops
    launch = work.kernels * parameters.attention_us * 1e-3
    return Cost.of(ATTENTION, memory=memory, compute=compute + paired / peak, overhead=launch)


def operator_cost(operator: Operator, layout: DeploymentArrays, cluster: Cluster, parameters: Parameters) -> Cost:
    """Price one operator in all its layers."""
    gpu = cluster.gpu
    match operator:
        case Product():
            return product_cost(operator, layout, gpu, parameters)
        case AttentionWork():
            return attention_cost(operator, layout, gpu, parameters)
        case RecurrenceWork():
            return Cost.of(
                RECURRENCE,
                memory=operator.state_bytes / (gpu.memory_bandwidth_gbps * 1e6 * parameters.state_memory),
                compute=operator.flops / (layout.half_flops * 1e-3 * parameters.state_compute),
                overhead=operator.kernels * parameters.state_us * 1e-3,
            )
        case ElementwiseWork():
            return Cost.of(
                ELEMENTWISE,
                memory=operator.moved_bytes * parameters.elementwise_traffic / (gpu.memory_bandwidth_gbps * 1e6),
                overhead=operator.kernels * parameters.kernel_us * 1e-3,
            )
        case CollectiveWork():
            return collective_cost(operator, cluster, parameters)


def gpu_cost(
    model: Model, layout: DeploymentArrays, step: ForwardPass, cluster: Cluster, parameters: Parameters
) -> Cost:
    """Return the GPU time of all layers and the head, as if on one stage; pipeline and host are ``forward_pass``'s business."""
    cost = Cost()
    for operator in operators(model, layout, step):
        cost = cost + operator_cost(operator, layout, cluster, parameters)
    if np.any(layout.exchange > 0):
        for work in exchanges_of(model, layout, step.tokens, cluster):
            cost = cost + exchange_cost(work, cluster, parameters)
    return cost
