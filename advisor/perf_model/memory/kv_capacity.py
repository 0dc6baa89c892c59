"""How many requests the KV cache of a replica holds, and what one takes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.operators import sliced_numbers
from catalog.engines import find_engine, kv_groups
from catalog.engines.registry import REFERENCE
from catalog.models.stack import stack
from catalog.units import GIB

if TYPE_CHECKING:
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from catalog.parts import Mixer
    from catalog.schema import Model
    from catalog.units import Array

BLOCK = float(find_engine(REFERENCE).block_size)
"""Tokens in a KV block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePages:
    """Pages of one layer in vLLM's pool, which are equally large for all layers; arrays have shape (n,).

    v1/core/kv_cache_utils.py ``unify_kv_cache_spec_page_size``: layers that cache less a token put more tokens on a page.
    model_executor/models/config.py ``HybridAttentionMambaModelConfig``: where layers have a state, blocks hold so many
    tokens that a page of attention is no smaller than a state, and a state takes a page.
    """

    page_bytes: Array
    full_tokens: Array
    """Tokens on the pages that the GPUs that share a context have of a layer that attends to everything (v1/core/kv_cache_utils.py
    ``resolve_dcp_kv_block_size``)."""
    windowed_tokens: Array
    """The same of one that attends to a window."""


def cache_pages(model: Model, layout: DeploymentArrays) -> CachePages:
    """Size the pages of the cache."""
    full = _bytes_per_token(model, layout, windowed=False)
    windowed = _bytes_per_token(model, layout, windowed=True)
    page = np.maximum(full, windowed) * BLOCK
    held = np.where(page > 0, page, 1.0)
    state = max((part.state_bytes for layer in stack(model).kinds for part in layer.mixers), default=0) / layout.tp
    widened = np.where(page > 0, np.maximum(np.ceil(state / held), 1.0), 1.0)
    page_bytes = np.where(page > 0, page * widened, state)

    def tokens(one: Array) -> Array:
        share = np.floor(np.where(one > 0, page / np.maximum(one * BLOCK, 1e-9), 1.0) + 1e-9)
        return BLOCK * np.maximum(share, 1.0) * widened

    return CachePages(page_bytes=page_bytes, full_tokens=tokens(full) * layout.dcp, windowed_tokens=tokens(windowed))


def layer_cache_bytes(part: Mixer, layout: DeploymentArrays) -> Array:
    """Return bytes that a token adds to the cache of one layer on one GPU, shape (n,)."""
    return sliced_numbers(part.cached, layout.tp) * layout.kv_bytes + part.index_bytes


def _bytes_per_token(model: Model, layout: DeploymentArrays, *, windowed: bool) -> Array:
    """Return the mean over the layers that cache something and have, or have not, a window."""
    total, layers = np.zeros_like(layout.tp), 0
    for count, layer in stack(model).counts:
        for part in layer.mixers:
            if (part.cached[0] or part.index_bytes) and bool(part.window) == windowed:
                total, layers = total + count * layer_cache_bytes(part, layout), layers + count
    return total / max(layers, 1)


def blocks_of_request(model: Model, tokens: Array, layout: DeploymentArrays, chunks: Array | float = 1.0) -> Array:
    """Return KV blocks that one request of ``tokens`` tokens takes at the most, all groups of layers together, shape (n,).

    A sliding-window layer keeps its window and the ``chunks`` being computed (kv_cache_interface.py ``SlidingWindowSpec``), one
    with a state one block.
    """
    groups, pages = kv_groups(model), cache_pages(model, layout)
    whole = np.ceil(tokens / pages.full_tokens)
    within = np.minimum(groups.window - 1 + chunks * layout.max_num_batched_tokens, tokens)
    kept = np.ceil(within / pages.windowed_tokens) + 1.0
    return np.asarray(groups.full * whole + groups.windowed * kept + groups.states)


def max_concurrency(model: Model, room: Memory, layout: DeploymentArrays, tokens: Array) -> Array:
    """Return requests of ``tokens`` tokens that the KV cache of one replica holds at once, shape (n,)."""
    taken = np.maximum(_blocks_of(model, room, layout, tokens), 1.0)  # one whose layers cache nothing takes none
    return np.asarray(np.floor(np.maximum(room.kv_blocks, 0.0) / taken))


def _blocks_of(model: Model, room: Memory, layout: DeploymentArrays, tokens: Array) -> Array:
    return np.where(room.block_tokens > 1, blocks_of_request(model, tokens, layout, room.window_chunks), tokens)


def request_gib(model: Model, room: Memory, layout: DeploymentArrays, tokens: Array) -> Array:
    """Return KV of one request of ``tokens`` tokens on the fullest GPU, shape (n,)."""
    alone = room.kv_bytes_per_token * room.block_tokens / GIB
    block = np.where(room.kv_blocks > 0, room.kv_gib / np.maximum(room.kv_blocks, 1.0), alone)
    return np.asarray(block * _blocks_of(model, room, layout, tokens))
