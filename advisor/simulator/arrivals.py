"""Requests as they come: when each arrives, how long its prompt is, and how many tokens it asks for.

Arrivals are a renewal process whose gaps are gamma distributed (exponential, so Poisson, at burstiness 1), stretched and
squeezed where the rate follows a curve; a closed loop, where each completion lets the next request in; or a trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from catalog.errors import InputError, Note
from catalog.schema import Workload, require_positive
from probes.serving_benchmark import SETTLING, TrafficProfile, length_pieces, lengths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from advisor.simulator.class_labels import ClassLabels
    from advisor.simulator.prompt_sharing import PromptSharing
    from catalog.units import Array

    Integers = NDArray[np.int64]

WHOLE = 1_000_000
"""Requests that are kept in memory, about 100 bytes each; more of an open loop come as a ``ArrivalStream``."""
PIECE = 200_000
"""Requests of a stream that are made or read at once."""
MOST_REQUESTS = 20_000_000
"""Where all must be in memory: of a closed loop, for a plan, and with a pool for prompts."""
MOST_STREAMED = 2_000_000_000
MOST_S = 1e8
"""Three years: a clock that counts seconds in 64 bits tells hundredths of a microsecond apart up to there."""
MOST_LOOP_S = 1e5
"""Of a closed loop, which settles: so long the requests last that are prepared, see ``SERVED_PER_SECOND``."""
FEWEST = 1000
"""Requests that random traffic has by default at least: of fewer a 99th percentile is that of ten."""
DRAWN_S, MOST_DRAWN = 200.0, 8000
"""Seconds that random traffic lasts by default where replicas are sized, and requests that it then has at most."""
LEAST_S_A_TOKEN = 0.2
"""Seconds that random traffic lasts by default for each token of an output, for a fleet begins empty and takes some requests' time
to fill."""
MOST_SPREAD = 3.0
MOST_BURSTINESS = 100.0
SERVED_PER_SECOND = 200
"""Requests of a closed loop that are prepared for each second; more than any one deployment completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
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
    sharing: PromptSharing | None = None
    """What they have in common; None: nothing that a prefix cache could serve."""
    classes: ClassLabels | None = None
    """What classes they are of; None: they are all alike."""
    settling: bool = False
    """Whether sessions are under way at the beginning, whose caches are empty: none comes after ``duration_s``, and what is
    measured comes after ``settled_s``."""
    burst: bool = False
    """Whether a closed loop is measured from its first request on, as a benchmark client does."""
    counted_out: bool = False
    """Whether a closed loop ends when all requests are served, however long that takes."""
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        """Raise ``InputError`` where they come for longer than a clock can tell apart what they meet."""
        last = float(self.arrival_s[-1]) if len(self.arrival_s) else 0.0
        check_span(last if self.counted_out else max(self.duration_s, last))

    def __len__(self) -> int:
        return len(self.input_len)

    @property
    def settled_s(self) -> float:
        """Return from when on it is measured: closed loops and sessions fill up first, but for a benchmark client."""
        fills = self.settling or (self.concurrency is not None and not self.burst)
        return SETTLING * self.duration_s if fills else 0.0

    @property
    def rate(self) -> float | None:
        """Return requests a second; None in a closed loop, where completions set it."""
        return None if self.concurrency else len(self) / self.duration_s

    def at_rate(self, rate: float) -> Arrivals:
        """Return the same requests at ``rate`` a second, faster or slower; not for a closed loop."""
        assert self.rate
        factor = self.rate / rate
        return replace(self, arrival_s=self.arrival_s * factor, duration_s=self.duration_s * factor)

    def beginning(self, count: int) -> Arrivals:
        """Return the first ``count`` requests."""
        if count >= len(self):
            return self
        return replace(self.only(np.arange(len(self)) < count), duration_s=float(self.arrival_s[count]))

    def within(self, longest: int) -> Arrivals:
        """Leave out the requests that an engine with sequences of at most ``longest`` tokens refuses, and note how
        many.

        Raises:
            InputError: none is left.

        """
        fitting = self.fitting(longest)
        return replace(fitting, notes=(*self.notes, *refusals(len(self) - len(fitting), len(self), longest)))

    def fitting(self, longest: int) -> Arrivals:
        """Leave out the requests of more than ``longest`` tokens, perhaps all, and those that wait for one, without a
        note.
        """
        fits = self.input_len + self.output_len <= longest
        if self.sharing is not None:
            fits = self.sharing.standing(fits)
        return self if fits.all() else self.only(fits)

    def only(self, mask: NDArray[np.bool_]) -> Arrivals:
        """Return some of the requests, as long as they come; shape (n,)."""
        return replace(
            self,
            arrival_s=self.arrival_s[mask],
            input_len=self.input_len[mask],
            output_len=self.output_len[mask],
            sharing=None if self.sharing is None else self.sharing.of(mask),
            classes=None if self.classes is None else self.classes.of(mask),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalStream:
    """More requests of an open loop than are kept in memory: made, or read, whenever they are served."""

    make: Callable[[], Iterator[Arrivals]]
    """All of them in the order of their arrival, ``PIECE`` at a time."""
    count: int
    duration_s: float
    """How long requests come."""
    longest: int | None = None
    """Tokens above which a request is refused."""
    notes: tuple[Note, ...] = ()
    concurrency: None = None
    """It is no closed loop,"""
    counted_out: Literal[False] = False
    """nor any other."""
    settled_s: float = 0.0
    sharing: None = None
    """What prompts share is known only of requests in memory,"""
    classes: None = None
    """as are their classes."""

    def __post_init__(self) -> None:
        """Raise ``InputError`` as ``Arrivals`` does."""
        check_span(self.duration_s)

    def __len__(self) -> int:
        return self.count

    @property
    def rate(self) -> float:
        """Return requests a second, with those refused."""
        return self.count / self.duration_s

    def within(self, longest: int) -> ArrivalStream:
        """Leave out the requests that an engine with sequences of at most ``longest`` tokens refuses."""
        return replace(self, longest=longest if self.longest is None else min(longest, self.longest))

    def pieces(self) -> Iterator[Arrivals]:
        """Yield all requests that are not refused, piece by piece."""
        for piece in self.make():
            yield piece if self.longest is None else piece.fitting(self.longest)


def check_span(seconds: float) -> None:
    """Raise ``InputError`` where requests come for longer than a simulation's clock is good for."""
    if seconds > MOST_S:
        raise InputError(f"requests come for {seconds:.3g} s; a simulation takes at most {MOST_S:.0e} s, three years")


class BusiestWindow:
    """Keeps, of the pieces of a stream that pass, the one in which requests come fastest."""

    def __init__(self) -> None:
        self._piece: Arrivals | None = None

    def passing(self, pieces: Iterable[Arrivals]) -> Iterator[Arrivals]:
        """Pass all pieces on. One much smaller than the others says little of how fast requests come, and is not kept."""
        for piece in pieces:
            busiest = self._piece
            if len(piece) and (busiest is None or (2 * len(piece) >= len(busiest) and _pace(piece) > _pace(busiest))):
                self._piece = piece
            yield piece

    @property
    def window(self) -> Arrivals:
        """Return the busiest piece as if nothing came before it; some piece must have passed."""
        assert self._piece is not None
        at = self._piece.arrival_s - self._piece.arrival_s[0]
        return replace(self._piece, arrival_s=at, duration_s=len(at) / _pace(self._piece))


def _pace(piece: Arrivals) -> float:
    """Return requests a second between the first and the last."""
    return len(piece) / max(float(piece.arrival_s[-1] - piece.arrival_s[0]), 1e-6)


def refusals(refused: int, count: int, longest: int) -> tuple[Note, ...]:
    """Say how many requests are too long.

    Raises:
        InputError: all are.

    """
    if refused == count:
        raise InputError(f"all {count} requests are longer than the {longest} tokens that are served at most")
    text = f"{refused} of {count} requests are longer than {longest} tokens and refused"
    return (Note(text, "warning"),) if refused else ()


def open_loop(
    workload: Workload,
    *,
    duration_s: float,
    longest: int,
    seed: int = 0,
    spread: float = 0.0,
    burstiness: float = 1.0,
    curve: Sequence[float] = (),
) -> Arrivals:
    """Draw requests that come at ``workload.rate`` a second whatever becomes of them.

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
    return _Opened.of(workload, duration_s, seed, spread, burstiness, curve).whole(longest)


def open_traffic(
    workload: Workload,
    *,
    duration_s: float,
    longest: int,
    seed: int = 0,
    spread: float = 0.0,
    burstiness: float = 1.0,
    curve: Sequence[float] = (),
) -> Arrivals | ArrivalStream:
    """Draw the same requests as ``open_loop``, as a stream where they are more than ``WHOLE``."""
    process = _Opened.of(workload, duration_s, seed, spread, burstiness, curve)
    if process.expected <= WHOLE:
        return process.whole(longest)
    if process.expected > MOST_STREAMED:
        raise InputError(process.too_many(MOST_STREAMED))
    count = sum(len(turns) for turns in process.turns(PIECE))
    process.check_some(count)

    def pieces() -> Iterator[Arrivals]:
        drawn = length_pieces(process.offer, count, longest, PIECE)
        for turns, (inputs, outputs) in zip(process.turns(PIECE), drawn, strict=False):
            yield Arrivals(
                arrival_s=process.arrivals(turns), input_len=inputs, output_len=outputs, duration_s=duration_s
            )

    return ArrivalStream(make=pieces, count=count, duration_s=duration_s)


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open loop as it was asked for."""

    offer: TrafficProfile
    expected: float
    """Requests."""
    burstiness: float
    curve: Sequence[float]

    @classmethod
    def of(
        cls, workload: Workload, duration_s: float, seed: int, spread: float, burstiness: float, curve: Sequence[float]
    ) -> _Opened:
        check_lengths(workload, spread)
        require_positive("rate", workload.rate or 0.0, whole=False)
        require_positive("duration", duration_s, whole=False)
        assert workload.rate is not None
        check_burstiness(burstiness)
        offer = TrafficProfile(
            input_len=workload.input_len,
            output_len=workload.output_len,
            seconds=duration_s,
            spread=spread,
            seed=seed,
            rate=workload.rate,
        )
        process = cls(offer, workload.rate * duration_s, burstiness, curve)
        if process.expected < 1.0:
            raise InputError(process.too_many(MOST_STREAMED))
        return process

    def whole(self, longest: int) -> Arrivals:
        """Return all requests, of at most ``longest`` tokens, in memory."""
        if self.expected > MOST_REQUESTS:
            raise InputError(self.too_many(MOST_REQUESTS))
        turns = np.concatenate(list(self.turns(MOST_REQUESTS)))
        self.check_some(len(turns))
        inputs, outputs = lengths(self.offer, len(turns), longest)
        return Arrivals(
            arrival_s=self.arrivals(turns), input_len=inputs, output_len=outputs, duration_s=self.offer.seconds
        )

    def too_many(self, most: int) -> str:
        return (
            f"{self.offer.rate:g} requests a second for {self.offer.seconds:g} s are {self.expected:.3g}; a simulation takes "
            f"from 1 to {most}"
        )

    def check_some(self, count: int) -> None:
        if not count:
            raise InputError(
                f"no request comes within {self.offer.seconds:g} s at {self.offer.rate:g} a second; make it longer"
            )

    def turns(self, size: int) -> Iterator[Array]:
        """Yield when requests come, in units of the mean gap, ``size`` at a time."""
        random = np.random.default_rng((self.offer.seed, 1))
        left = enough_arrivals(self.expected, self.burstiness)
        last = 0.0
        while left > 0:
            some = min(size, left)
            left -= some
            turns = np.cumsum(np.concatenate([[last], drawn_gaps(random, self.burstiness, some)]))[1:]
            last = turns[-1]
            if last >= self.expected:
                yield turns[turns < self.expected]
                return
            yield turns

    def arrivals(self, turns: Array) -> Array:
        """Convert arrivals in units of the mean gap to seconds."""
        return _along(turns / self.expected, self.offer.seconds, self.curve)


def enough_arrivals(expected: float, burstiness: float) -> int:
    """Return how many gaps to draw, so that as good as surely all arrivals are among them of which so many are expected."""
    return math.ceil(expected + 12.0 * math.sqrt(expected * max(burstiness, 1.0)) + 20)


def drawn_gaps(random: np.random.Generator, burstiness: float, count: int) -> Array:
    """Draw gaps of mean 1, gamma distributed; without burstiness all are alike."""
    return random.gamma(1.0 / burstiness, burstiness, count) if burstiness > 0 else np.ones(count)


def _along(share: Array, duration_s: float, curve: Sequence[float]) -> Array:
    """Return the times, in seconds, at which those shares of all requests have come, when the rate follows ``curve``."""
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


def closed_loop(workload: Workload, *, duration_s: float, longest: int, seed: int = 0, spread: float = 0.0) -> Arrivals:
    """Draw requests of which ``workload.concurrency`` are kept in flight; arguments as those of ``open_loop``.

    The first ones begin as if in the middle of their outputs, for equal requests would else stay in step.
    """
    check_lengths(workload, spread)
    require_positive("concurrency", workload.concurrency or 0, most=10**6)
    require_positive("duration", duration_s, most=MOST_LOOP_S, whole=False)
    first = workload.concurrency or 0
    count = min(first + math.ceil(duration_s * SERVED_PER_SECOND), MOST_REQUESTS)
    offer = TrafficProfile(
        input_len=workload.input_len, output_len=workload.output_len, seconds=duration_s, spread=spread, seed=seed
    )
    inputs, outputs = lengths(offer, count, longest)
    outputs[:first] = np.random.default_rng((seed, 3)).integers(1, outputs[:first] + 1)
    return Arrivals(
        arrival_s=np.zeros(count),
        input_len=inputs,
        output_len=outputs,
        duration_s=duration_s,
        concurrency=first,
        starters=first,
    )


def check_burstiness(burstiness: float) -> None:
    """Raise ``InputError`` where no gaps can vary so."""
    if not 0.0 <= burstiness <= MOST_BURSTINESS:
        raise InputError(
            f"burstiness is {burstiness:g}; it must be from 0 (evenly spaced) over 1 (Poisson) to {MOST_BURSTINESS:g}"
        )


def check_lengths(workload: Workload, spread: float) -> None:
    """Raise ``InputError`` where no requests can be so long, or vary so."""
    require_positive("input_len", workload.input_len, most=2**24)
    require_positive("output_len", workload.output_len, most=2**24)
    if not 0.0 <= spread <= MOST_SPREAD:
        raise InputError(
            f"spread is {spread:g}; it is the coefficient of variation of the lengths, from 0 to {MOST_SPREAD:g}"
        )
