"""The page Capacity: which fleet keeps limits under traffic, what it costs, how far it carries, and how it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from advisor import simulate_option
from advisor.render.answers.capacity import document, fleet_columns, margin, method, shown
from advisor.render.answers.simulation import document as simulation_document
from advisor.render.answers.simulation import metric_columns
from advisor.render.figures.capacity import closeness, tornado
from advisor.render.figures.traffic import timeline
from advisor.render.lines import sources_line
from advisor.render.numbers import change, dollars, share, short
from advisor.render.page import page_files
from advisor.render.vocabulary import E2E, METRIC_NAMES, TPOT, TTFT, counted, fleet_names
from app import inputs
from app.capacity_inputs import command_of, planned, question
from app.documents import class_tables, show_command
from app.downloads import downloads
from app.figures import draw
from app.jobs import answered
from app.plain_text import capitalised, plain
from app.planning import AT_ONCE, question_to_plan
from app.suggestions import suggestions, widget_values
from app.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor import CapacityPlan, FleetOption, Simulation
    from app.capacity_inputs import CapacityInputs

FLEET = "fleet"
WHAT_IT_DOES = (
    "Plan finds the cheapest GPUs that keep the limits by simulating fleets, request by request. It takes from seconds to "
    "minutes and can be cancelled."
)


def show() -> None:
    """Ask the question; once it is to be planned, show the answer and serve the chosen fleet's requests."""
    now = question()
    digest = "" if now is None else now.digest
    asked = question_to_plan(now, digest, _missing(now), page="capacity", does=WHAT_IT_DOES)
    if asked is None:
        return
    plan = answered(
        "plan",
        asked,
        lambda tell: planned(asked, tell),
        doing="Simulating fleets",
        so_far=lambda fleets: table(fleet_columns(fleets, asked.slo), alt="Fleets so far, best first"),
    )
    _tell(plan, asked)


def _missing(now: CapacityInputs | None) -> str:
    """Return what has to be said before anything can be planned; empty if nothing."""
    if now is None:
        return "Upload a trace, or choose a rate."
    if not now.gpus:
        return "Name at least one kind of GPU to choose from."
    if now.classes is not None and not now.classes["classes"]:
        return "Name at least one class of requests."
    if not now.limited:
        return f"State a limit to plan for: {TTFT}, {TPOT} or {E2E}. Or choose an example."
    return ""


def _tell(plan: CapacityPlan, asked: CapacityInputs) -> None:
    made = document(plan)
    st.markdown(f"## {plain(made.answer)}")
    kinds = dict(made.notes)
    for text in kinds.get("warning", []):
        st.warning(plain(text), icon=":material/warning:")
    if plan.best:
        _figures_of(plan, plan.best)
    suggestions({change.text: _widgets(change.changes) for change in plan.question_changes}, "relax")
    options = dict(zip(fleet_names(shown(plan)), shown(plan), strict=True))
    table(
        made.columns,
        "fleets",
        alt="Fleets, best first, with their cost and latencies",
        pick=lambda row: st.session_state.update({FLEET: list(options)[row]}),
    )
    class_tables(made)
    sources = "; ".join(
        sources_line((option.provenance for option in options.values()), (option.gpu for option in options.values()))
    )
    st.caption(plain(f"{capitalised(method(plan))}; {margin(plan)}. {capitalised(sources)}."))
    left, right = st.columns(2, gap="medium")
    if plan.slo.limits:  # else those of classes, in their table
        with left:
            st.markdown("### How near to the limits")
            st.caption("Latencies as shares of their limits, with 90% intervals.")
            draw(
                closeness(plan, list(options.values())),
                "limits",
                height=150 + 60 * len(options),
                alt="Latencies as shares of their limits, with 90% intervals",
            )
    if plan.best:
        with right if plan.slo.limits else left:
            st.markdown("### If the traffic were different")
            st.caption("The same layout, as many replicas as it then takes.")
            draw(tornado(plan), "sensitivity", height=330, alt="What other rates and lengths would need")
    with st.expander("How the question was read"):
        st.markdown("\n".join(f"- {plain(text)}" for text in kinds.get("note", ["As it was asked."])))
    show_command(command_of(asked))
    frame = plan.to_frame() if plan.options else None
    downloads("capacity plan", frame=frame, body=plan.to_dict, report=lambda: page_files(made))
    st.divider()
    _over_time(plan, options, asked)


def _widgets(changes: Mapping[str, Any]) -> Mapping[str, object]:
    """Return what a change of the question sets, and that the new one is to be planned at once."""
    values = widget_values(changes)
    if "gpus" in changes:
        values["kinds"] = [changes["gpus"]]
    return values | {AT_ONCE: True} if values else {}


def _figures_of(plan: CapacityPlan, best: FleetOption) -> None:
    with st.container(horizontal=True):
        st.metric("A month", "-" if best.usd_per_month is None else f"\\${best.usd_per_month:,.0f}", width="content")
        st.metric("Million output tokens", plain(dollars(best.usd_per_mtok)), width="content")
        st.metric("Carries, requests/s", f"up to {short(plan.carries_s)}", width="content")
        if plan.next_carries_s is not None:
            size = best.deployment.tp * best.deployment.pp
            money = "" if best.price is None else f" (+\\${short(best.price.usd_per_gpu_hour * size)} an hour)"
            st.metric(
                f"With {counted(size, 'GPU')} more{money}",
                f"up to {short(plan.next_carries_s)}",
                width="content",
                help="; ".join(
                    f"{METRIC_NAMES[name]} {change(best.latencies[name], value)}"
                    for name, value in plan.next_latencies.items()
                ),
            )


def _over_time(plan: CapacityPlan, options: Mapping[str, FleetOption], asked: CapacityInputs) -> None:
    st.markdown("### A fleet over time")
    name = inputs.shown_in_detail("Fleet", FLEET, list(options), asked)
    option = options[name]
    strained = True
    if plan.headroom or option.spares:
        strained = st.toggle("Headroom used up and spares out", value=True, key="strained", bind=inputs.BIND)
    trace = None if asked.trace is None else asked.trace.traffic
    served = answered(
        "serve",
        (asked, option, strained),
        lambda _: simulate_option(
            plan,
            option,
            strained=strained,
            trace=trace,
            runs=asked.runs,
            **asked.traffic,
        ),
        doing=f"Serving every request on {name}",
    )
    st.markdown(plain(_served(served, name, asked)))
    panels = timeline([served])
    for row in range(0, len(panels), 2):
        for column, (i, spec) in zip(st.columns(2), list(enumerate(panels))[row : row + 2], strict=False):
            with column:
                draw(spec, f"over time {i}", height=220, alt=str(spec["layer"][0]["encoding"]["y"]["axis"]["title"]))
    table(metric_columns(served))
    class_tables(simulation_document([served]))
    downloads(
        "served fleet",
        body=served.to_dict,
        files={"requests.csv": lambda: pd.DataFrame(served.requests()).to_csv(index=False)},
        report=lambda: page_files(simulation_document([served])),
    )


def _served(simulation: Simulation, fleet: str, asked: CapacityInputs) -> str:
    come = f"the trace {asked.trace.name}" if asked.trace else f"{short(simulation.rate)} requests/s"
    kept = "no limits" if simulation.meets is None else f"limits {'kept' if simulation.meets else 'missed'}"
    replicas = simulation.deployment.dp
    return (
        f"{fleet}, {counted(replicas, 'replica')} serving {come} "
        f"({len(simulation.served)} requests in {short(simulation.duration_s)} s): {kept}, {simulation.good:.1%} of the requests keep them "
        f"all by themselves; at most {share(simulation.kv_peak)} of the KV cache in use, {simulation.preemptions} preemptions."
    )
