"""A validation as a person reads it: the claims, the errors by group, and what lies outside its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from advisor.report.lines import labelled
from advisor.report.numbers import share, short, span
from advisor.report.tables import Column, drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from advisor.validation import Check, Summary, Validation

MOST_OUTSIDE = 20


def validation_view(found: Validation, width: int, *, wide: bool = False) -> list[RenderableType]:
    """Everything to print, in order; ``wide`` lists every check outside its interval."""
    room = None if wide else width
    outside = found.outside()
    view: list[RenderableType] = []
    claims = [("holds" if claim.holds else "FAILS", [claim.text, claim.detail]) for claim in found.claims]
    if claims:
        view += [labelled(claims), ""]
    summary = found.summary()
    if summary:
        view += [drawn(summary_columns(summary), room), ""]
    told = f"{len(outside)} of {len(found.checks)} checks outside their 90% interval"
    shown = outside if wide else sorted(outside, key=_distance, reverse=True)[:MOST_OUTSIDE]
    if len(shown) < len(outside):
        told += f"; the {len(shown)} farthest (--wide lists all, --format csv every check)"
    view.append(Text(told + (":" if shown else ""), style="bold"))
    if shown:
        view.append(drawn(check_columns(shown), room))
    if found.left_out:
        rows = [
            f"{count} rows: {reason}" for reason, count in sorted(found.left_out.items(), key=lambda item: -item[1])
        ]
        view += ["", labelled([("left out", rows)])]
    return view


def _distance(check: Check) -> float:
    """How far outside, as a factor."""
    return max(check.low / check.measured, check.measured / check.high)


def summary_columns(rows: Sequence[Summary]) -> list[Column]:
    """Errors by group."""
    return [
        Column(name="predicted", cells=[r.split for r in rows], right=False),
        Column(name="engine", cells=[r.engine for r in rows], right=False),
        Column(name="regime", cells=[r.regime for r in rows], right=False, rank=1),
        Column(name="parallel", narrow="", cells=[r.parallel for r in rows], right=False),
        Column(name="metric", cells=[r.metric for r in rows], right=False),
        Column(name="checks", cells=[str(r.checks) for r in rows]),
        Column(name="error", unit="median", cells=[f"{r.median_error:.1%}" for r in rows]),
        Column(name="error", unit="mean", cells=[f"{r.mean_error:.1%}" for r in rows], rank=3),
        Column(name="bias", cells=[f"{r.bias:+.0%}" for r in rows], rank=2),
        Column(name="coverage", unit="of 90%", cells=[share(r.coverage) for r in rows]),
        Column(
            name="coverage",
            unit="95% CI",
            cells=[f"({r.coverage_low:.0%}-{r.coverage_high:.0%})" for r in rows],
            rank=4,
        ),
        Column(name="interval", unit="+-", cells=[share(r.half_width) for r in rows], rank=5),
    ]


def check_columns(checks: Sequence[Check]) -> list[Column]:
    """Measured beside predicted."""
    return [
        Column(name="model", cells=[c.run.model.rsplit("/", maxsplit=1)[-1] for c in checks], right=False),
        Column(name="GPU", cells=[c.run.gpu for c in checks], right=False, rank=2),
        Column(name="engine", cells=[c.engine for c in checks], right=False, rank=4),
        Column(name="TP x PP", cells=[f"{c.run.tp} x {c.run.pp}" for c in checks]),
        Column(name="batch", cells=[str(c.run.batch) if c.run.batch else "full" for c in checks]),
        Column(name="in/out", cells=[f"{c.run.input_len}/{c.run.output_len}" for c in checks], rank=3),
        Column(name="metric", cells=[c.metric for c in checks], right=False),
        Column(name="measured", cells=[short(c.measured) for c in checks]),
        Column(name="predicted", cells=[short(c.predicted) for c in checks]),
        Column(name="90% interval", cells=[span(c.low, c.high) for c in checks], rank=1),
        Column(name="case", cells=[c.split for c in checks], right=False, rank=5),
    ]
