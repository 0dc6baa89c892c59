"""Figures of deployments over the batch: metrics with their bands, memory up to its end, and where time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.render.figures.vega import (
    BLUE,
    CAUSES,
    DASH,
    DOT,
    MEMORY,
    ORANGE,
    RED,
    axis,
    colour,
    layer,
    note,
    panel,
    rule,
    tooltip,
)
from advisor.render.numbers import RATE, share, short, unit_of
from advisor.render.vocabulary import MEMORY_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.prediction.batch_curve import Curve
    from advisor.render.document import Spec
    from catalog.units import Array

COLOURS = (BLUE, ORANGE)
"""Of the deployment explored, and of the one it is compared with."""
BATCHES = [2**power for power in range(13)]


def _by_batch() -> dict[str, Any]:
    x = axis("batch", "batch (sequences at once per replica)", log=True, format="d")
    x["axis"] |= {"values": BATCHES, "labelOverlap": True}
    return x


def curves(shown: Sequence[tuple[str, Curve]], metric: str, *, title: str, batch: int, log: bool) -> Spec:
    """Draw one metric over the batch, with the band in which 90% are expected.

    Args:
        shown: one or two deployments with their names.
        metric: a key of ``Curve.metrics``.
        title: of the vertical axis; a latency's unit comes behind it.
        batch: where the reader looks now.
        log: a logarithmic vertical axis, for what spans decades.

    """
    unit = RATE
    if metric.endswith("_ms"):
        unit = unit_of(float(curve.metrics[metric].max()) for _, curve in shown)
        title = f"{title}, {unit.name}"
    rows = [
        {
            "name": name,
            "batch": int(at),
            "value": unit.of(float(value)),
            "low": unit.of(float(low)),
            "high": unit.of(float(high)),
            "text": f"{unit.short(float(value))} {unit.span(float(low), float(high))}",
        }
        for name, curve in shown
        for at, value, low, high in zip(
            curve.batches, curve.metrics[metric], curve.low[metric], curve.high[metric], strict=True
        )
    ]
    x, y = _by_batch(), axis("value", title, log=log)
    shades = colour("name", dict(zip([name for name, _ in shown], COLOURS, strict=False)), legend=len(shown) > 1)
    band = layer(
        {"type": "area", "opacity": 0.2}, rows, x=x, y={**y, "field": "low"}, y2={"field": "high"}, color=shades
    )
    line = layer({"type": "line", "strokeWidth": 2}, rows, x=x, y=y, color=shades)
    points = layer(
        {"type": "point", "size": 200, "opacity": 0},
        rows,
        x=x,
        y=y,
        color=shades,
        tooltip=tooltip(name="deployment", batch="batch", text=title),
    )
    full = [
        rule(x=curve.full_batch, colour=shade, dash=DASH)
        for (_, curve), shade in zip(shown, COLOURS, strict=False)
        if curve.full_batch
    ]
    return panel(band, *_turn(shown[0][1]), rule(x=batch), *full, line, points)


def _turn(curve: Curve) -> list[Spec]:
    """Mark where weight products turn from memory- to compute-bound, if that is in sight."""
    return [rule(x=curve.turning_batch, colour=RED, dash=DOT)] if curve.turning_batch <= curve.batches[-1] else []


def _areas(curve: Curve, values: Mapping[str, Array], colours: Mapping[str, str], y: dict[str, Any], hint: Any) -> Spec:
    """Draw values by part, stacked in the order of ``colours``; ``hint`` writes one of them."""
    rows = [
        {"batch": int(at), "part": part, "rank": rank, "value": float(value), "text": hint(float(value))}
        for rank, part in enumerate(colours)
        for at, value in zip(curve.batches, values[part], strict=True)
    ]
    return layer(
        {"type": "area", "line": False},
        rows,
        x=_by_batch(),
        y={**y, "stack": "zero"},
        color=colour("part", colours),
        order={"field": "rank", "type": "quantitative"},
        tooltip=tooltip(part="part", batch="batch", text=y["axis"]["title"]),
    )


def memory_areas(curve: Curve, batch: int) -> Spec:
    """Draw GiB on the fullest GPU by part, stacked over the batch, up to where the cache is full and the GPU ends."""
    device = curve.device_gib
    y = axis("value", "GiB on the fullest GPU", domain=[0.0, device * 1.12])
    values = {MEMORY_PARTS[part]: curve.memory[part] for part in MEMORY}
    colours = {MEMORY_PARTS[part]: shade for part, shade in MEMORY.items()}
    ends = [rule(y=device, colour=RED), note(f"{short(device)} GiB", y=device, colour=RED), rule(x=batch)]
    if curve.full_batch:
        ends += [
            rule(x=curve.full_batch, colour=RED, dash=DASH),
            note(f"cache full at {curve.full_batch}", x=curve.full_batch, y=device, colour=RED, align="right", dx=-4),
        ]
    return panel(_areas(curve, values, colours, y, lambda gib: f"{short(gib)} GiB"), *ends)


def cause_areas(curve: Curve, batch: int) -> Spec:
    """Draw the share of a request's time by cause, over the batch, and where weight products turn compute-bound."""
    total = sum(curve.causes.values())
    shares = {cause: curve.causes[cause] / total for cause in CAUSES}
    y = axis("value", "share of a request's time", domain=[0, 1], format=".0%")
    return panel(_areas(curve, shares, CAUSES, y, share), *_turn(curve), rule(x=batch))
