"""The operators of one forward pass on one GPU of a sharded transformer: products, attention, collectives and the rest.

Pure counting, exact for the shapes given; how long each takes is ``roofline``'s business. Tensor parallelism is
Megatron's (Shoeybi et al., arXiv 1909.08053): column then row slices, one all-reduce after each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from advisor.perf_model.context_parallel import added_kernels, exchanges
from advisor.perf_model.cost import (
    ALL_GATHER,
    ALL_REDUCE,
    EXPERT_EXCHANGE,
    EXPERTS_DOWN,
    EXPERTS_UP,
    LM_HEAD,
    ROUTER,
    SHARED_DOWN,
    SHARED_UP,
)
from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays
from advisor.perf_model.memory.weights import columns, rows
from advisor.perf_model.routing import uniform_routing
from catalog.mixers import Recurrence
from catalog.models.stack import stack
from catalog.parts import Dense, Experts
from catalog.schema import BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from advisor.perf_model.routing import Routing
    from catalog.mixers import Attention, LatentAttention, Matrix
    from catalog.schema import Model
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

PARALLEL_BLOCKS = {"falcon", "gpt_neox", "gptj", "phi"}
"""Attention and feed-forward side by side: one all-reduce a layer (GPT-J; Wang and Komatsuzaki, 2021)."""

HALF_BITS = 16
"""Bits from which on a format is no quantised one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """One forward pass of n deployments, per replica; every array has shape (n,)."""

    tokens: Array
    """Rows of the matrix products: prefill tokens and one per decoding sequence."""
    sequences: Array
    """Rows of the output head: sequences that get a token."""
    decodes: Array
    """Sequences that decode."""
    context: Array
    """Mean tokens a decoding sequence attends to in a full layer."""
    windowed_context: Array
    """The same in a sliding-window layer."""
    pairs: Array
    """Query-key pairs of the prefill tokens in a full layer, causal mask counted."""
    windowed_pairs: Array
    mixed_attention: float = 1.0
    """Factor on the time of decode attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A matrix product [m, k] x [k, n] that ``layers`` layers do; arrays have shape (number of deployments,)."""

    name: str
    m: Array
    k: float | Array
    n: float | Array
    layers: float
    weights: Array
    """Weights read, in elements: k*n, or those of all experts touched."""
    flops: Array
    kind: Literal["dense", "expert", "half"]
    """"half": kept in 16 bits whatever the weight format."""
    format: str = ""
    """The weights' format where it is not the deployment's, as in checkpoints of several formats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """Softmax attention of all layers, one kernel each: decode reads the cache, prefill computes pairs; shape (n,)."""

    kernels: float
    latent: bool
    """Whether some of it is multi-head latent attention."""
    read_bytes: Array
    """Bytes of the cache, of the indexer's too, that the decoding sequences read."""
    read_tile_bytes: Array
    """Bytes that they would read more if every context were a token longer."""
    decode_flops: Array
    prefill_flops: Array
    """The indexer's scores among them."""
    prefill_tile_flops: Array
    """Operations more if every prompt token attended to one more."""
    mixed: float = 1.0
    """Factor on the time of decode attention, as it is beside prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceWork:
    """Linear attention and state-space layers: a decoded token reads and writes its state, prefill computes in chunks."""

    kernels: float
    state_bytes: Array
    flops: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementwiseWork:
    """Norms, rotary embedding, activations and the like of all layers, and the small kernels that do them."""

    moved_bytes: Array
    kernels: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveWork:
    """``times`` equal collectives among ``group`` GPUs that stand ``stride`` apart; arrays have shape (n,)."""

    name: str
    op: str
    message_bytes: Array
    """Bytes of the whole tensor."""
    group: Array
    times: float
    stride: Array | float = 1.0


Operator = Product | AttentionWork | RecurrenceWork | ElementwiseWork | CollectiveWork


def operators(model: Model, layout: DeploymentArrays, step: ForwardPass) -> Iterator[Operator]:
    """Yield all that one GPU of the first tensor-parallel rank does in a pass, as if on one pipeline stage."""
    yield attention_work(model, layout, step)
    recurrences = [
        (count, part) for count, layer in stack(model).counts for part in layer.mixers if isinstance(part, Recurrence)
    ]
    if recurrences:
        yield RecurrenceWork(
            kernels=sum(count for count, _ in recurrences),
            state_bytes=step.decodes * sum(2.0 * count * part.state_bytes for count, part in recurrences) / layout.tp,
            flops=step.tokens * sum(count * part.token_flops for count, part in recurrences) / layout.tp,
        )
    yield from products(model, layout, step)
    yield ElementwiseWork(
        moved_bytes=elementwise_bytes(model, layout, step), kernels=_elementwise_kernels(model, layout)
    )
    yield from _collectives(model, layout, step)


def attention_work(model: Model, layout: DeploymentArrays, step: ForwardPass) -> AttentionWork:
    """Count what softmax attention reads and computes in all layers."""
    mixers = [(count, part) for count, layer in stack(model).counts for part in layer.mixers]
    softmax = [(count, part) for count, part in mixers if not isinstance(part, Recurrence)]
    return attention_of(softmax, layout, step)


def attention_of(
    mixers: Iterable[tuple[float, Attention | LatentAttention]], layout: DeploymentArrays, step: ForwardPass
) -> AttentionWork:
    """Count what attention of some kinds reads and computes, each with the number of layers that have it."""
    zero = np.zeros_like(step.tokens)
    read, read_tile, decode, prefill, prefill_tile = zero, zero, zero, zero, zero
    kernels, latent = 0.0, False
    prompts = step.tokens - step.decodes
    for count, part in mixers:
        kernels += count
        latent = latent or part.latent
        context, pairs = (step.windowed_context, step.windowed_pairs) if part.window else (step.context, step.pairs)
        if part.index:
            read = read + count * step.decodes * context * part.index_bytes / layout.dcp
            scored = 2.0 * part.index.heads * part.index.dim / part.index.pooled
            prefill = prefill + count * (step.decodes * context / layout.dcp + pairs) * scored
            context = np.minimum(context, part.index.top_k)
            pairs = np.minimum(pairs, prompts * part.index.top_k)
        token = count * step.decodes * _read_numbers(part, layout) * layout.kv_bytes
        read, read_tile = read + context * token / layout.dcp, read_tile + token
        decode = decode + count * step.decodes * context * part.pair_flops(absorbed=True) / layout.tp
        pair = count * part.pair_flops(absorbed=False) / layout.tp
        prefill, prefill_tile = prefill + pairs * pair, prefill_tile + prompts * pair
    return AttentionWork(
        kernels=kernels,
        latent=latent,
        read_bytes=read,
        read_tile_bytes=read_tile,
        decode_flops=decode,
        prefill_flops=prefill,
        prefill_tile_flops=prefill_tile,
        mixed=step.mixed_attention,
    )


def _read_numbers(part: Attention | LatentAttention, layout: DeploymentArrays) -> Array:
    """Return numbers of the cache that one decoding token reads on one GPU of each token it attends to, shape (n,)."""
    shared = sliced_numbers(part.read, layout.tp)
    if not layout.cache_by_heads.any():
        return shared
    return np.where(layout.cache_by_heads > 0, sliced_numbers(part.read_by_heads, layout.tp), shared)


def _layers(model: Model) -> float:
    """Count the layers that have a mixer and a feed-forward, those with one of them as half."""
    parts = sum(count * (bool(layer.mixers) + bool(layer.feed_forward)) for count, layer in stack(model).counts)
    return parts / 2.0


def _elementwise_kernels(model: Model, layout: DeploymentArrays) -> Array:
    layers = _layers(model)
    kernels: Array | float = layers * (KERNELS_PER_LAYER + KERNELS_PER_QK_NORM * model.qk_norm)
    kernels = kernels + model.moe_layers * KERNELS_PER_EXPERT_LAYER
    if np.any(layout.dcp > 1):
        kernels = kernels + added_kernels(model, layout)
    return kernels + np.where(layout.matrix_flops > layout.half_flops, layers * KERNELS_PER_QUANTISED_LAYER, 0.0)


def _collectives(model: Model, layout: DeploymentArrays, step: ForwardPass) -> Iterator[CollectiveWork]:
    """Yield the sums over the slices of a layer, the gathering of logits, and the exchange of tokens among replicas.

    Tokens go to the GPUs that hold their experts and back, where these are spread over several replicas: an all-gather before
    and a reduce-scatter after the experts, among the replicas (vLLM's default back end); others are ``expert_exchange``'s business.
    """
    message = step.tokens * model.hidden_size * ACTIVATION_BYTES
    per_layer = 1.0 if model.model_type in PARALLEL_BLOCKS else 2.0  # one after each part
    sums = _layers(model) * per_layer
    yield CollectiveWork(name=ALL_REDUCE, op="all_reduce", message_bytes=message, group=layout.tp, times=sums)
    logits = step.sequences * model.vocab_size * ACTIVATION_BYTES
    yield CollectiveWork(name=ALL_GATHER, op="all_gather", message_bytes=logits, group=layout.tp, times=1.0)
    if np.any(layout.dcp > 1):
        for name, op, size, group, times in exchanges(model, layout, step):
            yield CollectiveWork(name=name, op=op, message_bytes=size, group=group, times=times)
    gathers = (layout.ep > layout.tp) & (layout.exchange == 0)
    if model.moe_layers and np.any(gathers):
        replicas = np.where(gathers, layout.ep / layout.tp, 1.0)
        for op in ("all_gather", "reduce_scatter"):
            yield CollectiveWork(
                name=EXPERT_EXCHANGE,
                op=op,
                message_bytes=message * replicas,
                group=replicas,
                times=float(model.moe_layers),
                stride=layout.tp,
            )


def products(model: Model, layout: DeploymentArrays, step: ForwardPass) -> Iterator[Product]:
    """Yield every matrix product on one GPU of the first tensor-parallel rank, all layers, equal ones together."""
    h = float(model.hidden_size)
    merged: dict[tuple[str, str, str, int, int], tuple[Matrix, float]] = {}
    experts: dict[Experts, float] = {}
    for count, layer in stack(model).counts:
        named = [("attention", matrix) for part in layer.mixers for matrix in part.matrices(model.hidden_size)]
        if isinstance(layer.feed_forward, Dense):
            named += [("dense", matrix) for matrix in layer.feed_forward.matrices(model.hidden_size)]
        for part, matrix in named:
            key = (part, matrix.name, matrix.sliced, matrix.k, matrix.n + matrix.kv_n)
            merged[key] = (matrix, merged.get(key, (matrix, 0.0))[1] + count)
        if isinstance(layer.feed_forward, Experts):
            experts[layer.feed_forward] = experts.get(layer.feed_forward, 0.0) + count
    for (part, *_), (matrix, layers) in merged.items():
        yield matrix_product(model, part, matrix, layout.tp, step.tokens, layers)
    for layer_experts, layers in experts.items():
        yield from expert_products(model, layer_experts, layout, step.tokens, layers)
    head = model.part_format("head")
    narrow = bool(head) and BITS[head] < HALF_BITS
    yield Product(
        name=LM_HEAD,
        m=step.sequences,
        k=h,
        n=model.vocab_size / layout.tp,
        layers=1.0,
        weights=h * model.vocab_size / layout.tp,
        flops=2.0 * step.sequences * h * model.vocab_size / layout.tp,
        kind="dense" if narrow else "half",
        format=head if narrow else "",
    )


def matrix_product(model: Model, part: str, matrix: Matrix, tp: Array, tokens: Array, count: float) -> Product:
    """Return the product of ``tokens`` rows with a GPU's slice of ``matrix`` in ``count`` layers."""
    k, n = rows(matrix, tp), columns(matrix, tp)
    size = k * n + 0.0 * tokens
    stored = model.part_format(part)
    half = matrix.half or (bool(stored) and BITS[stored] >= HALF_BITS)
    return Product(
        name=matrix.name,
        m=tokens,
        k=k,
        n=n,
        layers=count,
        weights=size,
        flops=2.0 * tokens * size,
        kind="half" if half else "dense",
        format="" if half else stored,
    )


def expert_products(
    model: Model,
    experts: Experts,
    layout: DeploymentArrays,
    tokens: Array,
    count: float = 1.0,
    routing: Routing | None = None,
) -> Iterator[Product]:
    """Yield those of ``count`` layers with experts: the router, the experts that are touched, and the shared ones.

    ``routing``: where all tokens of the replicas that share experts go; None: they are drawn evenly.
    """
    hidden = model.hidden_size
    everything = float(hidden) * (experts.num_experts + experts.zero_experts)
    yield Product(
        name=ROUTER,
        m=tokens,
        k=float(hidden),
        n=everything / hidden,
        layers=count,
        weights=everything + 0.0 * tokens,
        flops=2.0 * tokens * everything,
        kind="half",
    )
    # Spread experts see the tokens of all the replicas that share them; sliced ones those of their own replica.
    spread = layout.ep > 1
    group = tokens * np.where(spread, np.maximum(layout.ep / layout.tp, 1.0), 1.0)
    routing = routing or uniform_routing(experts, group, layout.ep)
    touched, busiest = routing.touched, routing.busiest
    shards = layout.expert_shards
    rows_ = group * experts.num_experts_per_tok
    into, inner = float(experts.inputs(hidden)), float(experts.width)
    for name, k, n in ((EXPERTS_UP, into, float(experts.inner)), (EXPERTS_DOWN, inner, into)):
        yield Product(
            name=name,
            m=rows_ / touched,
            k=k,
            n=n,
            layers=count,
            weights=touched * k * n / shards,
            flops=2.0 * rows_ * k * n / shards * busiest,
            kind="expert",
            format=model.part_format("experts"),
        )
    beside = [*experts.latent_matrices(hidden)]
    if experts.shared:
        up, down = experts.shared.matrices(hidden)
        beside += [replace(up, name=SHARED_UP), replace(down, name=SHARED_DOWN)]
    for matrix in beside:
        yield matrix_product(model, "shared", matrix, layout.tp, tokens, count)


def sliced_numbers(numbers: tuple[float, float], tp: Array) -> Array:
    """Return numbers of a token on one GPU, shape (n,): ``numbers`` are those over all heads, and the least a GPU holds."""
    return np.maximum(numbers[0] / tp, numbers[1]) if numbers[0] else 0.0 * tp


def elementwise_bytes(model: Model, layout: DeploymentArrays, step: ForwardPass) -> Array:
    """Return bytes that norms, rotary embedding and activations move in all layers, each tensor read and written once."""
    h, tp = float(model.hidden_size), layout.tp
    parallel = np.where(layout.sequence_parallel > 0, tp, 1.0)
    moved = np.zeros_like(tp)
    for count, layer in stack(model).counts:
        one = 2.0 * layer.norms * 2.0 * h / parallel
        for part in layer.mixers:
            queries, keys = part.rotary
            one = one + 2.0 * (queries / tp + sliced_numbers(keys, tp))
        dense = layer.feed_forward
        if isinstance(dense, Experts):
            one = one + routed_bytes(dense, model.hidden_size, layout) / ACTIVATION_BYTES
            dense = dense.shared
        if isinstance(dense, Dense):
            one = one + (dense.inner + dense.width) / tp
        moved = moved + count * one
    return step.tokens * ACTIVATION_BYTES * moved


def routed_bytes(experts: Experts, hidden: int, layout: DeploymentArrays) -> Array:
    """Return bytes that one token's way through the experts of one layer moves beside the weights."""
    columns_ = (experts.inner + experts.width) / layout.tp + 2.0 * experts.inputs(hidden)
    return experts.num_experts_per_tok * ACTIVATION_BYTES * columns_


def causal_pairs(length: Array, window: float = 0.0) -> Array:
    """Count the query-key pairs of a causal sequence of ``length`` tokens, each seeing at most ``window`` (0: all)."""
    if not window:
        return length * (length + 1.0) / 2.0
    inside = np.minimum(length, window)
    return inside * (inside + 1.0) / 2.0 + (length - inside) * window
