"""Figures on the pages: specifications of ``advisor.render.figures``, drawn by the browser in the page's own colours."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.frame import painted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.render.document import Spec

LETTER_PX, SYMBOL_PX, AXIS_PX = 7, 30, 70
"""Pixels of a letter, of a legend's symbol with its gaps, and of what stands below and above a plot."""
NARROW_LETTERS = 30
"""Of a line below a plot on a phone."""
METRIC_WIDTH = 165
"""Pixels of a number with its interval: four side by side on a screen, two on a phone."""


def draw(spec: Spec, name: str, *, alt: str, height: int = 380, **options: Any) -> Any:
    """Show the figure at the width there is. On a first visit its place only.

    Args:
        spec: what to show.
        name: the figure's identity on the page.
        alt: text for a reader who cannot see it.
        height: in pixels.
        options: further ones of ``st.vega_lite_chart``.

    """
    if not painted():
        return st.container(height=height, border=False)
    fitted = fitting(spec, height)
    return st.vega_lite_chart(spec=fitted, key=name, alt=alt, height=height, width="stretch", **options)


def fitting(spec: Spec, height: int) -> Spec:
    """Return the figure with titles and legends that are not cut on a phone: broken into lines, and in as many columns as there is room."""
    layers = [{**layer, "encoding": _fitting(layer.get("encoding", {}), height)} for layer in spec["layer"]]
    return {**spec, "layer": layers}


def _fitting(encoding: Mapping[str, Any], height: int) -> dict[str, Any]:
    letters = {"x": NARROW_LETTERS, "y": max((height - AXIS_PX) // LETTER_PX, 10)}
    fitted: dict[str, Any] = {}
    for name, channel in encoding.items():
        axis, legend = channel.get("axis") if name in letters else None, None
        if isinstance(channel, dict) and name in {"color", "shape"}:
            legend = channel.get("legend")
        if axis and isinstance(axis.get("title"), str):
            lines = textwrap.wrap(axis["title"], letters[name]) or [""]
            channel = {**channel, "axis": {**axis, "title": lines[0] if len(lines) == 1 else lines}}  # noqa: PLW2901
        elif legend:
            longest = max(map(len, channel["scale"]["domain"]), default=1)
            columns = f"max(1, min({legend['columns']}, floor(width / {LETTER_PX * longest + SYMBOL_PX})))"
            channel = {**channel, "legend": {**legend, "columns": {"expr": columns}}}  # noqa: PLW2901
        fitted[name] = channel
    return fitted
