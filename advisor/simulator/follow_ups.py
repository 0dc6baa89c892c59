"""Requests that come when others have been answered, in the order in which they come.

In a closed loop of sessions as many requests are in flight as at the beginning: each answer lets in the turn that has waited longest
since its user has thought, or the first of a new session where none is ready.

Importing this module imports numba; nothing but a simulation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advisor.simulator.compilation import compiled
from advisor.simulator.prompt_sharing import NONE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.simulator.prompt_sharing import PromptSharing
    from catalog.units import Array


class FollowUps(NamedTuple):
    """Arrays for n requests; of none where no request waits for another."""

    first: NDArray[np.int32]
    """That waits for each; -1 without."""
    sibling: NDArray[np.int32]
    """The next that waits for the same; -1 without."""
    wait_s: Array
    """Between the answer and it."""
    heap: NDArray[np.int32]
    """Those that will come, the next one first (a binary heap by time and number)."""
    size: NDArray[np.int64]
    """Of the heap, (1,)."""
    firsts: NDArray[np.int32]
    """First requests of the sessions of a closed loop, in the order in which they are let in; none where requests come by themselves."""
    queue: NDArray[np.int32]
    """Those that were let in, in that order, (n,)."""
    marks: NDArray[np.int64]
    """The next of the queue, its end, and the next of ``firsts``."""

    @classmethod
    def of(cls, sharing: PromptSharing | None, arrival_s: Array, concurrency: int | None = None) -> FollowUps:
        """Return those of some requests, the ones that wait for none in the heap; or those of a closed loop, so many in its queue."""
        if sharing is None or not sharing.follows:
            none = np.zeros(0, np.int32)
            return cls(none, none, np.zeros(0), none, np.zeros(1, np.int64), none, none, np.zeros(3, np.int64))
        n = len(sharing.after)
        first, sibling = np.full(n, NONE, np.int32), np.full(n, NONE, np.int32)
        for number in np.flatnonzero(sharing.after >= 0)[::-1].tolist():
            before = sharing.after[number]
            sibling[number], first[before] = first[before], number
        come = np.flatnonzero(sharing.after < 0)
        heap = np.zeros(n, np.int32)
        if concurrency is not None:
            queue, let_in = heap.copy(), min(concurrency, len(come))
            queue[:let_in] = come[:let_in]
            marks = np.array([0, let_in, let_in])
            return cls(first, sibling, sharing.wait_s, heap, np.zeros(1, np.int64), come.astype(np.int32), queue, marks)
        heap[: len(come)] = come[np.argsort(arrival_s[come], kind="stable")]  # what is sorted is a heap
        none = np.zeros(0, np.int32)
        return cls(first, sibling, sharing.wait_s, heap, np.array([len(come)]), none, none, np.zeros(3, np.int64))


@compiled
def push(later: Any, arrival: Any, q: int) -> None:
    """Put a request whose arrival is known into the heap."""
    place = later.size[0]
    later.size[0] += 1
    while place > 0:
        above = (place - 1) // 2
        other = later.heap[above]
        if arrival[other] < arrival[q] or (arrival[other] == arrival[q] and other < q):
            break
        later.heap[place] = other
        place = above
    later.heap[place] = q


@compiled
def pop(later: Any, arrival: Any) -> None:
    """Take the next one out of the heap."""
    later.size[0] -= 1
    size = later.size[0]
    q = later.heap[size]
    place = 0
    while 2 * place + 1 < size:
        below = 2 * place + 1
        one = later.heap[below]
        if below + 1 < size:
            two = later.heap[below + 1]
            if arrival[two] < arrival[one] or (arrival[two] == arrival[one] and two < one):
                below, one = below + 1, two
        if arrival[q] < arrival[one] or (arrival[q] == arrival[one] and q < one):
            break
        later.heap[place] = one
        place = below
    later.heap[place] = q


@compiled
def answered(later: Any, arrival: Any, q: int, now: float, horizon_s: float) -> None:
    """Let those that wait for a request come, once it has been answered; none at or after the horizon."""
    follower = later.first[q]
    while follower >= 0:
        arrival[follower] = now + later.wait_s[follower]
        if arrival[follower] < horizon_s:
            push(later, arrival, follower)
        follower = later.sibling[follower]
    if len(later.firsts) > 0:
        _let_in(later, arrival, now, horizon_s)


@compiled
def _let_in(later: Any, arrival: Any, now: float, horizon_s: float) -> None:
    """Let one more request into a closed loop, at the earliest when the one before it was."""
    marks = later.marks
    if marks[1] > 0:
        now = max(now, arrival[later.queue[marks[1] - 1]])
    if now >= horizon_s:
        return
    if later.size[0] > 0 and arrival[later.heap[0]] <= now:
        q = later.heap[0]
        pop(later, arrival)
    elif marks[2] < len(later.firsts):
        q = later.firsts[marks[2]]
        marks[2] += 1
    else:
        return
    arrival[q] = now
    later.queue[marks[1]] = q
    marks[1] += 1


@compiled
def coming_next(later: Any) -> int:
    """Return the request that comes next; -1 where none is known."""
    if len(later.firsts) > 0:
        return int(later.queue[later.marks[0]]) if later.marks[0] < later.marks[1] else -1
    return int(later.heap[0]) if later.size[0] > 0 else -1


@compiled
def came(later: Any, arrival: Any) -> None:
    """Note that the request that was to come next has come."""
    if len(later.firsts) > 0:
        later.marks[0] += 1
    else:
        pop(later, arrival)
