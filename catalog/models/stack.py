"""The stack of layers of a model: as its reader gave it, or from the fields that describe a plain decoder."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from catalog.mixers import Attention, LatentAttention
from catalog.parts import Dense, Experts, FeedForward, Layer, Mixer, Stack, stack_of

if TYPE_CHECKING:
    from catalog.schema import Model


@lru_cache(maxsize=2048)
def stack(model: Model) -> Stack:
    """Return the layers of ``model``."""
    if model.stack is not None:
        return model.stack
    windowed = model.num_windowed_layers
    dense, experts = _dense(model), _experts(model)
    mixers = {kind: _mixer(model, windowed=kind) for kind in (True, False)}
    layers = []
    for number in range(model.num_hidden_layers):
        after = number + 1 - model.first_dense_layers
        routed = experts is not None and after > 0 and after % model.moe_layer_step == 0
        layers.append(
            Layer(
                mixer=mixers[number < windowed],
                feed_forward=experts if routed else dense,
                norms=model.norms_per_layer,
                norm_bias=model.norm_bias,
                extra=model.extra_parameters / model.num_hidden_layers,
            )
        )
    return stack_of(layers)


def _mixer(model: Model, *, windowed: bool) -> Mixer:
    window = model.sliding_window if windowed else 0
    if model.attention == "mla":
        return LatentAttention(
            heads=model.num_attention_heads,
            q_lora_rank=model.q_lora_rank,
            kv_lora_rank=model.kv_lora_rank,
            nope_dim=model.qk_nope_head_dim,
            rope_dim=model.qk_rope_head_dim,
            value_dim=model.v_head_dim,
            window=window,
            qkv_bias=model.qkv_bias,
            o_bias=model.o_bias,
        )
    return Attention(
        heads=model.num_attention_heads,
        kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        value_dim=model.value_dim,
        window=window,
        qkv_bias=model.qkv_bias,
        o_bias=model.o_bias,
        qk_norm=2 * model.head_dim * model.qk_norm,
    )


def _dense(model: Model) -> FeedForward:
    return Dense(width=model.intermediate_size, gated=model.gated_mlp, bias=model.mlp_bias)


def _experts(model: Model) -> Experts | None:
    if not model.num_experts:
        return None
    shared = model.shared_expert_intermediate_size
    return Experts(
        num_experts=model.num_experts,
        num_experts_per_tok=model.num_experts_per_tok,
        width=model.moe_intermediate_size,
        gated=model.gated_mlp,
        bias=model.expert_bias,
        shared=Dense(width=shared, gated=model.gated_mlp, bias=model.mlp_bias) if shared else None,
        shared_gate=model.shared_expert_gate,
    )
