"""Figures of a validation: predicted beside measured, errors by batch, length and model, and how often intervals held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.render.figures.vega import (
    BLUE,
    DASH,
    DOT,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    axis,
    colour,
    layer,
    panel,
    rows_axis,
    rule,
    tooltip,
)
from advisor.render.numbers import RATE, unit_of
from advisor.render.vocabulary import TPOT
from catalog.wording import short_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.render.document import Spec
    from advisor.render.numbers import Unit
    from advisor.validation.prediction_errors import Check

SPLITS = {
    "in-sample": GREY,
    "configuration left out": GREEN,
    "engine left out": SKY,
    "GPU left out": PINK,
    "GPU left out, kernels kept": RED,
    "model left out": BLUE,
    "not fitted": ORANGE,
}
"""Colour of how a run was predicted, those drawn last on top."""


def check_unit(checks: Sequence[Check]) -> Unit:
    """Return the unit in which checks of one metric are written."""
    return unit_of(check.measured for check in checks) if checks[0].metric.endswith("_ms") else RATE


METRICS = {"prefill_ms": "prefill", "tpot_ms": TPOT, "e2e_ms": "whole batch", "output_tok_s": "output tok/s"}
"""Of static batches, in words."""


def parity(checks: Sequence[Check], name: str) -> Spec:
    """Draw measured across and predicted up, with 90% intervals, both logarithmic; on the line they are equal."""
    unit = check_unit(checks)
    rows = [
        {
            "measured": unit.of(check.measured),
            "predicted": unit.of(check.predicted),
            "low": unit.of(check.low),
            "high": unit.of(check.high),
            "split": check.split,
            "run": _run(check),
            "times": f"{unit.short(check.measured)} measured, {unit.short(check.predicted)} "
            f"{unit.span(check.low, check.high)} predicted, {unit.name}",
        }
        for split in SPLITS
        for check in checks
        if check.split == split
    ]
    ends = [min(row[key] for row in rows for key in ("measured", "predicted")) / 1.3]  # type: ignore[operator]
    ends.append(max(row[key] for row in rows for key in ("measured", "predicted")) * 1.3)  # type: ignore[operator]
    x = axis("measured", f"measured {name}, {unit.name}", log=True, domain=ends)
    y = axis("predicted", f"predicted {name}, {unit.name}", log=True, domain=ends)
    splits = {row["split"] for row in rows}
    shades = colour("split", {split: shade for split, shade in SPLITS.items() if split in splits})
    line = layer(
        {"type": "line", "color": GREY, "strokeDash": DOT},
        [{"measured": end, "predicted": end} for end in ends],
        x=x,
        y=y,
    )
    whiskers = layer(
        {"type": "rule", "opacity": 0.35, "clip": True},
        rows,
        x=x,
        y={**y, "field": "low"},
        y2={"field": "high"},
        color=shades,
    )
    points = layer(
        {"type": "point", "filled": True, "size": 30, "opacity": 0.8},
        rows,
        x=x,
        y=y,
        color=shades,
        tooltip=tooltip(run="run", times="times"),
    )
    return panel(line, whiskers, points)


def _run(check: Check) -> str:
    run = check.run
    return (
        f"{run.model.rsplit('/', maxsplit=1)[-1]} on {run.gpu}, {check.engine}, {run.deployment.layout}, batch "
        f"{run.batch or 'full'}, {run.input_len} in / {run.output_len} out"
    )


def parities(checks: Sequence[Check]) -> list[Spec]:
    """Draw ``parity`` of every metric, a panel each."""
    return [{**parity(_of(checks, metric), METRICS[metric]), "title": METRICS[metric]} for metric in _present(checks)]


def residuals(checks: Sequence[Check]) -> list[Spec]:
    """Draw the errors by batch and by tokens in, a panel each metric and each of the two."""
    panels = []
    for metric in _present(checks)[:3]:
        for key, title in (("batch", "batch"), ("input_len", "tokens in")):
            members = _of(checks, metric)
            rows = [_error_row(check) | {"at": getattr(check.run, key)} for check in members]
            limit = _limit(members)
            x = axis("at", title, log=True, format=",d")
            y = axis("error", "error (clipped)", domain=[-limit, limit], format="+.0%")
            panels.append({**_points(rows, x, y), "title": f"{METRICS[metric]} by {title}"})
    return panels


def errors_by_model(checks: Sequence[Check]) -> list[Spec]:
    """Draw the errors of predictions that had not seen the model, a panel each metric; all of them where there are none."""
    panels = []
    for metric in _present(checks):
        every = _of(checks, metric)
        members = [check for check in every if check.split in ("not fitted", "model left out")] or every
        rows = [_error_row(check) for check in members]
        limit = _limit(members)
        x = axis("error", "error (clipped)", domain=[-limit, limit], format="+.0%")
        panels.append(
            {
                **_points(rows, x, rows_axis("model", sorted({str(row["model"]) for row in rows}))),
                "title": METRICS[metric],
            }
        )
    return panels


def coverage(checks: Sequence[Check]) -> list[Spec]:
    """Draw the share of values inside their 90% intervals and the mean half width, by metric and split: two panels."""
    rows = []
    for metric in _present(checks):
        for split in SPLITS:
            members = [check for check in _of(checks, metric) if check.split == split]
            if members:
                inside = sum(check.inside for check in members) / len(members)
                width = sum((check.high - check.low) / 2.0 / check.predicted for check in members) / len(members)
                rows.append({"metric": METRICS[metric], "split": split, "held": inside, "width": width})
    present = {row["split"] for row in rows}
    shades = colour("split", {split: shade for split, shade in SPLITS.items() if split in present})
    x = {"field": "metric", "type": "nominal", "axis": {"title": None, "labelAngle": 0}, "sort": list(METRICS.values())}
    offset = {"field": "split", "type": "nominal", "sort": list(SPLITS)}

    def bars(key: str, title: str, **options: Any) -> Spec:
        return layer("bar", rows, x=x, xOffset=offset, y=axis(key, title, format=".0%", **options), color=shades)

    held = panel(bars("held", "held", domain=[0, 1]), rule(y=0.9, dash=DASH), title="held of 90%")
    return [held, panel(bars("width", "mean half width"), title="mean half width")]


def _points(rows: Sequence[dict[str, Any]], x: dict[str, Any], y: dict[str, Any]) -> Spec:
    present = {row["split"] for row in rows}
    shades = colour("split", {split: shade for split, shade in SPLITS.items() if split in present})
    points = layer(
        {"type": "point", "filled": True, "size": 25, "opacity": 0.7, "clip": True},
        rows,
        x=x,
        y=y,
        color=shades,
        tooltip=tooltip(run="run"),
    )
    return panel(rule(x=0.0) if x["field"] == "error" else rule(y=0.0), points)


def _error_row(check: Check) -> dict[str, Any]:
    model = short_name(check.run.model)
    return {"error": check.error, "split": check.split, "model": model, "run": _run(check)}


def _limit(checks: Sequence[Check]) -> float:
    """Return the error to show up to: nearly all of them."""
    return max(1.1 * float(np.quantile(np.abs([check.error for check in checks]), 0.98)), 0.05)


def _of(checks: Sequence[Check], metric: str) -> list[Check]:
    return [check for check in checks if check.metric == metric]


def _present(checks: Sequence[Check]) -> list[str]:
    return [metric for metric in METRICS if _of(checks, metric)]
