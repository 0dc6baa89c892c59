"""Numbers as people read them: three significant digits, no exponents."""

from __future__ import annotations

import math

GIB = 2.0**30


def short(value: float | None, digits: int = 3) -> str:
    """``value`` to so many significant digits: 803, 73.8, 0.118, 12300; "-" for what there is none of."""
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
    """An interval: (540-1090)."""
    return f"({short(low)}-{short(high)})"


def count(value: float) -> str:
    """A large count with its unit: 13.0 B, 671 B, 124 M."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= scale:
            return f"{short(value / scale)} {unit}"
    return f"{value:,.0f}"


def share(value: float) -> str:
    """0.431 as 43%."""
    return f"{value:.0%}"


def dollars(value: float | None) -> str:
    """$0.371."""
    return "-" if value is None else f"${short(value)}"


def wh_per_mtok(joules_per_token: float | None) -> float | None:
    """Watt-hours for a million tokens."""
    return None if joules_per_token is None else joules_per_token / 3.6e-3
