"""How many requests the KV cache of a replica holds, and what one takes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from catalog.engines import kv_groups
from catalog.units import GIB

if TYPE_CHECKING:
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.memory.parts import Memory
    from catalog.schema import Model
    from catalog.units import Array


BLOCK = 16.0
"""Tokens in a KV block."""


def blocks_of_request(model: Model, tokens: Array, layout: DeploymentArrays) -> Array:
    """KV blocks that one request of ``tokens`` tokens takes at the most, all groups of layers together, shape (n,).

    A sliding-window layer keeps its window and the chunk being computed (``catalog.engines.KvGroups.blocks``).
    """
    groups = kv_groups(model)
    whole = np.ceil(tokens / BLOCK)
    kept = np.ceil(np.minimum(groups.window - 1 + layout.max_num_batched_tokens, tokens) / BLOCK) + 1.0
    return np.asarray(groups.full * whole + groups.windowed * kept)


def max_concurrency(model: Model, room: Memory, layout: DeploymentArrays, tokens: Array) -> Array:
    """Requests of ``tokens`` tokens that the KV cache of one replica holds at once, shape (n,)."""
    return np.asarray(np.floor(np.maximum(room.kv_blocks, 0.0) / _blocks_of(model, room, layout, tokens)))


def _blocks_of(model: Model, room: Memory, layout: DeploymentArrays, tokens: Array) -> Array:
    return np.where(room.block_tokens > 1, blocks_of_request(model, tokens, layout), tokens)


def request_gib(model: Model, room: Memory, layout: DeploymentArrays, tokens: Array) -> Array:
    """KV of one request of ``tokens`` tokens on the fullest GPU, shape (n,)."""
    alone = room.kv_bytes_per_token * room.block_tokens / GIB
    block = np.where(room.kv_blocks > 0, room.kv_gib / np.maximum(room.kv_blocks, 1.0), alone)
    return np.asarray(block * _blocks_of(model, room, layout, tokens))
