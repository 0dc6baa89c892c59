"""Parameters of a model, what it caches a token and keeps a sequence, counted from its parts.

Projections with a parameter of their own are counted as they stand in the modelling code of Hugging Face
``transformers`` (``models/<model_type>/modeling_<model_type>.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.models.stack import stack
from catalog.parts import Dense, Experts
from catalog.schema import BITS, SCALE_BITS

if TYPE_CHECKING:
    from catalog.schema import Model


OTHER_WEIGHTS = 0.25
"""Share by which the files of a checkpoint may differ from its architecture and still be taken for its weights: more is another
format than the configuration says, or a part that is not known."""


def parameters(model: Model) -> int:
    """Count all parameters of the language model: layers, embeddings, output head, norms and biases.

    Encoders for other kinds of input are not in it (``Model.encoder_parameters``), nor heads that predict several tokens
    (``Model.mtp_parameters``).
    """
    hidden = model.hidden_size
    layers = sum(
        count
        * (
            layer.mixer_elements(hidden)
            + layer.norm_elements(hidden)
            + layer.dense_elements(hidden)
            + layer.routed_elements(hidden)
        )
        for count, layer in stack(model).counts
    )
    return round(layers + embedding_parameters(model) + head_parameters(model) + model.final_norms * _norm(model))


def active_parameters(model: Model) -> int:
    """Count the parameters that take part in one token's pass: all but the experts it is not routed to.

    Both embedding tables count in full, as in most publishers' figures (Mixtral "12.9B", Qwen3-30B-A3B "3.3B"), those that
    every layer looks up (``Model.table_parameters``) do not.
    """
    idle = sum(count * layer.idle_elements(model.hidden_size) for count, layer in stack(model).counts)
    return parameters(model) - round(idle) - model.table_parameters


def attention_parameters(model: Model) -> int:
    """Count the projections, biases and inner norms of the first layer's mixer."""
    layer = stack(model).kinds[0]
    return round(layer.mixer_elements(model.hidden_size) - layer.extra)


def mlp_parameters(model: Model, width: int) -> int:
    """Count a dense feed-forward block of ``width``."""
    part = Dense(width=width, gated=model.gated_mlp, bias=model.mlp_bias)
    return sum(matrix.elements for matrix in part.matrices(model.hidden_size))


def expert_parameters(model: Model) -> int:
    """Count one routed expert."""
    experts = experts_of(model)
    return experts.expert_elements(model.hidden_size) if experts else 0


def norm_parameters(model: Model) -> int:
    """Count the norms of the first layer, without those inside of its mixer."""
    return round(stack(model).kinds[0].norm_elements(model.hidden_size))


def experts_of(model: Model) -> Experts | None:
    """Return the experts of the first layer that has some."""
    experts = (layer.feed_forward for layer in stack(model).kinds if isinstance(layer.feed_forward, Experts))
    return next(experts, None)


def embedding_parameters(model: Model) -> int:
    """Count token and learned position embeddings, and those that layers look up for themselves."""
    return (model.vocab_size + model.learned_positions) * model.hidden_size + model.table_parameters


def head_parameters(model: Model) -> int:
    """Count the output head; a tied one shares the embedding's matrix and adds none."""
    matrix = 0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size
    return matrix + model.vocab_size * model.head_bias


def counted_bytes(model: Model) -> float:
    """Count the bytes of a checkpoint from the architecture: each part in its format, the rest in 16 or 32 bits."""
    hidden, plain, own = model.hidden_size, BITS[model.dtype] / 8.0, dict(model.part_bits)

    def width(part: str) -> float:
        if part in own:
            return own[part] / 8.0
        form = model.part_format(part) or model.quantization or model.dtype
        scales = model.scale_bits if form == model.quantization else None
        return (BITS[form] + (SCALE_BITS.get(form, 0.0) if scales is None else scales)) / 8.0

    def outside(part: str) -> float:
        return width(part) if model.part_format(part) else plain

    total = embedding_parameters(model) * outside("embedding") + head_parameters(model) * outside("head")
    total += (model.final_norms * _norm(model) + model.encoder_parameters) * plain
    for count, layer in stack(model).counts:
        block = layer.feed_forward
        router = layer.held * block.router_elements(hidden) if isinstance(block, Experts) else 0
        beside = "shared" if isinstance(block, Experts) else "dense"
        total += count * (
            layer.mixer_elements(hidden) * width("attention")
            + (layer.dense_elements(hidden) - router) * width(beside)
            + layer.routed_elements(hidden) * width("experts")
            + (router + layer.norm_elements(hidden)) * plain
        )
    return total


def checkpoint_share(model: Model) -> float:
    """Return the bytes that the files state over those that the architecture comes to; 1 where none are stated.

    Heads that predict several tokens may be in the files without a word; they are not loaded. What differs by more than
    ``OTHER_WEIGHTS`` is told, and not believed to be these weights.
    """
    if not model.checkpoint_bytes:
        return 1.0
    counted = counted_bytes(model)
    predictors = model.mtp_parameters * counted / max(parameters(model), 1)
    return min(
        (model.checkpoint_bytes / whole for whole in (counted, counted + predictors)), key=lambda x: abs(x - 1.0)
    )


def weight_share(model: Model) -> float:
    """Return what the counted weights of ``model`` are multiplied by so that they are those that its files state."""
    share = checkpoint_share(model)
    return share if abs(share - 1.0) <= OTHER_WEIGHTS else 1.0


def kv_numbers_per_token(model: Model, *, windowed: bool | None = None) -> float:
    """Count the numbers that one token adds to the KV cache of all layers, over all GPUs.

    ``windowed``: of layers with a sliding window alone, or of those without; None: of both.
    """
    return sum(
        count * part.cached[0]
        for count, layer in stack(model).counts
        for part in layer.mixers
        if windowed is None or bool(part.window) == windowed
    )


def kv_bytes_per_token(model: Model, bytes_per_number: float = 2.0, *, windowed: bool | None = None) -> float:
    """Count the bytes that one token adds to the cache of all layers, that of sparse attention's index included."""
    index = sum(
        count * part.index_bytes
        for count, layer in stack(model).counts
        for part in layer.mixers
        if windowed is None or bool(part.window) == windowed
    )
    return kv_numbers_per_token(model, windowed=windowed) * bytes_per_number + index


def state_bytes_per_sequence(model: Model) -> int:
    """Count the bytes that linear attention and state-space layers keep for one sequence."""
    return sum(count * part.state_bytes for count, layer in stack(model).counts for part in layer.mixers)


def has_states(model: Model) -> bool:
    """Return whether the model has recurrent layers, which keep a state for each sequence."""
    return state_bytes_per_sequence(model) > 0


def _norm(model: Model) -> int:
    return model.hidden_size * (1 + model.norm_bias)
