"""Requests as they come: when each arrives, how long its prompt is, and how many tokens it asks for.

Arrivals are a renewal process whose gaps are gamma distributed (exponential, so Poisson, at burstiness 1), stretched and
squeezed where the rate follows a curve; a closed loop, where each completion lets the next request in; or a trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from catalog.schema import InputError, Note, Workload, require_positive
from probes.serving import Offer, lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Integers = NDArray[np.int64]

MOST_REQUESTS = 20_000_000
MOST_SPREAD = 3.0
SERVED_PER_SECOND = 200
"""Requests of a closed loop that are prepared for each second; more than any one deployment completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """n requests in the order of their arrival; arrays have shape (n,)."""

    arrival_s: Array
    """Since the beginning, ascending; in a closed loop only the first ``concurrency`` mean anything."""
    input_len: Integers
    output_len: Integers
    duration_s: float
    """How long requests come."""
    concurrency: int | None = None
    """Requests kept in flight; None: they come when they come."""
    starters: int = 0
    """Requests at the beginning that are no measure: those that fill a closed loop, begun as if in the middle."""
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.input_len)

    @property
    def rate(self) -> float | None:
        """Requests a second; None in a closed loop, where completions set it."""
        return None if self.concurrency else len(self) / self.duration_s

    def within(self, longest: int) -> Traffic:
        """Without the requests that an engine with sequences of at most ``longest`` tokens refuses.

        Raises:
            InputError: none is left.

        """
        kept = self.input_len + self.output_len <= longest
        if kept.all():
            return self
        if not kept.any():
            raise InputError(f"all {len(self)} requests are longer than the {longest} tokens that are served at most")
        told = Note(
            f"{int((~kept).sum())} of {len(self)} requests are longer than {longest} tokens and refused", "warning"
        )
        return replace(
            self, arrival_s=self.arrival_s[kept], input_len=self.input_len[kept], output_len=self.output_len[kept],
            notes=(*self.notes, told),
        )  # fmt: skip


def open_loop(
    workload: Workload,
    *,
    duration_s: float,
    longest: int,
    seed: int = 0,
    spread: float = 0.0,
    burstiness: float = 1.0,
    curve: Sequence[float] = (),
) -> Traffic:
    """Requests that come at ``workload.rate`` a second whatever becomes of them.

    Args:
        workload: mean lengths and the mean rate.
        duration_s: how long they come.
        longest: prompt and output together are at most that many tokens.
        seed: of the random numbers; the same seed gives the same requests.
        spread: coefficient of variation of both lengths, log-normal; 0: all are alike.
        burstiness: squared coefficient of variation of the gaps; 1: Poisson, 0: evenly spaced.
        curve: relative rates of equal parts of the duration, such as 24 hours of a day.

    Raises:
        InputError: a number that cannot be.

    """
    _check(workload, spread)
    require_positive("rate", workload.rate or 0.0, whole=False)
    require_positive("duration", duration_s, whole=False)
    assert workload.rate is not None
    if not 0.0 <= burstiness <= 100.0:
        raise InputError(f"burstiness is {burstiness:g}; it must be from 0 (evenly spaced) over 1 (Poisson) to 100")
    expected = workload.rate * duration_s
    if not 1.0 <= expected <= MOST_REQUESTS:
        raise InputError(
            f"{workload.rate:g} requests a second for {duration_s:g} s are {expected:.3g}; a simulation takes from 1 to {MOST_REQUESTS}"
        )
    random = np.random.default_rng((seed, 1))
    enough = math.ceil(expected + 12.0 * math.sqrt(expected * max(burstiness, 1.0)) + 20)
    gaps = random.gamma(1.0 / burstiness, burstiness, enough) if burstiness > 0 else np.ones(enough)
    turns = np.cumsum(gaps)  # in units of the mean gap
    arrival = _along(turns[turns < expected] / expected, duration_s, curve)
    if not len(arrival):
        raise InputError(f"no request comes within {duration_s:g} s at {workload.rate:g} a second; make it longer")
    offer = Offer(
        input_len=workload.input_len, output_len=workload.output_len, seconds=duration_s, spread=spread, seed=seed
    )
    inputs, outputs = lengths(offer, len(arrival), longest)
    return Traffic(arrival_s=arrival, input_len=inputs, output_len=outputs, duration_s=duration_s)


def _along(share: Array, duration_s: float, curve: Sequence[float]) -> Array:
    """Times at which those shares of all requests have come, when the rate follows ``curve``."""
    if not len(curve):
        return share * duration_s
    rates = np.asarray(curve, dtype=float)
    if not (np.isfinite(rates).all() and (rates >= 0).all() and rates.sum() > 0):
        raise InputError("the curve of the rate must be numbers of at least 0, not all 0, such as 0.2,1,1.5,0.6")
    come = np.concatenate([[0.0], np.cumsum(rates) / rates.sum()])
    times = np.linspace(0.0, duration_s, len(come))
    # Where nothing comes the cumulative share is flat, and the search finds the later end of it.
    part = np.clip(np.searchsorted(come, share, side="right") - 1, 0, len(rates) - 1)
    width = np.where(rates > 0, rates / rates.sum(), 1.0)
    return np.asarray(times[part] + (share - come[part]) / width[part] * (duration_s / len(rates)))


def closed_loop(workload: Workload, *, duration_s: float, longest: int, seed: int = 0, spread: float = 0.0) -> Traffic:
    """``workload.concurrency`` requests are kept in flight; arguments as those of ``open_loop``.

    The first ones begin as if in the middle of their outputs, for equal requests would else stay in step.
    """
    _check(workload, spread)
    require_positive("concurrency", workload.concurrency or 0, most=10**6)
    require_positive("duration", duration_s, whole=False)
    first = workload.concurrency or 0
    count = min(first + math.ceil(duration_s * SERVED_PER_SECOND), MOST_REQUESTS)
    offer = Offer(
        input_len=workload.input_len, output_len=workload.output_len, seconds=duration_s, spread=spread, seed=seed
    )
    inputs, outputs = lengths(offer, count, longest)
    outputs[:first] = np.random.default_rng((seed, 3)).integers(1, outputs[:first] + 1)
    return Traffic(
        arrival_s=np.zeros(count), input_len=inputs, output_len=outputs, duration_s=duration_s, concurrency=first,
        starters=first,
    )  # fmt: skip


def _check(workload: Workload, spread: float) -> None:
    require_positive("input_len", workload.input_len, most=2**24)
    require_positive("output_len", workload.output_len, most=2**24)
    if not 0.0 <= spread <= MOST_SPREAD:
        raise InputError(
            f"spread is {spread:g}; it is the coefficient of variation of the lengths, from 0 to {MOST_SPREAD:g}"
        )
