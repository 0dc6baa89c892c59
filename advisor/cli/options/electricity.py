"""Options of the electricity that GPUs run on, for CO2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from advisor.cli.groups import flag, group
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.grid import Grid


@group("Evidence and prices")
class Electricity:
    """Where the electricity is from."""

    grid_intensity: Annotated[str | None, flag("--grid-intensity", metavar="KG")] = None
    """Also report CO2: kilograms a kWh (0.38), or a country (France, USA), whose grid's yearly mean is then taken."""
    pue: Annotated[float | None, flag("--pue", metavar="N")] = None
    """Power of the room over power of the machines, for CO2.  [default: 1]"""

    def grid(self) -> Grid | None:
        """Return the grid; None where no CO2 is asked for.

        Raises:
            InputError: no such grid, or a PUE alone.

        """
        if self.grid_intensity is None:
            if self.pue is not None:
                raise InputError("--pue is for CO2; add --grid-intensity 0.38 (kg a kWh) or a country")
            return None
        from catalog.grid import read_grid  # only then

        return read_grid(self.grid_intensity, 1.0 if self.pue is None else self.pue)


def co2_lines(
    grid: Grid | None, joules_per_token: float | None, interval: tuple[float, float] | None = None
) -> list[tuple[str, list[str]]]:
    """Return the line on CO2 of an answer, with the 90% interval of its joules; none where it is not asked for."""
    if grid is None:
        return []
    if joules_per_token is None:
        from advisor.perf_model.energy import POWER  # brings numpy, which an answer has by now

        known = " and ".join(POWER)
        way = f"energy is modelled on {known} with 16-bit weights; elsewhere a run of this very deployment has it (advisor probe)"
        return [("CO2", [f"not known: no run measured the energy of this GPU with these weights; {way}"])]
    from advisor.render.numbers import short, span  # only for people

    where = f", {grid.where} {grid.year}" if grid.where else ""
    pue = f", PUE {grid.pue:g}" if grid.pue > 1.0 else ""
    ends = "" if interval is None else f" {span(*map(grid.kg_per_mtok, interval))}"
    per_mtok = f"{short(grid.kg_per_mtok(joules_per_token))}{ends}"
    return [
        ("CO2", [f"{per_mtok} kg a million output tokens ({grid.kg_co2_per_kwh:g} kg/kWh{where}{pue}; the GPUs alone)"])
    ]


def co2_body(grid: Grid | None, joules_per_token: float | None) -> dict[str, Any]:
    """Return what JSON and YAML hold of it."""
    if grid is None:
        return {}
    per_mtok = None if joules_per_token is None else grid.kg_per_mtok(joules_per_token)
    facts = {"kg_co2_per_kwh": grid.kg_co2_per_kwh, "where": grid.where, "year": grid.year, "pue": grid.pue}
    return {"co2": facts | {"kg_co2_per_mtok": per_mtok}}
