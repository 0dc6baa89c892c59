"""What GPUs cost to rent."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Interval

from catalog.borders import checked
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.names import squash, suggestion
from catalog.paths import own_tables
from catalog.quantities import USD_PER_HOUR
from catalog.schema import Price
from catalog.shipped import built
from catalog.tables import DATA, read_toml, stamp

SHIPPED = DATA / "prices.toml"
HOURS_A_YEAR = 8760.0

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedGpu:
    """What one GPU of one's own costs: an ``[[owned]]`` table of ``prices.toml``."""

    gpu: str
    capital_usd: Annotated[float, Interval(ge=0, le=1e7)]
    """Of the GPU and its share of server, network and room."""
    years: Annotated[float, Interval(gt=0, le=20)] = 4.0
    """Over which it is written off."""
    utilisation: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """Share of those years in which it serves: idle time is paid for, too."""
    power_w: Annotated[float, Interval(ge=0, le=1e5)] = 0.0
    """Drawn while it serves, its share of the server included."""
    pue: Annotated[float, Interval(ge=1, le=5)] = 1.0
    """Power of the room over power of the machines."""
    usd_per_kwh: Annotated[float, Interval(ge=0, le=10)] = 0.0
    usd_per_year: Annotated[float, Interval(ge=0, le=1e7)] = 0.0
    """Everything else: space, people, support."""
    name: str = "own machines"

    def price(self) -> Price:
        """Return dollars for each hour in which it serves."""
        fixed = (self.capital_usd / self.years + self.usd_per_year) / HOURS_A_YEAR / self.utilisation
        power = self.power_w / 1e3 * self.pue * self.usd_per_kwh
        parts = f"capital {fixed:.3g} and power {power:.3g} dollars an hour"
        return Price(
            gpu=self.gpu,
            usd_per_gpu_hour=fixed + power,
            provider=self.name,
            instance=parts,
            kind="owned",
            source="stated",
        )


def all_prices() -> tuple[Price, ...]:
    """Return every known price, the user's included."""
    own = ((path, stamp(path)) for path in own_tables("prices"))
    return (*shipped_prices(), *(price for path, changed in own for price in _read(path, changed)))


@cache
def shipped_prices() -> tuple[Price, ...]:
    """Return the prices that come with the package."""
    return tuple(built(Price, row) for row in read_toml(SHIPPED)["prices"])


def no_price(*gpus: str) -> str:
    """Say that GPUs have no price and what to add."""
    return f"no price for {' and '.join(gpus)}: add --price 2.50 (dollars per GPU-hour), or --illustrative-prices for a round figure"


def prices_for(gpu_name: str, *, provider: str | None = None, illustrative: bool = False) -> tuple[Price, ...]:
    """Return prices of one GPU, cheapest first; of one provider if given.

    Illustrative figures are left out unless asked for, and then come alone: a round figure never competes with an offer.
    A GPU that was changed for a what-if ("H100-SXM (memory_bandwidth_gbps=6000)") costs what the real one does.

    Raises:
        InputError: no GPU of that name, or a provider that no price names.

    """
    gpu = find_gpu(gpu_name.partition(" (")[0]).value.name
    read_prices = all_prices()
    if provider is not None:
        providers = sorted({price.provider for price in read_prices})
        if squash(provider) not in map(squash, providers):
            hint = suggestion(provider, providers, otherwise=f"known: {', '.join(providers)}")
            raise InputError(f'no prices of a provider "{provider}"; {hint}')
        read_prices = tuple(price for price in read_prices if squash(price.provider) == squash(provider))
    chosen = (price for price in read_prices if price.gpu == gpu and price.illustrative == illustrative)
    return tuple(sorted(chosen, key=lambda price: price.usd_per_gpu_hour))


def cheapest(gpu_name: str, *, provider: str | None = None, illustrative: bool = False) -> Price | None:
    """Return the lowest on-demand price of a GPU, else the lowest rental one, else None. Spot offers can be withdrawn: never.

    An illustrative figure, where it is allowed, comes only where there is no such offer.
    Its ``provider``, ``instance`` and ``as_of`` say which it is.
    """
    order = {"owned": 0, "on-demand": 1}
    for round_figures in (False, True)[: 1 + illustrative]:
        read_prices = prices_for(gpu_name, provider=provider, illustrative=round_figures)
        lasting = [price for price in read_prices if price.kind != "spot"]
        if lasting:
            return min(lasting, key=lambda price: (order.get(price.kind, 2), price.usd_per_gpu_hour))
    return None


@cache
def _read(path: Path, changed: tuple[int, int]) -> tuple[Price, ...]:  # noqa: ARG001  an edited file is read again
    tables = read_toml(path)
    prices = [checked(Price, row, f"{path}: price {number}") for number, row in _rows(tables, "prices", path)]
    owned = [checked(OwnedGpu, row, f"{path}: owned GPU {number}") for number, row in _rows(tables, "owned", path)]
    return (*prices, *(gpu.price() for gpu in owned))


def _rows(tables: Mapping[str, Any], name: str, path: Path) -> Iterator[tuple[int, Any]]:
    rows = tables.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: {name} must be tables that start with [[{name}]]")
    return iter(enumerate(rows, 1))


def read_prices(texts: Sequence[str] | None) -> dict[str, float] | None:
    """Read dollars per GPU-hour by GPU of ``--price``; under "" those of every other.

    Raises:
        InputError: no number, or said twice.

    """
    stated: dict[str, float] = {}
    for text in texts or []:
        name, _, number = text.rpartition("=")
        try:
            value = USD_PER_HOUR.read(number)
        except InputError:
            raise InputError(
                f"--price is {text!r:.60}; it must be dollars per GPU-hour, such as 2.5, $2.5/h or H100=2.5"
            ) from None
        if name.strip() in stated:
            raise InputError(f"--price is said twice{f' for {name.strip()}' if name else ''}; leave out one")
        stated[name.strip()] = value
    return stated or None
