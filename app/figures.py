"""What all figures have in common: colours that read on light and on dark ground, and how a reader may handle them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
import streamlit as st

from app.frame import painted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Okabe and Ito's palette, made to be told apart by colour-blind readers; without its yellow and black, which vanish on
# light and on dark ground, and with a lighter blue, which reads on both.
ORANGE, SKY, GREEN, BLUE, RED, PINK = "#E69F00", "#56B4E9", "#009E73", "#2B87D1", "#D55E00", "#CC79A7"
GREY = "#8A8F98"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED)
CAUSES = {"memory": SKY, "compute": ORANGE, "communication": PINK, "overhead": GREY}
"""What time goes to."""
PARTS = {
    "weights": ("weights", BLUE),
    "activations": ("activations", GREEN),
    "engine": ("engine", PINK),
    "kv_cache": ("KV cache", ORANGE),
    "kv_free": ("KV cache, free", "rgba(230, 159, 0, 0.35)"),
    "reserved": ("left to others", "rgba(138, 143, 152, 0.35)"),
}
"""What fills a GPU's memory: its name for readers, and its colour."""
METRIC_WIDTH = 165
"""Pixels of a number with its interval: four side by side on a screen, two on a phone."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "pentagon", "hexagon")


def faint(colour: str, alpha: float = 0.18) -> str:
    """The colour as a see-through one, for bands."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


DRESS: dict[str, Any] = {
    "margin": {"l": 8, "r": 8, "t": 36, "b": 8},
    "dragmode": False,
    "hoverlabel": {"align": "left"},
    "legend": {
        "orientation": "h", "yanchor": "bottom", "y": 1.0, "xanchor": "left", "x": 0.0, "title": None,
        "traceorder": "normal",
    },
}  # fmt: skip
"""Layout of every figure."""
AXIS = {"fixedrange": True, "automargin": True}
"""Of every axis: a finger that scrolls the page must not zoom the figure."""


def made(
    traces: Sequence[Mapping[str, Any]], *, x: Mapping[str, Any], y: Mapping[str, Any], **layout: Any
) -> go.Figure:
    """A figure with one pair of axes, made at once: Plotly takes milliseconds for each later change.

    Args:
        traces: what is drawn, as Plotly has it.
        x: the horizontal axis.
        y: the vertical one.
        layout: what else differs from ``DRESS``.

    """
    return go.Figure(data=list(traces), layout={**DRESS, "xaxis": {**AXIS, **x}, "yaxis": {**AXIS, **y}, **layout})


def upright(x: float, colour: str, dash: str = "solid", width: float = 1.5) -> dict[str, Any]:
    """A vertical line over the whole height, as a shape of the layout."""
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "y domain",
        "line": {"color": colour, "dash": dash, "width": width},
    }  # fmt: skip


def draw(figure: go.Figure, name: str, *, alt: str, height: int = 380, **options: Any) -> Any:
    """Show the figure at the width there is; its camera button saves it as ``name.png``. On a first visit its place only.

    Args:
        figure: what to show.
        name: of the picture's file; the figure's identity on the page too.
        alt: what a reader who cannot see it is told.
        height: in pixels.
        options: further ones of ``st.plotly_chart``.

    """
    if not painted():
        return st.container(height=height, border=False)
    if figure.layout.margin.t != DRESS["margin"]["t"]:  # not from ``made``
        figure.update_layout(DRESS)
        figure.update_xaxes(AXIS)
        figure.update_yaxes(AXIS)
    return st.plotly_chart(
        figure, key=name, alt=alt, theme="streamlit", height=height,
        config={
            "displaylogo": False, "modeBarButtons": [["toImage"]],
            "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2},
        },
        **options,
    )  # fmt: skip
