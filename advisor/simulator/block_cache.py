"""The prefix cache of an engine, block by block, as vLLM's V1 engine keeps it (v1/core/block_pool.py, kv_cache_manager.py).

Importing this module imports numba; nothing but a simulation does.

What a prompt and its answer say is a path in a tree of streams: a stream goes on from its parent where it branches off, so
that two requests share every token before that and none after it. The hash of a block is then the stream that owns its last
token, and its number. Free blocks stand in a list, the first to be taken first. A block keeps its hash after it was freed,
until it is taken for something else; several may have one hash, of which the first to get it is the one that is hit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advisor.perf_model.memory import kv_capacity
from advisor.simulator.compilation import compiled
from advisor.simulator.prompt_sharing import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.simulator.prompt_sharing import PromptSharing
    from catalog.units import Array

BLOCK = int(kv_capacity.BLOCK)
"""Tokens in a KV block, as the whole number that compiled code counts with."""
NUMBER_BITS = 21
"""Of a hash, for the number of the block: 2^25 tokens, the longest prompt and the longest answer together."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: multiplying by it spreads neighbours (Knuth, TAOCP 3, 6.4)."""


class BlockCache(NamedTuple):
    """Blocks of every replica and what they hold; arrays of shape (replicas, pool) unless said otherwise."""

    before: NDArray[np.int32]
    """The free list, (replicas, pool + 1): the last column is its head and its end."""
    after: NDArray[np.int32]
    users: NDArray[np.int32]
    """Requests that hold it; a block of none is in the free list."""
    hashes: NDArray[np.int64]
    """``NONE`` without."""
    comes_s: Array
    """When what is loaded into each is there, (replicas, pool); without tiers below, (replicas, 0)."""
    twin_before: NDArray[np.int32]
    """Ring of the blocks with one hash, in the order in which they got it."""
    twin_after: NDArray[np.int32]
    keys: NDArray[np.int64]
    """Hashes by place in an open table, (replicas, a power of two of at least twice the pool); ``NONE`` where it is free."""
    firsts: NDArray[np.int32]
    """The first block with each, likewise."""
    tables: NDArray[np.int32]
    """Blocks of the running requests, (replicas, cap, most blocks of a request)."""
    seats: NDArray[np.int32]
    """Rows of ``tables``: the free ones from ``seated`` on, (replicas, cap)."""
    seated: NDArray[np.int32]
    """How many are taken, (replicas,)."""
    seat: NDArray[np.int32]
    """Row of each request, (n,)."""
    stored: NDArray[np.int32]
    """Blocks of each request that have their hash, (n,)."""
    stream: NDArray[np.int64]
    """Of each request, (n,)."""
    parent: NDArray[np.int64]
    """Of each stream; ``NONE`` without."""
    branch: NDArray[np.int64]
    """Tokens it shares with its parent."""

    @classmethod
    def of(
        cls, sharing: PromptSharing | None, *, longest: int, replicas: int, cap: int, pool: int, tiered: bool = False
    ) -> BlockCache:
        """Return empty caches for the requests of ``sharing``, of at most ``longest`` tokens; of none without it.

        ``tiered``: blocks are loaded from tiers below (``advisor.simulator.tier_cache``).
        """
        if sharing is None:
            replicas = cap = pool = 0
        n = 0 if sharing is None else len(sharing.stream)
        size = 1 << max(2 * pool - 1, 1).bit_length()
        ring = np.tile(np.arange(pool + 1, dtype=np.int32), (replicas, 1))
        nothing = np.zeros(0, np.int64)
        return cls(
            before=(ring - 1) % (pool + 1),
            after=(ring + 1) % (pool + 1),
            users=np.zeros((replicas, pool), np.int32),
            hashes=np.full((replicas, pool), NONE, np.int64),
            comes_s=np.zeros((replicas, pool if tiered else 0)),
            twin_before=np.zeros((replicas, pool), np.int32),
            twin_after=np.zeros((replicas, pool), np.int32),
            keys=np.full((replicas, size), NONE, np.int64),
            firsts=np.zeros((replicas, size), np.int32),
            tables=np.zeros((replicas, cap, -(-longest // BLOCK)), np.int32),
            seats=np.tile(np.arange(cap, dtype=np.int32), (replicas, 1)),
            seated=np.zeros(replicas, np.int32),
            seat=np.full(n, NONE, np.int32),
            stored=np.zeros(n, np.int32),
            stream=nothing if sharing is None else sharing.stream,
            parent=nothing if sharing is None else sharing.parent,
            branch=nothing if sharing is None else sharing.branch,
        )


@compiled
def owner(parent: Any, branch: Any, stream: int, number: int) -> tuple[int, int]:
    """Return the stream that owns a block of another, and the block before which it does."""
    end = 1 << NUMBER_BITS
    while parent[stream] >= 0 and number < branch[stream] // BLOCK:
        end = min(end, branch[stream] // BLOCK)
        stream = parent[stream]
    return stream, end


@compiled
def _home(key: int, mask: int) -> int:
    """Return where a hash belongs in an open table."""
    return int(np.int64((np.uint64(key) * GOLDEN) >> np.uint64(32)) & mask)


@compiled
def place_of(keys: Any, key: int) -> int:
    """Return where a hash is in an open table, or would be."""
    mask = len(keys) - 1
    place = _home(key, mask)
    while keys[place] != key and keys[place] != NONE:
        place = (place + 1) & mask
    return place


@compiled
def drop_key(keys: Any, values: Any, place: int) -> None:
    """Take a hash and its value out of an open table; those behind that a search would no longer reach move up."""
    mask = len(keys) - 1
    hole = place
    while True:
        place = (place + 1) & mask
        key = keys[place]
        if key == NONE:
            break
        if ((place - _home(key, mask)) & mask) >= ((place - hole) & mask):
            keys[hole] = key
            values[hole] = values[place]
            hole = place
    keys[hole] = NONE


@compiled
def _forget(cache: Any, r: int, block: int) -> None:
    """Take its hash from a block."""
    keys, firsts = cache.keys[r], cache.firsts[r]
    place = place_of(keys, cache.hashes[r, block])
    cache.hashes[r, block] = NONE
    following = cache.twin_after[r, block]
    if following != block:  # others have that hash
        preceding = cache.twin_before[r, block]
        cache.twin_after[r, preceding] = following
        cache.twin_before[r, following] = preceding
        if firsts[place] == block:
            firsts[place] = following
        return
    drop_key(keys, firsts, place)


@compiled
def _link(before: Any, after: Any, block: int, left: int) -> None:
    """Put a block into the free list of a replica behind another."""
    right = after[left]
    after[left] = block
    before[block] = left
    after[block] = right
    before[right] = block


@compiled
def _unlink(before: Any, after: Any, block: int) -> None:
    """Take a block out of the free list of a replica."""
    left, right = before[block], after[block]
    after[left] = right
    before[right] = left


@compiled
def hit_blocks(cache: Any, r: int, q: int, tokens: int) -> tuple[int, int]:
    """Look up a request of so many tokens, of which the last is always computed.

    Returns:
        How many blocks from the first on are in the cache, and how many of those nobody holds.

    """
    keys, firsts, users = cache.keys[r], cache.firsts[r], cache.users[r]
    most = (tokens - 1) // BLOCK
    # Where a place at the table is free, what is found is noted there: ``sit`` takes it.
    noted = cache.seated[r] < cache.seats.shape[1]
    table = cache.tables[r, cache.seats[r, cache.seated[r] if noted else 0]]
    number = idle = 0
    while number < most:
        stream, end = owner(cache.parent, cache.branch, cache.stream[q], number)
        end = min(end, most)
        key = stream << NUMBER_BITS
        while number < end:
            place = place_of(keys, key | number)
            if keys[place] == NONE:
                return number, idle
            block = firsts[place]
            if users[block] == 0:
                idle += 1
            if noted:
                table[number] = block
            number += 1
    return number, idle


@compiled
def sit(cache: Any, r: int, q: int, hits: int) -> None:
    """Give a request a row, and the blocks that ``hit_blocks`` has just found for it."""
    row = cache.seats[r, cache.seated[r]]
    cache.seated[r] += 1
    cache.seat[q] = row
    cache.stored[q] = hits
    table, users, before, after = cache.tables[r, row], cache.users[r], cache.before[r], cache.after[r]
    for number in range(hits):
        block = table[number]
        if users[block] == 0:
            _unlink(before, after, block)
        users[block] += 1


@compiled
def take(cache: Any, r: int, q: int, held: int, more: int) -> None:
    """Give a request that holds so many blocks some more, from the head of the free list; there must be enough."""
    table, users, hashes = cache.tables[r, cache.seat[q]], cache.users[r], cache.hashes[r]
    before, after, comes_s = cache.before[r], cache.after[r], cache.comes_s[r]
    end = len(users)
    for number in range(held, held + more):
        block = after[end]
        _unlink(before, after, block)
        if hashes[block] != NONE:
            _forget(cache, r, block)
        users[block] = 1
        table[number] = block
        if len(comes_s) > 0:
            comes_s[block] = 0.0


@compiled
def store(cache: Any, r: int, q: int, full: int) -> None:
    """Give the first ``full`` blocks of a request their hashes, those that have none yet."""
    table, hashes, keys, firsts = cache.tables[r, cache.seat[q]], cache.hashes[r], cache.keys[r], cache.firsts[r]
    twin_before, twin_after = cache.twin_before[r], cache.twin_after[r]
    stream = end = 0
    for number in range(cache.stored[q], full):
        if number >= end:
            stream, end = owner(cache.parent, cache.branch, cache.stream[q], number)
        key = (stream << NUMBER_BITS) | number
        block = table[number]
        hashes[block] = key
        place = place_of(keys, key)
        if keys[place] == NONE:
            keys[place] = key
            firsts[place] = block
            twin_before[block] = block
            twin_after[block] = block
        else:
            first = firsts[place]
            last = twin_before[first]
            twin_after[last] = block
            twin_before[block] = last
            twin_after[block] = first
            twin_before[first] = block
    cache.stored[q] = max(cache.stored[q], full)


@compiled
def release(cache: Any, r: int, q: int, held: int) -> int:
    """Take all its blocks and its row from a request; return how many became free.

    Those with a hash go to the end of the free list, the last of the request first; those without are taken next
    (``BlockPool.free_blocks`` since vLLM 0.24).
    """
    row = cache.seat[q]
    table, users, hashes = cache.tables[r, row], cache.users[r], cache.hashes[r]
    before, after = cache.before[r], cache.after[r]
    end = len(users)
    cursor, freed = end, 0
    for number in range(held - 1, -1, -1):
        block = table[number]
        users[block] -= 1
        if users[block] > 0:
            continue
        freed += 1
        if hashes[block] == NONE:
            _link(before, after, block, cursor)
            cursor = block
        else:
            _link(before, after, block, before[end])
    cache.seated[r] -= 1
    cache.seats[r, cache.seated[r]] = row
    cache.seat[q] = NONE
    return freed
