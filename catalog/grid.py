"""How much CO2 a kilowatt-hour of the public grid stands for, by country."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from catalog.errors import InputError
from catalog.names import suggestion
from catalog.tables import DATA, read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_KG_PER_KWH = 2.0
"""Above what any country's grid emits (1.3)."""
MOST_PUE = 5.0
JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The electricity that machines run on."""

    kg_co2_per_kwh: float
    where: str = ""
    """Country; empty where a number was stated."""
    year: int | None = None
    pue: float = 1.0
    """Power of the room over power of the machines."""

    def kg_per_mtok(self, joules_per_token: float) -> float:
        """Return kilograms of CO2 for a million output tokens."""
        return joules_per_token * 1e6 / JOULES_PER_KWH * self.pue * self.kg_co2_per_kwh


def read_grid(text: str, pue: float = 1.0) -> Grid:
    """Read kilograms of CO2 a kilowatt-hour, or a country by name or three-letter code.

    Raises:
        InputError: neither, or a number that no grid has.

    """
    if not 1.0 <= pue <= MOST_PUE:
        raise InputError(f"pue is {pue:g}; it must be from 1 (all power goes to the machines) to {MOST_PUE:g}")
    try:
        value = float(text)
    except ValueError:
        return _country(text, pue)
    if not 0.0 <= value <= MOST_KG_PER_KWH:
        raise InputError(
            f"grid intensity is {text!r:.40}; it must be 0 to {MOST_KG_PER_KWH:g} kg of CO2 a kWh (380 g are 0.38), or a country"
        )
    return Grid(kg_co2_per_kwh=value, pue=pue)


def _country(text: str, pue: float) -> Grid:
    wanted = text.strip().casefold()
    for code, (name, intensity, year) in countries().items():
        if wanted in (code.casefold(), name.casefold()):
            return Grid(kg_co2_per_kwh=intensity, where=name, year=year, pue=pue)
    names = [word for code, (name, *_) in countries().items() for word in (name, code)]
    hint = suggestion(text, names, otherwise="name one in English or by its three-letter code")
    raise InputError(f"no grid intensity of {text!r:.40} is known; {hint}, or state kg of CO2 a kWh, such as 0.38")


@cache
def countries() -> Mapping[str, tuple[str, float, int]]:
    """Return name, kilograms of CO2 a kilowatt-hour and year by three-letter code."""
    return {code: tuple(row) for code, row in read_toml(DATA / "grid.toml")["countries"].items()}
