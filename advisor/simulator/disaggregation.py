"""Prompts and outputs on GPUs of their own: one pool prefills, hands the KV cache over a link, and another decodes.

The prefill pool gives the first token (as vLLM's and DistServe's do: Zhong et al., OSDI 2024); the cache of the whole prompt
is sent once that has been computed, one request after the other on each replica's links; then the request waits for the
decode pool as any request waits, its prompt's cache already there. Nothing of this was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from advisor.simulator.request_results import RequestResults
from advisor.simulator.scheduler import saturation_rate, serve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.scheduler import Scheduler
    from advisor.simulator.step_table import StepTimes
    from catalog.units import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPool:
    """Replicas of one layout."""

    times: StepTimes
    scheduler: Scheduler
    """Of the decode pool with ``cached_prompts``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvTransfer:
    """What the KV cache of a prompt takes to get from a prefill replica to a decode replica."""

    ms_per_token: float
    latency_ms: float

    def sent_s(self, done_s: Array, tokens: Array, replica: NDArray[np.int16]) -> Array:
        """Return when, in seconds, the caches of n prompts done at those times have arrived; each replica sends one
        after the other.

        All arrays have shape (n,).
        """
        arrived = np.empty_like(done_s)
        for number in np.unique(replica):
            here = np.flatnonzero(replica == number)
            here = here[np.argsort(done_s[here], kind="stable")]
            takes = 1e-3 * self.ms_per_token * tokens[here]
            before = np.cumsum(takes) - takes
            # A sending begins when its prompt is done and the one before it has ended.
            arrived[here] = np.maximum.accumulate(done_s[here] - before) + before + takes
        return arrived + 1e-3 * self.latency_ms


def serve_apart(traffic: Arrivals, prefill: ServerPool, decode: ServerPool, link: KvTransfer) -> RequestResults:
    """Serve every request of an open loop, first in one pool, then in the other.

    Curves over time, blocks and replicas are those of the decode pool.
    """
    first = serve(_prompts(traffic), prefill.times, prefill.scheduler)
    several = np.flatnonzero(traffic.output_len > 1)
    done = (first.arrival_s + 1e-3 * first.ttft_ms)[several]
    ready = link.sent_s(done, traffic.input_len[several].astype(float), first.replica[several])
    order = np.argsort(ready, kind="stable")
    several, ready = several[order], ready[order]
    n = len(traffic)
    if not len(several):
        return replace(first, output_len=traffic.output_len)
    later = serve(
        replace(_outputs(traffic, several), arrival_s=ready, duration_s=traffic.duration_s),
        decode.times,
        decode.scheduler,
    )
    begun = traffic.arrival_s[several]
    e2e, longest = first.e2e_ms.copy(), np.zeros(n)
    e2e[several] = later.e2e_ms + 1e3 * (ready - begun)
    # The second token is the decode pool's first, and its gap holds the hand-over.
    hand_over = later.ttft_ms + 1e3 * (ready - begun) - first.ttft_ms[several]
    longest[several] = np.maximum(hand_over, later.longest_itl_ms)
    preemptions, replica = first.preemptions.copy(), first.replica.copy()
    preemptions[several] += later.preemptions
    replica[several] = later.replica
    return RequestResults(
        arrival_s=first.arrival_s,
        input_len=traffic.input_len,
        output_len=traffic.output_len,
        cached=first.cached,
        ttft_ms=first.ttft_ms,
        e2e_ms=e2e,
        longest_itl_ms=longest,
        preemptions=preemptions,
        replica=replica,
        loaded=first.loaded,
        counted=np.ones(n, dtype=bool),
        gaps=later.gaps + gap_histogram(hand_over),
        bins=_with_first_tokens(later, first),
        bin_s=later.bin_s,
        steps=first.steps + later.steps,
        end_s=max(first.end_s, later.end_s),
        most_blocks=later.most_blocks,
        log=later.log,
    )


def saturation_apart(
    traffic: Arrivals, prefill: ServerPool, decode: ServerPool, link: KvTransfer, hit_rate: float | None = None
) -> float:
    """Return requests a second that the slowest of prefill, links and decode completes when there are always more
    waiting; ``hit_rate``: of the caches of the replicas for prompts, see ``saturation_rate``.
    """
    several = np.flatnonzero(traffic.output_len > 1)
    share = len(several) / len(traffic)
    rates = [saturation_rate(_prompts(traffic), prefill.times, prefill.scheduler, hit_rate)]
    if share:
        rates.append(saturation_rate(_outputs(traffic, several), decode.times, decode.scheduler) / share)
        sending_s = 1e-3 * link.ms_per_token * float(traffic.input_len[several].mean())
        if sending_s > 0:
            rates.append(prefill.scheduler.replicas / sending_s / share)
    return min(rates)


def _prompts(traffic: Arrivals) -> Arrivals:
    """Return the requests as the prefill pool sees them."""
    return replace(traffic, output_len=np.ones_like(traffic.output_len))


def _outputs(traffic: Arrivals, several: NDArray[np.intp]) -> Arrivals:
    """Return those with more than one token as the decode pool sees them: the first is part of what they come with."""
    return replace(
        traffic,
        arrival_s=traffic.arrival_s[several],
        input_len=traffic.input_len[several] + 1,
        output_len=traffic.output_len[several] - 1,
        sharing=None,
    )


def gap_histogram(gaps_ms: Array) -> NDArray[np.int64]:
    """Count the gaps in the bins that the scheduler's loop counts its own in."""
    from advisor.simulator.loop_totals import GAP_BINS, GAPS_PER_E, LEAST_GAP_S  # brings numba

    place = np.log(np.maximum(1e-3 * gaps_ms, LEAST_GAP_S) / LEAST_GAP_S) * GAPS_PER_E
    return np.bincount(np.clip(place, 0, GAP_BINS - 1).astype(np.int64), minlength=GAP_BINS).astype(np.int64)


def _with_first_tokens(later: RequestResults, first: RequestResults) -> Array:
    """Add the prefill pool's tokens, preemptions and queue to the decode pool's curves, shape (BINS + 1, columns)."""
    bins = later.bins.copy()
    busy = np.maximum(first.bins[:, 0], 1e-12)
    bins[:, 2] += first.bins[:, 2] / busy * bins[:, 0]
    bins[:, 4:] += first.bins[:, 4:]
    return bins
