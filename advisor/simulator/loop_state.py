"""Where the compiled loop of the scheduler stands between two pieces of the traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.simulator.lockstep import LockStep

ARRIVED, COMPLETED, TOKENS, STEPS, PREEMPTIONS, MOST, TURN, KNOWN, GONE = range(9)
"""Of ``State.counts``: requests (of those in the arrays), tokens, steps, preemptions, most blocks in use, whose turn it is
behind the router, requests whose arrival is known (likewise), and those that were served and have left the arrays."""


class State(NamedTuple):
    """Where the loop stands between two pieces of the traffic; arrays, for n requests unless said otherwise."""

    first_s: NDArray[np.float64]
    """When the first token came, NaN if it has not."""
    last_s: NDArray[np.float64]
    """When the last one so far did."""
    longest_s: NDArray[np.float64]
    """Longest gap between two tokens."""
    preempted: NDArray[np.int32]
    """How often each was preempted."""
    place: NDArray[np.int16]
    """Replica that serves it."""
    computed: NDArray[np.int32]
    """Tokens in the KV cache."""
    made: NDArray[np.int32]
    """Tokens whose step has been scheduled."""
    shown: NDArray[np.int32]
    """Tokens that have come."""
    held: NDArray[np.int32]
    """Blocks."""
    runs: NDArray[np.bool_]
    link: NDArray[np.int32]
    """The next in the queue."""
    head: NDArray[np.int32]
    """First of the queue, (replicas, levels of priority), as the next one."""
    tail: NDArray[np.int32]
    waiting: NDArray[np.int64]
    """How many, as all that follow for each replica."""
    running: NDArray[np.int32]
    """Which run, (replicas, cap)."""
    runners: NDArray[np.int64]
    """How many of them."""
    free: NDArray[np.int64]
    """Blocks."""
    flight: NDArray[np.int32]
    """Which get a token from a step in flight, (replicas, depth, cap)."""
    yields: NDArray[np.int64]
    """How many of them, (replicas, depth)."""
    emitted: NDArray[np.int32]
    """Tokens that each of them gets, (replicas, depth, cap); of no sequence where each gets one."""
    ends: NDArray[np.float64]
    """When those steps end, likewise."""
    oldest: NDArray[np.int64]
    flying: NDArray[np.int64]
    """Steps in flight."""
    stage_free: NDArray[np.float64]
    """(replicas, stages)."""
    turn_free: NDArray[np.float64]
    """When the host can begin another step, (replicas,)."""
    wake: NDArray[np.float64]
    """When the oldest step ends, infinite without."""
    counts: NDArray[np.int64]
    end_s: NDArray[np.float64]
    """When the last step ended, (1,)."""
    seen: NDArray[np.int64]
    """How many of those that wait, from the head of the queue on, the scheduler knows of, (replicas,) as the next four."""
    unpolled: NDArray[np.int64]
    """Steps since it looked for new ones."""
    held_back: NDArray[np.int64]
    """Steps for which those that wait have been held back to fill a batch."""
    waiting_tokens: NDArray[np.int64]
    """Of the prompts that wait."""
    delivered_s: NDArray[np.float64]
    """When the front end has delivered all tokens so far."""
    lockstep: LockStep
    """Steps that ranks take together."""

    @classmethod
    def fresh(
        cls,
        n: int,
        *,
        replicas: int,
        cap: int,
        pool: int,
        depth: int,
        stages: int,
        known: int,
        ranks: int = 1,
        drafts: bool = False,
    ) -> State:
        """Return idle engines, and n requests that have not come; ``ranks`` of the replicas at a time go in step, and with ``drafts``
        a sequence may get several tokens of a step.
        """
        from advisor.simulator.lockstep import LockStep  # brings numba

        counts = np.zeros(9, np.int64)
        counts[KNOWN] = known
        return cls(
            first_s=np.full(n, np.nan),
            last_s=np.full(n, np.nan),
            longest_s=np.zeros(n),
            preempted=np.zeros(n, np.int32),
            place=np.zeros(n, np.int16),
            computed=np.zeros(n, np.int32),
            made=np.zeros(n, np.int32),
            shown=np.zeros(n, np.int32),
            held=np.zeros(n, np.int32),
            runs=np.zeros(n, np.bool_),
            link=np.full(n, -1, np.int32),
            head=np.full((replicas, 1), -1, np.int32),
            tail=np.full((replicas, 1), -1, np.int32),
            waiting=np.zeros(replicas, np.int64),
            running=np.zeros((replicas, cap), np.int32),
            runners=np.zeros(replicas, np.int64),
            free=np.full(replicas, pool, np.int64),
            flight=np.zeros((replicas, depth, cap), np.int32),
            yields=np.zeros((replicas, depth), np.int64),
            emitted=np.zeros((replicas, depth, cap if drafts else 0), np.int32),
            ends=np.zeros((replicas, depth)),
            oldest=np.zeros(replicas, np.int64),
            flying=np.zeros(replicas, np.int64),
            stage_free=np.zeros((replicas, stages)),
            turn_free=np.zeros(replicas),
            wake=np.full(replicas, np.inf),
            counts=counts,
            end_s=np.zeros(1),
            seen=np.zeros(replicas, np.int64),
            unpolled=np.zeros(replicas, np.int64),
            held_back=np.zeros(replicas, np.int64),
            waiting_tokens=np.zeros(replicas, np.int64),
            delivered_s=np.zeros(replicas),
            lockstep=LockStep.fresh(replicas=replicas, depth=depth, ranks=ranks),
        )

    def for_levels(self, levels: NDArray[np.int64]) -> State:
        """Return the same of requests with these levels of priority, (n,), none of which waits yet; itself where they have none."""
        queues = (len(self.head), int(levels.max(initial=0)) + 1)
        if queues == self.head.shape:
            return self
        return self._replace(head=np.full(queues, -1, np.int32), tail=np.full(queues, -1, np.int32))

    def moved_on(self, gone: int, more: int) -> State:
        """Drop the first ``gone`` requests, which have been served, and add so many more at the end."""
        replicas, cap = self.running.shape
        new = State.fresh(
            more, replicas=replicas, cap=cap, pool=0, depth=self.ends.shape[1], stages=self.stage_free.shape[1], known=0
        )
        of_requests: dict[str, Any] = {
            name: np.concatenate([getattr(self, name)[gone:], getattr(new, name)]) for name in State._fields[:11]
        }
        counts = self.counts.copy()
        counts[ARRIVED] -= gone
        counts[KNOWN] += more - gone
        counts[GONE] += gone

        def renumbered(places: NDArray[np.int32]) -> NDArray[np.int32]:
            return np.where(places >= gone, places - gone, -1).astype(np.int32)

        return self._replace(
            **of_requests | {"link": renumbered(of_requests["link"])},
            head=renumbered(self.head),
            tail=renumbered(self.tail),
            running=renumbered(self.running),
            flight=renumbered(self.flight),
            counts=counts,
        )
