"""What one or two deployments look like over the batch: curves with their bands, and memory up to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.render.numbers import short, unit_of
from app.figures import BLUE, CAUSES, GREY, ORANGE, PARTS, RED, faint, made, upright

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    import advisor

COLOURS = (BLUE, ORANGE)
"""Of the deployment explored, and of the one it is compared with."""
BY_BATCH = {
    "title": "batch (sequences at once per replica)", "type": "log", "tickvals": [2**power for power in range(13)],
    "hoverformat": ",.0f", "unifiedhovertitle": {"text": "batch %{x}"},
}  # fmt: skip
"""The horizontal axis."""


def curves(shown: Sequence[tuple[str, advisor.Curve]], metric: str, *, title: str, batch: int, log: bool) -> go.Figure:
    """One metric over the batch, with the band in which 90% are expected.

    Args:
        shown: one or two deployments with their names.
        metric: a key of ``Curve.metrics``.
        title: of the vertical axis; a latency's unit comes behind it.
        batch: where the reader looks now.
        log: a logarithmic vertical axis, for what spans decades.

    """
    traces: list[dict[str, Any]] = []
    lines = [*_turn(shown[0][1]), upright(batch, GREY)]
    unit = None
    if metric.endswith("_ms"):
        unit = unit_of(float(curve.metrics[metric].max()) for _, curve in shown)
        title = f"{title}, {unit.name}"
    for (name, curve), colour in zip(shown, COLOURS, strict=False):
        value, low, high = (
            each[metric] / (unit.size if unit else 1.0) for each in (curve.metrics, curve.low, curve.high)
        )
        traces += [
            {
                "type": "scatter", "x": np.concatenate([curve.batches, curve.batches[::-1]]),
                "y": np.concatenate([high, low[::-1]]), "fill": "toself", "fillcolor": faint(colour),
                "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": name,
            },
            {
                "type": "scatter", "x": curve.batches, "y": value, "mode": "lines",
                "line": {"color": colour, "width": 2}, "name": name, "legendgroup": name,
                "customdata": np.stack([low, high], axis=1),
                "hovertemplate": "%{y:.4~g} (%{customdata[0]:.3~g} to %{customdata[1]:.3~g})",
            },
        ]  # fmt: skip
        lines += [upright(curve.full_batch, colour, "dash")] if curve.full_batch else []
    vertical = {"title": title, **({"type": "log"} if log else {"rangemode": "tozero"})}
    return made(traces, x=BY_BATCH, y=vertical, shapes=lines, hovermode="x unified", showlegend=len(shown) > 1)


def _turn(curve: advisor.Curve) -> list[dict[str, Any]]:
    """Where weight products turn from memory- to compute-bound, if that is in sight."""
    return [upright(curve.turning_batch, RED, "dot")] if curve.turning_batch <= curve.batches[-1] else []


def _area(curve: advisor.Curve, values: Any, name: str, colour: str, shown: str) -> dict[str, Any]:
    return {
        "type": "scatter", "x": curve.batches, "y": values, "stackgroup": "all", "mode": "lines", "name": name,
        "line": {"width": 0.5, "color": colour}, "fillcolor": colour, "hovertemplate": shown,
    }  # fmt: skip


def memory_areas(curve: advisor.Curve, batch: int) -> go.Figure:
    """GiB on the fullest GPU by part, stacked over the batch, up to where the cache is full and the GPU ends."""
    device = curve.device_gib
    words: dict[str, Any] = {"showarrow": False, "yanchor": "bottom", "y": device, "font": {"color": RED}}
    notes = [{**words, "x": 0, "xref": "paper", "xanchor": "left", "text": f"{short(device)} GiB"}]
    end = {
        "type": "line", "x0": 0, "x1": 1, "xref": "x domain", "y0": device, "y1": device, "line": {"color": RED, "width": 2},
    }  # fmt: skip
    lines = [end, upright(batch, GREY)]
    if curve.full_batch:
        lines.append(upright(curve.full_batch, RED, "dash"))
        at = float(np.log10(curve.full_batch))
        notes.append({**words, "x": at, "xanchor": "right", "text": f"cache full at {curve.full_batch} "})
    return made(
        [_area(curve, curve.memory[part], name, colour, "%{y:.3~g} GiB") for part, (name, colour) in PARTS.items()],
        x=BY_BATCH, y={"title": "GiB on the fullest GPU", "range": [0, device * 1.1]}, shapes=lines, annotations=notes,
        hovermode="x unified",
    )  # fmt: skip


def cause_areas(curve: advisor.Curve, batch: int) -> go.Figure:
    """Share of a request's time by cause, over the batch, and where weight products turn compute-bound."""
    total = sum(curve.causes.values())
    return made(
        [_area(curve, curve.causes[cause] / total, cause, colour, "%{y:.0%}") for cause, colour in CAUSES.items()],
        x=BY_BATCH, y={"title": "share of a request's time", "range": [0, 1], "tickformat": ".0%"},
        shapes=[*_turn(curve), upright(batch, GREY)], hovermode="x unified",
    )  # fmt: skip
