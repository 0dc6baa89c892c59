"""Simulations as a document: one in detail, or several side by side; and as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.prediction.deployment_estimate import ENERGY
from advisor.prediction.inputs import CONFIDENCE
from advisor.prediction.option_words import engine_words
from advisor.render.answers.classes import class_columns
from advisor.render.answers.speculation import adapter_lines, speculation_lines
from advisor.render.document import Document, Figure, Section, Table
from advisor.render.figures.traffic import latencies, timeline
from advisor.render.figures.vega import printed
from advisor.render.lines import energy_line, hardware, notes, sources_line, tier_lines
from advisor.render.next_command import adapter_words, command, pool_words, queue_words, started_words
from advisor.render.numbers import MS, count, duration, share, short, span, unit_of
from advisor.render.tables import Column, FlatRows
from advisor.render.vocabulary import METRIC_NAMES, pools_name
from advisor.simulator.simulation_answer import RATES
from advisor.simulator.summary_statistics import HIT_RATE
from catalog.engines import engine_name
from catalog.models.sizes import parameters
from catalog.schema import Slo, Workload
from catalog.wording import statistic_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from advisor.render.document import Lines, ShellCommand
    from advisor.simulator.simulation_answer import Simulation

BARS = "▁▂▃▄▅▆▇█"
POINTS = 40
"""Of a curve drawn with them."""
DIFFERING = (
    "engine",
    "dtype",
    "kv_dtype",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "gpu_memory_utilization",
)
"""Knobs beside the layout that have a column where deployments differ in them."""
SERVED = (
    ("router", "router", str),
    ("scheduling_policy", "queue", str),
    ("prefix_caching", "prefix cache", lambda on: "on" if on else "off"),
    ("kv_offload", "KV offload", str),
    ("drafting", "drafts", str),
    ("max_loras", "LoRA slots", str),
)
"""What else has one."""


PLANNED = ("kv_dtype", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization")
"""Knobs that ``plan`` takes."""


def document(answers: Sequence[Simulation]) -> Document:
    """Return what traffic meets on one deployment, or on several."""
    first, alone = answers[0], len(answers) == 1
    lines = _lines(first) if alone else [("source", sources_line(answer.provenance for answer in answers))]
    table = Table(columns=columns(answers), emphasised=None if alone else best(answers))
    over_time = "While requests come: what runs and waits on a replica, its KV cache, and the tokens of all."
    figures = [
        Figure(
            name="latencies",
            caption="Share of the requests that take at most so long; dashed: the limits.",
            make=lambda: printed(latencies(answers), columns=3, width=300, height=230),
        ),
        Figure(
            name="timeline",
            caption=over_time,
            make=lambda: printed(timeline(answers), columns=2, width=430, height=190),
        ),
    ]
    return Document(
        title=f"{first.model.name} under traffic",
        question=_question(first),
        answer=sentence(first) if alone else "",
        notes=notes(note for answer in answers for note in answer.notes),
        sections=[
            *_classes(answers),
            Section(title="Latencies", table=table, lines=lines, figures=figures[:1]),
            Section(title="Over time", figures=figures[1:]),
            *([Section(title="Next", command=_next(first))] if alone else []),
        ],
    )


def _classes(answers: Sequence[Simulation]) -> list[Section]:
    """Return what each class met: of several deployments one section each, named by the deployment and its queue."""
    return [
        Section(
            title="Classes"
            if len(answers) == 1
            else f"Classes on {pools_name(answer.deployment, answer.prefill)}, {answer.scheduling_policy}",
            heading=len(answers) > 1,
            table=Table(columns=class_columns(answer.classes)),
        )
        for answer in answers
        if answer.classes
    ]


def sentence(answer: Simulation) -> str:
    """Say what the requests met, and whether the limits are kept."""
    statistic = "p95" if answer.slo is None else statistic_name(answer.slo.percentile)
    times = []
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        values = answer.metrics[metric]
        shown = values.get(statistic, values["p95"])
        times.append(f"{METRIC_NAMES[metric]} {duration(shown)}")
    kept = "" if answer.meets is None else f": the limits are {'kept' if answer.meets else 'missed'}"
    if answer.classes:
        missed = [kind.name for kind in answer.classes if kind.meets is False]
        kept = f": {' and '.join(missed)} miss{'es' if len(missed) == 1 else ''} limits" if missed else kept
    return f"{statistic if statistic in answer.metrics['ttft_ms'] else 'p95'} of the requests {', '.join(times)}{kept}."


def _next(answer: Simulation) -> ShellCommand:
    """Return what starts the deployment; where a limit is missed or the queue grows, what finds the GPUs that keep it."""
    deployment, loads = answer.deployment, answer.served.loads
    overloaded = answer.rate is not None and answer.rate > answer.saturation_s
    if answer.rate is not None and (overloaded or answer.meets is False):
        lengths = Workload(input_len=round(loads.given / loads.requests), output_len=round(loads.made / loads.requests))
        wanted = answer.slo if answer.slo and answer.slo.limits else Slo(tpot_ms=50.0)
        # What was drawn is a little off.
        asked = f"{answer.rate:.3g}" if answer.asked_s is None else f"{answer.asked_s:g}"
        options: dict[str, object] = {"--rate": asked}
        if answer.classes:  # with limits and lengths of their own
            return command(
                "plan",
                answer.model,
                answer.cluster.gpu.name,
                *engine_words(deployment, answer.model, answer.cluster, knobs=PLANNED),
                options={**options, "--classes": "FILE", "--scheduling-policy": answer.scheduling_policy},
                comment="the GPUs that keep the limits of every class; FILE: that of this question",
            )
        return command(
            "plan",
            answer.model,
            answer.cluster.gpu.name,
            *engine_words(deployment, answer.model, answer.cluster, knobs=PLANNED),
            *adapter_words(deployment),
            workload=lengths,
            slo=wanted,
            options=options,
            comment="the GPUs that keep the limits",
        )
    apart = answer.prefill_cluster
    layout, added = started_words(deployment)
    words = [*engine_words(deployment, answer.model, answer.cluster), *layout]
    words += pool_words(answer.prefill, None if apart is None else apart.gpu.name)
    comment = "what starts it" + queue_words(answer.scheduling_policy) + added
    return command("export", answer.model, answer.cluster, *words, comment=comment)


def _question(answer: Simulation) -> list[str]:
    given, made = answer.served.mean_lengths
    lengths = f"{given:.0f} in / {made:.0f} out"
    came, asked = short(answer.rate), short(answer.asked_s)
    often = (
        f"{came} requests/s" if answer.asked_s is None or came == asked else f"{asked} requests/s asked, {came} drawn,"
    )
    coming = f"{answer.concurrency} in flight" if answer.concurrency else often
    if answer.client:
        coming += f" by the benchmark client {answer.client}"
    return [
        f"{answer.model.name}  {count(parameters(answer.model))}",
        hardware(answer.cluster),
        engine_name(answer.deployment),
        f"{coming} for {short(answer.duration_s)} s, {lengths}, {len(answer.served)} requests",
    ]


def columns(answers: Sequence[Simulation]) -> list[Column]:
    """Return the table of one simulation, or of several."""
    return metric_columns(answers[0]) if len(answers) == 1 else comparison_columns(answers)


def metric_columns(answer: Simulation) -> list[Column]:
    """Return the latencies, one a row: mean and percentiles, and the interval of the 95th."""
    flat = []
    for metric, name in METRIC_NAMES.items():
        values = answer.metrics[metric]
        unit = unit_of(values.values())
        row = {"name": name if unit is MS else f"{name}, {unit.name}"}
        row |= {statistic: unit.short(value) for statistic, value in values.items()}
        row["interval"] = "-" if answer.scale is None else unit.span(*answer.interval(metric, "p95"))
        flat.append(row)
    rows = FlatRows(flat)
    table = [rows.text("name", MS.name)]
    table += [rows.column(name, name, rank=2 if name == "p90" else 0) for name in answer.metrics["ttft_ms"]]
    return [*table, *([] if answer.scale is None else [rows.column("interval", "90% interval", unit="of p95", rank=1)])]


def comparison_columns(answers: Sequence[Simulation]) -> list[Column]:
    """Return one deployment a row."""
    slo = answers[0].slo
    percentile = f"p{slo.percentile:g}" if slo and slo.percentile else "p95"
    flat = [
        simulation_row(answer)
        | {name: getattr(answer.deployment, name) for name in DIFFERING}
        | {"kv_offload": answer.deployment.kv_offload or "none"}
        | {"drafting": "none" if answer.deployment.drafting is None else str(answer.deployment.drafting)}
        | {"max_loras": 0 if answer.deployment.adapters is None else answer.deployment.adapters.max_loras}
        for answer in answers
    ]
    rows = FlatRows(flat)
    table = [rows.text("layout", "deployment")]
    table += [rows.column(name, name, rank=2) for name in DIFFERING if rows.vary(name)]
    table += [rows.text(name, title, show) for name, title, show in SERVED if rows.vary(name)]
    table.append(rows.column("gpus_used", "GPUs"))
    for metric, statistic, rank in (
        ("ttft", "p50", 3),
        ("ttft", percentile, 0),
        ("tpot", "p50", 3),
        ("tpot", percentile, 0),
        ("e2e", percentile, 4),
    ):
        table.append(rows.time(f"{metric}_{statistic}_ms", METRIC_NAMES[f"{metric}_ms"], of=statistic, rank=rank))
    table += [
        rows.column("output_tok_s", "output", short, unit="tok/s", rank=5),
        rows.column("saturation_s", "saturates", short, unit="requests/s"),
        rows.column("kv_peak", "KV", share, unit="peak", rank=6),
    ]
    if any(answer.hit_rate is not None for answer in answers):
        table.append(rows.column("hit_rate", "cache", share, unit="hits", rank=2))
    if answers[0].meets is not None:
        table += [
            rows.column("good", "good", "{:.1%}".format, unit="of requests", rank=1),
            rows.text("meets", "limits", lambda meets: "kept" if meets else "missed"),
        ]
    return table


def best(answers: Sequence[Simulation]) -> int | None:
    """Return of those that keep the limits the one with the fewest GPUs, then the shortest requests; None without limits."""
    good = [i for i, answer in enumerate(answers) if answer.meets]
    return min(good, key=lambda i: (answers[i].gpus_used, answers[i].metrics["e2e_ms"]["mean"]), default=None)


def _lines(answer: Simulation) -> Lines:
    def rate(name: str) -> str:
        value = short(getattr(answer, name))
        return value if answer.scale is None else f"{value} {span(*answer.interval(name))}"

    pools = pools_name(answer.deployment, answer.prefill, answer.prefill_cluster)
    beside = answer.prefill_cluster.num_gpus if answer.prefill_cluster else 0
    used = f"{pools}, {answer.gpus_used} of {answer.cluster.num_gpus + beside} GPUs"
    rates = [f"{rate('completed_s')} requests/s completed, {rate('output_tok_s')} output tok/s"]
    rates.append(f"saturated at {rate('saturation_s')} requests/s")
    if answer.scale is not None and answer.rate is not None:
        slowest = answer.interval("saturation_s")[0]
        if slowest < answer.rate <= answer.saturation_s:
            rates.append(
                f"the lower end of this interval is below the {short(answer.rate)} that arrive: if it is true, the queue grows, and upper "
                f"ends of the intervals are what {short(answer.duration_s)} s of that lead to"
            )
    lines: list[tuple[str, Sequence[str]]] = [("layout", [used]), ("rates", rates)]
    if answer.meets is not None:
        at = _where(answer)
        came = "" if answer.rate is None else f" of the {short(answer.rate)} that come"
        good = f"goodput {rate('goodput_s')} requests/s{came}: {answer.good:.1%} meet every limit"
        lines.append(
            ("limits", [f"{'kept' if answer.meets else 'missed'} {at} by the estimate{_surely(answer)}", good])
        )
    curves = [
        f"{bars(answer.timeline[name])}  {title} {short(answer.timeline[name].min())} to {short(answer.timeline[name].max())}"
        for name, title in (("running", "running"), ("waiting", "waiting"), ("preemptions_s", "preemptions/s"))
        if name != "preemptions_s" or answer.preemptions
    ]
    kv = f"at most {share(answer.kv_peak)} of {answer.kv_capacity_tokens} tokens a replica; {answer.preemptions} preemptions"
    lines += [("in time", curves), ("KV", [kv])]
    if answer.adapter_hits is not None:
        lines.append(("LoRA", adapter_lines(answer.deployment.adapters, answer.adapter_hits)))
    if answer.speculation is not None:
        lines.append(("draft", speculation_lines(answer.speculation)))
    if answer.hit_rate is not None:
        interval = "" if answer.scale is None else " ({:.1%}-{:.1%})".format(*answer.interval(HIT_RATE))
        found = [f"{answer.hit_rate:.1%}{interval} of the prompts' tokens found in the prefix cache"]
        lines.append(("cache", [*found, *tier_lines(answer.hit_rate, answer.tier_hit_rates)]))
    if answer.energy_j_per_token is not None:
        lines.append(
            ("energy", [energy_line(answer.energy_j_per_token, answer.interval(ENERGY) if answer.scale else None)])
        )
    return [*lines, ("source", sources_line([answer.provenance]))]


def _where(answer: Simulation) -> str:
    """Say where the limits hold."""
    if answer.classes:
        return "by every class" if answer.meets else "by a class"
    assert answer.slo is not None
    return "on the mean" if answer.slo.percentile is None else f"at {statistic_name(answer.slo.percentile)}"


def _surely(answer: Simulation) -> str:
    """Say whether limits that are kept by the estimate are kept with the confidence that a plan asks for."""
    if answer.scale is None or not answer.meets or answer.classes:
        return ""
    slower = [
        f"{METRIC_NAMES[name]} up to {duration(value)}" for name, value in answer.surely_missed(CONFIDENCE).items()
    ]
    if not answer.surely_stable(CONFIDENCE):
        least = answer.interval("saturation_s", level=2.0 * CONFIDENCE - 1.0)[0]
        slower.append(f"saturated at {short(least)} requests/s or more")
    if not slower:
        return f", and with {share(CONFIDENCE)} confidence"
    return f"; not with {share(CONFIDENCE)} confidence: {' and '.join(slower)}"


def bars(values: NDArray[np.float64], points: int = POINTS) -> str:
    """Draw a curve from 0 as a line of bars."""
    means = np.array([part.mean() for part in np.array_split(values, min(points, len(values)))])
    top = means.max()
    heights = np.zeros(len(means), dtype=int) if top <= 0 else np.rint(means / top * (len(BARS) - 1)).astype(int)
    return "".join(BARS[height] for height in heights)


def simulation_row(answer: Simulation) -> dict[str, Any]:
    """Return one flat row: the deployment, the rates, and every statistic, some with the ends of their 90% intervals."""
    deployment = answer.deployment
    row: dict[str, Any] = {
        "model": answer.model.name,
        "cluster": str(answer.cluster),
        "layout": pools_name(deployment, answer.prefill, answer.prefill_cluster),
    }
    row |= {name: getattr(deployment, name) for name in ("engine", "dp", "tp", "pp", "ep")}
    row["gpus_used"] = answer.gpus_used
    row |= {name: getattr(deployment, name) for name in ("max_num_seqs", "max_num_batched_tokens", "dtype", "kv_dtype")}
    row |= {"rate": answer.rate, "concurrency": answer.concurrency, "client": answer.client}
    row |= {
        "router": answer.router,
        "scheduling_policy": answer.scheduling_policy,
        "prefix_caching": answer.prefix_caching,
    }
    row |= {"prefill_replicas": answer.prefill.dp if answer.prefill else 0}
    row |= {"prefill_tp": answer.prefill.tp if answer.prefill else None}
    row |= {"duration_s": answer.duration_s, "requests": len(answer.served)}
    for name in RATES:
        row[name] = getattr(answer, name)
        if answer.scale is not None:
            row[f"{name}_low"], row[f"{name}_high"] = answer.interval(name)
    for metric, statistics in answer.metrics.items():
        for statistic, value in statistics.items():
            name = f"{metric.removesuffix('_ms')}_{statistic}_ms"
            row[name] = value
            if answer.scale is not None:
                row[f"{name}_low"], row[f"{name}_high"] = answer.interval(metric, statistic)
    last = (
        "energy_j_per_token",
        "good",
        "meets",
        "preemptions",
        HIT_RATE,
        "kv_peak",
        "kv_capacity_tokens",
        "provenance",
    )
    below = {f"{HIT_RATE}_{name}": rate for name, rate in (answer.tier_hit_rates or {}).items()}
    return row | {name: getattr(answer, name) for name in last} | below
