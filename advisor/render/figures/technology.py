"""The figure of a sweep over technology: time with its band, and what it is bound by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.figures.vega import BLUE, CAUSES, DASH, GREY, axis, colour, layer, note, panel, rule, tooltip
from advisor.render.numbers import unit_of

if TYPE_CHECKING:
    from advisor.render.document import Spec
    from advisor.technology.exploration import Exploration


def sweep_curve(answer: Exploration) -> Spec:
    """Draw the time over the swept quantity, with the band in which 90% are expected and the turn where there is one."""
    unit = unit_of(point.ms for point in answer.points)
    rows = [
        {
            "x": point.x,
            "value": unit.of(point.ms),
            "low": unit.of(point.low or 0.0),
            "high": unit.of(point.high or 0.0),
            "bound": point.bottleneck,
            "text": f"{point.label}: {unit.short(point.ms)} {unit.name}",
        }
        for point in answer.points
        if point.ms is not None
    ]
    x = axis("x", answer.axis, log=True, sort="descending" if answer.sweep == "node" else "ascending")
    y = axis("value", f"time, {unit.name}", log=True)
    band = layer(
        {"type": "area", "opacity": 0.25, "color": BLUE},
        rows,
        x=x,
        y=axis("low", f"time, {unit.name}", log=True),
        y2={"field": "high"},
    )
    line = layer({"type": "line", "color": BLUE}, rows, x=x, y=y)
    dots = layer(
        {"type": "point", "filled": True, "size": 70},
        rows,
        x=x,
        y=y,
        color=colour("bound", {**CAUSES, "capacity": GREY}),
        tooltip=tooltip(text="point", bound="bound by"),
    )
    turned = answer.turn is not None
    return panel(
        band,
        line,
        dots,
        rule(x=answer.turn, dash=DASH) if turned else None,
        note("more saves little from here", x=answer.turn) if turned else None,
    )
