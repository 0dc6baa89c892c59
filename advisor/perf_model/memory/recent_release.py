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
from catalog.models.sizes import experts_of

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
HELD_GIB, HELD_TP_GIB, HELD_PP_GIB = 0.33, 0.19, 0.47
"""What is held after loading beside weights: the same places."""
EXPERTS_GIB, EXPERTS_MXFP4_GIB = 1.2, 0.6
"""The same of models with experts, whose kernels keep workspaces."""
EXPERT_STATES = 12.0
"""Hidden states of a step that layers with experts have at once."""
FOUR_BIT_MORE = 1.025
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
    if experts_of(model) is not None:
        held = np.where(layout.weight_bytes < FOUR_BIT_BYTES, EXPERTS_MXFP4_GIB, EXPERTS_GIB)
    return np.asarray(held + np.where(layout.graphs > 0, graphs, 0.0))


def expert_states(model: Model, layout: DeploymentArrays) -> Array:
    """Return the bytes that layers with experts have at once in the profiled pass, shape (n,)."""
    return EXPERT_STATES * layout.max_num_batched_tokens * model.hidden_size * ACTIVATION_BYTES


def weight_factor(layout: DeploymentArrays) -> Array:
    """Return what weights are multiplied by, shape (n,)."""
    return np.where(layout.weight_bytes < FOUR_BIT_BYTES, FOUR_BIT_MORE, 1.0)
