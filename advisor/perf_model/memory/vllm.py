"""What a deployment keeps in each GPU's memory, and how many tokens of KV cache are left, as vLLM accounts for it.

After v1/worker/gpu_worker.py, ``determine_available_memory``: the engine may use ``gpu_memory_utilization`` of the
device; what weights, the activation peak of a profiling pass at the token budget, and memory outside torch do not take
becomes KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays
from advisor.perf_model.expert_exchange import buffer_gib
from advisor.perf_model.image_encoding import image_gib
from advisor.perf_model.memory.kv_capacity import BLOCK, blocks_of_request, cache_pages, layer_cache_bytes
from advisor.perf_model.memory.parts import Memory, engine_gib
from advisor.perf_model.memory.recent_release import (
    BATCHES,
    graph_layers,
    is_recent,
    outside_gib,
    pass_bytes,
    weight_factor,
)
from advisor.perf_model.memory.weights import expert_padding, layer_bytes, outside_bytes
from catalog.engines import (
    find_engine,
    kv_groups,
    padded_vocab,
    pipeline_layers,
    reserves_graphs,
    static_gib,
    static_share,
)
from catalog.mixers import Recurrence
from catalog.models.rotary import rotary_numbers
from catalog.models.sizes import weight_share
from catalog.models.stack import stack
from catalog.parts import Experts
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.engines import Engine
    from catalog.schema import Cluster, Model
    from catalog.units import Array

NULL_BLOCKS = 1.0
"""Blocks that are never used (v1/core/block_pool.py)."""
MOST_BLOCKS = 1e9
"""Of a model whose layers cache nothing, for which memory holds any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """Pipeline stages that can be the fullest of each deployment; arrays have shape (n,)."""

    layers: list[Array]
    """Layers of the stage, by kind."""
    has_embedding: Array
    has_head: Array


def _stages(model: Model, pp: Array) -> list[Stages]:
    """List every composition that a stage has for some of the deployments, by vLLM's split (``pipeline_layers``).

    Deployments with fewer compositions have their first stage several times. With one stage it is first and last at once.
    """
    degrees, which = np.unique(pp, return_inverse=True)
    layers = stack(model)
    kinds = len(layers.kinds)
    compositions: list[list[tuple[int, ...]]] = []
    for degree in map(int, degrees):
        ends = np.cumsum([0, *pipeline_layers(model.num_hidden_layers, degree)])
        different: dict[tuple[int, ...], None] = {}
        for stage in range(degree):
            counts = np.bincount(layers.pattern[ends[stage] : ends[stage + 1]], minlength=kinds)
            different[(*map(int, counts), int(stage == 0), int(stage == degree - 1))] = None
        compositions.append(list(different))
    most = max(map(len, compositions))
    table = np.array(
        [[*composition, *composition[:1] * (most - len(composition))] for composition in compositions], dtype=float
    )
    by_row = table[which.reshape(np.shape(pp))]
    return [
        Stages(
            layers=[by_row[:, i, kind] for kind in range(kinds)],
            has_embedding=by_row[:, i, kinds],
            has_head=by_row[:, i, kinds + 1],
        )
        for i in range(most)
    ]


SAMPLER_BYTES = 16.0
"""Bytes per logit at the sampler's peak: 16-bit logits and the float32 copies that top-k and top-p make of them. Each GPU
of a tensor-parallel group holds its slice: Llama-3.1-8B at TP4 reported less than whole copies would take."""


def activation_gib(model: Model, layout: DeploymentArrays, engine: str = "vllm") -> Array:
    """Return peak of the pass that vLLM profiles: ``max_num_batched_tokens`` tokens, then a sampler of ``max_num_seqs`` rows.

    A dense layer holds three hidden states, the gate and up product, and the activated half; an expert layer the rows of
    its ``num_experts_per_tok`` copies of each token. The sampler runs after the layers, so the larger of the two counts.
    Which tensors live at once was read off vLLM 0.24's own report (``catalog/data/memory``): within 0.1 GiB of every load.
    """
    h, tokens, tp = float(model.hidden_size), layout.max_num_batched_tokens, layout.tp
    width = ACTIVATION_BYTES * np.where(layout.weight_bytes > 2.0, 2.0, 1.0)
    block = np.zeros_like(tp)
    for layer in stack(model).kinds:
        part, shared = layer.feed_forward, 0.0 * tp
        if isinstance(part, Experts):
            inner = part.width / np.where(layout.ep > 1, 1.0, tp)
            into = float(part.inputs(model.hidden_size))
            copies = np.maximum(part.inner / part.width * inner, into) + inner + 3.0 * into
            if part.shared:
                shared = (part.shared.inner + part.shared.width) / tp
            block = np.maximum(block, part.num_experts_per_tok * copies + shared)
        elif part is not None:
            block = np.maximum(block, 3.0 * h + (part.inner + part.width) / tp)
        for mixer in layer.mixers:
            if isinstance(mixer, Recurrence):
                block = np.maximum(block, 3.0 * h + (mixer.into + mixer.out) / tp)
    rows = np.minimum(layout.max_num_seqs, tokens)
    sampler = rows * model.vocab_size * SAMPLER_BYTES / tp + 1.5 * tokens * h * width
    layers = tokens * width * block
    recent = is_recent(layout, engine)
    if recent.any():
        layers = np.where(recent, pass_bytes(model, layout), layers)
    return np.asarray(np.maximum(layers, sampler) / GIB)


GRAPH_GIB_PER_LAYER = 0.0132
"""Memory that vLLM 0.24 sets aside for 51 CUDA graphs, per layer: 0.42 GiB for 32 layers, 0.64 for 48, 0.74 to 0.90 for
64 (Mixtral-8x7B, Qwen3-30B-A3B, Qwen2.5-32B on H200)."""
GRAPHS = 51.0


def graph_gib(layers: float, layout: DeploymentArrays, reserved: bool) -> Array:
    """Return what is set aside for CUDA graphs of so many layers before the cache is sized; nothing where the engine does not
    (``reserved``).
    """
    largest = np.minimum(np.minimum(2.0 * layout.max_num_seqs, 512.0), layout.max_num_batched_tokens)
    graphs = 3.0 + np.minimum(largest, 248.0) / 8.0 + np.maximum(largest - 240.0, 0.0) / 16.0
    taken = GRAPH_GIB_PER_LAYER * layers / layout.pp * graphs / GRAPHS
    return np.asarray(np.where(reserved & (layout.graphs > 0), taken, 0.0))


TABLES_GIB = 0.025
"""What every load on one H200 reported beyond parameters and rotary tables, counted with the weights."""


def _total(counts: list[Array], values: Sequence[Array | float]) -> Array:
    """Sum the ``values`` of kinds over the layers of a stage, shape (n,)."""
    return sum((count * value for count, value in zip(counts, values, strict=True)), start=np.zeros_like(counts[0]))


def paged_memory(model: Model, cluster: Cluster, layout: DeploymentArrays, engine: str = "vllm") -> Memory:
    """Account for the memory of each of the n deployments as vLLM does; see ``Memory``.

    ``gpu_memory_utilization`` is a share of the device (vLLM) or of what weights and activations leave (TensorRT-LLM,
    LMDeploy); SGLang's weights and cache take a share that it derives from what it keeps free, as ``Engine.memory_rule`` of ``engine`` says.
    """
    facts = find_engine(engine)
    kinds = stack(model).kinds
    padding = expert_padding(model, layout, cluster.gpu, facts)
    weights_by_kind = [layer_bytes(model, kind, layout, padding) for kind in kinds]
    cache_by_kind = [
        sum(layer_cache_bytes(part, layout) for part in kind.mixers) / layout.dcp + 0.0 * layout.tp for kind in kinds
    ]
    cached_by_kind = [sum(bool(part.cached[0] or part.state_bytes) for part in kind.mixers) for kind in kinds]
    recent = is_recent(layout, facts.name)
    stated = weight_share(model) * np.where(recent, weight_factor(model, layout), 1.0)
    chunks = np.where(recent, BATCHES, 1.0)
    device = cluster.gpu.memory_gib
    rotary = rotary_numbers(model) * ACTIVATION_BYTES / GIB
    activations = activation_gib(model, layout, facts.name)
    if model.images is not None:
        encoding, encoded = image_gib(model, layout)
        activations = np.maximum(activations + encoded, encoding)
    outside = _outside_gib(facts, model, cluster, layout)
    groups, pages = kv_groups(model), cache_pages(model, layout)
    pooled = groups.size / max(sum(count * cached_by_kind[i] for i, (count, _) in enumerate(stack(model).counts)), 1)

    worst: dict[str, Array] = {}
    for stage in _stages(model, layout.pp):
        count = np.sum(stage.layers, axis=0)
        body = _total(stage.layers, weights_by_kind)
        resident = body * (1.0 - layout.offload) + _beside_layers(facts, model, layout, stage)
        buffers = np.where(layout.offload > 0, 2.0 * body / np.maximum(count, 1.0), 0.0)
        weights = stated * (resident + buffers) / GIB + TABLES_GIB + rotary
        kv = _kv_gib(facts, model, cluster, layout, weights, activations + outside)
        bytes_per_token = _total(stage.layers, cache_by_kind)
        cached = _total(stage.layers, cached_by_kind)
        pool = np.maximum(cached * pooled, 1.0) * np.maximum(pages.page_bytes, 1.0)
        blocks = np.where(cached > 0, np.floor(np.maximum(kv, 0.0) * GIB / pool) - NULL_BLOCKS, np.inf)
        column = {"weights": weights, "kv": kv, "bytes": bytes_per_token, "blocks": blocks, "body": stated * body}
        if not worst:
            worst = column
        else:
            less = (blocks < worst["blocks"]) | ((blocks == worst["blocks"]) & (weights > worst["weights"]))
            body_most = np.maximum(worst["body"], body)
            worst = {name: np.where(less, column[name], worst[name]) for name in column}
            worst["body"] = body_most
    blocks = np.minimum(worst["blocks"], MOST_BLOCKS)
    taken = np.maximum(blocks_of_request(model, layout.max_model_len, layout, chunks), 1.0)
    tokens = np.floor(np.maximum(blocks, 0.0) / taken * layout.max_model_len)
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
        block_tokens=np.where(pages.full_tokens > 1, pages.full_tokens, BLOCK),
        window_chunks=chunks,
        layer_weight_bytes=worst["body"],
        fits=blocks >= 1.0,
    )


def _outside_gib(facts: Engine, model: Model, cluster: Cluster, layout: DeploymentArrays) -> Array:
    """Return what the engine takes beside weights, activations and cache, shape (n,)."""
    reserved = reserves_graphs(facts, model, cluster.gpu)
    outside = engine_gib(layout) + graph_gib(model.num_hidden_layers, layout, reserved)
    recent = is_recent(layout, facts.name)
    outside = np.where(
        recent, outside_gib(model, layout) + graph_gib(graph_layers(model), layout, reserved=True), outside
    )
    if np.any(layout.exchange > 0):
        outside = outside + buffer_gib(model, layout, cluster)
    if model.quantization is not None:
        return outside
    eight = (layout.weight_bytes >= 1.0) & (layout.weight_bytes < ACTIVATION_BYTES)
    return np.asarray(outside + np.where(eight, facts.memory.online_quantisation_gib, 0.0))


def _beside_layers(facts: Engine, model: Model, layout: DeploymentArrays, stage: Stages) -> Array:
    """Return the bytes of a stage's weights beside its layers: embeddings, head, positions, encoders, last norms, shape (n,)."""
    h, half = float(model.hidden_size), np.maximum(ACTIVATION_BYTES, layout.weight_bytes)
    vocabulary = float(padded_vocab(model, facts)) / layout.tp
    positions = model.learned_positions * h * half
    encoder = (model.encoder_parameters + model.table_parameters) * half / layout.tp
    final = model.final_norms * h * (2.0 if model.norm_bias else 1.0) * half + vocabulary * half * model.head_bias
    both = (stage.has_embedding > 0) & (stage.has_head > 0)
    # A tied head shares the embedding's memory where both are on the same GPU.
    own = np.where(both & model.tie_word_embeddings, 0.0, stage.has_head)
    table = vocabulary * h
    beside = table * (
        stage.has_embedding * outside_bytes(model, "embedding", half) + own * outside_bytes(model, "head", half)
    )
    beside = beside + stage.has_embedding * (positions + encoder) + stage.has_head * final
    return np.asarray(beside)


def _kv_gib(
    facts: Engine, model: Model, cluster: Cluster, layout: DeploymentArrays, weights: Array, rest: Array
) -> Array:
    """Return what ``Engine.memory_rule`` leaves for the cache beside ``weights`` and the ``rest``, shape (n,), below 0 where
    memory is short.
    """
    device, share = cluster.gpu.memory_gib, layout.memory_share(facts)
    if facts.memory_rule == "of_free":
        return share * (device - weights - rest)
    if facts.memory_rule == "of_total":
        return device * share - weights - rest
    static = static_share(
        facts,
        model,
        cluster.gpu,
        utilization=share,
        tp=layout.tp,
        pp=layout.pp,
        tokens=layout.max_num_batched_tokens,
        seqs=layout.max_num_seqs,
        graphs=layout.graphs,
    )
    return np.asarray(np.minimum(static_gib(static, device, layout.tp), device - rest) - weights)
