"""Which mixer each layer of a configuration has, read from the names that configurations use for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from catalog.mixers import Attention, LatentAttention, Recurrence, SparseIndex
from catalog.models.recurrence_fields import HEAD_DIM, HEADS, recurrence

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.mixers import State
    from catalog.parts import Mixer

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim", "n_embed")
KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_kv_heads",
    "num_query_groups",
    "num_attention_groups",
    "n_head_kv",
    "multi_query_group_num",
)
MOST_LAYERS = 1000

KINDS = {
    "full_attention": "full",
    "attention": "full",
    "attn": "full",
    "full": "full",
    "global": "full",
    "deepseek_sparse_attention": "full",
    "indexed_attention": "full",
    "sliding_attention": "window",
    "sliding_window": "window",
    "chunked_attention": "window",
    "reference_sliding_attention": "window",
    "hybrid_sliding": "window",
    "local": "window",
    "swa": "window",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "recurrent": "state",
    "conv": "state",
    "short_conv": "state",
    "lightning_attention": "state",
    "kda": "state",
    "gated_delta_net": "state",
    "gdn": "state",
    "hybrid": "both",
    "parallel_hybrid": "both",
    "shared_attention": "both",
    "moe": "none",
    "mlp": "none",
    "noop": "none",
    "none": "none",
}
"""What the entries of ``layer_types`` and its like mean."""

LETTERS = {"M": "state", "*": "full", "E": "none", "-": "none"}
"""What the letters of ``hybrid_override_pattern`` mean (Nemotron-H)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerTraits:
    """What a family's modelling code says and its configurations do not."""

    qkv_bias: bool | None = None
    """None: as ``attention_bias`` and its like say, else none."""
    o_bias: bool | None = None
    qk_norm: Literal["", "head", "all"] = ""
    """Norms of queries and keys, of one head's width or of all heads'."""
    gate: Literal["", "heads", "wide"] = ""
    """A gate on the output of attention: a number a head, or one for each of its numbers."""
    window_every: int = 0
    """Without a word every so many layers one attends to everything, the others to a window; 0: all do."""
    window_kv_times: int = 1
    """KV heads of windowed layers over those of the others, without a word."""
    head_dim: int = 0
    """Without a word, where it is not hidden_size / heads."""
    kv_heads: int = 0
    tile: int = 0
    state_float32: bool = False
    """The state is kept in float32 without a word."""
    state: State | None = None
    """Kind of the layers with a state, where fields do not tell."""
    full_rank: bool = False
    """Decay and gate of Kimi delta attention are whole matrices."""
    convolved: bool = False
    """Short convolutions stand behind keys, values and both blocks of a layer, which is then called a hybrid (Inkling)."""
    beside_embeddings: bool = False
    """Attention sees the embeddings beside the hidden state (Zamba)."""
    sinks: bool = False
    """A learned number a head beside the scores, without a word."""


def mixers(c: Fields, traits: MixerTraits, *, hidden: int, layers: int) -> list[tuple[Mixer | None, Recurrence | None]]:
    """Read each layer's mixer, and the one beside it where a layer has two."""
    kinds = layer_kinds(c, traits, layers)
    indexed = _indexed_layers(c, layers)
    shared = layers - c.whole("num_kv_shared_layers", default=0, most=layers)
    of_layer = fields_by_layer(c, layers)
    made: dict[tuple[str, bool, bool, int], tuple[Mixer | None, Recurrence | None]] = {}
    pairs: list[tuple[Mixer | None, Recurrence | None]] = []
    for number, kind in enumerate(kinds):
        own = of_layer.get(number, c)
        key = (kind, indexed[number], number >= shared, id(own))
        if key not in made:
            mixer = _mixer(own, traits, hidden, kind, indexed=key[1], shares_cache=key[2])
            made[key] = (mixer, _beside(own, traits, hidden, kind, mixer))
        pairs.append(made[key])
    return pairs


def fields_by_layer(c: Fields, layers: int) -> dict[int, Fields]:
    """Return the configuration as each layer sees it, of those with fields of their own; equal ones are one object."""
    changed: dict[int, dict[str, object]] = {}
    own = c.maybe_object("per_layer_config")
    for name in own.names() if own else ():
        if own and name.isdecimal() and int(name) < layers:
            changed[int(name)] = own.part(name).as_dict()
    for number, heads in enumerate(c.wholes("num_attention_heads_per_layer", length=layers) or []):
        changed.setdefault(number, {})["num_attention_heads"] = heads
    made: dict[str, Fields] = {}
    return {
        number: made.setdefault(repr(sorted(change.items())), c.replaced(change)) for number, change in changed.items()
    }


def _beside(c: Fields, traits: MixerTraits, hidden: int, kind: str, mixer: Mixer | None) -> Recurrence | None:
    """Return the second mixer of a layer, if it has one."""
    if traits.convolved and isinstance(mixer, Attention):
        channels = mixer.kv_heads * (mixer.head_dim + mixer.value_dim) + 2 * hidden
        kernel = c.size("conv_kernel_size", default=4)
        return Recurrence(kind="short_convolution", into=0, out=0, conv_channels=channels, conv_kernel=kernel)
    return _state(c, traits, hidden) if kind == "both" else None


def layer_kinds(c: Fields, traits: MixerTraits, layers: int) -> list[str]:
    """Say of each layer whether it attends to everything or to a window, keeps a state, both, or mixes nothing."""
    for name in ("layer_types", "layers_block_type", "block_types", "_block_types"):
        if c.has(name):
            return _named(c, traits, name, layers)
    if c.has("hybrid_override_pattern"):
        pattern = c.text("hybrid_override_pattern")
        if len(pattern) != layers or not set(pattern) <= set(LETTERS):
            raise c.error(f"hybrid_override_pattern must have {layers} letters of {''.join(LETTERS)}, one a layer")
        return [LETTERS[letter] for letter in pattern]
    if (linear := c.maybe_part("linear_attn_config")) is not None:
        listed = linear.wholes("full_attn_layers") or []
        first = 0 if 0 in (linear.wholes("kda_layers") or []) or 0 in listed else 1
        full = {number - first for number in listed}
        return ["full" if number in full else "state" for number in range(layers)]
    if c.has("attn_type_list"):
        return ["full" if kind else "state" for kind in c.wholes("attn_type_list", length=layers) or []]
    if c.has("hybrid_layer_pattern"):  # MiMo-V2: 1 where a layer has a window
        return ["window" if kind else "full" for kind in c.wholes("hybrid_layer_pattern", length=layers) or []]
    if c.has("attn_layer_indices"):
        attends = set(c.wholes("attn_layer_indices") or [])
        return ["full" if number in attends else "state" for number in range(layers)]
    if c.has("attn_layer_period"):
        period, offset = c.size("attn_layer_period"), c.whole("attn_layer_offset", default=0)
        return ["full" if number % period == offset % period else "state" for number in range(layers)]
    if c.has("layer_group_size"):  # Ring-linear: the last of a group attends
        size = c.size("layer_group_size")
        return ["full" if (number + 1) % size == 0 else "state" for number in range(layers)]
    if c.has("full_attention_interval"):
        every = c.size("full_attention_interval")
        return ["full" if (number + 1) % every == 0 else "state" for number in range(layers)]
    if c.has("mamba_d_ssm"):  # Falcon-H1
        return ["both"] * layers
    if not any(c.has(name) for name in HEADS) or (traits.state and not _attends(c)):
        return ["state"] * layers
    return _windowed(c, traits, layers)


def _attends(c: Fields) -> bool:
    return any(c.has(name) for name in ("num_key_value_heads", "num_attention_heads"))


def _named(c: Fields, traits: MixerTraits, name: str, layers: int) -> list[str]:
    names = c.texts(name, layers, repeated=name.endswith("block_types")) or []
    unknown = next((kind for kind in names if kind not in KINDS), None)
    if unknown is not None:
        raise c.error(f"{name} has {unknown[:40]!r}, which is not known; known: {', '.join(KINDS)}")
    kinds = [KINDS[kind] for kind in names]
    if traits.convolved:
        kinds = ["full" if kind == "both" else kind for kind in kinds]
    if c.has("attention_window_size"):  # RecurrentGemma: what attends does so to a window
        kinds = ["window" if kind == "full" else kind for kind in kinds]
    if "window" in kinds and not window_of(c):
        return ["full" if kind == "window" else kind for kind in kinds]
    return kinds


def window_of(c: Fields) -> int:
    """Read the tokens of a sliding window or a chunk; 0: none."""
    names = ("sliding_window", "sliding_window_size", "attention_chunk_size", "attention_window_size", "window_size")
    return c.whole(*names, default=0, null=0)


def _windowed(c: Fields, traits: MixerTraits, layers: int) -> list[str]:
    window = window_of(c)
    if not window or (c.has("use_sliding_window") and not c.flag("use_sliding_window", default=True)):
        return ["full"] * layers
    if c.has("sliding_window_pattern") and c.is_text("sliding_window_pattern"):
        pattern = c.text("sliding_window_pattern") or "G"
        return ["window" if pattern[number % len(pattern)] == "L" else "full" for number in range(layers)]
    every = c.whole("sliding_window_pattern", "_sliding_window_pattern", default=traits.window_every, most=MOST_LAYERS)
    if every > 1:
        return ["full" if (number + 1) % every == 0 else "window" for number in range(layers)]
    if c.has("max_window_layers") and c.has("use_sliding_window"):
        first = c.whole("max_window_layers")
        return ["window" if number >= first else "full" for number in range(layers)]
    return ["window"] * layers


def _indexed_layers(c: Fields, layers: int) -> list[bool]:
    """Say of each layer whether it has an indexer of its own."""
    if c.has("indexer_types"):
        own = [kind == "full" for kind in c.texts("indexer_types", layers) or []]
    else:
        own = [c.has("index_topk")] * layers
    types = c.items_of("layer_types")
    if "indexed_attention" in types and len(types) == layers:
        return [has and kind == "indexed_attention" for has, kind in zip(own, types, strict=True)]
    if c.has("indexer_types"):
        return own
    sparse = c.maybe_part("sparse_attention_config")
    if sparse is not None:
        frequency = sparse.wholes("sparse_attention_freq", length=layers)
        return [bool(kind) for kind in frequency] if frequency else [True] * layers
    return own


def _index(c: Fields) -> SparseIndex:
    sparse = c.maybe_part("sparse_attention_config")
    if sparse is not None:
        block = sparse.size("sparse_block_size", default=1)
        return SparseIndex(
            heads=sparse.size("sparse_num_index_heads"),
            dim=sparse.size("sparse_index_dim"),
            top_k=sparse.size("sparse_topk_blocks") * block,
        )
    return SparseIndex(
        heads=c.size("index_n_heads"),
        dim=c.size("index_head_dim", default=128),
        top_k=c.size("index_topk"),
        pooled=c.size("index_kpool", default=1),
    )


def _mixer(
    c: Fields, traits: MixerTraits, hidden: int, kind: str, *, indexed: bool, shares_cache: bool
) -> Mixer | None:
    if kind == "none":
        return None
    if kind == "state":
        return _state(c, traits, hidden)
    index = _index(c) if indexed else None
    window = window_of(c) if kind == "window" else 0
    if c.has("kv_lora_rank"):
        return latent_attention(c, traits, window=window, index=index)
    return attention(c, traits, hidden, window=window, index=index, shares=shares_cache)


def _state(c: Fields, traits: MixerTraits, hidden: int) -> Recurrence:
    return recurrence(c, hidden, kind=traits.state, float32=traits.state_float32, full_rank=traits.full_rank)


def latent_attention(
    c: Fields, traits: MixerTraits, *, window: int = 0, index: SparseIndex | None = None
) -> LatentAttention:
    """Read multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""
    heads, value = c.size(*HEADS), c.size("v_head_dim", default=128)
    bias = c.flag("attention_bias", default=False)
    gate = "wide" if c.flag("mla_use_output_gate", default=False) else traits.gate
    return LatentAttention(
        heads=heads,
        q_lora_rank=c.whole("q_lora_rank", default=0, null=0),
        kv_lora_rank=c.size("kv_lora_rank"),
        nope_dim=c.size("qk_nope_head_dim"),
        rope_dim=c.whole("qk_rope_head_dim", default=64),
        value_dim=value,
        window=window,
        qkv_bias=bias,
        o_bias=bias,
        gate={"": 0, "heads": heads, "wide": heads * value}[gate],
        index=index,
    )


def attention(
    c: Fields, traits: MixerTraits, hidden: int, *, window: int, index: SparseIndex | None = None, shares: bool = False
) -> Attention:
    """Read attention of a layer with a window, or of one without; some configurations give them different heads."""
    heads = c.size("swa_num_attention_heads", *HEADS) if window else c.size(*HEADS)
    kv = c.size(*KV_HEADS, default=traits.kv_heads or heads, null=heads)
    width = c.size(*HEAD_DIM, default=traits.head_dim or max(hidden // heads, 1), null=max(hidden // heads, 1))
    value = c.size("v_head_dim", default=width, null=width)
    same = False
    if window:
        kv = c.size("swa_num_key_value_heads", default=kv * traits.window_kv_times)
        width = c.size("swa_head_dim", default=width)
        value = c.size("swa_v_head_dim", default=value if c.has("v_head_dim") else width)
    elif c.has("global_head_dim"):  # Gemma 4
        width = value = c.size("global_head_dim")
        same = c.flag("attention_k_eq_v", default=False)
        kv = c.size("num_global_key_value_heads", default=kv) if same else kv
    if heads % kv:
        raise c.error(f"{heads} attention heads are no multiple of {kv} KV heads")
    inputs = c.size("attention_hidden_size", default=2 * hidden) if traits.beside_embeddings else 0
    bias = any(c.flag(name, default=False) for name in ("attention_bias", "use_qkv_bias", "add_qkv_bias", "qkv_bias"))
    out = c.flag("attention_out_bias", default=bias and not c.has("use_qkv_bias") and not c.has("add_qkv_bias"))
    normed = c.flag("use_qk_norm", "qk_norm", "use_qk_layernorm", "qk_layernorm", default=bool(traits.qk_norm))
    spans = heads * width + kv * width if traits.qk_norm == "all" else 2 * width
    gate = "wide" if c.flag("attn_output_gate", "attention_output_gate", default=False) else traits.gate
    gate = "heads" if c.flag("use_head_wise_attn_gate", "use_attention_gate", default=False) else gate
    sinks = c.flag("add_swa_attention_sink_bias" if window else "add_full_attention_sink_bias", default=False)
    return Attention(
        heads=heads,
        kv_heads=kv,
        head_dim=width,
        value_dim=value,
        window=window,
        qkv_bias=bias if traits.qkv_bias is None else traits.qkv_bias,
        o_bias=out if traits.o_bias is None else traits.o_bias,
        qk_norm=spans if normed else 0,
        gate={"": 0, "heads": heads, "wide": heads * value}[gate] + heads * c.whole("d_rel", default=0, most=4096),
        inputs=inputs,
        sinks=sinks or traits.sinks,
        keys_are_values=same,
        shares_cache=shares,
        index=index,
    )
