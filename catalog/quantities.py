"""Quantities as people write them: 128k tokens, 200ms, 1.5s, 300/min, $3/h, 80GB, 90%."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

WRITTEN = re.compile(
    r"(?P<number>[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<unit>[a-zA-Zµ%/]*)", re.ASCII
)
LONGEST = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What numbers of one kind may be written in; the first unit, "", is what a bare number has."""

    noun: str
    examples: str
    units: Mapping[str, float]
    """How many of the bare unit one of each is."""
    whole: bool = False
    exact_case: bool = False
    """Whether letters differ by their case, as k and K do."""

    def read(self, value: str | float, name: str = "") -> float:
        """Return a quantity in its bare unit; a whole one as an ``int``.

        Args:
            value: a number, or text such as "200ms".
            name: what it is of, for messages.

        Raises:
            InputError: it is none.

        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
        text = value.strip().removeprefix("$").strip() if isinstance(value, str) else ""
        plain = _plain(text, whole=self.whole)
        if plain is not None:
            return plain
        match = WRITTEN.fullmatch(text[:LONGEST])
        unit = "" if match is None else match["unit"] if self.exact_case else match["unit"].casefold()
        if match is None or not match["number"].strip("+-") or unit not in self.units:
            raise InputError(self._refusal(value, name))
        try:
            number = float(match["number"].replace(",", "")) * self.units[unit]
        except ValueError:
            raise InputError(self._refusal(value, name)) from None
        if self.whole:
            if not math.isfinite(number) or number != round(number):
                raise InputError(self._refusal(value, name))
            return round(number)
        return number

    def _refusal(self, value: object, name: str) -> str:
        subject = f"{name} is {value!r:.60}; it" if name else f"{value!r:.60}"
        return f"{subject} must be {self.noun}, such as {self.examples}"


def _plain(text: str, *, whole: bool) -> float | None:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return None


_THOUSANDS = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30}
COUNT = Quantity(
    noun="a whole number",
    examples="4096, 128k (128,000) or 128K (131,072, as vLLM reads it)",
    units={"": 1.0, **_THOUSANDS},
    whole=True,
    exact_case=True,
)
AMOUNT = Quantity(
    noun="a number of tokens",
    examples="300B, 1.5T or 20000000",
    units={"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12},
)
"""Of what a model is trained on, in the decimal letters that papers use."""
MILLISECONDS = Quantity(
    noun="a time, of milliseconds without a unit",
    examples="200, 200ms or 1.5s",
    units={"": 1.0, "ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "min": 6e4, "m": 6e4},
)
SECONDS = Quantity(
    noun="a time, of seconds without a unit",
    examples="300, 90s, 5min or 1h",
    units={"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
)
PER_SECOND = Quantity(
    noun="a rate, a second without a unit",
    examples="5, 5/s, 300/min or 18000/h",
    units={
        "": 1.0,
        **{
            f"{count}/{time}": of / size
            for count, of in (("", 1.0), ("k", 1e3), ("m", 1e6))
            for time, size in (
                ("s", 1.0),
                ("sec", 1.0),
                ("min", 60.0),
                ("m", 60.0),
                ("h", 3600.0),
                ("d", 86400.0),
                ("day", 86400.0),
            )
        },
        "rps": 1.0,
        "qps": 1.0,
        "rpm": 1 / 60,
        "qpm": 1 / 60,
    },
)
USD_PER_HOUR = Quantity(
    noun="dollars, an hour without a unit",
    examples="2.5, $2.5/h or $1800/month",
    units={
        "": 1.0,
        **{
            f"{currency}{per}": 1.0 / hours
            for currency in ("", "usd")
            for per, hours in (
                ("/h", 1.0),
                ("/hr", 1.0),
                ("/hour", 1.0),
                ("/d", 24.0),
                ("/day", 24.0),
                ("/month", 730.0),
                ("/mo", 730.0),
                ("/year", 8760.0),
                ("/y", 8760.0),
            )
        },
        "usd": 1.0,
    },
)
"""A month has 730 hours, as clouds bill it."""
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
GIBIBYTES = Quantity(
    noun="a size, of GiB without a unit",
    examples="80, 80GB or 74.5GiB",
    units={"": 1.0, "g": 1.0, **{unit: size / GIB for unit, size in _BYTES.items()}},
)
GIGABYTES_PER_SECOND = Quantity(
    noun="a bandwidth, of GB/s without a unit",
    examples="900, 900GB/s or 3.35TB/s",
    units={"": 1.0, **{f"{unit}{per}": size / 1e9 for unit, size in _BYTES.items() for per in ("", "/s")}},
)
SHARE = Quantity(
    noun="a share",
    examples="0.9 or 90%",
    units={"": 1.0, "%": 0.01},
)
