"""Autoscaling policies as a document: what each costs, whether the limits are kept, and through which events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from advisor.render.document import Document, Section, Table
from advisor.render.lines import notes
from advisor.render.numbers import share
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
        "kept": outcome.kept,
        "best": outcome is model.best,
    } | dict(outcome.latencies)


def policy_columns(rows: FlatRows) -> list[Column]:
    """Return one policy a row."""
    replicas = zip(rows.values("replicas_least"), rows.values("replicas_most"), strict=True)
    return [
        Column(name="policy", key="policy", cells=[POLICIES[kind] for kind in rows.values("policy")]),
        rows.column("target", "given", share, unit="of capacity"),
        Column(name="replicas", key="replicas_most", cells=[f"{a}-{b}" if a != b else str(a) for a, b in replicas]),
        rows.column("usd_per_month", "$", "{:,.0f}".format, unit="a month"),
        rows.column("kept", "kept", share, unit="of days"),
        *(rows.time(name, METRIC_NAMES[name], rank=rank) for name, rank in zip(LATENCIES, (3, 4, 5), strict=True)),
    ]


def _said(model: ModelAutoscaling) -> str:
    where = f"{model.model} on {model.pool} ({model.deployment.parallelism})"
    if model.best is None:
        return f"{where}: no policy keeps its limits often enough."
    fixed = next((outcome for outcome in model.options if outcome.policy.kind == "fixed"), model.best)
    saved = 1.0 - model.best.usd_per_month / max(fixed.usd_per_month, 1e-9)
    text = f"{where}: {POLICIES[model.best.policy.kind]}, ${model.best.usd_per_month:,.0f} a month"
    return f"{text}, {share(saved)} less than a fixed number." if saved > 0 and fixed is not model.best else f"{text}."


def _events(model: ModelAutoscaling) -> list[str]:
    lines = []
    for event in model.events:
        worst = ", ".join(
            f"{METRIC_NAMES[name]} {event.latencies[name] / 1e3:.3g} s of {limit / 1e3:.3g}"
            for name, limit in model.limits.items()
        )
        again = f", {event.sent_again:.0f} requests sent again" if event.sent_again else ""
        lines.append(f"{event.event} at the busiest time: limits kept on {share(event.kept)} of days ({worst}{again})")
    return lines
