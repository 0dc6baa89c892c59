"""Figures of a validation: what was predicted beside what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.figures.vega import BLUE, DOT, GREEN, GREY, ORANGE, PINK, SKY, axis, colour, layer, panel, tooltip
from advisor.render.numbers import RATE, unit_of

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
    "model left out": BLUE,
    "not fitted": ORANGE,
}
"""Colour of how a run was predicted, those drawn last on top."""


def check_unit(checks: Sequence[Check]) -> Unit:
    """Return the unit in which checks of one metric are told."""
    return unit_of(check.measured for check in checks) if checks[0].metric.endswith("_ms") else RATE


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
        {"type": "point", "filled": True, "size": 30, "opacity": 0.8}, rows, x=x, y=y, color=shades,
        tooltip=tooltip(run="run", times="times"),
    )  # fmt: skip
    return panel(line, whiskers, points)


def _run(check: Check) -> str:
    run = check.run
    return (
        f"{run.model.rsplit('/', maxsplit=1)[-1]} on {run.gpu}, {check.engine}, {run.deployment.layout}, batch "
        f"{run.batch or 'full'}, {run.input_len} in / {run.output_len} out"
    )
