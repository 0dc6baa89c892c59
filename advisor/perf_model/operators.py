"""What one GPU computes in one layer of a sharded transformer: matrix products, attention, and the rest.

Pure counting, exact for the shapes given; how long it takes is ``roofline``'s business. Tensor parallelism is
Megatron's (Shoeybi et al., arXiv 1909.08053): column then row slices, one all-reduce after each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, DeploymentArrays

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalog.schema import Model
    from catalog.units import Array


EXPERTS_ONLY = frozenset({"mxfp4"})
"""Checkpoint formats of which only the experts are quantised (gpt-oss model card, section 2.1; vLLM's mxfp4.py)."""


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


def products(model: Model, layout: DeploymentArrays, step: ForwardPass) -> Iterator[Product]:
    """Every matrix product on one GPU of the first tensor-parallel rank, all layers."""
    h, layers = float(model.hidden_size), float(model.num_hidden_layers)
    heads = model.num_attention_heads / layout.tp
    t = step.tokens

    def product(
        name: str, k: float | Array, n: float | Array, count: float, kind: Literal["dense", "half"] = "dense"
    ) -> Product:
        size = np.asarray(k * n) + 0.0 * t
        return Product(name=name, m=t, k=k, n=n, layers=count, weights=size, flops=2.0 * t * size, kind=kind)

    def projection(name: str, k: float | Array, n: float | Array) -> Product:
        return product(name, k, n, layers, "half" if model.quantization in EXPERTS_ONLY else "dense")

    if model.attention == "mla":
        width = model.qk_nope_head_dim + model.qk_rope_head_dim
        if model.q_lora_rank:
            yield projection("q_a", h, float(model.q_lora_rank))
            yield projection("q_b", float(model.q_lora_rank), heads * width)
        else:
            yield projection("q", h, heads * width)
        yield projection("kv_a", h, float(model.kv_lora_rank + model.qk_rope_head_dim))
        yield projection("kv_b", float(model.kv_lora_rank), heads * (model.qk_nope_head_dim + model.v_head_dim))
        yield projection("o", heads * model.v_head_dim, h)
    else:
        keys_and_values = kv_heads(model, layout) * (model.head_dim + model.value_dim)
        yield projection("qkv", h, heads * model.head_dim + keys_and_values)
        yield projection("o", heads * model.value_dim, h)

    with_experts = float(model.moe_layers)
    columns = 2.0 if model.gated_mlp else 1.0
    if layers > with_experts:
        inner = model.intermediate_size / layout.tp
        yield product("gate_up" if model.gated_mlp else "up", h, columns * inner, layers - with_experts)
        yield product("down", inner, h, layers - with_experts)
    if with_experts:
        yield from expert_products(model, layout, t)
    yield Product(
        name="lm_head", m=step.sequences, k=h, n=model.vocab_size / layout.tp, layers=1.0,
        weights=h * model.vocab_size / layout.tp, flops=2.0 * step.sequences * h * model.vocab_size / layout.tp,
        kind="half",
    )  # fmt: skip


def expert_products(model: Model, layout: DeploymentArrays, tokens: Array) -> Iterator[Product]:
    """Those of the layers with experts: the router, the experts that are touched, and the shared ones."""
    columns = 2.0 if model.gated_mlp else 1.0
    h, count = float(model.hidden_size), float(model.moe_layers)
    everything = h * model.num_experts
    yield Product(
        name="router", m=tokens, k=h, n=float(model.num_experts), layers=count, weights=everything + 0.0 * tokens,
        flops=2.0 * tokens * everything, kind="half",
    )  # fmt: skip
    # Spread experts see the tokens of all the replicas that share them; sliced ones those of their own replica.
    spread = layout.ep > 1
    group = tokens * np.where(spread, np.maximum(layout.ep / layout.tp, 1.0), 1.0)
    touched = experts_touched(model, group)
    shards = layout.expert_shards
    busiest = np.where(spread, expert_imbalance(model, group, layout.ep), 1.0)
    rows = group * model.num_experts_per_tok
    inner = float(model.moe_intermediate_size)
    for name, k, n in (("experts_up", h, columns * inner), ("experts_down", inner, h)):
        yield Product(
            name=name, m=rows / touched, k=k, n=n, layers=count, weights=touched * k * n / shards,
            flops=2.0 * rows * k * n / shards * busiest, kind="expert",
        )  # fmt: skip
    if model.shared_expert_intermediate_size:
        shared = model.shared_expert_intermediate_size / layout.tp
        for name, k_, n_ in (("shared_up", h, columns * shared), ("shared_down", shared, h)):
            size = np.asarray(k_ * n_) + 0.0 * tokens
            yield Product(
                name=name, m=tokens, k=k_, n=n_, layers=count, weights=size, flops=2.0 * tokens * size, kind="dense"
            )


def kv_heads(model: Model, layout: DeploymentArrays) -> Array:
    """KV heads on one GPU: divided by tp, and copied where tp exceeds them."""
    return np.maximum(model.num_key_value_heads / layout.tp, 1.0)


def experts_touched(model: Model, tokens: Array) -> Array:
    """Distinct experts that ``tokens`` tokens are routed to, if routing is uniform: N(1-(1-k/N)^B)."""
    share = model.num_experts_per_tok / model.num_experts
    untouched: Array = np.expm1(np.maximum(tokens, 1.0) * np.log1p(-min(share, 1.0 - 1e-12)))
    return model.num_experts * -untouched


def expert_imbalance(model: Model, tokens: Array, ep: Array) -> Array:
    """Load of the busiest of ``ep`` GPUs over the mean load.

    The largest of ep bins after m*ep balls: m + sqrt(2 m ln ep) (Raab and Steger, 1998, the case of many balls).
    """
    mean = np.maximum(tokens, 1.0) * model.num_experts_per_tok / ep
    return np.minimum(1.0 + np.sqrt(2.0 * np.log(np.maximum(ep, 1.0)) / mean), ep)


def kv_numbers_per_token(model: Model, layout: DeploymentArrays) -> Array:
    """Numbers one token adds to the KV cache of one layer on one GPU. MLA keeps one latent, on every GPU."""
    if model.attention == "mla":
        return np.full(len(layout), float(model.kv_lora_rank + model.qk_rope_head_dim))
    return kv_heads(model, layout) * float(model.head_dim + model.value_dim)


def pair_flops(model: Model, layout: DeploymentArrays, *, absorbed: bool) -> Array:
    """FLOPs of one query-key pair in one layer on one GPU: the score and the weighted value.

    ``absorbed``: MLA decode, which works on the latent (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
    """
    heads = model.num_attention_heads / layout.tp
    if model.attention == "mla" and absorbed:
        return 2.0 * heads * (2.0 * model.kv_lora_rank + model.qk_rope_head_dim)
    return 2.0 * heads * (model.head_dim + model.value_dim)


def elementwise_bytes(model: Model, layout: DeploymentArrays, step: ForwardPass) -> Array:
    """Bytes that norms, rotary embedding and activations move in all layers, each tensor read and written once."""
    h, layers = float(model.hidden_size), float(model.num_hidden_layers)
    norms = 2.0 * model.norms_per_layer * 2.0 * h / np.where(layout.sequence_parallel > 0, layout.tp, 1.0)
    heads = model.num_attention_heads / layout.tp
    rotary = 2.0 * (heads + kv_heads(model, layout)) * model.head_dim
    gate = 3.0 if model.gated_mlp else 2.0
    dense = (layers - model.moe_layers) / layers * gate * model.intermediate_size / layout.tp
    shared = model.moe_layers / layers * gate * model.shared_expert_intermediate_size / layout.tp
    plain = layers * step.tokens * ACTIVATION_BYTES * (norms + rotary + dense + shared)
    return plain + model.moe_layers * step.tokens * routed_bytes(model, layout)


def routed_bytes(model: Model, layout: DeploymentArrays) -> Array:
    """Bytes that one token's way through the experts of one layer moves beside the weights."""
    gate = 3.0 if model.gated_mlp else 2.0
    columns = gate * model.moe_intermediate_size / layout.tp + 2.0 * model.hidden_size
    return model.num_experts_per_tok * ACTIVATION_BYTES * columns


def causal_pairs(length: Array, window: float = 0.0) -> Array:
    """Query-key pairs of a causal sequence of ``length`` tokens, each seeing at most ``window`` (0: all)."""
    if not window:
        return length * (length + 1.0) / 2.0
    inside = np.minimum(length, window)
    return inside * (inside + 1.0) / 2.0 + (length - inside) * window
