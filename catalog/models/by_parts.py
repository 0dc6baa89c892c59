"""A configuration read layer by layer, from the parts that its fields name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.mixers import Attention, LatentAttention, Recurrence, SparseIndex
from catalog.models.feed_forward_fields import feed_forwards
from catalog.models.mixer_fields import HEADS, HIDDEN, LAYERS, MOST_LAYERS, MixerTraits, latent_attention, mixers
from catalog.parts import Dense, Experts, Layer, Stack, stack_of

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.models.families import Family
    from catalog.parts import FeedForward, Mixer

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
        layers = _searched(c, hidden, number)
    elif c.is_list("compress_ratios"):
        layers = _compressed(c, number, family)
    elif c.has("zero_expert_num") and c.has("expert_ffn_hidden_size"):
        layers = _shortcut(c, number, family)
    else:
        pairs = mixers(c, family.mixer, hidden=hidden, layers=number)
        parts = feed_forwards(c, family.feed_forward, layers=number)
        layers = [
            _layer(family, mixer, part, beside=beside) for (mixer, beside), part in zip(pairs, parts, strict=True)
        ]
    stack = stack_of([_with_extras(c, layer, hidden) for layer in layers])
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
        "mtp_parameters": _predictors(c, stack, hidden),
        "stack": stack,
    }


def _layers(c: Fields) -> int:
    for name in ("layers_block_type", "layer_types"):
        if not any(c.has(spelling) for spelling in LAYERS) and c.is_list(name):
            return c.length(name, most=MOST_LAYERS)
    return c.size(*LAYERS, most=MOST_LAYERS)


def _layer(family: Family, mixer: Mixer | None, part: FeedForward | None, *, beside: Recurrence | None = None) -> Layer:
    both = (mixer is not None) + (part is not None)
    norms = family.norms * both // 2 if both == 1 else family.norms
    norms = max(norms, 1) if family.norms else 0
    norms += family.expert_norms * isinstance(part, Experts)
    return Layer(mixer=mixer, feed_forward=part, beside=beside, norms=norms, norm_bias=family.norm_bias)


def _with_extras(c: Fields, layer: Layer, hidden: int) -> Layer:
    """Add what stands beside the parts: hyper-connections (arXiv 2512.24880) and a layer's own embeddings (Gemma 3n)."""
    extra = 0
    streams = c.whole("hc_mult", default=0, most=100)
    if streams > 1:
        extra += 2 * (2 + streams) * streams * (streams * hidden + 1)
    if own := c.whole("hidden_size_per_layer_input", default=0):
        extra += 2 * hidden * own + hidden
    if rank := c.whole("laurel_rank", default=0):
        extra += 2 * hidden * rank + hidden
    if inputs := c.whole("altup_num_inputs", default=0, most=100):
        extra += inputs**2 + inputs**3 + inputs * hidden + hidden
    return replace(layer, extra=float(extra)) if extra else layer


def _tables(c: Fields, layers: int) -> int:
    """Count the embeddings that layers look up for themselves, and the projection of the hidden state to them."""
    own = c.whole("hidden_size_per_layer_input", default=0)
    return c.size("vocab_size_per_layer_input", default=c.size("vocab_size")) * layers * own if own else 0


def _predictors(c: Fields, stack: Stack, hidden: int) -> int:
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


def _searched(c: Fields, hidden: int, number: int) -> list[Layer]:
    """Read layers whose parts a search chose (Nemotron-NAS, arXiv 2411.19146): some attend to nothing, some are narrower."""
    heads, layers = c.size(*HEADS), []
    for block in c.parts("block_configs", number):
        attention, feed_forward = block.part("attention"), block.part("ffn")
        mixer: Mixer | None = None
        if attention.has("n_heads_in_group"):
            kv = max(heads // attention.size("n_heads_in_group"), 1)
            width = hidden // heads
            mixer = Attention(heads=heads, kv_heads=kv, head_dim=width, value_dim=width)
        part = None
        if feed_forward.has("ffn_mult"):
            width = int(2.0 * feed_forward.number("ffn_mult") * hidden / 3.0)
            part = Dense(width=-(-width // 256) * 256)
        norms = (mixer is not None) + (part is not None)
        layers.append(Layer(mixer=mixer, feed_forward=part, norms=norms))
    return layers


def _compressed(c: Fields, number: int, family: Family) -> list[Layer]:
    """Read DeepSeek-V4's attention: a window of latents, and beside it, where layers compress, one latent for many tokens.

    Layers that compress by a small factor choose among their latents with an index.
    """
    ratios = (c.wholes("compress_ratios") or [])[:number]
    if len(ratios) < number:
        raise c.error(f"compress_ratios has {len(ratios)} numbers; it must have {number}, one a layer")
    parts = feed_forwards(c, family.feed_forward, layers=number)
    sources = set(c.wholes("kv_source_layer_ids") or range(number))
    scored = set(c.wholes("index_source_layer_ids") or range(number))
    rope, width = c.whole("qk_rope_head_dim", default=64), c.size("head_dim")
    mixers = []
    for layer, (ratio, part) in enumerate(zip(ratios, parts, strict=True)):
        index = None
        if 1 < ratio < 64 and layer in scored and c.has("index_topk"):
            index = SparseIndex(
                heads=c.size("index_n_heads"), dim=c.size("index_head_dim"), top_k=c.size("index_topk"), pooled=ratio
            )
        mixer = LatentAttention(
            heads=c.size(*HEADS),
            q_lora_rank=c.size("q_lora_rank"),
            kv_lora_rank=width - rope,
            nope_dim=width - rope,
            rope_dim=rope,
            value_dim=width,
            window=0 if ratio else c.size("sliding_window"),
            o_lora_rank=c.whole("o_lora_rank", default=0),
            o_groups=c.size("o_groups", default=1),
            shares_value=True,
            compress=max(ratio, 1),
            shares_cache=bool(ratio) and layer not in sources,
            index=index,
        )
        mixers.append(_layer(family, mixer, part))
    return mixers


def _shortcut(c: Fields, number: int, family: Family) -> list[Layer]:
    """Read LongCat's layers: two of attention and a dense block each, beside the first the experts (arXiv 2509.01322)."""
    mixer = latent_attention(c, MixerTraits())
    block = Dense(width=c.size("ffn_hidden_size"))
    routed = Experts(
        num_experts=c.size("n_routed_experts"),
        num_experts_per_tok=c.size("moe_topk"),
        width=c.size("expert_ffn_hidden_size"),
        shared=block,
        zero_experts=c.whole("zero_expert_num"),
        routing_bias=True,
    )
    return [_layer(family, mixer, part) for _ in range(number) for part in (routed, block)]
