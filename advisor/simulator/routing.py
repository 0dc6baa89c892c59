"""Which replica a request goes to. Importing this module imports numba; nothing but a simulation does."""

from __future__ import annotations

from typing import Any

from advisor.simulator.block_cache import BLOCK, hit_blocks
from advisor.simulator.compilation import compiled
from advisor.simulator.splitmix import splitmix

ROUND_ROBIN, LEAST_LOADED, PREFIX_AWARE, SESSION_STICKY, POWER_OF_TWO = range(5)
"""As ``advisor.simulator.routers.ROUTERS``."""
WAITING_WEIGHT = 4
"""A waiting request weighs as much as so many running ones (vllm/v1/engine/core_client.py, ``DPLBAsyncMPClient``)."""
LEAST_SHARE = 0.3
"""Of a prompt that a replica must have for a prefix-aware router to prefer it; SGLang's router: ``--cache-threshold``."""
MOST_AHEAD, MOST_RATIO = 64, 1.5
"""Where the most loaded replica has so many requests more than the least loaded, and so many times as many, load alone
decides; there: ``--balance-abs-threshold``, ``--balance-rel-threshold``."""


@compiled
def _least_loaded(waiting: Any, count: Any) -> int:
    least = 0
    for other in range(1, len(count)):
        if WAITING_WEIGHT * waiting[other] + count[other] < WAITING_WEIGHT * waiting[least] + count[least]:
            least = other
    return least


@compiled
def _prefix_aware(waiting: Any, count: Any, cache: Any, q: int, tokens: int) -> int:
    """Take the replica that holds most of the prompt, if that is enough of it and the load is even."""
    replicas = len(count)
    least = _least_loaded(waiting, count)
    most = 0
    for other in range(1, replicas):
        if waiting[other] + count[other] > waiting[most] + count[most]:
            most = other
    high, low = waiting[most] + count[most], waiting[least] + count[least]
    if high - low > MOST_AHEAD and high > MOST_RATIO * low:
        return least
    best, best_hits = least, hit_blocks(cache, least, q, tokens)[0]
    for other in range(replicas):
        hits = hit_blocks(cache, other, q, tokens)[0]
        if hits > best_hits:
            best, best_hits = other, hits
    return best if best_hits * BLOCK >= LEAST_SHARE * tokens else least


@compiled
def route(
    router: int, turn: int, q: int, tokens: int, waiting: Any, count: Any, cache: Any, session: Any, homes: Any
) -> int:
    """Return the replica for a request.

    Args:
        router: one of the constants above.
        turn: the replica whose turn it is.
        q: the request,
        tokens: and its prompt.
        waiting: requests that wait at each replica,
        count: and that run there.
        cache: ``advisor.simulator.block_cache.BlockCache``; of no replica without prefix caches.
        session: of each request; none where they have none.
        homes: replica of each session, -1 for one that has none yet; changed.

    """
    if router == ROUND_ROBIN:
        return turn
    if router == POWER_OF_TWO:
        one, two = splitmix(2 * q) % len(count), splitmix(2 * q + 1) % len(count)
        if WAITING_WEIGHT * waiting[two] + count[two] < WAITING_WEIGHT * waiting[one] + count[one]:
            return two
        return one
    if router == PREFIX_AWARE and len(cache.seated) > 0:
        return _prefix_aware(waiting, count, cache, q, tokens)
    if router == SESSION_STICKY and len(session) > 0:
        if homes[session[q]] < 0:
            homes[session[q]] = _least_loaded(waiting, count)
        return int(homes[session[q]])
    return _least_loaded(waiting, count)
