"""Ranks that share their experts go in step: none begins a step before all have ended the last, and each waits for the longest.

With attention data parallel the layers' experts are spread over the ranks, so every layer of every rank meets those of the others, and a
rank without work runs a dummy batch (vLLM: v1/engine/core.py, ``DPEngineCoreProc.run_busy_loop``; v1/worker/dp_utils.py,
``coordinate_batch_across_dp``). What a rank does by itself, attention among it, lasts as long as the longest of them; the experts take the
tokens of all. Passes that are captured in CUDA graphs are padded to the most tokens that any rank has.
Importing this module imports numba; nothing but a simulation does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advisor.simulator.compilation import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

REMEMBERED = 4
"""Steps of a group that are told apart at once: more than can be in flight."""


class LockStep(NamedTuple):
    """The latest steps of every group of ranks, (groups, REMEMBERED) unless said otherwise; of no group where replicas know nothing of
    each other.
    """

    number: NDArray[np.int64]
    """Of the steps in flight, (replicas, depth)."""
    row: NDArray[np.int64]
    """Of the log, for the same steps."""
    newest: NDArray[np.int64]
    """Number of the group's latest step, (groups,)."""
    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    own_s: NDArray[np.float64]
    """What the slowest rank takes beside the experts."""
    tokens: NDArray[np.int64]
    """Of all ranks."""
    most: NDArray[np.int64]
    """Of one rank."""

    @classmethod
    def fresh(cls, *, replicas: int, depth: int, ranks: int) -> LockStep:
        """Return groups of ``ranks`` idle ranks; of one rank each none."""
        groups = replicas // ranks if ranks > 1 else 0
        shape = groups, REMEMBERED
        return cls(
            number=np.zeros((replicas, depth), np.int64),
            row=np.zeros((replicas, depth), np.int64),
            newest=np.zeros(groups, np.int64),
            begin_s=np.zeros(shape),
            end_s=np.zeros(shape),
            own_s=np.zeros(shape),
            tokens=np.zeros(shape, np.int64),
            most=np.zeros(shape, np.int64),
        )


@compiled
def _end_s(steps: Any, group: int, place: int, ranks: int, by_group: Any, captured: float) -> float:
    """Return when a step ends, by what is known of its ranks."""
    tokens = steps.most[group, place]
    if tokens > captured:
        tokens = -(-steps.tokens[group, place] // ranks)
    return float(steps.begin_s[group, place] + steps.own_s[group, place] + 1e-3 * by_group[tokens])


@compiled
def join(state: Any, r: int, slot: int, now: float, own_s: float, tokens: int, by_group: Any, captured: float) -> float:
    """Let rank ``r`` take part in the first step of its group that has not begun, and return when, in seconds, it begins.

    Args:
        state: ``advisor.simulator.loop_state.State``; steps in flight that have to wait for this are put off.
        r: the rank,
        slot: and where its steps in flight have this one, which is not counted among them yet.
        now: seconds.
        own_s: what it takes by itself,
        tokens: for so many.
        by_group: milliseconds of the experts for so many tokens a rank, (budget + 1,).
        captured: tokens up to which passes are padded to the rank with most.

    """
    steps, ends, oldest, flying, wake = state.lockstep, state.ends, state.oldest, state.flying, state.wake
    depth = ends.shape[1]
    ranks = ends.shape[0] // len(steps.newest)
    group = r // ranks
    newest = steps.newest[group]
    first = max(newest - (REMEMBERED - 2), 0)
    if flying[r] > 0:
        first = max(first, steps.number[r, (oldest[r] + flying[r] - 1) % depth] + 1)
    number = first
    while number <= newest and steps.begin_s[group, number % REMEMBERED] < now:
        number += 1
    place = number % REMEMBERED
    if number > newest:
        steps.newest[group] = newest = number
        steps.begin_s[group, place] = max(now, steps.end_s[group, (number - 1) % REMEMBERED])
        steps.own_s[group, place] = 0.0
        steps.tokens[group, place] = 0
        steps.most[group, place] = 0
    steps.tokens[group, place] += tokens
    steps.most[group, place] = max(steps.most[group, place], tokens)
    steps.own_s[group, place] = max(steps.own_s[group, place], own_s)
    for later in range(number, newest + 1):
        at = later % REMEMBERED
        if later > number:
            steps.begin_s[group, at] = max(steps.begin_s[group, at], steps.end_s[group, (later - 1) % REMEMBERED])
        steps.end_s[group, at] = _end_s(steps, group, at, ranks, by_group, captured)
    steps.number[r, slot] = number
    ends[r, slot] = steps.end_s[group, place]
    for rank in range(group * ranks, (group + 1) * ranks):
        for i in range(flying[rank]):
            other = (oldest[rank] + i) % depth
            if steps.number[rank, other] >= number:
                ends[rank, other] = steps.end_s[group, steps.number[rank, other] % REMEMBERED]
        if flying[rank] > 0:
            wake[rank] = ends[rank, oldest[rank]]
    return float(steps.begin_s[group, place])


@compiled
def log_step(steps: Any, r: int, slot: int, end_s: float, log: Any) -> None:
    """Put into the log when a step began and ended, which the ranks that joined it have decided since."""
    row = steps.row[r, slot]
    if row < len(log):
        log[row, 2] = steps.begin_s[r // (len(steps.number) // len(steps.newest)), steps.number[r, slot] % REMEMBERED]
        log[row, 3] = end_s
