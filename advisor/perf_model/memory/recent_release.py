"""What vLLM 0.33 keeps in GPU memory beside the rules of 0.24, as its own reports on H200 say it (``benchmarks/measured``).

The constants are of the loads with the role "fit" (``vllm_0.33_h200_memory.csv``); ``python -m benchmarks.kv_capacity`` compares
all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import ACTIVATION_BYTES, FOUR_BIT_BYTES
from catalog.engines import find_engine, minor_release
from catalog.engines.registry import REFERENCE
from catalog.mixers import LatentAttention, Recurrence
from catalog.models.sizes import experts_of
from catalog.models.stack import stack
from catalog.parts import Experts
from catalog.units import GIB

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from catalog.schema import Model
    from catalog.units import Array

NEARER = 29.0
"""Releases from which on 0.33 is nearer than 0.24; those in between were not looked at."""
BATCHES = 2.0
"""Steps that are prepared at once: so many chunks of a prompt are kept beside a window (gpt-oss-20b at 66,048 positions had 6,185
blocks a request)."""
GRAPH_GIB, GRAPH_TP_GIB, GRAPH_PP_GIB = 0.32, 0.08, 0.44
"""What is set aside for graphs beyond ``GRAPH_GIB_PER_LAYER``: on one GPU, in a tensor-parallel group, on a stage."""
GRAPH_BLOCK_GIB, GRAPH_LATENT_GIB = 0.15, 0.68
"""The same on one GPU of weights with a scale a block, and of latent attention."""
GRAPH_STATE = 0.37
"""What a layer with a state takes of ``GRAPH_GIB_PER_LAYER``."""
HELD_GIB, HELD_TP_GIB, HELD_PP_GIB = 0.33, 0.19, 0.47
"""What is held after loading beside weights and the workspaces of experts: the same places."""
LATENT_TOKENS, LATENT_REQUESTS = 65536, 8
"""Most tokens of cached context that latent attention expands at once, and the full requests that it tries for
(``MLACommonMetadataBuilder.determine_chunked_prefill_workspace_size``); the profiled pass sets their keys and values aside."""
STATES, STATES_TP = 3.0, 2.0
"""Hidden states of a step that live through a block, on one GPU and in a tensor-parallel group; experts have three more."""
MORE_FOUR_BIT = {"int4": 1.025, "mxfp4": 1.013}
"""What 4-bit weights take over their count."""


def is_recent(layout: DeploymentArrays, engine: str) -> NDArray[np.bool_]:
    """Say of each deployment whether it is of a release that 0.33 stands for, shape (n,)."""
    described = minor_release(find_engine(REFERENCE).version)
    return (np.where(layout.release > 0, layout.release, described) >= NEARER) & (engine == REFERENCE)


def outside_gib(model: Model, layout: DeploymentArrays) -> Array:
    """Return what is held beside weights, and graphs beyond those of each layer, shape (n,)."""
    alone = GRAPH_LATENT_GIB if model.attention == "mla" else GRAPH_BLOCK_GIB if model.block_scales else GRAPH_GIB
    graphs = np.where(layout.tp > 1, GRAPH_TP_GIB, np.where(layout.pp > 1, GRAPH_PP_GIB, alone))
    held = np.where(layout.tp > 1, HELD_TP_GIB, np.where(layout.pp > 1, HELD_PP_GIB, HELD_GIB))
    return np.asarray(held + workspace_bytes(model, layout) / GIB + np.where(layout.graphs > 0, graphs, 0.0))


def graph_layers(model: Model) -> float:
    """Return the layers that graphs are set aside for; one with a state counts as a part of one."""
    states = sum(count for count, kind in stack(model).counts if any(part.state_bytes for part in kind.mixers))
    return model.num_hidden_layers - (1.0 - GRAPH_STATE) * states


def workspace_bytes(model: Model, layout: DeploymentArrays) -> Array:
    """Return the bytes of the two workspaces that all layers with experts share, held from the first pass on, shape (n,).

    model_executor/layers/fused_moe, ``workspace_shapes``: of a token's copies each holds the wider of what goes in and out of a
    product (``TritonExperts``); with MXFP4 on Hopper the activations alone (``OAITritonExperts``). Replicas that share experts gather
    the tokens of all (``allgather_reducescatter``, the default back end): two H200s held 1.0 GiB more each.
    """
    experts = experts_of(model)
    if experts is None:
        return np.zeros(len(layout))
    sliced = np.where(layout.ep > 1, 1.0, layout.tp)
    into, width = float(experts.inputs(model.hidden_size)), experts.width / sliced
    first, second = np.maximum(width, into), np.maximum(experts.inner / sliced, into)
    numbers = width if _is_mxfp4(model) else first + second
    tokens = layout.max_num_batched_tokens * np.maximum(layout.ep / layout.tp, 1.0)
    return np.asarray(tokens * experts.num_experts_per_tok * numbers * ACTIVATION_BYTES)


def pass_bytes(model: Model, layout: DeploymentArrays) -> Array:
    """Return the bytes that the layers of the profiled pass have at once, shape (n,).

    Between two mixers of a kind that vLLM compiles apart all runs as one graph (``splitting_ops``): what a recurrence got and
    gave lives beside the feed-forward block. Dense blocks of a model with experts come before the workspaces, whose memory they
    use. Products in fp8 with a scale a block get their input quantised by the activation (``SiluMulBlockQuantPattern``).
    """
    h, tp = float(model.hidden_size), layout.tp
    width = ACTIVATION_BYTES * np.where(layout.weight_bytes > 2.0, 2.0, 1.0)
    kinds = stack(model).kinds
    states = np.zeros_like(tp)
    block = np.zeros_like(tp)
    expanded = np.minimum(LATENT_REQUESTS * layout.max_model_len, LATENT_TOKENS)
    for layer in kinds:
        for mixer in layer.mixers:
            if isinstance(mixer, Recurrence):
                states = np.maximum(states, (mixer.into + mixer.out) / tp)
            elif isinstance(mixer, LatentAttention) and not mixer.shares_value and mixer.index is None:
                heads = mixer.heads * (mixer.nope_dim + mixer.value_dim) / tp
                block = np.maximum(block, expanded * heads / layout.max_num_batched_tokens)
        part = layer.feed_forward
        if isinstance(part, Experts):
            shared = (part.shared.inner + part.shared.width) / tp if part.shared else 0.0
            within = part.num_experts_per_tok * part.inner / tp if _is_mxfp4(model) else 0.0
            block = np.maximum(block, STATES * h + shared + within)
        elif part is not None:
            quantised = 0.5 if model.block_scales else 1.0
            own = (part.inner + quantised * part.width) / tp + (h if layer.norms > USUAL_NORMS else 0.0)
            reused = workspace_bytes(model, layout) / (layout.max_num_batched_tokens * width)
            block = np.maximum(block, own - reused)
    return np.asarray(
        layout.max_num_batched_tokens * width * (np.where(tp > 1, STATES_TP, STATES) * h + states + block)
    )


USUAL_NORMS = 2
"""Norms of a layer; one with more norms what its blocks give, too, and keeps another hidden state (Gemma)."""


def _is_mxfp4(model: Model) -> bool:
    return (model.part_format("experts") or model.quantization) == "mxfp4"


def weight_factor(model: Model, layout: DeploymentArrays) -> Array:
    """Return what weights are multiplied by, shape (n,)."""
    form = "mxfp4" if _is_mxfp4(model) else "int4"
    return np.where(layout.weight_bytes < FOUR_BIT_BYTES, MORE_FOUR_BIT[form], 1.0)
