"""How the configurations of each ``model_type`` describe a model.

A reader takes the fields of one configuration and gives those of ``Model``. What a configuration omits takes the
default of that type's configuration class in Hugging Face ``transformers`` (``configuration_<model_type>.py``); biases
and norms, which configurations seldom mention, are those of its ``modeling_<model_type>.py``. Widths, depths, heads,
vocabulary and experts are never guessed, except where the publisher's own files rely on a default (Gemma 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.models.gpt_architectures import (
    BIASED,
    LAYERS,
    Values,
    bloom,
    chatglm,
    dbrx,
    falcon,
    gpt2,
    gpt_bigcode,
    gpt_neo,
    gpt_neox_japanese,
    gptj,
    mpt,
    opt,
    xglm,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalog.config_fields import Fields


def _common(c: Fields, *, positions: int, kv_heads: int | None = None, head_dim: int | None = None) -> Values:
    """Return what nearly all configurations share, under the names that Llama's uses."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("num_hidden_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": c.size("num_key_value_heads", default=kv_heads or heads, null=heads),
        "head_dim": c.size("head_dim", default=head_dim or hidden // heads, null=hidden // heads),
        "intermediate_size": c.size("intermediate_size"),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.size("max_position_embeddings", default=positions),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=False),
    }


def _windows(c: Fields, values: Values, *, window: int, layers: int) -> Values:
    """Read the sliding-window layers: ``layer_types`` if it is there, else ``layers`` of them; none if the window covers all."""
    types = c.texts("layer_types", values["num_hidden_layers"])
    if types is not None:
        layers = sum(kind in ("sliding_attention", "chunked_attention") for kind in types)
    if not layers or not 0 < window < values["max_position_embeddings"]:
        return {}
    return {"sliding_window": window, "num_windowed_layers": layers}


def _attention_bias(c: Fields, name: str = "attention_bias", *, default: bool = False) -> Values:
    bias = c.flag(name, default=default)
    return {"qkv_bias": bias, "o_bias": bias}


def _llama(c: Fields) -> Values:
    mlp = {"mlp_bias": c.flag("mlp_bias", default=False)}
    return _common(c, positions=2048) | _attention_bias(c) | mlp


def _mistral(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=8)
    # a configuration without the key has a window, one with null has none
    window = c.whole("sliding_window", default=4096, null=0)
    return values | _windows(c, values, window=window, layers=values["num_hidden_layers"])


def _mixtral(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=8)
    experts = {
        "num_experts": c.size("num_local_experts"),
        "num_experts_per_tok": c.size("num_experts_per_tok", default=2),
        "moe_intermediate_size": values["intermediate_size"],
    }
    window = c.whole("sliding_window", default=0)
    return values | experts | _windows(c, values, window=window, layers=values["num_hidden_layers"])


def _qwen_windows(c: Fields, values: Values) -> Values:
    if not c.flag("use_sliding_window", default=False):
        return {}
    full = min(c.whole("max_window_layers", default=28), values["num_hidden_layers"])
    window = c.whole("sliding_window", default=4096)
    return _windows(c, values, window=window, layers=values["num_hidden_layers"] - full)


def _qwen2(c: Fields) -> Values:
    values = _common(c, positions=32_768, kv_heads=32) | {"qkv_bias": True}
    return values | _qwen_windows(c, values)


def _qwen3(c: Fields) -> Values:
    values = _common(c, positions=32_768, kv_heads=32, head_dim=128) | _attention_bias(c) | {"qk_norm": True}
    return values | _qwen_windows(c, values)


def _qwen_experts(c: Fields, values: Values, *, per_token: int) -> Values:
    dense = c.wholes("mlp_only_layers") or []
    if sorted(dense) != list(range(len(dense))):
        raise c.error("mlp_only_layers are modelled only at the start (0, 1, 2, ...)")
    return {
        "num_experts": c.size("num_experts", "num_local_experts"),
        "num_experts_per_tok": c.size("num_experts_per_tok", default=per_token),
        "moe_intermediate_size": c.size("moe_intermediate_size"),
        "first_dense_layers": len(dense),
        "moe_layer_step": c.size("decoder_sparse_step", default=1, most=LAYERS),
    } | _qwen_windows(c, values)


def _qwen2_moe(c: Fields) -> Values:
    values = _common(c, positions=32_768, kv_heads=16) | {"qkv_bias": c.flag("qkv_bias", default=True)}
    shared = {
        "shared_expert_intermediate_size": c.size("shared_expert_intermediate_size"),
        "shared_expert_gate": True,
    }
    return values | shared | _qwen_experts(c, values, per_token=4)


def _qwen3_moe(c: Fields) -> Values:
    values = _common(c, positions=32_768, kv_heads=4) | _attention_bias(c) | {"qk_norm": True}
    return values | _qwen_experts(c, values, per_token=8)


def _gemma2(c: Fields) -> Values:
    values = _common(c, positions=8192, kv_heads=4, head_dim=256) | _attention_bias(c) | {"norms_per_layer": 4}
    values["tie_word_embeddings"] = c.flag("tie_word_embeddings", default=True)
    window = c.whole("sliding_window", default=4096)
    return values | _windows(c, values, window=window, layers=(values["num_hidden_layers"] + 1) // 2)


def _gemma3_text(c: Fields) -> Values:
    layers = c.size("num_hidden_layers", most=LAYERS)
    values: Values = {
        "hidden_size": c.size("hidden_size"),
        "num_hidden_layers": layers,
        # the published 4B to 27B files leave these to their defaults
        "num_attention_heads": c.size("num_attention_heads", default=8),
        "num_key_value_heads": c.size("num_key_value_heads", default=4),
        "head_dim": c.size("head_dim", default=256),
        "vocab_size": c.size("vocab_size", default=262_208),
        "intermediate_size": c.size("intermediate_size"),
        "max_position_embeddings": c.size("max_position_embeddings", default=131_072),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "norms_per_layer": 4,
        "qk_norm": True,
    } | _attention_bias(c)
    pattern = c.size("sliding_window_pattern", "_sliding_window_pattern", default=6)
    window = c.whole("sliding_window", default=4096)
    return values | _windows(c, values, window=window, layers=layers - layers // pattern)


def _gemma3(c: Fields) -> Values:
    values = _gemma3_text(c.part("text_config"))
    vision = c.maybe_part("vision_config")
    return values | {"encoder_parameters": _siglip(vision, values["hidden_size"]) if vision else 0}


def _siglip(v: Fields, hidden: int) -> int:
    """Return parameters of a SigLIP encoder (arXiv 2303.15343) and of Gemma 3's projection from it to ``hidden``."""
    width, mlp = v.size("hidden_size", default=768), v.size("intermediate_size", default=3072)
    patch, image = v.size("patch_size", default=16), v.size("image_size", default=224)
    embedding = 3 * patch * patch * width + width + (image // patch) ** 2 * width
    layer = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width
    layers = v.size("num_hidden_layers", default=12, most=LAYERS)
    return embedding + layers * layer + 2 * width + width * hidden + width


def _phi(c: Fields) -> Values:
    if c.flag("qk_layernorm", default=False):
        raise c.error("qk_layernorm is not modelled for phi")
    # attention and feed-forward stand side by side behind one norm
    biases = dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias", "norm_bias", "head_bias"), True)
    return _common(c, positions=2048) | biases | {"gated_mlp": False, "norms_per_layer": 1}


def _phi3(c: Fields) -> Values:
    values = _common(c, positions=4096)
    window = c.whole("sliding_window", default=0)
    return values | _windows(c, values, window=window, layers=values["num_hidden_layers"])


def _latent_attention(c: Fields, *, query_rank: int) -> Values:
    """Read multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""
    nope, rope = c.size("qk_nope_head_dim", default=128), c.size("qk_rope_head_dim", default=64)
    return {
        "attention": "mla",
        "q_lora_rank": c.whole("q_lora_rank", default=query_rank, null=0),
        "kv_lora_rank": c.size("kv_lora_rank", default=512),
        "qk_nope_head_dim": nope,
        "qk_rope_head_dim": rope,
        "v_head_dim": c.size("v_head_dim", default=128),
        "head_dim": nope + rope,
    } | _attention_bias(c)


def _shared_experts(c: Fields, *, dense: int, per_token: int | None, shared: int) -> Values:
    """Return routed experts after some dense layers, beside experts that every token goes through (DeepSeekMoE)."""
    if c.size("moe_layer_freq", default=1) != 1:
        raise c.error("moe_layer_freq other than 1 is not modelled")
    width = c.size("moe_intermediate_size")
    return {
        "num_experts": c.size("n_routed_experts", "num_experts"),
        "num_experts_per_tok": c.size("num_experts_per_tok", default=per_token),
        "moe_intermediate_size": width,
        "shared_expert_intermediate_size": width * c.whole("n_shared_experts", default=shared, null=0, most=LAYERS),
        "first_dense_layers": c.whole("first_k_dense_replace", default=dense, most=LAYERS),
    }


def _routing_biases(values: Values) -> int:
    """Count the per-expert biases that balance the load (arXiv 2412.19437, section 2.1.2)."""
    moe_layers = max(0, values["num_hidden_layers"] - values.get("first_dense_layers", 0))
    return int(moe_layers * values["num_experts"])


def _deepseek_v2(c: Fields) -> Values:
    experts = _shared_experts(c, dense=0, per_token=None, shared=2)
    values = _common(c, positions=2048) | _latent_attention(c, query_rank=1536) | experts
    biased = c.text("topk_method", default="greedy") == "noaux_tc"
    return values | {"extra_parameters": _routing_biases(values) if biased else 0}


def _deepseek_v3(c: Fields) -> Values:
    experts = _shared_experts(c, dense=3, per_token=8, shared=1)
    values = _common(c, positions=4096) | _latent_attention(c, query_rank=1536) | experts
    return values | {"extra_parameters": _routing_biases(values)}


def _glm(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=2, head_dim=128)
    return values | {"qkv_bias": c.flag("attention_bias", default=True)}


def _glm4(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=2, head_dim=128)
    return values | {"qkv_bias": c.flag("attention_bias", default=True), "norms_per_layer": 4}


def _glm4_moe(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=8) | _shared_experts(c, dense=1, per_token=8, shared=1)
    values |= {"qkv_bias": c.flag("attention_bias", default=False), "qk_norm": c.flag("use_qk_norm", default=False)}
    return values | {"extra_parameters": _routing_biases(values)}


def _gpt_oss(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=8, head_dim=64) | _attention_bias(c, default=True)
    values |= {
        "num_experts": c.size("num_local_experts"),
        "num_experts_per_tok": c.size("num_experts_per_tok", "experts_per_token", default=4),
        "moe_intermediate_size": values["intermediate_size"],
        "expert_bias": True,
        # one learned attention sink a head
        "extra_parameters": values["num_hidden_layers"] * values["num_attention_heads"],
    }
    window = c.whole("sliding_window", default=128)
    return values | _windows(c, values, window=window, layers=(values["num_hidden_layers"] + 1) // 2)


def _llama4_text(c: Fields) -> Values:
    values = _common(c, positions=131_072, kv_heads=8, head_dim=128) | _attention_bias(c)
    layers, width = values["num_hidden_layers"], values["intermediate_size"]
    step = c.size("interleave_moe_layer_step", default=1, most=LAYERS)
    listed = c.wholes("moe_layers")
    if listed is not None and listed != list(range(step - 1, layers, step)):
        raise c.error("moe_layers are modelled only at equal steps (interleave_moe_layer_step)")
    interval = c.size("no_rope_layer_interval", default=4)
    rope = c.wholes("no_rope_layers") or [int((layer + 1) % interval != 0) for layer in range(layers)]
    # chunked attention sees half a chunk on average, a window sees all of it: an upper bound on time, exact on memory
    window = c.whole("attention_chunk_size", default=8192, null=0)
    return (
        values
        | {
            "intermediate_size": c.size("intermediate_size_mlp", default=16_384),
            "num_experts": c.size("num_local_experts"),
            "num_experts_per_tok": c.size("num_experts_per_tok", default=1),
            "moe_intermediate_size": width,
            "shared_expert_intermediate_size": width,
            "moe_layer_step": step,
        }
        | _windows(c, values, window=window, layers=sum(bool(rotated) for rotated in rope[:layers]))
    )


def _llama4(c: Fields) -> Values:
    values = _llama4_text(c.part("text_config"))
    vision = c.maybe_part("vision_config")
    return values | {"encoder_parameters": _llama4_vision(vision, values["hidden_size"]) if vision else 0}


def _llama4_vision(v: Fields, hidden: int) -> int:
    """Return parameters of Llama 4's image encoder, its adapter and the projection to ``hidden``."""
    width, mlp = v.size("hidden_size", default=768), v.size("intermediate_size", default=5632)
    patch, image = v.size("patch_size", default=14), v.size("image_size", default=448)
    inner, outer = v.size("projector_input_dim", default=4096), v.size("projector_output_dim", default=4096)
    embedding = 3 * patch * patch * width + ((image // patch) ** 2 + 1) * width + width
    layer = 4 * (width * width + width) + 2 * width * mlp + mlp + width + 4 * width
    layers = v.size("num_hidden_layers", default=34, most=LAYERS)
    projections = mlp * inner + inner * outer + v.size("vision_output_dim", default=7680) * hidden
    return embedding + layers * layer + 4 * width + projections


def _minimax_m2(c: Fields) -> Values:
    values = _common(c, positions=196_608, kv_heads=8, head_dim=128)
    values |= {
        "num_experts": c.size("num_local_experts"),
        "num_experts_per_tok": c.size("num_experts_per_tok", default=8),
        "moe_intermediate_size": values["intermediate_size"],
    }
    # its query and key norms span all heads
    norms = values["head_dim"] * (values["num_attention_heads"] + values["num_key_value_heads"])
    return values | {"extra_parameters": values["num_hidden_layers"] * norms + _routing_biases(values)}


def _gpt_neox(c: Fields) -> Values:
    biases = BIASED | _attention_bias(c, default=True)
    return _common(c, positions=2048) | biases | {"gated_mlp": False}


def _internlm(c: Fields) -> Values:
    return _common(c, positions=2048) | _attention_bias(c, "bias", default=True)


def _internlm2(c: Fields) -> Values:
    return _common(c, positions=2048) | _attention_bias(c, "bias", default=False)


READERS: dict[str, Callable[[Fields], Values]] = {
    "biogpt": xglm,
    "bloom": bloom,
    "chatglm": chatglm,
    "codegen": gptj,
    "dbrx": dbrx,
    "deepseek_v2": _deepseek_v2,
    "deepseek_v3": _deepseek_v3,
    "falcon": falcon,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "gemma3_text": _gemma3_text,
    "glm": _glm,
    "glm4": _glm4,
    "glm4_moe": _glm4_moe,
    "gpt2": gpt2,
    "gpt_bigcode": gpt_bigcode,
    "gpt_neo": gpt_neo,
    "gpt_neox": _gpt_neox,
    "gpt_neox_japanese": gpt_neox_japanese,
    "gpt_oss": _gpt_oss,
    "gptj": gptj,
    "granite": _llama,
    "internlm": _internlm,
    "internlm2": _internlm2,
    "kimi_k2": _deepseek_v3,
    "llama": _llama,
    "llama4": _llama4,
    "llama4_text": _llama4_text,
    "minimax_m2": _minimax_m2,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "mpt": mpt,
    "opt": opt,
    "phi": _phi,
    "phi3": _phi3,
    "qwen2": _qwen2,
    "qwen2_moe": _qwen2_moe,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "xglm": xglm,
}
"""By ``model_type``."""
