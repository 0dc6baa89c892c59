"""What is said beside a recommendation: how it is to be read, and what its last sequences would buy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.prediction.inputs import BARE_ESTIMATE
from advisor.recommendation.certainty import HOLDS
from catalog.errors import Note

if TYPE_CHECKING:
    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.problem import DeploymentSearch


def last_sequences(best: Estimate, search: DeploymentSearch) -> tuple[str, ...]:
    """Return what the sequences would buy that the cache holds by the estimate and not surely, and what happens where it does not."""
    most = min(best.max_concurrency, search.max_batch)
    if (
        search.confidence == BARE_ESTIMATE
        or search.workload.concurrency is not None
        or most <= best.batch
        or not search.is_full(best)
    ):
        return ()
    bare = replace(search, confidence=BARE_ESTIMATE)
    other = bare.scores_at(best, most)
    if other.excess[0] > 0:  # a limit ends the batch, not memory
        return ()
    gain = float(other.attributes["output_tok_s_per_gpu"][0]) / (best.output_tok_s_per_gpu or math.inf) - 1.0
    more = most - best.batch
    text = (
        f"the cache holds batch {best.batch} with {HOLDS:.0%}; the {more} more that it holds by the estimate would buy {gain:.1%} of "
        "throughput, and where they do not fit the latest requests are preempted and computed again"
    )
    return (text,)


def regime_notes(search: DeploymentSearch) -> list[Note]:
    """Return how times and limits are meant."""
    notes = [
        Note("steady state: each replica keeps its batch of requests in flight; latencies are means of one request"),
    ]
    if search.slo.limits:
        sure = (
            "by the bare estimate" if search.confidence == BARE_ESTIMATE else f"with {search.confidence:.0%} confidence"
        )
        notes.append(Note(f"limits hold for the mean of a request, {sure}"))
    if search.price is not None:
        notes.append(Note(f"${search.price.usd_per_gpu_hour:g} per GPU-hour: {search.price.offer}"))
    return notes
