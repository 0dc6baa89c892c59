"""A fleet's plan as a document: what runs where, what it costs, what binds, what others would cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from advisor.render.document import Document, Section, Table
from advisor.render.lines import measurements_line, notes, sources_line
from advisor.render.numbers import dollars, duration, share, short
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import METRIC_NAMES
from catalog.schema import LATENCIES
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.fleet.fleet_plan import FleetPlan, Placement
    from advisor.render.document import Lines


def document(answer: FleetPlan) -> Document:
    """Return the whole plan."""
    rows = FlatRows([row(place) for place in answer.placements])
    sections = [Section(title="What runs where", table=Table(columns=placement_columns(rows)), lines=_lines(answer))]
    if answer.question.hours > 1:
        sections.append(
            Section(title="GPUs by hour", table=Table(columns=hour_columns(answer)), heading=True, detail=True)
        )
    sections.append(Section(title="Marginal prices", lines=_marginals(answer)))
    return Document(
        title=f"A fleet of {counted(len(answer.question.models), 'model')}",
        question=_question(answer),
        answer=sentence(answer),
        notes=notes(answer.notes),
        sections=sections,
    )


def row(place: Placement) -> dict[str, Any]:
    """Return one flat row of a placement."""
    cells: dict[str, Any] = {
        "model": place.model,
        "pool": place.pool,
        "gpu": place.gpu,
        "engine": place.deployment.engine,
        "layout": place.deployment.parallelism,
        "dtype": place.deployment.dtype,
        "gpus_a_replica": place.gpus_a_replica,
        "replicas_most": max(place.replicas),
        "replicas_least": min(place.replicas),
        "gpus_most": max(place.replicas) * place.gpus_a_replica,
        "capacity_s": place.capacity_s,
        "usd_per_month": place.usd_per_month,
    }
    for name, value in place.latencies.items():
        cells[name] = value
        if place.intervals:
            cells[f"{name}_low"], cells[f"{name}_high"] = place.intervals[name]
    return cells | {"meets": place.meets, "provenance": place.provenance}


def placement_columns(rows: FlatRows) -> list[Column]:
    """Return one placement a row."""
    return [
        rows.text("model", "model"),
        rows.text("pool", "pool"),
        rows.text("layout", "layout"),
        Column(
            name="replicas",
            key="replicas_most",
            cells=[
                str(most) if most == least else f"{least}-{most}"
                for least, most in zip(rows.values("replicas_least"), rows.values("replicas_most"), strict=True)
            ],
        ),
        rows.column("gpus_most", "GPUs", unit="at most"),
        rows.column("capacity_s", "carries", short, unit="req/s each", rank=2),
        rows.column("usd_per_month", "$", "{:,.0f}".format, unit="a month"),
        *(rows.time(name, METRIC_NAMES[name], rank=rank) for name, rank in zip(LATENCIES, (3, 4, 5), strict=True)),
    ]


def hour_columns(answer: FleetPlan) -> list[Column]:
    """Return one part of the time a row, with the GPUs of each pool."""
    hours = range(answer.question.hours)
    table = [Column(name="part", key="hour", cells=[str(hour + 1) for hour in hours])]
    for pool in answer.question.pools:
        used = answer.used(pool.label)
        if any(used):
            unit = "" if pool.count is None else f"of {pool.count}"
            table.append(Column(name=pool.label, key=pool.label, unit=unit, cells=[str(gpus) for gpus in used]))
    return table


def sentence(answer: FleetPlan) -> str:
    """Say the cost and what holds, or what would have to give."""
    models = counted(len(answer.question.models), "model")
    if not answer.meets:
        return f"No fleet keeps all limits of {models}. To relax: {'; or '.join(answer.relaxations)}."
    gpus = max(sum(parts) for parts in zip(*(answer.used(pool.label) for pool in answer.question.pools), strict=True))
    text = f"{models} on at most {counted(gpus, 'GPU')} for ${answer.usd_per_month:,.0f} a month"
    if answer.fixed_usd_per_month:
        text += f", ${answer.fixed_usd_per_month:,.0f} of it for owned and reserved GPUs"
    return f"{text}: every replica keeps its limits with {answer.question.confidence:.0%}."


def _question(answer: FleetPlan) -> list[str]:
    question = answer.question
    parts = [
        counted(len(question.models), "model"),
        ", ".join(f"{pool.count} x {pool.label}" if pool.count is not None else pool.label for pool in question.pools),
    ]
    parts += [f"{counted(question.hours, 'part')} of the time"] if question.hours > 1 else []
    parts += [f"headroom {share(question.headroom)}"] if question.headroom else []
    parts += [f"{question.spares} of each model may fail"] if question.spares else []
    return parts


def _lines(answer: FleetPlan) -> Lines:
    money = [f"${answer.usd_per_month:,.0f} a month, at most {share(answer.gap)} above the proven minimum"]
    if answer.fixed_usd_per_month:
        rented = answer.usd_per_month - answer.fixed_usd_per_month
        money.append(
            f"${answer.fixed_usd_per_month:,.0f} of it whether used or not, ${rented:,.0f} of it rented by the hour"
        )
    lines: list[tuple[str, Sequence[str]]] = [("cost", money)]
    others = [f"{gpu} alone: {_month(usd)}" for gpu, usd in answer.single_type.items() if len(answer.single_type) > 1]
    others += [f"each model planned alone, on the cheapest type left for it: {_month(answer.one_type_a_model)}"]
    lines.append(("instead", others))
    slow = [
        f"{place.model} on {place.pool}: {', '.join(_latency(place, name) for name in LATENCIES)}"
        for place in answer.placements
        if not place.meets
    ]
    if slow:
        lines.append(("missed", slow))
    if answer.relaxations:
        lines.append(("relax", answer.relaxations))
    provenances = [place.provenance for place in answer.placements]
    lines += measurements_line(answer.measurements)
    return [*lines, ("source", sources_line(provenances, (place.gpu for place in answer.placements)))]


def _latency(place: Placement, name: str) -> str:
    return f"{METRIC_NAMES[name]} {duration(place.latencies[name], place.intervals.get(name))}"


def _month(usd: float | None) -> str:
    return "not feasible" if usd is None else f"${usd:,.0f} a month of what is rented by the hour"


def _marginals(answer: FleetPlan) -> Lines:
    """Say what one more request a second costs, and what one more GPU would save, at the busiest part of the time."""
    question, prices = answer.question, answer.marginals
    if any(math.isnan(usd) for usd in prices.usd_a_request_s):
        return []
    more = [
        f"one more request/s of {model.label} costs {dollars(usd)} an hour"
        for model, usd in zip(question.models, prices.usd_a_request_s, strict=True)
        if usd >= 0.005
    ]
    saved = [
        f"one more GPU in {pool.label} saves {dollars(usd)} an hour"
        for pool, usd in zip(question.pools, prices.usd_a_gpu, strict=True)
        if usd >= 0.005
    ]
    return [("marginal", [*more, *saved])] if more or saved else []
