"""Prompts and outputs on GPUs of their own: one pool prefills, hands the KV cache over a link, and another decodes.

The cache of the whole prompt is sent once that has been computed, one request after the other on each replica's links; then the request waits
for the decode pool as any request waits, its prompt's cache already there. Answers are streamed by the pool that decodes, so the first
token comes from its first step, which computes the prompt's last token once more (vLLM 0.33: v1/core/sched/scheduler.py
``_update_waiting_for_remote_kv``; DistServe's pool for prompts sends it itself: Zhong et al., OSDI 2024). Nothing of this was measured.
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
    done = first.arrival_s + 1e-3 * first.ttft_ms
    ready = link.sent_s(done, traffic.input_len.astype(float), first.replica)
    order = np.argsort(ready, kind="stable")
    later = serve(_outputs(traffic, order, ready), decode.times, decode.scheduler)
    back = np.argsort(order, kind="stable")
    before = 1e3 * (ready - first.arrival_s)
    return RequestResults(
        arrival_s=first.arrival_s,
        input_len=traffic.input_len,
        output_len=traffic.output_len,
        cached=first.cached,
        ttft_ms=before + later.ttft_ms[back],
        e2e_ms=before + later.e2e_ms[back],
        longest_itl_ms=later.longest_itl_ms[back],
        preemptions=first.preemptions + later.preemptions[back],
        replica=later.replica[back],
        loaded=first.loaded,
        counted=np.ones(len(traffic), dtype=bool),
        gaps=later.gaps,
        bins=_with_prompts(later, first),
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
    rates = [
        saturation_rate(_prompts(traffic), prefill.times, prefill.scheduler, hit_rate),
        saturation_rate(_outputs(traffic, np.arange(len(traffic))), decode.times, decode.scheduler),
    ]
    sending_s = 1e-3 * link.ms_per_token * float(traffic.input_len.mean())
    if sending_s > 0:
        rates.append(prefill.scheduler.replicas / sending_s)
    return min(rates)


def _prompts(traffic: Arrivals) -> Arrivals:
    """Return the requests as the prefill pool sees them."""
    return replace(traffic, output_len=np.ones_like(traffic.output_len))


def _outputs(traffic: Arrivals, order: NDArray[np.intp], ready_s: Array | None = None) -> Arrivals:
    """Return the requests as the decode pool sees them, in the order in which they are ``ready_s``, in seconds; None: as they come."""
    arrival = traffic.arrival_s if ready_s is None else ready_s
    return replace(
        traffic,
        arrival_s=arrival[order],
        input_len=traffic.input_len[order],
        output_len=traffic.output_len[order],
        sharing=None,
    )


def _with_prompts(later: RequestResults, first: RequestResults) -> Array:
    """Add the prefill pool's preemptions and queue to the decode pool's curves, shape (BINS + 1, columns)."""
    bins = later.bins.copy()
    busy = np.maximum(first.bins[:, 0], 1e-12)
    bins[:, 2] += first.bins[:, 2] / busy * bins[:, 0]
    bins[:, 5:] += first.bins[:, 5:]
    return bins
