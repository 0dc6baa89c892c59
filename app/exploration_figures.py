"""What one or two deployments look like over the batch: curves with their bands, and memory up to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from advisor.report.numbers import short
from app.figures import BLUE, CAUSES, GREY, ORANGE, PARTS, RED, faint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import advisor

COLOURS = (BLUE, ORANGE)
"""Of the deployment explored, and of the one it is compared with."""


def curves(shown: Sequence[tuple[str, advisor.Curve]], metric: str, *, title: str, batch: int, log: bool) -> go.Figure:
    """One metric over the batch, with the band in which 90% are expected.

    Args:
        shown: one or two deployments with their names.
        metric: a key of ``Curve.metrics``.
        title: of the vertical axis, with its unit.
        batch: where the reader looks now.
        log: a logarithmic vertical axis, for what spans decades.

    """
    figure = go.Figure()
    for (name, curve), colour in zip(shown, COLOURS, strict=False):
        low, high, middle = curve.low[metric], curve.high[metric], curve.metrics[metric]
        figure.add_scatter(
            x=np.concatenate([curve.batches, curve.batches[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself",
            fillcolor=faint(colour), line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name,
        )  # fmt: skip
        figure.add_scatter(
            x=curve.batches, y=middle, mode="lines", line={"color": colour, "width": 2}, name=name, legendgroup=name,
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:.4~g} (%{customdata[0]:.3~g} to %{customdata[1]:.3~g})",
        )  # fmt: skip
        if curve.full_batch:
            _upright(figure, curve.full_batch, colour, "dash")
    _turn(figure, shown[0][1])
    _upright(figure, batch, GREY, "solid")
    _by_batch(figure)
    figure.update_layout(showlegend=len(shown) > 1)
    figure.update_yaxes(title=title, **({"type": "log"} if log else {"rangemode": "tozero"}))
    return figure


def _turn(figure: go.Figure, curve: advisor.Curve) -> None:
    """Where weight products turn from memory- to compute-bound, if that is in sight."""
    if curve.turning_batch <= curve.batches[-1]:
        _upright(figure, curve.turning_batch, RED, "dot")


def _upright(figure: go.Figure, x: float, colour: str, dash: str) -> None:
    figure.add_vline(x, line={"color": colour, "dash": dash, "width": 1.5})


def _by_batch(figure: go.Figure) -> None:
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(
        title="batch (sequences at once per replica)", type="log", tickvals=[2**power for power in range(13)],
        hoverformat=",.0f", unifiedhovertitle={"text": "batch %{x}"},
    )  # fmt: skip


def memory_areas(curve: advisor.Curve, batch: int) -> go.Figure:
    """GiB on the fullest GPU by part, stacked over the batch, up to where the cache is full and the GPU ends."""
    figure = go.Figure()
    for part, (name, colour) in PARTS.items():
        figure.add_scatter(
            x=curve.batches, y=curve.memory[part], stackgroup="memory", mode="lines", name=name,
            line={"width": 0.5, "color": colour}, fillcolor=colour, hovertemplate="%{y:.3~g} GiB",
        )  # fmt: skip
    figure.add_hline(curve.device_gib, line={"color": RED, "width": 2})
    figure.add_annotation(
        x=0, xref="paper", y=curve.device_gib, text=f"{short(curve.device_gib)} GiB", showarrow=False,
        xanchor="left", yanchor="bottom", font={"color": RED},
    )  # fmt: skip
    if curve.full_batch:
        _upright(figure, curve.full_batch, RED, "dash")
        figure.add_annotation(
            x=np.log10(curve.full_batch), y=curve.device_gib, text=f"cache full at {curve.full_batch} ", showarrow=False,
            xanchor="right", yanchor="bottom", font={"color": RED},
        )  # fmt: skip
    _upright(figure, batch, GREY, "solid")
    _by_batch(figure)
    figure.update_yaxes(title="GiB on the fullest GPU", range=[0, curve.device_gib * 1.1])
    return figure


def cause_areas(curve: advisor.Curve, batch: int) -> go.Figure:
    """Share of a request's time by cause, over the batch, and where weight products turn compute-bound."""
    figure = go.Figure()
    total = sum(curve.causes.values())
    for cause, colour in CAUSES.items():
        figure.add_scatter(
            x=curve.batches, y=curve.causes[cause] / total, stackgroup="time", mode="lines", name=cause,
            line={"width": 0.5, "color": colour}, fillcolor=colour, hovertemplate="%{y:.0%}",
        )  # fmt: skip
    _turn(figure, curve)
    _upright(figure, batch, GREY, "solid")
    _by_batch(figure)
    figure.update_yaxes(title="share of a request's time", range=[0, 1], tickformat=".0%")
    return figure
