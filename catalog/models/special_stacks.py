"""Stacks that are described in a way of their own: searched layers, compressed attention, shortcuts, shared and repeated blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.mixers import Attention, LatentAttention, Recurrence, SparseIndex
from catalog.models.feed_forward_fields import feed_forwards
from catalog.models.mixer_fields import MOST_LAYERS, MixerTraits, latent_attention
from catalog.models.recurrence_fields import HEADS
from catalog.parts import Dense, Experts, Layer

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.models.families import Family
    from catalog.parts import FeedForward, Mixer

COMPRESSED = ("compressed_sparse_attention", "heavily_compressed_attention")
"""Layers of DeepSeek-V4 that ``compress_rates`` are for."""


def layer_of(
    family: Family, mixer: Mixer | None, part: FeedForward | None, *, beside: Recurrence | None = None
) -> Layer:
    """Put a layer together, with the norms that its family has."""
    both = (mixer is not None) + (part is not None)
    norms = family.norms * both // 2 if both == 1 else family.norms
    norms = max(norms, 1) if family.norms else 0
    norms += family.expert_norms * isinstance(part, Experts)
    return Layer(mixer=mixer, feed_forward=part, beside=beside, norms=norms, norm_bias=family.norm_bias)


def shared_blocks(c: Fields, layers: list[Layer], hidden: int) -> list[Layer]:
    """Let layers with attention share the weights of ``num_mem_blocks`` blocks (Zamba2, arXiv 2411.15242).

    Each has a projection of its own behind the block, and low-rank adapters in it.
    """
    sharing = sum(layer.beside is not None for layer in layers)
    blocks = min(c.size("num_mem_blocks", default=1), max(sharing, 1))
    own = hidden * hidden + 2 * hidden
    if c.has("adapter_rank"):
        rank = c.size("adapter_rank")
        own += rank * (hidden + 2 * c.size("intermediate_size"))
        if c.flag("use_shared_attention_adapter", default=False):
            own += 3 * 2 * rank * c.size("attention_hidden_size", default=2 * hidden)
    return [
        replace(layer, held=blocks / sharing, extra=layer.extra + own) if layer.beside is not None else layer
        for layer in layers
    ]


def repeated(c: Fields, layers: list[Layer]) -> list[Layer]:
    """Repeat layers that a token goes through several times, with a cache of their own each time and the weights of one.

    Raises:
        InputError: there would be more layers than any model has.

    """
    number = len(layers)
    first, last, times = 0, 0, 1
    if c.has("n_recurrent_loops"):
        first = c.whole("n_input_layers", default=0, most=number)
        last, times = first + c.size("n_recurrent_layers", most=number - first or 1), c.size("n_recurrent_loops")
    elif c.has("loop_num_passes"):
        first, last = (c.whole(f"loop_layer_index_{end}", most=number) for end in ("start", "end"))
        times = c.size("loop_num_passes")
    elif c.has("total_ut_steps"):
        last, times = number, c.size("total_ut_steps")
    elif c.has("num_layers_per_stack"):  # two stacks of which num_hidden_layers are run
        held = min(2 * c.size("num_layers_per_stack", most=MOST_LAYERS) / number, 1.0)
        return [replace(layer, held=held) for layer in layers]
    if times == 1 or last <= first:
        return layers
    if number + (times - 1) * (last - first) > MOST_LAYERS:
        raise c.error(f"its layers are run more than {MOST_LAYERS} times in all")
    loop = [replace(layer, held=1.0 / times, extra=layer.extra / times) for layer in layers[first:last]]
    return layers[:first] + loop * times + layers[last:]


def _ratios(c: Fields, number: int) -> list[int]:
    """Read how many tokens share a cached vector in each layer; 0: all have their own, in a window."""
    if (rates := c.maybe_object("compress_rates")) is not None:
        kinds = c.texts("layer_types", number) or []
        return [rates.size(kind) if kind in COMPRESSED else 0 for kind in kinds]
    ratios = (c.wholes("compress_ratios") or [])[:number]
    if len(ratios) < number:
        raise c.error(f"compress_ratios has {len(ratios)} numbers; it must have {number}, one a layer")
    return ratios


def searched(c: Fields, hidden: int, number: int) -> list[Layer]:
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


def compressed(c: Fields, number: int, family: Family) -> list[Layer]:
    """Read DeepSeek-V4's attention: a window of latents, and beside it, where layers compress, one latent for many tokens.

    Layers that compress by a small factor choose among their latents with an index.
    """
    ratios = _ratios(c, number)
    parts = feed_forwards(c, family.feed_forward, layers=number)
    sources = set(c.wholes("kv_source_layer_ids") or range(number))
    scored = set(c.wholes("index_source_layer_ids") or range(number))
    rope, width = c.whole("qk_rope_head_dim", default=64), c.size("head_dim")
    layers = []
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
        layers.append(layer_of(family, mixer, part))
    return layers


def shortcut(c: Fields, number: int, family: Family) -> list[Layer]:
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
    return [layer_of(family, mixer, part) for _ in range(number) for part in (routed, block)]
