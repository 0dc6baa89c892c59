"""Which ways of slicing a model over GPUs an engine accepts, as pure functions of the model's shapes.

Rules are vLLM 0.24's, with their place in its source; the other engines slice the same matrices the same way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from catalog.engines.registry import REFERENCE, find_engine
from catalog.errors import InputError
from catalog.mixers import LatentAttention
from catalog.models.sizes import has_states
from catalog.models.stack import stack
from catalog.schema import require_positive

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.schema import Model

MOST_GPUS = 65536
_SLICE_OF_128 = ("fp8", "int4")
"""Checkpoint formats with one scale per 128 inputs: a slice must hold whole groups (quantization/utils/fp8_utils.py
``validate_fp8_block_shape``; quantization/auto_gptq.py, auto_awq.py ``group_size``)."""


def padded_vocab(model: Model, engine: Engine | None = None) -> int:
    """Return the rows of the embedding and of the head as an engine allocates them; by default the one that others follow."""
    multiple = (engine or find_engine(REFERENCE)).vocab_padding
    return math.ceil(model.vocab_size / multiple) * multiple


def kv_heads_per_gpu(model: Model, tp: int) -> int:
    """Return KV heads that one GPU of a tensor-parallel group holds: replicated when there are fewer than GPUs, whole for MLA.

    config/model.py ``get_num_kv_heads``.
    """
    if model.attention == "mla":
        return 1
    return max(1, model.num_key_value_heads // tp)


def pipeline_layers(num_layers: int, pp: int) -> tuple[int, ...]:
    """Return layers of each pipeline stage, first to last.

    distributed/utils.py ``get_pp_indices``: a remainder goes one each to the stages before the last, from the back, so
    that for a small remainder the first and last stage, which hold the embedding and the head, get none.
    """
    stages = [num_layers // pp] * pp
    for i in range(2, num_layers % pp + 2):
        stages[-i] += 1
    return tuple(stages)


def tp_problem(model: Model, tp: int, *, experts_whole: bool = False) -> str:
    """Return why ``model`` cannot be sliced over ``tp`` GPUs; empty if it can.

    ``experts_whole``: the routed experts are spread over GPUs as wholes (expert parallel) rather than sliced.
    """
    if tp == 1:
        return ""
    if model.num_attention_heads % tp:
        return f"{model.num_attention_heads} attention heads"  # config/model.py verify_with_parallel_config
    if model.attention == "gqa":
        kv = model.num_key_value_heads
        if kv % tp if kv >= tp else tp % kv:  # layers/linear.py QKVParallelLinear
            return f"{kv} KV heads"
    for what, width in _sliced_widths(model, experts_whole=experts_whole):
        if width % tp:
            return f"{what} of {width}"  # layers/linear.py divide, layers/fused_moe/config.py
        if model.quantization in _SLICE_OF_128 and width % 128 == 0 and width // tp % 128:
            return f"{what} of {width} in {model.quantization} groups of 128"
    if padded_vocab(model) % tp:
        return f"vocabulary of {padded_vocab(model)} rows"
    return ""


def _sliced_widths(model: Model, *, experts_whole: bool) -> list[tuple[str, int]]:
    widths = []
    if model.moe_layers < model.num_hidden_layers:
        widths.append(("feed-forward width", model.intermediate_size))
    if model.moe_layers:
        if not experts_whole:
            widths.append(("expert width", model.moe_intermediate_size))
        if model.shared_expert_intermediate_size:
            widths.append(("shared expert width", model.shared_expert_intermediate_size))
    return widths


@lru_cache(maxsize=512)
def valid_tp(model: Model, *, most: int = 64, experts_whole: bool = False) -> tuple[int, ...]:
    """Return tensor-parallel degrees up to ``most`` that the model's shapes allow, ascending."""
    return tuple(tp for tp in range(1, most + 1) if not tp_problem(model, tp, experts_whole=experts_whole))


def valid_pp(model: Model, *, most: int = 64) -> tuple[int, ...]:
    """Return pipeline-parallel degrees up to ``most`` that leave every stage a layer."""
    return tuple(range(1, min(most, model.num_hidden_layers) + 1))


def valid_ep(model: Model, tp: int, dp: int = 1) -> tuple[int, ...]:
    """Return expert-parallel degrees that go with ``tp`` and ``dp``.

    1 slices the experts by ``tp``; ``tp`` spreads them over one replica; ``tp*dp`` over all replicas, and ``tp*k`` over k at a time of
    them, which then work in step. Uneven shares are allowed (layers/fused_moe/layer.py ``determine_expert_map``).
    """
    if not model.moe_layers:
        return (1,)
    groups = (tp * ranks for ranks in range(1, dp + 1) if dp % ranks == 0)
    return tuple(sorted({ep for ep in (1, *groups) if ep <= model.num_experts}))


def context_problem(model: Model, tp: int, dcp: int) -> str:
    """Return why the KV cache of ``model`` cannot be spread by tokens over ``dcp`` of ``tp`` GPUs; empty if it can.

    vLLM 0.24 and 0.33: config/parallel.py ``ParallelConfig``, config/model.py ``verify_with_parallel_config``, v1/kv_cache_interface.py
    ``SlidingWindowSpec``, v1/core/single_type_kv_cache_manager.py ``MambaManager``.
    """
    if dcp == 1:
        return ""
    mixers = [part for layer in stack(model).kinds for part in layer.mixers]
    if has_states(model):
        return f"{model.name} has recurrent layers, whose states are not spread"
    if any(part.window for part in mixers):
        return f"{model.name} has sliding-window layers, whose cache is not spread"
    if any(isinstance(part, LatentAttention) and part.compress > 1 for part in mixers):
        return f"{model.name} caches several tokens as one, which is not spread"
    if model.attention != "mla":
        kv = model.num_key_value_heads
        if dcp > tp // kv:
            return f"each of {model.name}'s {kv} KV heads is held by {max(tp // kv, 1)} of {tp} GPUs, and only copies are spread"
        if model.num_attention_heads // kv % dcp:
            return (
                f"{model.name} has {model.num_attention_heads // kv} query heads to a KV head, which dcp has to divide"
            )
    return f"dcp has to divide tp={tp}" if tp % dcp else ""


@lru_cache(maxsize=512)
def valid_dcp(model: Model, tp: int) -> tuple[int, ...]:
    """Return decode context parallel degrees that go with ``tp``, ascending."""
    return tuple(dcp for dcp in range(1, tp + 1) if not context_problem(model, tp, dcp))


def check_layout(model: Model, *, tp: int, pp: int, dp: int, ep: int, dcp: int = 1) -> None:
    """Raise ``InputError`` unless the model can be laid out so."""
    for name, value in (("tp", tp), ("pp", pp), ("dp", dp), ("ep", ep), ("dcp", dcp)):
        require_positive(name, value, most=MOST_GPUS)
    if pp > model.num_hidden_layers:
        raise InputError(f"pp is {pp}, but {model.name} has {model.num_hidden_layers} layers; pp can be at most that")
    if not model.moe_layers and ep != 1:
        raise InputError(f"ep is {ep}, but {model.name} has no experts; use ep=1")
    allowed = valid_ep(model, tp, dp)
    if ep not in allowed:
        ways = " or ".join(map(str, allowed))
        raise InputError(f"ep is {ep}; with tp={tp}, dp={dp} and {model.num_experts} experts it can be {ways}")
    if problem := tp_problem(model, tp, experts_whole=ep > 1):
        near = [t for t in valid_tp(model, experts_whole=ep > 1) if t <= max(2 * tp, 8)]
        raise InputError(
            f"tp is {tp}, which does not divide {model.name}'s {problem}; tp can be {', '.join(map(str, near))}"
        )
    if problem := context_problem(model, tp, dcp):
        raise InputError(f"dcp is {dcp}, but {problem}; it can be {' or '.join(map(str, valid_dcp(model, tp)))}")
