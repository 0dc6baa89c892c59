"""The time of one forward pass through every stage of a pipeline, host time included."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.adapters import adapter_cost
from advisor.perf_model.collectives import stage_hand_over_ms
from advisor.perf_model.cost import HAND_OVER, HOST, LAUNCH, OFFLOAD, Cost
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES
from advisor.perf_model.image_encoding import image_cost
from advisor.perf_model.operators import ForwardPass
from advisor.perf_model.roofline import gpu_cost
from advisor.perf_model.torch_overheads import routing, unfused
from catalog.engines import kv_groups
from catalog.engines.torch_layout import lay_out
from catalog.models.stack import stack

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from catalog.schema import Model
    from catalog.units import Array


HOST_LINK = 0.87
"""Share of the host link that copies from pinned memory reach: 55.5 of 64 GB/s (``catalog/data/kernels``, h2d, H200)."""


def prefill_pass(tokens: Array, sequences: Array, pairs: Array, windowed_pairs: Array) -> ForwardPass:
    zero = np.zeros_like(tokens)
    return ForwardPass(
        tokens=tokens,
        sequences=sequences,
        decodes=zero,
        context=zero,
        windowed_context=zero,
        pairs=pairs,
        windowed_pairs=windowed_pairs,
    )


def decode_pass(model: Model, sequences: Array, context: Array) -> ForwardPass:
    zero = np.zeros_like(sequences)
    window = float(model.sliding_window) if model.sliding_window else np.inf
    return ForwardPass(
        tokens=sequences,
        sequences=sequences,
        decodes=sequences,
        context=context,
        windowed_context=np.minimum(context, window),
        pairs=zero,
        windowed_pairs=zero,
    )


def forward_pass_cost(cost_model: CostModel, step: ForwardPass, *, prefills: Array | float) -> Cost:
    """Price one pass through every stage, host time included.

    ``prefills``: 1 where the pass holds prefill tokens, which run outside the decode graphs and so cannot be faster than
    the host launches them; between 0 and 1 for a mean over steps.
    """
    model, layout, cluster = cost_model.model, cost_model.layout, cost_model.cluster
    timing, parameters = cost_model.timing, cost_model.parameters
    if cost_model.ideal and layout.cache_by_heads.any():
        layout = replace(
            layout, cache_by_heads=np.zeros_like(layout.cache_by_heads)
        )  # what is read again may come from a cache of the GPU
    cost = gpu_cost(model, layout, step, cluster, parameters)
    if model.images is not None:
        cost = cost + image_cost(model, layout, step.tokens - step.decodes, cluster, parameters)
    if layout.lora_slots.any() and not cost_model.ideal:
        cost = cost + adapter_cost(cost_model, step)
    message = 2.0 * step.tokens * model.hidden_size * ACTIVATION_BYTES / layout.tp  # hidden state and residual
    hops = (layout.pp - 1.0) * stage_hand_over_ms(message, layout.tp, layout.pp, cluster, parameters)
    cost = cost + Cost.of(HAND_OVER, communication=hops)
    gpu_ms = cost.total_ms
    largest = cost_model.captured_tokens
    captured = (largest > 0) & (step.tokens <= largest + 1e-6)
    launched = np.where((layout.graphs > 0) & captured, 0.0, prefills)
    launched = np.where(layout.graphs > 0, launched, 1.0)
    per_pass = model.num_hidden_layers * parameters.layer_host_us + model.moe_layers * parameters.expert_host_us
    latent = sum(count for count, layer in stack(model).counts if any(part.latent for part in layer.mixers))
    if latent:
        per_pass = per_pass + latent * parameters.latent_host_us
    if timing.tp_host_us and not cost_model.ideal:
        per_pass = per_pass + np.where(layout.tp > 1, model.num_hidden_layers * timing.tp_host_us, 0.0)
    launch = np.maximum(per_pass * 1e-3 * launched, _scheduling_ms(cost_model, step))
    if not (timing.fuses_elementwise or cost_model.ideal):
        cost = cost + unfused(cost_model, step, gpu_ms)
        if model.moe_layers:
            cost = cost + routing(cost_model, step)
        gpu_ms = cost.total_ms
    link = (1.0 if cost_model.ideal else HOST_LINK) * cluster.gpu.pcie_gbps * 1e6
    stream = layout.offload * cost_model.memory.layer_weight_bytes / link
    host = parameters.step_ms + parameters.sequence_us * 1e-3 * step.sequences + parameters.stage_ms * (layout.pp - 1.0)
    # Kernels, launches and the stream run beside each other: what counts is the slowest of the three.
    return (
        cost
        + Cost.of(LAUNCH, overhead=np.maximum(launch - gpu_ms, 0.0))
        + Cost.of(OFFLOAD, memory=np.maximum(stream - np.maximum(gpu_ms, launch), 0.0))
        + Cost.of(HOST, overhead=host)
    )


def _scheduling_ms(cost_model: CostModel, step: ForwardPass) -> Array | float:
    """Return the host time of a scheduler that allots blocks of each group of layers to each sequence, beside the GPU.

    Models with one group of layers have it in the time of a sequence (v1/core/kv_cache_coordinator.py loops over groups).
    """
    groups = kv_groups(cost_model.model).number if cost_model.timing.cuts_prompts else 1
    return step.sequences * groups * cost_model.parameters.group_sequence_us * 1e-3 if groups > 1 else 0.0


TURN_SHARPNESS = 6.0
"""Exponent of the smooth maximum of what the GPUs take for a round of micro-batches and what their turns take the host."""


def waiting_for_turns(cost_model: CostModel, groups: Array, round_ms: Array) -> Array:
    """Return by how many milliseconds the turns of ``groups`` micro-batches lengthen a round that takes ``round_ms`` without.

    One process schedules all micro-batches of a pipeline, so that a round lasts at least as many turns of the host: with vLLM 0.33 and
    two stages a round of Llama-3.1-8B takes twice 4.4 ms, and of Llama-2-13B, whose GPUs take longer, what they take.
    """
    turns = np.where(groups > 1, groups * cost_model.parameters.turn_ms, 0.0)
    longest = np.maximum(np.maximum(turns, round_ms), 1e-12)
    both = (turns / longest) ** TURN_SHARPNESS + (round_ms / longest) ** TURN_SHARPNESS
    return np.asarray(longest * both ** (1.0 / TURN_SHARPNESS) - round_ms)


def slowest_stage(cost_model: CostModel) -> Array:
    """Return the share of a pass that the slowest of the pipeline's stages takes: the one with most layers."""
    layers = float(cost_model.model.num_hidden_layers)
    if not cost_model.timing.balances_stages:
        return np.ceil(layers / cost_model.layout.pp) / layers
    degrees, which = np.unique(cost_model.layout.pp, return_inverse=True)
    stages = [lay_out(cost_model.model, tp=1, pp=int(degree), rank=0).stages for degree in degrees]
    most = np.array([max(map(len, lengths)) for lengths in stages], dtype=float)
    return most[which.reshape(cost_model.layout.pp.shape)] / layers
