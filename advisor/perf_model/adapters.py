"""What LoRA adapters take on the GPUs: the memory of their slots, and their kernels in a pass. No run with adapters was fitted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.cost import ADAPTERS, Cost
from catalog.errors import InputError, Note
from catalog.units import GIB

if TYPE_CHECKING:
    from advisor.perf_model.cost_model import CostModel
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from advisor.perf_model.operators import ForwardPass
    from catalog.features import Adapters
    from catalog.schema import Model
    from catalog.units import Array

WEIGHT_BYTES = 2.0
"""Of a number of an adapter: they are served in 16 bits."""
KERNELS = 8.0
"""In a layer: shrink and expand for query, key and value, for the output, for gate and up, for down (vllm/lora/layers, lora/ops)."""


def adapter_parameters(model: Model, rank: Array | float) -> Array | float:
    """Return the parameters of an adapter on every product of attention and of the dense block: rank times what goes in and comes out
    (Hu et al., arXiv 2106.09685).
    """
    hidden = model.hidden_size
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    attention = (hidden + queries) * 2 + (hidden + keys) * 2
    inner = (3 if model.gated_mlp else 2) * (hidden + model.intermediate_size)
    return rank * float(attention + inner) * model.num_hidden_layers


def beside_slots(room: Memory, model: Model, layout: DeploymentArrays) -> Memory:
    """Return the memory of deployments whose slots for adapters, which are weights, come out of the KV cache."""
    if not layout.lora_slots.any():
        return room
    taken = (
        layout.lora_slots * adapter_parameters(model, layout.lora_rank) * WEIGHT_BYTES / (layout.tp * layout.pp) / GIB
    )
    left = np.clip(1.0 - taken / np.maximum(room.kv_gib, 1e-9), 0.0, 1.0)
    return replace(
        room,
        weights_gib=room.weights_gib + np.minimum(taken, room.kv_gib),
        kv_gib=room.kv_gib * left,
        slack_gib=room.slack_gib - taken,
        kv_capacity_tokens=np.floor(room.kv_capacity_tokens * left),
        kv_blocks=np.floor(room.kv_blocks * left),
        fits=room.fits & (np.floor(room.kv_blocks * left) >= 1.0),
    )


def adapter_cost(cost_model: CostModel, step: ForwardPass) -> Cost:
    """Price the kernels of adapters in one pass through every stage, of which as many sequences as there are slots have others."""
    layout, model, gpu = cost_model.layout, cost_model.model, cost_model.cluster.gpu
    whole = adapter_parameters(model, layout.lora_rank)
    running = np.minimum(layout.lora_slots, np.maximum(step.sequences, 1.0))
    some = np.where(layout.lora_slots > 0, 1.0, 0.0)
    return Cost.of(
        ADAPTERS,
        compute=2.0 * whole * step.tokens / layout.tp / layout.half_flops * 1e3 * some,
        memory=running * whole * WEIGHT_BYTES / layout.tp / (gpu.memory_bandwidth_gbps * 1e9) * 1e3,
        overhead=KERNELS * model.num_hidden_layers * cost_model.parameters.kernel_us * 1e-3 * some,
    )


def adapter_notes(adapters: Adapters | None, engine: str) -> tuple[Note, ...]:
    """Say what an estimate of a batch leaves out of adapters.

    Raises:
        InputError: the engine's slots are not modelled.

    """
    if adapters is None:
        return ()
    if engine != "vllm":
        raise InputError(f"adapters are modelled as vllm keeps them, not {engine}; use vllm or leave them out")
    text = f"{adapters.number} adapters: slots ({adapters.max_loras}) and kernels are counted, no run with adapters was fitted"
    if adapters.max_loras < adapters.number:
        text += "; what requests wait for a slot is not here: advisor simulate has it"
    return (Note(text, "warning"),)
