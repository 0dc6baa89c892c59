"""Figures of traffic: distributions of latencies, and what runs and waits over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.render.figures.vega import DASH, GREY, axis, colour, coloured, layer, note, panel, rule
from advisor.render.numbers import unit_of
from advisor.render.vocabulary import METRIC_NAMES, pools_name
from catalog.schema import LATENCIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.render.document import Spec
    from advisor.simulator.simulation_answer import Simulation

CURVES = {
    "running": "requests running a replica",
    "waiting": "requests waiting a replica",
    "kv_share": "KV cache in use",
    "output_tok_s": "output tokens/s, all replicas",
    "preemptions_s": "preemptions/s, all replicas",
}
"""What is drawn over time, the last where there were any."""
SHARES = np.concatenate([np.linspace(0.0, 98.0, 197), np.linspace(98.1, 100.0, 20)])
"""Percentiles that a distribution is drawn through."""
DECADE = 8.0
"""A range of values above this factor is drawn on a logarithmic axis."""


def names(answers: Sequence[Simulation]) -> list[str]:
    """Name each by its layout, numbered where layouts are alike."""
    plain = [pools_name(answer.deployment, answer.prefill, answer.prefill_cluster) for answer in answers]
    return [f"{name} ({i + 1})" if plain.count(name) > 1 else name for i, name in enumerate(plain)]


def latencies(answers: Sequence[Simulation]) -> list[Spec]:
    """Draw the distributions of TTFT, TPOT and E2E over the requests, with the limits: a panel each."""
    return [_distribution(answers, metric) for metric in LATENCIES]


def _distribution(answers: Sequence[Simulation], metric: str) -> Spec:
    drawn = {name: answer.served.curve(metric, SHARES) for name, answer in zip(names(answers), answers, strict=True)}
    unit = unit_of(float(values[-1]) for values in drawn.values())
    drawn = {name: values for name, values in drawn.items() if np.isfinite(values).all()}
    wide = any(values[0] > 0 and values[-1] > DECADE * values[0] for values in drawn.values())
    rows = [
        {"name": name, "time": unit.of(float(value)), "share": float(share)}
        for name, values in drawn.items()
        for value, share in zip(values, SHARES, strict=True)
        if value > 0 or not wide
    ]
    lines = layer(
        {"type": "line", "strokeWidth": 2},
        rows,
        x=axis("time", f"{METRIC_NAMES[metric]}, {unit.name}", log=wide, zero=False),
        y=axis("share", "% of the requests at most", domain=[0, 100]),
        color=colour("name", coloured(drawn), legend=len(drawn) > 1),
        order={"field": "share"},
    )
    most = getattr(answers[0].slo, metric, None)
    if most is None:
        return panel(lines)
    return panel(lines, rule(x=unit.of(most), colour=GREY, dash=DASH), note("limit", x=unit.of(most)))


def timeline(answers: Sequence[Simulation]) -> list[Spec]:
    """Draw running and waiting requests, KV cache and tokens over time, and preemptions where there were any: a panel each."""
    curves = [name for name in CURVES if name != "preemptions_s" or any(answer.preemptions for answer in answers)]
    return [_over_time(answers, name) for name in curves]


def _over_time(answers: Sequence[Simulation], curve: str) -> Spec:
    rows: list[dict[str, Any]] = [
        {"name": name, "time": float(time), "value": float(value)}
        for name, answer in zip(names(answers), answers, strict=True)
        for time, value in zip(answer.timeline["time_s"], answer.timeline[curve], strict=True)
    ]
    ends: dict[str, Any] = {"format": ".0%", "domain": [0, 1.02]} if curve == "kv_share" else {}
    if not ends and not any(row["value"] for row in rows):
        ends = {"domain": [0, 1]}
    lines = layer(
        {"type": "line", "strokeWidth": 1.5},
        rows,
        x=axis("time", "time, s"),
        y=axis("value", CURVES[curve], **ends),
        color=colour("name", coloured(names(answers)), legend=len(answers) > 1),
    )
    return panel(lines)
