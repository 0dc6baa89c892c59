"""One deployment's estimate as a person reads it, and as a row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.text import Text

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.render.lines import (
    corrected_line,
    cost_line,
    energy_line,
    hardware,
    header,
    labelled,
    memory_line,
    notes,
    sources_line,
)
from advisor.render.numbers import RATE, count, share, short, unit_of
from advisor.render.tables import Column, drawn, natural_width
from catalog.engines import find_engine
from catalog.models.sizes import parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from advisor.prediction.estimation import Estimate

METRICS = {
    "output_tok_s": "output tokens",
    "output_tok_s_per_gpu": "output tokens per GPU",
    "ttft_ms": "TTFT, mean",
    "tpot_ms": "TPOT, mean",
    "prefill_ms": "prefill of the batch",
    "e2e_ms": "E2E of the batch",
}


def estimate_view(
    found: Estimate, width: int, *, products: bool = False, wide: bool = False, relax: Sequence[str] = ()
) -> list[RenderableType]:
    """Everything to print, in order; ``relax`` says what would fit where this does not."""
    view: list[RenderableType] = [header(_head(found), width), labelled(notes(found.notes)), ""]
    if found.fits:
        view += [drawn(metric_columns(found), width), ""]
    else:
        view += [Text("does not fit", style="bold red")]
    view.append(labelled([*_told(found), ("relax", relax)]))
    if wide:
        view += ["", Text("One request's time by operator:", style="bold"), drawn(operator_columns(found), None)]
    if products:
        title = Text("Matrix products of one GPU, prefill pass and decode step:", style="bold")
        columns = product_columns(found)
        view += ["", title, drawn(columns, None if wide else max(width, natural_width(columns)))]
    return view


def weights_gib(found: Estimate) -> float:
    """The whole model's weights in the deployment's format."""
    alone = replace(found.deployment, tp=1, pp=1, dp=1, ep=1, offload=0.0)
    room = memory(found.model, found.cluster, DeploymentArrays.of([alone], found.model, found.cluster.gpu))
    return float(room.weights_gib[0])


def _head(found: Estimate) -> list[str]:
    deployment, engine = found.deployment, find_engine(found.deployment.engine)
    used = f" ({deployment.num_gpus} of {found.cluster.num_gpus} GPUs)"
    work = f"batch {found.batch}{' per replica' if deployment.dp > 1 else ''}, {found.input_len} in / {found.output_len} out"
    return [
        f"{found.model.name}  {count(parameters(found.model))}  {deployment.dtype} {short(weights_gib(found))} GiB",
        hardware(found.cluster),
        f"{engine.name} {engine.version}",
        deployment.layout + (used if deployment.num_gpus < found.cluster.num_gpus else ""),
        f"{work}, all at once",
    ]


def metric_columns(found: Estimate) -> list[Column]:
    """The quantities, one a row, with their intervals."""
    values = {metric: getattr(found, metric) for metric in METRICS}
    units = {metric: unit_of([value]) if metric.endswith("_ms") else RATE for metric, value in values.items()}
    ends = ["-" if value is None else units[metric].span(*found.interval(metric)) for metric, value in values.items()]
    return [
        Column(name="quantity", cells=list(METRICS.values()), right=False),
        Column(name="estimate", cells=[units[metric].short(value) for metric, value in values.items()]),
        Column(name="unit", cells=[unit.name for unit in units.values()], right=False),
        Column(name="90% interval", cells=ends),
    ]


def _told(found: Estimate) -> list[tuple[str, Sequence[str]]]:
    cost = cost_line(found.usd_per_mtok, found.price)
    entries: list[tuple[str, Sequence[str]]] = []
    if found.fits:
        causes = found.breakdown["causes"]
        total = sum(causes.values()) or 1.0
        ranked = sorted(causes.items(), key=lambda item: -item[1])
        told = ", ".join(f"{cause} {share(time / total)}" for cause, time in ranked if time / total >= 0.005)
        turn = f"weight products turn from memory- to compute-bound at about {short(found.turning_batch)} sequences per replica"
        entries.append(("why", [f"{found.bottleneck} bounds a request: {told}", turn]))
    entries.append(("memory", [memory_line(found.memory)]))
    entries.append(("cost", [cost] if cost else []))
    if found.energy_j_per_token is not None:
        entries.append(("energy", [energy_line(found.energy_j_per_token, found.interval("energy_j_per_token"))]))
    if found.fits:
        entries.append(("source", [*sources_line([found.provenance]), *corrected_line(found.corrected_by)]))
        length, (fewest, most) = found.input_len + found.output_len, found.kv_capacity_ends
        limit = (
            f"KV cache full above batch {found.max_concurrency} per replica at {length} tokens a request "
            f"({found.kv_capacity_tokens} tokens; {fewest} to {most} with 90%)"
        )
        entries.append(("limit", [limit]))
    return entries


def operator_columns(found: Estimate) -> list[Column]:
    """Time by phase, operator and cause: a prefill, and one decode step."""
    rows = [
        (phase, operator, causes)
        for phase in ("prefill", "decode")
        for operator, causes in found.breakdown.get(phase, {}).items()
    ]
    causes = [cause for cause in found.breakdown["causes"] if any(cause in each for _, _, each in rows)]
    unit = unit_of(time for _, _, each in rows for time in each.values())
    return [
        Column(name="phase", cells=[phase for phase, _, _ in rows], right=False),
        Column(name="operator", cells=[operator for _, operator, _ in rows], right=False),
        *(
            Column(
                name=cause,
                unit=unit.name,
                cells=[unit.short(each[cause]) if cause in each else "" for _, _, each in rows],
            )
            for cause in causes
        ),
    ]


def product_columns(found: Estimate) -> list[Column]:
    """Every matrix product: its shape on one GPU, its work, and what bounds it."""
    rows = found.products

    def cells(name: str) -> list[str]:
        return [short(row[name]) if isinstance(row[name], (int, float)) else str(row[name]) for row in rows]

    shapes = [f"{row['m']:.0f} x {row['k']:.0f} x {row['n']:.0f}" for row in rows]
    return [
        Column(name="phase", cells=cells("phase"), right=False),
        Column(name="product", cells=cells("product"), right=False),
        Column(name="m x k x n", cells=shapes),
        Column(name="layers", cells=[f"{row['layers']:.0f}" for row in rows]),
        Column(name="GFLOP", cells=cells("gflop")),
        Column(name="FLOP/B", cells=cells("flop_per_byte")),
        Column(name="ms", cells=cells("ms")),
        Column(name="bound by", cells=cells("bound"), right=False),
    ]


def estimate_row(found: Estimate) -> dict[str, Any]:
    """One flat row, metrics beside the ends of their 90% intervals."""
    deployment = found.deployment
    row: dict[str, Any] = {
        "model": found.model.name, "cluster": str(found.cluster), "engine": deployment.engine, "dp": deployment.dp,
        "tp": deployment.tp, "pp": deployment.pp, "ep": deployment.ep, "gpus_used": deployment.num_gpus,
        "batch": found.batch, "input_len": found.input_len, "output_len": found.output_len, "dtype": deployment.dtype,
        "kv_dtype": deployment.kv_dtype, "max_num_batched_tokens": deployment.max_num_batched_tokens,
        "fits": found.fits,
    }  # fmt: skip
    for metric in METRICS:
        value = getattr(found, metric)
        low, high = (None, None) if value is None else found.interval(metric)
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    row |= {f"{part}_gib": gib for part, gib in found.memory.items()}
    return row | {
        "kv_capacity_tokens": found.kv_capacity_tokens, "max_concurrency": found.max_concurrency,
        "bottleneck": found.bottleneck, "usd_per_mtok": found.usd_per_mtok, "provenance": found.provenance,
    }  # fmt: skip
