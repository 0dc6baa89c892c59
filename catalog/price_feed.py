"""Offers of many clouds, taken from dstack's ``gpuhunt`` catalog and kept as a file of one's own prices."""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import TYPE_CHECKING, Any, Literal

from catalog.errors import InputError
from catalog.gpus import find_gpu
from catalog.paths import home
from catalog.schema import Price

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CLOUDS = ("aws", "azure", "gcp", "lambdalabs", "nebius", "oci", "runpod", "verda")
"""Those whose offers dstack publishes each day; others answer with an account's key only."""
_PCIE = ("pcie", "pci-e")


def refresh_prices() -> tuple[Path, tuple[Price, ...]]:
    """Fetch the offers and write the cheapest of each GPU, cloud and kind to ``$ADVISOR_HOME/prices/gpuhunt.toml``.

    Raises:
        InputError: ``gpuhunt`` is not installed, or nothing can be fetched.

    """
    prices = offers(_fetched(), today=dt.datetime.now(tz=dt.UTC).date())
    if not prices:
        raise InputError("the price catalog of gpuhunt has no GPU that is known here; the prices that ship stay")
    path = home() / "prices" / "gpuhunt.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")
    written.write_text(as_toml(prices), encoding="utf-8")
    written.replace(path)
    return path, prices


def _fetched() -> list[Any]:
    try:
        import gpuhunt  # only some have it
    except ImportError:
        raise InputError("refreshing prices takes gpuhunt: pip install 'advisor[prices]'") from None
    logging.getLogger("gpuhunt").setLevel(logging.CRITICAL)  # its tracebacks are no news to a user
    try:
        items: list[Any] = gpuhunt.Catalog(balance_resources=False).query(provider=list(CLOUDS), min_gpu_count=1)
    except Exception as error:  # noqa: BLE001  whatever a client of many clouds raises
        why = str(error).partition("\n")[0][:120] or type(error).__name__
        raise InputError(
            f"the price catalog cannot be fetched ({why}); the prices that ship stay, and --price or prices.toml states others"
        ) from None
    return items


def offers(items: Iterable[Any], *, today: dt.date) -> tuple[Price, ...]:
    """Return the cheapest offer of each GPU, cloud and kind among ``gpuhunt`` catalog items; GPUs unknown here are left out."""
    cheapest: dict[tuple[str, str, str], Price] = {}
    for item in items:
        gpu = _gpu(item)
        if gpu is None or item.price <= 0:
            continue
        kind: Literal["spot", "on-demand"] = "spot" if item.spot else "on-demand"
        count = f" x {item.gpu_count}" if item.gpu_count > 1 else ""
        price = Price(
            gpu=gpu,
            usd_per_gpu_hour=round(item.price / item.gpu_count, 4),
            provider=item.provider,
            instance=f"{item.instance_name} in {item.location}{count}",
            kind=kind,
            as_of=today.isoformat(),
            source="dstack gpuhunt catalog",
        )
        key = (gpu, item.provider, kind)
        if key not in cheapest or price.usd_per_gpu_hour < cheapest[key].usd_per_gpu_hour:
            cheapest[key] = price
    return tuple(sorted(cheapest.values(), key=lambda price: (price.gpu, price.usd_per_gpu_hour)))


def _gpu(item: Any) -> str | None:
    """Return the name of an item's GPU here: by name and memory, and by what its instance says of the slot."""
    if not item.gpu_name or not item.gpu_count:
        return None
    pcie = "-PCIE" if any(word in item.instance_name.casefold() for word in _PCIE) else ""
    memory = f"-{item.gpu_memory:.0f}GB" if item.gpu_memory else ""
    for name in dict.fromkeys(
        (f"{item.gpu_name}{pcie}{memory}", f"{item.gpu_name}{memory}", f"{item.gpu_name}{pcie}", item.gpu_name)
    ):
        try:
            found = find_gpu(name).value
        except InputError:
            continue
        # an instance may have half a GPU, or one of another size
        whole = item.gpu_memory is None or abs(found.memory_gib - item.gpu_memory) <= 0.12 * found.memory_gib
        return found.name if whole else None
    return None


def as_toml(prices: Iterable[Price]) -> str:
    """Write prices as ``[[prices]]`` tables."""
    fields = ("gpu", "usd_per_gpu_hour", "provider", "instance", "kind", "as_of", "source")
    tables = [
        "\n".join(["[[prices]]", *(f"{name} = {json.dumps(getattr(price, name))}" for name in fields)])
        for price in prices
    ]
    return "# Written by advisor catalog prices --refresh.\n\n" + "\n\n".join(tables) + "\n"
