"""The requests that a question offers: drawn at a rate, kept in flight, read from a file, or sent by a benchmark client."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advisor.simulator.arrivals import (
    FEWEST,
    LEAST_S_A_TOKEN,
    Arrivals,
    ArrivalStream,
    closed_loop,
    open_loop,
    open_traffic,
)
from advisor.simulator.benchmark_client import client_loop
from advisor.simulator.session_files import read_sessions
from advisor.simulator.trace_files import TraceFile, open_trace, read_trace
from catalog.errors import InputError
from catalog.units import DAY_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from advisor.simulator.benchmark_client import BenchmarkClient
    from advisor.simulator.class_mix import ClassMix
    from advisor.simulator.conversations import Conversations
    from advisor.simulator.traffic_question import TrafficQuestion
    from catalog.schema import Workload

DURATION_S = 300.0
"""How long requests come where nobody says; for the sake of rare ones up to a day."""


def offered_traffic(
    question: TrafficQuestion,
    trace: str | Path | TraceFile | Arrivals | ArrivalStream | None,
    client: BenchmarkClient | None,
    sessions: str | Path | None,
    *,
    duration_s: float | None,
    longest: int,
    seed: int,
    burstiness: float,
    curve: Sequence[float],
    whole: bool,
) -> Arrivals | ArrivalStream:
    """Read or make the requests that come; ``whole``: in memory, however much it is, as those of several classes always are.

    Raises:
        InputError: it is not said what comes, or several things are, or one that cannot be.

    """
    workload, conversations, mix, spread = question.workload, question.conversations, question.mix, question.spread
    if mix is not None:
        check_classes(conversations, client, sessions)
    if client is not None:
        if sessions is not None or conversations.turns > 1:
            raise InputError(
                f"client {client.name} sends requests that wait for no other; leave out turns and sessions"
            )
        room = longest - conversations.shared_prefix
        loop = _client_loop(workload, client, trace, duration_s, longest=room, seed=seed, spread=spread)
        return conversations.beginning_alike(loop) if conversations else loop
    if sessions is not None or trace is not None:
        conversations.check_alone("a trace" if sessions is None else "a file of sessions")
    if sessions is not None:
        if trace is not None or workload.concurrency is not None:
            raise InputError("sessions say what comes and when; leave out the trace and the concurrency")
        return read_sessions(sessions, duration_s=duration_s, rate=workload.rate)
    if trace is not None:
        if workload.concurrency is not None:
            raise InputError("a trace says when requests come, so there is no concurrency; leave out one of the two")
        if mix is not None:
            return read_trace(classed(trace, mix), duration_s=duration_s, rate=workload.rate)
        if isinstance(trace, (Arrivals, ArrivalStream)):
            if whole and isinstance(trace, ArrivalStream):
                raise InputError("a pool for prompts takes no stream of requests; take traffic that is read whole")
            return trace
        return (read_trace if whole else open_trace)(trace, duration_s=duration_s, rate=workload.rate)
    for lengths in (workload,) if mix is None else mix.workloads:
        _check_longest(lengths, longest)
    if (workload.rate is None) == (workload.concurrency is None):
        raise InputError("give exactly one of --rate, --concurrency, --trace or --users: what comes")
    settled_s = 0.0 if workload.concurrency is None else conversations.lasting_s
    common: dict[str, Any] = {
        "duration_s": max(lasting_s(workload, mix), settled_s) if duration_s is None else duration_s,
        "longest": longest,
        "seed": seed,
    }
    if mix is not None:
        room = longest - conversations.shared_prefix
        drawn = mix.traffic(workload, burstiness=burstiness, curve=curve, **common | {"longest": room})
        return conversations.beginning_alike(drawn) if conversations else drawn
    common["spread"] = spread
    if conversations:
        return conversations.traffic(workload, burstiness=burstiness, curve=curve, **common)
    if workload.concurrency is not None:
        return closed_loop(workload, **common)
    return (open_loop if whole else open_traffic)(workload, burstiness=burstiness, curve=curve, **common)


def _client_loop(
    workload: Workload,
    client: BenchmarkClient,
    trace: object,
    duration_s: float | None,
    *,
    longest: int,
    seed: int,
    spread: float,
) -> Arrivals:
    """Make the requests of a benchmark client."""
    if workload.concurrency is None or workload.rate is not None or trace is not None:
        raise InputError(
            f"client {client.name} keeps requests in flight; say how many with a concurrency, and no rate or trace"
        )
    if spread:
        raise InputError(
            f"client {client.name} draws lengths by its own rule; give a length_ratio in place of a spread"
        )
    _check_longest(workload, longest)
    seconds = DURATION_S if duration_s is None else duration_s
    return client_loop(workload, client, duration_s=seconds, longest=longest, seed=seed)


def lasting_s(workload: Workload, mix: ClassMix | None = None) -> float:
    """Return for how many seconds random requests come where that is not stated: long enough for rare and for long ones."""
    fewest = FEWEST / workload.rate if workload.rate and workload.rate > 0 else 0.0
    longest_output = workload.output_len
    if mix is not None:
        longest_output = mix.longest_output
        fewest = max(fewest, mix.lasting_s(workload.rate)) if fewest and workload.rate else 0.0
    return max(DURATION_S, min(fewest, DAY_S), LEAST_S_A_TOKEN * longest_output)


def check_classes(conversations: Conversations, client: BenchmarkClient | None, sessions: str | Path | None) -> None:
    """Raise ``InputError`` where requests of several classes come with what has none."""
    if sessions is not None or conversations.turns > 1:
        raise InputError("classes are of requests that wait for no other; leave out turns and sessions, or the classes")
    if client is not None:
        raise InputError(f"client {client.name} sends requests that are all alike; leave out the client or the classes")


def classed(trace: str | Path | TraceFile | Arrivals | ArrivalStream, mix: ClassMix) -> TraceFile:
    """Return the file of a trace, read with the class of each request.

    Raises:
        InputError: it is no file, or the classes state what it says itself.

    """
    mix.check_trace()
    if isinstance(trace, (Arrivals, ArrivalStream)):
        raise InputError("classes are of a trace's column class; give the file in place of what was read of it")
    file = trace if isinstance(trace, TraceFile) else TraceFile(path=trace)
    return replace(file, classes=mix.classes)


def _check_longest(workload: Workload, longest: int) -> None:
    if workload.input_len + workload.output_len > longest:
        raise InputError(
            f"{workload.input_len} tokens in and {workload.output_len} out are longer than the {longest} tokens served at most"
        )
