"""How the configurations of GPT-2 and its kin, from before Llama set the names, describe a model.

What holds for every reader is said in ``catalog.models.architectures``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from catalog.config_fields import Fields

Values = dict[str, Any]
LAYERS = 1000
"""More layers than any model has."""

BIASED: Values = dict.fromkeys(("qkv_bias", "o_bias", "mlp_bias", "norm_bias"), True)
"""GPT-2 and its kin: biases and LayerNorm everywhere."""


def _gpt_names(c: Fields, *, positions: int) -> Values:
    """Return the names of GPT-2's configuration, which GPT-J's shares."""
    hidden, heads = c.size("n_embd", "hidden_size"), c.size("n_head", "num_attention_heads")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("n_layer", "num_hidden_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": c.size("n_inner", default=4 * hidden),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.size("n_positions", "n_ctx", default=positions),
        "gated_mlp": False,
    }


def gpt2(c: Fields) -> Values:
    values = _gpt_names(c, positions=1024) | BIASED
    tied = c.flag("tie_word_embeddings", default=True)
    return values | {"tie_word_embeddings": tied, "learned_positions": values["max_position_embeddings"]}


def gptj(c: Fields) -> Values:
    values = _gpt_names(c, positions=2048) | {"tie_word_embeddings": c.flag("tie_word_embeddings", default=False)}
    return values | {"mlp_bias": True, "norm_bias": True, "head_bias": True, "norms_per_layer": 1}


def opt(c: Fields) -> Values:
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    if c.size("word_embed_proj_dim", default=hidden) != hidden:
        raise c.error("a word_embed_proj_dim other than hidden_size (OPT-350M) is not modelled")
    positions = c.size("max_position_embeddings", default=2048)
    biased = c.flag("enable_bias", default=True)
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("num_hidden_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": c.size("ffn_dim"),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": positions,
        "learned_positions": positions + 2,  # the table starts with two rows that are never used
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "final_norms": int(c.flag("do_layer_norm_before", default=True)),
        "qkv_bias": biased,
        "o_bias": biased,
        "mlp_bias": biased,
        "norm_bias": True,
    }


def bloom(c: Fields) -> Values:
    hidden, heads = c.size("hidden_size", "n_embed"), c.size("n_head", "num_attention_heads")
    return BIASED | {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("n_layer", "num_hidden_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.size("seq_length", default=2048),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "final_norms": 2,
    }


def falcon(c: Fields) -> Values:
    hidden, heads = c.size("hidden_size", "n_embed"), c.size("num_attention_heads", "n_head")
    bias = c.flag("bias", default=False)
    if c.flag("new_decoder_architecture", default=False):  # 40B, 180B and 11B
        kv_heads = c.size("num_kv_heads", "n_head_kv", default=heads)
        norms = c.size("num_ln_in_parallel_attn", default=2, most=2)
    else:
        kv_heads = 1 if c.flag("multi_query", default=True) else heads
        norms = 1 if c.flag("parallel_attn", default=True) else 2
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("num_hidden_layers", "n_layer", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "intermediate_size": c.size("ffn_hidden_size", default=4 * hidden),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.size("max_position_embeddings", default=2048),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "norm_bias": True,
        "norms_per_layer": norms,
        "qkv_bias": bias,
        "o_bias": bias,
        "mlp_bias": bias,
    }


def gpt_bigcode(c: Fields) -> Values:
    """StarCoder's: GPT-2 whose heads share one key and value (arXiv 2305.06161)."""
    return gpt2(c) | ({"num_key_value_heads": 1} if c.flag("multi_query", default=True) else {})


def gpt_neo(c: Fields) -> Values:
    hidden, heads, layers = c.size("hidden_size"), c.size("num_heads"), c.size("num_layers", most=LAYERS)
    positions = c.size("max_position_embeddings", default=2048)
    values = BIASED | {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": c.size("intermediate_size", default=4 * hidden),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": positions,
        "learned_positions": positions,
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "qkv_bias": False,
    }
    local = c.items_of("attention_layers").count("local") if c.has("attention_layers") else layers // 2
    window = c.whole("window_size", default=256)
    if local and 0 < window < positions:
        values |= {"sliding_window": window, "num_windowed_layers": min(local, layers)}
    return values


def gpt_neox_japanese(c: Fields) -> Values:
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("num_hidden_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": hidden * c.size("intermediate_multiple_size", default=4, most=100),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.size("max_position_embeddings", default=2048),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "norm_bias": True,
    }


def mpt(c: Fields) -> Values:
    hidden, heads = c.size("d_model"), c.size("n_heads")
    attention = c.maybe_object("attn_config")
    positions = c.size("max_seq_len", default=2048)
    alibi = attention is not None and attention.flag("alibi", default=False)
    biased = not c.flag("no_bias", default=True)
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("n_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": attention.size("kv_n_heads", default=heads, null=heads) if attention else heads,
        "head_dim": hidden // heads,
        "intermediate_size": hidden * c.size("expansion_ratio", default=4, most=100),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": positions,
        "learned_positions": 0 if alibi else positions,
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
        "norm_bias": biased,
        "qkv_bias": biased,
        "o_bias": biased,
        "mlp_bias": biased,
    }


def xglm(c: Fields) -> Values:
    """XGLM and BioGPT: OPT's layers; XGLM computes its positions."""
    hidden, heads = c.size("d_model", "hidden_size"), c.size("attention_heads", "num_attention_heads")
    positions = c.size("max_position_embeddings", default=2048)
    return BIASED | {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("num_layers", "num_hidden_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": c.size("ffn_dim", "intermediate_size"),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": positions,
        "learned_positions": positions + 2 if c.has("intermediate_size") else 0,
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=True),
        "gated_mlp": False,
    }


def dbrx(c: Fields) -> Values:
    hidden, heads = c.size("d_model"), c.size("n_heads")
    attention, experts = c.part("attn_config"), c.part("ffn_config")
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("n_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": attention.size("kv_n_heads"),
        "head_dim": hidden // heads,
        "intermediate_size": experts.size("ffn_hidden_size"),
        "moe_intermediate_size": experts.size("ffn_hidden_size"),
        "num_experts": experts.size("moe_num_experts"),
        "num_experts_per_tok": experts.size("moe_top_k"),
        "vocab_size": c.size("vocab_size"),
        "max_position_embeddings": c.size("max_seq_len", default=2048),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=False),
    }


def chatglm(c: Fields) -> Values:
    """ChatGLM2 to GLM-4-9B in the publisher's own form."""
    hidden, heads = c.size("hidden_size"), c.size("num_attention_heads")
    grouped = c.flag("multi_query_attention", default=False)
    return {
        "hidden_size": hidden,
        "num_hidden_layers": c.size("num_layers", most=LAYERS),
        "num_attention_heads": heads,
        "num_key_value_heads": c.size("multi_query_group_num") if grouped else heads,
        "head_dim": c.size("kv_channels", default=hidden // heads),
        "intermediate_size": c.size("ffn_hidden_size"),
        "vocab_size": c.size("padded_vocab_size"),
        "max_position_embeddings": c.size("seq_length", default=2048),
        "tie_word_embeddings": c.flag("tie_word_embeddings", default=False),
        "qkv_bias": c.flag("add_qkv_bias", default=False),
    }
