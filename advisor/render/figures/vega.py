"""What all figures have in common: colours that read on light and on dark ground, and the pieces of a Vega-Lite panel.

A panel is one view of layers, without a size: who draws it gives it one. Data stand in the layers, rows as dictionaries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from advisor.render.document import Spec

# Okabe and Ito's palette, made to be told apart by colour-blind readers (jfly.uni-koeln.de/color); without its yellow and black,
# which vanish on light and on dark ground, and with a lighter blue, which reads on both.
ORANGE, SKY, GREEN, BLUE, RED, PINK = "#E69F00", "#56B4E9", "#009E73", "#2B87D1", "#D55E00", "#CC79A7"
GREY = "#8A8F98"
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, RED)
CAUSES = {"memory": SKY, "compute": ORANGE, "communication": PINK, "overhead": GREY}
"""Colour of what time goes to."""
MEMORY = {
    "weights": BLUE,
    "activations": GREEN,
    "engine": PINK,
    "kv_cache": ORANGE,
    "kv_free": "#F3D08A",
    "reserved": "#C9CCD1",
}
"""Colour of what fills a GPU's memory (``vocabulary.MEMORY_PARTS``)."""
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left")
DASH, DOT = [5, 3], [2, 3]
"""Lengths of a line's strokes and gaps, in pixels."""
WIDTH, HEIGHT = 460, 300
"""Of a panel on paper, in pixels."""
PRINTED: Mapping[str, Any] = {
    "axis": {
        "gridColor": "#E4E4E4",
        "domainColor": "#999999",
        "tickColor": "#999999",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 320,
    },
    "legend": {"labelFontSize": 11, "labelLimit": 260},
    "title": {"fontSize": 12, "fontWeight": "normal", "anchor": "start"},
    "view": {"stroke": None},
    "font": "DejaVu Sans, Verdana, sans-serif",
}
"""Looks of a figure on paper; the app has its own for light and dark ground."""


def layer(mark: str | Mapping[str, Any], rows: Iterable[Mapping[str, Any]], **encoding: Any) -> Spec:
    """Return one layer: a mark for each row, by the channels of ``encoding`` (x, y, color, tooltip ...)."""
    return {"mark": mark, "data": {"values": list(rows)}, "encoding": encoding}


def panel(*layers: Spec | None, **options: Any) -> Spec:
    """Return one view of the layers there are, the first below."""
    return {"layer": [layer for layer in layers if layer is not None], **options}


def axis(name: str, title: str, *, log: bool = False, zero: bool = True, **options: Any) -> dict[str, Any]:
    """Return a channel for numbers with its axis; ``log``: the axis is logarithmic, otherwise from 0 if ``zero``.

    ``options``: ``format`` of the numbers (d3-format), ``domain`` of the axis, ``sort``.
    """
    scale: dict[str, Any] = {"type": "log", "nice": False} if log else {"zero": zero}
    if "domain" in options:
        scale |= {"domain": options.pop("domain"), "nice": False}
    shown: dict[str, Any] = (
        {"title": title}
        | ({"tickCount": 6} if log else {})
        | ({"format": options.pop("format")} if "format" in options else {})
    )
    return {"field": name, "type": "quantitative", "scale": scale, "axis": shown, **options}


def rows_axis(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a vertical channel of names in their order, from the top."""
    return {"field": name, "type": "nominal", "sort": list(names), "axis": {"title": None, "labelLimit": 320}}


def colour(name: str, colours: Mapping[str, str], *, legend: bool = True) -> dict[str, Any]:
    """Return a channel of colours by name, with the legend above the panel."""
    return {
        "field": name,
        "type": "nominal",
        "scale": {"domain": list(colours), "range": list(colours.values())},
        "legend": {"orient": "top", "title": None, "columns": 3, "symbolOpacity": 1} if legend else None,
    }


def coloured(names: Iterable[str]) -> dict[str, str]:
    """Give each name a colour of the palette, by turns."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def tooltip(**titles: str) -> list[dict[str, str]]:
    """Return the channel of a point's tooltip: titles by the field that holds the text."""
    return [{"field": name, "type": "nominal", "title": title} for name, title in titles.items()]


def rule(*, x: float | None = None, y: float | None = None, colour: str = GREY, dash: Sequence[int] = ()) -> Spec:
    """Return a line across the panel at one value."""
    at = {"x": {"datum": x}} if x is not None else {"y": {"datum": y}}
    mark = {"type": "rule", "color": colour, "strokeDash": list(dash), "strokeWidth": 1.5, "aria": False}
    return {"mark": mark, "data": {"values": [{}]}, "encoding": at}


def note(text: str, *, x: float | None = None, y: float | None = None, colour: str = GREY, **mark: Any) -> Spec:
    """Return words at a value; where one coordinate is None, at the beginning of its axis."""
    encoding: dict[str, Any] = {name: {"datum": value} for name, value in (("x", x), ("y", y)) if value is not None}
    encoding |= {name: {"value": 4 if name == "x" else 10} for name, value in (("x", x), ("y", y)) if value is None}
    words = {"type": "text", "text": text, "color": colour, "align": "left", "dx": 4, "dy": -4, "aria": False, **mark}
    return {"mark": words, "data": {"values": [{}]}, "encoding": encoding}


def printed(panels: Sequence[Spec], *, columns: int = 1, width: int = WIDTH, height: int = HEIGHT) -> Spec:
    """Return panels side by side, at their size on paper; each may bring its own."""
    sized = [{"width": width, "height": height, **view} for view in panels]
    if len(sized) == 1:
        return sized[0]
    return {"concat": sized, "columns": columns, "resolve": {"scale": {"color": "independent"}}}
