"""Numbers as people read them: three significant digits, no exponents."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.units import HOURS_OF_A_MILLION_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

LONG_MS = 9995.0
"""A time from here on is written in seconds: to three digits it is 10 s."""


def short(value: float | None, digits: int = 3) -> str:
    """Return ``value`` to so many significant digits: 803, 73.8, 0.118, 12300; "-" for what there is none of."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    # 9.996 has become 10.0: one place less
    places = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{max(places, 0)}f}"


def span(low: float, high: float) -> str:
    """Return an interval: (540-1090)."""
    return f"({short(low)}-{short(high)})"


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit that a quantity is written in."""

    name: str
    size: float = 1.0
    """Milliseconds, of a unit of time."""

    def of(self, value: float) -> float:
        """Return a number of milliseconds in this unit."""
        return value / self.size

    def short(self, value: float | None) -> str:
        """Return the same as text, as the next without the unit's name: 47.3."""
        return short(None if value is None else self.of(value))

    def span(self, low: float, high: float) -> str:
        """Write an interval: (38.1-58.9)."""
        return span(self.of(low), self.of(high))


MS, SECONDS, RATE = Unit("ms"), Unit("s", 1e3), Unit("tok/s")


def unit_of(times_ms: Iterable[float | None]) -> Unit:
    """Return the unit of times that stand beside each other: seconds where one of them takes 10 s or more."""
    return SECONDS if any(ms is not None and LONG_MS <= ms < math.inf for ms in times_ms) else MS


def duration(ms: float | None, ends: tuple[float, float] | None = None) -> str:
    """Write 803 ms, 47.3 s; with the ends of its interval: 47.3 (38.1-58.9) s."""
    unit = unit_of([ms])
    return f"{unit.short(ms)}{f' {unit.span(*ends)}' if ends else ''} {unit.name}"


def change(before_ms: float, after_ms: float) -> str:
    """Write 33.0 to 26.9 ms, 10.2 to 7.62 s."""
    unit = unit_of([before_ms, after_ms])
    return f"{unit.short(before_ms)} to {unit.short(after_ms)} {unit.name}"


def limit(ms: float) -> str:
    """Write it as it was stated, but for the unit: 300 ms, 47.25 s."""
    unit = unit_of([ms])
    return f"{unit.of(ms):g} {unit.name}"


def count(value: float) -> str:
    """Write a large count with its unit: 13.0 B, 671 B, 124 M."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= scale:
            return f"{short(value / scale)} {unit}"
    return f"{value:,.0f}"


def share(value: float) -> str:
    """Write 0.431 as 43%."""
    return f"{value:.0%}"


def dollars(value: float | None) -> str:
    """Write dollars: $0.371."""
    return "-" if value is None else f"${short(value)}"


def wh_per_mtok(joules_per_token: float | None) -> float | None:
    """Return watt-hours for a million tokens."""
    return None if joules_per_token is None else joules_per_token * HOURS_OF_A_MILLION_SECONDS
