"""KV blocks below the GPUs' cache: in CPU memory, on disk, in a store, as vLLM's offloading connector keeps them (v1/kv_offload).

Importing this module imports numba; nothing but a simulation does.

Full blocks of prompts are written to every tier as they are computed, those of answers are not (``offload_prompt_only``); each tier
keeps what was used last. A request that waits is looked up on the GPUs first, then block by block in the tiers, the fastest first, up to
the first block that none has. What is found there is loaded while other requests go on, one load after the other on each tier's
link; then the request is computed from there on. Blocks from a slower tier are kept in the faster ones, too. A shelf is
a tier of one replica, or one that all replicas share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advisor.simulator.block_cache import BLOCK, NUMBER_BITS, drop_key, owner, place_of
from advisor.simulator.compilation import compiled
from advisor.simulator.prompt_sharing import NONE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.cache_tiers import CacheTier
    from catalog.units import Array

SHELF_SHIFT = 47
"""Bits of a block's hash below the number of its shelf: 2^26 streams of 2^21 blocks."""


class TierCache(NamedTuple):
    """Shelves of blocks, one behind the other in arrays of shape (places,), and what requests have from them."""

    load_s: Array
    """Seconds that the link of a tier takes for a block, shape (tiers,), as the next four."""
    write_s: Array
    latency_s: Array
    """Until the first block of a load comes."""
    backlog_s: Array
    """Writes that wait longer than this are dropped: what they come from is full."""
    staged: NDArray[np.bool_]
    """Whether what is loaded goes over the link of the first tier, too."""
    shelf: NDArray[np.int64]
    """Shelf of each tier for each replica, (tiers, replicas)."""
    start: NDArray[np.int64]
    """First place of each shelf, (shelves,), as the next four."""
    room: NDArray[np.int64]
    """Blocks."""
    filled: NDArray[np.int64]
    """Places that were ever taken."""
    read_free_s: Array
    """When the link has loaded what was asked for."""
    write_free_s: Array
    before: NDArray[np.int64]
    """Ring of the blocks of a shelf, those used longest ago first; its end is the place behind its last."""
    after: NDArray[np.int64]
    block_keys: NDArray[np.int64]
    """Hash of what is there, with its shelf."""
    written_s: Array
    """From when on it can be read."""
    keys: NDArray[np.int64]
    """Hashes by place in an open table, (a power of two,), and where they are."""
    places: NDArray[np.int64]
    sources: NDArray[np.int8]
    """Tier of each block that ``tier_hits`` has found last, (most blocks of a request,)."""
    ready_s: Array
    """When a request can be computed, (n,)."""
    offered: NDArray[np.int32]
    """Blocks of its prompt that were offered to the tiers, (n,)."""
    loaded: NDArray[np.int64]
    """Tokens of its prompt that came from each tier, (n, tiers)."""

    @classmethod
    def of(cls, tiers: Sequence[CacheTier], piece: Arrivals, *, replicas: int, pool: int) -> TierCache:
        """Return empty tiers for the requests of ``piece`` behind caches of ``pool`` blocks; of none, no arrays of any size."""
        n, count = len(piece), len(tiers)
        most = int((piece.input_len // BLOCK).sum()) if count else 0  # a tier that holds all of them never evicts
        rooms = [min(tier.blocks, max(most, 1)) for tier in tiers]
        shelves: list[int] = []
        shelf = np.zeros((count, replicas), np.int64)
        for number, (tier, blocks) in enumerate(zip(tiers, rooms, strict=True)):
            own = 1 if tier.shared else replicas
            shelf[number] = len(shelves) + np.arange(replicas) % own
            shelves += [blocks] * own
        room = np.array(shelves, dtype=np.int64)
        start = np.concatenate([np.zeros(1, np.int64), np.cumsum(room + 1)])
        places = int(start[-1])
        ring = np.arange(places)
        size = 1 << max(2 * places - 1, 1).bit_length()
        staging = tiers[0].blocks if count and tiers[0].name == "cpu" else pool
        above = [pool, *[staging] * (count - 1)]
        longest = int((piece.input_len + piece.output_len).max(initial=1)) // BLOCK + 1
        return cls(
            load_s=np.array([tier.load_s for tier in tiers], dtype=float),
            write_s=np.array([tier.write_s for tier in tiers], dtype=float),
            latency_s=np.array([tier.latency_s for tier in tiers], dtype=float),
            backlog_s=np.array(
                [tier.write_s * blocks for tier, blocks in zip(tiers, above, strict=False)], dtype=float
            ),
            staged=np.array([number > 0 and tiers[0].name == "cpu" for number in range(count)], dtype=bool),
            shelf=shelf,
            start=start[:-1],
            room=room,
            filled=np.zeros(len(room), np.int64),
            read_free_s=np.zeros(len(room)),
            write_free_s=np.zeros(len(room)),
            before=ring.copy(),
            after=ring.copy(),
            block_keys=np.full(places, NONE, np.int64),
            written_s=np.zeros(places),
            keys=np.full(size, NONE, np.int64),
            places=np.zeros(size, np.int64),
            sources=np.zeros(longest if count else 0, np.int8),
            ready_s=np.zeros(n if count else 0),
            offered=np.zeros(n if count else 0, np.int32),
            loaded=np.zeros((n, count), np.int64),
        )

    def loaded_by(self, requests: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return the tokens that some requests had from each tier, shape (requests, tiers)."""
        return self.loaded[requests] if self.loaded.shape[1] else np.zeros((len(requests), 0), np.int64)


@compiled
def _key(shelf: int, stream: int, number: int) -> int:
    return int(
        (np.int64(shelf) << np.int64(SHELF_SHIFT)) | (np.int64(stream) << np.int64(NUMBER_BITS)) | np.int64(number)
    )


@compiled
def _place(tiers: Any, key: int) -> int:
    """Return where a block is; -1 where it is not on its shelf."""
    at = place_of(tiers.keys, key)
    return int(tiers.places[at]) if tiers.keys[at] == key else -1


@compiled
def _use(tiers: Any, shelf: int, place: int) -> None:
    """Put a place to the end of the ring of its shelf: it is the last to be evicted."""
    before, after = tiers.before, tiers.after
    left, right = before[place], after[place]
    after[left] = right
    before[right] = left
    end = tiers.start[shelf] + tiers.room[shelf]
    last = before[end]
    after[last] = place
    before[place] = last
    after[place] = end
    before[end] = place


@compiled
def _put(tiers: Any, shelf: int, key: int, written_s: float) -> None:
    """Keep a block, in place of the one that was used longest ago where the shelf is full."""
    start, room = tiers.start[shelf], tiers.room[shelf]
    if tiers.filled[shelf] < room:
        place = start + tiers.filled[shelf]
        tiers.filled[shelf] += 1
    else:
        place = tiers.after[start + room]
        drop_key(tiers.keys, tiers.places, place_of(tiers.keys, tiers.block_keys[place]))
    tiers.block_keys[place] = key
    tiers.written_s[place] = written_s
    at = place_of(tiers.keys, key)
    tiers.keys[at] = key
    tiers.places[at] = place
    _use(tiers, shelf, place)


@compiled
def _touch(tiers: Any, cache: Any, r: int, q: int, blocks: int) -> None:
    """Note that a request has used its first blocks, the first of them last, so that the ends of prompts go first."""
    for tier in range(len(tiers.load_s)):
        shelf = tiers.shelf[tier, r]
        for number in range(blocks - 1, -1, -1):
            place = _place(tiers, _key(shelf, owner(cache.parent, cache.branch, cache.stream[q], number)[0], number))
            if place >= 0:
                _use(tiers, shelf, place)


@compiled
def tier_hits(tiers: Any, cache: Any, r: int, q: int, hits: int, tokens: int, now: float) -> int:
    """Count the blocks of a request behind its first ``hits``, which the GPUs have, that the tiers have; its last token is computed."""
    most = (tokens - 1) // BLOCK
    number = hits
    while number < most:
        stream = owner(cache.parent, cache.branch, cache.stream[q], number)[0]
        source = -1
        for tier in range(len(tiers.load_s)):
            place = _place(tiers, _key(tiers.shelf[tier, r], stream, number))
            if place >= 0 and tiers.written_s[place] <= now:
                source = tier
                break
        if source < 0:
            break
        tiers.sources[number] = source
        number += 1
    return number - hits


@compiled
def held_up(cache: Any, r: int, hits: int, now: float) -> float:
    """Return when the blocks that ``hit_blocks`` has just found are all there: some may be on their way to another request."""
    table = cache.tables[r, cache.seats[r, cache.seated[r]]]
    ready = now
    for number in range(hits):
        ready = max(ready, cache.comes_s[r, table[number]])
    return float(ready)


@compiled
def load(
    tiers: Any, cache: Any, r: int, q: int, hits: int, blocks: int, prompt: int, ready: float, now: float, first: bool
) -> None:
    """Fetch the blocks that ``tier_hits`` has just found for a request behind its ``hits``, which come at ``ready``.

    It has its row and its blocks, ``prompt`` of them full. ``first``: it was not preempted, and what it gets counts.
    """
    count = len(tiers.load_s)
    for tier in range(count - 1, -1, -1):
        number = 0
        for block in range(hits, hits + blocks):
            if tiers.sources[block] == tier or (tier == 0 and tiers.staged[tiers.sources[block]]):
                number += 1
            if first and tiers.sources[block] == tier:
                tiers.loaded[q, tier] += BLOCK
        if number == 0:
            continue
        shelf = tiers.shelf[tier, r]
        takes = number * tiers.load_s[tier]
        tiers.read_free_s[shelf] = max(tiers.read_free_s[shelf], now) + takes
        ready = max(tiers.read_free_s[shelf], ready + takes) + tiers.latency_s[tier]
    tiers.ready_s[q] = ready
    table = cache.tables[r, cache.seat[q]]
    for block in range(hits, hits + blocks):
        cache.comes_s[r, table[block]] = ready
        for tier in range(tiers.sources[block]):
            shelf = tiers.shelf[tier, r]
            key = _key(shelf, owner(cache.parent, cache.branch, cache.stream[q], block)[0], block)
            if _place(tiers, key) < 0:
                _put(tiers, shelf, key, ready)
    _touch(tiers, cache, r, q, prompt)
    if blocks > 0:
        tiers.offered[q] = max(tiers.offered[q], hits + blocks)


@compiled
def offload(tiers: Any, cache: Any, r: int, q: int, full: int, now: float) -> None:
    """Write the first ``full`` blocks of a prompt to the tiers, those that were not offered yet and are not there."""
    wrote = False
    for number in range(tiers.offered[q], full):
        stream = owner(cache.parent, cache.branch, cache.stream[q], number)[0]
        for tier in range(len(tiers.load_s)):
            shelf = tiers.shelf[tier, r]
            key = _key(shelf, stream, number)
            if _place(tiers, key) >= 0 or tiers.write_free_s[shelf] > now + tiers.backlog_s[tier]:
                continue
            tiers.write_free_s[shelf] = max(tiers.write_free_s[shelf], now) + tiers.write_s[tier]
            _put(tiers, shelf, key, tiers.write_free_s[shelf])
            wrote = True
    tiers.offered[q] = max(tiers.offered[q], full)
    if wrote:
        _touch(tiers, cache, r, q, full)


@compiled
def next_ready(tiers: Any, running: Any, count: int, now: float) -> float:
    """Return when the first of the running requests that are being loaded can be computed; infinity where none is."""
    least = np.inf
    for i in range(count):
        ready = tiers.ready_s[running[i]]
        if now < ready < least:
            least = ready
    return float(least)
