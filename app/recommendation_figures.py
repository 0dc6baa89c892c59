"""What a recommendation looks like: the trade of speed against throughput, memory by layout, time by operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from advisor.render.choice_figures import memory_parts

from advisor.render.numbers import dollars, duration, limit, short, span, unit_of
from app.figures import CAUSES, GREY, PALETTE, PARTS, RED, SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import advisor

MOST_OPERATORS = 10
"""Bars of time; the rest are put together."""


def layout_name(estimate: advisor.Estimate) -> str:
    """Replicas and parallelism: "2 x TP2 PP1"."""
    return f"{estimate.deployment.dp} x {estimate.deployment.parallelism}"


def candidate_name(estimate: advisor.Estimate) -> str:
    """Layout and batch: "2 x TP2 PP1, batch 119"."""
    return f"{layout_name(estimate)}, batch {estimate.batch}"


def trade(found: advisor.Recommendation, picked: advisor.Estimate) -> go.Figure:
    """Speed for one user against throughput per GPU: candidates, those not beaten in both, and the one picked."""
    figure = go.Figure()
    front = [each for each in found.pareto if each.tpot_ms]
    figure.add_scatter(
        x=[_speed(each) for each in front], y=[each.output_tok_s_per_gpu for each in front], mode="lines",
        line={"color": GREY, "dash": "dot", "width": 1}, name="not beaten in both", hoverinfo="skip",
    )  # fmt: skip
    shown = list({candidate_name(each): each for each in (*found.candidates, *front) if each.tpot_ms}.values())
    layouts = list(dict.fromkeys(_parallelism(each) for each in shown))
    for i, layout in enumerate(layouts):
        members = [each for each in shown if _parallelism(each) == layout]
        figure.add_scatter(
            x=[_speed(each) for each in members], y=[each.output_tok_s_per_gpu for each in members], mode="markers",
            marker={"size": 9, "color": PALETTE[i % len(PALETTE)], "symbol": SYMBOLS[i % len(SYMBOLS)]}, name=layout,
            customdata=[[candidate_name(each), _explained(each)] for each in members],
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
        )  # fmt: skip
    if picked.tpot_ms:
        figure.add_scatter(
            x=[_speed(picked)], y=[picked.output_tok_s_per_gpu], mode="markers", name="shown below", hoverinfo="skip",
            marker={"size": 18, "color": "rgba(0,0,0,0)", "line": {"color": RED, "width": 3}},
            error_y=_whiskers(picked),
        )  # fmt: skip
    if found.slo.tpot_ms:
        figure.add_vline(
            1e3 / found.slo.tpot_ms, line={"color": RED, "dash": "dash", "width": 1},
            annotation={"text": f"TPOT {limit(found.slo.tpot_ms)}", "font": {"color": RED}},
        )  # fmt: skip
    figure.update_xaxes(title="tokens/s for one user (1000 / TPOT)", rangemode="tozero")
    figure.update_yaxes(title="output tokens/s per GPU", rangemode="tozero")
    return figure


def _speed(estimate: advisor.Estimate) -> float:
    assert estimate.tpot_ms
    return 1e3 / estimate.tpot_ms


def _parallelism(estimate: advisor.Estimate) -> str:
    return estimate.deployment.parallelism


def _whiskers(estimate: advisor.Estimate) -> dict[str, object]:
    low, high = estimate.interval("output_tok_s_per_gpu")
    value = estimate.output_tok_s_per_gpu or 0.0
    return {"type": "data", "array": [high - value], "arrayminus": [value - low], "color": RED, "thickness": 1}


def _explained(estimate: advisor.Estimate) -> str:
    speed = f"{short(estimate.output_tok_s_per_gpu)} {span(*estimate.interval('output_tok_s_per_gpu'))}"
    lines = [
        f"tok/s per GPU {speed}",
        f"TTFT {duration(estimate.ttft_ms, estimate.interval('ttft_ms'))}",
        f"TPOT {duration(estimate.tpot_ms, estimate.interval('tpot_ms'))}",
    ]
    money = [f"{dollars(estimate.usd_per_mtok)} per million tokens"] if estimate.usd_per_mtok else []
    bound = f"mostly {estimate.bottleneck}; {estimate.provenance}"
    return "<br>".join([*lines, f"{estimate.deployment.num_gpus} GPUs used", *money, bound])


def memory_bars(shown: Sequence[advisor.Estimate]) -> go.Figure:
    """GiB on the fullest GPU of each candidate, by part, and where the engine's share and the GPU end."""
    figure = go.Figure()
    names = [candidate_name(each) for each in shown]
    for part, (name, colour) in PARTS.items():
        values = [memory_parts(each)[part] for each in shown]
        figure.add_bar(
            y=names, x=values, orientation="h", name=name, marker={"color": colour, "line": {"width": 0}},
            hovertemplate=f"{name} %{{x:.3g}} GiB<extra>%{{y}}</extra>",
        )  # fmt: skip
    device = shown[0].memory["device"]
    figure.add_vline(device, line={"color": RED, "width": 2})
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title=f"GiB on the fullest GPU, which has {short(device)}", range=[0, device * 1.02])
    return figure


def time_bars(estimate: advisor.Estimate, phase: str) -> go.Figure:
    """The time of one step by operator and cause, longest first."""
    operators: dict[str, Mapping[str, float]] = dict(estimate.breakdown[phase])
    ranked = sorted(operators, key=lambda name: -sum(operators[name].values()))
    rows: dict[str, dict[str, float]] = {name: dict(operators[name]) for name in ranked[:MOST_OPERATORS]}
    for name in ranked[MOST_OPERATORS:]:
        rest = rows.setdefault("all others", {})
        for cause, time in operators[name].items():
            rest[cause] = rest.get(cause, 0.0) + time
    total = sum(sum(causes.values()) for causes in rows.values())
    figure = go.Figure()
    unit = unit_of([total])
    for cause, colour in CAUSES.items():
        values = [unit.of(causes.get(cause, 0.0)) for causes in rows.values()]
        if any(values):
            figure.add_bar(
                y=[name.replace("_", " ") for name in rows], x=values, orientation="h", name=cause,
                marker={"color": colour}, customdata=[value / unit.of(total) for value in values],
                hovertemplate=f"%{{y}}, {cause}: %{{x:.3g}} {unit.name} (%{{customdata:.0%}})<extra></extra>",
            )  # fmt: skip
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title=f"{unit.name} of one {phase} step, {unit.short(total)} in all")
    return figure
