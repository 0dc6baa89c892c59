"""Which traffic is worth measuring a deployment under, and how long that takes: closed loops, then open ones. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from advisor.benchmarking.shape_predictions import predictions_by_length
from catalog.errors import InputError
from probes.serving_benchmark import DRAIN_S, SETTLING, TrafficProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from advisor.perf_model.parameters import Parameters
    from advisor.simulator.arrivals import Arrivals
    from catalog.schema import Cluster, Deployment, Model

    Piece = tuple[int, int, int] | TrafficProfile
    """What a load measures one after another: a static shape (batch, input_len, output_len), or traffic."""

IN_FLIGHT = (64, 256, 16, 1)
"""Requests in flight of the closed loops, the most telling first, where the user names none."""
LENGTHS = (1024, 256)
"""Tokens of a prompt and an answer where the user names none."""
SHARES = (0.5, 0.8)
"""Rates of the Poisson arrivals, as shares of what the best closed loop before them completed."""
CLOSED_FIRST = 2
"""So many closed loops come before the open ones, the others after: shares need a good one, and time may run out."""

TURNS = 5.0
"""Each loop lasts for so many of its requests, one after another."""
FEWEST = 60
"""Requests that should arrive in an open loop."""
LEAST_S, MOST_S = 15.0, 60.0
MOST_TRACED = 10_000
"""Requests of a trace that stand in a plan."""


def offer_seconds(
    model: Model,
    cluster: Cluster,
    deployment: Deployment,
    shapes: Sequence[tuple[int, int, int]],
    parameters: Parameters,
    trace: Arrivals | None = None,
) -> dict[Piece, float]:
    """Return the traffic for a deployment in the order in which it is made, and the seconds that each takes, until its
    last request has ended; none where not even one sequence fits. The deployment is resolved.

    ``shapes`` are the (in flight, input_len, output_len) of the closed loops; those above what the engine holds or runs at
    once are left out. A ``trace`` takes the place of the Poisson arrivals.
    """
    seconds_by_piece: dict[Piece, float] = {}
    for input_len, output_len, counts, prediction in predictions_by_length(
        model, cluster, deployment, shapes, parameters, "steady"
    ):
        room, most = prediction.cost_model.memory, deployment.max_num_seqs or math.inf
        held = room.kv_capacity_tokens / (input_len + output_len)
        closed: dict[Piece, float] = {}
        rate = request_s = 0.0
        for i, count in enumerate(counts):
            if not room.fits[i] or count > min(held[i], most):
                continue
            request_s = max(request_s, float(prediction.times.e2e_ms[i]) / 1e3)
            rate = max(rate, float(prediction.times.output_tok_s[i]) / output_len)
            seconds = _seconds(TURNS * float(prediction.times.e2e_ms[i]) / 1e3 / (1 - SETTLING))
            offer = TrafficProfile(input_len=input_len, output_len=output_len, seconds=seconds, concurrency=count)
            closed[offer] = seconds + float(prediction.times.e2e_ms[i]) / 1e3
        if not closed:
            continue
        opened = {} if trace else _opened(input_len, output_len, rate=rate, request_s=request_s)
        loops = list(closed.items())
        seconds_by_piece |= dict(loops[:CLOSED_FIRST]) | opened | dict(loops[CLOSED_FIRST:])
    if trace and seconds_by_piece:
        loops, offer = list(seconds_by_piece.items()), traced(trace)
        seconds_by_piece = dict([*loops[:CLOSED_FIRST], (offer, offer.seconds + DRAIN_S), *loops[CLOSED_FIRST:]])
    return seconds_by_piece


def _opened(input_len: int, output_len: int, *, rate: float, request_s: float) -> dict[Piece, float]:
    """Offer Poisson arrivals, where about ``rate`` requests a second are the most and one takes ``request_s``; return
    their seconds.
    """
    seconds_by_piece: dict[Piece, float] = {}
    for share in SHARES:
        seconds = _seconds(max(TURNS * request_s, FEWEST / (share * rate)))
        offer = TrafficProfile(input_len=input_len, output_len=output_len, seconds=seconds, share=share)
        seconds_by_piece[offer] = seconds + min(request_s, DRAIN_S)
    return seconds_by_piece


def _seconds(wanted: float) -> float:
    return float(round(min(max(wanted, LEAST_S), MOST_S)))


def traced(trace: Arrivals) -> TrafficProfile:
    """Turn a trace into an offer, which holds its requests: the machine that measures needs no other file.

    Raises:
        InputError: it has too many requests for that.

    """
    if len(trace) > MOST_TRACED:
        raise InputError(f"the trace has {len(trace)} requests; a plan holds {MOST_TRACED}, give a shorter part of it")
    rows = zip(trace.arrival_s.tolist(), trace.input_len.tolist(), trace.output_len.tolist(), strict=True)
    return TrafficProfile(
        input_len=round(float(trace.input_len.mean())),
        output_len=round(float(trace.output_len.mean())),
        seconds=max(float(trace.arrival_s[-1]), 1.0),
        requests=tuple((round(arrival, 6), input_len, output_len) for arrival, input_len, output_len in rows),
    )


def written(offer: TrafficProfile) -> Mapping[str, object]:
    """Write an offer as a plan has it, see ``probes.serving_benchmark.read_offer``."""
    names = ("input_len", "output_len", "seconds", "concurrency", "share", "requests")
    values = {name: getattr(offer, name) for name in names}
    values["requests"] = [list(row) for row in offer.requests]
    return {name: value for name, value in values.items() if value not in (None, [])}


def read_requests(trace: str | Path | None, *, serving: bool) -> Arrivals | None:
    """Read the requests of a file for ``ProbeQuestion.trace``; None without one."""
    if trace is None:
        return None
    if not serving:
        raise InputError("a trace is given without serving; static batches have no arrivals")
    from advisor.simulator.trace_files import read_trace  # few ask for it

    return read_trace(trace)
