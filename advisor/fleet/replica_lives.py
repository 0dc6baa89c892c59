"""Requests on replicas that come and go: each replica serves what a round-robin router gives it while it stands.

Behind such a router replicas know nothing of each other, so each is simulated alone with its own requests (as
``advisor.simulator.subsample`` has it). What is lost with a replica is sent again to others; what comes while none stands waits for the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.schema import LATENCIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from advisor.fleet.scaling_policy import ReplicaLife
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.replica_sizing import ReplicaSizing
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLives:
    """Latencies of n requests, ms, shape (n,)."""

    arrival_s: Array
    ttft_ms: Array
    tpot_ms: Array
    e2e_ms: Array
    sent_again: int

    def statistics(self, percentile: float | None, begin_s: float, end_s: float) -> dict[str, float]:
        """Return each latency's percentile, or mean, over the requests that came in that time; NaN where none did."""
        counted = (self.arrival_s >= begin_s) & (self.arrival_s < end_s)
        statistics = {}
        for name in LATENCIES:
            values = getattr(self, name)[counted]
            values = values[~np.isnan(values)]
            if not len(values):
                statistics[name] = float("nan")
            else:
                statistics[name] = float(values.mean() if percentile is None else np.percentile(values, percentile))
        return statistics


def serve_lives(sizing: ReplicaSizing, times: Any, traffic: Arrivals, lives: Sequence[ReplicaLife]) -> ServedLives:
    """Serve the traffic, its arrivals in seconds of the day, on the replicas that stand then."""
    handed = traffic.arrival_s.copy()
    place = _routed(handed, lives)
    lost: list[NDArray[np.intp]] = []
    for number, life in enumerate(lives):
        own = np.flatnonzero(place == number)
        if life.dies and len(own):
            ends_s = handed[own] + 1e-3 * _served(sizing, times, traffic, handed, own)["e2e_ms"]
            gone = own[ends_s > life.gone_s]
            handed[gone] = life.gone_s
            lost.append(gone)
    if lost:
        again = np.concatenate(lost)
        again = again[np.argsort(handed[again], kind="stable")]
        moved = handed[again].copy()
        place[again] = _routed(moved, [replace(life, gone_s=-1.0) if life.dies else life for life in lives])
        handed[again] = moved
    waited = 1e3 * (handed - traffic.arrival_s)
    result = {name: np.full(len(traffic), np.nan) for name in LATENCIES}
    for number in range(len(lives)):
        own = np.flatnonzero(place == number)
        if len(own):
            served = _served(sizing, times, traffic, handed, own)
            for name in LATENCIES:
                result[name][own] = served[name]
    for name in ("ttft_ms", "e2e_ms"):
        result[name][place < 0] = np.inf  # no replica came in its time
    result["ttft_ms"] += waited
    result["e2e_ms"] += waited
    return ServedLives(arrival_s=traffic.arrival_s, sent_again=sum(map(len, lost)), **result)


def _routed(handed: Array, lives: Sequence[ReplicaLife]) -> NDArray[np.intp]:
    """Return the replica of each request, in turn among those that stand; ``handed`` moves on where a request has to wait for one."""
    ready, gone = np.array([life.ready_s for life in lives]), np.array([life.gone_s for life in lives])
    changes = np.unique(np.concatenate([ready, gone[np.isfinite(gone)], [-np.inf]]))
    place = np.full(len(handed), -1, dtype=np.intp)
    first, waiting = np.searchsorted(handed, changes), np.zeros(0, dtype=np.intp)
    for number, change in enumerate(changes):
        end = first[number + 1] if number + 1 < len(changes) else len(handed)
        come = np.concatenate([waiting, np.arange(first[number], end)])
        standing = np.flatnonzero((ready <= change) & (gone > change))
        if not len(standing):
            waiting = come
            continue
        handed[waiting] = change
        place[come] = standing[np.arange(len(come)) % len(standing)]
        waiting = np.zeros(0, dtype=np.intp)
    return place


def _served(
    sizing: ReplicaSizing, times: Any, traffic: Arrivals, handed: Array, own: NDArray[np.intp]
) -> Mapping[str, Array]:
    """Serve one replica's requests: their latencies from when it was handed them, in the order of ``own``."""
    order = own[np.argsort(handed[own], kind="stable")]
    mask = np.zeros(len(traffic), dtype=bool)
    mask[order] = True
    begin = float(handed[order[0]])
    part = replace(
        traffic.only(mask),
        arrival_s=handed[order] - begin,
        input_len=traffic.input_len[order],
        output_len=traffic.output_len[order],
        duration_s=max(float(handed[order[-1]]) - begin, 1.0),
    )
    served = sizing.engine.served(part, times)
    back = np.searchsorted(own, order)
    values = {name: np.empty(len(own)) for name in LATENCIES}
    for name in LATENCIES:
        values[name][back] = getattr(served, name)
    return values
