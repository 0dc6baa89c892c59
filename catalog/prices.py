"""What GPUs cost to rent."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from catalog.borders import checked
from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.names import squash, suggestion
from catalog.paths import own_tables
from catalog.quantities import USD_PER_HOUR
from catalog.schema import Price
from catalog.tables import DATA, read_toml, stamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def all_prices() -> tuple[Price, ...]:
    """Return every known price, the user's included."""
    own = ((path, stamp(path)) for path in own_tables("prices"))
    return tuple(price for path, changed in ((DATA / "prices.toml", None), *own) for price in _read(path, changed))


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

    Its ``provider``, ``instance`` and ``as_of`` say which it is.
    """
    read_prices = prices_for(gpu_name, provider=provider, illustrative=illustrative)
    lasting = [price for price in read_prices if price.kind != "spot"]
    return min(lasting, key=lambda price: (price.kind != "on-demand", price.usd_per_gpu_hour), default=None)


@cache
def _read(path: Path, changed: tuple[int, int] | None) -> tuple[Price, ...]:  # noqa: ARG001  an edited file is read again
    rows = read_toml(path).get("prices", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: prices must be tables that start with [[prices]]")
    return tuple(checked(Price, row, f"{path}: price {number}") for number, row in enumerate(rows, 1))


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
