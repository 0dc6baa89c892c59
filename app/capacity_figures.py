"""What a capacity plan looks like: how near fleets are to the limits, what a change would cost, a fleet over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from advisor.render.numbers import duration, limit
from advisor.render.vocabulary import LIMITED_METRICS, METRIC_NAMES, layout_name
from app.figures import BLUE, GREEN, GREY, ORANGE, PALETTE, RED, faint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor import CapacityPlan, Change, FleetOption, Simulation

WHAT = {"rate": "requests", "input_len": "prompts", "output_len": "answers"}
WIDE = 5.0
"""Times a limit beyond which shares are drawn on a logarithmic axis."""
COLOURS = dict(zip(LIMITED_METRICS, PALETTE, strict=False))


def fleet_name(option: FleetOption) -> str:
    """GPUs and layout: "2 x H100-SXM as TP2 PP1"."""
    return f"{option.gpus} x {option.gpu} as {layout_name(option.deployment)}"


def closeness(found: CapacityPlan, shown: Sequence[FleetOption]) -> go.Figure:
    """Each latency that has a limit as a share of it, with its 90% interval."""
    figure = go.Figure()
    names = [fleet_name(option).replace(" as ", "<br>") for option in shown]
    for metric in LIMITED_METRICS:
        most = getattr(found.slo, metric)
        if most is None:
            continue
        values = [option.latencies[metric] / most for option in shown]
        ends = [option.intervals.get(metric, (option.latencies[metric],) * 2) for option in shown]
        figure.add_scatter(
            x=values, y=names, name=f"{METRIC_NAMES[metric]}, limit {limit(most)}", mode="markers",
            marker={"size": 11, "color": COLOURS[metric]},
            error_x={
                "type": "data", "symmetric": False, "thickness": 2,
                "array": [high / most - value for (_, high), value in zip(ends, values, strict=True)],
                "arrayminus": [value - low / most for (low, _), value in zip(ends, values, strict=True)],
            },
            customdata=[duration(option.latencies[metric], option.intervals.get(metric)) for option in shown],
            hovertemplate=f"%{{y}}<br>{METRIC_NAMES[metric]} %{{customdata}}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=1.0, line={"dash": "dash", "color": RED})
    farthest = max((value for trace in figure.data for value in trace.x), default=0.0)
    figure.update_xaxes(title="share of the limit (dashed: all of it)", tickformat=".0%", rangemode="tozero")
    if farthest > WIDE:
        figure.update_xaxes(type="log", tickformat=",.0%", dtick=1)
    figure.update_yaxes(autorange="reversed")
    return figure


def tornado(found: CapacityPlan) -> go.Figure:
    """What the best layout would need if the traffic were another: dollars a month, or GPUs where they have no price."""
    best = found.best
    assert best is not None
    priced = best.usd_per_month is not None
    base = best.usd_per_month if best.usd_per_month is not None else float(best.gpus)
    changes = [change for change in found.sensitivity if change.what in WHAT]
    values = [_size(change, best) for change in changes]
    figure = go.Figure(
        go.Bar(
            y=[f"{WHAT[change.what]} x {change.factor:g}" for change in changes],
            x=[0.0 if value is None else value - base for value in values], base=base, orientation="h", hoverinfo="skip",
            marker_color=[GREEN if value is not None and value < base else ORANGE for value in values],
        )
    )  # fmt: skip
    known = [base, *(value for value in values if value is not None)]
    reach = max(known) - min(known) or 0.5 * base
    ends = [max(min(known) - 0.1 * reach, 0.0), max(known) + 1.2 * reach]  # with room for the words, on a phone too
    # To the left of a bar its words would lie on its name: all stand to the right of bar and base.
    figure.add_scatter(
        x=[max(value or base, base) + 0.03 * reach for value in values], y=figure.data[0].y, mode="text",
        text=[_told(change, value, priced=priced) for change, value in zip(changes, values, strict=True)],
        textposition="middle right", hoverinfo="skip", cliponaxis=False,
    )  # fmt: skip
    figure.add_vline(x=base, line={"dash": "dot", "color": GREY})
    figure.update_layout(showlegend=False)
    figure.update_xaxes(
        title="$ a month (dotted: as planned)" if priced else "GPUs (dotted: as planned)", range=ends,
        tickformat=",.0f",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    return figure


def _size(change: Change, best: FleetOption) -> float | None:
    if best.usd_per_month is None or best.usd_per_hour is None:
        return None if change.gpus is None else float(change.gpus)
    return None if change.usd_per_hour is None else change.usd_per_hour / best.usd_per_hour * best.usd_per_month


def _told(change: Change, value: float | None, *, priced: bool) -> str:
    if value is None:
        return "no number of these replicas does"
    gpus = f"{change.gpus} GPU{'' if change.gpus == 1 else 's'}"
    return f"{gpus}, ${value:,.0f}" if priced else gpus


def timeline(served: Simulation) -> go.Figure:
    """Requests running and waiting, and the KV cache in use, of a mean replica over time."""
    time, curves = served.timeline["time_s"], served.timeline
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.6, 0.4])
    for name, colour in (("running", BLUE), ("waiting", RED)):
        figure.add_scatter(
            x=time, y=curves[name], name=name, mode="lines", row=1, col=1, line_color=colour,
            hovertemplate=f"%{{y:.3g}} {name}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=time, y=curves["kv_share"], name="KV cache in use", mode="lines", fill="tozeroy", row=2, col=1,
        line_color=ORANGE, fillcolor=faint(ORANGE),
        hovertemplate="%{y:.0%} of the KV cache<extra></extra>",
    )  # fmt: skip
    figure.update_layout(hovermode="x unified")
    figure.update_yaxes(title="requests<br>a replica", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="KV cache", tickformat=".0%", range=[0, 1.02], row=2, col=1)
    figure.update_xaxes(title="seconds", row=2, col=1)
    return figure
