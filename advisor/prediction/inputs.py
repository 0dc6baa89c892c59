"""What a question names, read: model, GPUs, lengths, price."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from catalog.errors import InputError, Resolved
from catalog.gpus import find_gpu, parse_cluster
from catalog.models.find import find_model
from catalog.prices import cheapest, no_price
from catalog.quantities import USD_PER_HOUR
from catalog.schema import STATED, Cluster, Model, Price, require_positive


def plain(value: Any) -> Any:
    """Return ``value`` as plain JSON types: dataclasses and mappings as dicts, sequences as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain_fields(value)
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def plain_fields(answer: Any, *without: str) -> dict[str, Any]:
    """Return the fields of an answer as plain JSON types by their names, but for those ``without``, and for those that are shown
    only where they are stated (metadata "if_stated") and are their default.
    """
    named = ((f, getattr(answer, f.name)) for f in dataclasses.fields(answer) if f.name not in without)
    return {f.name: plain(value) for f, value in named if not ("if_stated" in f.metadata and value == f.default)}


def read_model(model: str | Model) -> Resolved[Model]:
    """Read a catalog name, a Hugging Face id, a path to a ``config.json``, or a ``Model``."""
    return Resolved(model) if isinstance(model, Model) else find_model(str(model))


def read_cluster(gpus: str | Cluster, overrides: Mapping[str, float | str] | None = None) -> Resolved[Cluster]:
    """Read ``4xA100``, ``A100:4``, ``2x8xH100``, or a ``Cluster``."""
    return Resolved(gpus) if isinstance(gpus, Cluster) else parse_cluster(str(gpus), overrides)


def check_lengths(model: Model, input_len: int, output_len: int, max_model_len: int | None) -> None:
    """Raise ``InputError`` for lengths that no request can have."""
    require_positive("input_len", input_len, most=2**24)
    require_positive("output_len", output_len, most=2**24)
    longest = max_model_len or model.max_position_embeddings
    if input_len + output_len > longest:
        what = "max_model_len" if max_model_len else f"the positions of {model.name}"
        raise InputError(
            f"{input_len} tokens in and {output_len} out are {input_len + output_len}, above {what}: at most {longest}"
        )


CONFIDENCE = 0.9
"""How sure limits are to hold where nobody says."""
BARE_ESTIMATE = 0.5
"""The confidence by which estimates count as they are."""


def check_confidence(confidence: float) -> None:
    """Raise ``InputError`` for a confidence that no tested interval has."""
    if isinstance(confidence, bool) or (confidence != BARE_ESTIMATE and not 0.75 <= confidence <= 0.99):
        raise InputError(f"confidence is {confidence:g}; it must be 0.5 (the estimate) or from 0.75 to 0.99")


def objective_price(objective: str, gpu: str, price: float | None, *, illustrative: bool = False) -> Price | None:
    """Return the price as ``chosen_price`` does; raise ``InputError`` where cost is the objective and there is none."""
    offer = chosen_price(gpu, price, illustrative=illustrative)
    if objective == "cost" and offer is None:
        raise InputError(no_price(gpu))
    return offer


def prices_by_gpu(price: float | Mapping[str, float] | None) -> dict[str, float]:
    """Return dollars per GPU-hour by the GPU's name; under "" those of every other."""
    if isinstance(price, Mapping):
        return {find_gpu(name).value.name if name else "": value for name, value in price.items()}
    return {} if price is None else {"": price}


def offer_for(gpu: str, price: float | Mapping[str, float] | None, *, illustrative: bool = False) -> Price | None:
    """Return ``chosen_price`` where prices may be stated by the GPU's name."""
    stated = prices_by_gpu(price)
    return chosen_price(gpu, stated.get(gpu.split(" (", maxsplit=1)[0], stated.get("")), illustrative=illustrative)


def chosen_price(gpu: str, price: float | None, *, illustrative: bool = False) -> Price | None:
    """Return the price the user states, else the cheapest on-demand offer in the catalog; None if there is none."""
    if price is not None:
        require_positive("price", price, most=1e6, whole=False)
        return Price(gpu=gpu, usd_per_gpu_hour=price, provider=STATED)
    return cheapest(gpu.split(" (", maxsplit=1)[0], illustrative=illustrative)


def read_budget(stated: float | str | None) -> float | None:
    """Read the dollars an hour that may be spent; None: any number of them.

    Raises:
        InputError: it is no amount of money, or none that can be.

    """
    if stated is None:
        return None
    spend = USD_PER_HOUR.read(stated, "budget")
    require_positive("budget", spend, whole=False, most=1e9)
    return spend
