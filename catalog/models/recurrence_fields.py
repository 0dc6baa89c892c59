"""Layers that keep a state of fixed size a sequence, read from the names that configurations use for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.mixers import Recurrence

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.mixers import State

HEADS = ("num_attention_heads", "attention_heads", "n_head", "n_heads", "num_heads")
HEAD_DIM = ("head_dim", "attention_head_dim", "head_size", "kv_channels", "attention_head_size", "dim_head")


def recurrence(
    c: Fields, hidden: int, *, kind: State | None = None, float32: bool = False, full_rank: bool = False
) -> Recurrence:
    """Read the mixer of layers that keep a state, by the fields that each kind alone has.

    Args:
        c: the configuration.
        hidden: width of the hidden state.
        kind: what the family's code says it is; None: as the fields tell.
        float32: whether the state is in 32 bits without a word.
        full_rank: whether decay and gate of Kimi delta attention are whole matrices.

    Raises:
        InputError: it is of no kind that is known.

    """
    said = c.text("mamba_ssm_dtype", "mamba_ssm_cache_dtype", default="float32" if float32 else "auto")
    wide = said == "float32"
    if c.has("linear_num_value_heads"):
        return gated_delta_net(c, wide=wide)
    if (linear := c.maybe_part("linear_attn_config")) is not None:
        full = linear.flag("use_full_rank_gate", default=False)
        heads, width = linear.size("num_heads"), linear.size("head_dim")
        kernel = linear.size("short_conv_kernel_size", default=4)
        return kimi_delta(heads, width, kernel, hidden, full_rank_gate=full)
    if c.has("linear_num_heads") and c.has("linear_head_dim"):
        heads, width, kernel = (
            c.size("linear_num_heads"),
            c.size("linear_head_dim"),
            c.size("linear_conv_kernel_dim", default=4),
        )
        return kimi_delta(heads, width, kernel, hidden, full_rank_gate=full_rank, full_rank_decay=full_rank)
    if kind == "short_convolution" or c.has("conv_L_cache"):
        return short_convolution(c, hidden)
    if kind == "gated_linear_recurrence" or c.has("lru_width"):
        return gated_linear_recurrence(c, hidden)
    if kind == "matrix_lstm":
        return matrix_lstm(c, hidden)
    if kind == "weighted_key_value":
        return weighted_key_value(c, hidden)
    if any(c.has(name) for name in ("mamba_num_heads", "mamba_n_heads", "mamba_d_ssm")) or kind == "mamba2":
        return mamba2(c, hidden, wide=wide)
    if any(c.has(name) for name in ("mamba_dt_rank", "time_step_rank", "mamba_d_state")) or kind == "mamba1":
        return mamba1(c, hidden, wide=wide, normed=c.has("mamba_dt_rank") and not c.has("n_mamba_heads"))
    if c.has("attn_type_list") or c.has("layer_group_size") or kind == "lightning":
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


def kimi_delta(
    heads: int, width: int, kernel: int, hidden: int, *, full_rank_gate: bool, full_rank_decay: bool = False
) -> Recurrence:
    """Describe Kimi delta attention (arXiv 2510.26692); its state is float32 in every engine."""
    inner = heads * width
    low = ((hidden, width), (width, inner))
    return Recurrence(
        kind="kimi_delta",
        into=3 * inner + heads + inner * (full_rank_gate + full_rank_decay),
        out=inner,
        low_rank=low * (2 - full_rank_gate - full_rank_decay),
        conv_channels=3 * inner,
        conv_kernel=kernel,
        state_numbers=heads * width * width,
        small=heads + inner,
        norm=width,
    )


def mamba2(c: Fields, hidden: int, *, wide: bool) -> Recurrence:
    """Read Mamba-2 (arXiv 2405.21060)."""
    heads = c.size("mamba_num_heads", "mamba_n_heads", "n_mamba_heads", "num_heads")
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
    if c.has("state_size"):  # models of Mamba layers alone say the width itself (Falcon-Mamba: expand 16, width 8192)
        inner = c.size("intermediate_size", default=inner)
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


def gated_linear_recurrence(c: Fields, hidden: int) -> Recurrence:
    """Read a gated linear recurrence (RG-LRU of Griffin, arXiv 2402.19427), whose gates are block-diagonal by heads."""
    width = c.size("lru_width", default=hidden)
    heads = c.size(*HEADS)
    return Recurrence(
        kind="gated_linear_recurrence",
        into=2 * width,
        out=width,
        conv_channels=width,
        conv_kernel=c.size("conv1d_width", default=4),
        conv_bias=True,
        state_numbers=width,
        small=2 * width * max(width // heads, 1) + 3 * width,
        bias=True,
    )


def matrix_lstm(c: Fields, hidden: int) -> Recurrence:
    """Read an LSTM whose memory is a matrix a head (xLSTM, arXiv 2405.04517)."""
    heads = c.size(*HEADS)
    keys = int(hidden * c.number("qk_dim_factor", most=100)) if c.has("qk_dim_factor") else hidden // 2
    values = int(hidden * c.number("v_dim_factor", most=100)) if c.has("v_dim_factor") else hidden
    return Recurrence(
        kind="matrix_lstm",
        into=2 * keys + 2 * values + 2 * heads,
        out=values,
        state_numbers=keys * max(values // heads, 1) + keys + heads,
        small=2 * heads,
        norm=values,
    )


def weighted_key_value(c: Fields, hidden: int) -> Recurrence:
    """Read RWKV-4's time mixing (arXiv 2305.13048); its state is three numbers a channel and two shifted inputs."""
    inner = c.size("attention_hidden_size", default=hidden)
    return Recurrence(
        kind="weighted_key_value",
        into=3 * inner,
        out=inner,
        state_numbers=3 * inner + 2 * hidden,
        small=2 * inner + 5 * hidden,
    )
