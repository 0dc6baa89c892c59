"""What the modelling code of each family says and its configurations do not, and what belongs to no layer.

The names are ``model_type``s of Hugging Face ``transformers`` or of the publishers' own code
(``models/<model_type>/modeling_<model_type>.py``); what a configuration says itself is never repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from catalog.models.feed_forward_fields import FeedForwardTraits
from catalog.models.mixer_fields import MixerTraits


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one kind of configuration is read."""

    mixer: MixerTraits = field(default_factory=MixerTraits)
    feed_forward: FeedForwardTraits = field(default_factory=FeedForwardTraits)
    norms: int = 2
    """Norms of a layer with both parts; one with a single part has one."""
    expert_norms: int = 0
    """Further norms of layers with experts."""
    norm_bias: bool = False
    tied: bool = False
    positions: int = 131_072
    """Longest context without a word."""
    like: str = ""
    """The family it follows, for those whose code is not public."""


HEAD = MixerTraits(qk_norm="head")
MIXTRAL = FeedForwardTraits(expert_width_is_dense=True)
DELTA = MixerTraits(qk_norm="head", gate="wide")
GATED_SHARED = FeedForwardTraits(shared_gate=True)

FAMILIES: dict[str, Family] = {
    "apertus": Family(mixer=HEAD, feed_forward=FeedForwardTraits(gated=False)),
    "arcee": Family(feed_forward=FeedForwardTraits(gated=False)),
    "bailing_moe": Family(feed_forward=FeedForwardTraits(gated=True)),
    "bailing_moe_linear": Family(mixer=MixerTraits(qk_norm="head", state="lightning")),
    "bailing_moe_v2": Family(mixer=HEAD),
    "bamba": Family(mixer=MixerTraits(state="mamba2")),
    "cohere": Family(norms=1, tied=True),
    "cohere2": Family(mixer=MixerTraits(window_every=4), norms=1, tied=True),
    "deepseek": Family(),
    "deepseek_v32": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "deepseek_v4": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "deepseek_v41_text": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "dots1": Family(mixer=HEAD),
    "ernie4_5": Family(tied=True),
    "ernie4_5_moe": Family(tied=True, feed_forward=FeedForwardTraits(routing_bias=True)),
    "exaone4": Family(mixer=MixerTraits(qk_norm="head", window_every=4)),
    "exaone_moe": Family(mixer=MixerTraits(qk_norm="head", window_every=4)),
    "falcon_h1": Family(mixer=MixerTraits(state="mamba2")),
    "falcon_mamba": Family(mixer=MixerTraits(state="mamba1"), norms=1),
    "gemma": Family(mixer=MixerTraits(head_dim=256), tied=True, feed_forward=FeedForwardTraits(gated=True)),
    "gemma3n_text": Family(mixer=HEAD, norms=4, tied=True, feed_forward=FeedForwardTraits(gated=True)),
    "gemma4_text": Family(
        mixer=HEAD, norms=4, expert_norms=3, tied=True, feed_forward=FeedForwardTraits(gated=True, dense_beside=True)
    ),
    "glm4_moe_lite": Family(),
    "glm5_next_text": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "glm_moe_dsa": Family(feed_forward=FeedForwardTraits(routing_bias=True), positions=202_752),
    "granitemoe": Family(feed_forward=MIXTRAL),
    "granitemoehybrid": Family(mixer=MixerTraits(state="mamba2"), feed_forward=MIXTRAL),
    "granitemoeshared": Family(feed_forward=MIXTRAL),
    "helium": Family(),
    "hunyuan": Family(mixer=HEAD, tied=True),
    "hunyuan_v1_dense": Family(mixer=HEAD, tied=True),
    "hunyuan_v1_moe": Family(mixer=HEAD, tied=True),
    "jamba": Family(mixer=MixerTraits(state="mamba1"), feed_forward=MIXTRAL),
    "kimi_linear": Family(),
    "lfm2": Family(
        mixer=MixerTraits(qk_norm="head", state="short_convolution"),
        tied=True,
        feed_forward=FeedForwardTraits(adjusted=True),
    ),
    "lfm2_moe": Family(mixer=MixerTraits(qk_norm="head", state="short_convolution"), tied=True),
    "longcat_flash": Family(),
    "mamba": Family(mixer=MixerTraits(state="mamba1"), norms=1, tied=True),
    "mamba2": Family(mixer=MixerTraits(state="mamba2"), norms=1, tied=True),
    "mimo": Family(mixer=MixerTraits(qkv_bias=True, o_bias=False)),
    "mimo_v2_flash": Family(),
    "minicpm": Family(tied=True),
    "minicpm3": Family(tied=True),
    "minimax": Family(mixer=MixerTraits(state="lightning"), feed_forward=MIXTRAL),
    "minimax_m3": Family(mixer=HEAD, feed_forward=FeedForwardTraits(gated=True)),
    "minimax_text_01": Family(mixer=MixerTraits(state="lightning"), feed_forward=MIXTRAL),
    "ministral": Family(),
    "ministral3": Family(),
    "mistral4": Family(),
    "muse_glimmer_text": Family(norms=4),
    "nemotron-nas": Family(),
    "nemotron": Family(feed_forward=FeedForwardTraits(gated=False), norm_bias=True),
    "nemotron_h": Family(
        mixer=MixerTraits(state="mamba2", state_float32=True),
        feed_forward=FeedForwardTraits(gated=False, routing_bias=True),
    ),
    "olmo": Family(norms=0),
    "olmo2": Family(mixer=MixerTraits(qk_norm="all")),
    "olmo3": Family(mixer=MixerTraits(qk_norm="all", window_every=4)),
    "olmoe": Family(mixer=MixerTraits(qk_norm="all"), feed_forward=MIXTRAL),
    "phimoe": Family(mixer=MixerTraits(qkv_bias=True, o_bias=True), feed_forward=MIXTRAL, norm_bias=True),
    "qwen3_5_moe_text": Family(mixer=DELTA, feed_forward=GATED_SHARED),
    "qwen3_5_text": Family(mixer=DELTA),
    "qwen3_next": Family(mixer=DELTA, feed_forward=GATED_SHARED),
    "seed_oss": Family(mixer=MixerTraits(o_bias=False)),
    "smollm3": Family(tied=True),
    "stablelm": Family(norm_bias=True),
    "starcoder2": Family(
        mixer=MixerTraits(qkv_bias=True, o_bias=True),
        norm_bias=True,
        tied=True,
        feed_forward=FeedForwardTraits(gated=False, bias=True),
    ),
    "step3p5": Family(mixer=HEAD),
    "step3p7": Family(mixer=HEAD, like="step3p5"),
}
"""By ``model_type``."""

ALIASES = {
    "bailing_hybrid": "bailing_moe_linear",
    "BailingMoeV2": "bailing_moe_v2",
    "ernie4_5_moe_vl": "ernie4_5_moe",
    "ernie4_5_vl_moe": "ernie4_5_moe",
    "deepseek_ref": "deepseek_v4",
    "deepseek_v41": "deepseek_v41_text",
    "deci": "nemotron-nas",
    "gemma4": "gemma4_text",
    "gemma4_unified_text": "gemma4_text",
    "HunYuanDenseV1": "hunyuan_v1_dense",
    "kimi_k3": "kimi_linear",
    "minimax_m3_vl": "minimax_m3",
    "MiniMaxText01": "minimax_text_01",
    "MiniMaxM1": "minimax_text_01",
    "minimax_m1": "minimax_text_01",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "step3p5_text": "step3p5",
}
"""Other names of the same."""
