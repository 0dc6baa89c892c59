"""One deployment's estimate as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.prediction.estimate_row import METRICS, weights_gib
from advisor.render.answers.speculation import decode_speculation_lines
from advisor.render.document import Document, Section, Table
from advisor.render.lines import corrected_line, cost_line, energy_line, hardware, memory_line, notes, sources_line
from advisor.render.numbers import RATE, count, share, short, unit_of
from advisor.render.tables import Column, FlatRows, quantity_columns
from advisor.render.vocabulary import E2E, TPOT, TTFT
from catalog.engines import engine_name
from catalog.models.sizes import parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.render.document import Lines

QUANTITIES = {
    "output_tok_s": "output tokens",
    "output_tok_s_per_gpu": "output tokens per GPU",
    "ttft_ms": f"{TTFT}, mean",
    "tpot_ms": f"{TPOT}, mean",
    "prefill_ms": "prefill of the batch",
    "e2e_ms": f"{E2E} of the batch",
}


def document(estimate: Estimate, *, products: bool = False, relax: Sequence[str] = ()) -> Document:
    """Return the whole answer; ``products`` shows the matrix products, ``relax`` says what would fit where this does not."""
    metrics = Table(columns=metric_columns(estimate)) if estimate.fits else None
    sections = [Section(title="Answer", table=metrics, lines=[*_lines(estimate), ("relax", relax)])]
    table = Table(columns=operator_columns(estimate), whole=True)
    sections.append(Section(title="One request's time by operator", table=table, detail=True))
    if products:
        title = "Matrix products of one GPU, prefill pass and decode step"
        sections.append(Section(title=title, table=Table(columns=product_columns(estimate), whole=True), heading=True))
    return Document(
        title=f"{estimate.model.name} on {estimate.cluster}",
        question=_question(estimate),
        alarm="" if estimate.fits else "will not start" if estimate.kv_capacity_tokens else "does not fit",
        notes=notes(estimate.notes),
        sections=sections,
    )


def _question(estimate: Estimate) -> list[str]:
    deployment = estimate.deployment
    used = f" ({deployment.num_gpus} of {estimate.cluster.num_gpus} GPUs)"
    batch = f"batch {estimate.batch}{' per replica' if deployment.dp > 1 else ''}"
    return [
        f"{estimate.model.name}  {count(parameters(estimate.model))}  {deployment.dtype} {short(weights_gib(estimate))} GiB",
        hardware(estimate.cluster),
        engine_name(deployment),
        deployment.layout + (used if deployment.num_gpus < estimate.cluster.num_gpus else ""),
        f"{batch}, {estimate.input_len} in / {estimate.output_len} out, all at once",
    ]


def metric_columns(estimate: Estimate) -> list[Column]:
    """Return the quantities, one a row, with their intervals."""
    rows = []
    for metric in METRICS:
        value = getattr(estimate, metric)
        unit = unit_of([value]) if metric.endswith("_ms") else RATE
        interval = "-" if value is None else unit.span(*estimate.interval(metric))
        rows.append(
            {"quantity": QUANTITIES[metric], "value": unit.short(value), "unit": unit.name, "interval": interval}
        )
    return quantity_columns(rows)


def _lines(estimate: Estimate) -> Lines:
    cost = cost_line(estimate.usd_per_mtok, estimate.price)
    lines: list[tuple[str, Sequence[str]]] = []
    if estimate.fits:
        causes = estimate.breakdown["causes"]
        total = sum(causes.values()) or 1.0
        ranked = sorted(causes.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{cause} {share(time / total)}" for cause, time in ranked if time / total >= 0.005)
        turn = f"weight products turn from memory- to compute-bound at about {short(estimate.turning_batch)} sequences per replica"
        lines.append(("why", [f"{estimate.bottleneck} bounds a request: {shares}", turn]))
    if estimate.speculation is not None:
        without = "the table and the cost are without drafts"
        lines.append(("draft", [*decode_speculation_lines(estimate.speculation), without]))
    lines += [("memory", [memory_line(estimate.memory)]), ("cost", [cost] if cost else [])]
    if estimate.energy_j_per_token is not None:
        lines.append(("energy", [energy_line(estimate.energy_j_per_token, estimate.interval("energy_j_per_token"))]))
    if estimate.fits:
        lines.append(("source", [*sources_line([estimate.provenance]), *corrected_line(estimate.corrected_by)]))
        length, (fewest, most) = estimate.input_len + estimate.output_len, estimate.kv_capacity_ends
        ends = ", as measured" if fewest == most else f"; {fewest} to {most} with 90%"
        limit = (
            f"KV cache full above batch {estimate.max_concurrency} per replica at {length} tokens a request "
            f"({estimate.kv_capacity_tokens} tokens{ends})"
        )
        lines.append(("limit", [limit]))
    return lines


def operator_columns(estimate: Estimate) -> list[Column]:
    """Return time by phase, operator and cause: a prefill, and one decode step."""
    flat: list[dict[str, Any]] = [
        {"phase": phase, "operator": operator, **causes}
        for phase in ("prefill", "decode")
        for operator, causes in estimate.breakdown.get(phase, {}).items()
    ]
    rows = FlatRows(flat)
    causes = [cause for cause in estimate.breakdown["causes"] if any(cause in row for row in flat)]
    unit = unit_of(row.get(cause) for row in flat for cause in causes)
    columns = [rows.text("phase", "phase"), rows.text("operator", "operator")]
    return columns + [
        rows.column(cause, cause, lambda time: "" if time is None else unit.short(time), unit=unit.name)
        for cause in causes
    ]


def product_columns(estimate: Estimate) -> list[Column]:
    """Return every matrix product: its shape on one GPU, its work, and what bounds it."""
    rows = FlatRows(
        [{**row, "shape": f"{row['m']:.0f} x {row['k']:.0f} x {row['n']:.0f}"} for row in estimate.products]
    )
    return [
        rows.text("phase", "phase"),
        rows.text("product", "product"),
        rows.column("shape", "m x k x n"),
        rows.column("layers", "layers", "{:.0f}".format),
        rows.column("gflop", "GFLOP", short),
        rows.column("flop_per_byte", "FLOP/B", short),
        rows.column("ms", "ms", short),
        rows.text("bound", "bound by"),
    ]
