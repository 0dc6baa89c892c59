"""Figures of a recommendation: speed against throughput, memory by layout, time by operator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.prediction.estimate_row import memory_in_use
from advisor.render.figures.vega import (
    CAUSES,
    DASH,
    DOT,
    GREY,
    MEMORY,
    RED,
    SHAPES,
    axis,
    colour,
    coloured,
    layer,
    note,
    panel,
    rows_axis,
    rule,
    tooltip,
)
from advisor.render.numbers import dollars, duration, limit, share, short, span, unit_of
from advisor.render.vocabulary import MEMORY_PARTS, TPOT, TTFT, candidate_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.recommendation import Recommendation
    from advisor.render.document import Spec

CANDIDATE = "candidate"
"""Name of the selection by which a reader picks a point."""
MOST_OPERATORS = 10
"""Bars of time; the rest are put together."""
SPEED = f"tokens/s for one user (1000 / {TPOT})"
THROUGHPUT = "output tokens/s per GPU"


def trade(answer: Recommendation, picked: Estimate | None) -> Spec:
    """Draw speed for one user against throughput per GPU: candidates, those not beaten in both, and the one picked."""
    front = [estimate for estimate in answer.pareto if estimate.tpot_ms]
    members = {candidate_name(e): _point(e) for e in (*answer.candidates, *front) if e.tpot_ms}
    colours = coloured(str(point["layout"]) for point in members.values())
    x, y = axis("speed", SPEED), axis("throughput", THROUGHPUT)
    shapes = {"domain": list(colours), "range": [SHAPES[i % len(SHAPES)] for i in range(len(colours))]}
    points = layer(
        {"type": "point", "filled": True, "size": 75, "opacity": 1, "cursor": "pointer"},
        members.values(),
        x=x,
        y=y,
        color=colour("layout", colours),
        shape={
            "field": "layout",
            "type": "nominal",
            "scale": shapes,
            "legend": {"orient": "top", "title": None, "columns": 3},
        },
        tooltip=tooltip(
            name="layout",
            tok_s="tok/s per GPU",
            ttft=TTFT,
            tpot=TPOT,
            gpus="GPUs used",
            cost="$ per M tokens",
            bound="mostly",
        ),
    )
    points["params"] = [{"name": CANDIDATE, "select": {"type": "point", "fields": ["name"]}}]
    ring = whiskers = None
    if picked is not None and picked.tpot_ms:
        row = [_point(picked)]
        ring = layer({"type": "point", "size": 330, "color": RED, "strokeWidth": 3, "filled": False}, row, x=x, y=y)
        whiskers = layer({"type": "rule", "color": RED}, row, x=x, y=axis("low", THROUGHPUT), y2={"field": "high"})
    limits: list[Spec] = []
    if answer.slo.tpot_ms:
        at = 1e3 / answer.slo.tpot_ms
        limits = [rule(x=at, colour=RED, dash=DASH), note(f"{TPOT} {limit(answer.slo.tpot_ms)}", x=at, colour=RED)]
    line = layer(
        {"type": "line", "color": GREY, "strokeDash": DOT, "strokeWidth": 1},
        map(_point, front),
        x=x,
        y=y,
        order={"field": "speed"},
    )
    return panel(line, *limits, points, whiskers, ring)


def _point(estimate: Estimate) -> dict[str, object]:
    low, high = estimate.interval("output_tok_s_per_gpu")
    assert estimate.tpot_ms
    return {
        "name": candidate_name(estimate),
        "layout": estimate.deployment.parallelism,
        "speed": 1e3 / estimate.tpot_ms,
        "throughput": estimate.output_tok_s_per_gpu,
        "low": low,
        "high": high,
        "tok_s": f"{short(estimate.output_tok_s_per_gpu)} {span(low, high)}",
        "ttft": duration(estimate.ttft_ms, estimate.interval("ttft_ms")),
        "tpot": duration(estimate.tpot_ms, estimate.interval("tpot_ms")),
        "gpus": estimate.deployment.num_gpus,
        "cost": dollars(estimate.usd_per_mtok),
        "bound": f"{estimate.bottleneck}; {estimate.provenance}",
    }


def memory_bars(estimates: Sequence[Estimate]) -> Spec:
    """Draw the GiB on the fullest GPU of each deployment, by part, and where the GPU ends."""
    names = [candidate_name(estimate) for estimate in estimates]
    device = estimates[0].memory["device"]
    rows = [
        {"name": name, "part": MEMORY_PARTS[part], "rank": rank, "gib": gib, "amount": f"{short(gib)} GiB"}
        for name, estimate in zip(names, estimates, strict=True)
        for rank, part in enumerate(MEMORY)
        if (gib := memory_in_use(estimate)[part]) > 0
    ]
    bars = layer(
        {"type": "bar"},
        rows,
        y=rows_axis("name", names),
        x=axis("gib", f"GiB on the fullest GPU, which has {short(device)}", domain=[0.0, device * 1.02]),
        color=colour("part", {MEMORY_PARTS[part]: shade for part, shade in MEMORY.items()}),
        order={"field": "rank", "type": "quantitative"},
        tooltip=tooltip(name="layout", part="part", amount="memory"),
    )
    return panel(bars, rule(x=device, colour=RED))


def time_bars(estimate: Estimate, phase: str) -> Spec:
    """Draw the time of one step by operator and cause, longest first."""
    operators: Mapping[str, Mapping[str, float]] = estimate.breakdown[phase]
    ranked = sorted(operators, key=lambda name: -sum(operators[name].values()))
    total = sum(sum(causes.values()) for causes in operators.values())
    unit = unit_of([total])
    times: dict[tuple[str, str], float] = {}
    for i, name in enumerate(ranked):
        word = name.replace("_", " ") if i < MOST_OPERATORS else "all others"
        for cause, time in operators[name].items():
            times[word, cause] = times.get((word, cause), 0.0) + time
    rows = [
        {
            "operator": word,
            "cause": cause,
            "time": unit.of(time),
            "text": f"{unit.short(time)} {unit.name} ({share(time / total)})",
        }
        for (word, cause), time in times.items()
        if time
    ]
    caused = {row["cause"] for row in rows}
    bars = layer(
        {"type": "bar"},
        rows,
        y=rows_axis("operator", list(dict.fromkeys(word for word, _ in times))),
        x=axis("time", f"{unit.name} of one {phase} step, {unit.short(total)} in all"),
        color=colour("cause", {cause: shade for cause, shade in CAUSES.items() if cause in caused}),
        tooltip=tooltip(operator="operator", cause="cause", text="time"),
    )
    return panel(bars)
