"""A configuration read layer by layer, from the parts that its fields name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.mixers import Attention, LatentAttention, Recurrence
from catalog.models.feed_forward_fields import feed_forwards
from catalog.models.mixer_fields import HIDDEN, LAYERS, MOST_LAYERS, mixers
from catalog.models.special_stacks import compressed, layer_of, repeated, searched, shared_blocks, shortcut
from catalog.parts import Dense, Experts, Layer, Stack, stack_of

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.models.families import Family

POSITIONS = (
    "max_position_embeddings",
    "max_sequence_length",
    "n_positions",
    "model_max_length",
    "seq_length",
    "max_seq_len",
    "n_ctx",
)
WIDEST_TOKENS = 3_000_000
"""More rows than any vocabulary has."""

Values = dict[str, Any]


def read_by_parts(c: Fields, family: Family) -> Values:
    """Return fields of ``Model`` for one configuration.

    Raises:
        InputError: a part is missing or contradicts another; the message names it.

    """
    hidden = c.size(*HIDDEN)
    number = _layers(c)
    if c.is_list("block_configs"):
        layers = searched(c, hidden, number)
    elif c.is_list("compress_ratios") or c.has("compress_rates"):
        layers = compressed(c, number, family)
    elif c.has("zero_expert_num") and c.has("expert_ffn_hidden_size"):
        layers = shortcut(c, number, family)
    else:
        pairs = mixers(c, family.mixer, hidden=hidden, layers=number)
        parts = feed_forwards(c, family.feed_forward, layers=number)
        layers = [
            layer_of(family, mixer, part, beside=beside) for (mixer, beside), part in zip(pairs, parts, strict=True)
        ]
    layers = [_with_extras(c, family, layer, hidden, number) for layer in layers]
    if family.mixer.beside_embeddings:
        layers = shared_blocks(c, layers, hidden)
    layers = repeated(c, layers)
    stack = stack_of(layers)
    return summary(stack) | {
        "hidden_size": hidden,
        "num_hidden_layers": len(layers),
        "vocab_size": c.size("vocab_size", "padded_vocab_size", most=WIDEST_TOKENS),
        "max_position_embeddings": c.size(*POSITIONS, default=family.positions),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=family.tied),
        "head_bias": c.flag("lm_head_bias", default=False),
        "norm_bias": family.norm_bias,
        "norms_per_layer": family.norms,
        "table_parameters": _tables(c, len(layers)),
        "stack": stack,
    }


def _layers(c: Fields) -> int:
    for name in ("layers_block_type", "layer_types"):
        if not any(c.has(spelling) for spelling in LAYERS) and c.is_list(name):
            return c.length(name, most=MOST_LAYERS)
    return c.size(*LAYERS, most=MOST_LAYERS)


def _with_extras(c: Fields, family: Family, layer: Layer, hidden: int, layers: int) -> Layer:
    """Add what stands beside the parts: hyper-connections (arXiv 2512.24880) and a layer's own embeddings (Gemma 3n)."""
    extra = 0
    streams = c.whole("hc_mult", default=0, most=100)
    if streams > 1:
        extra += 2 * (2 + streams) * streams * (streams * hidden + 1)
    if own := c.whole("hidden_size_per_layer_input", default=0):
        extra += 3 * hidden * own + hidden
    if rank := c.whole("laurel_rank", default=0):
        extra += 2 * hidden * rank + hidden
    if inputs := c.whole("altup_num_inputs", default=0, most=100):
        extra += inputs**2 + inputs**3 + inputs * hidden + hidden + 2 * (inputs - 1) * hidden * hidden // layers
    if family.routed_attention and isinstance(layer.mixer, Attention) and isinstance(layer.feed_forward, Experts):
        # queries and outputs of the experts that a token is not routed to (JetMoE, arXiv 2404.07413)
        idle = layer.feed_forward.num_experts / layer.feed_forward.num_experts_per_tok - 1.0
        extra += round(2 * idle * hidden * layer.mixer.heads * layer.mixer.head_dim)
    extra += round(family.extra * hidden * hidden)
    return replace(layer, extra=float(extra)) if extra else layer


def _tables(c: Fields, layers: int) -> int:
    """Count the embeddings that layers look up for themselves, and the projection of the hidden state to them."""
    own = c.whole("hidden_size_per_layer_input", default=0)
    return c.size("vocab_size_per_layer_input", default=c.size("vocab_size")) * layers * own if own else 0


def predictor_parameters(c: Fields, stack: Stack, hidden: int) -> int:
    """Count heads that predict several tokens: each a projection of two hidden states, norms and a last layer."""
    count = c.whole("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", default=0, null=0, most=100)
    last = stack.kinds[stack.pattern[-1]]
    layer = last.mixer_elements(hidden) + last.dense_elements(hidden) + last.routed_elements(hidden)
    return round(count * (2 * hidden * hidden + 3 * hidden + layer))


def summary(stack: Stack) -> Values:
    """Describe a stack by the fields of a plain decoder, as its first parts of each kind have them."""
    parts = [part for layer in stack.kinds for part in layer.mixers]
    blocks = [layer.feed_forward for layer in stack.kinds]
    values: Values = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 1, "intermediate_size": 1}
    full = [part for part in parts if not isinstance(part, Recurrence)]
    if latent := next((part for part in full if isinstance(part, LatentAttention)), None):
        values |= {
            "attention": "mla",
            "num_attention_heads": latent.heads,
            "num_key_value_heads": latent.heads,
            "q_lora_rank": latent.q_lora_rank,
            "kv_lora_rank": latent.kv_lora_rank,
            "qk_nope_head_dim": latent.nope_dim,
            "qk_rope_head_dim": latent.rope_dim,
            "v_head_dim": latent.value_dim,
            "head_dim": latent.width,
            "qkv_bias": latent.qkv_bias,
            "o_bias": latent.o_bias,
        }
    elif plain := next((part for part in full if isinstance(part, Attention)), None):
        values |= {
            "num_attention_heads": plain.heads,
            "num_key_value_heads": plain.kv_heads,
            "head_dim": plain.head_dim,
            "v_head_dim": plain.value_dim if plain.value_dim != plain.head_dim else 0,
            "qkv_bias": plain.qkv_bias,
            "o_bias": plain.o_bias,
            "qk_norm": bool(plain.qk_norm),
        }
    if window := max((part.window for part in parts), default=0):
        layers = sum(count for count, layer in stack.counts if any(part.window for part in layer.mixers))
        values |= {"sliding_window": window, "num_windowed_layers": layers}
    dense = next((part for part in blocks if isinstance(part, Dense)), None)
    routed = next((part for part in blocks if isinstance(part, Experts)), None)
    if routed:
        values |= {
            "num_experts": routed.num_experts,
            "num_experts_per_tok": routed.num_experts_per_tok,
            "moe_intermediate_size": routed.width,
            "intermediate_size": routed.width,
            "gated_mlp": routed.gated,
            "shared_expert_intermediate_size": routed.shared.width if routed.shared else 0,
            "shared_expert_gate": routed.shared_gate,
        }
    if dense:
        values |= {"intermediate_size": dense.width, "gated_mlp": dense.gated, "mlp_bias": dense.bias}
    return values
