"""Which mixer each layer of a configuration has, read from the names that configurations use for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from catalog.mixers import Attention, LatentAttention, Recurrence, SparseIndex

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.parts import Mixer

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model", "model_dim", "n_embed")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = (
    "num_key_value_heads",
    "num_kv_heads",
    "n_kv_heads",
    "num_query_groups",
    "num_attention_groups",
    "n_head_kv",
)
HEAD_DIM = ("head_dim", "attention_head_dim", "head_size", "kv_channels", "attention_head_size")
MOST_LAYERS = 1000

KINDS = {
    "full_attention": "full",
    "attention": "full",
    "attn": "full",
    "full": "full",
    "global": "full",
    "deepseek_sparse_attention": "full",
    "sliding_attention": "window",
    "sliding_window": "window",
    "chunked_attention": "window",
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
    head_dim: int = 0
    """Without a word, where it is not hidden_size / heads."""
    kv_heads: int = 0
    tile: int = 0
    state_float32: bool = False
    """The state is kept in float32 without a word."""
    state: Literal["", "gated_delta_net", "kimi_delta", "mamba1", "mamba2", "lightning", "short_convolution"] = ""
    """Kind of the layers with a state, where fields do not tell."""


def mixers(c: Fields, traits: MixerTraits, *, hidden: int, layers: int) -> list[tuple[Mixer | None, Recurrence | None]]:
    """Read each layer's mixer, and the one beside it where a layer has two."""
    kinds = layer_kinds(c, traits, layers)
    indexed = _indexed_layers(c, layers)
    shared = layers - c.whole("num_kv_shared_layers", default=0, most=layers)
    made: dict[tuple[str, bool, bool], Mixer | None] = {}
    pairs: list[tuple[Mixer | None, Recurrence | None]] = []
    for number, kind in enumerate(kinds):
        key = (kind, indexed[number], number >= shared)
        beside = None
        if kind == "both":
            beside = _state(c, traits, hidden)
        if key not in made:
            made[key] = _mixer(c, traits, hidden, kind, indexed=key[1], shares_cache=key[2])
        pairs.append((made[key], beside))
    return pairs


def layer_kinds(c: Fields, traits: MixerTraits, layers: int) -> list[str]:
    """Say of each layer whether it attends to everything or to a window, keeps a state, both, or mixes nothing."""
    for name in ("layer_types", "layers_block_type", "block_types", "_block_types"):
        if c.has(name):
            return _named(c, name, layers)
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


def _named(c: Fields, name: str, layers: int) -> list[str]:
    names = c.texts(name, layers) or []
    unknown = next((kind for kind in names if kind not in KINDS), None)
    if unknown is not None:
        raise c.error(f"{name} has {unknown[:40]!r}, which is not known; known: {', '.join(KINDS)}")
    kinds = [KINDS[kind] for kind in names]
    if "window" in kinds and not window_of(c):
        return ["full" if kind == "window" else kind for kind in kinds]
    return kinds


def window_of(c: Fields) -> int:
    """Read the tokens of a sliding window or a chunk; 0: none."""
    return c.whole("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", default=0, null=0)


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
        return [kind == "full" for kind in c.texts("indexer_types", layers) or []]
    sparse = c.maybe_part("sparse_attention_config")
    if sparse is not None:
        frequency = sparse.wholes("sparse_attention_freq", length=layers)
        return [bool(kind) for kind in frequency] if frequency else [True] * layers
    return [c.has("index_topk")] * layers


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
    if c.has("kv_lora_rank"):
        return latent_attention(c, traits, index=index)
    return attention(
        c, traits, hidden, window=window_of(c) if kind == "window" else 0, index=index, shares=shares_cache
    )


def latent_attention(c: Fields, traits: MixerTraits, *, index: SparseIndex | None = None) -> LatentAttention:
    """Read multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""
    heads, value = c.size(*HEADS), c.size("v_head_dim", default=128)
    bias = c.flag("attention_bias", default=False)
    gated = traits.gate == "wide" or c.flag("mla_use_output_gate", default=False)
    return LatentAttention(
        heads=heads,
        q_lora_rank=c.whole("q_lora_rank", default=0, null=0),
        kv_lora_rank=c.size("kv_lora_rank"),
        nope_dim=c.size("qk_nope_head_dim"),
        rope_dim=c.whole("qk_rope_head_dim", default=64),
        value_dim=value,
        qkv_bias=bias,
        o_bias=bias,
        gate=heads * value if gated else 0,
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
        kv = c.size("swa_num_key_value_heads", default=kv)
        width = c.size("swa_head_dim", default=width)
        value = c.size("swa_v_head_dim", default=value if c.has("v_head_dim") else width)
    elif c.has("global_head_dim"):  # Gemma 4
        width = value = c.size("global_head_dim")
        same = c.flag("attention_k_eq_v", default=False)
        kv = c.size("num_global_key_value_heads", default=kv) if same else kv
    if heads % kv:
        raise c.error(f"{heads} attention heads are no multiple of {kv} KV heads")
    bias = any(c.flag(name, default=False) for name in ("attention_bias", "use_qkv_bias", "add_qkv_bias", "qkv_bias"))
    out = c.flag("attention_out_bias", default=bias and not c.has("use_qkv_bias") and not c.has("add_qkv_bias"))
    normed = c.flag("use_qk_norm", "qk_norm", "use_qk_layernorm", "qk_layernorm", default=bool(traits.qk_norm))
    spans = heads * width + kv * width if traits.qk_norm == "all" else 2 * width
    gate = "wide" if c.flag("attn_output_gate", "attention_output_gate", default=False) else traits.gate
    gate = "heads" if c.flag("use_head_wise_attn_gate", default=False) else gate
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
        gate={"": 0, "heads": heads, "wide": heads * value}[gate],
        sinks=sinks,
        keys_are_values=same,
        shares_cache=shares,
        index=index,
    )


def _state(c: Fields, traits: MixerTraits, hidden: int) -> Recurrence:
    """Read the mixer of layers that keep a state, by the fields that each kind alone has."""
    said = c.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype", default="float32" if traits.state_float32 else "auto")
    wide = said == "float32"
    if c.has("linear_num_value_heads"):
        return gated_delta_net(c, wide=wide)
    if (linear := c.maybe_part("linear_attn_config")) is not None:
        return kimi_delta(linear, hidden)
    if traits.state == "short_convolution" or c.has("conv_L_cache"):
        return short_convolution(c, hidden)
    if any(c.has(name) for name in ("mamba_num_heads", "mamba_n_heads", "mamba_d_ssm")) or traits.state == "mamba2":
        return mamba2(c, hidden, wide=wide)
    if any(c.has(name) for name in ("mamba_dt_rank", "time_step_rank", "mamba_d_state")) or traits.state == "mamba1":
        return mamba1(c, hidden, wide=wide, normed=c.has("mamba_dt_rank"))
    if c.has("attn_type_list") or c.has("layer_group_size") or traits.state == "lightning":
        return lightning(c, hidden, wide=wide)
    raise c.error(
        "its layers with a state are of no kind that is known: gated delta net (linear_num_value_heads), Kimi delta "
        "attention (linear_attn_config), Mamba (mamba_num_heads, mamba_dt_rank), short convolution (conv_L_cache) or "
        "lightning attention (attn_type_list)"
    )


def gated_delta_net(c: Fields, *, wide: bool) -> Recurrence:
    """Read a gated delta net (Qwen3-Next; arXiv 2412.06464): queries, keys, values, a gate, and two numbers a value head."""
    keys = c.size("linear_num_key_heads") * c.size("linear_key_head_dim")
    heads, width = c.size("linear_num_value_heads"), c.size("linear_value_head_dim")
    values = heads * width
    return Recurrence(
        kind="gated_delta_net",
        into=2 * keys + 2 * values + 2 * heads,
        out=values,
        conv_channels=2 * keys + values,
        conv_kernel=c.size("linear_conv_kernel_dim", default=4),
        state_numbers=heads * c.size("linear_key_head_dim") * width,
        state_float32=wide,
        small=2 * heads,
        norm=width,
    )


def kimi_delta(c: Fields, hidden: int) -> Recurrence:
    """Read Kimi delta attention (arXiv 2510.26692); its state is float32 in every engine."""
    heads, width = c.size("num_heads"), c.size("head_dim")
    inner = heads * width
    full = c.flag("use_full_rank_gate", default=False)
    decay = ((hidden, width), (width, inner))
    return Recurrence(
        kind="kimi_delta",
        into=3 * inner + heads + (inner if full else 0),
        out=inner,
        low_rank=decay if full else decay * 2,
        conv_channels=3 * inner,
        conv_kernel=c.size("short_conv_kernel_size", default=4),
        state_numbers=heads * width * width,
        small=heads + inner,
        norm=width,
    )


def mamba2(c: Fields, hidden: int, *, wide: bool) -> Recurrence:
    """Read Mamba-2 (arXiv 2405.21060)."""
    heads = c.size("mamba_num_heads", "mamba_n_heads", "num_heads")
    expanded = c.whole("mamba_expand", "expand", default=2) * hidden
    default = max(expanded // heads, 1)
    width = (
        c.size("mamba_head_dim", "mamba_d_head", "mamba_headdim", "head_dim", default=default)
        if not c.is_text("mamba_d_head")
        else default
    )
    inner = c.size("mamba_d_ssm", default=heads * width)
    state = c.size("ssm_state_size", "mamba_d_state", "state_size", default=128)
    groups = c.size("mamba_n_groups", "n_groups", "mamba_ngroups", default=1)
    channels = inner + 2 * groups * state
    return Recurrence(
        kind="mamba2",
        into=inner + channels + heads,
        out=inner,
        conv_channels=channels,
        conv_kernel=c.size("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=c.flag("use_conv_bias", "mamba_conv_bias", default=True),
        state_numbers=inner * state,
        state_float32=wide,
        small=3 * heads,
        norm=inner if c.flag("mamba_rms_norm", default=True) else 0,
        bias=c.flag("use_bias", "mamba_proj_bias", default=False),
    )


def mamba1(c: Fields, hidden: int, *, wide: bool, normed: bool) -> Recurrence:
    """Read Mamba (arXiv 2312.00752); Jamba norms its time steps and projections (``normed``)."""
    inner = c.size("mamba_expand", "expand", default=2) * hidden
    state = c.size("mamba_d_state", "state_size", default=16)
    rank = -(-hidden // 16)
    if not c.is_text("mamba_dt_rank") and not c.is_text("time_step_rank"):
        rank = c.size("mamba_dt_rank", "time_step_rank", default=rank)
    return Recurrence(
        kind="mamba1",
        into=2 * inner,
        out=inner,
        low_rank=((inner, rank + 2 * state), (rank, inner)),
        conv_channels=inner,
        conv_kernel=c.size("mamba_d_conv", "conv_kernel", default=4),
        conv_bias=c.flag("mamba_conv_bias", "use_conv_bias", default=True),
        state_numbers=inner * state,
        state_float32=wide,
        small=inner * (state + 2),
        norm=rank + 2 * state if normed else 0,
        bias=c.flag("mamba_proj_bias", "use_bias", default=False),
    )


def lightning(c: Fields, hidden: int, *, wide: bool) -> Recurrence:
    """Read lightning attention (MiniMax-01, arXiv 2501.08313): queries, keys, values and a gate."""
    heads = c.size(*HEADS)
    width = c.size(*HEAD_DIM, default=max(hidden // heads, 1))
    inner = heads * width
    return Recurrence(
        kind="lightning", into=4 * inner, out=inner, state_numbers=inner * width, state_float32=wide, norm=inner
    )


def short_convolution(c: Fields, hidden: int) -> Recurrence:
    """Read a gated short convolution (LFM2): three projections, a convolution of one of them."""
    return Recurrence(
        kind="short_convolution",
        into=3 * hidden,
        out=hidden,
        conv_channels=hidden,
        conv_kernel=c.size("conv_L_cache", default=3),
        conv_bias=c.flag("conv_bias", default=False),
        bias=c.flag("conv_bias", default=False),
    )
