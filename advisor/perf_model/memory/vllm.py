"""What a deployment keeps in each GPU's memory, and how many tokens of KV cache are left, as vLLM accounts for it.

After v1/worker/gpu_worker.py, ``determine_available_memory``: the engine may use ``gpu_memory_utilization`` of the
device; what weights, the activation peak of a profiling pass at the token budget, and memory outside torch do not take
becomes KV cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays
from advisor.perf_model.memory.kv_capacity import BLOCK, blocks_of_request
from advisor.perf_model.memory.parts import Memory, engine_gib
from advisor.perf_model.operators import EXPERTS_ONLY, kv_heads, kv_numbers_per_token
from catalog.engines import find_engine, kv_groups, pipeline_layers, reserves_graphs
from catalog.units import GIB

if TYPE_CHECKING:
    from catalog.schema import Cluster, Model
    from catalog.units import Array

NULL_BLOCKS = 1.0
"""Blocks that are never used (v1/core/block_pool.py)."""
VOCABULARY_MULTIPLE = 64.0
"""vLLM pads the vocabulary to this before slicing it (vocab_parallel_embedding.py)."""


def layer_elements(model: Model, layout: DeploymentArrays) -> tuple[Array, Array, Array]:
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
        experts = _experts_held(model, layout) * each + router + shared
    return attention + 0.0 * tp, dense + 0.0 * tp, experts + 0.0 * tp


def plain_elements(model: Model, layout: DeploymentArrays) -> tuple[Array, Array, Array]:
    """Of ``layer_elements`` those that stay in 16 bits whatever the weight format: norms, biases, routers and gates.

    And all of attention where only the experts are quantised.

    Quantised checkpoints leave them alone (``modules_to_not_convert``, ``ignored_layers``; vllm/model_executor/layers:
    ``GateLinear`` and the norms take no quantisation config).
    """
    h, tp = float(model.hidden_size), layout.tp
    attention = model.norms_per_layer * h * (2.0 if model.norm_bias else 1.0) + 0.0 * tp
    if model.attention == "mla":
        attention = attention + model.q_lora_rank + model.kv_lora_rank
    elif model.qkv_bias:
        columns = model.num_attention_heads / tp * model.head_dim
        attention = attention + columns + kv_heads(model, layout) * (model.head_dim + model.value_dim)
    attention = attention + (h if model.o_bias else 0.0) + (2.0 * model.head_dim if model.qk_norm else 0.0)
    if model.quantization in EXPERTS_ONLY:
        attention = layer_elements(model, layout)[0]
    columns_ = 2.0 if model.gated_mlp else 1.0
    dense = (columns_ * model.intermediate_size / tp + h if model.mlp_bias else 0.0) + 0.0 * tp
    experts = h * model.num_experts + (h if model.shared_expert_gate else 0.0) + 0.0 * tp
    if model.expert_bias:
        each = columns_ * model.moe_intermediate_size + h
        experts = experts + model.num_experts + _experts_held(model, layout) * each
    return attention, dense, experts


def _experts_held(model: Model, layout: DeploymentArrays) -> Array:
    """Routed experts' worth of weights on the fullest GPU: slices of all of them, or whole ones, unevenly if need be."""
    return np.where(layout.ep > 1, np.ceil(model.num_experts / layout.ep), model.num_experts / layout.tp)


def _stages(model: Model, pp: Array) -> list[tuple[Array, Array, Array, Array]]:
    """Layers of the first, the fullest middle, and the last stage; how many of them have experts; embedding; head.

    vLLM's split (``pipeline_layers``). With one stage it is first and last at once.
    """
    degrees, which = np.unique(pp, return_inverse=True)
    table = np.zeros((len(degrees), 3, 2))
    for i, degree in enumerate(degrees):
        ends = np.cumsum([0, *pipeline_layers(model.num_hidden_layers, int(degree))])
        after = np.maximum(ends - model.first_dense_layers, 0) // model.moe_layer_step if model.moe_layers else 0 * ends
        stages = np.stack([np.diff(ends), np.diff(after)], axis=1)
        table[i, 0], table[i, 2] = stages[0], stages[-1]
        if degree > 2:
            table[i, 1] = stages[1:-1].max(axis=0)
    rows = table[which.reshape(np.shape(pp))]
    one, none, alone = np.ones_like(pp), np.zeros_like(pp), np.where(pp > 1, 0.0, 1.0)
    return [
        (rows[:, 0, 0], rows[:, 0, 1], one, alone),
        (rows[:, 1, 0], rows[:, 1, 1], none, none),
        (rows[:, 2, 0], rows[:, 2, 1], alone, one),
    ]


SAMPLER_BYTES = 16.0
"""Bytes per logit at the sampler's peak: 16-bit logits and the float32 copies that top-k and top-p make of them. Each GPU
of a tensor-parallel group holds its slice: Llama-3.1-8B at TP4 reported less than whole copies would take."""


def activation_gib(model: Model, layout: DeploymentArrays) -> Array:
    """Peak of the pass that vLLM profiles: ``max_num_batched_tokens`` tokens, then a sampler of ``max_num_seqs`` rows.

    A dense layer holds three hidden states, the gate and up product, and the activated half; an expert layer the rows of
    its ``num_experts_per_tok`` copies of each token. The sampler runs after the layers, so the larger of the two counts.
    Which tensors live at once was read off vLLM 0.24's own report (``catalog/data/memory``): within 0.1 GiB of every load.
    """
    h, tokens, tp = float(model.hidden_size), layout.max_num_batched_tokens, layout.tp
    width = ACTIVATION_BYTES * np.where(layout.weight_bytes > 2.0, 2.0, 1.0)
    gate = 2.0 if model.gated_mlp else 1.0
    block = 3.0 * h + (gate + 1.0) * model.intermediate_size / tp
    if model.moe_layers:
        inner = model.moe_intermediate_size / np.where(layout.ep > 1, 1.0, tp)
        rows = np.maximum(gate * inner, h) + inner + 3.0 * h
        shared = (gate + 1.0) * model.shared_expert_intermediate_size / tp
        routed = model.num_experts_per_tok * rows + shared
        block = np.maximum(block, routed) if model.moe_layers < model.num_hidden_layers else routed
    rows = np.minimum(layout.max_num_seqs, tokens)
    sampler = rows * model.vocab_size * SAMPLER_BYTES / tp + 1.5 * tokens * h * width
    return np.asarray(np.maximum(tokens * width * block, sampler) / GIB)


GRAPH_GIB_PER_LAYER = 0.0132
"""Memory that vLLM 0.24 sets aside for 51 CUDA graphs, per layer: 0.42 GiB for 32 layers, 0.64 for 48, 0.74 to 0.90 for
64 (Mixtral-8x7B, Qwen3-30B-A3B, Qwen2.5-32B on H200)."""
GRAPHS = 51.0


def graph_gib(model: Model, layout: DeploymentArrays, reserved: bool) -> Array:
    """What is set aside for CUDA graphs before the cache is sized; nothing where the engine does not (``reserved``)."""
    largest = np.minimum(np.minimum(2.0 * layout.max_num_seqs, 512.0), layout.max_num_batched_tokens)
    graphs = 3.0 + np.minimum(largest, 248.0) / 8.0 + np.maximum(largest - 240.0, 0.0) / 16.0
    taken = GRAPH_GIB_PER_LAYER * model.num_hidden_layers / layout.pp * graphs / GRAPHS
    return np.asarray(np.where(reserved & (layout.graphs > 0), taken, 0.0))


TABLES_GIB = 0.045
"""Rotary tables and the like, counted with the weights: what every load on one H200 reported beyond the parameters."""


QUANTISED_GIB = 0.3
"""What vLLM 0.24 takes beyond all that where it quantises a 16-bit checkpoint to 8 bits as it loads it: 0.0 to 0.6 GiB in the
profiled pass of Llama-3.1-8B, Qwen2.5-14B and Llama-3.1-70B at 8192 and 16384 tokens; the middle, for what it is is unknown."""


def paged_memory(model: Model, cluster: Cluster, layout: DeploymentArrays, engine: str = "vllm") -> Memory:
    """Account for the memory of each of the n deployments as vLLM does; see ``Memory``.

    ``gpu_memory_utilization`` is a share of the device (vLLM, SGLang as we start it) or of what weights and activations
    leave (TensorRT-LLM, LMDeploy), as ``Engine.memory_rule`` of ``engine`` says.
    """
    of_free = find_engine(engine).memory_rule == "of_free"
    attention, dense, experts = layer_elements(model, layout)
    plain = plain_elements(model, layout)
    h, layers = float(model.hidden_size), float(model.num_hidden_layers)
    half = np.maximum(ACTIVATION_BYTES, layout.weight_bytes)
    vocabulary = np.ceil(model.vocab_size / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    table = vocabulary / layout.tp * h * half
    positions = model.learned_positions * h * half
    encoder = model.encoder_parameters * half / layout.tp
    final = model.final_norms * h * (2.0 if model.norm_bias else 1.0) * half
    final = final + vocabulary / layout.tp * half * model.head_bias
    device = cluster.gpu.memory_gib
    activations = activation_gib(model, layout)
    kept = reserves_graphs(find_engine(engine), model, cluster.gpu)
    outside = engine_gib(layout) + graph_gib(model, layout, kept)
    if engine == "vllm" and model.quantization is None:
        eight = (layout.weight_bytes >= 1.0) & (layout.weight_bytes < ACTIVATION_BYTES)
        outside = outside + np.where(eight, QUANTISED_GIB, 0.0)
    budget = device * layout.gpu_memory_utilization
    per_layer_kv = kv_numbers_per_token(model, layout) * layout.kv_bytes
    quantised = np.where(layout.weight_bytes < ACTIVATION_BYTES, 1.0, 0.0)

    groups = kv_groups(model)
    pooled = groups.size / layers

    worst: dict[str, Array] = {}
    for count, routed, has_embedding, has_head in _stages(model, layout.pp):
        inside = count * attention + (count - routed) * dense + routed * experts
        unquantised = count * plain[0] + (count - routed) * plain[1] + routed * plain[2]
        body = inside * layout.weight_bytes + quantised * unquantised * (ACTIVATION_BYTES - layout.weight_bytes)
        # A tied head shares the embedding's memory where both are on the same GPU.
        tables = np.where(
            (has_embedding > 0) & (has_head > 0) & model.tie_word_embeddings, 1.0, has_embedding + has_head
        )
        resident = (
            body * (1.0 - layout.offload) + tables * table + has_embedding * (positions + encoder) + has_head * final
        )
        buffers = np.where(layout.offload > 0, 2.0 * body / np.maximum(count, 1.0), 0.0)
        weights = (resident + buffers) / GIB + TABLES_GIB
        kv = budget - weights - activations - outside
        if of_free:
            kv = layout.gpu_memory_utilization * (device - weights - activations - outside)
        bytes_per_token = count * per_layer_kv
        pages = np.maximum(count * pooled, 1.0) * per_layer_kv * BLOCK
        blocks = np.where(count > 0, np.floor(np.maximum(kv, 0.0) * GIB / pages) - NULL_BLOCKS, np.inf)
        column = {"weights": weights, "kv": kv, "bytes": bytes_per_token, "blocks": blocks, "body": body}
        if not worst:
            worst = column
        else:
            less = (blocks < worst["blocks"]) | ((blocks == worst["blocks"]) & (weights > worst["weights"]))
            body_most = np.maximum(worst["body"], body)
            worst = {name: np.where(less, column[name], worst[name]) for name in column}
            worst["body"] = body_most
    blocks = worst["blocks"]
    tokens = np.floor(
        np.maximum(blocks, 0.0) / blocks_of_request(model, layout.max_model_len, layout) * layout.max_model_len
    )
    return Memory(
        weights_gib=worst["weights"],
        activations_gib=activations,
        engine_gib=outside,
        kv_gib=np.maximum(worst["kv"], 0.0),
        slack_gib=worst["kv"],
        reserved_gib=np.maximum(device - worst["weights"] - activations - outside - np.maximum(worst["kv"], 0.0), 0.0),
        kv_bytes_per_token=worst["bytes"],
        kv_capacity_tokens=tokens,
        kv_blocks=blocks,
        block_tokens=np.full_like(blocks, BLOCK),
        layer_weight_bytes=worst["body"],
        fits=blocks >= 1.0,
    )
