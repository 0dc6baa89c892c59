"""A capacity plan as a document: what to take, what it costs, how far it carries, and what other traffic would take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.capacity.fleet_options import row
from advisor.prediction.inputs import BARE_ESTIMATE
from advisor.prediction.option_words import engine_words
from advisor.render.answers.classes import fleet_class_columns
from advisor.render.answers.speculation import drafts_of, plan_speculation_lines
from advisor.render.document import Document, Figure, Section, Table
from advisor.render.figures.capacity import closeness, cost_by_rate, tornado
from advisor.render.figures.vega import printed
from advisor.render.lines import measurements_line, notes, sources_line
from advisor.render.next_command import command, layout_words, pool_words, queue_words, started_words, whole_servers
from advisor.render.numbers import change, count, dollars, duration, limit, share, short, wh_per_mtok
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import (
    METRIC_NAMES,
    TRAFFIC,
    fleet_gpus,
    fleet_name,
    replica_name,
    replicas_name,
)
from advisor.simulator.replica_sizing import ENOUGH
from catalog.engines import engine_name
from catalog.gpus import find_gpu
from catalog.models.sizes import parameters
from catalog.schema import LATENCIES, Cluster
from catalog.wording import counted, statistic_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import Change, FleetOption
    from advisor.render.document import Lines, ShellCommand
    from catalog.schema import Deployment, Slo


def document(answer: CapacityPlan) -> Document:
    """Return the whole plan."""
    options = shown(answer)
    source = ("source", sources_line((option.provenance for option in options), (option.gpu for option in options)))
    table = Table(columns=option_columns(answer), emphasised=0 if answer.best else None)
    limits = Figure(
        name="limits",
        caption="Latencies as shares of their limits, spares out and headroom used up, with 90% intervals; dashed: the limits.",
        make=lambda: printed([closeness(answer, options)], width=560, height=60 + 60 * len(options)),
    )
    sections = [
        Section(
            title="Answer",
            table=table,
            lines=measurements_line(answer.measurements, answer.model) if answer.best else _lines(answer),
        ),
        *_classes(options),
        Section(title="How far it goes", lines=[*_lines(answer), source] if answer.best else [source], detail=True),
        Section(title="What to know", lines=_decisive(answer)),
        Section(title="How near to the limits", figures=[limits] if answer.slo.limits else []),
    ]
    if answer.best is not None:
        cost = Figure(
            name="cost",
            caption="The chosen layout at other rates; dashed: the rate asked for.",
            make=lambda: printed([cost_by_rate(answer)]),
        )
        loads = Figure(
            name="sensitivity",
            caption="What the chosen layout takes if one part of the traffic differs.",
            make=lambda: printed([tornado(answer)], width=520, height=40 + 24 * len(answer.sensitivity)),
        )
        sections.append(Section(title="If the traffic were different", figures=[cost, loads]))
        sections.append(Section(title="Next", command=_next(answer, answer.best)))
    return Document(
        title=f"Capacity for {answer.model.name}",
        question=_question(answer),
        answer=sentence(answer),
        notes=notes(answer.notes),
        sections=sections,
    )


def _classes(options: Sequence[FleetOption]) -> list[Section]:
    """Return what the first fleet makes of each class of requests."""
    if not options or not options[0].classes:
        return []
    return [Section(title="Classes", table=Table(columns=fleet_class_columns(options[0].classes)))]


def shown(answer: CapacityPlan) -> Sequence[FleetOption]:
    """Return the options; where nothing keeps the limits, what comes nearest."""
    return answer.options or ((answer.nearest,) if answer.nearest else ())


def sentence(answer: CapacityPlan) -> str:
    """Say what to take, what it costs and what it keeps; or that nothing keeps the limits, and what comes nearest."""
    rate = float(answer.workload.rate or 0.0)  # from Python it may be an int
    often = f"{rate:.0f}" if rate.is_integer() else short(rate)
    traffic = f"{often} requests/s of {_lengths(answer)}"
    if answer.best is None:
        assert answer.nearest is not None
        return (
            f"Nothing keeps {'the limits of ' if not answer.slo.limits else ''}{_limits(answer.slo)} at {traffic}. Nearest: {_fleet(answer.nearest)}, "
            f"{_latencies(answer.nearest, answer.slo)}. To relax: {'; or '.join(answer.relaxations)}."
        )
    best = answer.best
    money = ""
    if best.usd_per_month is not None:
        money = f" for ${best.usd_per_month:,.0f} a month ({dollars(best.usd_per_mtok)} per million output tokens)"
    verb = "serves" if best.gpus == 1 else "serve"
    return f"{_fleet(best)} {verb} {traffic}{money}: {_latencies(best, answer.slo)}, at {share(best.utilisation)} load."


def _fleet(option: FleetOption) -> str:
    drafting = option.deployment.drafting
    drafts = "" if drafting is None else f" with {drafting} a step"
    return f"{fleet_name(option)}{f' ({option.spares} of them spare)' if option.spares else ''}{drafts}"


def _limits(slo: Slo) -> str:
    limits = [f"{METRIC_NAMES[name]} {limit(most)}" for name, most in slo.limits.items()]
    if not limits:
        return "each class"
    return f"{statistic_name(slo.percentile)} {' and '.join(limits)}"


def _latencies(option: FleetOption, slo: Slo) -> str:
    latencies = [
        f"{METRIC_NAMES[name]} {duration(option.latencies[name], option.intervals.get(name))}"
        for name in LATENCIES
        if getattr(slo, name) is not None or not slo.limits
    ]
    return f"{statistic_name(slo.percentile)} {', '.join(latencies)}"


def _lengths(answer: CapacityPlan) -> str:
    """Write the lengths of the requests, those of prompts with all that they share."""
    return f"{answer.mean_input_len or answer.workload.input_len} in / {answer.workload.output_len} out"


def _question(answer: CapacityPlan) -> list[str]:
    return [
        f"{answer.model.name}  {count(parameters(answer.model))}",
        ", ".join(answer.gpus),
        engine_name(shown(answer)[0].deployment),
        f"{short(answer.workload.rate)} requests/s, {_lengths(answer)}",
        f"limits on {_limits(answer.slo)}",
    ]


def option_columns(answer: CapacityPlan) -> list[Column]:
    """Return one option a row; where nothing keeps the limits, what comes nearest."""
    return fleet_columns(shown(answer), answer.slo, best=answer.best, by_energy=answer.objective == "energy")


def fleet_columns(
    options: Sequence[FleetOption], slo: Slo, *, best: FleetOption | None = None, by_energy: bool = False
) -> list[Column]:
    """Return one fleet a row: what it is, what it costs, and its latencies."""
    names = [
        {
            "mark": ">" if option is best else " ",
            "fleet": fleet_gpus(option),
            "all_replicas": replicas_name(option),
            "layout": replica_name(option),
            "drafting": drafts_of(option),
            "budget": f"{option.deployment.max_num_batched_tokens}",
            "wh_per_mtok": wh_per_mtok(option.energy_j_per_token),
        }
        for option in options
    ]
    rows = FlatRows([row(option) | name for option, name in zip(options, names, strict=True)])
    columns = [
        rows.text("mark", ""),
        rows.text("fleet", "GPUs"),
        rows.column("all_replicas", "replicas", narrow="repl."),
        rows.text("layout", "layout"),
        *([rows.text("drafting", "drafts")] if rows.vary("drafting") else []),
        *([rows.text("budget", "tokens a step")] if _budgets_vary(options) else []),
        rows.column("usd_per_month", "$", lambda usd: "-" if usd is None else f"{usd:,.0f}", unit="a month"),
        rows.column("usd_per_mtok", "$/Mtok", short, unit="output", rank=3),
    ]
    if any(rows.values("wh_per_mtok")):
        rank = 0 if by_energy else 4
        columns.append(rows.column("wh_per_mtok", "Wh/Mtok", short, unit="output", rank=rank))
    for rank, metric in enumerate(LATENCIES):
        limited = getattr(slo, metric) is not None
        columns.append(
            rows.time(metric, METRIC_NAMES[metric], of=statistic_name(slo.percentile), rank=0 if limited else 5)
        )
        if any(option.intervals for option in options):
            columns.append(
                rows.interval(metric, name="90%", unit="interval", times=True, rank=4 if limited else 6 + rank)
            )
    load = rows.column("utilisation", "load", share, unit="of full", rank=2)
    return [*columns, load, rows.text("provenance", "source", rank=9)]


def _lines(answer: CapacityPlan) -> Lines:
    best = answer.best
    if best is None:
        option = answer.nearest
        assert option is not None
        latencies = ", ".join(f"{METRIC_NAMES[name]} {duration(value)}" for name, value in option.latencies.items())
        nearest = f"{fleet_name(option)}: {statistic_name(answer.slo.percentile)} of {latencies}"
        return [("limit", [f"nothing keeps the limits; the nearest is {nearest}"]), ("relax", answer.relaxations)]
    spare = " without its spares" if best.spares else ""
    drafts = plan_speculation_lines(answer)
    verb = "keeps" if best.gpus == 1 else "keep"
    carries = [f"{fleet_gpus(best)} {verb} the limits{spare} up to {short(answer.carries_s)} requests/s"]
    if answer.confidence != BARE_ESTIMATE:
        carries[0] += (
            f" with {answer.confidence:.0%} confidence; by the bare estimate up to {short(answer.bare_carries_s)}"
        )
    if answer.next_carries_s is not None:
        size = best.gpus // (best.replicas + best.spares)
        latencies = ", ".join(
            f"{METRIC_NAMES[name]} {change(best.latencies[name], value)}"
            for name, value in answer.next_latencies.items()
        )
        money = "" if best.price is None else f" for {dollars(best.price.usd_per_gpu_hour * size)} an hour"
        more = f"{counted(size, 'GPU')} more"
        carries.append(f"{more}{money}: up to {short(answer.next_carries_s)} requests/s; {latencies}")
    changes = ["; ".join(_change(bound) for bound in answer.sensitivity if bound.what == what) for what in TRAFFIC]
    parts = [("draft", drafts)] if drafts else []
    return [
        ("search", [method(answer)]),
        ("margin", [margin(answer)]),
        *parts,
        ("capacity", carries),
        ("what if", changes),
    ]


def _decisive(answer: CapacityPlan) -> Lines:
    """Return what decides whether to take it: how sure it is, how much it carries, what half and twice the traffic takes."""
    if answer.best is None:
        return []
    lines = dict(_lines(answer))
    rates = [_change(bound) for bound in answer.sensitivity if bound.what == "rate"]
    return [
        ("sure", lines["margin"]),
        *([("draft", lines["draft"])] if "draft" in lines else []),
        ("capacity", lines["capacity"][:1]),
        ("what if", ["; ".join(rates[:1] + rates[-1:])] if rates else []),
    ]


def _budgets_vary(options: Sequence[FleetOption]) -> bool:
    """Say whether options on GPUs of one kind differ in their engine's token budget, as where budgets are searched."""
    budgets = {(option.gpu, option.deployment.max_num_batched_tokens) for option in options}
    return len(budgets) > len({gpu for gpu, _ in budgets})


def _next(answer: CapacityPlan, best: FleetOption) -> ShellCommand:
    deployment = best.deployment
    replica = replace(deployment, dp=deployment.ranks)
    gpu = find_gpu(best.gpu.partition(" (")[0]).value
    place = Cluster(gpu=gpu, gpus_per_node=replica.num_gpus)
    if best.prefill is not None:
        return _pools(answer, best, best.prefill, place)
    layout, added = started_words(deployment)
    return command(
        "export",
        answer.model,
        whole_servers(best.gpus, gpu, best.gpu),
        *engine_words(replica, answer.model, place),
        *layout,
        options={"--format": "kubernetes"},
        comment="what starts it" + queue_words(answer.scheduling_policy) + added,
    )


def _pools(answer: CapacityPlan, best: FleetOption, prefill: Deployment, place: Cluster) -> ShellCommand:
    """Return the command that simulates a fleet with a pool for prompts."""
    beside = 0 if best.prefill_gpu else prefill.num_gpus
    return command(
        "simulate",
        answer.model,
        whole_servers(best.deployment.num_gpus + beside, place.gpu, best.gpu),
        *engine_words(replace(best.deployment, dp=1), answer.model, place),
        *layout_words(best.deployment),
        *pool_words(prefill, best.prefill_gpu),
        workload=answer.workload,
        slo=answer.slo,
        options={"--rate": answer.workload.rate, "--duration": answer.duration_s},
        comment="what requests meet on it",
    )


def method(answer: CapacityPlan) -> str:
    """Say how the plan was found."""
    goal = {"cost": "the cheapest", "gpus": "the fewest GPUs", "energy": "the least energy"}[answer.objective]
    part = (
        ", and of large fleets a part of the replicas"
        if any(option.replicas > ENOUGH[0] for option in answer.options)
        else ""
    )
    layouts = counted(answer.candidates, "layout")
    return (
        f"{goal} of {layouts}; all are simulated but those that saturate below the rate{part}; {answer.requests} requests over "
        f"{short(answer.duration_s)} s"
    )


def margin(answer: CapacityPlan) -> str:
    """Say how much there is beyond what the estimate takes, and how to have less or more of it."""
    at = f"at {1.0 + answer.headroom:.3g} times the rate" if answer.headroom else "at this rate"
    if answer.confidence == BARE_ESTIMATE:
        return f"none: the limits are kept {at} by the bare estimate; --confidence 0.9 leaves room for its error"
    return f"confidence: {answer.confidence:.0%} that all limits hold and nothing saturates {at} (--confidence 0.5: the bare estimate)"


def _change(change: Change) -> str:
    load = f"{TRAFFIC[change.what]} x {change.factor:g}"
    if change.replicas is None:
        return f"{load}: not possible with this layout"
    money = "" if change.usd_per_hour is None else f", {dollars(change.usd_per_hour)} an hour"
    return f"{load}: {counted(change.gpus or 0, 'GPU')}{money}"
