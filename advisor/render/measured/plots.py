"""Figures drawn as PNG, with Matplotlib, without a display and without anything global."""

from __future__ import annotations

import textwrap
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

    from advisor.render.measured.charts import Chart, Panel, PlotCurve

HUES = {
    "TP1": ("#000000", "o"),
    "TP2": ("#0072B2", "o"),
    "TP4": ("#56B4E9", "o"),
    "TP8": ("#004D73", "o"),
    "PP2": ("#D55E00", "s"),
    "PP4": ("#E69F00", "s"),
    "TP2xPP2": ("#009E73", "D"),
    "TP4xPP2": ("#CC79A7", "D"),
}
"""Colour and marker of the common layouts, the same in every figure; Okabe and Ito's palette, which is told apart by
colour-blind readers too (jfly.uni-koeln.de/color). Others take from ``MORE`` by turns."""
MORE = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#56B4E9", "v"), ("#E69F00", "P"),
    ("#000000", "X"), ("#7F7F7F", "*"),
)  # fmt: skip
STYLES = {"solid": "-", "dashed": (0, (5, 2)), "dotted": (0, (1, 1.5))}

WIDTH, HEIGHT = 4.3, 3.0
"""Of a panel with its labels, in inches."""
USUAL_LABEL, LETTER = 14, 0.085
"""Letters of a line's label that a panel of that width has room for; inches for one more."""
DPI = 130
SMALL, USUAL, LARGE = 7.5, 8.5, 12.0
"""Points."""
GREY = "#666666"


def check_plots() -> None:
    """Raise ``InputError`` where figures cannot be drawn."""
    if find_spec("matplotlib") is None:
        raise InputError("figures need Matplotlib: pip install 'advisor[plots]'")


def draw(charts: Iterable[Chart], folder: Path) -> list[Path]:
    """A PNG for each chart in ``folder``, which exists.

    Raises:
        InputError: Matplotlib is missing, or a file cannot be written.

    """
    check_plots()
    paths = []
    for chart in charts:
        path = folder / f"{chart.name}.png"
        figure = drawn_chart(chart)
        try:
            figure.savefig(path, dpi=DPI, metadata={"Software": None, "Title": chart.title})
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}") from error
        paths.append(path)
    return paths


def drawn_chart(chart: Chart) -> Figure:
    """The figure, its labels moved apart."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # an extra, and slow to import
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = max(len(row) for row in chart.rows)
    names = [curve.label for row in chart.rows for panel in row if panel for curve in panel.curves]
    longest = max(map(len, names), default=0)
    width = max(columns * (WIDTH + LETTER * max(longest - USUAL_LABEL, 0)), 5.5)
    title, note = textwrap.fill(chart.title, int(width * 9.5)), textwrap.fill(chart.note, int(width * 17))
    below = 0.34 + 0.2 * title.count("\n")
    heading = below + 0.28 + 0.14 * note.count("\n")
    top = len(chart.rows) * HEIGHT + heading
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - heading / top), w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(width, top), layout=engine)
    FigureCanvasAgg(figure)
    figure.text(0.1 / width, 1 - 0.08 / top, title, size=LARGE, weight="bold", va="top")
    figure.text(0.1 / width, 1 - below / top, note, size=USUAL, va="top", color=GREY)
    grid = figure.subplots(len(chart.rows), columns, squeeze=False)
    hues = _hues(chart)
    labels: list[tuple[Axes, list[Annotation]]] = []
    for axes_row, row in zip(grid, chart.rows, strict=True):
        for axes, panel in zip(axes_row, (*row, *[None] * (columns - len(row))), strict=True):
            if panel is None:
                axes.set_axis_off()
            else:
                labels.append((axes, _draw_panel(axes, panel, hues)))
    figure.draw_without_rendering()
    for axes, texts in labels:
        _move_apart(axes, texts)
    figure.set_layout_engine("none")  # it is done, and takes its time
    return figure


def _hues(chart: Chart) -> dict[str, tuple[str, str]]:
    panels = [panel for row in chart.rows for panel in row if panel]
    names = dict.fromkeys(curve.hue for panel in panels for curve in panel.curves)
    names |= dict.fromkeys(mark.hue for panel in panels for mark in panel.marks)
    others = [name for name in names if name not in HUES]
    taken = {HUES[name] for name in names if name in HUES}
    free = [pair for pair in MORE if pair not in taken]
    return {name: HUES[name] for name in names if name in HUES} | {
        name: free[i % len(free)] for i, name in enumerate(others)
    }


def _draw_panel(axes: Axes, panel: Panel, hues: dict[str, tuple[str, str]]) -> list[Annotation]:
    """The panel's content; the labels at the ends of its curves, still where the curves end."""
    _style_axes(axes, panel)
    for curve in panel.curves:
        colour, marker = hues[curve.hue]
        axes.plot(
            curve.x, curve.y, color=colour, linestyle=STYLES[curve.style], linewidth=1.6,
            marker=marker if curve.marked else "", markersize=4.5, clip_on=False, zorder=3,
        )  # fmt: skip
    for mark in panel.marks:
        colour, _ = hues[mark.hue]
        oom = mark.kind == "oom"
        axes.plot(
            [mark.x], [mark.y], linestyle="", marker="x" if oom else "o", color=colour, markersize=8 if oom else 6,
            markeredgewidth=2 if oom else 1.4, markerfacecolor="white", clip_on=False, zorder=4,
        )  # fmt: skip
    if panel.level is not None:
        axes.axhline(panel.level, color=GREY, linewidth=1, linestyle=STYLES["dashed"], zorder=1)
        axes.annotate(
            panel.level_label, (0.015, panel.level), xycoords=("axes fraction", "data"), xytext=(0, 3),
            textcoords="offset points", size=SMALL, color=GREY,
        )  # fmt: skip
    _set_limits(axes, panel)
    return [_label(axes, curve, hues[curve.hue][0]) for curve in panel.curves if curve.label]


def _style_axes(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, size=USUAL + 1, loc="left")
    axes.set_ylabel(panel.ylabel, size=USUAL)
    axes.set_xlabel(panel.xlabel, size=USUAL)
    axes.tick_params(labelsize=SMALL, color=GREY)
    axes.grid(visible=True, color="#E4E4E4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xscale("log", base=2)
    if panel.log:
        axes.set_yscale("log")


def _set_limits(axes: Axes, panel: Panel) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator  # an extra

    xs = np.concatenate([*(curve.x for curve in panel.curves), [mark.x for mark in panel.marks]])
    ys = np.concatenate([*(curve.y for curve in panel.curves), [mark.y for mark in panel.marks]])
    low, high = float(xs.min()), float(xs.max())
    pad = max((high / low) ** 0.04, 1.08)
    axes.set_xlim(low / pad, high * pad)
    axes.xaxis.set_major_locator(FixedLocator(_batches(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if panel.log:
        bottom, top = float(ys[ys > 0].min()), float(ys.max())
        pad = max((top / bottom) ** 0.06, 1.1)
        axes.set_ylim(bottom / pad, top * pad)
        axes.yaxis.set_major_locator(FixedLocator(_decades(bottom / pad, top * pad)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        return
    top = max(float(ys.max()), panel.level or 0.0)
    axes.set_ylim(0.0, top * 1.08 if top > 0 else 1.0)
    form = (lambda value, _: f"{value:.3g}%") if panel.percent else (lambda value, _: f"{value:,.10g}")
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(form))


def _batches(low: float, high: float) -> list[float]:
    """Powers of two or four within the axis, nine at the most."""
    for step in (1, 2, 3, 4):
        ticks = [2.0**k for k in range(0, 31, step) if low / 1.05 <= 2.0**k <= high * 1.05]
        if len(ticks) <= 8:
            break
    return ticks or [low]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the axis, or as many of them as can be read."""
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**k for k in exponents for digit in digits if low <= digit * 10.0**k <= high]
        if len(ticks) <= 8:
            break
    return ticks


def _label(axes: Axes, curve: PlotCurve, colour: str) -> Annotation:
    end = (float(curve.x[-1]), float(curve.y[-1]))
    height = float(axes.transAxes.inverted().transform(axes.transData.transform(end))[1])
    return axes.annotate(
        curve.label, end, xytext=(1.03, height), textcoords="axes fraction", size=USUAL, color=colour, va="center",
        annotation_clip=False,
        arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.55, "shrinkA": 1, "shrinkB": 3,
            "relpos": (0.0, 0.5),
        },
    )  # fmt: skip


def _move_apart(axes: Axes, texts: Sequence[Annotation]) -> None:
    """Move labels up and down until none covers another, in the order in which the curves end."""
    if not texts:
        return
    least = 1.25 * USUAL / 72 * axes.figure.get_dpi() / axes.get_window_extent().height
    ends = [float(axes.transAxes.inverted().transform(axes.transData.transform(text.xy))[0]) for text in texts]
    # the leader of a curve that ends far to the left passes above those of the others at its height
    ranked = sorted(zip(texts, ends, strict=True), key=lambda pair: _height(pair[0]) - 0.2 * pair[1])
    ordered = [text for text, _ in ranked]
    wanted = np.maximum.accumulate([_height(text) for text in ordered])
    for text, height in zip(ordered, spread(wanted, least), strict=True):
        text.set_position((1.03, float(height)))


def _height(text: Any) -> float:
    return float(text.get_position()[1])


def spread(wanted: np.ndarray[Any, np.dtype[np.float64]], least: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Heights from 0 to 1, at least ``least`` apart if there is room, and as near ``wanted``, which rises, as that allows.

    Neighbours that are too close become a group around the mean of what they want (pool adjacent violators, as in
    isotonic regression: Barlow et al. 1972); with offsets taken off, "apart" is "rising". Shape (n,).
    """
    offsets = least * np.arange(len(wanted))
    groups: list[list[float]] = []
    for value in wanted - offsets:
        groups.append([float(value)])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    flat = np.concatenate([np.full(len(group), np.mean(group)) for group in groups])
    assert all(a <= b + 1e-9 for a, b in pairwise(flat))
    return np.asarray(np.clip(flat, 0.0, max(1.0 - offsets[-1], 0.0)) + offsets)
