"""The page Capacity: which fleet keeps limits under traffic, what it costs, how far it carries, and how it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import streamlit as st
from advisor.render.reviews import plan_files, traffic_files

from advisor import simulate_option
from advisor.render.answers import capacity_answer
from advisor.render.lines import notes, sources_line
from advisor.render.numbers import change, dollars, share, short, unit_of
from advisor.render.vocabulary import LIMITED_METRICS, METRIC_NAMES, layout_name
from app import capacity_figures as figures
from app import inputs
from app.capacity_inputs import planned, question
from app.downloads import downloads
from app.figures import draw
from app.frame import plain
from app.jobs import answered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor import CapacityPlan, FleetOption, Simulation
    from app.capacity_inputs import CapacityInputs

ASKED = "capacity question"
FLEET = "fleet"
PLANNED = "planned"
"""A parameter of the address: the link is to an answer, so it is worked out at once."""

WHAT_IT_DOES = (
    "Plan finds the cheapest GPUs that keep the limits by simulating fleets, request by request. It takes from seconds to "
    "minutes and can be cancelled."
)


def show() -> None:
    """Ask the question; once it is to be planned, show the answer and serve the chosen fleet's requests."""
    now = question()
    missing = _missing(now)
    pressed = st.button("Plan", key="plan", type="primary", icon=":material/calculate:", disabled=bool(missing))
    if pressed or (ASKED not in st.session_state and PLANNED in st.query_params and not missing):
        st.session_state[ASKED] = now
    asked: CapacityInputs | None = st.session_state.get(ASKED)
    if asked is None:
        st.info(missing or WHAT_IT_DOES, icon=":material/info:")
        return
    st.query_params[PLANNED] = "1"
    if now != asked:
        todo = missing or "Press Plan to answer the one above."
        st.info(f"This is the answer to the question before. {todo}", icon=":material/update:")
    found = answered("plan", asked, lambda tell: planned(asked, tell), doing="Simulating fleets")
    _tell(found, asked)


def _missing(now: CapacityInputs | None) -> str:
    """What has to be said before anything can be planned; empty if nothing."""
    if now is None:
        return "Upload a trace, or take a rate."
    if not now.gpus:
        return "Name at least one kind of GPU to choose from."
    if not any((now.slo.ttft_ms, now.slo.tpot_ms, now.slo.e2e_ms)):
        return "State a limit to plan for: TTFT, TPOT or E2E. Or take an example."
    return ""


def _tell(found: CapacityPlan, asked: CapacityInputs) -> None:
    st.markdown(f"#### {plain(capacity_answer(found))}")
    kinds = dict(notes(found.notes))
    for text in kinds.get("warning", []):
        st.warning(plain(text), icon=":material/warning:")
    if found.best:
        _figures_of(found, found.best)
    shown = {figures.fleet_name(option): option for option in found.options or (found.nearest,) if option}
    _table(found, shown)
    sources = "; ".join(sources_line(option.provenance for option in shown.values()))
    st.caption(plain(f"{_method(found)} {sources[:1].upper()}{sources[1:]}."))
    left, right = st.columns(2, gap="medium")
    with left:
        st.markdown("##### How near to the limits")
        st.caption("Latencies as shares of their limits, with 90% intervals.")
        draw(
            figures.closeness(found, list(shown.values())), "limits", height=330,
            alt="Latencies as shares of their limits, with 90% intervals",
        )  # fmt: skip
    if found.best:
        with right:
            st.markdown("##### If the traffic were another")
            st.caption("The same layout, as many replicas as it then takes.")
            draw(figures.tornado(found), "sensitivity", height=330, alt="What other rates and lengths would need")
    with st.expander("How the question was read"):
        st.markdown("\n".join(f"- {plain(text)}" for text in kinds.get("note", ["As it was asked."])))
    frame = found.to_frame() if found.options else None
    downloads("capacity plan", frame=frame, body=found.to_dict, report=lambda: plan_files(found))
    st.divider()
    _over_time(found, shown, asked)


def _figures_of(found: CapacityPlan, best: FleetOption) -> None:
    with st.container(horizontal=True):
        st.metric("A month", "-" if best.usd_per_month is None else f"\\${best.usd_per_month:,.0f}", width="content")
        st.metric("Million output tokens", plain(dollars(best.usd_per_mtok)), width="content")
        st.metric("Carries, requests/s", f"up to {short(found.carries_s)}", width="content")
        if found.next_carries_s is not None:
            size = best.deployment.tp * best.deployment.pp
            money = "" if best.price is None else f" (+\\${short(best.price.usd_per_gpu_hour * size)} an hour)"
            st.metric(
                f"With {size} GPU{'' if size == 1 else 's'} more{money}", f"up to {short(found.next_carries_s)}",
                width="content",
                help="; ".join(
                    f"{METRIC_NAMES[name]} {change(best.latencies[name], value)}"
                    for name, value in found.next_latencies.items()
                ),
            )  # fmt: skip


def _method(found: CapacityPlan) -> str:
    sure = "by the estimate" if found.confidence == 0.5 else f"with {found.confidence:.0%} confidence"
    more = f" at {1.0 + found.headroom:.3g} times the rate" if found.headroom else ""
    return (
        f"Best of {found.candidates} layout{'' if found.candidates == 1 else 's'}, each simulated or ruled out by its saturation; limits kept {sure}{more}; "
        f"{found.requests} requests over {short(found.duration_s)} s."
    )


def _table(found: CapacityPlan, shown: Mapping[str, FleetOption]) -> None:
    """The options, best first; a row that is selected is served below."""

    def pick() -> None:
        selected = st.session_state["fleets"].selection.rows
        if selected:
            st.session_state[FLEET] = list(shown)[selected[0]]

    at = "mean" if found.slo.percentile is None else f"p{found.slo.percentile:g}"
    units = {name: unit_of(option.latencies[name] for option in shown.values()) for name in LIMITED_METRICS}
    rows = []
    for option in shown.values():
        row: dict[str, object] = {
            "Fleet": f"{option.gpus} x {option.gpu}",
            "Replicas": f"{option.replicas} + {option.spares}" if option.spares else str(option.replicas),
            "Layout": layout_name(option.deployment).removeprefix(f"{option.deployment.dp} x "),
            "$ a month": option.usd_per_month,
        }
        if found.best:
            row["$/Mtok"] = option.usd_per_mtok
        for metric, value in option.latencies.items():
            unit = units[metric]
            row[f"{at} {METRIC_NAMES[metric]}, {unit.name}"] = float(unit.short(value))
            if metric in option.intervals:
                row[f"{METRIC_NAMES[metric]} 90%"] = unit.span(*option.intervals[metric])
        rows.append(row | {"Load": share(option.utilisation), "Source": option.provenance})
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, on_select=pick, selection_mode="single-row", key="fleets",
        alt="Fleets, best first, with their cost and latencies",
        column_config={
            "$ a month": st.column_config.NumberColumn(format="dollar", step=1),
            "$/Mtok": st.column_config.NumberColumn(format="$%.3g", help="Dollars per million output tokens."),
            "Load": st.column_config.TextColumn(help="The rate asked for as a share of what the fleet can serve at most."),
        },
    )  # fmt: skip


def _over_time(found: CapacityPlan, shown: Mapping[str, FleetOption], asked: CapacityInputs) -> None:
    st.markdown("##### A fleet over time")
    option = shown[_picked(list(shown))]
    strained = True
    if found.headroom or option.spares:
        strained = st.toggle("Headroom used up and spares out", value=True, key="strained", bind=inputs.BIND)
    trace = None if asked.trace is None else asked.trace.traffic
    served = answered(
        "serve", (asked, option, strained),
        lambda _: simulate_option(
            found, option, strained=strained, trace=trace, spread=asked.spread, burstiness=asked.burstiness, runs=asked.runs
        ),
        doing=f"Serving every request on {figures.fleet_name(option)}",
    )  # fmt: skip
    st.markdown(plain(_served(served, option, asked)))
    draw(
        figures.timeline(served), "over time", height=430,
        alt="Requests running and waiting, and the KV cache in use, over time",
    )  # fmt: skip
    st.dataframe(_percentiles(served), hide_index=True)
    downloads(
        "served fleet", body=served.to_dict,
        files={"requests.csv": lambda: pd.DataFrame(served.requests()).to_csv(index=False)},
        report=lambda: traffic_files([served]),
    )  # fmt: skip


def _picked(names: Sequence[str]) -> str:
    """The fleet to serve: a click on a row sets it, and who uses the keyboard chooses here.

    It is written to the address by hand: a bound widget leaves the address as it was where a callback sets the value.
    """
    asked = st.session_state.get(FLEET, st.query_params.get(FLEET))
    if asked in names:
        st.session_state[FLEET] = asked
    else:
        st.session_state.pop(FLEET, None)
    chosen = st.selectbox("Fleet", names, key=FLEET)
    if chosen == names[0]:
        st.query_params.pop(FLEET, None)
    else:
        st.query_params[FLEET] = chosen
    return chosen


def _served(found: Simulation, option: FleetOption, asked: CapacityInputs) -> str:
    come = f"the trace {asked.trace.name}" if asked.trace else f"{short(found.rate)} requests/s"
    kept = "no limits" if found.meets is None else f"limits {'kept' if found.meets else 'missed'}"
    replicas = found.deployment.dp
    return (
        f"{figures.fleet_name(option)}, {replicas} replica{'' if replicas == 1 else 's'} serving {come} "
        f"({len(found.served)} requests in {short(found.duration_s)} s): {kept}, {found.good:.1%} of the requests keep them "
        f"all by themselves; at most {share(found.kv_peak)} of the KV cache in use, {found.preemptions} preemptions."
    )


def _percentiles(found: Simulation) -> pd.DataFrame:
    rows = []
    for metric, values in found.metrics.items():
        unit = unit_of(values.values())
        row: dict[str, object] = {"Latency": f"{METRIC_NAMES[metric]}, {unit.name}"}
        row |= {name: float(unit.short(value)) for name, value in values.items()}
        if found.scale is not None:
            row |= {f"{name} 90%": unit.span(*found.interval(metric, name)) for name in ("p50", "p95", "p99")}
        rows.append(row)
    return pd.DataFrame(rows)
