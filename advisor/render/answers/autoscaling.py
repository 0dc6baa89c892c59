"""Autoscaling policies as a document: what each costs, whether the limits are kept, and through which events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.render.document import Document, Section, Table
from advisor.render.lines import notes
from advisor.render.numbers import duration, limit, share
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import METRIC_NAMES
from catalog.schema import LATENCIES
from catalog.wording import counted

if TYPE_CHECKING:
    from advisor.fleet.autoscaling import Autoscaling, ModelAutoscaling, PolicyOutcome

POLICIES = {
    "fixed": "fixed number",
    "schedule": "by the hour (KEDA cron)",
    "rate": "by the rate (KEDA prometheus)",
    "running": "by requests in flight (HPA)",
}


def document(answer: Autoscaling) -> Document:
    """Return the policies of all models."""
    low, high = answer.start_s
    sections = []
    for model in answer.models:
        rows = FlatRows([policy_row(model, outcome) for outcome in model.options])
        sections.append(
            Section(
                title=model.model,
                table=Table(
                    columns=policy_columns(rows),
                    emphasised=None if model.best is None else model.options.index(model.best),
                ),
                heading=len(answer.models) > 1,
                lines=[("events", _events(model))] if model.events else [],
            )
        )
    question = [
        f"limits kept with {share(answer.probability)} through the steepest rise and the busiest time",
        f"replicas start in {low:g} to {high:g} s",
        counted(answer.days, "day"),
    ]
    return Document(
        title="Autoscaling", question=question, answer=sentence(answer), notes=notes(answer.notes), sections=sections
    )


def sentence(answer: Autoscaling) -> str:
    """Say each model's policy and its cost."""
    return " ".join(_said(model) for model in answer.models)


def policy_row(model: ModelAutoscaling, outcome: PolicyOutcome) -> dict[str, Any]:
    """Return one flat row of a policy."""
    return {
        "model": model.model,
        "pool": model.pool,
        "layout": model.deployment.parallelism,
        "policy": outcome.policy.kind,
        "target": outcome.policy.target,
        "spares": outcome.policy.spares,
        "replicas_least": outcome.replicas[0],
        "replicas_most": outcome.replicas[1],
        "usd_per_month": outcome.usd_per_month,
        "days": outcome.days,
        "kept": outcome.kept,
        "best": outcome is model.best,
    } | dict(outcome.latencies)


def policy_columns(rows: FlatRows) -> list[Column]:
    """Return one policy a row."""
    replicas = zip(rows.values("replicas_least"), rows.values("replicas_most"), strict=True)
    kept = zip(rows.values("kept"), rows.values("days"), strict=True)
    return [
        Column(name="policy", key="policy", cells=[POLICIES[kind] for kind in rows.values("policy")]),
        rows.column("target", "given", share, unit="of capacity"),
        Column(name="replicas", key="replicas_most", cells=[f"{a}-{b}" if a != b else str(a) for a, b in replicas]),
        rows.column("usd_per_month", "$", "{:,.0f}".format, unit="a month"),
        Column(name="kept", key="kept", unit="days", cells=[_of_days(*pair) for pair in kept]),
        *(rows.time(name, METRIC_NAMES[name], rank=rank) for name, rank in zip(LATENCIES, (3, 4, 5), strict=True)),
    ]


def _said(model: ModelAutoscaling) -> str:
    where = f"{model.model} on {model.pool} ({model.deployment.parallelism})"
    if model.best is None:
        return f"{where}: no policy keeps its limits often enough{_why(model)}."
    fixed = next((outcome for outcome in model.options if outcome.policy.kind == "fixed"), model.best)
    saved = 1.0 - model.best.usd_per_month / max(fixed.usd_per_month, 1e-9)
    text = f"{where}: {POLICIES[model.best.policy.kind]}, ${model.best.usd_per_month:,.0f} a month"
    return f"{text}, {share(saved)} less than a fixed number." if saved > 0 and fixed is not model.best else f"{text}."


def _of_days(kept: float, days: int) -> str:
    """Write a share of few days as what it is: "4 of 5"."""
    return f"{round(kept * days)} of {days}"


def _why(model: ModelAutoscaling) -> str:
    """Say what misses the limits: slow steps, which more replicas do not mend, or the load."""
    if model.slow_days:
        return (
            f": with steps as slow as they may be on {share(model.slow_days)} of the days a request alone misses them, at any number of "
            "replicas; loosen them, ask for less --probability, or measure this layout"
        )
    nearest = max(model.options, key=lambda outcome: outcome.kept)
    missed = [
        f"{METRIC_NAMES[name]} {duration(nearest.latencies[name])} of {limit(most)}"
        for name, most in model.limits.items()
        if nearest.latencies[name] > most
    ]
    met = f"; the nearest meets {' and '.join(missed)}" if missed else ""
    return f": requests that meet on a replica at {share(nearest.policy.target)} of what it carries miss them, not requests alone{met}"


def _events(model: ModelAutoscaling) -> list[str]:
    lines = []
    for event in model.events:
        worst = ", ".join(
            f"{METRIC_NAMES[name]} {duration(event.latencies[name])} of {limit(most)}"
            for name, most in model.limits.items()
        )
        again = f", {event.sent_again:.0f} requests sent again" if event.sent_again else ""
        lines.append(
            f"{event.event} at the busiest time: limits kept on {_of_days(event.kept, event.days)} days ({worst}{again})"
        )
    return lines
