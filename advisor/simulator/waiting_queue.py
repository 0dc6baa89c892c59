"""Requests that wait at a replica, and which of those that run is preempted: first come first served, or by priority.

As vLLM has them (v1/core/sched/request_queue.py and scheduler.py, ``SchedulingPolicy``): by priority those that wait are
ordered by priority and arrival, and whoever finds no block preempts the lowest priority that runs, of equals the latest to
arrive, perhaps itself. None that runs gives way to one that waits. Importing this module imports numba; nothing but a
simulation does.
"""

from __future__ import annotations

from typing import Any

from advisor.simulator.compilation import compiled


@compiled
def level_of(head: Any, r: int) -> int:
    """Return the first level at which a request waits at replica ``r``, 0 where none does; ``head``: (replicas, levels)."""
    for level in range(head.shape[1]):
        if head[r, level] >= 0:
            return level
    return 0


@compiled
def enqueue(head: Any, tail: Any, link: Any, levels: Any, r: int, q: int) -> None:
    """Let a request wait behind all others of its level; ``levels``: of each request, none where all have one."""
    level = levels[q] if len(levels) > 0 else 0
    if tail[r, level] >= 0:
        link[tail[r, level]] = q
    else:
        head[r, level] = q
    tail[r, level] = q


@compiled
def requeue(head: Any, tail: Any, link: Any, levels: Any, arrival: Any, r: int, q: int) -> None:
    """Let a preempted request wait again: before all others, or by priority before the later ones of its level."""
    level, before = 0, -1
    if len(levels) > 0:
        level = levels[q]
        after = head[r, level]
        while after >= 0 and (arrival[after], after) < (arrival[q], q):
            before, after = after, link[after]
    if before >= 0:
        link[q] = link[before]
        link[before] = q
    else:
        link[q] = head[r, level]
        head[r, level] = q
    if link[q] < 0:
        tail[r, level] = q


@compiled
def dequeue(head: Any, tail: Any, link: Any, r: int, level: int) -> None:
    """Let the first request of a level wait no longer."""
    q = head[r, level]
    head[r, level] = link[q]
    link[q] = -1
    if head[r, level] < 0:
        tail[r, level] = -1


@compiled
def victim(running: Any, count: int, levels: Any, arrival: Any, r: int) -> int:
    """Return the place, among the ``count`` requests that run, of the one to preempt."""
    place = count - 1
    if len(levels) > 0:
        for i in range(count - 1):
            q, worst = running[r, i], running[r, place]
            if (levels[q], arrival[q], q) > (levels[worst], arrival[worst], worst):
                place = i
    return place


@compiled
def close_gap(places: Any, count: int, at: int) -> None:
    """Close the gap that the one at a place leaves among ``count`` others behind and before it."""
    for i in range(at, count):
        places[i] = places[i + 1]


@compiled
def withdraw(tokens_to: Any, sequences: int, q: int) -> int:
    """Take a request out of the ``sequences`` that get a token from a step, where it is one of them; return how many are left."""
    for i in range(sequences):
        if tokens_to[i] == q:
            close_gap(tokens_to, sequences - 1, i)
            return sequences - 1
    return sequences
