"""What load generators measure from outside a server, by the way in which its requests came.

A number of requests kept in flight is the steady regime, arrivals as a Poisson process are open loops, and all of them at
once are the static one. Anything between is none of the three, and says so. A generator's times begin when it sends a
request: what waits for its turn within the generator is not counted by any of those read here.

Means are over the whole run, the filling at its beginning and the draining at its end included, as the tools compute them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from catalog.importers.errors import UnusableRun

FEWEST_TURNS = 3
"""So many times the requests in flight a closed loop must complete: of fewer, most fill or drain it."""

MOST_FAILED = 0.01
"""Share of requests that may fail: with more, the load was not what it says."""

EQUAL_LENGTHS_SPREAD = 0.05
"""Coefficient of variation of the output lengths up to which requests that begin together also end together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGeneratorRun:
    """One run of a load generator."""

    completed: int
    failed: int = 0
    failure: str = ""
    """Why one of those failed, where the report says it."""
    seconds: float
    """From the first request to the last answer."""
    input_len: float
    output_len: float
    """Means over the completed requests."""
    output_spread: float | None = None
    """Coefficient of variation of the output lengths, where it is known."""
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    """Mean over the requests of (last token - first token) / (tokens - 1), in milliseconds."""
    e2e_ms: float | None = None
    output_tok_s: float
    concurrency: int | None = None
    """Most requests in flight; None: no limit."""
    rate: float | None = None
    """Requests a second; None: as soon as ``concurrency`` allows."""
    poisson: bool = True
    """Whether arrivals at that rate are a Poisson process."""
    peak: float | None = None
    """Most requests that were in flight, or more."""
    load_known: bool = True
    """False where the file says neither ``concurrency`` nor ``rate``."""

    def stated(self) -> dict[str, Any]:
        """Return the fields of ``Measurement`` that follow, and ``concurrency``.

        Raises:
            Unusable: it is none of the three regimes, or too little of it was completed.

        """
        if not self.completed:
            raise UnusableRun("no request was completed")
        if self.failed > MOST_FAILED * (self.completed + self.failed):
            why = f": {self.failure:.200}" if self.failure else ""
            raise UnusableRun(f"{self.failed} of its {self.completed + self.failed} requests failed{why}")
        lengths = {"input_len": max(1, round(self.input_len)), "output_len": max(1, round(self.output_len))}
        known = {
            "ttft_ms": self.ttft_ms,
            "tpot_ms": self.tpot_ms,
            "e2e_ms": self.e2e_ms,
            "output_tok_s": self.output_tok_s,
        }
        if self.rate is not None:
            return {**lengths, **known, **self._open(self.rate)}
        if self.concurrency is None or self.concurrency >= self.completed:
            return {**lengths, **self._at_once()}
        if self.completed < FEWEST_TURNS * self.concurrency:
            raise UnusableRun(
                f"{self.completed} requests with {self.concurrency} in flight are no steady state; "
                f"at least {FEWEST_TURNS * self.concurrency} are needed"
            )
        return {**lengths, **known, "regime": "steady", "concurrency": self.concurrency}

    def _open(self, rate: float) -> dict[str, Any]:
        if not self.poisson:
            raise UnusableRun("its requests did not arrive as a Poisson process")
        if self.concurrency is not None and (self.peak is None or self.peak >= self.concurrency):
            raise UnusableRun(
                f"{rate:g} requests a second with at most {self.concurrency} in flight are neither an open nor a closed loop"
            )
        latency = self.e2e_ms
        if latency is None and self.ttft_ms is not None:
            latency = self.ttft_ms + (self.tpot_ms or 0.0) * (self.output_len - 1)
        if latency is None:
            raise UnusableRun("no latency was measured")
        in_flight = self.completed / self.seconds * latency / 1e3  # Little's law
        return {"regime": "open", "rate": rate, "concurrency": in_flight}

    def _at_once(self) -> dict[str, Any]:
        if self.peak is not None and self.peak < 0.9 * self.completed:
            raise UnusableRun(
                f"at most {self.peak:g} of its {self.completed} requests were in flight together, "
                "and the file does not say how they arrived"
            )
        if self.output_spread is not None and self.output_spread > EQUAL_LENGTHS_SPREAD:
            raise UnusableRun("its requests began together, but their lengths differ: the last one's end says little")
        return {
            "regime": "static",
            "concurrency": self.completed,
            "e2e_ms": 1e3 * self.seconds,
            "ttft_ms": self.ttft_ms,
            "output_tok_s": self.output_tok_s,
        }
