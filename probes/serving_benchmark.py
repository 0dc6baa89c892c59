"""Serving: requests that arrive over time, each timed on its own.

Closed loop: so many requests are kept in flight, the steady regime. Open loop: requests arrive as a Poisson process, or as
a trace says, and wait if they must. Engine-agnostic: an engine is a function that turns a prompt into a stream of tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from catalog.borders import checked
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Stream = Callable[[Sequence[int], int], AsyncIterator[int]]

SETTLING = 0.35
"""Share of a closed loop in which it fills up; what is measured comes after."""

DRAIN_S = 30.0
"""Requests that are still under way so long after the last arrival are given up; their run is cut short."""

LOW_IDS = 1000
"""Low ids are special tokens; a model may treat them in its own way."""


Tokens = Annotated[int, Field(gt=0, le=10**9)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Requests = Annotated[
    tuple[tuple[Annotated[float, Field(ge=0, le=1e9)], Tokens, Tokens], ...],
    Field(description="[arrival_s, input_len, output_len]"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficProfile:
    """The traffic of one run. Exactly one of ``concurrency``, ``rate``, ``share`` and ``requests`` is given."""

    input_len: Tokens
    output_len: Tokens
    """Mean lengths."""
    seconds: Positive
    """How long requests are begun."""
    spread: Annotated[float, Field(ge=0, le=3)] = 0.0
    """Coefficient of variation of both lengths, each log-normal and independent; 0: all are alike."""
    concurrency: Annotated[int, Field(gt=0, le=10**6)] | None = None
    """Requests in flight, closed loop."""
    rate: Positive | None = None
    """Requests a second, open loop."""
    share: Positive | None = None
    """The rate as a share of the most that a closed loop before it in the same load completed, with the same lengths."""
    requests: Requests = ()
    """A trace: arrival in seconds, ascending, input and output length of each request; a longer one than the engine takes
    is cut short."""
    seed: int = 0

    @property
    def name(self) -> str:
        """Return a short name, different for different offers."""
        if self.requests:
            return (
                f"t{hashlib.sha256(repr(self.requests).encode()).hexdigest()[:8]}-i{self.input_len}-o{self.output_len}"
            )
        lengths = f"i{self.input_len}-o{self.output_len}" + (f"-cv{self.spread:g}" if self.spread else "")
        if self.concurrency:
            return f"c{self.concurrency}-{lengths}"
        return f"{f'r{self.rate:g}' if self.rate else f's{self.share:g}'}-{lengths}" + f"-{self.seed}" * bool(self.seed)


def read_offer(entry: Any, where: str) -> TrafficProfile:
    """Return an offer as a plan writes it down: an object with the fields of ``TrafficProfile``.

    Raises:
        InputError: a field is missing, unknown or impossible.

    """
    offer = checked(TrafficProfile, entry, where)
    chosen = [name for name in ("concurrency", "rate", "share", "requests") if getattr(offer, name) not in (None, ())]
    if len(chosen) != 1:
        some = " and ".join(chosen) or "none"
        raise InputError(f"{where} has {some} of concurrency, rate, share, requests; it must have one")
    arrivals = [arrival_s for arrival_s, _, _ in offer.requests]
    for number, (before, after) in enumerate(itertools.pairwise(arrivals), 2):
        if after < before:
            raise InputError(f"{where} request {number}: arrival_s is {after:g}; it must be at least {before:g}")
    return offer


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedRequest:
    """One request as it was served; times in seconds since the run began."""

    arrival_s: float
    input_len: int
    output_len: int
    first_s: float
    last_s: float
    itl_p50_ms: float | None
    itl_p95_ms: float | None
    itl_max_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRun:
    """What became of an offer."""

    requests: tuple[TimedRequest, ...]
    """Those that came and were completed within the window, in the order of their arrival."""
    lost: int
    """Given up when the run was cut short."""
    window: tuple[float, float]
    """Begin and end of what counts, seconds."""
    output_tok_s: float
    """Tokens that came within the window, a second."""
    completed_s: float
    """Requests completed within the window, a second."""


async def serve(
    stream: Stream, offer: TrafficProfile, *, vocab_size: int, max_len: int, rate: float | None = None
) -> ServingRun:
    """Offer the traffic to an engine and time every request.

    Args:
        stream: prompt ids and output length to the number of tokens in each message that arrives.
        offer: the traffic.
        vocab_size: prompts are random ids below it.
        max_len: no request is longer than that, prompt and output together.
        rate: requests a second, where the offer says only a share.

    """
    run = _Run(stream, vocab_size, offer.seed)
    if offer.concurrency:
        await run.closed(offer, max_len)
        window = SETTLING * offer.seconds, offer.seconds
        ended = [request for request in run.done if window[0] <= request.last_s <= window[1]]
        requests = [
            request for request in ended if request.arrival_s >= window[0]
        ]  # the first ones waited for each other
    else:
        await run.open(*_arrivals(offer, max_len, rate or offer.rate or 0.0))
        window = 0.0, max((request.last_s for request in run.done), default=offer.seconds)
        ended = requests = run.done
    length = window[1] - window[0]
    tokens = sum(count for at, count in run.tokens if window[0] <= at <= window[1])
    return ServingRun(
        requests=tuple(sorted(requests, key=lambda request: request.arrival_s)),
        lost=run.lost,
        window=window,
        output_tok_s=tokens / length,
        completed_s=len(ended) / length,
    )


def _arrivals(
    offer: TrafficProfile, max_len: int, rate: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return arrivals in seconds, input and output lengths of an open loop, (n,) each."""
    if not offer.requests:
        arrivals = poisson(rate, offer.seconds, offer.seed)
        return arrivals, *lengths(offer, len(arrivals), max_len)
    table = np.array(offer.requests)
    inputs = np.minimum(table[:, 1].astype(np.int64), max_len - 1)
    return table[:, 0], inputs, np.minimum(table[:, 2].astype(np.int64), max_len - inputs)


def poisson(rate: float, seconds: float, seed: int = 0) -> NDArray[np.float64]:
    """Draw the arrival times of a Poisson process in the first ``seconds``, ascending."""
    random = np.random.default_rng((seed, 1))
    enough = math.ceil(rate * seconds + 10 * math.sqrt(rate * seconds) + 20)
    arrivals = np.cumsum(random.exponential(1 / rate, enough))
    return arrivals[arrivals < seconds]


def lengths(offer: TrafficProfile, count: int, max_len: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw input and output lengths of ``count`` requests, (count,) each: log-normal around the offer's, no request
    longer than ``max_len``.
    """
    factors = np.random.default_rng((offer.seed, 2)).standard_normal((2, count))
    return _tokens(offer, factors[0], factors[1], max_len)


def length_pieces(
    offer: TrafficProfile, count: int, max_len: int, size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Draw the same lengths, ``size`` requests at a time."""
    for_inputs, for_outputs = (np.random.default_rng((offer.seed, 2)) for _ in range(2))
    sizes = [min(size, count - begin) for begin in range(0, count, size)]
    for rows in sizes:  # the random numbers of all inputs come before those of the outputs
        for_outputs.standard_normal(rows)
    for rows in sizes:
        yield _tokens(offer, for_inputs.standard_normal(rows), for_outputs.standard_normal(rows), max_len)


def _tokens(
    offer: TrafficProfile, for_inputs: NDArray[np.float64], for_outputs: NDArray[np.float64], max_len: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return lengths by standard normal numbers, each (n,)."""
    sigma = math.sqrt(math.log1p(offer.spread**2))
    inputs, outputs = (np.exp(sigma * normal - sigma**2 / 2) for normal in (for_inputs, for_outputs))
    inputs = np.clip(np.rint(offer.input_len * inputs), 1, max_len - 1).astype(np.int64)
    return inputs, np.clip(np.rint(offer.output_len * outputs), 1, max_len - inputs).astype(np.int64)


class _Run:
    def __init__(self, stream: Stream, vocab_size: int, seed: int) -> None:
        self.stream = stream
        self._random = np.random.default_rng((seed, 3))
        self._least, self._most = min(LOW_IDS, vocab_size - 1), vocab_size
        self.done: list[TimedRequest] = []
        self.tokens: list[tuple[float, int]] = []
        self.lost = 0
        self._began = 0.0

    async def closed(self, offer: TrafficProfile, max_len: int) -> None:
        assert offer.concurrency
        inputs, outputs = lengths(offer, 1 << 16, max_len)
        numbers = itertools.count()
        self._began = time.perf_counter()

        async def keep_one(first: bool) -> None:
            while (arrival := self._now()) < offer.seconds:
                number = next(numbers) % len(inputs)
                output = int(outputs[number])
                if first:  # begin as if in the middle: equal requests would else stay in step
                    output = int(self._random.integers(1, output + 1))
                timed = await self._request(arrival, self._prompt(int(inputs[number])), output)
                if not first:
                    self.done.append(timed)
                first = False

        await self._finish([asyncio.create_task(keep_one(True)) for _ in range(offer.concurrency)], offer.seconds)

    async def open(self, arrivals: NDArray[np.float64], inputs: NDArray[np.int64], outputs: NDArray[np.int64]) -> None:
        prompts = [self._prompt(int(length)) for length in inputs]
        self._began = time.perf_counter()

        async def keep(arrival: float, prompt: Sequence[int], output_len: int) -> None:
            self.done.append(await self._request(arrival, prompt, output_len))

        tasks = []
        for arrival, prompt, output in zip(arrivals.tolist(), prompts, outputs.tolist(), strict=True):
            await asyncio.sleep(max(0.0, arrival - self._now()))
            tasks.append(asyncio.create_task(keep(arrival, prompt, output)))
        await self._finish(tasks, float(arrivals[-1]) if len(arrivals) else 0.0)

    async def _finish(self, tasks: list[asyncio.Task[None]], last: float) -> None:
        if not tasks:
            return
        finished, late = await asyncio.wait(tasks, timeout=max(0.1, last + DRAIN_S - self._now()))
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        self.lost = len(late)
        for task in finished:
            task.result()  # an engine's failure is ours

    async def _request(self, arrival: float, prompt: Sequence[int], output_len: int) -> TimedRequest:
        """Time one request; ``arrival`` is when it was due: time in which it could not even be handed over counts."""
        times: list[float] = []
        got = 0
        async for count in self.stream(prompt, output_len):
            times.append(self._now())
            self.tokens.append((times[-1], count))
            got += count
        if got != output_len:
            raise RuntimeError(f"asked for {output_len} tokens, got {got}")
        gaps = 1e3 * np.diff(times)
        p50, p95, most = (float(gap) for gap in np.percentile(gaps, (50, 95, 100))) if len(gaps) else (None,) * 3
        return TimedRequest(
            arrival_s=arrival,
            input_len=len(prompt),
            output_len=output_len,
            first_s=times[0],
            last_s=times[-1],
            itl_p50_ms=p50,
            itl_p95_ms=p95,
            itl_max_ms=most,
        )

    def _prompt(self, length: int) -> list[int]:
        ids: list[int] = self._random.integers(self._least, self._most, length).tolist()
        return ids

    def _now(self) -> float:
        return time.perf_counter() - self._began


def summary(served: ServingRun) -> Mapping[str, float]:
    """Return means over the requests: ``ttft_ms``, ``tpot_ms`` (of those with more than one token), ``e2e_ms``; and
    ``output_tok_s``, ``batch`` (mean number in flight, by Little's law), ``input_len``, ``output_len``.

    Raises:
        InputError: nothing was completed.

    """
    if not served.requests:
        raise InputError("no request was completed within the run; make it longer")
    arrival, first, last, inputs, outputs = (
        np.array([getattr(request, name) for request in served.requests], dtype=float)
        for name in ("arrival_s", "first_s", "last_s", "input_len", "output_len")
    )
    several = outputs > 1
    tpot = 1e3 * (last - first)[several] / (outputs - 1)[several]
    return {
        "ttft_ms": round(1e3 * float(np.mean(first - arrival)), 3),
        "e2e_ms": round(1e3 * float(np.mean(last - arrival)), 3),
        "output_tok_s": round(served.output_tok_s, 2),
        "batch": max(1, round(served.completed_s * float(np.mean(last - arrival)))),
        "input_len": round(float(np.mean(inputs))),
        "output_len": round(float(np.mean(outputs))),
        **({"tpot_ms": round(float(np.mean(tpot)), 4)} if np.any(several) else {}),
    }
