"""The classes of requests as a table: what each met, and whether its limits are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.render.numbers import limit, share, short, unit_of
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import METRIC_NAMES
from catalog.schema import LATENCIES
from catalog.wording import statistic_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.simulator.class_outcomes import ClassOutcome
    from advisor.simulator.slo_check import ClassCheck
    from catalog.schema import Slo


def class_columns(outcomes: Sequence[ClassOutcome]) -> list[Column]:
    """Return one class a row: its requests, its latencies where its limits are, and its good share."""
    rows = FlatRows([class_row(outcome) for outcome in outcomes])
    columns = [
        rows.text("class", "class"),
        rows.column("priority", "priority", rank=3),
        rows.column("requests", "requests", rank=4),
        rows.column("input_len", "in", lambda tokens: f"{tokens:.0f}", unit="tokens", rank=6),
        rows.column("output_len", "out", lambda tokens: f"{tokens:.0f}", unit="tokens", rank=7),
    ]
    columns.append(rows.text("statistic", "on", rank=5 if rows.vary("statistic") else 8))
    for metric in LATENCIES:
        columns.append(rows.time(metric, METRIC_NAMES[metric]))
        if any(row[f"{metric}_low"] is not None for row in rows.rows):
            columns.append(rows.interval(metric, name="90%", unit="interval", times=True, rank=9))
    columns.append(rows.text("limits", "limits", rank=1))
    if any(outcome.meets is not None for outcome in outcomes):
        columns += [
            rows.column("good", "good", share, unit="of requests"),
            rows.column("goodput_s", "goodput", short, unit="requests/s", rank=2),
            rows.text("meets", "kept", lambda meets: "-" if meets is None else "yes" if meets else "no"),
        ]
    return columns


def fleet_class_columns(checks: Sequence[ClassCheck]) -> list[Column]:
    """Return one class a row: what a fleet makes of it, as it is believed and at the wanted confidence."""
    flat = []
    for check in checks:
        row = {"class": check.name, "priority": check.priority, "statistic": statistic_name(check.slo.percentile)}
        row |= {metric: check.latencies[metric] for metric in LATENCIES}
        row |= {f"{metric}_upper": check.upper[metric] for metric in LATENCIES}
        flat.append(row | {"limits": limits_text(check.slo), "good": check.good})
    rows = FlatRows(flat)
    columns = [rows.text("class", "class"), rows.column("priority", "priority", rank=3)]
    columns.append(rows.text("statistic", "on", rank=5 if rows.vary("statistic") else 8))
    for metric in LATENCIES:
        columns.append(rows.time(metric, METRIC_NAMES[metric]))
        if any(check.upper[metric] != check.latencies[metric] for check in checks):
            unit = unit_of(rows.values(metric))
            columns.append(rows.column(f"{metric}_upper", "at most", unit.short, unit=unit.name, rank=4))
    columns.append(rows.text("limits", "limits", rank=1))
    return [*columns, rows.column("good", "good", share, unit="of requests")]


def limits_text(slo: Slo) -> str:
    """Write the limits of a class: "TTFT 400 ms, TPOT 40 ms"."""
    return ", ".join(f"{METRIC_NAMES[name]} {limit(most)}" for name, most in slo.limits.items()) or "none"


def class_row(outcome: ClassOutcome) -> dict[str, Any]:
    """Return one class as a flat row; latencies at the statistic that its limits are on."""
    statistic = outcome.statistic
    row: dict[str, Any] = {
        "class": outcome.name,
        "priority": outcome.priority,
        "requests": outcome.requests,
        "input_len": outcome.input_len,
        "output_len": outcome.output_len,
        "statistic": statistic,
    }
    for metric in LATENCIES:
        row[metric] = outcome.metrics[metric][statistic]
        ends = outcome.intervals[metric][statistic] if outcome.intervals else (None, None)
        row[f"{metric}_low"], row[f"{metric}_high"] = ends
    return row | {
        "limits": limits_text(outcome.slo),
        "good": outcome.good,
        "goodput_s": outcome.goodput_s,
        "meets": outcome.meets,
    }
