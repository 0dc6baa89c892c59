"""What a file says of one run, in our units, and the numbers it is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalog.importers.errors import SkippedFile, UnusableRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from catalog.importers.traffic import LoadGeneratorRun
    from catalog.requests import Request

MOST = 1e24
"""No count, time or rate of a benchmark comes near, in whatever unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedRun:
    """One run, as far as its file tells it."""

    where: str
    tool: str
    """The program that measured."""
    identity: tuple[object, ...]
    """What tells this run from every other that the tool measured; the same in each format that the tool writes."""
    stated: Mapping[str, Any]
    """Fields of ``Measurement``; ``concurrency``: requests at once over all replicas; ``total_len``: tokens of a request,
    prompt and output; ``compute_dtype``: what an unquantised checkpoint is computed in. No ``run_id``, unless the file is
    one of ours."""
    traffic: LoadGeneratorRun | None = None
    """What a load generator measured."""
    seen: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth keeping, for the fingerprint."""
    requests: tuple[Request, ...] = ()
    """With ``run_id`` empty."""


class NumberReader:
    """The numbers of a JSON object or of a CSV row, checked one by one."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def has(self, name: str) -> bool:
        return self._values.get(name) not in (None, "")

    def number(self, name: str, *, least: float = 0.0) -> float:
        """Return a number that has to be there.

        Raises:
            Unusable: it is not, or is none, or is below ``least``.

        """
        value = self.maybe(name, least=least)
        if value is None:
            raise UnusableRun(f"{name} is missing")
        return value

    def maybe(self, name: str, *, least: float = 0.0) -> float | None:
        """Return a number, or None where there is none or nothing was measured (0)."""
        value = self._values.get(name)
        if value in (None, ""):
            return None
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                raise UnusableRun(f"{name} is {value!r:.40}; it must be a number") from None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnusableRun(f"{name} is {value!r:.40}; it must be a number")
        if not least <= value <= MOST:  # false for NaN too
            raise UnusableRun(f"{name} is {value!r:.40}; it must be a number from {least:g}")
        return float(value)

    def time(self, name: str, scale: float = 1.0) -> float | None:
        """Return a time in milliseconds, ``scale`` of them a unit; None where there is none, or 0, which no time is."""
        value = self.maybe(name)
        return value * scale if value else None

    def limit(self, name: str) -> float | None:
        """Return a number above 0 that may be infinite or missing, which is the same: None."""
        value = self._values.get(name)
        if value in (None, "", "inf", math.inf, "Infinity"):
            return None
        return self.number(name, least=1e-9)

    def text(self, name: str) -> str:
        value = self._values.get(name)
        return value.strip() if isinstance(value, str) else ""


def rounded(values: Iterable[float | None], digits: int) -> tuple[float | None, ...]:
    """Return what two formats of one run agree on, where one of them writes only so many decimals."""
    return tuple(None if value is None else round(value, digits) for value in values)


def mean(values: Iterable[float]) -> float | None:
    """Return the mean; None of nothing."""
    known = list(values)
    return math.fsum(known) / len(known) if known else None


def tpot_of_means(e2e_ms: float | None, ttft_ms: float | None, output_len: float) -> float | None:
    """Return time per output token after the first, of mean latencies and lengths; None where they do not tell it."""
    if e2e_ms is None or ttft_ms is None or output_len <= 1.0 or e2e_ms <= ttft_ms:
        return None
    return (e2e_ms - ttft_ms) / (output_len - 1.0)


def runs_of(
    rows: Iterable[tuple[str, Any]],
    read: Callable[[str, Any], ParsedRun],
    *,
    marks: frozenset[str] = frozenset(),
    program: str = "",
) -> Iterator[ParsedRun | SkippedFile]:
    """Read rows, each with where it stands; those that lack ``marks``, keys of every result of ``program``, and those that
    cannot be used are skipped with the reason.
    """
    for where, row in rows:
        if marks and not row.keys() >= marks:
            yield SkippedFile(where, f"it is no result of {program}")
            continue
        try:
            yield read(where, row)
        except UnusableRun as error:
            yield SkippedFile(where, str(error))
