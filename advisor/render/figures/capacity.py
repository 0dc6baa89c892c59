"""Figures of a capacity plan: how near fleets are to the limits, and what other traffic would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.capacity.fleet_options import HOURS_A_MONTH
from advisor.render.figures.vega import (
    BLUE,
    DASH,
    GREEN,
    GREY,
    ORANGE,
    PALETTE,
    RED,
    axis,
    colour,
    layer,
    panel,
    rows_axis,
    rule,
    tooltip,
)
from advisor.render.numbers import duration, limit
from advisor.render.vocabulary import METRIC_NAMES, TRAFFIC, fleet_names
from catalog.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import Change, FleetOption
    from advisor.render.document import Spec

LINE = " | "
"""Where the name of a row is broken into lines."""
WIDE = 5.0
"""Times a limit beyond which shares are drawn on a logarithmic axis."""


def closeness(answer: CapacityPlan, options: Sequence[FleetOption]) -> Spec:
    """Draw each latency that has a limit as a share of it, with its 90% interval, fleet by fleet."""
    limited = answer.slo.limits
    titles = {metric: f"{METRIC_NAMES[metric]}, limit {limit(most)}" for metric, most in limited.items()}
    fleets = list(map(_priced, fleet_names(options), options))
    rows: list[dict[str, Any]] = []
    for fleet, option in zip(fleets, options, strict=True):
        for metric, most in limited.items():
            value = option.latencies[metric]
            low, high = option.intervals.get(metric, (value, value))
            rows.append(
                {
                    "fleet": fleet,
                    "metric": titles[metric],
                    "share": value / most,
                    "low": low / most,
                    "high": high / most,
                    "text": duration(value, option.intervals.get(metric)),
                }
            )
    wide = max((row["high"] for row in rows), default=0.0) > WIDE
    x = axis("share", "share of the limit (dashed: all of it)", log=wide, format=",.0%")
    y = rows_axis("fleet", fleets)
    y["axis"]["labelExpr"] = f"split(datum.label, '{LINE}')"
    shades = colour("metric", dict(zip(titles.values(), PALETTE, strict=False)))
    offset = {"field": "metric", "type": "nominal", "sort": list(titles.values())}
    whisker = layer(
        {"type": "rule", "strokeWidth": 2},
        rows,
        x={**x, "field": "low"},
        x2={"field": "high"},
        y=y,
        yOffset=offset,
        color=shades,
    )
    point = layer(
        {"type": "point", "filled": True, "size": 110, "opacity": 1},
        rows,
        x=x,
        y=y,
        yOffset=offset,
        color=shades,
        tooltip=tooltip(fleet="fleet", metric="latency", text="expected"),
    )
    return panel(rule(x=1.0, colour=RED, dash=DASH), whisker, point)


def _priced(name: str, option: FleetOption) -> str:
    """Write a fleet and its cost, a line each for what it is, its layout and its money."""
    money = "" if option.usd_per_month is None else f"{LINE}${option.usd_per_month:,.0f} a month"
    return f"{name.replace(' as ', f'{LINE}as ', 1)}{money}"


def tornado(answer: CapacityPlan) -> Spec:
    """Draw what the best layout would need if the traffic were different: dollars a month, or GPUs where they have no price."""
    best = answer.best
    assert best is not None
    priced = best.usd_per_month is not None
    base = best.usd_per_month if best.usd_per_month is not None else float(best.gpus)
    rows: list[dict[str, Any]] = []
    for change in answer.sensitivity:
        value = _size(change, best)
        end = base if value is None else value
        rows.append(
            {
                "load": f"{TRAFFIC[change.what]} x {change.factor:g}",
                "base": base,
                "value": end,
                "right": max(end, base),
                "side": "less" if end < base else "more",
                "text": _needed(change, value, priced=priced),
            }
        )
    known = [base, *(row["value"] for row in rows)]
    reach = max(known) - min(known) or 0.5 * base
    ends = [max(min(known) - 0.1 * reach, 0.0), max(known) + 1.2 * reach]  # with room for the words, on a phone too
    title = "$ a month (dashed: as planned)" if priced else "GPUs (dashed: as planned)"
    x, y = axis("value", title, domain=ends, format=",.0f"), rows_axis("load", [row["load"] for row in rows])
    bars = layer(
        {"type": "bar"},
        rows,
        x=x,
        x2={"field": "base"},
        y=y,
        color=colour("side", {"less": GREEN, "more": ORANGE}, legend=False),
    )
    # to the left of a bar its words would lie on its name: all stand to the right of bar and base
    words = layer(
        {"type": "text", "align": "left", "dx": 5, "color": GREY},
        rows,
        x={**x, "field": "right"},
        y=y,
        text={"field": "text", "type": "nominal"},
    )
    return panel(bars, words, rule(x=base, dash=DASH))


def _size(change: Change, best: FleetOption) -> float | None:
    if best.usd_per_month is None or best.usd_per_hour is None:
        return None if change.gpus is None else float(change.gpus)
    return None if change.usd_per_hour is None else change.usd_per_hour / best.usd_per_hour * best.usd_per_month


def _needed(change: Change, value: float | None, *, priced: bool) -> str:
    if value is None:
        return "not possible with this layout"
    gpus = counted(change.gpus or 0, "GPU")
    return f"{gpus}, ${value:,.0f}" if priced else gpus


def cost_by_rate(answer: CapacityPlan) -> Spec:
    """Draw what the best layout costs against the rate, its GPUs beside each point."""
    best = answer.best
    assert best is not None
    replica = best.gpus // (best.replicas + best.spares)
    scale = best.usd_per_hour / best.gpus * HOURS_A_MONTH if best.usd_per_hour is not None else 1.0
    points = [
        (change.factor, change.replicas) for change in answer.sensitivity if change.what == "rate" and change.replicas
    ]
    rate = answer.workload.rate or 0.0
    rows = [
        {"rate": factor * rate, "cost": gpus * scale, "gpus": f"{gpus}"}
        for factor, replicas in sorted([(1.0, best.replicas), *points])
        for gpus in [(replicas + best.spares) * replica]
    ]
    x = axis("rate", "requests/s", zero=False)
    y = axis("cost", "GPUs" if best.usd_per_hour is None else "$ a month, and GPUs", format=",.0f")
    line = layer(
        {"type": "line", "interpolate": "step-before", "point": {"color": BLUE, "size": 60}, "color": BLUE},
        rows,
        x=x,
        y=y,
    )
    words = layer(
        {"type": "text", "align": "left", "dx": 6, "dy": 10, "color": GREY},
        rows,
        x=x,
        y=y,
        text={"field": "gpus", "type": "nominal"},
    )
    return panel(line, words, rule(x=rate, dash=DASH))
