"""One run of the scheduler's loop over some traffic, and what became of every request."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from advisor.serving.steps import StepTimes
    from advisor.serving.traffic import Traffic

    Array = NDArray[np.float64]

Router = Literal["round_robin", "least_loaded"]
ROUTERS: tuple[Router, ...] = ("round_robin", "least_loaded")
METRICS = ("ttft_ms", "tpot_ms", "itl_ms", "e2e_ms")

FRONT_END_MS = 1.5
"""From a request's arrival to the scheduler and from a step's end back to the client: parsing, tokens to text, and the
hand-over between processes. Of vLLM 0.24 serving Llama-3.1-8B on one H200 under open loops (catalog/data/requests): what
the median time to the first token has above the steps that it waits for and takes, where these are scaled so that the
time per output token comes out."""
SETTLING = 0.35
"""Share of a closed loop in which it fills up; what is measured comes after (as ``probes.serving`` measures)."""
TURNS = 12
"""Full replicas that a queue fills one after the other to see how fast it empties."""
BINS = 120
"""Points of the curves over time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """What the loop needs to know of a deployment beside its step times."""

    replicas: int
    max_num_seqs: int
    max_num_batched_tokens: int
    kv_blocks: int
    """Of one replica."""
    stages: int = 1
    asynchronous: bool = True
    """The next step is scheduled while this one runs (vLLM's default without pipeline stages)."""
    window: int = 0
    """Tokens that windowed layers attend to; 0 without."""
    router: Router = "round_robin"
    prefix_hit_rate: float = 0.0
    """Share of each prompt's tokens that are found in the prefix cache. They take blocks like others."""
    front_end_ms: float = FRONT_END_MS
    cached_prompts: bool = False
    """Requests come with the KV cache of all their prompt but its last token, computed elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """n requests, those that came; arrays of shape (n,) in the order of arrival unless said otherwise."""

    arrival_s: Array
    input_len: NDArray[np.int64]
    output_len: NDArray[np.int64]
    ttft_ms: Array
    e2e_ms: Array
    longest_itl_ms: Array
    preemptions: NDArray[np.int32]
    replica: NDArray[np.int16]
    counted: NDArray[np.bool_]
    """What the answers are of: in a closed loop requests that ended after it had filled up and before its end."""
    gaps: NDArray[np.int64]
    """Histogram of the gaps between tokens of all requests, see ``serving_kernel``."""
    bins: Array
    """Sums over parts of the time that requests come, and in the last row over what is left after, shape (BINS + 1, ...);
    see ``serving_kernel.BIN_COLUMNS``."""
    bin_s: float
    steps: int
    end_s: float
    most_blocks: int
    log: Array
    """The first steps, columns ``serving_kernel.STEP_COLUMNS``."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def tpot_ms(self) -> Array:
        """Mean time per output token after the first; NaN where there is only one."""
        after = self.output_len - 1.0
        return np.where(after > 0, (self.e2e_ms - self.ttft_ms) / np.maximum(after, 1.0), np.nan)

    def values(self, metric: str) -> Array:
        """The counted requests' values of ``ttft_ms``, ``tpot_ms`` or ``e2e_ms``."""
        found: Array = getattr(self, metric)[self.counted]
        return found[~np.isnan(found)]

    def percentile(self, metric: str, percentile: float) -> float:
        """Value of one of ``METRICS``; NaN where there is none. Of gaps between tokens to half a per cent."""
        if metric == "itl_ms":
            return _of_histogram(self.gaps, percentile)
        values = self.values(metric)
        return float(np.percentile(values, percentile)) if len(values) else float("nan")

    def mean(self, metric: str) -> float:
        if metric == "itl_ms":
            total = self.gaps.sum()
            return float((self.gaps * _gap_ms(np.arange(len(self.gaps)))).sum() / total) if total else float("nan")
        values = self.values(metric)
        return float(values.mean()) if len(values) else float("nan")


def _gap_ms(place: Array | NDArray[np.int64]) -> Array:
    from advisor.serving.kernel import GAPS_PER_E, LEAST_GAP_S  # noqa: PLC0415  brings numba

    return 1e3 * LEAST_GAP_S * np.exp((place + 0.5) / GAPS_PER_E)


def _of_histogram(counts: NDArray[np.int64], percentile: float) -> float:
    come = np.cumsum(counts)
    if not come[-1]:
        return float("nan")
    return float(_gap_ms(np.searchsorted(come, percentile / 100.0 * come[-1])))


def serve(traffic: Traffic, times: StepTimes, scheduler: Scheduler, *, steps_logged: int = 0) -> Served:
    """Every request of the traffic, one step of the engine after the other.

    The caller has seen to it that each request fits: ``Traffic.within`` and ``serving_runs.longest``.
    """
    from advisor.serving import kernel  # noqa: PLC0415  brings numba

    n = len(traffic)
    arrival = traffic.arrival_s.astype(float)  # a copy: a closed loop writes to it
    first, last, gap = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n)
    preemptions, replica = np.zeros(n, np.int32), np.zeros(n, np.int16)
    gaps, bins = np.zeros(kernel.GAP_BINS, np.int64), np.zeros((BINS + 1, len(kernel.BIN_COLUMNS)))
    log = np.zeros((steps_logged, len(kernel.STEP_COLUMNS)))
    bin_s = traffic.duration_s / BINS
    cached = np.floor(scheduler.prefix_hit_rate * traffic.input_len / kernel.BLOCK).astype(np.int64) * kernel.BLOCK
    if scheduler.cached_prompts:
        cached = traffic.input_len
    closed = traffic.concurrency is not None
    ahead = scheduler.asynchronous and scheduler.stages == 1
    counts = kernel.serve(
        arrival, traffic.input_len, traffic.output_len, np.minimum(cached, traffic.input_len - 1),
        traffic.concurrency or n, traffic.duration_s if closed else np.inf,
        scheduler.replicas, ROUTERS.index(scheduler.router), 2 if ahead else scheduler.stages, ahead,
        scheduler.max_num_batched_tokens, scheduler.max_num_seqs, scheduler.kv_blocks,
        float(scheduler.window) or np.inf, times.by_tokens, times.by_sequences, times.by_context, times.constants,
        times.shares, np.array([scheduler.front_end_ms * 1e-3, 0.0]),
        first, last, gap, preemptions, replica, gaps, bins, bin_s, log,
    )  # fmt: skip
    came, completed = int(counts[0]), int(counts[1])
    if completed != came:
        raise AssertionError(f"{came - completed} of {came} requests were never served; each should have fitted")
    counted = np.ones(came, dtype=bool)
    if closed:
        counted = (last[:came] >= SETTLING * traffic.duration_s) & (last[:came] <= traffic.duration_s)
        counted[: traffic.starters] = False
    return Served(
        arrival_s=arrival[:came], input_len=traffic.input_len[:came], output_len=traffic.output_len[:came],
        ttft_ms=1e3 * (first - arrival)[:came], e2e_ms=1e3 * (last - arrival)[:came], longest_itl_ms=1e3 * gap[:came],
        preemptions=preemptions[:came], replica=replica[:came], counted=counted, gaps=gaps, bins=bins, bin_s=bin_s,
        steps=int(counts[3]), end_s=float(counts[6]), most_blocks=int(counts[5]), log=log[: int(counts[3])],
    )  # fmt: skip


def longest(scheduler: Scheduler) -> int:
    """Tokens of the longest request, prompt and output, that the KV cache of one replica holds."""
    from advisor.serving.kernel import BLOCK  # noqa: PLC0415

    return scheduler.kv_blocks * BLOCK


def saturation_rate(traffic: Traffic, times: StepTimes, scheduler: Scheduler, *, turns: int = TURNS) -> float:
    """Requests a second that are completed when there are always more waiting: those of the traffic, over and over.

    Counted between the completion of a quarter and of three quarters of a queue as long as so many ``turns`` of all that
    may run at once.
    """
    wanted = turns * scheduler.max_num_seqs * scheduler.replicas
    taken = np.arange(wanted) % min(len(traffic), wanted)
    queue = replace(
        traffic, arrival_s=np.zeros(wanted), input_len=traffic.input_len[taken], output_len=traffic.output_len[taken],
        duration_s=1.0, concurrency=None, starters=0, notes=(),
    )  # fmt: skip
    ends = np.sort(serve(queue, times, scheduler).e2e_ms)
    begin, end = ends[wanted // 4], ends[3 * wanted // 4]
    return float((3 * wanted // 4 - wanted // 4) / (end - begin) * 1e3)
