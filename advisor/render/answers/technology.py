"""An exploration of technology as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.document import Document, Figure, Section, Table
from advisor.render.figures.technology import sweep_curve
from advisor.render.lines import hardware, notes
from advisor.render.numbers import count, share, short, span, unit_of
from advisor.render.tables import Column, FlatRows
from catalog.models.sizes import parameters

if TYPE_CHECKING:
    from advisor.render.document import Lines
    from advisor.technology.exploration import Exploration

TIMES = {"inference": "an output token", "training": "a step"}


def document(answer: Exploration) -> Document:
    """Return a sweep, or two generations taken apart."""
    apart = bool(answer.factors)
    figures = [] if apart else [_figure(answer)]
    columns = _factor_columns(answer) if apart else _columns(answer)
    title = f"From {answer.sweep}" if apart else f"{answer.sweep} swept"
    section = Section(title=title, table=Table(columns=columns), lines=_lines(answer), figures=figures)
    return Document(
        title=f"{answer.model.name} on {answer.cluster}: technology",
        question=[
            f"{answer.model.name}  {count(parameters(answer.model))}",
            hardware(answer.cluster),
            f"{answer.task}, {answer.sweep}",
        ],
        notes=notes(answer.notes),
        sections=[section],
    )


def sentence(answer: Exploration) -> str:
    """Say which variant is fastest and what then bounds it, or what the other generation gains."""
    lines = dict(_lines(answer))
    said = lines.get("speed") or lines["best"] or ["It fits on none of them"]
    return f"{said[0][:1].upper()}{said[0][1:]}."


def _figure(answer: Exploration) -> Figure:
    return Figure(
        name=f"{answer.sweep}-sweep",
        caption=f"Time of {TIMES[answer.task]} by {answer.axis}, with 90% bands",
        make=lambda: sweep_curve(answer),
    )


def _columns(answer: Exploration) -> list[Column]:
    unit = unit_of(point.ms for point in answer.points)
    rows = FlatRows(
        [
            {
                "label": point.label + ("*" if point.extrapolated else ""),
                "ms": point.ms,
                "interval": "-" if point.ms is None else unit.span(point.low or 0.0, point.high or 0.0),
                "bottleneck": point.bottleneck,
                "share": point.shares.get(point.bottleneck, 0.0),
                "limit": point.limit or "-",
                **point.gpu,
            }
            for point in answer.points
        ]
    )
    return [
        rows.text("label", answer.sweep),
        rows.column("fp16_tflops", "16 bits", short, unit="TFLOP/s", rank=2),
        rows.column("memory_bandwidth_gbps", "memory", short, unit="GB/s", rank=2),
        rows.column("memory_gib", "memory", short, unit="GiB", rank=3),
        rows.column("ms", TIMES[answer.task], unit.short, unit=unit.name),
        rows.column("interval", "90% interval", rank=1),
        rows.text("bottleneck", "bound by"),
        rows.column("share", "share", share, rank=2),
        rows.text("limit", "arithmetic by", rank=3 if answer.sweep == "node" else 99),
    ]


def _factor_columns(answer: Exploration) -> list[Column]:
    rows = FlatRows(answer.rows())
    return [rows.text("factor", "change"), rows.column("speedup", "speed-up", short, unit="x")]


def _lines(answer: Exploration) -> Lines:
    if answer.speedup is not None:
        product = " x ".join(short(value) for value in answer.factors.values())
        total = f"{short(answer.speedup)} x in all = {product}, each averaged over all orders of the changes"
        return [("speed", [total])]
    known = [point for point in answer.points if point.ms is not None]
    ends = ""
    if known:
        fastest = min(known, key=lambda point: point.ms or 0.0)
        unit = unit_of([fastest.ms])
        interval = span(unit.of(fastest.low or 0.0), unit.of(fastest.high or 0.0))
        ends = (
            f"fastest: {fastest.label}, {unit.short(fastest.ms)} {interval} {unit.name}, bound by {fastest.bottleneck}"
        )
    moves = [f"{before} to {after} at {label}" for before, after, label in answer.shifts]
    turn = "" if answer.turn is None else f"from {short(answer.turn)} {answer.axis} on, doubling it saves less than 30%"
    return [
        ("best", [ends] if ends else []),
        ("moves", moves or ["the bottleneck does not change"]),
        ("turn", [turn] if turn else []),
    ]
