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
