"""A running deployment beside its prediction, as a document."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from advisor.render.document import Document, Section, Table
from advisor.render.lines import hardware, notes, sources_line
from advisor.render.numbers import share, short
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import METRIC_NAMES

if TYPE_CHECKING:
    from advisor.fleet.observation import MetricComparison, Observation
    from advisor.render.document import Lines


def document(answer: Observation) -> Document:
    """Return what was measured beside what was predicted, and what to change."""
    rows = FlatRows([comparison_row(comparison) for comparison in answer.comparisons])
    return Document(
        title=f"{answer.model.name} as it runs",
        question=[
            answer.model.name,
            hardware(answer.cluster),
            answer.deployment.layout,
            f"{short(answer.rate)} requests/s of {short(answer.input_len)} in / {short(answer.output_len)} out over {short(answer.seconds)} s",
        ],
        answer=sentence(answer),
        notes=notes(answer.notes),
        sections=[Section(table=Table(columns=comparison_columns(rows)), lines=_lines(answer))],
    )


def sentence(answer: Observation) -> str:
    """Say whether it runs as predicted, and which limits it misses."""
    drifted = [comparison for comparison in answer.comparisons if comparison.drifted]
    if drifted:
        names = ", ".join(f"{c.statistic} {METRIC_NAMES[c.name]} {short(c.factor)} x" for c in drifted)
        text = f"It does not run as predicted: {names} its prediction, outside the 90% interval."
    else:
        text = "It runs as predicted: all times lie within their 90% intervals."
    if answer.missed:
        text += f" Limits missed: {', '.join(f'{METRIC_NAMES[name]} {short(value)} ms' for name, value in answer.missed.items())}."
    return text


def comparison_row(comparison: MetricComparison) -> dict[str, Any]:
    """Return one flat row."""
    return {
        "metric": comparison.name,
        "statistic": comparison.statistic,
        "measured": comparison.measured,
        "predicted": comparison.predicted,
        "low": comparison.low,
        "high": comparison.high,
        "factor": comparison.factor,
        "drifted": comparison.drifted,
    }


def comparison_columns(rows: FlatRows) -> list[Column]:
    """Return one quantity a row."""
    names = [
        f"{METRIC_NAMES[name]} {statistic}"
        for name, statistic in zip(rows.values("metric"), rows.values("statistic"), strict=True)
    ]
    ends = zip(rows.values("low"), rows.values("high"), strict=True)
    return [
        Column(name="quantity", key="metric", cells=names),
        rows.column("measured", "measured", short, unit="ms"),
        rows.column("predicted", "predicted", short, unit="ms"),
        Column(name="90% interval", key="low", cells=[f"{short(low)}-{short(high)}" for low, high in ends]),
        rows.column("factor", "measured", short, unit="/ predicted"),
        Column(name="", key="drifted", cells=["drifted" if drifted else "" for drifted in rows.values("drifted")]),
    ]


def _lines(answer: Observation) -> Lines:
    loads = []
    if not math.isnan(answer.kv_share):
        loads.append(f"KV cache {share(answer.kv_share)} in use")
    if not math.isnan(answer.waiting):
        loads.append(f"{short(answer.waiting)} requests wait at a replica")
    loads.append(f"{answer.preemptions:.0f} preemptions")
    lines: list[tuple[str, list[str]]] = [("load", [", ".join(loads)])]
    lines += [("do", list(answer.advice))] if answer.advice else []
    return [*lines, ("source", sources_line([answer.provenance]))]
