"""Figures of measured runs: panels of curves by batch (``advisor.render.measured.charts``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.render.figures.vega import DASH, DOT, GREY, PALETTE, SHAPES, axis, layer, note, panel, rule

if TYPE_CHECKING:
    from advisor.render.document import Spec
    from advisor.render.measured.charts import Chart, Panel

HUES = {
    "TP1 PP1": ("#444444", "circle"),
    "TP2 PP1": ("#0072B2", "circle"),
    "TP4 PP1": ("#56B4E9", "circle"),
    "TP8 PP1": ("#004D73", "circle"),
    "TP1 PP2": ("#D55E00", "square"),
    "TP1 PP4": ("#E69F00", "square"),
    "TP2 PP2": ("#009E73", "diamond"),
    "TP4 PP2": ("#CC79A7", "diamond"),
}
"""Colour and marker of the common layouts, the same in every figure; others take from the palette by turns."""
STYLES = {"solid": [1, 0], "dashed": DASH, "dotted": DOT}
PERCENT: dict[str, Any] = {"format": ".1%"}
WIDTH, HEIGHT = 300, 220
"""Of a panel, in pixels."""


def chart_spec(chart: Chart) -> Spec:
    """Draw a chart: its panels row by row under its title and note."""
    hues = _hues(chart)
    rows = [{"hconcat": [_panel(panel, hues) for panel in row if panel is not None]} for row in chart.rows]
    return {
        "title": {
            "text": chart.title,
            "subtitle": chart.note,
            "anchor": "start",
            "fontSize": 15,
            "subtitleColor": GREY,
        },
        "vconcat": rows,
    }


def _hues(chart: Chart) -> dict[str, tuple[str, str]]:
    panels = [panel for row in chart.rows for panel in row if panel]
    names = dict.fromkeys(curve.hue for panel in panels for curve in panel.curves)
    names |= dict.fromkeys(mark.hue for panel in panels for mark in panel.marks)
    others = [name for name in names if name not in HUES]
    more = {name: (PALETTE[i % len(PALETTE)], SHAPES[i % len(SHAPES)]) for i, name in enumerate(others)}
    return {name: HUES[name] for name in names if name in HUES} | more


def _panel(shown: Panel, hues: dict[str, tuple[str, str]]) -> Spec:
    rows: list[dict[str, Any]] = [
        {"x": float(x), "y": float(y), "hue": curve.hue, "curve": i, "style": curve.style}
        for i, curve in enumerate(shown.curves)
        for x, y in zip(curve.x, curve.y, strict=True)
        if not shown.log or y > 0
    ]
    x = axis("x", shown.xlabel, log=True, format=",d")
    x["scale"] |= {"base": 2, "nice": False}
    y = axis("y", shown.ylabel, log=shown.log, **(PERCENT if shown.percent else {}))
    scale = {"domain": list(hues), "range": [colour for colour, _ in hues.values()]}
    shapes = {"domain": list(hues), "range": [shape for _, shape in hues.values()]}
    legend = {"orient": "right", "title": None}
    color = {"field": "hue", "type": "nominal", "scale": scale, "legend": legend}
    dashes = {"domain": list(STYLES), "range": list(STYLES.values())}
    lines = layer(
        {"type": "line", "strokeWidth": 1.8},
        rows,
        x=x,
        y=y,
        color=color,
        detail={"field": "curve", "type": "nominal"},
        strokeDash={"field": "style", "type": "nominal", "scale": dashes, "legend": None},
    )
    marked = [row for row in rows if shown.curves[row["curve"]].marked]
    shape = {"field": "hue", "type": "nominal", "scale": shapes, "legend": legend}
    points = layer(
        {"type": "point", "filled": True, "size": 40, "opacity": 1}, marked, x=x, y=y, color=color, shape=shape
    )
    ends = [{"x": mark.x, "y": mark.y, "hue": mark.hue, "kind": mark.kind} for mark in shown.marks]
    oom = layer(
        {"type": "point", "shape": "M-1,-1L1,1M-1,1L1,-1", "size": 90, "strokeWidth": 2.5},
        [row for row in ends if row["kind"] == "oom"],
        x=x,
        y=y,
        color=color,
    )
    full = layer(
        {"type": "point", "shape": "circle", "size": 70, "filled": False, "strokeWidth": 1.5},
        [row for row in ends if row["kind"] == "full"],
        x=x,
        y=y,
        color=color,
    )
    level = [] if shown.level is None else [rule(y=shown.level, dash=DASH), note(shown.level_label, y=shown.level)]
    return panel(*level, lines, points, oom, full, title=shown.title, width=WIDTH, height=HEIGHT)
