"""What the catalog holds, as lists and as single entries in full."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from advisor.render.numbers import count, short
from advisor.render.tables import Column
from catalog.models.find import active_parameters, parameters
from catalog.models.sizes import kv_bytes_per_token, state_bytes_per_sequence
from catalog.schema import BITS, SCALE_BITS
from catalog.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from catalog.engines import Engine
    from catalog.schema import Gpu, Model, Price


def model_facts(model: Model) -> dict[str, Any]:
    """Return all that is known of a model: what follows from its shape first, then its fields; empty ones left out."""
    total = parameters(model)
    body: dict[str, Any] = {"name": model.name, "parameters": total}
    if model.moe_layers:
        body["active_parameters"] = active_parameters(model)
    body["weights_gib"] = total * stored_bits(model) / 8.0 / GIB
    body["kv_bytes_per_token"] = round(kv_bytes_per_token(model))
    if state := state_bytes_per_sequence(model):
        body["state_bytes_per_sequence"] = state
    # MoE fields mean nothing in a dense model, nor do MLA ranks without MLA; a zero or a No elsewhere says nothing
    filled = {
        f.name: getattr(model, f.name)
        for f in fields(model)
        if f.name not in ("stack", "image_encoder", "images") and getattr(model, f.name) not in (0, "", None, False, ())
    }
    if not model.num_experts:
        filled.pop("moe_layer_step", None)
    return body | {name: value for name, value in filled.items() if name not in body}


def stored_bits(model: Model) -> float:
    """Return bits a parameter, as if the whole checkpoint were in its one format, scales included."""
    kind = model.quantization or model.dtype
    return BITS[kind] + (SCALE_BITS.get(kind, 0.0) if model.scale_bits is None else model.scale_bits)


def model_columns(models: Sequence[Model]) -> list[Column]:
    """Return the list of models."""
    return [
        Column(name="model", cells=[m.name for m in models], right=False),
        Column(name="parameters", narrow="params", cells=[count(parameters(m)) for m in models]),
        Column(name="active", cells=[count(active_parameters(m)) if m.moe_layers else "" for m in models], rank=3),
        Column(name="layers", cells=[str(m.num_hidden_layers) for m in models], rank=2),
        Column(name="context", unit="tokens", cells=[str(m.max_position_embeddings) for m in models]),
        Column(name="KV", unit="KiB/token", cells=[short(kv_bytes_per_token(m) / 1024) for m in models], rank=1),
        Column(name="heads", unit="Q / KV", cells=[_heads(m) for m in models], rank=4),
        Column(name="format", cells=[m.quantization or m.dtype for m in models], right=False, rank=5),
    ]


def _heads(model: Model) -> str:
    return f"{model.num_attention_heads} / {'MLA' if model.attention == 'mla' else model.num_key_value_heads}"


def gpu_facts(gpu: Gpu) -> dict[str, Any]:
    """Return all that is known of a GPU; empty fields left out."""
    return {f.name: getattr(gpu, f.name) for f in fields(gpu) if getattr(gpu, f.name) not in (0, "", None)}


def gpu_columns(gpus: Sequence[Gpu]) -> list[Column]:
    """Return the list of GPUs."""
    return [
        Column(name="GPU", cells=[g.name for g in gpus], right=False),
        Column(name="memory", unit="GiB", cells=[short(g.memory_gib) for g in gpus]),
        Column(name="bandwidth", unit="GB/s", cells=[f"{g.memory_bandwidth_gbps:.0f}" for g in gpus]),
        Column(name="fp16", unit="TFLOP/s", cells=[short(g.fp16_tflops) for g in gpus]),
        Column(name="fp8", unit="TFLOP/s", cells=[short(g.fp8_tflops or None) for g in gpus], rank=2),
        Column(
            name="NVLink/xGMI", narrow="link", unit="GB/s", cells=[short(g.nvlink_gbps or None) for g in gpus], rank=1
        ),
        Column(name="topology", cells=[g.topology for g in gpus], right=False, rank=3),
        Column(name="a node", unit="GPUs", cells=[str(g.gpus_per_node) for g in gpus], rank=4),
        Column(name="TDP", unit="W", cells=[short(g.tdp_w or None) for g in gpus], rank=5),
        Column(name="capability", cells=[g.compute_capability for g in gpus], rank=6),
    ]


def price_facts(price: Price) -> dict[str, Any]:
    """Return a price as a row."""
    return {f.name: getattr(price, f.name) for f in fields(price)}


def price_columns(prices: Sequence[Price]) -> list[Column]:
    """Return the list of prices."""
    kinds = ["illustrative" if p.illustrative else p.kind for p in prices]
    return [
        Column(name="GPU", cells=[p.gpu for p in prices], right=False),
        Column(name="$", unit="GPU-hour", cells=[f"{p.usd_per_gpu_hour:.2f}" for p in prices]),
        Column(name="kind", cells=kinds, right=False),
        Column(name="provider", cells=[p.provider for p in prices], right=False),
        Column(name="instance", cells=[p.instance for p in prices], right=False, rank=1),
        Column(name="as of", cells=[p.as_of for p in prices], right=False, rank=2),
        Column(name="source", cells=[p.source for p in prices], right=False, rank=9),
    ]


def engine_facts(engine: Engine) -> dict[str, Any]:
    """Return what an engine can run, as plain types; empty fields left out."""
    shown = {"name", "version", "aliases", "min_capability", "gfx", "parallel", "online", "weights", "kv", "dropped"}
    shown |= {"gpu_memory_utilization", "block_size", "models", "last_version_below_min", "source"}
    facts: dict[str, Any] = {}
    for f in fields(engine):
        value = getattr(engine, f.name)
        if f.name in shown and value:
            facts[f.name] = (
                dict(value) if hasattr(value, "items") else list(value) if isinstance(value, tuple) else value
            )
    return facts


def engine_columns(engines: Sequence[Engine]) -> list[Column]:
    """Return the list of engines."""
    return [
        Column(name="engine", cells=[e.name for e in engines], right=False),
        Column(name="version", cells=[e.version for e in engines], right=False),
        Column(name="NVIDIA", unit="from", cells=[e.min_capability or "-" for e in engines]),
        Column(name="AMD", cells=[_yes(kind.startswith("gfx") for kind in e.gfx) for e in engines], right=False),
        Column(name="CPU", cells=[_yes(not kind.startswith("gfx") for kind in e.gfx) for e in engines], right=False),
        Column(name="parallel", cells=[" ".join(e.parallel) for e in engines], right=False),
        Column(name="weights", cells=[" ".join(e.weights) for e in engines], right=False, rank=1),
        Column(name="KV cache", cells=[" ".join(e.kv) for e in engines], right=False, rank=2),
    ]


def _yes(holds: Iterable[bool]) -> str:
    return "yes" if any(holds) else "no"


def shown_value(name: str, value: Any) -> str:
    """Return one fact for the eye: counts with separators and their short form."""
    if name in {"parameters", "active_parameters", "published_parameters"}:
        return f"{value:,.0f} ({count(value)})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return short(value, 4)
    if isinstance(value, int):
        return f"{value:,}" if name == "kv_bytes_per_token" else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} from {origin}" if origin else str(key) for key, origin in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
