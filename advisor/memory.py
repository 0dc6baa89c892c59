"""What a deployment keeps in each GPU's memory, and how many tokens of KV cache are left.

The accounting is vLLM's (v1/worker/gpu_worker.py, ``determine_available_memory``): the engine may use
``gpu_memory_utilization`` of the device; what weights, the activation peak of a profiling pass at the token budget, and
memory outside torch do not take becomes KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.layout import ACTIVATION_BYTES, Layout
from advisor.operators import kv_heads, kv_numbers_per_token

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from catalog.schema import Cluster, Model

    Array = NDArray[np.float64]

GIB = 2.0**30
BLOCK = 16.0
"""Tokens in a KV block."""
VOCABULARY_MULTIPLE = 64.0
"""vLLM pads the vocabulary to this before slicing it (vocab_parallel_embedding.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of the fullest GPU, in GiB, and the KV cache of one replica; arrays have shape (n,)."""

    weights_gib: Array
    activations_gib: Array
    engine_gib: Array
    """Outside torch: communication buffers, library workspaces, graphs."""
    kv_gib: Array
    """Space left for KV; 0 where nothing is left."""
    reserved_gib: Array
    """What the engine leaves untouched: 1 - gpu_memory_utilization of the device."""
    kv_bytes_per_token: Array
    """On the fullest GPU, all its layers."""
    kv_capacity_tokens: Array
    """Of one replica, as the engine reports it: in sequences of ``max_model_len`` tokens."""
    full_capacity_tokens: Array
    """The same if sliding-window layers kept every token."""
    layer_weight_bytes: Array
    """Weights of the layers on one GPU, in bytes, offloaded ones included."""
    fits: NDArray[np.bool_]
    """Whether the engine starts: at least one block of KV is left."""

    def take(self, rows: NDArray[np.bool_]) -> Memory:
        return Memory(**{name: getattr(self, name)[rows] for name in self.__slots__})


def layer_elements(model: Model, layout: Layout) -> tuple[Array, Array, Array]:
    """Weights on one GPU, in elements: (attention of one layer, dense feed-forward of one, experts of one).

    The attention part counts the layer's norms and biases; the experts part the router and shared experts.
    """
    h, tp = float(model.hidden_size), layout.tp
    heads = model.num_attention_heads / tp
    if model.attention == "mla":
        width = model.qk_nope_head_dim + model.qk_rope_head_dim
        if model.q_lora_rank:
            query = h * model.q_lora_rank + model.q_lora_rank + model.q_lora_rank * heads * width
        else:
            query = h * heads * width
        latent = h * (model.kv_lora_rank + model.qk_rope_head_dim) + model.kv_lora_rank
        expand = model.kv_lora_rank * heads * (model.qk_nope_head_dim + model.v_head_dim)
        attention = query + latent + expand + heads * model.v_head_dim * h
    else:
        kv = kv_heads(model, layout)
        columns = heads * model.head_dim + kv * (model.head_dim + model.value_dim)
        attention = h * columns + heads * model.value_dim * h
        attention = attention + (columns if model.qkv_bias else 0.0) + (h if model.o_bias else 0.0)
        attention = attention + (2.0 * model.head_dim if model.qk_norm else 0.0)
    attention = attention + model.norms_per_layer * h * (2.0 if model.norm_bias else 1.0)
    attention = attention + model.extra_parameters / model.num_hidden_layers / tp
    columns_ = 2.0 if model.gated_mlp else 1.0
    dense = (columns_ + 1.0) * h * model.intermediate_size / tp
    if model.mlp_bias:
        dense = dense + columns_ * model.intermediate_size / tp + h
    experts = np.zeros_like(tp)
    if model.num_experts:
        each = (columns_ + 1.0) * h * model.moe_intermediate_size
        each += (columns_ * model.moe_intermediate_size + h) if model.expert_bias else 0.0
        router = h * model.num_experts + (model.num_experts if model.expert_bias else 0.0)
        shared = (columns_ + 1.0) * h * model.shared_expert_intermediate_size / tp
        shared = shared + (h if model.shared_expert_gate else 0.0)
        experts = model.num_experts * each / layout.expert_shards + router + shared
    return attention + 0.0 * tp, dense + 0.0 * tp, experts + 0.0 * tp


def _stages(layers: float, pp: Array) -> list[tuple[Array, Array, Array]]:
    """Layers of the first, the fullest middle, and the last stage; whether each holds the embedding and the head.

    vLLM's split (distributed/utils.py, ``get_pp_indices``): what does not divide goes to the stages before the last,
    from the back. With one stage it is first and last at once.
    """
    base, left = np.floor(layers / pp), np.mod(layers, pp)
    one, none = np.ones_like(pp), np.zeros_like(pp)
    first = base + np.where((left > 0) & (left >= pp - 1.0), 1.0, 0.0)
    middle = np.where(pp > 2, base + np.where(left > 0, 1.0, 0.0), 0.0)
    last = np.where(pp > 1, base, layers)
    return [
        (np.where(pp > 1, first, layers), one, np.where(pp > 1, none, one)),
        (middle, none, none),
        (last, np.where(pp > 1, none, one), one),
    ]


def activation_gib(model: Model, layout: Layout) -> Array:
    """Peak of a profiling pass over ``max_num_batched_tokens`` tokens, as vLLM runs it.

    The feed-forward block holds hidden state, residual, the gate and up product and the activated half at once; the
    sampler holds a float32 copy of the logits of ``max_num_seqs`` sequences beside the 16-bit ones. The larger counts.
    """
    h, tokens = float(model.hidden_size), layout.max_num_batched_tokens
    width = ACTIVATION_BYTES * np.where(layout.weight_bytes > 2.0, 2.0, 1.0)
    gate = 3.0 if model.gated_mlp else 2.0
    inner = gate * model.intermediate_size / layout.tp
    if model.moe_layers:
        # The fused expert kernel works in chunks of at most 32,768 tokens (VLLM_FUSED_MOE_CHUNK_SIZE).
        chunk = np.minimum(tokens, 32768.0) / tokens
        rows = model.num_experts_per_tok * (gate * model.moe_intermediate_size / layout.tp + h)
        routed = chunk * rows + gate * model.shared_expert_intermediate_size / layout.tp
        inner = np.maximum(inner if model.moe_layers < model.num_hidden_layers else 0.0, routed)
    heads = model.num_attention_heads / layout.tp
    if model.attention == "mla":
        attention = heads * (3.0 * model.head_dim + 2.0 * model.v_head_dim)
    else:
        attention = heads * (model.head_dim + model.value_dim) + 2.0 * kv_heads(model, layout) * model.head_dim
    block = tokens * width * (2.0 * h + np.maximum(inner, attention))
    sampler = layout.max_num_seqs * model.vocab_size * (ACTIVATION_BYTES + 4.0)
    return np.maximum(block, sampler) / GIB


def engine_gib(layout: Layout) -> Array:
    """Memory outside torch and the model: CUDA libraries' workspaces, and NCCL's buffers with more than one GPU.

    0.3 GiB alone and 0.55 GiB in a group: vLLM 0.24 on H200, budget less weights, activations and KV as it reported it.
    """
    return np.where(layout.tp * layout.pp > 1, 0.55, 0.3)


def memory(model: Model, cluster: Cluster, layout: Layout) -> Memory:
    """Memory of each of the n deployments; see ``Memory``."""
    attention, dense, experts = layer_elements(model, layout)
    h, layers = float(model.hidden_size), float(model.num_hidden_layers)
    half = np.maximum(ACTIVATION_BYTES, layout.weight_bytes)
    vocabulary = np.ceil(model.vocab_size / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    table = vocabulary / layout.tp * h * half
    positions = model.learned_positions * h * half
    final = model.final_norms * h * (2.0 if model.norm_bias else 1.0) * half
    device = cluster.gpu.memory_gib
    activations, outside = activation_gib(model, layout), engine_gib(layout)
    budget = device * layout.gpu_memory_utilization
    per_layer_kv = kv_numbers_per_token(model, layout) * layout.kv_bytes
    moe_share = model.moe_layers / layers
    quantised = np.where(layout.weight_bytes < ACTIVATION_BYTES, 1.0, 0.0)

    worst: dict[str, Array] = {}
    for count, has_embedding, has_head in _stages(layers, layout.pp):
        routed = np.minimum(np.ceil(count * moe_share), float(model.moe_layers))
        inside = count * attention + (count - routed) * dense + routed * experts
        norms = quantised * count * model.norms_per_layer * h * (ACTIVATION_BYTES - layout.weight_bytes)
        body = inside * layout.weight_bytes + norms
        # A tied head shares the embedding's memory where both are on the same GPU.
        tables = np.where(
            (has_embedding > 0) & (has_head > 0) & model.tie_word_embeddings, 1.0, has_embedding + has_head
        )
        resident = body * (1.0 - layout.offload) + tables * table + has_embedding * positions + has_head * final
        buffers = np.where(layout.offload > 0, 2.0 * body / np.maximum(count, 1.0), 0.0)
        weights = (resident + buffers) / GIB
        kv = budget - weights - activations - outside
        bytes_per_token = count * per_layer_kv
        tokens = np.where(count > 0, np.maximum(kv, 0.0) * GIB / np.maximum(bytes_per_token, 1e-9), np.inf)
        tokens = np.where(count > 0, np.floor(tokens / BLOCK) * BLOCK, np.inf)
        column = {"weights": weights, "kv": kv, "bytes": bytes_per_token, "tokens": tokens, "body": body}
        if not worst:
            worst = column
        else:
            less = tokens < worst["tokens"]
            body_most = np.maximum(worst["body"], body)
            worst = {name: np.where(less, column[name], worst[name]) for name in column}
            worst["body"] = body_most
    tokens = windowed_capacity(model, worst["tokens"], layout.max_model_len)
    return Memory(
        weights_gib=worst["weights"],
        activations_gib=activations,
        engine_gib=outside,
        kv_gib=np.maximum(worst["kv"], 0.0),
        reserved_gib=device * (1.0 - layout.gpu_memory_utilization),
        kv_bytes_per_token=worst["bytes"],
        kv_capacity_tokens=tokens,
        full_capacity_tokens=worst["tokens"],
        layer_weight_bytes=worst["body"],
        fits=worst["tokens"] >= BLOCK,
    )


def windowed_capacity(model: Model, tokens: Array, length: Array) -> Array:
    """Capacity in tokens of sequences of ``length`` tokens, where windowed layers keep only their window.

    ``tokens``: capacity if every layer kept every token.
    """
    if not model.num_windowed_layers:
        return tokens
    windowed = model.num_windowed_layers / model.num_hidden_layers
    kept = 1.0 - windowed + windowed * np.minimum(model.sliding_window / length, 1.0)
    return np.floor(tokens / kept / BLOCK) * BLOCK


def max_concurrency(model: Model, room: Memory, length: Array) -> Array:
    """Sequences of ``length`` tokens that the KV cache of one replica holds at once, shape (n,)."""
    return np.floor(windowed_capacity(model, room.full_capacity_tokens, length) / length)
