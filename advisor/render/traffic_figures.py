"""Figures of traffic and of capacity plans, with Matplotlib, without a display and without anything global."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from advisor.capacity.fleet_options import HOURS_A_MONTH
from advisor.render.capacities import layout_of as layout_of_option
from advisor.render.numbers import unit_of
from advisor.render.plots import GREY, HEIGHT, MORE, SMALL, STYLES, USUAL, WIDTH, check_plots
from advisor.render.simulations import layout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import FleetOption
    from advisor.simulator.simulation import Simulation

LATENCIES = {
    "ttft_ms": "time to first token",
    "tpot_ms": "time per output token",
    "e2e_ms": "whole request",
}
CURVES = {
    "running": "requests running a replica",
    "waiting": "requests waiting a replica",
    "kv_share": "KV cache in use, %",
    "output_tok_s": "output tokens/s, all replicas",
}
PREEMPTED = {"preemptions_s": "preemptions/s, all replicas"}
"""Drawn too where there were any."""
SHARES = np.concatenate([np.linspace(0.0, 98.0, 197), np.linspace(98.1, 100.0, 20)])
"""Percentiles that a distribution is drawn through."""
WHAT = {"rate": "requests a second", "input_len": "prompt lengths", "output_len": "output lengths"}


def framed(columns: int, rows: int = 1, *, width: float = 1.0, height: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A figure of empty panels, row by row; width and height of each are in usual ones."""
    check_plots()
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # an extra, and slow to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width * WIDTH, rows * height * HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes in panels:
        axes.tick_params(labelsize=SMALL, color=GREY)
        axes.grid(visible=True, color="#E4E4E4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _legend(axes: Axes, count: int) -> None:
    if count > 1:
        axes.legend(fontsize=SMALL, frameon=False)


def names_of(found: Sequence[Simulation]) -> list[str]:
    """One for each, numbered where layouts are alike."""
    plain = [layout_of(each) for each in found]
    return [f"{name} ({i + 1})" if plain.count(name) > 1 else name for i, name in enumerate(plain)]


def latency_figure(found: Sequence[Simulation]) -> Figure:
    """Distributions of TTFT, TPOT and E2E over the requests, with the limits."""
    figure, panels = framed(len(LATENCIES))
    for axes, (metric, label) in zip(panels, LATENCIES.items(), strict=True):
        tops = []
        drawn = [each.served.curve(metric, SHARES) for each in found]
        unit = unit_of(float(curve[-1]) for curve in drawn)
        for (colour, _), name, curve in zip(_colours(len(found)), names_of(found), drawn, strict=True):
            if np.isfinite(curve).all():
                tops.append(curve[0] and curve[-1] / curve[0])
                axes.plot(curve / unit.size, SHARES, color=colour, linewidth=1.6, label=name)
        limit_ms = getattr(found[0].slo, metric, None)
        if limit_ms is not None:
            limit = unit.of(limit_ms)
            axes.axvline(limit, color=GREY, linewidth=1, linestyle=STYLES["dashed"])
            axes.annotate("limit", (limit, 2), xytext=(3, 0), textcoords="offset points", size=SMALL, color=GREY)
        if max(tops, default=0) > 8:
            axes.set_xscale("log")
            _plain_ticks(axes)
        axes.set_xlabel(f"{label}, {unit.name}", size=USUAL)
        axes.set_ylim(0, 100)
    panels[0].set_ylabel("% of the requests at most", size=USUAL)
    _legend(panels[0], len(found))
    return figure


def _plain_ticks(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # an extra

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def timeline_figure(found: Sequence[Simulation]) -> Figure:
    """Running and waiting requests, KV cache and tokens over time; and preemptions, where there were any."""
    curves = CURVES | (PREEMPTED if any(each.preemptions for each in found) else {})
    figure, panels = framed(2, (len(curves) + 1) // 2)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    for axes, (name, label) in zip(panels, curves.items(), strict=False):
        for (colour, _), title, each in zip(_colours(len(found)), names_of(found), found, strict=True):
            values = each.timeline[name] * (100.0 if name == "kv_share" else 1.0)
            axes.plot(each.timeline["time_s"], values, color=colour, linewidth=1.2, label=title)
        axes.set_ylabel(label, size=USUAL)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.0))
    for axes in panels[len(curves) - 2 : len(curves)]:
        axes.set_xlabel("time, s", size=USUAL)
    _legend(panels[0], len(found))
    return figure


def _colours(count: int) -> list[tuple[str, str]]:
    return [MORE[i % len(MORE)] for i in range(count)]


def label_of(option: FleetOption) -> str:
    """What it is, short enough for a figure."""
    return f"{option.gpus} as {layout_of_option(option).removesuffix(' PP1')}"


def fleets_figure(found: CapacityPlan) -> Figure:
    """The options: what they cost against each limited latency, with its interval."""
    limited = {metric: most for metric in LATENCIES if (most := getattr(found.slo, metric)) is not None}
    figure, panels = framed(len(limited))
    money = all(option.usd_per_month is not None for option in found.options)
    kinds = list(dict.fromkeys(option.gpu for option in found.options))
    statistic = "mean" if found.slo.percentile is None else f"p{found.slo.percentile:g}"
    for axes, (metric, most) in zip(panels, limited.items(), strict=True):
        unit = unit_of([most, *(option.latencies[metric] for option in found.options)])
        limit = unit.of(most)
        for option in found.options:
            colour, marker = _colours(len(kinds))[kinds.index(option.gpu)]
            x = option.usd_per_month or 0.0 if money else float(option.gpus)
            value = option.latencies[metric]
            value, low, high = map(unit.of, (value, *option.intervals.get(metric, (value, value))))
            axes.errorbar(
                [x], [value], yerr=[[value - low], [high - value]], color=colour, marker=marker, markersize=6, capsize=3,
                linewidth=1, markerfacecolor=colour if option is found.best else "white",
            )  # fmt: skip
            axes.annotate(
                label_of(option), (x, high), xytext=(0, 4), textcoords="offset points", size=SMALL, color=colour,
                rotation=90, ha="center", va="bottom",
            )  # fmt: skip
        axes.axhline(limit, color=GREY, linewidth=1, linestyle=STYLES["dashed"])
        axes.annotate(
            "limit", (0.01, limit), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            size=SMALL, color=GREY,
        )  # fmt: skip
        for kind, (colour, marker) in zip(kinds, _colours(len(kinds)), strict=True):
            axes.plot([], [], color=colour, marker=marker, linestyle="", label=kind)
        _legend(axes, len(kinds))
        axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
        axes.margins(x=0.15)
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(f"{statistic} of {LATENCIES[metric]}, {unit.name}", size=USUAL)
        axes.set_xlabel("$ a month" if money else "GPUs", size=USUAL)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def cost_figure(found: CapacityPlan) -> Figure:
    """What the best layout costs against the rate."""
    best = found.best
    assert best is not None
    figure, (axes,) = framed(1)
    money = best.usd_per_hour is not None
    each = best.gpus // (best.replicas + best.spares)
    here = [(1.0, best.replicas)]
    points = sorted(here + [(c.factor, c.replicas) for c in found.sensitivity if c.what == "rate" and c.replicas])
    rates = np.array([factor for factor, _ in points]) * (found.workload.rate or 0.0)
    gpus = np.array([(replicas + best.spares) * each for _, replicas in points], dtype=float)
    scale = best.usd_per_hour / best.gpus * HOURS_A_MONTH if best.usd_per_hour is not None else 1.0
    axes.plot(rates, gpus * scale, color=MORE[0][0], marker="o", linewidth=1.6, markersize=4.5)
    axes.axvline(found.workload.rate or 0.0, color=GREY, linewidth=1, linestyle=STYLES["dashed"])
    for x, y, count in zip(rates, gpus * scale, gpus, strict=True):
        axes.annotate(f"{count:.0f}", (x, y), xytext=(3, -12), textcoords="offset points", size=SMALL, color=GREY)
    axes.set_xlabel("requests/s", size=USUAL)
    axes.set_ylabel("$ a month, and GPUs" if money else "GPUs", size=USUAL)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylim(0, None)
    axes.margins(x=0.12)
    return figure


def sensitivity_figure(found: CapacityPlan) -> Figure:
    """How many GPUs more or fewer other loads take: a bar for each, the widest at the top."""
    assert found.best is not None
    figure, (axes,) = framed(1)
    base = found.best.gpus
    bars = []
    for what, name in WHAT.items():
        ends = [(c.factor, c.gpus) for c in found.sensitivity if c.what == what and c.factor in (0.8, 1.25)]
        known = [gpus for _, gpus in ends if gpus is not None]
        bars.append((max([base, *known]) - min([base, *known]), name, ends))
    bars.sort(key=lambda bar: bar[0])
    widest = max(bars[-1][0], 1)
    for place, (_, _, ends) in enumerate(bars):
        for factor, gpus in ends:
            more = factor > 1
            end = base if gpus is None else gpus
            axes.barh(place, end - base, left=base, color=MORE[1 if more else 0][0], height=0.55)
            axes.annotate(
                f"x {factor:g}: {'none does' if gpus is None else gpus}", (max(base, end) if more else min(base, end), place),
                xytext=(4 if more else -4, -3), size=SMALL, color=GREY, textcoords="offset points",
                ha="left" if more else "right",
            )  # fmt: skip
    axes.set_yticks(range(len(bars)), [name for _, name, _ in bars], size=USUAL)
    axes.axvline(base, color=GREY, linewidth=1)
    axes.set_xlim(base - 1.6 * widest, base + 1.6 * widest)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.set_xlabel("GPUs", size=USUAL)
    return figure
