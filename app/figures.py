"""Figures on the pages: specifications of ``advisor.render.figures``, drawn by the browser in the page's own colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.frame import painted

if TYPE_CHECKING:
    from advisor.render.document import Spec

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
    return st.vega_lite_chart(spec=spec, key=name, alt=alt, height=height, width="stretch", **options)
