"""Whether what a run says of itself can be true at once: rates, latencies and requests in flight determine each other."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.requests import Request
    from catalog.schema import Measurement

MOST_IN_FLIGHT = 1.15
"""Requests in flight by Little's law over those that were kept, above which the run is of others than it says. Of 22 loops that ship
the largest is 1.015; means over requests of several lengths differ more."""
FEWEST_IN_FLIGHT = 0.7
"""The same below which most of the run was its filling and draining, or its client kept fewer: of those that ship the smallest is
0.88, with three turns and equal lengths it is 0.86 at the least."""
LATER = 0.75
"""Share of a request's first token and its further ones that its whole latency has at the least: means over lengths differ, and
0.88 is the smallest of the loops that ship."""
WARM = 2.0
"""Times that the first requests of a closed loop take for each token, beside the others, above which the server was warming up."""
FEWEST_COMPARED = 8
"""Requests in either part from which they are compared."""


def latency_ms(run: Measurement) -> float | None:
    """Return the mean time from a request's arrival to its last token, in ms; None where too little was measured."""
    if run.e2e_ms is not None:
        return run.e2e_ms
    if run.ttft_ms is None or (run.tpot_ms is None and run.output_len > 1):
        return None
    return run.ttft_ms + (run.tpot_ms or 0.0) * (run.output_len - 1)


def inconsistency(run: Measurement, requests: Sequence[Request] = ()) -> str | None:
    """Say why a run cannot be what it says, or is of no steady state; None where nothing speaks against it.

    Little's law: requests in flight = requests a second x seconds each (Little, 1961, "A proof for the queuing formula L = lambda
    W").
    """
    parts = (run.ttft_ms or 0.0) + (run.tpot_ms or 0.0) * (run.output_len - 1)
    if run.e2e_ms is not None and run.batch and run.e2e_ms < LATER * parts:
        return f"its requests take {run.e2e_ms:.4g} ms, less than the {parts:.4g} ms of their first token and the {run.output_len - 1} after it"
    if run.regime == "steady" and run.batch and run.output_tok_s is not None:
        latency, rate, meant = latency_ms(run), run.output_tok_s / run.output_len, run.batch * run.dp
        in_flight = None if latency is None else rate * latency / 1e3
        law = f"by Little's law {rate:.3g} requests a second of {(latency or 0.0) / 1e3:.3g} s each are {in_flight or 0.0:.3g} in flight"
        if in_flight is not None and in_flight > MOST_IN_FLIGHT * meant:
            return f"{law}, more than the {meant} that were kept: its times, lengths or concurrency are others"
        if in_flight is not None and in_flight < FEWEST_IN_FLIGHT * meant:
            return (
                f"{law}, not {meant}: most of it was filling and draining, or its client kept fewer; send more requests"
            )
        return _warming(requests, meant)
    return None


def _warming(requests: Sequence[Request], in_flight: int) -> str | None:
    """Say why the first requests of a closed loop show a server that was not warm yet; None where they do not."""
    came = sorted((request for request in requests if request.output_len > 1), key=lambda request: request.arrival_s)
    tpot = [(request.e2e_ms - request.ttft_ms) / (request.output_len - 1) for request in came]
    first, rest = tpot[:in_flight], tpot[in_flight:]
    if len(first) < FEWEST_COMPARED or len(rest) < FEWEST_COMPARED or median(rest) <= 0:
        return None
    times = median(first) / median(rest)
    if times <= WARM:
        return None
    return f"its first {len(first)} requests took {times:.2g} times as long a token as the others: the server was warming up; send some requests before"
