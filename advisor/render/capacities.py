"""Capacity plans as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.lines import header, labelled, notes, sources_line
from advisor.render.numbers import change, count, dollars, duration, limit, share, short, unit_of, wh_per_mtok
from advisor.render.tables import Column, drawn, time_column
from catalog.engines import find_engine
from catalog.models.sizes import parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import Change, FleetOption
    from catalog.schema import Slo

NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
WHAT = {"rate": "rate", "input_len": "prompts", "output_len": "outputs"}


def capacity_view(found: CapacityPlan, width: int, *, wide: bool = False) -> list[RenderableType]:
    """Everything to print, in order."""
    view: list[RenderableType] = [header(head(found), width), labelled(notes(found.notes)), ""]
    options = shown(found)
    view += [drawn(option_columns(found), None if wide else width, emphasised=0 if found.best else None), ""]
    view.append(labelled([*told(found), ("source", sources_line(option.provenance for option in options))]))
    return view


def option_columns(found: CapacityPlan) -> list[Column]:
    """One option a row; where nothing keeps the limits, what comes nearest."""
    options = shown(found)
    at = _statistic(found.slo)
    columns = [
        Column(name="", cells=[">" if option is found.best else " " for option in options], right=False),
        Column(name="GPUs", cells=[f"{option.gpus} x {option.gpu}" for option in options], right=False),
        Column(name="replicas", cells=[_replicas(option) for option in options], narrow="repl."),
        Column(name="layout", cells=[layout_of(option) for option in options], right=False),
        Column(name="$", unit="a month", cells=[_money(option.usd_per_month) for option in options]),
        Column(name="$/Mtok", unit="output", cells=[short(option.usd_per_mtok) for option in options], rank=3),
    ]
    if any(option.energy_j_per_token for option in options):
        cells = [short(wh_per_mtok(option.energy_j_per_token)) for option in options]
        rank = 0 if found.objective == "energy" else 4
        columns.append(Column(name="Wh/Mtok", unit="output", cells=cells, rank=rank))
    for rank, (metric, name) in enumerate(NAMES.items()):
        limited = getattr(found.slo, metric) is not None
        times = [option.latencies[metric] for option in options]
        columns.append(time_column(name, times, of=at, rank=0 if limited else 5))
        if any(option.intervals for option in options):
            ends = [unit_of(times).span(*option.intervals[metric]) for option in options]
            columns.append(Column(name="90%", unit="interval", cells=ends, rank=4 if limited else 6 + rank))
    columns.append(Column(name="load", unit="of full", cells=[share(option.utilisation) for option in options], rank=2))
    return columns


def shown(found: CapacityPlan) -> Sequence[FleetOption]:
    """The options; where nothing keeps the limits, what comes nearest."""
    return found.options or ((found.nearest,) if found.nearest else ())


def _statistic(slo: Slo) -> str:
    return "mean" if slo.percentile is None else f"p{slo.percentile:g}"


def head(found: CapacityPlan) -> list[str]:
    """Model, GPUs, engine, traffic and limits."""
    option = shown(found)[0]
    engine = find_engine(option.deployment.engine)
    limits = [f"{NAMES[name]} {limit(most)}" for name, most in found.slo.limits.items()]
    return [
        f"{found.model.name}  {count(parameters(found.model))}",
        ", ".join(found.gpus),
        f"{engine.name} {engine.version}",
        f"{short(found.workload.rate)} requests/s, {found.workload.input_len} in / {found.workload.output_len} out",
        f"{_statistic(found.slo)} of {', '.join(limits)}",
    ]


def _replicas(option: FleetOption) -> str:
    return f"{option.replicas} + {option.spares}" if option.spares else str(option.replicas)


def layout_of(option: FleetOption) -> str:
    """TP and PP, and how the replicas for prompts and outputs share a fleet that has both: "TP2 2+3"."""
    deployment = option.deployment
    if option.prefill is not None:
        groups = option.replicas + option.spares
        return f"TP{deployment.tp} {option.prefill.dp // groups}+{deployment.dp // groups}"
    return deployment.parallelism


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def told(found: CapacityPlan) -> list[tuple[str, Sequence[str]]]:
    """Labelled lines below the table."""
    goal = {"cost": "the cheapest", "gpus": "the fewest GPUs", "energy": "the least energy"}[found.objective]
    exact = (
        f"{goal} of {found.candidates} layouts, every one simulated or ruled out by its saturation"
        f"{', of many replicas a part' if any(each.replicas > 8 for each in found.options) else ''}; "
        f"{found.requests} requests over {short(found.duration_s)} s"
    )
    best = found.best
    if best is None:
        lines = [f"nothing keeps the limits; the nearest is {_nearest(found)}"]
        return [("limit", lines), ("relax", found.relaxations)]
    entries: list[tuple[str, Sequence[str]]] = [("exact", [exact]), ("reserve", [reserve(found)])]
    spare = " without its spares" if best.spares else ""
    carried = [
        f"{best.gpus} x {best.gpu} {'keeps' if best.gpus == 1 else 'keep'} the limits{spare} up to {short(found.carries_s)} requests/s"
    ]
    if found.next_carries_s is not None:
        size = best.gpus // (best.replicas + best.spares)
        latencies = ", ".join(
            f"{NAMES[name]} {change(best.latencies[name], value)}" for name, value in found.next_latencies.items()
        )
        money = "" if best.price is None else f" for {dollars(best.price.usd_per_gpu_hour * size)} an hour"
        more = "1 GPU more" if size == 1 else f"{size} GPUs more"
        carried.append(f"{more}{money}: up to {short(found.next_carries_s)} requests/s; {latencies}")
    entries.append(("carries", carried))
    entries.append(("if", [_changes(found, what) for what in WHAT]))
    return entries


def reserve(found: CapacityPlan) -> str:
    """How much there is beyond what the estimate takes, and how to have less or more of it."""
    at = f"at {1.0 + found.headroom:.3g} times the rate" if found.headroom else "at this rate"
    if found.confidence == 0.5:
        return (
            f"none but for chance: the limits are kept {at} by the bare estimate; --confidence 0.9 keeps its error back"
        )
    return (
        f"the limits are kept and nothing saturates {at} with {found.confidence:.0%} confidence in the estimate "
        "(--confidence 0.5: by the bare estimate)"
    )


def _nearest(found: CapacityPlan) -> str:
    option = found.nearest
    assert option is not None
    values = ", ".join(f"{NAMES[name]} {duration(value)}" for name, value in option.latencies.items())
    return f"{option.gpus} x {option.gpu} as {_replicas(option)} x {layout_of(option)}: {_statistic(found.slo)} of {values}"


def _changes(found: CapacityPlan, what: str) -> str:
    return "; ".join(_change(change) for change in found.sensitivity if change.what == what)


def _change(change: Change) -> str:
    asked = f"{WHAT[change.what]} x {change.factor:g}"
    if change.replicas is None:
        return f"{asked}: no number of these replicas does"
    money = "" if change.usd_per_hour is None else f", {dollars(change.usd_per_hour)} an hour"
    return f"{asked}: {change.gpus} GPU{'' if change.gpus == 1 else 's'}{money}"
