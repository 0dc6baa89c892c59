"""How many parameters a model has, part by part, from the shapes in its ``Model``.

Every count is exact: biases, norms and embeddings included. Matrices follow the layer definitions in Hugging Face
``transformers`` (``models/<model_type>/modeling_<model_type>.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalog.schema import Model


def parameters(model: Model) -> int:
    """All parameters of the language model: layers, embeddings, output head, norms and biases.

    Encoders for other kinds of input are not in it (``Model.encoder_parameters``).
    """
    moe = model.moe_layers
    dense = model.num_hidden_layers - moe
    return (
        model.num_hidden_layers * (attention_parameters(model) + norm_parameters(model))
        + dense * mlp_parameters(model, model.intermediate_size)
        + moe * (model.num_experts * expert_parameters(model) + router_parameters(model) + shared_parameters(model))
        + embedding_parameters(model)
        + head_parameters(model)
        + model.final_norms * _norm(model)
        + model.extra_parameters
    )


def active_parameters(model: Model) -> int:
    """Parameters that take part in one token's pass: all but the experts it is not routed to.

    Both embedding tables count in full, as in most publishers' figures (Mixtral "12.9B", Qwen3-30B-A3B "3.3B").
    """
    idle = model.num_experts - model.num_experts_per_tok if model.num_experts else 0
    return parameters(model) - model.moe_layers * idle * expert_parameters(model)


def attention_parameters(model: Model) -> int:
    """Projections, their biases and query/key norms of one layer."""
    hidden, heads = model.hidden_size, model.num_attention_heads
    out = heads * model.value_dim * hidden
    if model.attention == "mla":
        # DeepSeek-V2, arXiv 2405.04434, eq. 9-19: queries and KV go through low-rank latents that have norms of their own
        rank, kv_rank = model.q_lora_rank, model.kv_lora_rank
        query = hidden * rank + rank + rank * heads * model.head_dim if rank else hidden * heads * model.head_dim
        kv_down = hidden * (kv_rank + model.qk_rope_head_dim) + kv_rank
        kv_up = kv_rank * heads * (model.qk_nope_head_dim + model.value_dim)
        biases = (rank + kv_rank + model.qk_rope_head_dim) * model.qkv_bias + hidden * model.o_bias
        return query + kv_down + kv_up + out + biases
    width = heads * model.head_dim + model.num_key_value_heads * (model.head_dim + model.value_dim)
    biases = width * model.qkv_bias + hidden * model.o_bias
    return hidden * width + out + biases + 2 * model.head_dim * model.qk_norm


def mlp_parameters(model: Model, width: int) -> int:
    """A dense feed-forward block of ``width``."""
    into = 2 if model.gated_mlp else 1
    return (into + 1) * model.hidden_size * width + (into * width + model.hidden_size) * model.mlp_bias


def expert_parameters(model: Model) -> int:
    """One routed expert."""
    into = 2 if model.gated_mlp else 1
    width = model.moe_intermediate_size
    return (into + 1) * model.hidden_size * width + (into * width + model.hidden_size) * model.expert_bias


def router_parameters(model: Model) -> int:
    return model.num_experts * (model.hidden_size + model.expert_bias)


def shared_parameters(model: Model) -> int:
    """The experts of one layer that every token goes through, and their gate."""
    return mlp_parameters(model, model.shared_expert_intermediate_size) * bool(
        model.shared_expert_intermediate_size
    ) + (model.hidden_size * model.shared_expert_gate)


def norm_parameters(model: Model) -> int:
    """The norms of one layer, without those on queries and keys."""
    return model.norms_per_layer * _norm(model)


def embedding_parameters(model: Model) -> int:
    """Token and learned position embeddings."""
    return (model.vocab_size + model.learned_positions) * model.hidden_size


def head_parameters(model: Model) -> int:
    """The output head; a tied one shares the embedding's matrix and adds none."""
    matrix = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    return matrix + model.vocab_size * model.head_bias


def _norm(model: Model) -> int:
    return model.hidden_size * (1 + model.norm_bias)
