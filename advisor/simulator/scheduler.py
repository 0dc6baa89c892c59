"""Requests served by the replicas of one deployment: the arrays that the compiled loop takes and fills."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from advisor.simulator.loop_state import ARRIVED, KNOWN, MOST, STEPS, State
from advisor.simulator.request_results import BINS, RequestResults
from advisor.simulator.routers import FCFS, ROUTERS
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from advisor.simulator.adapter_slots import AdapterSlots
    from advisor.simulator.adapter_terms import AdapterTerms
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.block_cache import BlockCache
    from advisor.simulator.cache_tiers import CacheTier
    from advisor.simulator.follow_ups import FollowUps
    from advisor.simulator.routers import Router, SchedulingPolicy
    from advisor.simulator.step_table import StepTimes
    from advisor.simulator.tier_cache import TierCache
    from catalog.units import Array


FRONT_END_MS = 1.5
"""From a request's arrival to the scheduler and from a step's end back to the client: parsing, tokens to text, and the
hand-over between processes. Of vLLM 0.24 serving Llama-3.1-8B on one H200 under open loops (catalog/data/requests): what
the median time to the first token has above the steps that it waits for and takes, where these are scaled so that the
time per output token comes out."""

ALL = 2**62
"""Requests that no traffic has: the loop goes on until all are served."""
TURNS = 12
"""Full replicas that a queue fills one after the other to see how fast it empties."""


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
    scheduling_policy: SchedulingPolicy = FCFS
    prefix_hit_rate: float = 0.0
    """Share of each prompt's tokens that are found in the prefix cache. They take blocks like others."""
    prefix_caching: bool = True
    """Whether the engine keeps what it has computed of prompts that have something in common."""
    tiers: tuple[CacheTier, ...] = ()
    """Where it keeps blocks of prompts beside the GPUs, the fastest first."""
    front_end_ms: float = FRONT_END_MS
    mixes_prompts: bool = True
    """As ``catalog.engines.traits.EngineTiming`` has it, and the next three."""
    reserves_outputs: bool = False
    poll_steps: int = 1
    batch_wait_steps: int = 0
    delivery_tok_s: float = math.inf
    """Tokens a second that the front end of one replica delivers, one after the other."""
    ranks: int = 1
    """Replicas at a time that share their experts and go in step (``advisor.simulator.lockstep``); 1: none know of each other."""
    cached_prompts: bool = False
    """Requests come with the KV cache of all their prompt but its last token, computed elsewhere."""
    adapters: AdapterTerms | None = None
    """LoRA adapters that requests are of."""
    draft_slots: int = 0
    """Tokens beyond its own for which a sequence holds blocks, where it is drafted for."""

    @property
    def tier_names(self) -> tuple[str, ...]:
        return tuple(tier.name for tier in self.tiers)

    def multiplied(self, times: int) -> Scheduler:
        """Return the same of ``times`` times as many replicas."""
        return replace(self, replicas=self.replicas * times)


def serve(traffic: Arrivals, times: StepTimes, scheduler: Scheduler, *, steps_logged: int = 0) -> RequestResults:
    """Serve every request of the traffic, one step of the engine after the other.

    The caller has seen to it that each request fits: ``Arrivals.within`` and ``advisor.simulator.scheduler.longest``.
    """
    (served,) = serve_pieces([traffic], times, scheduler, duration_s=traffic.duration_s, steps_logged=steps_logged)
    return served


def serve_pieces(
    pieces: Iterable[Arrivals],
    times: StepTimes,
    scheduler: Scheduler,
    *,
    duration_s: float,
    steps_logged: int = 0,
    most_open: float = math.inf,
) -> Iterator[RequestResults]:
    """Serve traffic that comes in pieces, in memory that grows with the longest queue and not with the traffic.

    Yields the requests in the order of their arrival, all of them but each once, as soon as none before them is still being
    served; what is not of single requests (``gaps``, ``bins``, ``steps``, ...) is of all up to then.

    Args:
        pieces: each as ``serve`` takes it, arriving later than the one before; those of a closed loop are one.
        times: of the steps.
        scheduler: of the replicas.
        duration_s: how long requests come, over all pieces.
        steps_logged: so many steps are logged.
        most_open: requests between the oldest that is not served and the latest that came.

    Raises:
        InputError: there are more than ``most_open``.

    """
    from advisor.simulator import scheduler_loop as kernel  # brings numba

    loop: Any = kernel.serve  # mypy does not unpack a NamedTuple into arguments
    settings = _settings(scheduler)
    totals = _Totals.empty(duration_s, steps_logged)
    state = _begun(scheduler, settings, drafts=times.drafts is not None)
    arrival, inputs, outputs = np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)  # of those in the state
    delays_s, loras = _delays_s(scheduler), _adapters(scheduler)
    gone = 0
    for piece, more in _with_more(pieces):
        shared = _Shared.of(piece, scheduler)
        state = state.moved_on(gone, len(piece)).for_levels(shared.levels)
        arrival = np.concatenate([arrival[gone:], piece.arrival_s])
        inputs = np.concatenate([inputs[gone:], piece.input_len])
        outputs = np.concatenate([outputs[gone:], piece.output_len])
        if piece.concurrency is not None:
            state.counts[KNOWN] = piece.concurrency
        requests = (arrival, inputs, outputs)
        cached = _cached(scheduler, inputs)
        timed = piece.settling or (piece.concurrency is not None and not piece.counted_out)
        horizon_s = piece.duration_s if timed else np.inf
        loop(
            *requests, cached, more, horizon_s, ALL, *settings, *times.arrays, delays_s, *totals, state, *shared, loras
        )
        let_in = int(state.counts[ARRIVED])
        served = _served(shared, state, arrival, outputs)
        gone = len(served)
        if not more and gone != let_in:
            raise AssertionError(f"{let_in - gone} of {let_in} requests were never served; each should have fitted")
        if let_in - gone > most_open:
            raise InputError(_overrun(arrival, gone, let_in))
        yield RequestResults(
            arrival_s=arrival[served],
            input_len=inputs[served],
            output_len=outputs[served],
            cached=cached[served],
            ttft_ms=1e3 * (state.first_s[served] - arrival[served]),
            e2e_ms=1e3 * (state.last_s[served] - arrival[served]),
            longest_itl_ms=1e3 * state.longest_s[served],
            preemptions=state.preempted[served],
            replica=state.place[served],
            loaded=shared.tiers.loaded_by(served),
            counted=_counted(arrival[served], state.last_s[served], piece),
            classes=None if piece.classes is None else piece.classes.of(served),
            adapter_loads=() if loras is None else tuple(loras.loads.tolist()),
            steps=int(state.counts[STEPS]),
            end_s=float(state.end_s[0]),
            most_blocks=int(state.counts[MOST]),
            **totals._replace(log=totals.log[: state.counts[STEPS]])._asdict(),
        )


def _served(
    shared: _Shared, state: State, arrival: NDArray[np.float64], outputs: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Return the requests that are served, by arrival: all before the first that is not, or, where follow-ups came in another
    order, whichever are.
    """
    if len(shared.later.first):  # perhaps not all of them came
        served = np.flatnonzero(state.shown == outputs)
        return served[np.argsort(arrival[served], kind="stable")]
    let_in = int(state.counts[ARRIVED])
    waits = state.shown[:let_in] < outputs[:let_in]
    return np.arange(int(np.argmax(waits)) if waits.any() else let_in, dtype=np.intp)


class _Settings(NamedTuple):
    """A scheduler as the compiled loop takes it, in the order of its arguments."""

    router: int
    ahead: bool
    budget: int
    pool: int
    window: float
    mixes: bool
    reserves: bool
    poll: int
    batch_wait: int
    token_s: float


class _Shared(NamedTuple):
    """What requests have in common as the compiled loop takes it, in the order of its arguments."""

    cache: BlockCache
    tiers: TierCache
    later: FollowUps
    session: NDArray[np.int64]
    homes: NDArray[np.int64]
    levels: NDArray[np.int64]

    @classmethod
    def of(cls, piece: Arrivals, scheduler: Scheduler) -> _Shared:
        """Return empty caches for a piece of the traffic, which is all of it where requests have anything in common."""
        from advisor.simulator.block_cache import BlockCache  # brings numba
        from advisor.simulator.follow_ups import FollowUps
        from advisor.simulator.tier_cache import TierCache

        sharing = piece.sharing
        session = np.zeros(0, np.int64) if sharing is None else sharing.session
        tiers = scheduler.tiers if sharing is not None and scheduler.prefix_caching else ()
        return cls(
            cache=BlockCache.of(
                sharing if scheduler.prefix_caching else None,
                longest=int((piece.input_len + piece.output_len).max(initial=1)) + scheduler.draft_slots,
                replicas=scheduler.replicas,
                cap=scheduler.max_num_seqs,
                pool=scheduler.kv_blocks,
                tiered=bool(tiers),
            ),
            tiers=TierCache.of(tiers, piece, replicas=scheduler.replicas, pool=scheduler.kv_blocks),
            later=FollowUps.of(sharing, piece.arrival_s, piece.concurrency),
            session=session,
            homes=np.full(int(session.max(initial=-1)) + 1, -1),
            levels=_levels(piece, scheduler),
        )


class _Totals(NamedTuple):
    """What the compiled loop adds up over all requests, in the order of its arguments; see ``RequestResults``."""

    gaps: NDArray[np.int64]
    bins: Array
    bin_s: float
    log: Array

    @classmethod
    def empty(cls, duration_s: float, steps_logged: int = 0) -> _Totals:
        """Return them before anything was served."""
        from advisor.simulator import loop_totals  # brings numba

        return cls(
            gaps=np.zeros(loop_totals.GAP_BINS, np.int64),
            bins=np.zeros((BINS + 1, len(loop_totals.BIN_COLUMNS))),
            bin_s=duration_s / BINS,
            log=np.zeros((steps_logged, len(loop_totals.STEP_COLUMNS))),
        )


def _levels(piece: Arrivals, scheduler: Scheduler) -> NDArray[np.int64]:
    """Return the level of priority of each request, 0 first, (n,); none where they are served as they come."""
    if scheduler.scheduling_policy == FCFS or piece.classes is None:
        return np.zeros(0, np.int64)
    return piece.classes.levels


def _begun(scheduler: Scheduler, settings: _Settings, *, drafts: bool) -> State:
    """Return the loop's state before any request is known; ``drafts``: whether a sequence may get several tokens of a step."""
    return State.fresh(
        0,
        replicas=scheduler.replicas,
        cap=scheduler.max_num_seqs,
        pool=scheduler.kv_blocks,
        depth=2 if settings.ahead else scheduler.stages,
        stages=scheduler.stages,
        known=0,
        ranks=scheduler.ranks,
        drafts=drafts,
    )


def _adapters(scheduler: Scheduler) -> AdapterSlots | None:
    """Return slots with no adapter in them; None without adapters."""
    if scheduler.adapters is None:
        return None
    from advisor.simulator.adapter_slots import AdapterSlots  # brings numba

    return AdapterSlots.of(scheduler.adapters, scheduler.replicas)


def _delays_s(scheduler: Scheduler) -> Array:
    """Return seconds from arrival to the scheduler, and from the end of a step to the client."""
    return np.array([scheduler.front_end_ms * 1e-3, 0.0])


def _settings(scheduler: Scheduler) -> _Settings:
    """Return the scheduler as the loop takes it."""
    return _Settings(
        router=ROUTERS.index(scheduler.router),
        ahead=scheduler.asynchronous and scheduler.stages == 1,
        budget=scheduler.max_num_batched_tokens,
        pool=scheduler.kv_blocks,
        window=float(scheduler.window) or np.inf,
        mixes=scheduler.mixes_prompts,
        reserves=scheduler.reserves_outputs,
        poll=scheduler.poll_steps,
        batch_wait=scheduler.batch_wait_steps,
        token_s=1.0 / scheduler.delivery_tok_s,
    )


def _counted(arrival_s: Array, last_s: Array, piece: Arrivals) -> NDArray[np.bool_]:
    """Return which requests answers are of, shape (n,), see ``RequestResults.counted``."""
    if piece.concurrency is None or piece.counted_out:
        return arrival_s >= piece.settled_s
    counted = (last_s >= piece.settled_s) & (last_s <= piece.duration_s)
    counted[: piece.starters] = False
    return counted


def _with_more(pieces: Iterable[Arrivals]) -> Iterator[tuple[Arrivals, bool]]:
    """Yield each piece with whether another follows."""
    remaining = iter(pieces)
    piece = next(remaining, None)
    while piece is not None:
        following = next(remaining, None)
        yield piece, following is not None
        piece = following


def _cached(scheduler: Scheduler, inputs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return prompt tokens found in the cache, shape (n,); the last one is always computed."""
    from advisor.simulator.block_cache import BLOCK  # brings numba

    if scheduler.cached_prompts:
        return inputs - 1
    hits = np.floor(scheduler.prefix_hit_rate * inputs / BLOCK).astype(np.int64) * BLOCK
    return np.minimum(hits, inputs - 1)


def _overrun(arrival: Array, gone: int, come: int) -> str:
    span = arrival[come - 1] - arrival[gone]
    return (
        f"{come - gone} requests were waiting or being served {arrival[come - 1]:.6g} s after the first, more than memory should "
        f"hold: {(come - gone) / max(span, 1e-9):.3g} a second came and far fewer can be served; simulate more replicas, or a "
        "part of the time (duration)"
    )


def longest(scheduler: Scheduler) -> int:
    """Return the tokens of the longest request, prompt and output, that the KV cache of one replica holds."""
    from advisor.simulator.block_cache import BLOCK

    return scheduler.kv_blocks * BLOCK - scheduler.draft_slots


def most_running(traffic: Arrivals, scheduler: Scheduler) -> int:
    """Return how many requests, grown by half their output on average, one replica has room for at once, at least one."""
    from advisor.simulator.block_cache import BLOCK

    mean = float(traffic.input_len.mean()) + float(traffic.output_len.mean()) / 2.0
    return max(min(scheduler.max_num_seqs, int(scheduler.kv_blocks * BLOCK / mean)), 1)


def saturation_rate(traffic: Arrivals, times: StepTimes, scheduler: Scheduler, hit_rate: float | None = None) -> float:
    """Return requests a second that are completed when there are always more waiting: those of the traffic, over and over.

    Counted between the completion of a quarter and of three quarters of a queue as long as ``TURNS`` times all that may run
    at once. A queue of adapters' requests without end would be sorted by adapter, each of which waits for minutes; so as many of them are
    in flight, those that wait for a slot included, as there is room for. What caches hold of a session depends on the sessions that come
    between its turns, which no queue has: ``hit_rate`` is what the traffic showed, and None what a queue hits.
    """
    from advisor.simulator import scheduler_loop as kernel  # brings numba

    loop: Any = kernel.serve
    sharing, in_flight = traffic.sharing, scheduler.max_num_seqs * scheduler.replicas
    if sharing is not None and sharing.follows and hit_rate is not None:
        sharing, scheduler = None, replace(scheduler, prefix_hit_rate=hit_rate)
    if scheduler.adapters is not None:
        in_flight = most_running(traffic, scheduler) * scheduler.replicas
    wanted = TURNS * in_flight
    number = np.arange(wanted)
    taken = number % min(len(traffic), wanted)
    queue = replace(
        traffic,
        arrival_s=np.zeros(wanted),
        input_len=traffic.input_len[taken],
        output_len=traffic.output_len[taken],
        duration_s=1.0,
        concurrency=None,
        starters=0,
        sharing=None if sharing is None else sharing.all_at_once(number),
        classes=None,  # by priority those at the end would never be served, and say nothing of the rest
        settling=False,
        burst=False,
        counted_out=False,
        notes=(),
    )
    if scheduler.router == "prefix_aware":  # all of the queue is there before any cache holds anything of it
        scheduler = replace(scheduler, router="session_sticky")
    settings, totals = _settings(scheduler), _Totals.empty(queue.duration_s)
    state = _begun(scheduler, settings, drafts=times.drafts is not None).moved_on(0, wanted)
    if scheduler.adapters is not None:
        state.counts[KNOWN] = in_flight
    requests = (queue.arrival_s, queue.input_len, queue.output_len)
    first, last = wanted // 4, 3 * wanted // 4
    cached, shared = _cached(scheduler, queue.input_len), _Shared.of(queue, scheduler)
    delays_s = _delays_s(scheduler)
    loop(
        *requests,
        cached,
        False,
        np.inf,
        last + 1,
        *settings,
        *times.arrays,
        delays_s,
        *totals,
        state,
        *shared,
        _adapters(scheduler),
    )
    ends = np.sort(1e3 * state.last_s[state.shown == queue.output_len])
    return float((last - first) / (ends[last] - ends[first]) * 1e3)
