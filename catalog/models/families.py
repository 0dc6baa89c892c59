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
    routed_attention: bool = False
    """Queries and outputs of attention are experts, too."""
    extra: float = 0.0
    """Further matrices of a layer, in squares of the hidden size."""
    like: str = ""
    """The family it follows, for those whose code is not public."""


HEAD = MixerTraits(qk_norm="head")
WIDE = MixerTraits(gate="wide")
MIXTRAL = FeedForwardTraits(expert_width_is_dense=True)
DELTA = MixerTraits(qk_norm="head", gate="wide")
GATED_SHARED = FeedForwardTraits(shared_gate=True)

FAMILIES: dict[str, Family] = {
    "afmoe": Family(
        mixer=MixerTraits(qk_norm="head", gate="wide"), norms=4, feed_forward=FeedForwardTraits(routing_bias=True)
    ),
    "apertus": Family(mixer=HEAD, feed_forward=FeedForwardTraits(gated=False)),
    "apertus1p5_text": Family(mixer=HEAD, feed_forward=FeedForwardTraits(gated=False)),
    "arcee": Family(feed_forward=FeedForwardTraits(gated=False)),
    "aria_text": Family(),
    "axk1": Family(),
    "axk2": Family(mixer=WIDE),
    "bailing_moe": Family(feed_forward=FeedForwardTraits(gated=True)),
    "bailing_moe_linear": Family(mixer=MixerTraits(qk_norm="head", state="lightning", full_rank=True)),
    "bailing_moe_v2": Family(mixer=HEAD),
    "bamba": Family(mixer=MixerTraits(state="mamba2")),
    "beam": Family(mixer=MixerTraits(qk_norm="head", gate="wide"), norms=4),
    "bitnet": Family(feed_forward=FeedForwardTraits(gated=True), norms=5),
    "cohere": Family(norms=1, tied=True),
    "cohere2": Family(mixer=MixerTraits(window_every=4), norms=1, tied=True),
    "cohere2_moe": Family(norms=1, tied=True),
    "cosmos3_edge_text": Family(feed_forward=FeedForwardTraits(gated=False)),
    "cwm": Family(),
    "deepseek": Family(),
    "deepseek_v32": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "deepseek_v4": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "deepseek_v41_text": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "diffllama": Family(),
    "doge": Family(mixer=HEAD, norms=4),
    "dory": Family(mixer=WIDE),
    "dots1": Family(mixer=HEAD),
    "dots3_note_text": Family(mixer=MixerTraits(gate="heads")),
    "ernie4_5": Family(tied=True),
    "ernie4_5_moe": Family(tied=True, feed_forward=FeedForwardTraits(routing_bias=True)),
    "exaone": Family(),
    "exaone4": Family(mixer=MixerTraits(qk_norm="head", window_every=4)),
    "exaone_moe": Family(mixer=MixerTraits(qk_norm="head", window_every=4)),
    "falcon_h1": Family(mixer=MixerTraits(state="mamba2")),
    "falcon_mamba": Family(mixer=MixerTraits(state="mamba1"), feed_forward=FeedForwardTraits(none=True), norms=1),
    "flex_olmo": Family(mixer=MixerTraits(qk_norm="all")),
    "flint": Family(),
    "gemma": Family(mixer=MixerTraits(head_dim=256), tied=True, feed_forward=FeedForwardTraits(gated=True)),
    "gemma3n_text": Family(mixer=HEAD, norms=4, tied=True, feed_forward=FeedForwardTraits(gated=True)),
    "gemma4_text": Family(
        mixer=HEAD, norms=4, expert_norms=3, tied=True, feed_forward=FeedForwardTraits(gated=True, dense_beside=True)
    ),
    "glm4_moe_lite": Family(),
    "glm5_next_text": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "glm_moe_dsa": Family(feed_forward=FeedForwardTraits(routing_bias=True), positions=202_752),
    "glm_ocr_text": Family(norms=4),
    "granite_docling_text": Family(tied=True),
    "granite_swa": Family(),
    "granitemoe": Family(feed_forward=MIXTRAL),
    "granitemoe_swa": Family(feed_forward=MIXTRAL),
    "granitemoehybrid": Family(mixer=MixerTraits(state="mamba2"), feed_forward=MIXTRAL),
    "granitemoeshared": Family(feed_forward=MIXTRAL),
    "helium": Family(),
    "hrm_text": Family(mixer=WIDE, norms=0),
    "hunyuan": Family(mixer=HEAD, tied=True),
    "hunyuan_v1_dense": Family(mixer=HEAD, tied=True),
    "hunyuan_v1_moe": Family(mixer=HEAD, tied=True, feed_forward=FeedForwardTraits(shared=1)),
    "hy_v3": Family(mixer=HEAD, feed_forward=FeedForwardTraits(routing_bias=True)),
    "hy_v4": Family(mixer=MixerTraits(gate="wide", sinks=True), feed_forward=FeedForwardTraits(routing_bias=True)),
    "hyperclovax": Family(),
    "inkling2_loop_text": Family(mixer=MixerTraits(qk_norm="head", convolved=True, gate="wide", sinks=True)),
    "inkling2_text": Family(mixer=MixerTraits(qk_norm="head", convolved=True, gate="wide", sinks=True)),
    "inkling_text": Family(mixer=MixerTraits(qk_norm="head", convolved=True)),
    "internlm3": Family(),
    "iquestcoder": Family(),
    "jais2": Family(norm_bias=True),
    "jamba": Family(mixer=MixerTraits(state="mamba1"), feed_forward=MIXTRAL),
    "jetmoe": Family(routed_attention=True, tied=True),
    "kimi_linear": Family(),
    "kolibri1": Family(mixer=HEAD, norms=4),
    "laguna": Family(
        mixer=MixerTraits(qk_norm="head", gate="heads"), feed_forward=FeedForwardTraits(routing_bias=True)
    ),
    "lara_mini": Family(mixer=HEAD),
    "lfm2": Family(
        mixer=MixerTraits(qk_norm="head", state="short_convolution"),
        tied=True,
        feed_forward=FeedForwardTraits(adjusted=True),
    ),
    "lfm2_moe": Family(mixer=MixerTraits(qk_norm="head", state="short_convolution"), tied=True),
    "lfm3": Family(mixer=MixerTraits(qk_norm="head", state="short_convolution"), norms=4, tied=True),
    "longcat_flash": Family(),
    "mamba": Family(mixer=MixerTraits(state="mamba1"), feed_forward=FeedForwardTraits(none=True), norms=1, tied=True),
    "mamba2": Family(mixer=MixerTraits(state="mamba2"), feed_forward=FeedForwardTraits(none=True), norms=1, tied=True),
    "mellum": Family(mixer=HEAD),
    "mimo": Family(mixer=MixerTraits(qkv_bias=True, o_bias=False)),
    "mimo_v2_flash": Family(mixer=MixerTraits(window_kv_times=2)),
    "minicpm": Family(tied=True),
    "minicpm3": Family(tied=True),
    "minimax": Family(mixer=MixerTraits(state="lightning"), feed_forward=MIXTRAL),
    "minimax_m3": Family(mixer=HEAD, feed_forward=FeedForwardTraits(gated=True)),
    "minimax_m3_vl_text": Family(mixer=HEAD, feed_forward=FeedForwardTraits(gated=True)),
    "minimax_text_01": Family(mixer=MixerTraits(state="lightning"), feed_forward=MIXTRAL),
    "ministral": Family(),
    "mistral4": Family(),
    "mistral_large4_text": Family(),
    "mllama_text_model": Family(),
    "modernbert-decoder": Family(tied=True, feed_forward=FeedForwardTraits(gated=True)),
    "molmo2_text": Family(mixer=HEAD),
    "muse_glimmer_text": Family(mixer=WIDE, norms=4),
    "muse_spark_text": Family(mixer=WIDE, norms=5),
    "nanochat": Family(norms=0),
    "nemotron": Family(feed_forward=FeedForwardTraits(gated=False), norm_bias=True),
    "nemotron-nas": Family(),
    "nemotron_h": Family(
        mixer=MixerTraits(state="mamba2", state_float32=True),
        feed_forward=FeedForwardTraits(gated=False, routing_bias=True),
    ),
    "olmo": Family(norms=0),
    "olmo2": Family(mixer=MixerTraits(qk_norm="all")),
    "olmo3": Family(mixer=MixerTraits(qk_norm="all", window_every=4)),
    "olmo_hybrid": Family(mixer=MixerTraits(qk_norm="all")),
    "olmoe": Family(mixer=MixerTraits(qk_norm="all"), feed_forward=MIXTRAL),
    "ouro": Family(norms=4),
    "paddleocr_vl_text": Family(tied=True),
    "persimmon": Family(
        mixer=MixerTraits(qkv_bias=True, o_bias=True), norm_bias=True, feed_forward=FeedForwardTraits(bias=True)
    ),
    "phi4_multimodal": Family(tied=True),
    "phi4mm": Family(tied=True),
    "phimoe": Family(mixer=MixerTraits(qkv_bias=True, o_bias=True), feed_forward=MIXTRAL, norm_bias=True),
    "qwen3_5_moe_text": Family(mixer=DELTA, feed_forward=GATED_SHARED),
    "qwen3_5_text": Family(mixer=DELTA),
    "qwen3_next": Family(mixer=DELTA, feed_forward=GATED_SHARED),
    "recurrent_gemma": Family(
        mixer=MixerTraits(o_bias=True, state="gated_linear_recurrence", head_dim=256),
        tied=True,
        feed_forward=FeedForwardTraits(gated=True, bias=True, width_share=0.5),
    ),
    "rwkv": Family(
        mixer=MixerTraits(state="weighted_key_value"),
        norm_bias=True,
        extra=1.0,
        feed_forward=FeedForwardTraits(gated=False),
    ),
    "sarvam_mla": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "sarvam_moe": Family(mixer=HEAD, feed_forward=FeedForwardTraits(routing_bias=True)),
    "seed_oss": Family(mixer=MixerTraits(o_bias=False)),
    "smollm3": Family(tied=True),
    "solar_open": Family(feed_forward=FeedForwardTraits(routing_bias=True)),
    "stablelm": Family(norm_bias=True),
    "starcoder2": Family(
        mixer=MixerTraits(qkv_bias=True, o_bias=True),
        norm_bias=True,
        tied=True,
        feed_forward=FeedForwardTraits(gated=False, bias=True),
    ),
    "step3p5": Family(mixer=HEAD),
    "step3p7": Family(mixer=HEAD, like="step3p5"),
    "unlimited_ocr_text": Family(),
    "vaultgemma": Family(tied=True, norms=2, feed_forward=FeedForwardTraits(gated=True)),
    "voxtral_realtime_text": Family(tied=True),
    "xlstm": Family(mixer=MixerTraits(state="matrix_lstm")),
    "youtu": Family(),
    "zamba": Family(
        mixer=MixerTraits(state="mamba1", beside_embeddings=True),
        tied=True,
        feed_forward=FeedForwardTraits(gated=True, beside_hybrids=True),
    ),
    "zamba2": Family(
        mixer=MixerTraits(state="mamba2", beside_embeddings=True),
        tied=True,
        feed_forward=FeedForwardTraits(gated=True, beside_hybrids=True),
    ),
    "zaya": Family(mixer=MixerTraits(qk_norm="head", convolved=True), norms=10, tied=True),
}
"""By ``model_type``."""

ALIASES = {
    "aquila": "llama",
    "bailing_hybrid": "bailing_moe_linear",
    "BailingMoeV2": "bailing_moe_v2",
    "deci": "nemotron-nas",
    "decilm": "llama",
    "deepseek_ref": "deepseek_v4",
    "deepseek_v41": "deepseek_v41_text",
    "deepseek_vl_v2": "deepseek_v2",
    "ernie4_5_moe_vl": "ernie4_5_moe",
    "ernie4_5_vl_moe": "ernie4_5_moe",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "gemma4_unified_text": "gemma4_text",
    "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4",
    "HunYuanDenseV1": "hunyuan_v1_dense",
    "hy_v4_vl_text": "hy_v4",
    "inkling_mm_model": "inkling_text",
    "kimi_k3": "kimi_linear",
    "kimi_vl": "deepseek_v3",
    "llama4_unified": "llama4",
    "llava": "llama",
    "minimax_m1": "minimax_text_01",
    "minimax_m3_vl": "minimax_m3",
    "MiniMaxM1": "minimax_text_01",
    "MiniMaxText01": "minimax_text_01",
    "ministral3": "mistral",
    "mistral3": "mistral",
    "pixtral": "mistral",
    "qwen2_5_omni_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_omni_moe_text": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_vl_text": "qwen3",
    "solar": "llama",
    "step3p5_text": "step3p5",
    "voxtral": "llama",
    "xverse": "llama",
    "yi": "llama",
}
"""Types that are read as another, of ``FAMILIES`` or ``architectures.READERS``, for their decoders are the same."""
