"""Which feed-forward part each layer of a configuration has, read from the names that configurations use for one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.models.mixer_fields import MOST_LAYERS
from catalog.parts import Dense, Experts

if TYPE_CHECKING:
    from catalog.config_fields import Fields
    from catalog.parts import FeedForward

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_routed_experts")
PER_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "num_selected_experts",
)
EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size", "moe_ffn_hidden_size")
DENSE_WIDTH = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", "d_ff", "block_ff_dim", "intermediate_dim")
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = (
    "moe_shared_expert_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)
NOT_GATED = frozenset({"relu2", "relu", "gelu", "gelu_new", "gelu_fast", "xielu", "squared_relu"})
"""Activations that come without a gate where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForwardTraits:
    """What a family's modelling code says and its configurations do not."""

    gated: bool | None = None
    """None: as the activation tells."""
    bias: bool | None = None
    """None: as ``mlp_bias`` says, else none."""
    shared_gate: bool = False
    routing_bias: bool | None = None
    """None: where ``topk_method`` or ``use_routing_bias`` and their like say so."""
    dense_beside: bool = False
    """Layers with experts have the dense block, too (Gemma 4)."""
    expert_width_is_dense: bool = False
    """``intermediate_size`` is an expert's width (Mixtral and its kin)."""
    shared: int = 0
    """Shared experts without a word."""
    adjusted: bool = False
    """Two thirds of the width are taken, in steps (LFM2)."""
    width_share: float = 1.0
    """Share of the stated width that a block has (it counts gate and up, or both halves of a block)."""
    none: bool = False
    """Layers have no such part, whatever ``intermediate_size`` says (Mamba)."""
    beside_hybrids: bool = False
    """Only layers with two mixers have a block (Zamba)."""


def feed_forwards(c: Fields, traits: FeedForwardTraits, *, layers: int) -> list[FeedForward | None]:
    """Read each layer's feed-forward part."""
    if isinstance(widths := c.list_of("intermediate_size"), list):
        if len(widths) != layers:
            raise c.error(f"intermediate_size has {len(widths)} numbers; it must have {layers}, one a layer")
        return [Dense(width=width, gated=_gated(c, traits), bias=_bias(c, traits)) for width in widths]
    kinds = _kinds(c, traits, layers)
    made: dict[str, FeedForward | None] = {"none": None}
    for kind in set(kinds) - {"none"}:
        made[kind] = dense(c, traits) if kind == "dense" else experts(c, traits)
    if c.flag("use_double_wide_mlp", default=False):  # layers that share a cache have blocks twice as wide (Gemma 4)
        first = layers - c.whole("num_kv_shared_layers", default=0, most=layers)
        wide = dense(c, traits, times=2)
        return [wide if number >= first and kind == "dense" else made[kind] for number, kind in enumerate(kinds)]
    return [made[kind] for kind in kinds]


def _kinds(c: Fields, traits: FeedForwardTraits, layers: int) -> list[str]:
    """Say of each layer whether it is dense, has experts, or nothing."""
    if traits.none:
        return ["none"] * layers
    if traits.beside_hybrids:
        return ["dense" if name == "hybrid" else "none" for name in c.texts("layers_block_type", layers) or []]
    if c.has("hybrid_override_pattern"):
        return [{"E": "experts", "-": "dense"}.get(letter, "none") for letter in c.text("hybrid_override_pattern")]
    for name in ("layers_block_type", "layer_types"):
        names = c.items_of(name)
        if {"moe", "mlp"} & set(names) and len(names) == layers:
            return [{"moe": "experts", "mlp": "dense"}.get(name, "none") for name in names]
    if not c.first(*EXPERTS, default=0) or not c.flag("enable_moe_block", "is_moe", default=True):
        return ["dense" if _has_dense(c) else "none"] * layers
    for name in ("mlp_layer_types", "ffn_types"):
        if c.has(name):
            return ["dense" if kind == "dense" else "experts" for kind in c.texts(name, layers) or []]
    if c.is_list("moe_layer_freq"):
        return ["experts" if kind else "dense" for kind in c.wholes("moe_layer_freq", length=layers) or []]
    if c.is_text("moe_layers_enum"):
        listed = {int(part) for part in c.text("moe_layers_enum").split(",") if part.strip().isdigit()}
        return ["experts" if number in listed else "dense" for number in range(layers)]
    if c.has("expert_layer_period"):
        period, offset = c.size("expert_layer_period"), c.whole("expert_layer_offset", default=0)
        return ["experts" if number % period == offset % period else "dense" for number in range(layers)]
    first = c.whole("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", default=0, most=MOST_LAYERS)
    last = c.whole("moe_layer_end_index", default=layers - 1, null=layers - 1, least=-1)
    last = layers - 1 if last < 0 else last
    step = c.size("moe_layer_interval", "moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step", default=1)
    alone = set(c.wholes("mlp_only_layers") or [])
    from_end = any(c.has(name) for name in ("moe_layer_interval", "decoder_sparse_step", "interleave_moe_layer_step"))
    return [
        "experts" if first <= number <= last and number not in alone and (number + from_end) % step == 0 else "dense"
        for number in range(layers)
    ]


def _has_dense(c: Fields) -> bool:
    return any(c.has(name) for name in (*DENSE_WIDTH, *SHARED_WIDTH, "ffn_proj_factor"))


def _gated(c: Fields, traits: FeedForwardTraits) -> bool:
    if traits.gated is not None:
        return traits.gated
    activation = c.text("mlp_hidden_act", "hidden_act", "hidden_activation", "activation_function", default="silu")
    return activation not in NOT_GATED


def _bias(c: Fields, traits: FeedForwardTraits) -> bool:
    return c.flag("mlp_bias", "use_bias", default=False) if traits.bias is None else traits.bias


def dense(c: Fields, traits: FeedForwardTraits, *, times: int = 1) -> Dense:
    """Read a dense feed-forward block."""
    names: tuple[str, ...] = ("dense_intermediate_size", "intermediate_size_mlp", *DENSE_WIDTH)
    if traits.expert_width_is_dense:
        names = ("dense_intermediate_size", *SHARED_WIDTH, *DENSE_WIDTH)
    if c.has("ffn_proj_factor"):  # xLSTM
        multiple = c.size("ffn_round_up_to_multiple_of", default=64)
        return Dense(
            width=-(-int(c.number("ffn_proj_factor", most=100) * c.size("hidden_size")) // multiple) * multiple
        )
    width = int(c.size(*names) * traits.width_share)
    if traits.adjusted and c.flag("block_auto_adjust_ff_dim", default=True):
        multiple = c.size("block_multiple_of", default=256)
        width = -(-(2 * width // 3) // multiple) * multiple
    return Dense(width=width * times, gated=_gated(c, traits), bias=_bias(c, traits))


def experts(c: Fields, traits: FeedForwardTraits) -> Experts:
    """Read routed experts and what stands beside them."""
    gated, bias = _gated(c, traits), _bias(c, traits)
    names = (*EXPERT_WIDTH, *DENSE_WIDTH)
    width = c.first(*names)
    shared_width = c.whole(*SHARED_WIDTH, default=0, null=0)
    if not shared_width:
        shared_width = width * c.first(*SHARED, default=traits.shared)
    elif c.first(*SHARED, default=1) > 1 and not c.has("shared_intermediate_size"):
        shared_width *= c.first(*SHARED, default=1)
    beside = shared_width
    if traits.dense_beside:
        beside += dense(c, traits).width
    biased = c.flag("use_routing_bias", "use_moe_router_bias", "moe_router_enable_expert_bias", default=False)
    biased = biased or c.text("topk_method", default="") == "noaux_tc"
    number, chosen = max(c.first(*EXPERTS), 1), c.first(*PER_TOKEN)
    if chosen > number:
        raise c.error(f"{chosen} experts a token are more than the {number} there are")
    return Experts(
        num_experts=number,
        num_experts_per_tok=chosen,
        width=width,
        gated=gated,
        shared=Dense(width=beside, gated=gated, bias=bias) if beside else None,
        shared_gate=traits.shared_gate,
        latent=c.whole("moe_latent_size", "moe_hidden_size", "routed_expert_hidden_size", default=0, null=0),
        zero_experts=c.whole("zero_expert_num", default=0),
        routing_bias=biased if traits.routing_bias is None else traits.routing_bias,
    )
